//! Paths that are hidden, and paths that cannot be written.
//!
//! A hidden file reads as `/dev/null`, a hidden directory is an empty read-only tmpfs, one for all of them. The null device is
//! checked to be one by its descriptor: a container could have put something else, or a link, in its place, and would then see
//! that instead of nothing (CVE-2025-31133).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use croze_sys::fd;
use croze_sys::mount::{Attributes, Depth};
use rustix::fs::FileType;

use crate::error::{Error, Result, While};
use crate::mounts::attach;
use crate::mounts::options::{Change, MountOptions};
use crate::mounts::root::Root;
use crate::mounts::target::Target;

/// The host's null device. It can be bound for as long as the host's tree is there, that is, until the root is switched.
///
/// # Errors
/// What is at `/dev/null` is no null device.
pub fn open_null() -> Result<OwnedFd> {
    let action = || "open /dev/null".to_owned();
    let null = fd::open_path(Path::new("/dev/null")).while_doing(action)?;
    if fd::is_character_device(&null, 1, 3).while_doing(action)? {
        return Ok(null);
    }
    Err(Error::Unsupported {
        what: "a host whose /dev/null is not the null device",
    })
}

/// Hides paths. What does not exist need not be hidden.
///
/// # Errors
/// Which path could not be hidden, and why.
pub fn hide(root: &Root, paths: &[PathBuf], null: &OwnedFd) -> Result<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let describe = || format!("hide {}", path.display());
        let Some(target) = Target::existing(root, path)? else {
            continue;
        };
        let stat = rustix::fs::fstat(&target).while_doing(describe)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let result = match (is_directory, &empty) {
            (false, _) => attach::bind(null, &target, Depth::One, &read_only()).map(drop),
            (true, Some(first)) => attach::bind(first, &target, Depth::One, &read_only()).map(drop),
            (true, None) => attach::filesystem(
                "tmpfs",
                "tmpfs",
                &["nr_blocks=1".to_owned(), "nr_inodes=1".to_owned()],
                &target,
                &read_only(),
            )
            .map(|first| empty = Some(first)),
        };
        result.while_doing(describe)?;
    }
    Ok(())
}

/// Makes paths read-only, with what is mounted below as it is. What does not exist is passed over.
///
/// # Errors
/// Which path could not be protected, and why.
pub fn protect(root: &Root, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let Some(target) = Target::existing(root, path)? else {
            continue;
        };
        attach::bind(&target, &target, Depth::Recursive, &read_only())
            .while_doing(|| format!("make {} read-only", path.display()))?;
    }
    Ok(())
}

/// Only what the mask itself needs is set: the rest is what the mount has that it was copied from, which a user namespace could not
/// change anyway.
fn read_only() -> MountOptions {
    MountOptions {
        own: Change {
            set: Attributes::READ_ONLY,
            clear: Attributes::NONE,
        },
        ..MountOptions::default()
    }
}
