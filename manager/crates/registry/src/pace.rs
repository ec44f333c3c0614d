//! How fast a registry is asked: no faster than is configured, and not at all while it wants to be left alone.
//!
//! Each registry has a lane of its own, and all pulls go in it together. A lane only knows moments: when the next request may leave, and when
//! what came so far is paid for. Whoever wants something takes the next moment and waits for it, without any queue; a moment is spent also
//! if the one who took it has gone meanwhile.
//!
//! Who wants to be left alone (`Retry-After`) is a server, and not always the registry: a token server, or the storage that a registry leads
//! to. It is closed to those whom it told so, by the user that they ask as: one that limits anonymous users may let others in. Nobody waits
//! here for it to open: who is told that it is closed decides.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use croze_model::Credentials;
use tokio::time::{Instant, sleep_until};

use crate::retry::LONGEST_BELIEVED;

/// What is configured for one registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// The most requests in a second.
    pub requests: Option<NonZeroU32>,
    /// The most bytes of blobs in a second, all downloads together.
    pub bytes: Option<NonZeroU64>,
}

/// A server or mirror, and the user as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) server: String,
    pub(crate) credentials: Arc<Credentials>,
}

#[cfg(test)]
impl Who {
    pub(crate) fn nobody(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            credentials: Arc::default(),
        }
    }
}

/// Every registry's lane, by the registry's name, and the servers that are closed.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    lanes: Mutex<HashMap<String, Lane>>,
    closed: Mutex<HashMap<Who, Closed>>,
}

/// What a server said that wants to be left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closed {
    until: Instant,
    /// The status of its answer.
    pub(crate) status: String,
    /// Its words, in brackets, or empty.
    pub(crate) said: String,
}

impl Closed {
    /// Until when a server is closed that wants to be asked again after `wait`.
    pub(crate) fn after(wait: Duration, status: String, said: String) -> Self {
        let until = Instant::now() + wait.min(LONGEST_BELIEVED);
        Self { until, status, said }
    }

    /// For how long it is so yet.
    pub(crate) fn wait(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
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

    /// The server is closed to those who ask as this user.
    pub(crate) fn close(&self, who: Who, closed: Closed) {
        let mut all = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, closed| !closed.wait().is_zero());
        let entry = all.entry(who).or_insert_with(|| closed.clone());
        if entry.until < closed.until {
            *entry = closed;
        }
    }

    /// Whether the server is closed to this user now.
    pub(crate) fn closed(&self, who: &Who) -> Option<Closed> {
        let all = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(who).filter(|closed| !closed.wait().is_zero()).cloned()
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
    async fn a_server_that_wants_to_be_left_alone_is_closed_to_whom_it_told_so() {
        let pace = Pace::default();
        let seconds = Duration::from_secs;
        let close = |wait, status: &str| {
            let closed = Closed::after(wait, status.to_owned(), String::new());
            pace.close(Who::nobody("a"), closed);
        };
        close(seconds(3), "429");
        close(seconds(1), "503");
        let closed = pace.closed(&Who::nobody("a")).unwrap();
        assert_eq!((closed.wait(), closed.status.as_str()), (seconds(3), "429"));
        assert_eq!(pace.closed(&Who::nobody("b")), None);
        let alice = Who {
            server: "a".to_owned(),
            credentials: Arc::new(Credentials::Identity {
                username: "alice".to_owned(),
                token: croze_model::Secret::new("t"),
            }),
        };
        assert_eq!(pace.closed(&alice), None);
        tokio::time::advance(seconds(3)).await;
        assert_eq!(pace.closed(&Who::nobody("a")), None);
        // No number is too large, and no server is believed for ever.
        close(Duration::MAX, "429");
        assert_eq!(pace.closed(&Who::nobody("a")).unwrap().wait(), LONGEST_BELIEVED);
    }
}
