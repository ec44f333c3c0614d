//! Namespaces: which are new, which are joined, and what is written into them from outside.
//!
//! | kind | new | joined by path |
//! |---|---|---|
//! | user | by clone3, then the parent writes the maps | bootstrap, before everything else |
//! | pid | by clone3 | by the parent, for its next child |
//! | time | unshared by the parent, offsets written, for its next child | by the parent, for its next child |
//! | mount | by clone3 | by init |
//! | network, ipc, uts | by clone3 | by init; with a user namespace by the parent, for its next child |
//! | cgroup | unshared by init once it is in its cgroup | the same |
//!
//! The cgroup namespace is unshared late because on version 1 its root is where the process stood at that moment: a child
//! that was attached afterwards would see the wrong root.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use croze_sys::clone::{self, CloneRequest, Cloned, Namespaces};
use croze_sys::socket;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result, While};
use crate::rootless;

/// What a plan says about namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePlan {
    /// The kinds that are made new.
    pub new: Namespaces,
    /// The namespaces that are joined, the user namespace first.
    pub joined: Vec<Joined>,
    /// The id maps of a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// Lines of `/proc/self/timens_offsets`.
    pub time_offsets: String,
}

/// A namespace that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its kind.
    pub kind: Namespaces,
    /// A file that stands for it.
    pub path: PathBuf,
}

/// The contents of `uid_map` and `gid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids, one line per range.
    pub uids: String,
    /// Group ids, one line per range.
    pub gids: String,
}

impl IdMaps {
    /// The user id outside for one inside, if it has one.
    pub fn host_uid(&self, inside: u32) -> Option<u32> {
        outside_of(&self.uids, inside)
    }

    /// The group id outside for one inside, if it has one.
    pub fn host_gid(&self, inside: u32) -> Option<u32> {
        outside_of(&self.gids, inside)
    }
}

fn outside_of(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split(' ').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (first, host, size) = (next()?, next()?, next()?);
        let offset = inside.checked_sub(first).filter(|offset| *offset < size)?;
        host.checked_add(offset)
    })
}

/// A joined namespace, opened.
#[derive(Debug)]
pub struct Opened {
    /// Its kind.
    pub kind: Namespaces,
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// The namespace.
    pub fd: OwnedFd,
}

/// The path of a namespace that is to be joined, if it is.
pub fn path_of(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace
        .path()
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
}

/// The kernel's name of a kind.
pub const fn kind_of(kind: LinuxNamespaceType) -> Namespaces {
    match kind {
        LinuxNamespaceType::Mount => Namespaces::MOUNT,
        LinuxNamespaceType::Cgroup => Namespaces::CGROUP,
        LinuxNamespaceType::Uts => Namespaces::UTS,
        LinuxNamespaceType::Ipc => Namespaces::IPC,
        LinuxNamespaceType::User => Namespaces::USER,
        LinuxNamespaceType::Pid => Namespaces::PID,
        LinuxNamespaceType::Network => Namespaces::NETWORK,
        LinuxNamespaceType::Time => Namespaces::TIME,
    }
}

/// What the file of a kind is called in `/proc/PID/ns`.
pub const fn name_of(kind: Namespaces) -> &'static str {
    match kind {
        Namespaces::MOUNT => "mnt",
        Namespaces::CGROUP => "cgroup",
        Namespaces::UTS => "uts",
        Namespaces::IPC => "ipc",
        Namespaces::USER => "user",
        Namespaces::PID => "pid",
        Namespaces::TIME => "time",
        _ => "net",
    }
}

/// The kinds among `joined` that are this process's own: to join them is to share the host's.
///
/// # Errors
/// There is no `/proc`.
pub fn shared(joined: &[Opened]) -> Result<Namespaces> {
    let mut shared = Namespaces::NONE;
    for opened in joined {
        let path = Path::new("/proc/self/ns").join(name_of(opened.kind));
        let look = || format!("look at the namespace {}", opened.path.display());
        let own = rustix::fs::stat(&path).while_doing(look)?;
        let that = rustix::fs::fstat(&opened.fd).while_doing(look)?;
        if (own.st_dev, own.st_ino) == (that.st_dev, that.st_ino) {
            shared = shared | opened.kind;
        }
    }
    Ok(shared)
}

