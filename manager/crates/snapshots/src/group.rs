//! Work that many want done and that once is enough for: a sync of the file system serves everybody who wrote before it began.
//!
//! ```text
//!   A wants it -> runs ---------.
//!   B wants it     waits: that run began before B wrote
//!   C wants it     waits        '-> B runs for B and C ---.
//!                                                         '-> both are served
//! ```

use std::sync::{Condvar, Mutex, PoisonError};

/// Runs of one kind of work, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Group {
    runs: Mutex<Runs>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Runs {
    /// How many have begun.
    begun: u64,
    /// The number of the last one that succeeded.
    succeeded: u64,
    running: bool,
}

/// Ends a run, also if the work panics: the others must not wait for ever.
struct Running<'a> {
    group: &'a Group,
    succeeded: Option<u64>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut runs = self.group.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.running = false;
        runs.succeeded = runs.succeeded.max(self.succeeded.unwrap_or(0));
        drop(runs);
        self.group.changed.notify_all();
    }
}

impl Group {
    /// Returns when a run of `work` that began after this call has succeeded: one's own, or another's.
    pub(crate) fn run<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = runs.begun + 1;
        while runs.running && runs.succeeded < wanted {
            runs = self.changed.wait(runs).unwrap_or_else(PoisonError::into_inner);
        }
        if runs.succeeded >= wanted {
            return Ok(());
        }
        runs.begun += 1;
        runs.running = true;
        let number = runs.begun;
        drop(runs);
        let mut running = Running {
            group: self,
            succeeded: None,
        };
        work()?;
        running.succeeded = Some(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn those_who_wait_share_one_run_that_began_after_them() {
        let (group, runs, waiting) = (Group::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let (open, gate) = channel::<()>();
        let (entered, first_runs) = channel();
        std::thread::scope(|scope| {
            let (group, runs, waiting) = (&group, &runs, &waiting);
            scope.spawn(move || {
                group.run(|| {
                    entered.send(()).unwrap();
                    gate.recv().unwrap();
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok::<(), ()>(())
                })
            });
            first_runs.recv().unwrap();
            for _ in 0..4 {
                scope.spawn(move || {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    group.run(|| {
                        runs.fetch_add(1, Ordering::SeqCst);
                        Ok::<(), ()>(())
                    })
                });
            }
            while waiting.load(Ordering::SeqCst) < 4 {
                std::thread::yield_now();
            }
            open.send(()).unwrap();
        });
        // How many of the four were counted before they waited is the scheduler's matter; each needed a run after the first.
        assert!((2..=5).contains(&runs.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_failed_run_serves_nobody() {
        let group = Group::default();
        assert_eq!(group.run(|| Err("full")), Err("full"));
        let mut ran = false;
        let again = group.run(|| {
            ran = true;
            Ok::<(), &str>(())
        });
        assert_eq!((again, ran), (Ok(()), true));
    }
}
