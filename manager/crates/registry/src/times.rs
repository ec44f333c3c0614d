//! How long a client waits for what.

use std::time::Duration;

use crate::flow::PATIENCE;
use crate::retry::FIRST_WAIT;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The first wait between two tries; it doubles.
    pub(crate) first_wait: Duration,
    /// A manifest. It is read whole and has 4 MiB at most.
    pub(crate) document: Duration,
    /// Silence of a source that is not the last; of the last, it is the connection that bounds it.
    pub(crate) silence: Duration,
    /// 64 KiB of a blob.
    pub(crate) patience: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            first_wait: FIRST_WAIT,
            document: Duration::from_mins(1),
            silence: Duration::from_secs(15),
            patience: PATIENCE,
        }
    }
}

#[cfg(test)]
impl Times {
    /// No wait between tries.
    pub(crate) fn none() -> Self {
        Self {
            first_wait: Duration::ZERO,
            ..Self::default()
        }
    }
}
