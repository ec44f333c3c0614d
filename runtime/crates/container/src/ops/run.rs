//! `run`: created and started in one call, and waited for unless it is detached.

use std::os::fd::{AsFd, OwnedFd};

use croze_sys::pidfd::{self, Exit};
use croze_sys::signal::SignalFd;

use super::create::{self, Built, Starter};
use super::delete::{Force, locked_delete};
use super::start::run_poststart;
use super::{Attachment, Reaping, Retention, RunRequest, Warn};
use crate::console::Foreground;
use crate::error::{Result, While, chain};
use crate::notify::Relay;
use crate::process::parent::Child;
use crate::state::{Event, Id, Locked, Store};

/// Runs a container. In the foreground the result is the process's exit code, or 128 and the signal that killed it; detached it is 0.
///
/// # Errors
/// As `create` and `start`. If the container could not be started nothing of it is left.
pub fn run(request: &RunRequest, warn: Warn<'_>) -> Result<i32> {
    let action = || "take signals for the container".to_owned();
    let foreground = request.attachment == Attachment::Foreground;
    // Before anything is made: from here on a signal is for the container, or waits for it.
    let signals = foreground.then(SignalFd::all).transpose().while_doing(action)?;
    if foreground && request.reaping == Reaping::Subreaper {
        croze_sys::process::set_child_subreaper(true)
            .while_doing(|| "become the reaper of orphans".to_owned())?;
    }
    let mut built = create::build(&request.create, request.attachment, Starter::Own, warn)?;
    let manager = built.manager.take();
    let started = Relay::open(built.locked.path(), manager)
        .and_then(|readiness| start(&mut built, request).map(|()| readiness));
    let readiness = match started {
        Ok(readiness) => readiness,
        Err(error) => return Err(built.undo(error)),
    };
    let master = built.master.take();
    let Built { child, locked, .. } = built;
    // While it runs other calls may want the lock.
    drop(locked);
    let Some(signals) = signals else {
        if let Some(relay) = readiness {
            relay.until_ready(child.pidfd.as_fd(), child.pid)?;
        }
        return Ok(0);
    };
    let exit = Waiting {
        child: &child,
        signals: &signals,
        master,
        readiness,
        warn,
    }
    .wait()?;
    if request.retention == Retention::Delete {
        delete(request, warn)?;
    }
    Ok(exit.as_code())
}

fn start(built: &mut Built, request: &RunRequest) -> Result<()> {
    let init = crate::state::Identity::of(built.child.pid)?;
    built.record.state = built
        .record
        .state
        .clone()
        .next(Event::Launched { init })?
        .next(Event::Started)?;
    built.locked.save(&built.record)?;
    create::tell_caller(
        &built.child,
        request.create.pidfd_socket.as_deref(),
        request.create.pid_file.as_deref(),
    )?;
    built.child.start()?;
    run_poststart(&built.spec, &built.record)
}

/// A process that is waited for in the foreground.
pub(super) struct Waiting<'a> {
    pub(super) child: &'a Child,
    /// What goes on to it.
    pub(super) signals: &'a SignalFd,
    /// The master of its terminal, if it is relayed.
    pub(super) master: Option<OwnedFd>,
    /// Who is told that it is ready.
    pub(super) readiness: Option<Relay>,
    pub(super) warn: Warn<'a>,
}

impl Waiting<'_> {
    /// Waits, and reaps it.
    pub(super) fn wait(self) -> Result<Exit> {
        let child = self.child;
        Foreground {
            pidfd: &child.pidfd,
            pid: child.pid,
            signals: self.signals,
            master: self.master,
            readiness: self.readiness,
            warn: self.warn,
        }
        .wait()?;
        pidfd::reap(&child.pidfd).while_doing(|| format!("reap process {}", child.pid))
    }
}

fn delete(request: &RunRequest, warn: Warn<'_>) -> Result<()> {
    let id = Id::parse(&request.create.id)?;
    let locked: Locked = match Store::new(&request.create.settings.root)?
        .find(&id)
        .and_then(crate::state::Entry::lock)
    {
        Ok(locked) => locked,
        // Somebody else has deleted it already.
        Err(crate::state::StoreError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // The container is gone: a poststop hook that failed is told, and no error (runtime.md, Lifecycle).
    for failed in locked_delete(locked, Force::Kill)? {
        warn(&chain(&failed));
    }
    Ok(())
}
