//! Root file systems of containers: snapshots, mounted while something runs on them.
//!
//! All of this blocks; async callers go through [`crate::engine::blocking`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use croze_model::{ContainerId, Error, ErrorKind, Result};
use croze_snapshots::{Access, Snapshots};
use croze_store::Durable;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::engine::{Engine, blocking};

impl Engine {
    /// Where the root file system of a container is mounted.
    pub(crate) fn rootfs(&self, id: &ContainerId) -> PathBuf {
        self.rootfs_dir().join(id.as_str())
    }

    pub(crate) fn rootfs_dir(&self) -> PathBuf {
        self.settings().run_root.join("rootfs")
    }

    /// Mounts the container's snapshot unless it is mounted; gives the path.
    pub(crate) async fn mount_rootfs(&self, id: &ContainerId) -> Result<PathBuf> {
        let (snapshots, id, path) = (self.snapshots().clone(), id.clone(), self.rootfs(id));
        blocking(move || {
            if is_mounted(&path)? {
                // A daemon that was killed in between has mounted it without its limits.
                snapshots.keep_limits(id.as_str())?;
                return Ok(path);
            }
            // It is forgotten at boot.
            croze_store::create_private_dir_when(&path, Durable::Soon)?;
            snapshots.mount(id.as_str(), &path, Access::ReadWrite)?;
            Ok(path)
        })
        .await
    }

    /// Unmounts the container's root file system; one that is not mounted is no error.
    pub(crate) async fn unmount_rootfs(&self, id: &ContainerId) -> Result<()> {
        let (snapshots, path) = (self.snapshots().clone(), self.rootfs(id));
        blocking(move || unmount(&snapshots, &path)).await
    }

    /// Unmounts the root file system and removes what the container wrote.
    pub(crate) async fn discard_rootfs(&self, id: &ContainerId, durable: Durable) -> Result<()> {
        let (snapshots, path, id) = (self.snapshots().clone(), self.rootfs(id), id.clone());
        blocking(move || {
            unmount(&snapshots, &path)?;
            snapshots.remove_when(id.as_str(), durable)
        })
        .await
    }
}

fn unmount(snapshots: &Snapshots, path: &Path) -> Result<()> {
    snapshots.unmount(path)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(host_error("remove the directory", path, error))
        }
        _ => Ok(()),
    }
}

/// Whether something is mounted at `path`. The kernel is asked: a directory that is bound may be on the same device as its parent.
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE) {
        // Since Linux 5.8.
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(host_error("look at", path, errno.into())),
    }
}

fn host_error(action: &str, path: &Path, source: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        "rootfs",
        format!("cannot {action} {}", path.display()),
    )
    .because(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_seen() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/nowhere/at/all")).unwrap());
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("plain")).unwrap();
        assert!(!is_mounted(&dir.path().join("plain")).unwrap());
    }
}
