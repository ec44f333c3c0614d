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
