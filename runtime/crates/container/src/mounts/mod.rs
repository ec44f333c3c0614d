//! The container's root file system.
//!
//! ```text
//! host's tree (a slave copy) ─▶ rootfs bound on itself ─▶ mounts, in the spec's order ─▶ devices and links
//!                                                                                           │
//!           root switched, host's tree detached ◀── masks ◀── read-only paths ◀── console ◀─┘
//! ```
//!
//! Whoever made the image decides what every path below the rootfs leads to, and other containers that share a volume can change
//! it while we work. So no path is used twice: a destination is opened once, below the descriptor of the rootfs and never
//! outside of it, and what is done is done to that descriptor.
//!
//! | module | what it does |
//! |---|---|
//! | [`options`] | words to attributes; pure |
//! | [`target`] | destinations: opened, created, refused |
//! | [`attach`] | mounts onto a target, with the classic calls where the newer ones are missing |
//! | [`root`] | the rootfs bound, made `/`, made read-only |
//! | [`cgroup`] | the container's view of its cgroups |
//! | [`devices`] | device files and the links beside them |
//! | [`masks`] | hidden and read-only paths |
//! | [`copy_up`] | what the image has below a new tmpfs |

pub mod attach;
pub mod cgroup;
pub mod copy_up;
pub mod devices;
pub mod masks;
pub mod options;
pub mod root;
pub mod target;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use croze_sys::Errno;
use croze_sys::clone::Namespaces;
use croze_sys::fd::{self, PROC_SUPER_MAGIC};
use croze_sys::mount::{self, AttributeChange, Attributes, Depth, Propagation};
use croze_sys::path::{self, Missing};
use oci_spec::runtime::Mount;
use rustix::fs::{FileType, OFlags};

use crate::error::{Error, Result, While};
use crate::mounts::cgroup::CgroupView;
use crate::mounts::options::MountOptions;
use crate::mounts::root::Root;
use crate::mounts::target::{Links, Target};
use crate::namespaces::{self, IdMaps, NamespacePlan, Opened};
use crate::spec::SpecError;

/// Files of a procfs that a caller may cover with something of its own (lxcfs does).
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// One mount, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// Where, in the container.
    pub destination: PathBuf,
    /// What.
    pub source: Source,
    /// How.
    pub options: MountOptions,
    /// Whose ids its files get.
    pub id_map: Option<MountIdMap>,
}

/// Where an id-mapped mount takes its maps from. What is owned by an id on the left belongs, seen through the mount, to the one on
/// the right, as if the file system were that of a user namespace with these maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountIdMap {
    /// The maps of the mount itself.
    Own(IdMaps),
    /// The container's user namespace.
    Container,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the host.
    Bind {
        /// Which, absolute.
        path: PathBuf,
        /// With what is mounted below it, or without.
        depth: Depth,
    },
    /// The container's cgroups, in the way of the host's version.
    Cgroup,
    /// A new file system.
    Filesystem {
        /// Its type.
        kind: String,
        /// What it is made from, or a mere name.
        source: String,
    },
}

impl PlannedMount {
    /// Whether this puts a directory of the host at `/dev`.
    pub fn binds_dev(&self) -> bool {
        matches!(self.source, Source::Bind { .. })
            && self.destination.components().eq(Path::new("/dev").components())
    }

    /// Where the source points to, if it is a symbolic link that is to be made again.
    fn link(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Bind { path, .. } if self.options.copy_link => std::fs::read_link(path).ok(),
            _ => None,
        }
    }
}

/// Decides about all mounts; pure. Relative sources are relative to the bundle; `label` is `linux.mountLabel`.
///
/// # Errors
/// A mount has no type, or an option that is not supported.
pub fn plan(mounts: &[Mount], bundle: &Path, label: Option<&str>) -> Result<Vec<PlannedMount>> {
    mounts
        .iter()
        .map(|mount| {
            let mut planned = plan_one(mount, bundle)?;
            planned.options.data.extend(context(&planned.source, label));
            Ok(planned)
        })
        .collect()
}

/// The option that gives a new file system the security label of `linux.mountLabel`. The kernel's own ones label their files
/// themselves, and what is bound keeps its labels.
fn context(source: &Source, label: Option<&str>) -> Option<String> {
    match (source, label) {
        (Source::Filesystem { kind, .. }, Some(label))
            if !matches!(kind.as_str(), "proc" | "sysfs" | "mqueue") =>
        {
            Some(format!("context={label}"))
        }
        _ => None,
    }
}

