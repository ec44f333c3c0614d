//! `events`: what a container uses, now and then; and that it has run out of memory.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use croze_cgroups::{Cgroup, OomWatch, Usage};
use croze_sys::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Settings;
use super::state::{find, status};
use crate::error::{Error, Result, While};
use crate::state::{Entry, Identity, Record, Status};

/// One thing that is told of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What it uses.
    Usage(Box<Usage>),
    /// Its memory has run out, and the kernel has killed something.
    Oom,
}

/// What a container uses now.
///
/// # Errors
/// There is no such container, or it has stopped.
pub fn usage(settings: &Settings, id: &str) -> Result<Usage> {
    let (_, record) = running(settings, id)?;
    Ok(Cgroup::from_paths(&record.cgroup).usage())
}

/// The longest interval; it is as long as Go's durations are, and no clock comes to its end within it.
const LONGEST: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// Tells what a container uses every `interval`, and every OOM at once, until it has ended or `tell` wants no more.
///
/// # Errors
/// There is no such container, it has stopped already, or it cannot be watched.
pub fn watch(
    settings: &Settings,
    id: &str,
    interval: Duration,
    tell: &mut dyn FnMut(Notice) -> ControlFlow<()>,
) -> Result<()> {
    let (_, record) = running(settings, id)?;
    let Some(init) = record.state.init().map(Identity::pidfd).transpose()?.flatten() else {
        return Ok(());
    };
    let cgroup = Cgroup::from_paths(&record.cgroup);
    // Without a memory controller there is no OOM of its own to hear of.
    let mut oom = OomWatch::new(&cgroup).ok();
    let interval = interval.min(LONGEST);
    let mut due = Instant::now() + interval;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&init, PollFlags::IN)];
        fds.extend(oom.as_ref().map(|oom| PollFd::new(oom, PollFlags::IN)));
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).while_doing(|| "wait for events".to_owned()),
        }
        let ended = !fds[0].revents().is_empty();
        let has_oom = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if has_oom
            && oom.as_mut().map(OomWatch::take).transpose()? == Some(true)
            && tell(Notice::Oom).is_break()
        {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            if tell(Notice::Usage(Box::new(cgroup.usage()))).is_break() {
                return Ok(());
            }
        }
    }
}

fn running(settings: &Settings, id: &str) -> Result<(Entry, Record)> {
    let entry = find(settings, id)?;
    let not_running = || Error::State {
        verb: "watch",
        id: id.to_owned(),
        reason: "container not running",
    };
    let record = entry.load()?.ok_or_else(not_running)?;
    match status(&entry, &record)? {
        Status::Creating | Status::Stopped => Err(not_running()),
        Status::Created | Status::Running | Status::Paused => Ok((entry, record)),
    }
}

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
