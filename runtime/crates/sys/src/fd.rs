//! File descriptors: what they point at, which survive `execve`.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// The magic number of procfs in `statfs`.
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// The magic number of devpts in `statfs`.
pub const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// The magic number of cgroup v2 in `statfs`.
pub const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// `/proc/self/fd/N`: the link through which a call that takes only paths reaches a descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    path.push(0);
    CString::from_vec_with_nul(path).unwrap_or_default()
}

/// The path that `fd` was opened by, as the kernel sees it now.
///
/// # Errors
/// There is no `/proc`.
pub fn path_of(fd: impl AsFd) -> Result<PathBuf> {
    let link = rustix::fs::readlink(proc_path(fd.as_fd()).as_c_str(), Vec::new())
        .named("readlink(/proc/self/fd)")?;
    Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
}

/// Opens the file behind an `O_PATH` descriptor for real.
///
/// # Errors
/// Those of `open(2)`.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(
        proc_path(fd.as_fd()).as_c_str(),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .named("open")
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// `close_range` does it in one call (Linux 5.11); without it the descriptors are listed through `proc`, a procfs that the caller
/// trusts: what is at `/proc` may be an image's, with an empty list in it (CVE-2024-21626).
///
/// # Errors
/// There is no `close_range`, and `proc` is no procfs.
pub fn close_on_exec_from(first: RawFd, proc: impl AsFd) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: with CLOEXEC nothing is closed, so no owner loses its descriptor.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    match Error::check("close_range", result) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.errno, Errno::NOSYS | Errno::INVAL) => {
            close_on_exec_by_listing(first, proc.as_fd())
        }
        Err(error) => Err(error),
    }
}

fn close_on_exec_by_listing(first: RawFd, proc: BorrowedFd<'_>) -> Result<()> {
    for fd in open_fds(proc)?.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: fcntl takes integers; a descriptor closed since the listing gives EBADF, which changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// The numbers of all open descriptors (that of the listing itself excluded), in ascending order.
///
/// # Errors
/// `proc` is no procfs.
pub fn open_fds(proc: impl AsFd) -> Result<Vec<RawFd>> {
    let directory = rustix::fs::openat(
        proc,
        "self/fd",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .named("open(/proc/self/fd)")?;
    let own = directory.as_raw_fd();
    let mut fds = Vec::new();
    for entry in rustix::fs::Dir::new(directory).named("open(/proc/self/fd)")? {
        let entry = entry.named("getdents")?;
        let number = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.parse::<RawFd>().ok());
        fds.extend(number.filter(|number| *number != own));
    }
    fds.sort_unstable();
    Ok(fds)
}

/// Lets `fd` survive `execve`.
///
/// # Errors
/// It is not open.
pub fn keep_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl takes integers; no descriptor is closed.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    Error::check("fcntl(F_SETFD)", result.into()).map(drop)
}

/// Puts a copy of `fd` at the standard descriptors 0, 1 and 2.
///
/// # Errors
/// None that is to be expected of an open descriptor.
pub fn replace_stdio(fd: impl AsFd) -> Result<()> {
    for target in 0..=2 {
        if fd.as_fd().as_raw_fd() == target {
            keep_on_exec(target)?;
            continue;
        }
        // SAFETY: the standard descriptors have no owner in Rust; whatever they were is closed by the call itself.
        let result = unsafe { libc::dup3(fd.as_fd().as_raw_fd(), target, 0) };
        Error::check("dup3", result.into())?;
    }
    Ok(())
}

/// Whether `number` is open and came from the caller: all that this program opens is close-on-exec, and what came through an
/// `execve` cannot be.
pub fn is_inherited(number: RawFd) -> bool {
    // SAFETY: fcntl takes integers and only asks.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether `fd` is the character device `major:minor`.
///
/// # Errors
/// None that is to be expected of an open descriptor.
pub fn is_character_device(fd: impl AsFd, major: u32, minor: u32) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).named("fstat")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor))
}

/// Whether `fd` is on a file system with this magic number.
///
/// # Errors
/// None that is to be expected of an open descriptor.
pub fn is_on(fd: impl AsFd, magic: i64) -> Result<bool> {
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the type of f_type differs by architecture"
    )]
    Ok(rustix::fs::fstatfs(fd).named("fstatfs")?.f_type as i64 == magic)
}

/// `statx`'s mount id of `fd`, where the kernel tells (Linux 5.8).
///
/// # Errors
/// None that is to be expected of an open descriptor.
pub fn mount_id(fd: impl AsFd) -> Result<u64> {
    let stat = rustix::fs::statx(
        fd,
        c"",
        rustix::fs::AtFlags::EMPTY_PATH,
        rustix::fs::StatxFlags::MNT_ID,
    )
    .named("statx")?;
    Ok(stat.stx_mnt_id)
}

/// Opens `path` as a mere reference (`O_PATH`).
///
/// # Errors
/// Those of `open(2)`.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).named("open")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_knows_its_path_and_kind() {
        let null = open_path(Path::new("/dev/null")).expect("a /dev/null");
        assert_eq!(path_of(&null).expect("a /proc"), Path::new("/dev/null"));
        assert!(is_character_device(&null, 1, 3).expect("fstat"));
        assert!(!is_character_device(&null, 1, 5).expect("fstat"));
        let proc = open_path(Path::new("/proc")).expect("a /proc");
        assert!(is_on(&proc, PROC_SUPER_MAGIC).expect("fstatfs"));
    }

    #[test]
    fn only_what_survived_an_execve_was_inherited() {
        let own = std::fs::File::open("/dev/null").expect("a /dev/null");
        assert!(is_inherited(0));
        assert!(!is_inherited(own.as_raw_fd()));
        assert!(!is_inherited(9999));
    }

    #[test]
    fn descriptors_are_listed_through_the_procfs_that_is_given() {
        let proc = open_path(Path::new("/proc")).expect("a /proc");
        let listed = open_fds(&proc).expect("listed");
        assert!(listed.contains(&0) && listed.contains(&proc.as_raw_fd()));
        let other = open_path(Path::new("/tmp")).expect("a /tmp");
        assert!(open_fds(&other).is_err());
    }
}
