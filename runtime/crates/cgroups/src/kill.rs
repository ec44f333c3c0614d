//! The processes of a cgroup: found, signalled, killed; and its directories removed.
//!
//! Killing all: `cgroup.kill` of version 2 where it is (Linux 5.14, on hybrid hosts too) does it in one step.
//! Otherwise the processes are frozen, so that none can fork away, signalled, and thawed, until none is left.
//! What is waited for is the processes' end, through pidfds or the event of version 2.

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::file;
use crate::freezer::{pause, wait_event};
use crate::observe::Kind;
use croze_sys::{Errno, pidfd};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// How long freezing may take before processes are signalled without it.
const FREEZE: Duration = Duration::from_millis(500);

impl Cgroup {
    /// The pids of every process in it and below it, sorted. Those of a cgroup that is gone: none.
    ///
    /// # Errors
    /// If a directory or a list cannot be read though it is there.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        if let Some(path) = self.census() {
            collect(path, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The directory in which processes are counted: every process of the cgroup is in each of its hierarchies.
    fn census(&self) -> Option<&Path> {
        let unified = self.dirs().iter().find(|d| d.kind == Kind::V2);
        unified.or_else(|| self.dirs().first()).map(|d| d.path.as_path())
    }

    /// Sends a signal, by number, to every process in it.
    ///
    /// # Errors
    /// If the processes cannot be listed, or one of them cannot be signalled though it is there.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        let was_frozen = self.is_frozen()?;
        // Frozen, none of them forks away between the list and the signal. Without a freezer it is done as well
        // as it can be.
        let frozen = was_frozen || self.freeze(FREEZE).is_ok();
        let result = self.send(signal).map(drop);
        if frozen && !was_frozen {
            self.thaw()?;
        }
        result
    }

    /// Kills every process in it and waits for their end.
    ///
    /// # Errors
    /// [`Error::Deadline`] if some are left then; what kept them from being signalled.
    pub fn kill_all(&self, within: Duration) -> Result<(), Error> {
        let end = Instant::now() + within;
        if self.kill_unified(within)? {
            return Ok(());
        }
        loop {
            let frozen = self.freeze(FREEZE).is_ok();
            let processes = self.send(SIGKILL);
            if frozen || self.is_frozen()? {
                self.thaw()?;
            }
            let processes = processes?;
            if processes.is_empty() {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if !wait_ended(&processes, left) {
                let path = self.census().unwrap_or(Path::new("")).to_owned();
                return Err(Error::Deadline {
                    path,
                    state: "empty",
                    after: within,
                });
            }
        }
    }

    /// Kills by `cgroup.kill`; `false` if that is not there.
    fn kill_unified(&self, within: Duration) -> Result<bool, Error> {
        let Some(dir) = self.unified() else {
            return Ok(false);
        };
        if file::write_raw(&dir.path.join("cgroup.kill"), "1").is_err() {
            return Ok(false);
        }
        // A process that the freezer of version 1 holds does not see its end.
        if self.is_frozen()? {
            self.thaw()?;
        }
        match wait_event(&dir.path, "populated", 0, within) {
            Ok(true) => Ok(true),
            Ok(false) => Err(Error::Deadline {
                path: dir.path.clone(),
                state: "empty",
                after: within,
            }),
            Err(Error::Read { source, .. }) if is_gone(&source) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Signals every process and returns their pidfds; one that has just ended is left out.
    fn send(&self, signal: i32) -> Result<Vec<OwnedFd>, Error> {
        let mut processes = Vec::new();
        for pid in self.pids()? {
            let fail = |action, source: croze_sys::Error| Error::Process {
                action,
                pid,
                path: self.census().unwrap_or(Path::new("")).to_owned(),
                source: source.into(),
            };
            let process = match pidfd::open(pid) {
                Ok(process) => process,
                Err(error) if error.errno == Errno::SRCH => continue,
                Err(error) => return Err(fail("open", error)),
            };
            match pidfd::send_signal(&process, signal) {
                Ok(()) => processes.push(process),
                Err(error) if error.errno == Errno::SRCH => {}
                Err(error) => return Err(fail("signal", error)),
            }
        }
        Ok(processes)
    }

    /// Removes its directories and those that were made below them. A directory whose last process is still on
    /// its way out is tried again until the time is over. One that is not there is no error. All directories
    /// are tried before an error is returned.
    ///
    /// # Errors
    /// The first directory that could not be removed.
    pub fn remove(&self, within: Duration) -> Result<(), Error> {
        let end = Instant::now() + within;
        let mut first = Ok(());
        for dir in self.dirs() {
            let result = remove(&dir.path, dir.kind, end);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    let path = dir.join("cgroup.procs");
    match croze_sys::file::read_text(&path) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(e) if is_gone(&e) => return Ok(()),
        // A threaded cgroup of version 2 lists its processes in the one above it.
        Err(e) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
        Err(source) => return Err(Error::Read { path, source }),
    }
    for child in children(dir)? {
        collect(&child, pids)?;
    }
    Ok(())
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::Read {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Waits until every process has ended; `false` when the time is over first.
fn wait_ended(processes: &[OwnedFd], within: Duration) -> bool {
    let end = Instant::now() + within;
    processes.iter().all(|process| {
        let left = end.saturating_duration_since(Instant::now());
        // A pidfd that cannot be polled tells nothing; whoever asked looks at the cgroup again.
        pidfd::wait_ended(process, Some(left)).unwrap_or(true)
    })
}

fn remove(dir: &Path, kind: Kind, end: Instant) -> Result<(), Error> {
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if is_gone(&e) => return Ok(()),
            Err(e) => e,
        };
        if error.kind() != io::ErrorKind::ResourceBusy && error.kind() != io::ErrorKind::DirectoryNotEmpty {
            return Err(Error::Remove {
                path: dir.to_owned(),
                source: error,
            });
        }
        let below = children(dir)?;
        for child in &below {
            remove(child, kind, end)?;
        }
        if !below.is_empty() {
            continue;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Remove {
                path: dir.to_owned(),
                source: error,
            });
        }
        wait_empty(dir, kind, left)?;
    }
}

/// Waits for a reason to try again: the processes in a directory end.
fn wait_empty(dir: &Path, kind: Kind, within: Duration) -> Result<(), Error> {
    if kind == Kind::V2 && wait_event(dir, "populated", 0, within).is_ok_and(|empty| !empty) {
        return Ok(());
    }
    let mut pids = Vec::new();
    collect(dir, &mut pids)?;
    let processes: Vec<OwnedFd> = pids.iter().filter_map(|pid| pidfd::open(*pid).ok()).collect();
    wait_ended(&processes, within);
    // Between the end of the last process and the moment its cgroup counts as empty lies a short time for which
    // version 1 has no event.
    pause(Duration::from_millis(1).min(within));
    Ok(())
}
