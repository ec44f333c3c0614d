//! Ending what runs or waits to run, whatever its record says; and telling what could not be stored.
//!
//! The shim and the kernel are asked, never the record: a start may have succeeded although nobody could be told, and a shim that does not answer may
//! hold a living container. Nothing of a container is removed before its shim is known to be gone.

use std::time::Duration;

use croze_model::{ContainerId, ErrorKind};
use croze_proto::shim::{self as wire, Phase, request};
use tokio::time::timeout;

use crate::error::ContainersError;
use crate::launch;
use crate::link::{DialError, Link};
use crate::observe;
use crate::record::{Container, ExitStatus, ProcessIdentity, State, Transition};
use crate::service::{Containers, Result, exit_code_of, now, unknown_end, wrong_state};

/// From SIGKILL to the end of the shim: the limits of its draining, of the runtime's delete, and of its leaving.
const END_TIMEOUT: Duration = Duration::from_secs(45);
/// Pauses between two attempts to store a record: the first, and the longest.
const SAVE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// From a shim's last word to its end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

impl Containers {
    /// Sees to it that a container that does not run according to its record has no shim and no process any more: one that was never started is
    /// discarded, one that is about to leave is waited for.
    pub(crate) async fn put_away(&self, container: &Container) -> Result<()> {
        match self.put_away_shim(container).await {
            // It left while it was asked.
            Err(ContainersError::Shim { .. }) if self.shim_leaves(container).await => {
                self.put_away_orphan(container, None).await
            }
            other => other,
        }
    }

    /// Waits for a shim to be gone whose connection broke, as it does when the shim leaves or dies; false if it stays. One that is merely silent was
    /// waited for already.
    pub(crate) async fn shim_leaves(&self, container: &Container) -> bool {
        let (run_dir, id) = (self.run_dir(&container.id), container.id.clone());
        let shim = crate::service::blocking(move || Ok(observe::open_shim(&run_dir, &id))).await;
        if let Ok(Some(pidfd)) = shim
            && let Ok(pidfd) = observe::watched(pidfd)
            && timeout(LEAVE_TIMEOUT, pidfd.readable()).await.is_err()
        {
            return false;
        }
        self.shim_is_gone(container).await
    }

    /// Whether no shim is there (any more).
    async fn shim_is_gone(&self, container: &Container) -> bool {
        let run_dir = self.run_dir(&container.id);
        let dialled = Link::dial(&run_dir, container.name.as_str()).await;
        matches!(dialled, Err(DialError::Absent))
            && self
                .traces(container)
                .await
                .is_ok_and(|traces| !traces.shim_lives)
    }

    async fn put_away_shim(&self, container: &Container) -> Result<()> {
        let run_dir = self.run_dir(&container.id);
        let mut link = match Link::dial(&run_dir, container.name.as_str()).await {
            Ok(link) => link,
            Err(DialError::Absent) => return self.put_away_orphan(container, None).await,
            Err(error) => return Err(error.of(container.name.as_str())),
        };
        if link.status().await?.phase() == Phase::Created {
            let asked = link.ask(request::Body::Discard(wire::Discard {})).await;
            // Started or ended between the two questions.
            if let Err(error) = asked
                && link.status().await?.phase() == Phase::Created
            {
                return Err(error);
            }
        }
        if link.status().await.is_ok_and(|s| s.phase() == Phase::Running) {
            // A start that nobody recorded. From now on every verb sees that it runs.
            self.reconcile(container).await?;
            let advice = match container.state {
                State::Dead { .. } => "what it ran still runs: remove it by force",
                _ => "stop it first",
            };
            return Err(wrong_state(&self.get(&container.id)?, advice));
        }
        self.await_end(container, link, None).await
    }

    /// Kills what runs under a container whose record cannot be read: such a one is `Dead`, and yet its process may live. To be called before
    /// [`Containers::remove`] when the user insists.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`], [`ContainersError::StillRunning`], [`ContainersError::ShimSilent`] if the shim does not answer.
    pub async fn end_unrecorded(&self, id: &ContainerId) -> Result<()> {
        let container = self.get(id)?;
        match Link::dial(&self.run_dir(id), container.name.as_str()).await {
            Ok(mut link) => match link.status().await?.phase() {
                Phase::Running => {
                    let kill = wire::Signal {
                        number: SIGKILL,
                        exec_id: String::new(),
                    };
                    match link.ask(request::Body::Signal(kill)).await {
                        // It ended by itself.
                        Err(error) if !is_conflict(&error) => return Err(error),
                        _ => {}
                    }
                    self.await_end(&container, link, None).await
                }
                _ => Ok(()),
            },
            // What a dead shim left, the removal itself puts away.
            Err(DialError::Absent) => Ok(()),
            Err(error) => Err(error.of(container.name.as_str())),
        }
    }

    /// The shim is dead: what it left is the runtime's to delete, if there is anything. `known` is its first process where the caller knows that it had
    /// one: what the shim's note says may be lost.
    async fn put_away_orphan(&self, container: &Container, known: Option<&ProcessIdentity>) -> Result<()> {
        let traces = self.traces(container).await?;
        if traces.shim_lives {
            return Err(shim_trouble(container, "it lives, and its socket is gone".into()));
        }
        let processes: Vec<_> = traces.process.iter().chain(known).collect();
        if processes.is_empty() {
            return Ok(());
        }
        // First the runtime, which knows the cgroup: more may live in it than this one, and outlive it.
        launch::delete(&self.inner.settings, container.id.as_str()).await;
        for process in processes {
            end_process(container, process).await?;
        }
        Ok(())
    }

