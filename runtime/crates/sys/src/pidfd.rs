//! Processes by descriptor: a pidfd never comes to mean another process, as a reused pid does.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitId, WaitIdOptions};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code as shells and runtimes report it: the process's own, or 128 and the signal.
    pub const fn as_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A descriptor of the process `pid`.
///
/// # Errors
/// `ESRCH`: there is none.
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Error::check("pidfd_open", result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A copy of the descriptor that has the number `descriptor` in the process, close-on-exec.
///
/// # Errors
/// `EBADF`: it has none; `EPERM`: the caller may not trace it; `ENOSYS` before Linux 5.6.
pub fn take_descriptor(pidfd: impl AsFd, descriptor: i32) -> Result<OwnedFd> {
    let flags = rustix::process::PidfdGetfdFlags::empty();
    rustix::process::pidfd_getfd(pidfd, descriptor, flags).named("pidfd_getfd")
}

/// Sends a signal (by number; 0 only asks).
///
/// # Errors
/// `ESRCH`: the process has ended and was reaped, `EPERM`, `EINVAL`: no such signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    // SAFETY: no siginfo is passed, so the call takes integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Error::check("pidfd_send_signal", result).map(drop)
}

/// Waits until the process has ended (it need not be a child); `false` when the time is over first.
///
/// # Errors
/// None that is to be expected of an open pidfd.
pub fn wait_ended(pidfd: impl AsFd, timeout: Option<Duration>) -> Result<bool> {
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("poll", errno)),
        }
    }
}

/// Waits for a child to end, and reaps it.
///
/// # Errors
/// `ECHILD`: it is not a child, or somebody has reaped it.
pub fn reap(pidfd: impl AsFd) -> Result<Exit> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(exit_of(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("waitid", errno)),
        }
    }
}

/// Reaps every child that has ended but `main`, whose end somebody else looks at: orphans that have come to a subreaper.
///
/// # Errors
/// None that is to be expected.
pub fn reap_others(main: i32) -> Result<()> {
    while let Some(pid) = first_ended()?.filter(|pid| *pid != main) {
        // SAFETY: no status is asked for, so the call takes integers only.
        let result = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        Error::check("waitpid", result.into())?;
    }
    Ok(())
}

/// A child that has ended, left as it is.
fn first_ended() -> Result<Option<i32>> {
    // SAFETY: all zeroes is a value of siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    match Error::check("waitid", result.into()) {
        Err(error) if error.errno == Errno::CHILD => Ok(None),
        Err(error) => Err(error),
        Ok(_) => {
            // SAFETY: waitid has filled in what it says of a child, or left the zeroes where there is none.
            let pid = unsafe { info.si_pid() };
            Ok((pid != 0).then_some(pid))
        }
    }
}

fn exit_of(status: &rustix::process::WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(255),
    }
}

/// Sends a signal by pid.
///
/// # Errors
/// `ESRCH`, `EPERM`.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: kill takes two integers.
    let result = unsafe { libc::kill(pid, signal) };
    Error::check("kill", result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_waited_for_and_reaped_with_its_code() {
        for (script, exit) in [("exit 7", Exit::Code(7)), ("kill -9 $$", Exit::Signal(9))] {
            #[expect(clippy::zombie_processes, reason = "it is reaped by the function under test")]
            let child = Command::new("sh").args(["-c", script]).spawn().expect("a shell");
            let pidfd = open(child.id() as i32).expect("alive or a zombie");
            assert!(wait_ended(&pidfd, None).expect("polled"));
            assert_eq!(reap(&pidfd).expect("a child"), exit);
            assert_eq!(send_signal(&pidfd, 0).expect_err("reaped").errno, Errno::SRCH);
        }
        assert_eq!(Exit::Signal(9).as_code(), 137);
    }

    #[test]
    fn waiting_for_a_living_process_ends_with_the_time() {
        let own = open(std::process::id() as i32).expect("alive");
        assert!(!wait_ended(&own, Some(Duration::from_millis(1))).expect("polled"));
    }
}
