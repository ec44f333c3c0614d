//! Looking at processes and at what shims left; nothing here changes a record.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use croze_model::ContainerId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;

use crate::record::{Container, ExitStatus, ProcessIdentity, State};
use crate::spec;
use crate::spec::host::HostFacts;
use crate::types::{Inspection, Settings};

/// The exit record that a shim leaves; see the shim for who writes it when.
#[derive(Debug, Deserialize)]
struct ExitRecord {
    code: u32,
    signal: u32,
    oom_killed: bool,
    /// `None`: it was created and never started.
    started: Option<String>,
    finished: String,
    log_lines_dropped: u64,
    log_end: Option<u64>,
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastRun {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its command was executed.
    pub(crate) was_started: bool,
    /// When, RFC 3339, where its shim wrote it down.
    pub(crate) started_at: Option<String>,
}

/// The note that a shim keeps beside its socket while it lives.
#[derive(Debug, Deserialize)]
struct Note {
    pid: u32,
    start_ticks: u64,
    boot_id: String,
    shim_pid: u32,
}

/// The process of this number in the present boot.
pub(crate) fn identity(pid: u32, start_ticks: u64) -> ProcessIdentity {
    ProcessIdentity {
        pid,
        start_ticks,
        boot_id: boot_id(),
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Opens a process if it is the very one and lives.
pub(crate) fn open_process(process: &ProcessIdentity) -> Option<OwnedFd> {
    if process.boot_id != boot_id() {
        return None;
    }
    let pid = i32::try_from(process.pid).ok()?;
    // First the descriptor, then the comparison: so it cannot become another one in between.
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
    let (state, start_ticks) = stat(pid)?;
    (start_ticks == process.start_ticks && state != 'Z' && state != 'X').then_some(pidfd)
}

/// A namespace of a process (`pid`, `net`), if it is the very one and lives.
pub(crate) fn open_namespace(process: &ProcessIdentity, kind: &str) -> Option<fs::File> {
    let namespace = fs::File::open(format!("/proc/{}/ns/{kind}", process.pid)).ok()?;
    // It lives still: so its number was nobody else's when the namespace was opened.
    open_process(process).map(|_| namespace)
}

/// State and start time: fields 3 and 22 of `/proc/PID/stat`; the second may contain spaces and parentheses.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A descriptor whose readiness can be awaited.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the promise that it asks for"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Signals a process if it is the very one and lives.
pub(crate) fn signal(process: &ProcessIdentity, number: u32) -> bool {
    let number = i32::try_from(number).unwrap_or(0);
    open_process(process).is_some_and(|pidfd| croze_sys::pidfd::send_signal(&pidfd, number).is_ok())
}

/// How the last run ended, if its shim could say so.
pub(crate) fn exit_record(settings: &Settings, container: &Container) -> Option<LastRun> {
    let places = [
        settings.exit_path(&container.id),
        settings.bundle_path(&container.id).join("exit.json"),
    ];
    // A damaged one says nothing; the other may.
    let record: ExitRecord = places
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .find_map(|bytes| serde_json::from_slice(&bytes).ok())?;
    Some(LastRun {
        was_started: record.started.is_some(),
        started_at: record.started,
        status: ExitStatus {
            code: record.code,
            signal: (record.signal > 0).then_some(record.signal),
            oom_killed: record.oom_killed,
            finished_at: record.finished,
            log_lines_dropped: record.log_lines_dropped,
            log_end: record.log_end,
            unknown: false,
        },
    })
}

fn note(run_dir: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(run_dir.join("shim.json")).ok()?).ok()
}

/// The process that a dead shim has noted.
pub(crate) fn noted_process(run_dir: &Path) -> Option<ProcessIdentity> {
    let note = note(run_dir)?;
    Some(ProcessIdentity {
        pid: note.pid,
        start_ticks: note.start_ticks,
        boot_id: note.boot_id,
    })
}

/// The pid of the shim of a run directory.
pub(crate) fn shim_pid(run_dir: &Path) -> Option<u32> {
    note(run_dir).map(|note| note.shim_pid)
}

/// Whether the shim of a run directory lives, answering or not. Its number alone may be another process's by now; its argument is the container's id.
pub(crate) fn shim_lives(run_dir: &Path, id: &ContainerId) -> bool {
    let Some(note) = note(run_dir).filter(|note| note.boot_id == boot_id()) else {
        return false;
    };
    let dead = i32::try_from(note.shim_pid)
        .ok()
        .and_then(stat)
        .is_none_or(|(state, _)| state == 'Z' || state == 'X');
    let arguments = fs::read(format!("/proc/{}/cmdline", note.shim_pid)).unwrap_or_default();
    !dead
        && arguments
            .split(|byte| *byte == 0)
            .any(|word| word == id.as_str().as_bytes())
}

/// Opens the shim of a run directory if it lives, answering or not.
pub(crate) fn open_shim(run_dir: &Path, id: &ContainerId) -> Option<OwnedFd> {
    let pid = i32::try_from(shim_pid(run_dir)?).ok()?;
    // First the descriptor, then the look: so it cannot become another process in between.
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
    shim_lives(run_dir, id).then_some(pidfd)
}

/// Whether a shim, or the process that it held, lives over a run directory.
pub(crate) fn is_held(run_dir: &Path, id: &ContainerId) -> bool {
    shim_lives(run_dir, id) || noted_process(run_dir).is_some_and(|process| open_process(&process).is_some())
}

/// What the disk and the process table say of a container, without its shim. Blocks, perhaps for long: the run directory may be on an ordinary disk,
/// and `/proc/PID/cmdline` waits for the process's memory.
#[derive(Debug)]
pub(crate) struct Traces {
    /// What the exit record says.
    pub(crate) exit: Option<LastRun>,
    /// The process that its shim has noted, or the given one, if it lives.
    pub(crate) process: Option<ProcessIdentity>,
    /// Its shim lives, answering or not.
    pub(crate) shim_lives: bool,
    /// It has a bundle.
    pub(crate) bundle: bool,
}

impl Traces {
    /// Looks for all of them.
    pub(crate) fn observe(settings: &Settings, container: &Container) -> Self {
        let run_dir = settings.bundle_path(&container.id);
        let process = match &container.state {
            State::Running { process } => Some(process.clone()),
            _ => noted_process(&run_dir),
        };
        Self {
            exit: exit_record(settings, container),
            process: process.filter(|process| open_process(process).is_some()),
            shim_lives: shim_lives(&run_dir, &container.id),
            bundle: run_dir.join("config.json").exists(),
        }
    }
}

/// The process that is running this.
#[cfg(test)]
pub(crate) fn this_process() -> ProcessIdentity {
    process_of(std::process::id())
}

/// The process that has this number now.
#[cfg(test)]
pub(crate) fn process_of(pid: u32) -> ProcessIdentity {
    let (_, ticks) = stat(pid.cast_signed()).unwrap();
    identity(pid, ticks)
}

/// What the record and the host say about a container, without asking its shim.
pub(crate) fn inspection(settings: &Settings, container: Container) -> Inspection {
    let host = HostFacts::observe();
    let bundle_path = settings.bundle_path(&container.id);
    let stop_signal = spec::stop_signal_text(&container)
        .and_then(|text| spec::signal::parse(text).ok())
        .map_or_else(|| "SIGTERM".to_owned(), spec::signal::name);
    Inspection {
        pid: None,
        shim_pid: None,
        // The image was checked when the container was created; what cannot be computed any more is shown empty.
        args: spec::process::args(&container.request, &container.image).unwrap_or_default(),
        env: spec::process::configured_env(&container.request, &container.image),
        working_dir: spec::process::working_dir(&container.request, &container.image).unwrap_or_default(),
        user: spec::user_text(&container).to_owned(),
        hostname: spec::hostname(&container, &host).to_owned(),
        stop_signal,
        cgroup_view: spec::namespaces::cgroup_view(&container.request, &host),
        log_path: settings.log_path(&container.id),
        bundle_path,
        runtime: container
            .request
            .options
            .runtime
            .clone()
            .unwrap_or_else(|| settings.runtimes.default_name().to_owned()),
        log_lines_dropped: match &container.state {
            State::Exited { status } => status.log_lines_dropped,
            _ => 0,
        },
        container,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_process_is_opened() {
        let us = this_process();
        let ticks = us.start_ticks;
        assert!(open_process(&us).is_some());
        assert!(
            open_process(&ProcessIdentity {
                start_ticks: ticks + 1,
                ..us.clone()
            })
            .is_none()
        );
        assert!(
            open_process(&ProcessIdentity {
                boot_id: "another".into(),
                ..us.clone()
            })
            .is_none()
        );
        assert!(open_process(&ProcessIdentity { pid: u32::MAX, ..us }).is_none());
    }
}