    /// Kills what a container runs and waits until nothing of it is left.
    async fn put_down(&self, container: &Container, process: &ProcessIdentity) -> Result<()> {
        match self.put_down_shim(container, process).await {
            // What it ran had ended by itself, and it left while it was asked; or it was killed, and only we know of the process.
            Err(ContainersError::Shim { .. }) if self.shim_leaves(container).await => {
                self.put_down_shim(container, process).await
            }
            other => other,
        }
    }

    async fn put_down_shim(&self, container: &Container, process: &ProcessIdentity) -> Result<()> {
        match Link::dial(&self.run_dir(&container.id), container.name.as_str()).await {
            Ok(mut link) => {
                let kill = wire::Signal {
                    number: SIGKILL,
                    exec_id: String::new(),
                };
                match link.ask(request::Body::Signal(kill)).await {
                    Ok(_) => {}
                    Err(error) if is_conflict(&error) => {}
                    Err(error) => return Err(error),
                }
                self.await_end(container, link, Some(process)).await
            }
            Err(DialError::Absent) => self.put_away_orphan(container, Some(process)).await,
            Err(error) => Err(error.of(container.name.as_str())),
        }
    }

    /// Waits for the end that the shim tells of, and for its own.
    async fn await_end(
        &self,
        container: &Container,
        mut link: Link,
        known: Option<&ProcessIdentity>,
    ) -> Result<()> {
        match timeout(END_TIMEOUT, link.wait_for_end()).await {
            Ok(Ok(_)) => Ok(()),
            // It left before it could answer, or it was killed.
            Ok(Err(error)) => match Link::dial(&self.run_dir(&container.id), container.name.as_str()).await {
                Err(DialError::Absent) => self.put_away_orphan(container, known).await,
                _ => Err(error),
            },
            Err(_) => Err(still_running(container)),
        }
    }

    /// A start did not end in a recorded `Running`, and perhaps the command was executed: ends it and records why. If even that is impossible it is
    /// `Running` from now on, so that it can be seen and stopped. Returns the error of the start.
    pub(crate) async fn abandon_start(
        &self,
        container: &Container,
        process: ProcessIdentity,
        error: ContainersError,
    ) -> ContainersError {
        let id = &container.id;
        self.inner.note_failed_start(id, Some(exit_code_of(&error)));
        let recorded = match self.put_down(container, &process).await {
            Ok(()) => self.record_failed_start(id, &error).await,
            Err(trouble) => {
                tracing::error!(container = id.short(), %trouble, "its start failed, and it cannot be ended");
                self.inner.note_failed_start(id, None);
                let changed = self
                    .change_live(id, move |container| {
                        container.state = container.state.after(Transition::Started { process })?;
                        container.started_at = Some(now());
                        Ok(())
                    })
                    .await;
                // Whoever watched it before may have seen its end already, and taken it for one that was never started.
                self.watch_end(id);
                changed
            }
        };
        if let Err(trouble) = recorded {
            tracing::error!(container = id.short(), %trouble, "its failed start is not in its record");
        }
        error
    }

    /// Records a start that failed; nothing of it is left.
    pub(crate) async fn record_failed_start(&self, id: &ContainerId, error: &ContainersError) -> Result<()> {
        let (code, words) = (exit_code_of(error), error.to_string());
        self.change_live(id, move |container| {
            let status = ExitStatus {
                code,
                unknown: false,
                ..unknown_end()
            };
            container.state = State::Exited { status };
            container.error = Some(words);
            Ok(())
        })
        .await
    }

    /// Makes a change that has happened already, whether it can be stored or not: it is in force at once, and stored as soon as the disk takes it. A
    /// crash in between loses nothing: the change is observed again.
    pub(crate) async fn change_live(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (inner, of) = (std::sync::Arc::clone(&self.inner), id.clone());
        let unsaved = crate::service::blocking(move || inner.change_live(&of, change)).await?;
        if let Some(error) = unsaved {
            tracing::error!(container = id.short(), %error, "its record cannot be stored; this is tried again");
            tokio::spawn(self.clone().save_again(id.clone()));
        }
        Ok(())
    }

    async fn save_again(self, id: ContainerId) {
        let (mut pause, longest) = SAVE_AGAIN;
        loop {
            tokio::time::sleep(pause).await;
            let (inner, of) = (std::sync::Arc::clone(&self.inner), id.clone());
            match crate::service::blocking(move || inner.save_again(&of)).await {
                // Stored, or it was removed.
                Ok(()) | Err(ContainersError::NotFound { .. }) => return,
                Err(_) => pause = (pause * 2).min(longest),
            }
        }
    }
}

/// Kills a process of a container if it lives, and waits for its end.
async fn end_process(container: &Container, process: &ProcessIdentity) -> Result<()> {
    if observe::signal(process, SIGKILL) && timeout(END_TIMEOUT, await_process(process)).await.is_err() {
        return Err(still_running(container));
    }
    Ok(())
}

/// Waits until a process has ended; one that is gone has.
pub(crate) async fn await_process(process: &ProcessIdentity) {
    let Some(pidfd) = observe::open_process(process) else {
        return;
    };
    if let Ok(pidfd) = observe::watched(pidfd) {
        // A pidfd becomes readable when its process ends.
        let _ended = pidfd.readable().await;
    }
}

/// The shim refuses because of the state that its container is in.
pub(crate) fn is_conflict(error: &ContainersError) -> bool {
    matches!(error, ContainersError::Runtime { kind, .. } if *kind == ErrorKind::Conflict)
}

fn shim_trouble(container: &Container, reason: String) -> ContainersError {
    ContainersError::Shim {
        name: container.name.to_string(),
        reason,
    }
}

fn still_running(container: &Container) -> ContainersError {
    ContainersError::StillRunning {
        name: container.name.to_string(),
        seconds: END_TIMEOUT.as_secs(),
    }
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
