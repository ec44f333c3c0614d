//! Long work: its progress and its result are two things, and progress never holds up the work.

use croze_model::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Work under way. Dropping it cancels the work, which then cleans up after itself.
#[derive(Debug)]
pub struct Operation<P, T> {
    progress: watch::Receiver<P>,
    work: JoinHandle<Result<T>>,
}

impl<P, T> Operation<P, T> {
    pub(crate) fn new(progress: watch::Receiver<P>, work: JoinHandle<Result<T>>) -> Self {
        Self { progress, work }
    }

    /// The newest state of the work; a watcher that is slow skips states.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<P> {
        self.progress.clone()
    }

    /// Waits for the end of the work.
    ///
    /// # Errors
    /// What the work failed with; `Internal` if it panicked.
    pub async fn result(mut self) -> Result<T> {
        match (&mut self.work).await {
            Ok(result) => result,
            Err(panic) => {
                Err(Error::new(ErrorKind::Internal, "run", "the operation was interrupted").because(panic))
            }
        }
    }
}

impl<P, T> Drop for Operation<P, T> {
    fn drop(&mut self) {
        self.work.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_cancels_and_waiting_gives_the_result() {
        let (sender, progress) = watch::channel(0);
        let operation = Operation::new(
            progress,
            tokio::spawn(async move {
                sender.send(1).ok();
                Ok(7)
            }),
        );
        let mut seen = operation.progress();
        assert_eq!(operation.result().await.unwrap(), 7);
        assert_eq!(*seen.borrow_and_update(), 1);

        let (alive, mut gone) = tokio::sync::oneshot::channel::<()>();
        let (_sender, progress) = watch::channel(0);
        let operation: Operation<i32, ()> = Operation::new(
            progress,
            tokio::spawn(async move {
                let _held = alive;
                std::future::pending().await
            }),
        );
        assert!(gone.try_recv().is_err());
        drop(operation);
        assert!(gone.await.is_err(), "the work's own values are dropped with it");
    }
}
