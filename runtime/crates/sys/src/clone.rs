//! New processes and namespaces: `clone3`, `unshare`, `setns`.
//!
//! ```text
//! clone3 ──▶ Cloned::Parent { pid, pidfd }      in the caller
//!        └─▶ Cloned::Child                      in a copy of the caller's memory, as after fork(2)
//! ```
//!
//! The child runs on a copy of the whole address space. That is sound only if no other thread existed (it might have held
//! a lock that nobody in the child would ever release), so [`clone3`] asks the kernel first and refuses otherwise.

use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::error::Named;
use crate::{Errno, Error, Result};

/// A set of namespace kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    /// No namespace at all.
    pub const NONE: Self = Self(0);
    /// Time offsets.
    pub const TIME: Self = Self(0x80);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u32);
    /// The view of the cgroup trees.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u32);
    /// Host and domain name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u32);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u32);
    /// User and group ids, capabilities.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u32);
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u32);
    /// Network.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u32);

    /// Whether every kind of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set without the kinds of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The `CLONE_NEW*` bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Parentage {
    /// The caller's.
    #[default]
    Child,
    /// The caller's parent's (`CLONE_PARENT`): for a stage that makes a process on behalf of its own parent.
    Sibling,
}

/// What [`clone3`] is to make.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneRequest<'a> {
    /// The namespaces that the child gets new.
    pub namespaces: Namespaces,
    /// A cgroup v2 directory that the child starts in (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whose child it is.
    pub parentage: Parentage,
}

/// On which side of the clone the caller finds itself.
#[derive(Debug)]
pub enum Cloned {
    /// The process that called.
    Parent {
        /// The child's pid, in the caller's pid namespace.
        pid: i32,
        /// A descriptor of the child, close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// The kernel's `struct clone_args` up to the `cgroup` field (`CLONE_ARGS_SIZE_VER2`).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Fails with `EINVAL` if the process has more than one thread.
///
/// `unshare(CLONE_THREAD)` changes nothing and is permitted to single-threaded callers only: the cheapest way to ask.
///
/// # Errors
/// The process has other threads.
pub fn ensure_single_threaded() -> Result<()> {
    // SAFETY: unshare with CLONE_THREAD alone changes no state; it only tells whether there are other threads.
    let result = unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_THREAD) };
    Error::check("unshare(CLONE_THREAD)", result).map(drop)
}

/// Makes a process in new namespaces; both sides return.
///
/// # Errors
/// The caller has other threads (`EINVAL`), the kernel lacks a namespace kind (`EINVAL`), has no room for one more
/// (`ENOSPC`, `EUSERS`), or the caller may not make it (`EPERM`).
pub fn clone3(request: &CloneRequest<'_>) -> Result<Cloned> {
    ensure_single_threaded()?;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(request.namespaces.bits()) | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        ..CloneArgs::default()
    };
    match request.parentage {
        Parentage::Child => args.exit_signal = libc::SIGCHLD as u64,
        // The exit signal is taken over from the caller: clone3 wants the field to be zero.
        Parentage::Sibling => args.flags |= libc::CLONE_PARENT as u64,
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is laid out as the kernel expects, and `pidfd` outlives the call. Neither CLONE_VM nor a stack is asked
    // for, so the child has its own copy of the memory; there is only one thread, so no lock is held in it.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    let made = match Error::check("clone3", result) {
        Err(error) if error.is_missing() => classic_clone(&args, request.cgroup)?,
        made => made?,
    };
    match made {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: pid as i32,
            // SAFETY: the kernel has just stored a new descriptor there, and nobody else knows it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// The same by `clone(2)`, where `clone3` is missing: a filter in front of the kernel that cannot look into the structure answers `ENOSYS`
/// to it, as docker's does to whom it grants no new namespaces.
fn classic_clone(args: &CloneArgs, cgroup: Option<BorrowedFd<'_>>) -> Result<libc::c_long> {
    // There the lowest byte is the exit signal.
    const SIGNAL: u64 = 0xff;
    if args.flags & SIGNAL != 0 {
        return Err(Error::new("clone3", Errno::NOSYS));
    }
    // Opened here: the right to move into the cgroup is that of who opened the file.
    let members = cgroup
        .map(|cgroup| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(cgroup, "cgroup.procs", flags, Mode::empty()).named("open(cgroup.procs)")
        })
        .transpose()?;
    let flags = args.flags & !CLONE_INTO_CGROUP;
    // SAFETY: without a stack, CLONE_VM and CLONE_SETTLS the call is a fork with flags: the child has its own copy of the memory, and the
    // last two arguments, whose order depends on the architecture, are not looked at. `args.pidfd` is the address of the caller's
    // integer, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags | args.exit_signal,
            std::ptr::null_mut::<libc::c_void>(),
            args.pidfd,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    let made = Error::check("clone", result)?;
    if let (0, Some(members)) = (made, members) {
        // Before anything else: a cgroup namespace made later has this cgroup as its root. A child that is not in it must not live; its end
        // is what the caller sees.
        if rustix::io::write(&members, b"0").is_err() {
            // SAFETY: _exit takes an integer and runs no handlers.
            unsafe { libc::_exit(1) };
        }
    }
    Ok(made)
}

/// Moves the caller (for `PID` and `TIME`: its future children) into new namespaces.
///
/// # Errors
/// As [`clone3`].
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    let flags = UnshareFlags::from_bits_retain(namespaces.bits());
    // SAFETY: no CLONE_FILES is among the flags, so the descriptor table stays shared as it was and owned descriptors stay
    // valid.
    unsafe { rustix::thread::unshare_unsafe(flags) }.named("unshare")
}

/// Joins the namespace that `namespace` (a `/proc/PID/ns/*` file or a bind mount of one) stands for; it must be of `kind`.
///
/// # Errors
/// It is no namespace of that kind (`EINVAL`), or the caller may not join it (`EPERM`).
pub fn join(namespace: BorrowedFd<'_>, kind: Namespaces) -> Result<()> {
    setns(namespace, kind)
}

/// Joins several namespaces of the process behind `pidfd` at once (Linux 5.8).
///
/// # Errors
/// The process is gone (`ESRCH`), one of the kinds cannot be joined (`EINVAL`, `EPERM`); then none has been.
pub fn join_process(pidfd: BorrowedFd<'_>, kinds: Namespaces) -> Result<()> {
    setns(pidfd, kinds)
}

fn setns(fd: BorrowedFd<'_>, kinds: Namespaces) -> Result<()> {
    // SAFETY: setns takes two integers; the descriptor is open for the duration of the call.
    let result = unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds.bits()) };
    Error::check("setns", result).map(drop)
}

/// Whether an error of [`join_process`] means that the kernel cannot join by pidfd.
pub fn joins_by_pidfd(error: &Error) -> bool {
    !matches!(error.errno, Errno::INVAL | Errno::BADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_namespaces_is_a_set() {
        let both = Namespaces::MOUNT | Namespaces::PID;
        assert!(both.contains(Namespaces::PID));
        assert!(!both.contains(Namespaces::NETWORK));
        assert_eq!(both.without(Namespaces::PID), Namespaces::MOUNT);
        assert!(Namespaces::NONE.is_empty());
    }

    #[test]
    fn a_process_with_threads_is_not_cloned() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let error = clone3(&CloneRequest::default()).expect_err("there is another thread");
        assert_eq!(error, Error::new("unshare(CLONE_THREAD)", Errno::INVAL));
        drop(tell);
        assert!(other.join().expect("joined").is_err());
    }
}
