//! Project quotas: how much the files of some directories may take together, counted and enforced by the file system (ext4, xfs).
//!
//! Each file carries the number of a project, 0 at first. A directory with [`Project::inherit`] gives its number to what is made in it, and the file
//! system refuses what would take a project over its limit (`EDQUOT` on ext4, `ENOSPC` on xfs).
//!
//! The calls of xfs (`Q_X*`) are understood by every file system with quotas: the kernel translates them (`fs/quota/quota.c`). They are made on a
//! descriptor since Linux 5.14 (`quotactl_fd`), before that on the path of the block device.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::{Errno, Error, Result};

/// To which project a file belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Its number.
    pub id: u32,
    /// Whether what is made in this directory belongs to it, too.
    pub inherit: bool,
}

/// What the files of a project may take; `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on the disk, in steps of 512; less is rounded up.
    pub bytes: Option<u64>,
    /// Files, directories and everything else.
    pub inodes: Option<u64>,
}

/// What the file system knows of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes that its files take.
    pub bytes: u64,
    /// How many there are.
    pub inodes: u64,
    /// What they may take.
    pub limits: Limits,
}

/// How far a file system has project quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is counted.
    Off,
    /// What projects take is counted, and limits are not heeded.
    Counted,
    /// Limits are enforced.
    Enforced,
}

/// The file system that is asked.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// That of an open file; since Linux 5.14.
    Of(BorrowedFd<'a>),
    /// That on this block device.
    Device(&'a Path),
}

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// The kernel's `struct fs_disk_quota`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// The kernel's `struct fs_quota_statv`: of its 160 bytes the flags are all that is read.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct QuotaState {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [[u32; 13]; 3],
}

const _: () = assert!(size_of::<FsXattr>() == 28 && size_of::<DiskQuota>() == 112);
const _: () = assert!(size_of::<QuotaState>() == 160);

const PRJQUOTA: libc::c_int = 2;
const Q_XGETQUOTA: libc::c_int = 0x5803;
const Q_XSETQLIM: libc::c_int = 0x5804;
const Q_XGETQSTATV: libc::c_int = 0x5808;
const FS_DQUOT_VERSION: i8 = 1;
const FS_PROJ_QUOTA: i8 = 2;
/// Soft and hard limits of inodes and blocks.
const FS_DQ_LIMIT_MASK: u16 = 0xf;
const FS_QUOTA_PDQ_ACCT: u16 = 1 << 4;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// The unit of [`DiskQuota`]'s blocks.
const BASIC_BLOCK: u64 = 512;

/// The project of an open file.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the file system has no such attribute.
pub fn project_of(file: impl AsFd) -> Result<Project> {
    let attributes = attributes(file.as_fd())?;
    Ok(Project {
        id: attributes.project,
        inherit: attributes.flags & FS_XFLAG_PROJINHERIT != 0,
    })
}

/// Gives an open file to a project. What lies in a directory already stays where it is.
///
/// # Errors
/// `EOPNOTSUPP` for ext4 without the feature `project`, `EPERM` for files of others, `EINVAL` from within a user namespace; else as [`project_of`].
pub fn set_project(file: impl AsFd, project: Project) -> Result<()> {
    let mut attributes = attributes(file.as_fd())?;
    attributes.project = project.id;
    if project.inherit {
        attributes.flags |= FS_XFLAG_PROJINHERIT;
    } else {
        attributes.flags &= !FS_XFLAG_PROJINHERIT;
    }
    // SAFETY: the call reads one `struct fsxattr`, which `attributes` is, and it outlives the call.
    let result = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            FS_IOC_FSSETXATTR as _,
            &raw const attributes,
        )
    };
    Error::check("ioctl(FS_IOC_FSSETXATTR)", result.into()).map(drop)
}

fn attributes(file: BorrowedFd<'_>) -> Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the call writes one `struct fsxattr`, which `attributes` is, and it outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut attributes) };
    Error::check("ioctl(FS_IOC_FSGETXATTR)", result.into())?;
    Ok(attributes)
}

/// Whether the kernel has `quotactl_fd`, and no filter hides it.
#[must_use]
pub fn takes_descriptors() -> bool {
    // SAFETY: the descriptor is none, which is looked at before all else; the address is not used.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            -1,
            command(Q_XGETQSTATV),
            0,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    Error::check("quotactl_fd", result).is_err_and(|error| error.errno == Errno::BADF)
}

