//! What is different for a caller without the host's root rights: another user, or the root of a user namespace.
//!
//! | what | how it is had without rights |
//! |---|---|
//! | id maps | the caller's own id alone is written directly; ranges go through `newuidmap` and `newgidmap`, which know whose they are |
//! | cgroups | only where the caller may make directories; none at all is no error unless limits are asked for |
//! | device rules | none: whoever cannot make devices needs no list of them |
//! | `oomScoreAdj` | raised, but not lowered |
//! | devices | the host's own are bound |

use std::path::Path;
use std::process::Command;

use croze_cgroups::{Directory, Plan};
use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Error, Result};
use crate::namespaces::IdMaps;

/// Whether the caller is to be taken for one without rights (`--rootless`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rights {
    /// As it looks: whoever is not root, or root in a user namespace only.
    #[default]
    Looked,
    /// It has none.
    None,
    /// It has all.
    Full,
}

impl Rights {
    /// Whether the caller has root's rights on this host.
    pub fn are_full(self) -> bool {
        match self {
            Self::Full => true,
            Self::None => false,
            Self::Looked => rustix::process::geteuid().is_root() && !is_in_user_namespace(),
        }
    }
}

/// Whether this process is in a user namespace other than the host's. Without a `/proc` it is taken for the host's.
pub fn is_in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everything(&map))
}

fn maps_everything(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The part of a cgroup's plan that this caller may carry out.
///
/// # Errors
/// It asks for limits where the caller may make no cgroup.
pub fn permitted(plan: Plan) -> Result<Plan> {
    Ok(plan.limited_to(&may_be_made)?)
}

/// Whether the caller may write to the directory, or to the nearest one above it that is there.
fn may_be_made(directory: &Directory) -> bool {
    let is_there = |path: &&Path| path.exists();
    let nearest = directory.path.ancestors().find(is_there);
    let access = Access::WRITE_OK | Access::EXEC_OK;
    nearest.is_some_and(|path| rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok())
}

/// Whether the maps hold nothing but the caller's own ids, which everybody may map.
pub fn maps_only(maps: &IdMaps, uid: u32, gid: u32) -> bool {
    fn is_one(map: &str, id: u32) -> bool {
        let numbers: Vec<_> = map.split_whitespace().map(str::parse::<u32>).collect();
        matches!(numbers[..], [Ok(_), Ok(outside), Ok(1)] if outside == id)
    }
    is_one(&maps.uids, uid) && is_one(&maps.gids, gid)
}

/// Has the id maps of a process written by the programs that may do so for every user, each within its ranges.
///
/// # Errors
/// They are not installed, or refuse.
pub fn map_by_helpers(pid: i32, maps: &IdMaps) -> Result<()> {
    for (program, map, list) in [
        ("newuidmap", &maps.uids, "/etc/subuid"),
        ("newgidmap", &maps.gids, "/etc/subgid"),
    ] {
        let output = Command::new(program)
            .arg(pid.to_string())
            .args(map.split_whitespace())
            .output();
        let output = output.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::MissingFeature {
                field: "linux.uidMappings",
                feature: "newuidmap and newgidmap are not installed (Debian's package uidmap); without them a user can map only its own id",
            },
            _ => Error::File {
                action: "run",
                path: program.into(),
                source,
            },
        })?;
        if !output.status.success() {
            return Err(Error::IdMap {
                program,
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                list,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_of_ones_own_needs_no_helper() {
        let maps = |uids: &str, gids: &str| IdMaps {
            uids: uids.to_owned(),
            gids: gids.to_owned(),
        };
        assert!(maps_only(&maps("0 1000 1\n", "0 100 1\n"), 1000, 100));
        assert!(!maps_only(&maps("0 1001 1\n", "0 100 1\n"), 1000, 100));
        assert!(!maps_only(&maps("0 1000 2\n", "0 100 1\n"), 1000, 100));
        let ranges = maps("0 1000 1\n1 100000 65536\n", "0 100 1\n");
        assert!(!maps_only(&ranges, 1000, 100));
    }

    #[test]
    fn the_hosts_own_user_namespace_maps_everything() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("         0       1000          1\n"));
        assert!(!maps_everything("0 1000 1\n1 100000 65536\n"));
    }
}
