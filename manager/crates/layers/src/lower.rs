//! Files of lower layers: found as overlayfs would show them, and copied so that they can be linked to.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::error::{LayerError, shown};
use crate::pax::MAX_XATTR;
use crate::root::{self, file_type, split};
use crate::xattrs;

/// A file in a lower layer's tree.
pub(crate) struct Lower {
    parent: OwnedFd,
    stat: Stat,
}

impl Lower {
    /// Something of this name and state in an open directory.
    pub(crate) fn new(parent: OwnedFd, stat: Stat) -> Self {
        Self { parent, stat }
    }

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

/// Whether this is a whiteout of overlayfs.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
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

/// Whether an open directory is opaque.
pub(crate) fn is_opaque_fd(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]) {
        Ok(1) => Ok(value[0] == b'y'),
        Ok(_) | Err(Errno::RANGE | Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
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
    let source = File::from(rustix::fs::openat(&from.parent, name, read, Mode::empty())?);
    let target = File::from(rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))?);
    copy_content(&source, &target)?;
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

/// Copies a file's bytes, and its holes as holes: a file of terabytes may take no space, and its copy shall not, either.
fn copy_content(mut source: &File, mut target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole from here to the end.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size);
        source.seek(io::SeekFrom::Start(start))?;
        target.seek(io::SeekFrom::Start(start))?;
        // The standard library lets the kernel copy, and share blocks where the file system can.
        if io::copy(&mut source.take(end.saturating_sub(start)), &mut target)? == 0 {
            break;
        }
        at = end;
    }
    target.set_len(size)
}

fn copy_xattrs(source: &File, target: &File) -> io::Result<()> {
    let names = xattrs::names(source)?;
    for name in xattrs::each(&names) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn the_copy_of_a_file_with_holes_has_them_too() {
        const SIZE: u64 = 1 << 40;
        let parts: [(u64, &[u8]); 3] = [(0, b"begin"), (1 << 30, b"middle"), (SIZE - 3, b"end")];
        for parts in [&parts[..], &parts[1..2], &[]] {
            let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            source.set_len(SIZE).unwrap();
            for (at, bytes) in parts {
                source.write_all_at(bytes, *at).unwrap();
            }
            copy_content(&source, &target).unwrap();
            let (source, copy) = (source.metadata().unwrap(), target.metadata().unwrap());
            assert_eq!((copy.len(), copy.blocks()), (SIZE, source.blocks()));
            for (at, bytes) in parts {
                let mut found = vec![0; bytes.len()];
                target.read_exact_at(&mut found, *at).unwrap();
                assert_eq!(&found, bytes);
            }
        }
    }
}
