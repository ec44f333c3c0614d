//! Mirrors that are passed over: whoever did not answer, or wants to be left alone, is not asked by every layer of every pull again.
//!
//! ```text
//!   asked --fails--> rests: 30 s, or as long as it asked for --over--> asked --fails--> rests twice as long, … 10 minutes
//!     '--has the image or the layer: the next rest is short again        (a mirror's own word counts for an hour at most)
//! ```
//!
//! A rest begins when the failure ends, however long that took. Failures of several layers at once are one failure. It holds for one client
//! and those who ask with the same credentials: a mirror that limits anonymous users may let others in, and one that does not accept a
//! password takes the next.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pace::Who;
use crate::retry::LONGEST_BELIEVED;

/// For how long a mirror that failed is not asked; twice as long after each further failure.
const FIRST_REST: Duration = Duration::from_secs(30);
/// The longest such time, unless the mirror asked for a longer one.
const LONGEST_REST: Duration = Duration::from_mins(10);
/// After so much time without a failure, those that there were are forgotten.
const FORGOTTEN: Duration = Duration::from_mins(30);

/// The mirrors that failed.
#[derive(Debug, Default)]
pub(crate) struct Resting {
    mirrors: Mutex<HashMap<Who, Rest>>,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    /// Failures, of which each was after the rest for the one before.
    failures: u32,
    reason: String,
}

impl Resting {
    /// A mirror failed, and wants to be left alone for `asked`, or did not say.
    pub(crate) fn note(&self, mirror: Who, asked: Duration, reason: String) {
        let now = Instant::now();
        let mut mirrors = self.lock();
        mirrors.retain(|_, rest| rest.until + FORGOTTEN > now);
        let rest = mirrors.entry(mirror).or_insert_with(|| Rest {
            until: now,
            failures: 0,
            reason: String::new(),
        });
        if rest.until <= now {
            rest.failures += 1;
        }
        let doubled = FIRST_REST.saturating_mul(1 << (rest.failures.clamp(1, 10) - 1));
        let time = doubled.min(LONGEST_REST).max(asked.min(LONGEST_BELIEVED));
        rest.until = rest.until.max(now + time);
        rest.reason = reason;
    }

    /// Why the mirror is not asked now.
    pub(crate) fn reason(&self, mirror: &Who) -> Option<String> {
        let now = Instant::now();
        let mirrors = self.lock();
        let rest = mirrors.get(mirror).filter(|rest| rest.until > now)?;
        Some(rest.reason.clone())
    }

    /// A mirror had what it was asked for. If others say meanwhile that it fails, that counts.
    pub(crate) fn did_well(&self, mirror: &Who) {
        let now = Instant::now();
        let mut mirrors = self.lock();
        if mirrors.get(mirror).is_some_and(|rest| rest.until <= now) {
            mirrors.remove(mirror);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Who, Rest>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn mirror() -> Who {
        Who::nobody("mirror")
    }

    /// Seconds that the mirror rests for after such a failure, by the clock that the test turns.
    async fn rest_after(resting: &Resting, asked: u64) -> u64 {
        resting.note(mirror(), Duration::from_secs(asked), "why".to_owned());
        let begun = Instant::now();
        while resting.reason(&mirror()).is_some() {
            advance(Duration::from_secs(1)).await;
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_rests_longer_after_each_failure_and_as_long_as_it_says() {
        let resting = Resting::default();
        for (asked, expected) in [
            (0, 30),
            (0, 60),
            (10, 120),
            (300, 300),
            (0, 480),
            (0, 600),
            (u64::MAX, 3600),
            (0, 600),
        ] {
            assert_eq!(rest_after(&resting, asked).await, expected, "{asked}");
        }
        resting.did_well(&mirror());
        assert_eq!(rest_after(&resting, 0).await, 30, "all is forgotten");
        advance(FORGOTTEN).await;
        assert_eq!(rest_after(&resting, 0).await, 30, "that was long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_at_once_are_one_and_a_late_success_ends_no_rest() {
        let resting = Resting::default();
        for _ in 0..4 {
            resting.note(mirror(), Duration::ZERO, "why".to_owned());
        }
        resting.did_well(&mirror());
        assert_eq!(resting.reason(&mirror()).as_deref(), Some("why"));
        assert_eq!(resting.reason(&Who::nobody("another")), None);
        advance(Duration::from_secs(30)).await;
        assert_eq!(resting.reason(&mirror()), None);
        assert_eq!(rest_after(&resting, 0).await, 60);
    }
}
