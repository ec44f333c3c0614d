//! What an ended child has used.

use std::time::Duration;

use crate::pidfd::Exit;
use crate::{Errno, Error, Result};

/// What a child used, with those of its own children that it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most memory that was resident at once, in KiB. It counts from the fork on, and so begins with the
    /// parent's.
    pub peak_memory_kib: u64,
    /// Processor time, in user mode and in the kernel.
    pub processor: Duration,
}

/// Waits for a child to end, reaps it, and says what it has used.
///
/// # Errors
/// `ECHILD`: it is not a child, or somebody has reaped it.
pub fn wait_with_usage(pid: i32) -> Result<(Exit, Usage)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both addresses are of local variables that the call fills.
        let result = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        match Error::check("wait4", result.into()) {
            Ok(_) => break,
            Err(error) if error.errno == Errno::INTR => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: zeroed, and every bit pattern is a `rusage`.
    let usage = unsafe { usage.assume_init() };
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    Ok((
        exit,
        Usage {
            peak_memory_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
            processor: duration(usage.ru_utime) + duration(usage.ru_stime),
        },
    ))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by what is tested")]
    fn a_child_has_used_some_memory() {
        for (script, exit) in [("exit 3", Exit::Code(3)), ("kill -15 $$", Exit::Signal(15))] {
            let child = Command::new("sh").args(["-c", script]).spawn().expect("a shell");
            let pid = i32::try_from(child.id()).expect("a pid");
            let (how, usage) = wait_with_usage(pid).expect("a child");
            assert_eq!(how, exit);
            assert!(usage.peak_memory_kib > 0);
            assert!(usage.processor < Duration::from_secs(5));
            assert_eq!(wait_with_usage(pid).expect_err("reaped").errno, Errno::CHILD);
        }
    }
}