/// Decides about namespaces; pure.
pub fn plan(
    namespaces: &[LinuxNamespace],
    uid_maps: &[LinuxIdMapping],
    gid_maps: &[LinuxIdMapping],
    offsets: Option<&HashMap<String, LinuxTimeOffset>>,
) -> NamespacePlan {
    let mut plan = NamespacePlan::default();
    for namespace in namespaces {
        let kind = kind_of(namespace.typ());
        match path_of(namespace) {
            Some(path) => plan.joined.push(Joined {
                kind,
                path: path.to_owned(),
            }),
            None => plan.new = plan.new | kind,
        }
    }
    // Whoever joins a user namespace first has its rights over the others.
    plan.joined.sort_by_key(|joined| joined.kind != Namespaces::USER);
    if plan.new.contains(Namespaces::USER) {
        plan.id_maps = Some(id_maps(uid_maps, gid_maps));
    }
    if plan.new.contains(Namespaces::TIME) {
        for (clock, offset) in offsets.into_iter().flatten() {
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            plan.time_offsets
                .push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
        }
    }
    plan
}

fn map_lines(maps: &[LinuxIdMapping]) -> String {
    maps.iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect()
}

impl NamespacePlan {
    /// The joined namespace of this kind.
    pub fn joined(&self, kind: Namespaces) -> Option<&Joined> {
        self.joined.iter().find(|joined| joined.kind == kind)
    }

    /// Whether the container has a namespace of this kind that is not the caller's.
    pub fn has(&self, kind: Namespaces) -> bool {
        self.new.contains(kind) || self.joined(kind).is_some()
    }

    /// Opens the namespaces that are joined.
    ///
    /// # Errors
    /// A path does not exist or cannot be opened. That it is no namespace of the right kind shows when it is joined.
    pub fn open(&self) -> Result<Vec<Opened>> {
        self.joined
            .iter()
            .map(|joined| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let fd =
                    rustix::fs::open(&joined.path, flags, Mode::empty()).map_err(|errno| Error::File {
                        action: "open the namespace",
                        path: joined.path.clone(),
                        source: errno.into(),
                    })?;
                Ok(Opened {
                    kind: joined.kind,
                    path: joined.path.clone(),
                    fd,
                })
            })
            .collect()
    }
}

impl Opened {
    /// Enters the namespace (for `PID` and `TIME`: lets the next child be born in it).
    ///
    /// # Errors
    /// It is no namespace of this kind, or the caller may not enter it.
    pub fn join(&self) -> Result<()> {
        clone::join(self.fd.as_fd(), self.kind)
            .while_doing(|| format!("join the namespace {}", self.path.display()))
    }
}

/// Writes the id maps of the user namespace that `pid` was born in.
///
/// # Errors
/// The maps are not permitted to the caller.
pub fn write_id_maps(pid: i32, maps: &IdMaps) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        std::fs::write(&path, text).map_err(|source| Error::File {
            action: "write",
            path,
            source,
        })
    };
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        if !rootless::maps_only(maps, uid.as_raw(), gid.as_raw()) {
            return rootless::map_by_helpers(pid, maps);
        }
        // Without CAP_SETGID in the parent namespace the kernel wants setgroups(2) gone before it takes a group map.
        write("setgroups", "deny")?;
    }
    write("uid_map", &maps.uids)?;
    write("gid_map", &maps.gids)
}

/// Makes a user namespace with these maps in which nobody is: what an id-mapped mount takes its maps from.
///
/// # Errors
/// The maps are not permitted to the caller.
pub fn user_namespace_of(maps: &IdMaps) -> Result<OwnedFd> {
    let action = || "make a user namespace for an id-mapped mount".to_owned();
    let (here, there) = socket::message_pair().while_doing(action)?;
    let request = CloneRequest {
        namespaces: Namespaces::USER,
        ..CloneRequest::default()
    };
    match clone::clone3(&request).while_doing(action)? {
        Cloned::Child => {
            drop(here);
            // Stays until the other end is closed: a namespace lives as long as somebody is in it or has it open.
            let ended = socket::receive(&there, &mut [0; 1]);
            croze_sys::process::exit_now(i32::from(ended.is_err()))
        }
        Cloned::Parent { pid, pidfd } => {
            drop(there);
            let opened = write_id_maps(pid, maps).and_then(|()| {
                let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::open(&path, flags, Mode::empty()).while_doing(action)
            });
            drop(here);
            croze_sys::pidfd::reap(&pidfd).while_doing(action)?;
            opened
        }
    }
}

