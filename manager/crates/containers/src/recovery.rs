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

use std::time::Duration;

use croze_model::ContainerId;
use croze_proto::shim::Phase;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::ending::await_process;
use crate::error::ContainersError;
use crate::launch;
use crate::link::{self, DialError, Link};
use crate::observe::{self, LastRun};
use crate::record::{Container, ExitStatus, ProcessIdentity, State, Transition};
use crate::service::{Containers, Result, now, unknown_end};
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
    /// It was started and that was not recorded; then watch.
    Began(ProcessIdentity, Option<String>),
    /// Its shim is dead and it lives: wait for the process itself.
    Adopt(ProcessIdentity),
    /// It ended and the shim says how.
    Ended(ExitStatus),
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
            },
            State::Created | State::Exited { .. },
        ) => Action::Began(process.clone(), started_at.clone()),
        (ShimState::Answers { .. }, _) => Action::Watch,
        (ShimState::Absent, State::Running { .. }) => match (&observed.exit, &observed.orphan) {
            (Some(last), _) => Action::Ended(last.status.clone()),
            (None, Some(process)) => Action::Adopt(process.clone()),
            (None, None) => Action::Lost,
        },
        // It was started, ran and ended between the request and the record.
        (ShimState::Absent, State::Created) => match &observed.exit {
            Some(last) if last.was_started => Action::Ended(last.status.clone()),
            // Prepared at most.
            _ if observed.leftovers => Action::Sweep,
            _ => Action::Nothing,
        },
        (ShimState::Absent, State::Exited { .. } | State::Dead { .. }) if observed.orphan.is_some() => {
            Action::Sweep
        }
        (ShimState::Absent, State::Exited { .. } | State::Dead { .. }) => Action::Nothing,
    }
}

