//! The life of a container as a state machine.
//!
//! ```text
//!               Launched            Started             Paused
//!   creating ------------> created ---------> running ----------> paused
//!      |                      |  |               |  ^                |  |
//!      |                      |  |  Paused       |  +----------------+  |
//!      |                      |  +--------------------> paused   Resumed|
//!      | Exited               | Exited           | Exited               | Exited
//!      +----------------------+---------+--------+----------------------+
//!                                       v
//!                                    stopped
//! ```
//!
//! A container paused before it was started goes back to `created` on resume, so `Paused` remembers what it
//! was. `stopped` is final: `delete` removes the record, it does not change it.

use super::identity::Identity;
use serde::{Deserialize, Serialize};

/// Where a container stands, with what is known there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum State {
    /// The id is reserved, the container is being made.
    Creating,
    /// Init waits to be started.
    Created {
        /// The container's first process.
        init: Identity,
    },
    /// The user's process runs.
    Running {
        /// The container's first process.
        init: Identity,
    },
    /// Every process is frozen.
    Paused {
        /// The container's first process.
        init: Identity,
        /// Whether the user's process had been started before.
        started: bool,
    },
    /// The first process is gone.
    Stopped,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Init was made and waits.
    Launched {
        /// The container's first process.
        init: Identity,
    },
    /// Init was told to run the user's process.
    Started,
    /// Its processes were frozen.
    Paused,
    /// Its processes were thawed.
    Resumed,
    /// The first process is gone.
    Exited,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} a container in the {state} state")]
pub struct TransitionError {
    /// The verb a user would use.
    pub verb: &'static str,
    /// The state's name.
    pub state: &'static str,
}

impl Event {
    const fn verb(&self) -> &'static str {
        match self {
            Self::Launched { .. } => "launch",
            Self::Started => "start",
            Self::Paused => "pause",
            Self::Resumed => "resume",
            Self::Exited => "end",
        }
    }
}

impl State {
    /// The state's name, as callers see it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// The first process, where there is one.
    #[must_use]
    pub const fn init(&self) -> Option<&Identity> {
        match self {
            Self::Created { init } | Self::Running { init } | Self::Paused { init, .. } => Some(init),
            Self::Creating | Self::Stopped => None,
        }
    }

    /// The state after an event.
    ///
    /// # Errors
    /// [`TransitionError`] if the event cannot happen here.
    pub fn next(self, event: Event) -> Result<Self, TransitionError> {
        let refused = TransitionError {
            verb: event.verb(),
            state: self.name(),
        };
        match (self, event) {
            (Self::Creating, Event::Launched { init }) => Ok(Self::Created { init }),
            (Self::Created { init }, Event::Started) => Ok(Self::Running { init }),
            (Self::Created { init }, Event::Paused) => Ok(Self::Paused { init, started: false }),
            (Self::Running { init }, Event::Paused) => Ok(Self::Paused { init, started: true }),
            (Self::Paused { init, started: true }, Event::Resumed) => Ok(Self::Running { init }),
            (Self::Paused { init, started: false }, Event::Resumed) => Ok(Self::Created { init }),
            (
                Self::Creating | Self::Created { .. } | Self::Running { .. } | Self::Paused { .. },
                Event::Exited,
            ) => Ok(Self::Stopped),
            (Self::Creating, Event::Started | Event::Paused | Event::Resumed)
            | (Self::Created { .. }, Event::Launched { .. } | Event::Resumed)
            | (Self::Running { .. }, Event::Launched { .. } | Event::Started | Event::Resumed)
            | (Self::Paused { .. }, Event::Launched { .. } | Event::Started | Event::Paused)
            | (Self::Stopped, _) => Err(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_meets_every_event() {
        let init = Identity {
            boot_id: "b".into(),
            pid: 7,
            start_time: 9,
        };
        let states = [
            State::Creating,
            State::Created { init: init.clone() },
            State::Running { init: init.clone() },
            State::Paused {
                init: init.clone(),
                started: false,
            },
            State::Paused {
                init: init.clone(),
                started: true,
            },
            State::Stopped,
        ];
        let events = [
            Event::Launched { init: init.clone() },
            Event::Started,
            Event::Paused,
            Event::Resumed,
            Event::Exited,
        ];
        // Rows are states, columns events; "-" is refused.
        let expected = [
            ["created", "-", "-", "-", "stopped"],
            ["-", "running", "paused", "-", "stopped"],
            ["-", "-", "paused", "-", "stopped"],
            ["-", "-", "-", "created", "stopped"],
            ["-", "-", "-", "running", "stopped"],
            ["-", "-", "-", "-", "-"],
        ];
        for (state, row) in states.iter().zip(expected) {
            for (event, want) in events.iter().zip(row) {
                let got = state.clone().next(event.clone());
                match want {
                    "-" => assert_eq!(
                        got.unwrap_err(),
                        TransitionError {
                            verb: event.verb(),
                            state: state.name()
                        }
                    ),
                    name => assert_eq!(got.unwrap().name(), name, "{state:?} {event:?}"),
                }
            }
        }
    }
}
