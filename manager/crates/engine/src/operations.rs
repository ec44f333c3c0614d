//! The operations under way, for whoever wants to see, watch or cancel one that another client began.
//!
//! ```text
//!   client A --begins--> Operation ---- enters, and leaves when it is dropped ----> Operations
//!                           |                                                            |
//!                        the work --newest progress--> watch channel --> A, B, C    list, watch, cancel: B, C
//! ```
//!
//! An operation is in the list as long as its client waits for it: when that goes, the work is cancelled and leaves the list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use croze_images::{LayerState, PullPhase, PullState};
use croze_model::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::engine::Engine;

/// How an operation ended, for those who only watch it.
pub type Outcome = std::result::Result<(), Arc<Error>>;

/// An operation as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationInfo {
    /// Its id, unique while the daemon runs.
    pub id: u64,
    /// What is done, such as `pull`.
    pub kind: &'static str,
    /// What it is done to.
    pub subject: String,
    /// When it began.
    pub started: SystemTime,
    /// Bytes that have come or were there, and bytes in all.
    pub bytes: (u64, u64),
}

/// An operation that somebody watches.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The newest state of the work.
    pub progress: watch::Receiver<PullState>,
    /// How it ended; `None` until then. Closed without one: it was cancelled.
    pub outcome: watch::Receiver<Option<Outcome>>,
}

/// All operations under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    running: BTreeMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    kind: &'static str,
    subject: String,
    started: SystemTime,
    watched: Watched,
    work: AbortHandle,
}

/// An operation's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    operations: Operations,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Operations {
    /// Lists work that has begun.
    pub(crate) fn enter(
        &self,
        kind: &'static str,
        subject: String,
        progress: watch::Receiver<PullState>,
        work: AbortHandle,
    ) -> Entry {
        let (outcome, ended) = watch::channel(None);
        let mut table = self.lock();
        table.last += 1;
        let id = table.last;
        let running = Running {
            kind,
            subject,
            started: SystemTime::now(),
            watched: Watched {
                progress,
                outcome: ended,
            },
            work,
        };
        table.running.insert(id, running);
        Entry {
            id,
            operations: self.clone(),
            outcome,
        }
    }

    fn list(&self) -> Vec<OperationInfo> {
        let info = |(id, running): (&u64, &Running)| OperationInfo {
            id: *id,
            kind: running.kind,
            subject: running.subject.clone(),
            started: running.started,
            bytes: bytes(&running.watched.progress.borrow()),
        };
        self.lock().running.iter().map(info).collect()
    }

    fn find<T>(&self, id: &str, take: impl FnOnce(&Running) -> T) -> Result<T> {
        let known = id.parse().ok();
        let table = self.lock();
        let running = known.and_then(|id: u64| table.running.get(&id));
        running.map(take).ok_or_else(|| {
            let what = format!("there is no operation {id:?} under way");
            Error::new(ErrorKind::NotFound, "find", what)
                .hint("it may have ended; `croze operation ls` lists those that have not")
        })
    }

    fn cancel(&self, id: &str) -> Result<()> {
        self.find(id, |running| {
            // Borrowed until the end: the next phase does not begin meanwhile. The work looks at its abortion once more when its records are next.
            let state = running.watched.progress.borrow();
            match state.phase {
                PullPhase::Resolving | PullPhase::Layers => {
                    running.work.abort();
                    Ok(())
                }
                PullPhase::Recording | PullPhase::Done => Err(Error::new(
                    ErrorKind::Conflict,
                    "cancel",
                    format!("operation {id} ends already: what it made is being recorded"),
                )),
            }
        })?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that have come or were there, and bytes in all.
fn bytes(state: &PullState) -> (u64, u64) {
    state.layers.iter().fold((0, 0), |(current, total), layer| {
        let here = match layer.state {
            LayerState::Exists | LayerState::Done => layer.total,
            _ => layer.received,
        };
        (current + here, total + layer.total)
    })
}

impl Entry {
    /// Tells those who watch how it ended.
    pub(crate) fn ended(&self, error: Option<&Error>) {
        let outcome = error.map_or(Ok(()), |error| {
            let told = Error::new(error.kind(), error.stage(), error.one_line());
            let told = match error.advice() {
                Some(advice) => told.hint(advice),
                None => told,
            };
            Err(Arc::new(told))
        });
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.operations.lock().running.remove(&self.id);
    }
}

impl Engine {
    /// The operations under way, the oldest first.
    #[must_use]
    pub fn list_operations(&self) -> Vec<OperationInfo> {
        self.operations().list()
    }

    /// Watches an operation of any client.
    ///
    /// # Errors
    /// `NotFound` if it is not under way.
    pub fn watch_operation(&self, id: &str) -> Result<Watched> {
        self.operations().find(id, |running| running.watched.clone())
    }

    /// Cancels an operation of any client; its own client is told so, and what it made is removed.
    ///
    /// # Errors
    /// `NotFound` if it is not under way, `Conflict` if it is so far that its result is being recorded.
    pub fn cancel_operation(&self, id: &str) -> Result<()> {
        self.operations().cancel(id)
    }
}

#[cfg(test)]
mod tests {
    use croze_images::{LayerProgress, Progress};
    use croze_model::Digest;

    use super::*;
    use crate::operation::Operation;

    #[tokio::test]
    async fn an_operation_is_listed_watched_and_cancelled_by_others() {
        let operations = Operations::default();
        let (_progress, watched) = Progress::new();
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let work = tokio::spawn(async move {
            let _held = alive;
            std::future::pending::<Result<()>>().await
        });
        let entry = operations.enter("pull", "a:1".to_owned(), watched.clone(), work.abort_handle());
        let operation = Operation::new(watched, work, entry);
        let listed = operations.list();
        assert_eq!((listed[0].id, listed[0].subject.as_str()), (1, "a:1"));
        let mut watched = operations.find("1", |running| running.watched.clone()).unwrap();
        for wrong in ["2", "", "x", "-1"] {
            let error = operations.find(wrong, |_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{wrong}");
        }
        operations.cancel("1").unwrap();
        let error = operation.result().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "its own client is told");
        assert!(gone.await.is_err(), "the work's own values are dropped with it");
        assert_eq!(operations.list(), []);
        let told = watched.outcome.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(told.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn what_is_being_recorded_is_not_cancelled_any_more() {
        let operations = Operations::default();
        let (progress, watched) = watch::channel(PullState::default());
        let (go_on, told) = tokio::sync::oneshot::channel::<()>();
        let work = tokio::spawn(async move { Ok(told.await.is_ok()) });
        let entry = operations.enter("pull", "a:1".to_owned(), watched.clone(), work.abort_handle());
        let operation = Operation::new(watched, work, entry);
        progress.send_modify(|state| state.phase = PullPhase::Recording);
        let error = operations.cancel("1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        go_on.send(()).unwrap();
        assert!(operation.result().await.unwrap());
        assert_eq!(operations.cancel("1").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn bytes_are_those_of_all_layers() {
        let layer = |state, received| LayerProgress {
            digest: Digest::of(b"blob"),
            diff_id: Digest::of(b"tar"),
            state,
            received,
            total: 10,
        };
        let state = PullState {
            layers: vec![
                layer(LayerState::Exists, 0),
                layer(LayerState::Done, 10),
                layer(LayerState::Downloading, 3),
                layer(LayerState::Waiting, 0),
            ],
            ..PullState::default()
        };
        assert_eq!(bytes(&state), (23, 40));
        assert_eq!(bytes(&PullState::default()), (0, 0));
    }
}
