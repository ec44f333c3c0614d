//! `pause` and `resume`: every process of a container frozen, and thawed again.

use std::time::Duration;

use croze_cgroups::Cgroup;

use super::Settings;
use super::state::{empty_record, find, status};
use crate::error::{Error, Result};
use crate::state::{Event, Status};

/// How long the kernel gets to freeze every process.
const FREEZE: Duration = Duration::from_secs(10);

/// Freezes a container.
///
/// # Errors
/// There is no such container, it does not run, or its processes cannot be frozen.
pub fn pause(settings: &Settings, id: &str) -> Result<()> {
    let locked = find(settings, id)?.lock()?;
    let mut record = locked
        .load()?
        .unwrap_or_else(|| empty_record(locked.entry().id()));
    match status(locked.entry(), &record)? {
        Status::Created | Status::Running => {}
        Status::Creating | Status::Paused | Status::Stopped => {
            return Err(Error::State {
                verb: "pause",
                id: id.to_owned(),
                reason: "container not running",
            });
        }
    }
    Cgroup::from_paths(&record.cgroup).freeze(FREEZE)?;
    record.state = record.state.next(Event::Paused)?;
    Ok(locked.save(&record)?)
}

/// Thaws a container.
///
/// # Errors
/// There is no such container, it is not paused, or the freezer cannot be written.
pub fn resume(settings: &Settings, id: &str) -> Result<()> {
    let locked = find(settings, id)?.lock()?;
    let mut record = locked
        .load()?
        .unwrap_or_else(|| empty_record(locked.entry().id()));
    if status(locked.entry(), &record)? != Status::Paused {
        return Err(Error::State {
            verb: "resume",
            id: id.to_owned(),
            reason: "container not paused",
        });
    }
    Cgroup::from_paths(&record.cgroup).thaw()?;
    // Frozen by someone else, its record never said so.
    if let Ok(next) = record.state.clone().next(Event::Resumed) {
        record.state = next;
        locked.save(&record)?;
    }
    Ok(())
}