fn plan_one(mount: &Mount, bundle: &Path) -> Result<PlannedMount> {
    let destination = Path::new("/").join(mount.destination());
    let invalid = |reason| SpecError::Invalid {
        field: "mounts".to_owned(),
        value: destination.display().to_string(),
        reason,
    };
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let uid_maps = mount.uid_mappings().as_deref().unwrap_or_default();
    let gid_maps = mount.gid_mappings().as_deref().unwrap_or_default();
    let id_map = match (options.id_map, uid_maps.is_empty()) {
        (_, false) => Some(MountIdMap::Own(namespaces::id_maps(uid_maps, gid_maps))),
        (Some(_), true) => Some(MountIdMap::Container),
        (None, true) => None,
    };
    let kind = mount.typ().as_deref().unwrap_or_default();
    let bind = options.bind.or((kind == "bind").then_some(Depth::One));
    let source = match (bind, kind) {
        (Some(depth), _) => {
            let path = mount
                .source()
                .as_deref()
                .ok_or_else(|| invalid("a bind mount needs a source"))?;
            Source::Bind {
                path: bundle.join(path),
                depth,
            }
        }
        (None, "cgroup" | "cgroup2") => Source::Cgroup,
        (None, "") => return Err(invalid("it has neither a type nor the option bind").into()),
        (None, kind) => {
            let source = mount.source().as_deref().and_then(Path::to_str).unwrap_or(kind);
            Source::Filesystem {
                kind: kind.to_owned(),
                source: source.to_owned(),
            }
        }
    };
    if id_map.is_some() && !matches!(source, Source::Bind { .. }) {
        return Err(invalid("only a bind mount can be id-mapped").into());
    }
    Ok(PlannedMount {
        destination,
        source,
        options,
        id_map,
    })
}

/// Detached copies of the sources of bind mounts, by the index of their mount.
pub type Sources = BTreeMap<usize, OwnedFd>;

/// Copies sources of bind mounts as this process sees them: those that are to be id-mapped, which takes the right to change the mounted
/// file system, and with a user namespace all of them. Who is root in one only is a stranger to the host's directories and may not pass
/// through those that are closed to strangers.
///
/// The copies are slaves of the host's mounts, as everything is in a mount namespace that belongs to another user namespace. Kernels
/// that cannot do this (before Linux 5.12) get none; there the sources must be reachable for the mapped root.
///
/// # Errors
/// A source is not there, or cannot be id-mapped.
pub fn open_sources(
    mounts: &[PlannedMount],
    namespaces: &NamespacePlan,
    joined: &[Opened],
) -> Result<Sources> {
    let all = namespaces.has(Namespaces::USER);
    let slave = AttributeChange {
        propagation: Some(Propagation::Slave),
        ..AttributeChange::default()
    };
    let mut sources = Sources::new();
    let mut copies = true;
    for (index, planned) in mounts.iter().enumerate() {
        let Source::Bind { path, depth } = &planned.source else {
            continue;
        };
        if (planned.id_map.is_none() && !(all && copies)) || planned.link().is_some() {
            continue;
        }
        let from = open_source(path, planned)?;
        let copied = mount::clone_at(&from, *depth).and_then(|tree| {
            mount::set_attributes(&tree, &slave, Depth::Recursive)?;
            Ok(tree)
        });
        match (copied, &planned.id_map) {
            (Ok(tree), id_map) => {
                if let Some(id_map) = id_map {
                    map_ids(&tree, planned, id_map, namespaces, joined)?;
                }
                sources.insert(index, tree);
            }
            // Another user than root may not copy; its sources are reachable for the root that it maps itself to.
            (Err(error), None) if error.is_missing() || error.errno == Errno::PERM => {
                copies = false;
                sources.clear();
            }
            // It may not be needed: if it is, what is done without it says what is wrong.
            (Err(_), None) => {}
            (Err(error), Some(_)) => {
                Err(error).while_doing(|| format!("copy the mount {}", path.display()))?;
            }
        }
    }
    Ok(sources)
}

/// Maps the owners of a copy that nobody can see yet.
fn map_ids(
    tree: &OwnedFd,
    planned: &PlannedMount,
    id_map: &MountIdMap,
    namespaces: &NamespacePlan,
    joined: &[Opened],
) -> Result<()> {
    let shown = planned.destination.display();
    let made = match (id_map, &namespaces.id_maps) {
        (MountIdMap::Own(maps), _) | (MountIdMap::Container, Some(maps)) => {
            Some(namespaces::user_namespace_of(maps)?)
        }
        (MountIdMap::Container, None) => None,
    };
    let user = joined.iter().find(|opened| opened.kind == Namespaces::USER);
    let namespace = made.as_ref().or(user.map(|user| &user.fd));
    let Some(namespace) = namespace else {
        return Err(SpecError::Invalid {
            field: "mounts.options".to_owned(),
            value: shown.to_string(),
            reason: "idmap without uidMappings and gidMappings takes those of a user namespace, and there is none",
        }
        .into());
    };
    let change = AttributeChange {
        set: Attributes::ID_MAPPED,
        id_map: Some(namespace.as_fd()),
        ..AttributeChange::default()
    };
    let depth = planned.options.id_map.unwrap_or(Depth::One);
    mount::set_attributes(tree, &change, depth).map_err(|source| Error::System {
        action: if source.errno == Errno::INVAL {
            format!("map the ids of mount {shown}: its file system (or this kernel) has no id-mapped mounts")
        } else {
            format!("map the ids of mount {shown} (needs Linux 5.12)")
        },
        source,
    })
}

