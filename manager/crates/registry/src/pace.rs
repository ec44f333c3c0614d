//! How fast a registry is asked: no faster than is configured, and not at all while it wants to be left alone.
//!
//! Each registry has a lane of its own, and all pulls go in it together. A lane only knows moments: when the next request may leave, when
//! what came so far is paid for, and until when the registry wants no request. Whoever wants something takes the next moment and waits for
//! it, so nobody waits for somebody who has gone.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What is configured for one registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// The most requests in a second.
    pub requests: Option<NonZeroU32>,
    /// The most bytes of blobs in a second, all downloads together.
    pub bytes: Option<NonZeroU64>,
}

/// Every registry's lane, by the registry's name.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    lanes: Mutex<HashMap<String, Lane>>,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    /// When the next request may leave.
    request: Instant,
    /// When the bytes that have come would have come at the configured rate.
    bytes: Instant,
}

impl Pace {
    /// Waits until one more request may leave.
    pub(crate) async fn request(&self, registry: &str, rate: Rate) {
        let at = self.lane(registry, |lane, now| {
            let at = lane.request.max(now);
            if let Some(requests) = rate.requests {
                lane.request = at + Duration::from_secs(1) / requests.get();
            }
            at
        });
        wait(at).await;
    }

    /// Waits as long as it takes for this many bytes more to come at the configured rate.
    pub(crate) async fn bytes(&self, registry: &str, rate: Rate, count: usize) {
        let Some(most) = rate.bytes else { return };
        let at = self.lane(registry, |lane, now| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a wait need not be exact to the nanosecond"
            )]
            let time = count as f64 / most.get() as f64;
            lane.bytes = lane.bytes.max(now) + Duration::from_secs_f64(time);
            lane.bytes
        });
        wait(at).await;
    }

    /// Nobody asks the registry for so long.
    pub(crate) fn leave_alone(&self, registry: &str, time: Duration) {
        self.lane(registry, |lane, now| lane.request = lane.request.max(now + time));
    }

    fn lane<T>(&self, registry: &str, change: impl FnOnce(&mut Lane, Instant) -> T) -> T {
        let now = Instant::now();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        // A lane all of whose moments are over says nothing.
        lanes.retain(|name, lane| name == registry || lane.request > now || lane.bytes > now);
        let lane = lanes.entry(registry.to_owned()).or_insert(Lane {
            request: now,
            bytes: now,
        });
        change(lane, now)
    }
}

async fn wait(at: Instant) {
    if at > Instant::now() {
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, bytes: u64) -> Rate {
        Rate {
            requests: NonZeroU32::new(requests),
            bytes: NonZeroU64::new(bytes),
        }
    }

    /// Seconds that the waits take together, by the clock that the test turns.
    async fn taken(work: impl Future<Output = ()>) -> f64 {
        let begun = Instant::now();
        work.await;
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_leave_no_faster_than_is_configured() {
        let pace = Pace::default();
        let ten = async {
            for _ in 0..10 {
                pace.request("a", rate(5, 0)).await;
            }
        };
        let time = taken(ten).await;
        assert!((1.79..2.0).contains(&time), "{time}");
        assert!(
            taken(pace.request("b", rate(5, 0))).await < 0.1,
            "another registry's lane is free"
        );
        let free = async {
            for _ in 0..1000 {
                pace.request("c", Rate::default()).await;
            }
        };
        assert!(taken(free).await < 0.1);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_come_no_faster_than_is_configured() {
        let pace = Pace::default();
        let two = async {
            tokio::join!(
                pace.bytes("a", rate(0, 1000), 1500),
                pace.bytes("a", rate(0, 1000), 500)
            );
        };
        let time = taken(two).await;
        assert!((1.99..2.1).contains(&time), "{time}");
        assert!(taken(pace.bytes("a", Rate::default(), 1 << 30)).await < 0.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_wants_to_be_left_alone_is() {
        let pace = Pace::default();
        pace.leave_alone("a", Duration::from_secs(3));
        pace.leave_alone("a", Duration::from_secs(1));
        assert!(taken(pace.request("b", Rate::default())).await < 0.1);
        let time = taken(pace.request("a", Rate::default())).await;
        assert!((2.99..3.1).contains(&time), "{time}");
        assert!(taken(pace.request("a", Rate::default())).await < 0.1);
    }
}
