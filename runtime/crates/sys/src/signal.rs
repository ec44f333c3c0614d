//! Signals: a clean slate for a new program, and a descriptor to receive them by.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::{Errno, Error, Result};

/// The largest signal's number.
const LAST: libc::c_int = 64;

/// Resets what a new program inherits: no signal blocked, none ignored.
///
/// Rust's runtime ignores `SIGPIPE`, nohup(1) `SIGHUP`, and a script `SIGINT` and `SIGQUIT` of what it starts in the background: what is ignored
/// stays so through every execve(2), and a POSIX shell cannot even trap it afterwards.
///
/// # Errors
/// None that is to be expected.
pub fn reset_for_exec() -> Result<()> {
    for signal in (1..=LAST).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP)) {
        reset(signal)?;
    }
    let none = SignalSet::empty();
    // SAFETY: the set is initialised, and the old mask is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none.0, std::ptr::null_mut()) };
    Error::check("rt_sigprocmask", result.into()).map(drop)
}

/// Has the ends of children kept until they are waited for, whatever the caller does about its own: with SIGCHLD ignored the kernel would
/// reap them at once, and nobody could ask how they ended (waitpid(2), `ECHILD`).
///
/// # Errors
/// None that is to be expected.
pub fn keep_ended_children() -> Result<()> {
    reset(libc::SIGCHLD)
}

/// Gives one signal its default disposition. The C library's own function refuses the signals that it keeps for itself (32 to 34).
fn reset(signal: libc::c_int) -> Result<()> {
    // The kernel's structure on every architecture, and more than it is long: SIG_DFL is 0, no flags, no restorer, an empty mask.
    let default = [0_u64; 8];
    let mask_size = size_of::<u64>();
    // SAFETY: the kernel reads a structure that is shorter than the array, and writes nothing; no handler function is involved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            default.as_ptr(),
            std::ptr::null_mut::<libc::c_void>(),
            mask_size,
        )
    };
    Error::check("rt_sigaction", result).map(drop)
}

/// An initialised set of signals.
struct SignalSet(libc::sigset_t);

impl SignalSet {
    fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the call initialises the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised just now.
        Self(unsafe { set.assume_init() })
    }

    fn full_but(excluded: &[libc::c_int]) -> Self {
        let mut set = Self::empty();
        // SAFETY: the set is initialised.
        unsafe { libc::sigfillset(&raw mut set.0) };
        for signal in excluded {
            // SAFETY: the set is initialised, and the signals are valid ones.
            unsafe { libc::sigdelset(&raw mut set.0, *signal) };
        }
        set
    }
}

/// A blocked set of signals that are read from a descriptor instead.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks all signals that can be blocked (but those of a fault of the program itself) and returns a descriptor of them,
    /// not blocking to read and close-on-exec.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn all() -> Result<Self> {
        // An abort of our own gets through all the same: abort(3) unblocks its signal.
        let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
        let set = SignalSet::full_but(&faults);
        // SAFETY: the set is initialised, and the old mask is not asked for.
        let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set.0, std::ptr::null_mut()) };
        Error::check("rt_sigprocmask", result.into())?;
        // SAFETY: the set is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        Error::check("signalfd4", fd.into())?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal's number, if there is one.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn next(&self) -> Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        loop {
            // SAFETY: the buffer is as large as is said.
            let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if read == size as isize {
                // SAFETY: the kernel has filled in the whole structure.
                return Ok(Some(unsafe { info.assume_init() }.ssi_signo as i32));
            }
            match Error::last("read(signalfd)") {
                error if error.errno == Errno::AGAIN => return Ok(None),
                error if error.errno == Errno::INTR => {}
                error => return Err(error),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
