//! `kill`: a signal for a container.
//!
//! The signal goes to the first process, by a pidfd whose identity was checked: a pid that was reused is never
//! hit. No lock is taken, so that a container can be killed while something else waits on it.

use croze_cgroups::Cgroup;

use super::Settings;
use super::state::{empty_record, find, leads_its_pid_namespace};
use crate::error::{Error, Result, While};

/// SIGKILL, the same number on every architecture.
const SIGKILL: i32 = 9;

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// The first process.
    #[default]
    Init,
    /// Every process of the container, and it is no error if there is none (`--all`).
    All,
}

/// The request of [`kill`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillRequest {
    /// The global settings.
    pub settings: Settings,
    /// The container's id.
    pub id: String,
    /// The signal's number.
    pub signal: i32,
    /// Whom it is for.
    pub reach: Reach,
}

/// Sends a signal.
///
/// # Errors
/// There is no such container, it does not run, or the signal cannot be sent.
pub fn kill(request: &KillRequest) -> Result<()> {
    let entry = find(&request.settings, &request.id)?;
    let record = entry.load()?.unwrap_or_else(|| empty_record(entry.id()));
    let cgroup = Cgroup::from_paths(&record.cgroup);
    if request.reach == Reach::All {
        cgroup.signal_all(request.signal)?;
        return thaw_killed(&cgroup, request.signal);
    }
    let not_running = || Error::State {
        verb: "kill",
        id: request.id.clone(),
        reason: "container not running",
    };
    let init = record.state.init().ok_or_else(not_running)?;
    let process = init.pidfd()?.ok_or_else(not_running)?;
    // Nobody ends the others with it if they share the pid namespace with someone else.
    let all = request.signal == SIGKILL && !leads_its_pid_namespace(init.pid);
    if all {
        cgroup.signal_all(SIGKILL)?;
    }
    match croze_sys::pidfd::send_signal(&process, request.signal) {
        Ok(()) => {}
        // It was among those that were just killed, and has been reaped since.
        Err(error) if all && error.errno == croze_sys::Errno::SRCH => {}
        Err(error) if error.errno == croze_sys::Errno::SRCH => return Err(not_running()),
        error => error.while_doing(|| format!("send signal {} to process {}", request.signal, init.pid))?,
    }
    thaw_killed(&cgroup, request.signal)
}

/// A process frozen by version 1 ends only when it is thawed.
fn thaw_killed(cgroup: &Cgroup, signal: i32) -> Result<()> {
    if signal == SIGKILL && cgroup.is_frozen()? {
        cgroup.thaw()?;
    }
    Ok(())
}
