//! Bringing records and reality together, at the daemon's start and whenever a container ends.
//!
//! ```text
//!   observe (one container, a time budget)        plan (pure)                      execute
//!     shim: answers | silent | absent       ──▶   Watch, Began, Adopt, Ended, ──▶  transitions, a watcher per container
//!     exit record, process alive                  Lost, Sweep, Nothing
//! ```
//!
//! The watcher of a container waits on its shim's socket; when that breaks it observes and plans again. So the same rules hold while the
//! daemon lives and after it was away. One container that cannot be looked at is reported and stops nobody.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use croze_model::ContainerId;
use croze_proto::shim::Phase;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ending::await_process;
use crate::error::ContainersError;
use crate::launch;
use crate::link::{self, DialError, Link};
use crate::observe::{self, LastRun, Traces};
use crate::record::{Container, ExitStatus, ProcessIdentity, State, Transition};
use crate::service::{Containers, Result, blocking, now, unknown_end};
use crate::types::{Event, RecoveryReport};

/// How long one container may take at the daemon's start.
const BUDGET: Duration = Duration::from_secs(15);
/// How many are looked at side by side: after a crash of the host each may need a call of the runtime.
const LOOKS: usize = 16;
/// Pauses between two looks at a shim that does not answer: the first, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a shim says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ShimState {
    /// It answers.
    Answers {
        phase: Phase,
        process: ProcessIdentity,
        started_at: Option<String>,
        /// The runtime's start is at work, for a daemon that is gone.
        starting: bool,
    },
    /// It is there and does not answer.
    Silent(String),
    /// There is none.
    Absent,
}

/// Everything that the decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Observed {
    shim: ShimState,
    /// What the exit record says.
    exit: Option<LastRun>,
    /// The first process, if it lives without a shim.
    orphan: Option<ProcessIdentity>,
    /// Something is in its run directory.
    leftovers: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// All is as recorded and somebody must wait for its end.
    Watch,
    /// It is being started: how that ends must be seen, and its end.
    Follow,
    /// It was started and that was not recorded; then watch.
    Began(ProcessIdentity, Option<String>),
    /// Its shim is dead and it lives: wait for the process itself.
    Adopt(ProcessIdentity),
    /// It ended and the shim says how.
    Ended(LastRun),
    /// It had ended before, and a further run of it began and ended without being recorded.
    RanAgain(LastRun),
    /// It ended and nobody knows how.
    Lost,
    /// It does not run, but something of it is left in the runtime.
    Sweep,
    /// It cannot be looked at now.
    Unclear(String),
    /// All is as recorded.
    Nothing,
}

/// Decides; pure.
fn plan(state: &State, observed: &Observed) -> Action {
    match (&observed.shim, state) {
        (ShimState::Silent(reason), _) => Action::Unclear(reason.clone()),
        (
            ShimState::Answers {
                phase: Phase::Running,
                process,
                started_at,
                ..
            },
            State::Created | State::Exited { .. },
        ) => Action::Began(process.clone(), started_at.clone()),
        (ShimState::Answers { starting: true, .. }, State::Created | State::Exited { .. }) => Action::Follow,
        (ShimState::Answers { .. }, _) => Action::Watch,
        (ShimState::Absent, State::Running { .. }) => match (&observed.exit, &observed.orphan) {
            (Some(last), _) => Action::Ended(last.clone()),
            (None, Some(process)) => Action::Adopt(process.clone()),
            (None, None) => Action::Lost,
        },
        // It was started, ran and ended between the request and the record.
        (ShimState::Absent, State::Created) => match &observed.exit {
            Some(last) if last.was_started => Action::Ended(last.clone()),
            // Prepared at most.
            _ if observed.leftovers => Action::Sweep,
            _ => Action::Nothing,
        },
        (ShimState::Absent, State::Exited { .. } | State::Dead { .. }) if observed.orphan.is_some() => {
            Action::Sweep
        }
        (ShimState::Absent, State::Exited { status }) => match &observed.exit {
            // The record of a failed start is later than what its shim wrote.
            Some(last) if last.was_started && is_later(&last.status.finished_at, &status.finished_at) => {
                Action::RanAgain(last.clone())
            }
            _ => Action::Nothing,
        },
        (ShimState::Absent, State::Dead { .. }) => Action::Nothing,
    }
}

