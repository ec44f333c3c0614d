//! `delete`: what is left of a container goes.
//!
//! | status | without `--force` | with it |
//! |---|---|---|
//! | creating (its creator is dead, or the lock could not be had) | removed | removed |
//! | created | init is killed, removed | the same |
//! | running, paused | refused | everything in its cgroup is killed, removed |
//! | stopped | removed | removed |
//! | no such id | an error | no error |
//!
//! In this order: processes, cgroup, poststop hooks, directory. The directory goes last, so that a `delete`
//! that was killed can be repeated. One that cannot be finished goes on as far as it can and reports the first
//! failure.

use std::time::Duration;

use croze_cgroups::Cgroup;

use super::Settings;
use super::scope;
use super::state::{empty_record, status};
use crate::error::{Error, Result, While};
use crate::hooks;
use crate::mounts::root::Root;
use crate::spec;
use crate::state::{Entry, Id, Identity, Locked, Record, State, Status, Store, StoreError};

/// How long killed processes get to end. The kernel may have a lot to take down with them.
const END: Duration = Duration::from_secs(10);
/// How long an empty cgroup gets to become removable.
const REMOVAL: Duration = Duration::from_secs(5);

/// What happens to a container that still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Force {
    /// It is not deleted.
    #[default]
    Refuse,
    /// It is killed and deleted; and one that does not exist is no error (`--force`).
    Kill,
}

/// The request of [`delete`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// The global settings.
    pub settings: Settings,
    /// The container's id.
    pub id: String,
    /// What happens if it runs.
    pub force: Force,
}

/// Deletes a container. Returns what went wrong without being an error: poststop hooks that failed.
///
/// # Errors
/// There is no such container, it runs and may not be killed, or something of it cannot be removed.
pub fn delete(request: &DeleteRequest) -> Result<Vec<hooks::HookError>> {
    let store = Store::new(&request.settings.root)?;
    let id = Id::parse(&request.id)?;
    match store.find(&id).and_then(|entry| lock(entry, request.force)) {
        Ok(locked) => locked_delete(locked, request.force),
        Err(StoreError::NotFound { .. }) if request.force == Force::Kill => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock. With force a creator that holds it is not waited for without end (one of its hooks may hang): its container is
/// killed, which makes it give up, and then it has a while to clean up.
fn lock(entry: Entry, force: Force) -> Result<Locked, StoreError> {
    if force == Force::Refuse {
        return entry.lock();
    }
    entry.lock_within(END + REMOVAL, |entry| {
        if let Ok(Some(record)) = entry.load()
            && record.state == State::Creating
        {
            // What is left then shows when the lock is had, or is said by the error that it was not.
            Cgroup::from_paths(&record.cgroup).kill_all(END).ok();
        }
    })
}

/// Deletes a container whose lock is held.
///
/// # Errors
/// As [`delete`].
pub fn locked_delete(locked: Locked, force: Force) -> Result<Vec<hooks::HookError>> {
    let record = match locked.load() {
        Ok(record) => record.unwrap_or_else(|| empty_record(locked.entry().id())),
        // A record that cannot be read must not keep a container from being deleted for good.
        Err(_) if force == Force::Kill => empty_record(locked.entry().id()),
        Err(error) => return Err(error.into()),
    };
    let refuse = |reason| {
        Err(Error::State {
            verb: "delete",
            id: record.id.clone(),
            reason,
        })
    };
    match (status(locked.entry(), &record)?, force) {
        (Status::Running, Force::Refuse) => return refuse("it is not stopped: running"),
        (Status::Paused, Force::Refuse) => return refuse("it is not stopped: paused"),
        _ => {}
    }
    end(&record)?;
    // A scope whose cgroup can be removed is forgotten by systemd without being told.
    let stopped = scope::stop(record.scope.as_ref());
    let cgroup = Cgroup::from_paths(&record.cgroup);
    cgroup
        .remove(REMOVAL)
        .map_err(|error| stopped.err().unwrap_or_else(|| error.into()))?;
    if let Some(rdt) = &record.intel_rdt {
        rdt.remove()?;
    }
    if record.shares_mounts {
        Root::detach(&record.rootfs)?;
    }
    let failed = poststop(&locked, &record);
    locked.remove()?;
    Ok(failed)
}

/// Kills what still runs, and waits for its end.
fn end(record: &Record) -> Result<()> {
    let init = record.state.init().map(Identity::pidfd).transpose()?.flatten();
    if let Some(process) = &init {
        match croze_sys::pidfd::send_signal(process, 9) {
            Ok(()) => {}
            Err(error) if error.errno == croze_sys::Errno::SRCH => {}
            error => error.while_doing(|| format!("kill the first process of container {}", record.id))?,
        }
    }
    let cgroup = Cgroup::from_paths(&record.cgroup);
    // Processes outlive the first one if they share a pid namespace with others, or if they are frozen.
    if init.is_some() || !cgroup.pids()?.is_empty() {
        cgroup.kill_all(END)?;
    }
    if let Some(process) = &init {
        let ended = croze_sys::pidfd::wait_ended(process, Some(END))
            .while_doing(|| format!("wait for the first process of container {}", record.id))?;
        if !ended {
            let reason = "its first process was killed but does not end";
            return Err(Error::State {
                verb: "delete",
                id: record.id.clone(),
                reason,
            });
        }
    }
    Ok(())
}

/// Runs the poststop hooks of the kept spec. Most containers have none: their spec is not parsed again for that.
fn poststop(locked: &Locked, record: &Record) -> Vec<hooks::HookError> {
    let Ok(Some(raw)) = locked.entry().load_config() else {
        return Vec::new();
    };
    let word = b"\"poststop\"";
    if !raw.windows(word.len()).any(|window| window == word) {
        return Vec::new();
    }
    match spec::parse(&raw, "config.json") {
        Ok((spec, _)) => hooks::poststop(spec.hooks().as_ref(), record),
        // It was parsed when the container was made.
        Err(_) => Vec::new(),
    }
}
