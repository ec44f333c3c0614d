//! Long work: its progress and its result are two things, and progress never holds up the work.

use croze_model::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::operations::Entry;

/// Work under way. Dropping it cancels the work, which then cleans up after itself.
#[derive(Debug)]
pub struct Operation<P, T> {
    progress: watch::Receiver<P>,
    work: JoinHandle<Result<T>>,
    entry: Entry,
}

impl<P, T> Operation<P, T> {
    pub(crate) fn new(progress: watch::Receiver<P>, work: JoinHandle<Result<T>>, entry: Entry) -> Self {
        Self {
            progress,
            work,
            entry,
        }
    }

    /// The newest state of the work; a watcher that is slow skips states.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<P> {
        self.progress.clone()
    }

    /// Waits for the end of the work.
    ///
    /// # Errors
    /// What the work failed with; `Cancelled` if somebody else cancelled it; `Internal` if it panicked.
    pub async fn result(mut self) -> Result<T> {
        let result = match (&mut self.work).await {
            Ok(result) => result,
            Err(ended) if ended.is_cancelled() => Err(Error::new(
                ErrorKind::Cancelled,
                "run",
                "the operation was cancelled by another client",
            )),
            Err(panic) => {
                Err(Error::new(ErrorKind::Internal, "run", "the operation was interrupted").because(panic))
            }
        };
        self.entry.ended(result.as_ref().err());
        result
    }
}

impl<P, T> Drop for Operation<P, T> {
    fn drop(&mut self) {
        self.work.abort();
    }
}

#[cfg(test)]
mod tests {
    use croze_images::Progress;

    use super::*;
    use crate::operations::Operations;

    fn listed<T: Send + 'static>(
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Operation<croze_images::PullState, T> {
        let (_, progress) = Progress::new();
        let work = tokio::spawn(work);
        let entry = Operations::default().enter("test", String::new(), progress.clone(), work.abort_handle());
        Operation::new(progress, work, entry)
    }

    #[tokio::test]
    async fn dropping_cancels_and_waiting_gives_the_result() {
        let operation = listed(async { Ok(7) });
        assert_eq!(operation.result().await.unwrap(), 7);

        let (alive, mut gone) = tokio::sync::oneshot::channel::<()>();
        let operation = listed(async move {
            let _held = alive;
            std::future::pending::<Result<()>>().await
        });
        assert!(gone.try_recv().is_err());
        drop(operation);
        assert!(gone.await.is_err(), "the work's own values are dropped with it");
    }
}