/// Whether one time (RFC 3339) comes after another; what cannot be read does not.
fn is_later(one: &str, other: &str) -> bool {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    matches!((time(one), time(other)), (Some(one), Some(other)) if one > other)
}

impl Containers {
    /// Brings records and reality together after a start of the daemon. One bad container never fails it. `lock` gives what keeps the verbs of one
    /// container away; it is held while that one is looked at and what follows is done, and with it the record is read again.
    ///
    /// # Errors
    ///
    /// None so far: what goes wrong is in the report.
    pub async fn recover<L, F>(&self, lock: L) -> Result<RecoveryReport>
    where
        L: Fn(ContainerId) -> F,
        F: Future<Output: Send> + Send + 'static,
    {
        let mut report = RecoveryReport::default();
        let mut looks = JoinSet::new();
        let mut ids = HashMap::new();
        let side_by_side = Arc::new(Semaphore::new(LOOKS));
        for container in self.list() {
            let id = container.id;
            let look = self
                .clone()
                .look(id.clone(), lock(id.clone()), Arc::clone(&side_by_side));
            ids.insert(looks.spawn(look).id(), id);
        }
        while let Some(look) = looks.join_next_with_id().await {
            let (task, result) = match look {
                Ok((task, result)) => (task, result),
                Err(panic) => (panic.id(), Err(format!("the look was interrupted: {panic}"))),
            };
            let Some(id) = ids.remove(&task) else { continue };
            match result {
                Ok(Action::Watch | Action::Began(..) | Action::Adopt(_)) => report.running.push(id),
                Ok(Action::Ended(_) | Action::RanAgain(_) | Action::Lost) => report.ended.push(id),
                // What is being started counts when it runs.
                Ok(Action::Follow | Action::Sweep | Action::Nothing) => {}
                Ok(Action::Unclear(reason)) | Err(reason) => {
                    // It may come to itself: then its end is seen.
                    self.watch_end(&id);
                    report.failed.push((id, reason));
                }
            }
        }
        Ok(report)
    }

    /// Looks after one container; what takes longer than its budget is waited for no more, and comes to its end under the lock all the same.
    async fn look(
        self,
        id: ContainerId,
        lock: impl Future<Output: Send> + Send + 'static,
        side_by_side: Arc<Semaphore>,
    ) -> Result<Action, String> {
        let locked = lock.await;
        // It is never closed.
        let _permit = side_by_side.acquire().await;
        let look = tokio::spawn(async move {
            let _locked = locked;
            match self.get(&id) {
                Ok(container) => self.look_after(&container).await,
                // Its user removed it while others were looked at.
                Err(_) => Ok(Action::Nothing),
            }
        });
        match timeout(BUDGET, look).await {
            Ok(Ok(result)) => result.map_err(|error| error.to_string()),
            Ok(Err(panic)) => Err(format!("the look was interrupted: {panic}")),
            Err(_) => Err(format!("it took longer than {} s", BUDGET.as_secs())),
        }
    }

    pub(crate) async fn reconcile(&self, container: &Container) -> Result<()> {
        self.look_after(container).await.map(|_| ())
    }

    async fn look_after(&self, container: &Container) -> Result<Action> {
        let run = self.inner.run(&container.id).unwrap_or_default();
        let observed = self.observe(container).await?;
        let action = plan(&container.state, &observed);
        self.execute(container, run, &action).await?;
        Ok(action)
    }

    /// What the disk and the process table say, looked up where nobody waits for it.
    pub(crate) async fn traces(&self, container: &Container) -> Result<Traces> {
        let (inner, container) = (Arc::clone(&self.inner), container.clone());
        blocking(move || Ok(Traces::observe(&inner.settings, &container))).await
    }

