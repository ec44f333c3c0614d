//! `croze-init`: the first process of a container that was asked for with `--init`.
//!
//! ```text
//!   croze-init -- COMMAND…             pid 1: blocks every signal that is none of a fault of its own, then starts
//!     └─ croze-init --child -- COMMAND…     a process group of its own, in the foreground of the terminal; becomes
//!        └─ COMMAND
//! ```
//!
//! A program that is pid 1 has two duties that few programs know of: signals that it does not handle do nothing to it, and orphans stay zombies
//! unless it waits for them. This one does both for the command: it hands every signal on (but SIGSEGV, SIGBUS, SIGILL and SIGFPE, which mean a fault
//! of a program's own), reaps whatever ends, and ends as the command does, with its code or with 128 and the signal's number.
//!
//! The child's stage exists because a process group must be made, and put into the foreground, before the command looks, and only a process itself can
//! do both in that order. A command that is not there ends with 127, one that cannot be executed with 126, as shells have it.
//!
//! What it does not do: restart anything, forward to descendants (a terminal's own signals reach the whole foreground group anyway).
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use croze_sys::signal::{SignalFd, reset_for_exec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

/// A process that a signal ends has this and the signal's number as its code.
const SIGNAL_EXIT_BASE: i32 = 128;
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// This program itself failed, or was called wrongly.
const FAILED: u8 = 125;

/// Why the command does not run, and the code to end with.
struct Failure {
    words: String,
    code: u8,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match borrowed.as_slice() {
        ["--version"] => {
            let said = writeln!(
                std::io::stdout(),
                "croze-init version {}",
                env!("CARGO_PKG_VERSION")
            );
            said.map(|()| 0).map_err(|error| failed("print", error))
        }
        ["--child", "--", command @ ..] if !command.is_empty() => Err(become_command(command)),
        ["--", command @ ..] if !command.is_empty() => watch_over(command),
        _ => Err(Failure {
            words: "usage: croze-init -- COMMAND [ARGUMENT…]".to_owned(),
            code: FAILED,
        }),
    };
    ExitCode::from(ended.unwrap_or_else(|failure| {
        // With standard error gone there is nobody left to tell; the code still says it.
        writeln!(std::io::stderr(), "croze-init: {}", failure.words).ok();
        failure.code
    }))
}

fn failed(action: &str, error: impl std::fmt::Display) -> Failure {
    Failure {
        words: format!("cannot {action}: {error}"),
        code: FAILED,
    }
}

/// Starts the command, and does pid 1's duties until it has ended.
fn watch_over(command: &[&str]) -> Result<u8, Failure> {
    // Before there is a child: its end must not be missed.
    let signals = SignalFd::all().map_err(|error| failed("block signals", error))?;
    if std::process::id() != 1 {
        // The pids are the host's or another container's: orphans come here all the same.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| failed("become the reaper of orphans", error))?;
    }
    let child = Command::new("/proc/self/exe")
        .args(["--child", "--"])
        .args(command)
        .spawn()
        .map_err(|error| failed("start the command", error))?;
    let child = Pid::from_child(&child);
    loop {
        while let Some(number) = signals.next().map_err(|error| failed("read signals", error))? {
            forward(number, child);
        }
        if let Some(code) = reap(child)? {
            return Ok(code);
        }
        let mut waited = [PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed("wait for signals", error)),
        }
    }
}

/// Hands a signal on, but for those that are this process's own affair.
fn forward(number: i32, child: Pid) {
    let own = [Signal::CHILD, Signal::TTIN, Signal::TTOU];
    if own.iter().any(|signal| signal.as_raw() == number) {
        return;
    }
    // It may have ended already.
    croze_sys::pidfd::kill(child.as_raw_pid(), number).ok();
}

/// Reaps everything that has ended; the code to end with if the command is among it.
fn reap(child: Pid) -> Result<Option<u8>, Failure> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let ended = match (status.exit_status(), status.terminating_signal()) {
                    (Some(ended), _) => ended,
                    (None, Some(signal)) => SIGNAL_EXIT_BASE + signal,
                    // Stopped or continued: neither was asked for.
                    (None, None) => continue,
                };
                code = Some(u8::try_from(ended).unwrap_or(u8::MAX));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(error) => return Err(failed("wait for processes", error)),
        }
    }
}

/// Makes a process group, puts it into the foreground of the terminal, and executes the command; returns only if that fails.
fn become_command(command: &[&str]) -> Failure {
    // As a session's leader it is its group's already.
    rustix::process::setpgid(None, None).ok();
    let stdin = std::io::stdin();
    if rustix::termios::isatty(stdin.as_fd()) {
        // Signals are still blocked, so a process in the background may do this. A terminal that is not the session's has no foreground.
        rustix::termios::tcsetpgrp(stdin.as_fd(), rustix::process::getpgrp()).ok();
    }
    if let Err(error) = reset_for_exec() {
        return failed("unblock signals", error);
    }
    let (program, arguments) = command.split_first().unwrap_or((&"", &[]));
    let error = Command::new(program).args(arguments).exec();
    Failure {
        words: format!("cannot execute {program}: {error}"),
        code: match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        },
    }
}