fn open_source(source: &Path, planned: &PlannedMount) -> Result<OwnedFd> {
    fd::open_path(source).while_doing(|| {
        format!(
            "open {} to mount it at {}",
            source.display(),
            planned.destination.display()
        )
    })
}

/// Makes one mount below the root; `tree` is a copy of its source that the parent has made.
///
/// # Errors
/// What could not be mounted where, and why.
pub fn perform(
    root: &Root,
    planned: &PlannedMount,
    cgroups: &CgroupView,
    tree: Option<&OwnedFd>,
) -> Result<()> {
    if let Some(link) = planned.link() {
        return copy_link(root, planned, &link);
    }
    let attached = match &planned.source {
        Source::Bind { path, depth } => bind(root, planned, path, *depth, tree)?,
        Source::Cgroup => cgroup::mount(root, planned, cgroups)?,
        Source::Filesystem { kind, source } => filesystem(root, planned, kind, source)?,
    };
    let describe = || format!("change the mount {}", planned.destination.display());
    for (propagation, depth) in &planned.options.propagation {
        attach::set_propagation(&attached, *propagation, *depth).while_doing(describe)?;
    }
    Ok(())
}

/// Makes the link of a source again at the destination, whatever it points to. Where something is already, it stays.
fn copy_link(root: &Root, planned: &PlannedMount, link: &Path) -> Result<()> {
    let destination = &planned.destination;
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Ok(());
    };
    let action = || format!("make the symbolic link {}", destination.display());
    let directory = path::create_below(root, parent, Missing::Directory).while_doing(action)?;
    match rustix::fs::symlinkat(link, &directory, name) {
        Err(Errno::EXIST) => Ok(()),
        result => result.while_doing(action),
    }
}

fn bind(
    root: &Root,
    planned: &PlannedMount,
    source: &Path,
    depth: Depth,
    tree: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    // The copy only where there is no other way: what this namespace copies by itself keeps the attributes that the host has set, unless
    // the spec itself asks for others.
    let copy = |tree: &OwnedFd| {
        tree.try_clone().map_err(|source| Error::File {
            action: "take over the copy of",
            path: planned.destination.clone(),
            source,
        })
    };
    let opened = match planned.id_map {
        // The mapped copy is the only one with the right owners.
        Some(_) => Err(croze_sys::Error::new("open", Errno::ACCESS)),
        None => fd::open_path(source),
    };
    let (from, is_copy) = match (opened, tree) {
        (Ok(opened), _) => (opened, false),
        (Err(error), Some(tree)) if matches!(error.errno, Errno::ACCESS | Errno::PERM) => (copy(tree)?, true),
        (Err(_), _) => (open_source(source, planned)?, false),
    };
    let stat = rustix::fs::fstat(&from).while_doing(|| format!("look at {}", source.display()))?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let missing = if is_directory {
        Missing::Directory
    } else {
        Missing::File
    };
    let target = Target::open(root, &planned.destination, missing, Links::Followed)?;
    if !is_fit_for_proc(&target, &from, &planned.destination)? {
        return Err(inside_proc(&planned.destination));
    }
    let describe = || {
        format!(
            "bind mount {} at {}",
            source.display(),
            planned.destination.display()
        )
    };
    let bound = if is_copy {
        attach::finish(from, &target, &planned.options)
    } else {
        attach::bind(&from, &target, depth, &planned.options)
    };
    match (bound, tree) {
        // In a user namespace the attributes of the host's mounts are locked, except in a copy that was made outside of it.
        (Err(error), Some(tree)) if error.errno == Errno::PERM && !is_copy => {
            attach::finish(copy(tree)?, &target, &planned.options)
        }
        (bound, _) => bound,
    }
    .while_doing(describe)
}

/// Nothing may be mounted inside a procfs but over a few harmless files, or another procfs over its root: whatever else is
/// found there would be trusted by those who read it (CVE-2019-16884).
fn is_fit_for_proc(target: &Target<'_>, source: &OwnedFd, destination: &Path) -> Result<bool> {
    let describe = || format!("look at {}", destination.display());
    if !fd::is_on(target, PROC_SUPER_MAGIC).while_doing(describe)? {
        return Ok(true);
    }
    if COVERABLE.iter().any(|file| Path::new(file) == destination) {
        return Ok(true);
    }
    let is_root = destination.components().eq(Path::new("/proc").components());
    Ok(is_root && fd::is_on(source, PROC_SUPER_MAGIC).while_doing(describe)?)
}

