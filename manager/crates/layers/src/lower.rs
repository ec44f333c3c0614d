//! Files of lower layers: found as overlayfs would show them, and copied so that they can be linked to.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{LayerError, shown};
use crate::root::{self, file_type, split};

/// The longest value, and list of names, of extended attributes (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 65536;

/// A file in a lower layer's tree.
pub(crate) struct Lower {
    parent: OwnedFd,
    stat: Stat,
}

impl Lower {
    /// Bytes of its content.
    pub(crate) fn size(&self) -> u64 {
        match file_type(&self.stat) {
            FileType::RegularFile => u64::try_from(self.stat.st_size).unwrap_or(0),
            _ => 0,
        }
    }
}

/// The file at `path` as a stack of trees (topmost first, in overlayfs' form) shows it; `None` if it shows none.
pub(crate) fn find(trees: &[PathBuf], path: &Path) -> Result<Option<Lower>, LayerError> {
    let (parent_path, name) = split(path);
    for tree in trees {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree_fd = rustix::fs::open(tree, flags, Mode::empty()).map_err(|errno| LayerError::Target {
            path: tree.clone(),
            source: errno.into(),
        })?;
        match root::open_beneath(tree_fd.as_fd(), parent_path) {
            Ok(parent) => match root::stat(parent.as_fd(), name).map_err(LayerError::file("stat", path))? {
                Some(stat) if is_whiteout(&stat) || file_type(&stat) == FileType::Directory => {
                    return Ok(None);
                }
                Some(stat) => return Ok(Some(Lower { parent, stat })),
                None => {}
            },
            Err(Errno::NOENT) => {}
            // A whiteout, a file or a link in the way hides what is below.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(LayerError::file("open directory", parent_path)(errno)),
        }
        if hides(tree, parent_path).map_err(LayerError::file("look for the link target", path))? {
            return Ok(None);
        }
    }
    Ok(None)
}

fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(0, 0)
}

/// Whether a directory on the way to `path` is opaque in this tree.
fn hides(tree: &Path, path: &Path) -> io::Result<bool> {
    for dir in path.ancestors() {
        let mut value = [0u8; 1];
        match rustix::fs::lgetxattr(tree.join(dir), "trusted.overlay.opaque", &mut value[..]) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            // Something longer is no mark of overlayfs; what is not there marks nothing.
            Ok(_) | Err(Errno::RANGE | Errno::NODATA | Errno::NOTSUP | Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Copies a lower file, with all its metadata, to `name` in the directory `to`.
pub(crate) fn copy(from: &Lower, to: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), LayerError> {
    let failed = LayerError::file("copy the link target", path);
    match file_type(&from.stat) {
        FileType::RegularFile => copy_regular(from, to, name).map_err(failed),
        FileType::Symlink => copy_symlink(from, to, name).map_err(failed),
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
            copy_node(from, to, name, kind).map_err(failed)
        }
        other => Err(LayerError::Unsupported {
            entry: shown(path),
            what: format!("a hard link to something of kind {other:?}"),
        }),
    }
}

fn copy_regular(from: &Lower, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(&from.parent, name, read, Mode::empty())?);
    let mut target = File::from(rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))?);
    // The standard library lets the kernel copy, and share blocks where the file system can.
    io::copy(&mut source, &mut target)?;
    rustix::fs::fchown(
        &target,
        Some(Uid::from_raw(from.stat.st_uid)),
        Some(Gid::from_raw(from.stat.st_gid)),
    )?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(from.stat.st_mode & 0o7777))?;
    copy_xattrs(&source, &target)?;
    rustix::fs::futimens(&target, &times(&from.stat))?;
    Ok(())
}

fn copy_xattrs(source: &File, target: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::flistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; XATTR_MAX];
        let size = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        rustix::fs::fsetxattr(target, name, &value[..size], XattrFlags::empty())?;
    }
    Ok(())
}

fn copy_symlink(from: &Lower, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let target = rustix::fs::readlinkat(&from.parent, name, Vec::new())?;
    rustix::fs::symlinkat(target.as_c_str(), to, name)?;
    owner_and_times(from, to, name)
}

fn copy_node(from: &Lower, to: &OwnedFd, name: &OsStr, kind: FileType) -> io::Result<()> {
    rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), from.stat.st_rdev)?;
    owner_and_times(from, to, name)?;
    rustix::fs::chmodat(
        to,
        name,
        Mode::from_raw_mode(from.stat.st_mode & 0o7777),
        AtFlags::empty(),
    )?;
    Ok(())
}

fn owner_and_times(from: &Lower, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(from.stat.st_uid), Gid::from_raw(from.stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(to, name, &times(&from.stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
