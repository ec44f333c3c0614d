//! Waiting for a condition of the world outside, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{Timespec, poll};

/// How often a condition that nothing announces is looked at again.
const INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Calls `condition` until it gives a value; fails with `what` after `limit`.
///
/// # Errors
/// The condition's own error, at once; or that it did not become true in time.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = patient(limit);
    let begin = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begin.elapsed() > limit {
            bail!("waited {limit:?} in vain until {what}");
        }
        pause()?;
    }
}

/// A deadline for this host: `CROZE_TEST_PATIENCE` times as long, where everything is slow (a virtual machine).
pub(crate) fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("CROZE_TEST_PATIENCE").ok();
    limit * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// One interval.
fn pause() -> Result<()> {
    doze(&INTERVAL)
}

/// Lets time pass. Only for what is about time itself: a slow network, a crash at a random moment. Who waits for something to come true uses
/// [`wait_until`].
///
/// # Errors
/// The kernel refuses.
pub fn rest(time: Duration) -> Result<()> {
    if time.is_zero() {
        return Ok(());
    }
    doze(&Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    })
}

/// An interruption only shortens it.
fn doze(time: &Timespec) -> Result<()> {
    match poll(&mut [], Some(time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
