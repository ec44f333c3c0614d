//! The container's view of its cgroups.
//!
//! The directories that the container's processes are in are bound in, one per hierarchy. In a cgroup namespace that looks exactly
//! as a new mount of the hierarchy would, whose root is that directory too; without one it shows the container nothing but its own
//! part.
//!
//! ```text
//! version 2     <destination>                    the container's directory
//! version 1     <destination>                    a tmpfs
//!               <destination>/memory …           the container's directory of each hierarchy, named as on the host
//!               <destination>/cpu -> cpu,cpuacct where controllers share one
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use croze_sys::fd;
use croze_sys::mount::Depth;
use croze_sys::path::Missing;
use rustix::io::Errno;

use crate::error::{Result, While};
use crate::mounts::PlannedMount;
use crate::mounts::attach;
use crate::mounts::options::MountOptions;
use crate::mounts::root::Root;
use crate::mounts::target::{Links, Target};

/// The container's place in every hierarchy of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupView {
    /// The version 2 directory, where that is the only hierarchy.
    unified: Option<PathBuf>,
    /// Otherwise one entry per hierarchy.
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// What the directory is called.
    name: String,
    /// Other names that lead to it.
    aliases: Vec<String>,
    /// The container's directory.
    path: PathBuf,
}

impl CgroupView {
    /// Decides what is shown of a container's cgroup (the directories are those of its plan); pure.
    pub fn new(dirs: &[croze_cgroups::Directory]) -> Self {
        if let [only] = dirs
            && only.kind == croze_cgroups::Kind::V2
        {
            return Self {
                unified: Some(only.path.clone()),
                hierarchies: Vec::new(),
            };
        }
        let hierarchies = dirs
            .iter()
            .map(|dir| {
                let name = dir
                    .mount
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                let aliases = match dir.kind {
                    croze_cgroups::Kind::V1 if dir.controllers.len() > 1 => dir
                        .controllers
                        .iter()
                        .filter(|controller| **controller != name)
                        .cloned()
                        .collect(),
                    _ => Vec::new(),
                };
                Hierarchy {
                    name,
                    aliases,
                    path: dir.path.clone(),
                }
            })
            .filter(|hierarchy| !hierarchy.name.is_empty())
            .collect();
        Self {
            unified: None,
            hierarchies,
        }
    }
}

/// Mounts the view; returns the root of what is at the destination.
///
/// # Errors
/// What could not be mounted, and why.
pub fn mount(root: &Root, planned: &PlannedMount, view: &CgroupView) -> Result<OwnedFd> {
    let destination = &planned.destination;
    let describe = || format!("mount the cgroups at {}", destination.display());
    let target = Target::open(root, destination, Missing::Directory, Links::Followed)?;
    // Options that are about mounting a hierarchy have no meaning for one that is there already.
    let bound = MountOptions {
        data: Vec::new(),
        copy_up: false,
        ..planned.options.clone()
    };
    if let Some(unified) = &view.unified {
        let directory = fd::open_path(unified).while_doing(describe)?;
        return attach::bind(&directory, &target, Depth::One, &bound).while_doing(describe);
    }
    // The tmpfs is written to until the hierarchies are in it.
    let read_only = bound.own.set.contains(croze_sys::mount::Attributes::READ_ONLY);
    let mut open = bound.clone();
    open.own.set = open.own.set.without(croze_sys::mount::Attributes::READ_ONLY);
    let data = ["mode=755".to_owned()];
    let tmpfs = attach::filesystem("tmpfs", "tmpfs", &data, &target, &open).while_doing(describe)?;
    for hierarchy in &view.hierarchies {
        mount_hierarchy(root, destination, &tmpfs, hierarchy, &bound)?;
    }
    if read_only {
        attach::set_read_only(&tmpfs).while_doing(describe)?;
    }
    Ok(tmpfs)
}

fn mount_hierarchy(
    root: &Root,
    destination: &Path,
    tmpfs: &OwnedFd,
    hierarchy: &Hierarchy,
    options: &MountOptions,
) -> Result<()> {
    let path = destination.join(&hierarchy.name);
    let describe = || {
        format!(
            "mount the cgroup {} at {}",
            hierarchy.path.display(),
            path.display()
        )
    };
    match rustix::fs::mkdirat(tmpfs, &hierarchy.name, rustix::fs::Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        result => result.while_doing(describe)?,
    }
    let directory = fd::open_path(&hierarchy.path).while_doing(describe)?;
    let target = Target::open(root, &path, Missing::Directory, Links::Followed)?;
    attach::bind(&directory, &target, Depth::One, options).while_doing(describe)?;
    for alias in &hierarchy.aliases {
        match rustix::fs::symlinkat(&*hierarchy.name, tmpfs, &**alias) {
            Err(Errno::EXIST) => {}
            result => result.while_doing(describe)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use croze_cgroups::{Directory, Kind};

    fn dir(kind: Kind, controllers: &[&str], mount: &str) -> Directory {
        Directory {
            kind,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            mount: PathBuf::from(mount),
            path: Path::new(mount).join("c"),
            steps: Vec::new(),
        }
    }

    #[test]
    fn one_unified_hierarchy_is_shown_as_it_is() {
        let view = CgroupView::new(&[dir(Kind::V2, &["memory"], "/sys/fs/cgroup")]);
        assert_eq!(view.unified, Some(PathBuf::from("/sys/fs/cgroup/c")));
    }

    #[test]
    fn several_hierarchies_are_shown_by_the_names_of_the_host() {
        let view = CgroupView::new(&[
            dir(Kind::V1, &["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct"),
            dir(Kind::V1, &["name=systemd"], "/sys/fs/cgroup/systemd"),
            dir(Kind::V2, &[], "/sys/fs/cgroup/unified"),
        ]);
        let names: Vec<_> = view
            .hierarchies
            .iter()
            .map(|hierarchy| hierarchy.name.as_str())
            .collect();
        assert_eq!(names, ["cpu,cpuacct", "systemd", "unified"]);
        assert_eq!(view.hierarchies[0].aliases, ["cpu", "cpuacct"]);
        assert!(view.hierarchies[1].aliases.is_empty());
    }
}
