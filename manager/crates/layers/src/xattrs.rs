//! Extended attributes of what is unpacked.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The longest list of names of extended attributes (`XATTR_LIST_MAX`).
const XATTR_LIST_MAX: usize = 65536;

pub(crate) fn set_xattrs(file: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in xattrs {
        tolerate(
            name,
            rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()),
        )?;
    }
    Ok(())
}

/// The names of an open file's extended attributes, each with a zero byte behind it; none on a file system that has no such attributes.
pub(crate) fn names(file: impl AsFd) -> io::Result<Vec<u8>> {
    let mut names = vec![0; XATTR_LIST_MAX];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    names.truncate(length);
    Ok(names)
}

/// Each of such names.
pub(crate) fn each(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty())
}

/// Takes away what an earlier entry for the same directory has set.
pub(crate) fn clear_xattrs(dir: &OwnedFd) -> io::Result<()> {
    let names = names(dir)?;
    for name in each(&names).filter(|name| crate::pax::is_wanted(name)) {
        rustix::fs::fremovexattr(dir, name)?;
    }
    Ok(())
}

/// For what cannot be opened: symbolic links, devices and pipes. The path goes through our own open descriptor, whose link is the kernel's.
pub(crate) fn set_xattrs_at(parent: &OwnedFd, name: &OsStr, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (xattr, value) in xattrs {
        let path = Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        tolerate(
            xattr,
            rustix::fs::lsetxattr(&path, xattr.as_slice(), value, XattrFlags::empty()),
        )?;
    }
    Ok(())
}

/// A file system without users' attributes (tmpfs, older NFS) is no reason to refuse an image; without file capabilities the image would
/// not work, so that is one.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) if name != b"security.capability" => Ok(()),
        other => other.map_err(Into::into),
    }
}

/// The attributes of an open file that a layer may have, sorted by name.
pub(crate) fn read_xattrs(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let file = file.as_fd();
    read_with(
        |names| rustix::fs::flistxattr(file, names),
        |name, value| rustix::fs::fgetxattr(file, name, value),
    )
}

/// As [`read_xattrs`], of what cannot be opened.
pub(crate) fn read_xattrs_at(parent: &OwnedFd, name: &OsStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = crate::pack::by_descriptor(parent, name);
    read_with(
        |names| rustix::fs::llistxattr(&path, names),
        |name, value| rustix::fs::lgetxattr(&path, name, value),
    )
}

fn read_with(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; XATTR_LIST_MAX];
    let length = match list(&mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::NOENT) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0) {
        if !crate::pax::is_wanted(name) {
            continue;
        }
        let mut value = vec![0; XATTR_LIST_MAX];
        match get(name, &mut value) {
            Ok(size) => value.truncate(size),
            // It went while we looked.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno.into()),
        }
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}
