//! What a caller is told: the record corrected by what is seen of the process and the freezer.

use super::transition::State;
use std::fmt;

/// A container's status, as `state` and `list` print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Being made.
    Creating,
    /// Waits for `start`.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Its first process is gone.
    Stopped,
}

/// What was seen of a container besides its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The first process runs.
    pub alive: bool,
    /// Its cgroup is frozen.
    pub frozen: bool,
    /// The fifo that init waits on is still there.
    pub fifo: bool,
}

impl Status {
    /// The status that follows from a record and what was seen.
    ///
    /// A dead first process is `stopped` whatever the record says. A `created` container whose fifo is gone was
    /// started by a runtime that was killed before it could write that down.
    #[must_use]
    pub const fn derive(state: &State, seen: Seen) -> Self {
        match state {
            State::Creating => Self::Creating,
            State::Stopped => Self::Stopped,
            _ if !seen.alive => Self::Stopped,
            _ if seen.frozen => Self::Paused,
            State::Created { .. } | State::Paused { started: false, .. } if seen.fifo => Self::Created,
            State::Created { .. } | State::Running { .. } | State::Paused { .. } => Self::Running,
        }
    }

    /// The status as the spec writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Identity;

    #[test]
    fn the_record_is_corrected_by_what_is_seen() {
        let init = || Identity {
            boot_id: "b".into(),
            pid: 1,
            start_time: 1,
        };
        let seen = |alive, frozen, fifo| Seen { alive, frozen, fifo };
        let created = State::Created { init: init() };
        let running = State::Running { init: init() };
        let paused = State::Paused {
            init: init(),
            started: true,
        };
        let paused_early = State::Paused {
            init: init(),
            started: false,
        };
        for (state, seen, want) in [
            (&State::Creating, seen(false, false, false), Status::Creating),
            (&created, seen(true, false, true), Status::Created),
            (&created, seen(true, false, false), Status::Running),
            (&created, seen(true, true, true), Status::Paused),
            (&created, seen(false, false, true), Status::Stopped),
            (&running, seen(true, false, false), Status::Running),
            (&running, seen(true, true, false), Status::Paused),
            (&running, seen(false, true, false), Status::Stopped),
            (&paused, seen(true, true, false), Status::Paused),
            (&paused, seen(true, false, false), Status::Running),
            (&paused_early, seen(true, false, true), Status::Created),
            (&State::Stopped, seen(true, false, false), Status::Stopped),
        ] {
            assert_eq!(Status::derive(state, seen), want, "{state:?} {seen:?}");
        }
    }
}