    async fn observe(&self, container: &Container) -> Result<Observed> {
        let dialled = Link::dial(&self.run_dir(&container.id), container.name.as_str()).await;
        let shim = match dialled {
            Ok(mut shim) => match shim.status().await {
                Ok(status) => Some(ShimState::Answers {
                    phase: status.phase(),
                    process: observe::identity(status.pid, status.pid_start_ticks),
                    starting: status.starting,
                    started_at: (status.started_unix_nanos > 0)
                        .then(|| link::rfc3339(status.started_unix_nanos)),
                }),
                Err(error) => Some(ShimState::Silent(error.to_string())),
            },
            Err(DialError::Absent) => None,
            Err(error) => Some(ShimState::Silent(error.to_string())),
        };
        let traces = self.traces(container).await?;
        let without_socket = match traces.shim_lives {
            true => ShimState::Silent("it lives, and its socket is gone".into()),
            false => ShimState::Absent,
        };
        Ok(Observed {
            shim: shim.unwrap_or(without_socket),
            exit: traces.exit,
            orphan: traces.process,
            leftovers: traces.bundle,
        })
    }

    async fn execute(&self, container: &Container, run: u64, action: &Action) -> Result<()> {
        let id = &container.id;
        match action {
            Action::Watch | Action::Adopt(_) => self.watch_end(id),
            Action::Follow => {
                self.watch_end(id);
                self.follow_start(id);
            }
            Action::Began(process, started_at) => {
                let (process, started_at) = (process.clone(), started_at.clone());
                self.change_live(id, move |container| {
                    container.state = container.state.after(Transition::Started { process })?;
                    container.started_at = Some(started_at.unwrap_or_else(now));
                    Ok(())
                })
                .await?;
                self.watch_end(id);
            }
            Action::Ended(last) => {
                launch::delete(&self.inner.settings, id.as_str()).await;
                self.ended(id, run, last.clone()).await?;
            }
            Action::RanAgain(last) => {
                let last = last.clone();
                let status = last.status.clone();
                self.change_live(id, move |container| {
                    container.state = container
                        .state
                        .after(Transition::RanAgain { status: last.status })?;
                    container.started_at = last.started_at;
                    container.error = None;
                    Ok(())
                })
                .await?;
                self.tell_exited(container, status);
            }
            Action::Lost => {
                launch::delete(&self.inner.settings, id.as_str()).await;
                let last = LastRun {
                    status: unknown_end(),
                    was_started: true,
                    started_at: None,
                };
                self.ended(id, run, last).await?;
            }
            Action::Sweep => launch::delete(&self.inner.settings, id.as_str()).await,
            Action::Unclear(_) | Action::Nothing => {}
        }
        Ok(())
    }