/// How far the file system has project quotas. One that has no quotas at all, or lies on no device, and a kernel without them, are [`State::Off`].
///
/// # Errors
/// What `quotactl` says of a device that cannot be used: `EACCES` below a mount with `nodev`.
pub fn state(place: Place<'_>) -> Result<State> {
    let mut state = QuotaState {
        version: 1,
        ..QuotaState::default()
    };
    match call(place, Request::State(&mut state), 0) {
        Ok(()) => {}
        // No quota is on; the file system has none, or none of projects; nor has the kernel; its device's number is none that anything is mounted from.
        Err(Error {
            errno: Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NODEV | Errno::NOTBLK,
            ..
        }) => return Ok(State::Off),
        Err(error) => return Err(error),
    }
    Ok(if state.flags & FS_QUOTA_PDQ_ENFD != 0 {
        State::Enforced
    } else if state.flags & FS_QUOTA_PDQ_ACCT != 0 {
        State::Counted
    } else {
        State::Off
    })
}

/// What the file system knows of a project; all zero for one that it has never heard of.
///
/// # Errors
/// `ESRCH` if project quotas are off, `EPERM` without `CAP_SYS_ADMIN`.
pub fn account(place: Place<'_>, project: u32) -> Result<Account> {
    let mut quota = DiskQuota::default();
    match call(place, Request::Get(&mut quota), project) {
        Err(error) if error.errno == Errno::NOENT => return Ok(Account::default()),
        other => other?,
    }
    let limit = |value: u64| Some(value).filter(|&value| value != 0);
    Ok(Account {
        bytes: quota.blocks.saturating_mul(BASIC_BLOCK),
        inodes: quota.inodes,
        limits: Limits {
            bytes: limit(quota.blocks_hard.saturating_mul(BASIC_BLOCK)),
            inodes: limit(quota.inodes_hard),
        },
    })
}

/// Replaces the limits of a project.
///
/// # Errors
/// As [`account`]; `ERANGE` for more than the file system can count.
pub fn set_limits(place: Place<'_>, project: u32, limits: Limits) -> Result<()> {
    // 0 means that there is none; less than a block is one.
    let blocks = limits.bytes.map_or(0, |bytes| bytes.div_ceil(BASIC_BLOCK).max(1));
    let mut quota = DiskQuota {
        version: FS_DQUOT_VERSION,
        flags: FS_PROJ_QUOTA,
        fields: FS_DQ_LIMIT_MASK,
        id: project,
        blocks_hard: blocks,
        inodes_hard: limits.inodes.map_or(0, |inodes| inodes.max(1)),
        ..DiskQuota::default()
    };
    call(place, Request::Set(&mut quota), project)
}

/// A command with the structure that it takes.
enum Request<'a> {
    State(&'a mut QuotaState),
    Get(&'a mut DiskQuota),
    Set(&'a mut DiskQuota),
}

const fn command(number: libc::c_int) -> libc::c_int {
    number << 8 | PRJQUOTA
}

fn call(place: Place<'_>, request: Request<'_>, project: u32) -> Result<()> {
    let (number, data): (_, *mut libc::c_void) = match request {
        Request::State(state) => (Q_XGETQSTATV, std::ptr::from_mut(state).cast()),
        Request::Get(quota) => (Q_XGETQUOTA, std::ptr::from_mut(quota).cast()),
        Request::Set(quota) => (Q_XSETQLIM, std::ptr::from_mut(quota).cast()),
    };
    match place {
        Place::Of(file) => {
            // SAFETY: `data` points to the structure of this command, which is borrowed for as long as the call takes.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_quotactl_fd,
                    file.as_raw_fd(),
                    command(number),
                    project,
                    data,
                )
            };
            Error::check("quotactl_fd", result).map(drop)
        }
        Place::Device(path) => {
            let device = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| Error::new("quotactl", Errno::INVAL))?;
            // SAFETY: as above; the path ends with a zero byte and outlives the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_quotactl,
                    command(number),
                    device.as_ptr(),
                    project,
                    data,
                )
            };
            Error::check("quotactl", result).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_system_without_quotas_is_off() {
        let proc = File::open("/proc").unwrap();
        if takes_descriptors() {
            assert_eq!(state(Place::Of(proc.as_fd())), Ok(State::Off));
        }
        let null = Place::Device(Path::new("/dev/null"));
        assert_eq!(state(null), Ok(State::Off));
        assert_eq!(account(null, 1).unwrap_err().errno, Errno::NOTBLK);
        assert_eq!(project_of(&proc).unwrap_err().call, "ioctl(FS_IOC_FSGETXATTR)");
    }
}
