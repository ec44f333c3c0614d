//! Whether a download gets on: how fast bytes come, and whether breaks are made up for.
//!
//! ```text
//!   bytes come      64 KiB of any bytes in a minute: fast enough, another minute begins
//!                   64 KiB of new bytes: the breaks before are forgotten
//!   a minute without 64 KiB, or a connection that breaks: a break; new bytes that came too slowly make up for nothing
//! ```
//!
//! Bytes that are here already, which a server without ranges sends again, show that it is fast enough, and not that the download gets on.
//! Only waiting for the server counts as time, not what the taker of the bytes needs. This decides from what it is told, and touches nothing.

use std::time::Duration;

/// How many bytes are fast enough in a minute, and make up for earlier breaks: a server that breaks after each byte gets no further chances
/// by that byte.
pub(crate) const PROGRESS: u64 = 64 * 1024;
/// How long a server may take for [`PROGRESS`] bytes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What bytes that came say about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    /// It may go on.
    Enough,
    /// It is as good as broken, which is noted.
    TooSlow,
}

/// A download from one source.
#[derive(Debug)]
pub(crate) struct Flow {
    patience: Duration,
    /// Bytes of the present minute, and how long they were waited for.
    recent: u64,
    waited: Duration,
    /// New bytes since the last time that they made up for breaks.
    new: u64,
    breaks: u32,
}

impl Flow {
    /// A download that begins; [`PROGRESS`] bytes may take so long.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            recent: 0,
            waited: Duration::ZERO,
            new: 0,
            breaks: 0,
        }
    }

    /// Breaks that nothing has made up for.
    pub(crate) fn breaks(&self) -> u32 {
        self.breaks
    }

    /// So many bytes came after this wait, of which so many are new.
    pub(crate) fn came(&mut self, waited: Duration, bytes: u64, new: u64) -> Speed {
        self.waited += waited;
        self.recent += bytes;
        self.new += new;
        if self.recent >= PROGRESS {
            (self.recent, self.waited) = (0, Duration::ZERO);
        } else if self.waited > self.patience {
            self.broke(Duration::ZERO);
            return Speed::TooSlow;
        }
        if self.new >= PROGRESS {
            (self.new, self.breaks) = (0, 0);
        }
        Speed::Enough
    }

    /// The connection broke after this further wait.
    pub(crate) fn broke(&mut self, waited: Duration) {
        self.waited += waited;
        // The rate is what counts: who breaks off just before the minute is over would drip for ever.
        let fast = self.waited.as_secs_f64() * rate(PROGRESS, self.patience);
        if rate(self.recent, Duration::from_secs(1)) < fast {
            self.new = 0;
        }
        (self.recent, self.waited) = (0, Duration::ZERO);
        self.breaks += 1;
    }
}

/// Bytes in a second.
#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until there were five breaks, at a server that sends so many bytes each second and breaks after so many seconds; `None` if
    /// that takes more than a day.
    fn given_up_after(bytes: u64, breaks_after: u64) -> Option<u64> {
        let mut flow = Flow::new(PATIENCE);
        for second in 1..86_400 {
            if second % breaks_after == 0 {
                flow.broke(SECOND);
            } else {
                flow.came(SECOND, bytes, bytes);
            }
            if flow.breaks() == 5 {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn whoever_drips_is_given_up_within_minutes() {
        for (bytes, breaks_after, expected) in [
            // Just too slow, very slow, silent.
            (1074, u64::MAX, Some(305)),
            (190, u64::MAX, Some(305)),
            (0, u64::MAX, Some(305)),
            // Fast enough for ever.
            (1100, u64::MAX, None),
            (50_000_000, u64::MAX, None),
            // Breaks off before the minute is over.
            (1000, 59, Some(295)),
            (250, 50, Some(250)),
            // Breaks often, and gets on.
            (1500, 50, None),
            (70_000, 2, None),
            (30_000, 4, None),
            // Breaks so often that it does not.
            (10_000, 2, Some(10)),
        ] {
            assert_eq!(
                given_up_after(bytes, breaks_after),
                expected,
                "{bytes} bytes a second, breaks every {breaks_after} seconds"
            );
        }
    }

    #[test]
    fn what_is_skipped_is_speed_and_no_progress() {
        // Ten minutes of bytes that are here already, as fast as one can wish.
        let mut flow = Flow::new(PATIENCE);
        flow.broke(Duration::ZERO);
        for _ in 0..600 {
            assert_eq!(flow.came(SECOND, 50_000_000, 0), Speed::Enough);
        }
        assert_eq!(flow.breaks(), 1);
        assert_eq!(flow.came(SECOND, PROGRESS, PROGRESS), Speed::Enough);
        assert_eq!(flow.breaks(), 0);
    }
}