impl Containers {
    /// Brings records and reality together after a start of the daemon. One bad container never fails it.
    ///
    /// # Errors
    ///
    /// None so far: what goes wrong is in the report.
    pub async fn recover(&self) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let mut looks = tokio::task::JoinSet::new();
        let side_by_side = std::sync::Arc::new(Semaphore::new(LOOKS));
        for container in self.list() {
            let (containers, side_by_side) = (self.clone(), std::sync::Arc::clone(&side_by_side));
            looks.spawn(async move {
                // It is never closed.
                let _permit = side_by_side.acquire().await;
                let id = container.id.clone();
                match timeout(BUDGET, containers.look_after(&container)).await {
                    Ok(result) => (id, result.map_err(|e| e.to_string())),
                    Err(_) => (id, Err(format!("it took longer than {} s", BUDGET.as_secs()))),
                }
            });
        }
        while let Some(look) = looks.join_next().await {
            let Ok((id, result)) = look else { continue };
            match result {
                Ok(Action::Watch | Action::Began(..) | Action::Adopt(_)) => report.running.push(id),
                Ok(Action::Ended(_) | Action::Lost) => report.ended.push(id),
                Ok(Action::Sweep | Action::Nothing) => {}
                Ok(Action::Unclear(reason)) | Err(reason) => {
                    // It may come to itself: then its end is seen.
                    self.watch_end(&id);
                    report.failed.push((id, reason));
                }
            }
        }
        Ok(report)
    }

    pub(crate) async fn reconcile(&self, container: &Container) -> Result<()> {
        self.look_after(container).await.map(|_| ())
    }

    async fn look_after(&self, container: &Container) -> Result<Action> {
        let run = self.inner.run(&container.id).unwrap_or_default();
        let observed = self.observe(container).await;
        let action = plan(&container.state, &observed);
        self.execute(container, run, &action).await?;
        Ok(action)
    }

    async fn observe(&self, container: &Container) -> Observed {
        let run_dir = self.run_dir(&container.id);
        let shim = match Link::dial(&run_dir, container.name.as_str()).await {
            Ok(mut shim) => match shim.status().await {
                Ok(status) => ShimState::Answers {
                    phase: status.phase(),
                    process: observe::identity(status.pid, status.pid_start_ticks),
                    started_at: (status.started_unix_nanos > 0)
                        .then(|| link::rfc3339(status.started_unix_nanos)),
                },
                Err(error) => ShimState::Silent(error.to_string()),
            },
            Err(DialError::Absent) if observe::shim_lives(&run_dir, &container.id) => {
                ShimState::Silent("it lives, and its socket is gone".into())
            }
            Err(DialError::Absent) => ShimState::Absent,
            Err(DialError::Unusable(reason)) => ShimState::Silent(reason),
        };
        let recorded = match &container.state {
            State::Running { process } => Some(process.clone()),
            _ => observe::noted_process(&run_dir),
        };
        Observed {
            shim,
            exit: observe::exit_record(&self.inner.settings, container),
            orphan: recorded.filter(|process| observe::open_process(process).is_some()),
            leftovers: run_dir.join("config.json").exists(),
        }
    }

    async fn execute(&self, container: &Container, run: u64, action: &Action) -> Result<()> {
        let id = &container.id;
        match action {
            Action::Watch | Action::Adopt(_) => self.watch_end(id),
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
            Action::Ended(status) => {
                launch::delete(&self.inner.settings, id.as_str()).await;
                self.ended(id, run, status.clone()).await?;
            }
            Action::Lost => {
                launch::delete(&self.inner.settings, id.as_str()).await;
                self.ended(id, run, unknown_end()).await?;
            }
            Action::Sweep => launch::delete(&self.inner.settings, id.as_str()).await,
            Action::Unclear(_) | Action::Nothing => {}
        }
        Ok(())
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
            let Some(LastRun {
                mut status,
                was_started,
            }) = last
            else {
                return;
            };
            match failed_start {
                Some(code) => status.code = code,
                // Discarded: it is what it was before it was prepared.
                None if !was_started => {
                    containers.tell(Event::TakenBack { id });
                    return;
                }
                None => {}
            }
            match containers.ended(&id, run, status).await {
                // It was removed while it ended.
                Ok(()) | Err(ContainersError::NotFound { .. }) => {}
                Err(error) => tracing::error!(container = id.short(), %error, "an end cannot be recorded"),
            }
        });
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
                        let record = observe::exit_record(&self.inner.settings, &container);
                        return Some(record.unwrap_or_else(|| LastRun {
                            status: link::convert_exit(&exit),
                            was_started: true,
                        }));
                    }
                }
                Err(DialError::Absent) if !observe::shim_lives(&run_dir, id) => break,
                Err(DialError::Absent) => {}
                Err(DialError::Unusable(reason)) => {
                    tracing::warn!(
                        container = id.short(),
                        reason,
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
        let observed = self.observe(&container).await;
        if let Some(process) = observed.orphan {
            tracing::warn!(
                container = id.short(),
                "its shim died; its output is lost, its end will be seen"
            );
            await_process(&process).await;
        }
        if let Some(last) = observe::exit_record(&self.inner.settings, &container) {
            return Some(last);
        }
        launch::delete(&self.inner.settings, id.as_str()).await;
        // Without a record of its start it was prepared at most: a shim whose runtime failed leaves no exit record.
        let was_started = container.state.is_running();
        Some(LastRun {
            status: unknown_end(),
            was_started,
        })
    }

    /// Records the end of a run, once its start is recorded; in force even if it cannot be stored. That of an earlier run changes nothing.
    async fn ended(&self, id: &ContainerId, run: u64, status: ExitStatus) -> Result<()> {
        let starting = self.inner.starting(id)?;
        let _after_the_start = starting.lock().await;
        if self.inner.run(id) != Some(run) {
            return Ok(());
        }
        let told = status.clone();
        self.change_live(id, move |container| {
            container.state = container.state.after(Transition::Ended { status })?;
            Ok(())
        })
        .await?;
        let auto_remove = self.get(id)?.request.auto_remove;
        self.tell(Event::Exited {
            id: id.clone(),
            status: told,
            auto_remove,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> ProcessIdentity {
        ProcessIdentity {
            pid,
            start_ticks: 1,
            boot_id: "b".into(),
        }
    }

    fn exited(code: u32) -> ExitStatus {
        ExitStatus {
            code,
            finished_at: "t".into(),
            unknown: false,
            ..unknown_end()
        }
    }

    fn nothing_there() -> Observed {
        Observed {
            shim: ShimState::Absent,
            exit: None,
            orphan: None,
            leftovers: false,
        }
    }

    #[test]
    fn every_situation_has_its_action() {
        let absent = nothing_there();
        let answers = |phase| Observed {
            shim: ShimState::Answers {
                phase,
                process: process(5),
                started_at: Some("s".into()),
            },
            ..absent.clone()
        };
        let last = |was_started| LastRun {
            status: exited(3),
            was_started,
        };
        let with_exit = Observed {
            exit: Some(last(true)),
            ..absent.clone()
        };
        let discarded = Observed {
            exit: Some(last(false)),
            ..absent.clone()
        };
        let orphaned = Observed {
            orphan: Some(process(5)),
            ..absent.clone()
        };
        let silent = Observed {
            shim: ShimState::Silent("x".into()),
            exit: Some(last(true)),
            ..absent.clone()
        };
        let created = State::Created;
        let running = State::Running { process: process(5) };
        let over = State::Exited { status: exited(0) };
        let dead = State::Dead { reason: "r".into() };
        let leftovers = Observed {
            leftovers: true,
            ..absent.clone()
        };
        let table: [(&str, &State, &Observed, Action); 19] = [
            ("prepared", &created, &answers(Phase::Created), Action::Watch),
            (
                "crash between start and record",
                &created,
                &answers(Phase::Running),
                Action::Began(process(5), Some("s".into())),
            ),
            (
                "the same, second run",
                &over,
                &answers(Phase::Running),
                Action::Began(process(5), Some("s".into())),
            ),
            ("runs", &running, &answers(Phase::Running), Action::Watch),
            ("ends just now", &running, &answers(Phase::Exited), Action::Watch),
            (
                "ended while the daemon was away",
                &running,
                &with_exit,
                Action::Ended(exited(3)),
            ),
            ("shim killed", &running, &orphaned, Action::Adopt(process(5))),
            ("host rebooted", &running, &absent, Action::Lost),
            (
                "silent shim, whatever else",
                &running,
                &silent,
                Action::Unclear("x".into()),
            ),
            (
                "silent shim of a created one",
                &created,
                &silent,
                Action::Unclear("x".into()),
            ),
            (
                "ran and ended unrecorded",
                &created,
                &with_exit,
                Action::Ended(exited(3)),
            ),
            ("discarded, never started", &created, &discarded, Action::Nothing),
            ("never prepared", &created, &absent, Action::Nothing),
            ("crash while preparing", &created, &leftovers, Action::Sweep),
            ("over", &over, &absent, Action::Nothing),
            ("over, its record still there", &over, &with_exit, Action::Nothing),
            ("over, yet something runs", &over, &orphaned, Action::Sweep),
            (
                "over, shim about to leave",
                &over,
                &answers(Phase::Exited),
                Action::Watch,
            ),
            ("dead", &dead, &absent, Action::Nothing),
        ];
        for (name, state, observed, expected) in table {
            assert_eq!(plan(state, observed), expected, "{name}");
        }
    }
}
