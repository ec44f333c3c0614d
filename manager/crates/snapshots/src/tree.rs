//! Small operations on directories: copy the metadata of one, sync the file system of one.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use crate::error::SnapshotError;

/// An extended attribute with this prefix is overlayfs' own.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
/// The largest value of an extended attribute (`XATTR_SIZE_MAX`), and of the list of names.
const XATTR_MAX: usize = 65536;

/// Gives directory `to` the owner, mode, extended attributes and modification time of directory `from`.
pub(crate) fn copy_metadata(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let source = open_dir(from)?;
    let target = open_dir(to)?;
    let stat = rustix::fs::fstat(&source).map_err(SnapshotError::file("stat", from))?;
    rustix::fs::fchown(
        &target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .map_err(SnapshotError::file("change the owner of", to))?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(SnapshotError::file("change the mode of", to))?;
    copy_xattrs(&source, &target).map_err(SnapshotError::file("copy the extended attributes to", to))?;
    copy_times(&stat, &target).map_err(SnapshotError::file("set the times of", to))
}

fn copy_times(stat: &rustix::fs::Stat, target: &File) -> io::Result<()> {
    let mtime = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    rustix::fs::futimens(
        target,
        &Timestamps {
            last_access: mtime,
            last_modification: mtime,
        },
    )
    .map_err(Into::into)
}

fn copy_xattrs(source: &File, target: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::flistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OVERLAY_PREFIX) {
            continue;
        }
        value.resize(XATTR_MAX, 0);
        let size = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        rustix::fs::fsetxattr(target, name, &value[..size], XattrFlags::empty())?;
    }
    Ok(())
}

/// Whether overlayfs takes this directory as opaque: nothing below it shows through.
pub(crate) fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value[..]), Ok(1) if value[0] == b'y')
}

fn open_dir(path: &Path) -> Result<File, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(SnapshotError::file("open", path))
}

/// Writes everything of the file system that holds `dir` to the disk: one call for a tree of many thousand files.
pub(crate) fn sync_file_system(dir: &Path) -> Result<(), SnapshotError> {
    rustix::fs::syncfs(open_dir(dir)?).map_err(SnapshotError::file("sync the file system of", dir))
}