    /// Waits in the background for the end of a start that a former daemon asked for, and records what came of it. One that failed ends like
    /// any other run: its watcher hears of it.
    fn follow_start(&self, id: &ContainerId) {
        let (containers, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let Ok(container) = containers.get(&id) else {
                return;
            };
            let seen = match Link::dial(&containers.run_dir(&id), container.name.as_str()).await {
                Ok(mut link) => link.wait_for_start().await.map_err(|e| e.to_string()),
                // Its end has been seen.
                Err(DialError::Absent) => return,
                Err(error) => Err(error.to_string()),
            };
            let Ok(container) = containers.get(&id) else {
                return;
            };
            let recorded = containers
                .record_start(&container)
                .await
                .map_err(|e| e.to_string());
            if let Err(error) = seen.and(recorded) {
                tracing::error!(
                    container = id.short(),
                    error,
                    "it cannot be seen whether it was started"
                );
            }
        });
    }

    /// Records a start that the shim knows of and the record does not.
    async fn record_start(&self, container: &Container) -> Result<()> {
        let run = self.inner.run(&container.id).unwrap_or_default();
        let observed = self.observe(container).await?;
        match plan(&container.state, &observed) {
            action @ Action::Began(..) => self.execute(container, run, &action).await,
            // It failed or is over: the watcher's part.
            _ => Ok(()),
        }
    }

    /// Waits for the end of the present run in the background, unless somebody does already.
    pub(crate) fn watch_end(&self, id: &ContainerId) {
        let Some(run) = self.inner.begin_watch(id) else {
            return;
        };
        let (containers, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let last = containers.see_end(&id).await;
            let failed_start = containers.inner.end_watch(&id, run);
            let Some(mut last) = last else {
                return;
            };
            match failed_start {
                Some(code) => last.status.code = code,
                // Discarded: it is what it was before it was prepared. What is on record as running was not.
                None if !last.was_started && !containers.is_running(&id) => {
                    containers.tell(Event::TakenBack { id });
                    return;
                }
                None => {}
            }
            match containers.ended(&id, run, last).await {
                // It was removed while it ended.
                Ok(()) | Err(ContainersError::NotFound { .. }) => {}
                Err(error) => tracing::error!(container = id.short(), %error, "an end cannot be recorded"),
            }
        });
    }

    fn is_running(&self, id: &ContainerId) -> bool {
        self.get(id).is_ok_and(|container| container.state.is_running())
    }

    /// Waits on the shim for as long as that lives, answering or not; after it on the process. `None` if the container is gone meanwhile.
    ///
    /// Only a dead shim's container is deleted from here, and what its exit record says comes before all guesses.
    async fn see_end(&self, id: &ContainerId) -> Option<LastRun> {
        let run_dir = self.run_dir(id);
        let (mut pause, longest) = LOOK_AGAIN;
        loop {
            let container = self.get(id).ok()?;
            match Link::dial(&run_dir, container.name.as_str()).await {
                Ok(mut link) => {
                    if let Ok(exit) = link.wait_for_end().await {
                        let traces = self.traces(&container).await.ok();
                        return Some(traces.and_then(|traces| traces.exit).unwrap_or_else(|| LastRun {
                            status: link::convert_exit(&exit),
                            was_started: true,
                            started_at: None,
                        }));
                    }
                }
                Err(DialError::Absent) => {
                    if self
                        .traces(&container)
                        .await
                        .is_ok_and(|traces| !traces.shim_lives)
                    {
                        break;
                    }
                }
                Err(reason) => {
                    tracing::warn!(
                        container = id.short(),
                        %reason,
                        "its shim does not answer; this is tried again"
                    );
                }
            }
            // A connection that broke, or a shim that is stuck in a write: its end is not the container's.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        // The record may have become Running since.
        let container = self.get(id).ok()?;
        let observed = self.observe(&container).await.ok()?;
        if let Some(process) = observed.orphan {
            tracing::warn!(
                container = id.short(),
                "its shim died; its output is lost, its end will be seen"
            );
            await_process(&process).await;
        }
        if let Some(last) = self.traces(&container).await.ok()?.exit {
            return Some(last);
        }
        launch::delete(&self.inner.settings, id.as_str()).await;
        // Without a record of its start it was prepared at most: a shim whose runtime failed leaves no exit record.
        let was_started = container.state.is_running();
        Some(LastRun {
            status: unknown_end(),
            was_started,
            started_at: None,
        })
    }

    /// Records the end of a run, once its start is recorded; in force even if it cannot be stored. That of an earlier run changes nothing, and that of
    /// one is told once.
    async fn ended(&self, id: &ContainerId, run: u64, last: LastRun) -> Result<()> {
        let starting = self.inner.starting(id)?;
        let _after_the_start = starting.lock().await;
        if self.inner.run(id) != Some(run) {
            return Ok(());
        }
        let status = last.status.clone();
        // The record of a dead one cannot be read, and what is in its file is not ours to replace. That it has ended is heard all the same, so that
        // its root file system is unmounted and its network let go.
        if !matches!(self.get(id)?.state, State::Dead { .. }) {
            self.change_live(id, move |container| {
                container.state = container.state.after(Transition::Ended { status: last.status })?;
                if container.started_at.is_none() {
                    container.started_at = last.started_at;
                }
                Ok(())
            })
            .await?;
        }
        // Two may have watched the run: one from its preparation, and one since its start was given up.
        if self.inner.first_end(id, run) {
            self.tell_exited(&self.get(id)?, status);
        }
        Ok(())
    }

    fn tell_exited(&self, container: &Container, status: ExitStatus) {
        self.tell(Event::Exited {
            id: container.id.clone(),
            status,
            auto_remove: container.request.auto_remove,
        });
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
