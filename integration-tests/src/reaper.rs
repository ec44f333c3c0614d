//! The subreaper: every orphan below a test comes to the test process and is reaped at once.
//!
//! A container's first process is orphaned by design when `create` ends. Where pid 1 reaps late, it would stay a zombie
//! for seconds, and tests of "is it gone" would wait on that. So one thread of the test process waits for any child;
//! the statuses of those that a test started itself are kept for it.
//!
//! Invariant: nothing else in the test process waits for children, `std::process::Child::wait` included.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid};

use crate::output::{Ended, Output};
use crate::wait::patient;

/// How long a program may take where a test says nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Ledger {
    ended: HashMap<i32, Ended>,
    /// Grows with each start, so that the reaper knows that it has a child again.
    started: u64,
}

#[derive(Default)]
struct Reaper {
    ledger: Mutex<Ledger>,
    changed: Condvar,
}

static REAPER: LazyLock<Reaper> = LazyLock::new(Reaper::default);

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_forever(&self) {
        loop {
            let seen = self.lock().started;
            // Only looked at here. A process keeps its number until it is reaped, which is done with the lock held: so no process is
            // started between an end and its entry, and none finds the entry of a namesake.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(Some(_)) => {
                    let mut ledger = self.lock();
                    if let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                        let ended = match (status.exit_status(), status.terminating_signal()) {
                            (Some(code), _) => Ended::Code(code),
                            (None, Some(number)) => Ended::Signal(number),
                            (None, None) => continue,
                        };
                        ledger.ended.insert(pid.as_raw_nonzero().get(), ended);
                    }
                    drop(ledger);
                    self.changed.notify_all();
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // No child at all, and so no descendant: one can only come from a new start.
                    let mut ledger = self.lock();
                    while ledger.started == seen {
                        ledger = self.changed.wait(ledger).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }
}

/// Makes this process a subreaper and starts its thread; further calls do nothing.
pub(crate) fn begin() -> Result<()> {
    static BEGUN: LazyLock<Result<(), String>> = LazyLock::new(|| {
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(|| REAPER.reap_forever())
            .map(drop)
            .map_err(|error| error.to_string())
    });
    BEGUN
        .clone()
        .map_err(|reason| anyhow::anyhow!("becoming a subreaper: {reason}"))
}

/// A program that a test started. Its output goes to files: nothing waits for a pipe that a container may hold open.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program with its output in `<stem>.out` and `<stem>.err`.
    pub(crate) fn start(mut command: Command, stem: &std::path::Path) -> Result<Self> {
        begin()?;
        let what = describe(&command);
        let stdout = stem.with_extension("out");
        let stderr = stem.with_extension("err");
        command
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?);
        let mut ledger = REAPER.lock();
        let child = command.spawn().with_context(|| format!("starting `{what}`"))?;
        let pid = i32::try_from(child.id())?;
        // Numbers are used again: what is noted under this one is another process' end.
        ledger.ended.remove(&pid);
        ledger.started += 1;
        drop(ledger);
        REAPER.changed.notify_all();
        Ok(Self {
            pid,
            what,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        REAPER.lock().ended.get(&self.pid).copied()
    }

    /// Sends a signal, unless it has ended.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock is held, so that the reaper cannot free the number for a stranger between look and kill.
        let ledger = REAPER.lock();
        if ledger.ended.contains_key(&self.pid) {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => bail!("sending {signal} to `{}`: {errno}", self.what),
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It has not after `limit`; it is killed then.
    pub fn wait(&self, limit: Duration) -> Result<Output> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        let mut ledger = REAPER.lock();
        let ended = loop {
            if let Some(ended) = ledger.ended.get(&self.pid) {
                break *ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(ledger);
                self.signal(Signal::SIGKILL)?;
                bail!(
                    "`{}` still ran after {limit:?} and was killed\n--- stdout\n{}\n--- stderr\n{}",
                    self.what,
                    self.stdout(),
                    self.stderr()
                );
            }
            let (next, _) = REAPER
                .changed
                .wait_timeout(ledger, left)
                .unwrap_or_else(PoisonError::into_inner);
            ledger = next;
        };
        drop(ledger);
        Ok(Output {
            what: self.what.clone(),
            ended,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }
}

/// A command with nothing on its standard input.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn read_lossy(path: &std::path::Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