/// Maps in the form of the kernel's files.
pub fn id_maps(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> IdMaps {
    IdMaps {
        uids: map_lines(uids),
        gids: map_lines(gids),
    }
}

/// The ids that this process's own user namespace has, each mapped to itself.
///
/// # Errors
/// There is no `/proc`.
pub fn own_ids() -> Result<IdMaps> {
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/self/{name}"));
        std::fs::read_to_string(&path).map_err(|source| Error::File {
            action: "read",
            path,
            source,
        })
    };
    Ok(IdMaps {
        uids: identity(&read("uid_map")?),
        gids: identity(&read("gid_map")?),
    })
}

/// A map from each id that `map` has inside to itself.
fn identity(map: &str) -> String {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace();
        let (first, _, size) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(format!("{first} {first} {size}\n"))
    };
    map.lines().filter_map(line).collect()
}

/// Writes the offsets of a time namespace that was just unshared, before anybody is born in it.
///
/// # Errors
/// An offset is out of range, or time namespaces are not known.
pub fn write_time_offsets(offsets: &str) -> Result<()> {
    let path = PathBuf::from("/proc/self/timens_offsets");
    std::fs::write(&path, offsets).map_err(|source| Error::File {
        action: "write",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespaceBuilder};

    fn namespace(kind: LinuxNamespaceType, path: Option<&str>) -> LinuxNamespace {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(path) => builder.path(path).build(),
            None => builder.build(),
        }
        .expect("complete")
    }

    #[test]
    fn a_path_joins_and_an_empty_one_does_not() {
        let plan = plan(
            &[
                namespace(LinuxNamespaceType::Mount, None),
                namespace(LinuxNamespaceType::Network, Some("/run/netns/a")),
                namespace(LinuxNamespaceType::Ipc, Some("")),
                namespace(LinuxNamespaceType::User, Some("/proc/9/ns/user")),
            ],
            &[],
            &[],
            None,
        );
        assert_eq!(plan.new, Namespaces::MOUNT | Namespaces::IPC);
        let joined: Vec<_> = plan.joined.iter().map(|joined| joined.kind).collect();
        assert_eq!(joined, [Namespaces::USER, Namespaces::NETWORK]);
        assert!(plan.has(Namespaces::NETWORK) && !plan.has(Namespaces::PID));
        assert_eq!(plan.id_maps, None);
    }

    #[test]
    fn a_namespace_of_ones_own_is_shared_whatever_its_path() {
        let opened = |kind, name: &str| Opened {
            kind,
            path: PathBuf::from(name),
            fd: std::fs::File::open(format!("/proc/{}/ns/{name}", std::process::id()))
                .expect("a namespace")
                .into(),
        };
        let joined = [opened(Namespaces::NETWORK, "net"), opened(Namespaces::UTS, "ipc")];
        assert_eq!(shared(&joined).expect("looked at"), Namespaces::NETWORK);
    }

    #[test]
    fn an_id_is_found_in_the_range_that_holds_it() {
        let maps = IdMaps {
            uids: "0 1000 1\n1 100000 65536\n".to_owned(),
            gids: "0 0 4294967295\n".to_owned(),
        };
        for (inside, outside) in [
            (0, Some(1000)),
            (1, Some(100_000)),
            (65_536, Some(165_535)),
            (65_537, None),
        ] {
            assert_eq!(maps.host_uid(inside), outside, "{inside}");
        }
        assert_eq!(maps.host_gid(11), Some(11));
    }

    #[test]
    fn maps_are_written_container_first() {
        let map = LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(100_000_u32)
            .size(65_536_u32);
        let maps = [map.build().expect("complete")];
        let plan = plan(&[namespace(LinuxNamespaceType::User, None)], &maps, &maps, None);
        assert_eq!(plan.id_maps.expect("a user namespace").uids, "0 100000 65536\n");
    }

    #[test]
    fn ids_are_mapped_to_themselves_whatever_they_are_outside() {
        let map = "         0     100000      65536\n     65536       1000          1\n";
        assert_eq!(identity(map), "0 0 65536\n65536 65536 1\n");
        assert_eq!(identity(""), "");
    }
}