fn inside_proc(destination: &Path) -> Error {
    SpecError::Invalid {
        field: "mounts.destination".to_owned(),
        value: destination.display().to_string(),
        reason: "nothing can be mounted inside of /proc",
    }
    .into()
}

fn filesystem(root: &Root, planned: &PlannedMount, kind: &str, source: &str) -> Result<OwnedFd> {
    let destination = &planned.destination;
    let describe = || format!("mount {kind} at {}", destination.display());
    // A link in the image would put these, whose contents are trusted, somewhere else (CVE-2019-19921).
    let trusted = matches!(kind, "proc" | "sysfs");
    let links = if trusted { Links::Refused } else { Links::Followed };
    let target = Target::open(root, destination, Missing::Directory, links)?;
    if kind != "proc" && fd::is_on(&target, PROC_SUPER_MAGIC).while_doing(describe)? {
        return Err(inside_proc(destination));
    }
    let mut data = planned.options.data.clone();
    if kind == "tmpfs" && !target.was_created() && !data.iter().any(|option| option.starts_with("mode=")) {
        // A tmpfs over a directory of the image looks like that directory.
        let stat = rustix::fs::fstat(&target).while_doing(describe)?;
        data.push(format!("mode={:o}", stat.st_mode & 0o7777));
    }
    let below = (kind == "tmpfs" && planned.options.copy_up)
        .then(|| target.reopen_as(OFlags::RDONLY))
        .transpose()?;
    let attached = match attach::filesystem(kind, source, &data, &target, &planned.options) {
        // A user namespace that does not own its network namespace may not have a sysfs of its own: the host's is bound, which
        // it may see anyway.
        Err(error) if kind == "sysfs" && error.errno == Errno::PERM => {
            let host = fd::open_path(Path::new("/sys")).while_doing(describe)?;
            attach::bind(&host, &target, Depth::Recursive, &planned.options)
        }
        result => result,
    }
    .while_doing(describe)?;
    if let Some(below) = below {
        copy_up::copy(&below, &attached).map_err(|source| Error::File {
            action: "copy up what the image has at",
            path: destination.clone(),
            source,
        })?;
    }
    Ok(attached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn planned(kind: Option<&str>, source: Option<&str>, options: &[&str]) -> Result<Source, String> {
        let mut mount = MountBuilder::default()
            .destination("/x")
            .build()
            .expect("complete");
        mount.set_typ(kind.map(str::to_owned));
        mount.set_source(source.map(PathBuf::from));
        mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
        plan_one(&mount, Path::new("/bundle"))
            .map(|planned| planned.source)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_new_file_systems_take_the_label() {
        let of = |kind: &str, options: &[&str]| {
            let source = planned(Some(kind), Some("/a"), options).expect("planned");
            context(&source, Some("u:r:t:s0"))
        };
        let labelled = Some("context=u:r:t:s0".to_owned());
        assert_eq!(of("tmpfs", &[]), labelled);
        assert_eq!(of("devpts", &[]), labelled);
        for (kind, options) in [("proc", &[][..]), ("cgroup", &[]), ("bind", &["rbind"])] {
            assert_eq!(of(kind, options), None, "{kind}");
        }
    }

    #[test]
    fn the_type_and_the_options_say_what_is_mounted() {
        let bind = |path: &str, depth| {
            Ok(Source::Bind {
                path: PathBuf::from(path),
                depth,
            })
        };
        let new = |kind: &str, source: &str| {
            Ok(Source::Filesystem {
                kind: kind.to_owned(),
                source: source.to_owned(),
            })
        };
        type Case<'a> = (
            Option<&'a str>,
            Option<&'a str>,
            &'a [&'a str],
            Result<Source, String>,
        );
        let cases: [Case<'_>; 8] = [
            (Some("bind"), Some("/a"), &["rbind"], bind("/a", Depth::Recursive)),
            (Some("bind"), Some("/a"), &[], bind("/a", Depth::One)),
            (None, Some("a"), &["bind"], bind("/bundle/a", Depth::One)),
            (
                Some("none"),
                Some("/a"),
                &["rbind", "ro"],
                bind("/a", Depth::Recursive),
            ),
            (Some("tmpfs"), Some("shm"), &[], new("tmpfs", "shm")),
            (Some("proc"), None, &[], new("proc", "proc")),
            (Some("cgroup"), Some("cgroup"), &["ro"], Ok(Source::Cgroup)),
            (
                None,
                Some("/a"),
                &[],
                Err(r#"mounts: "/x" is not valid: it has neither a type nor the option bind"#.to_owned()),
            ),
        ];
        for (kind, source, options, expected) in cases {
            assert_eq!(planned(kind, source, options), expected);
        }
    }
}
