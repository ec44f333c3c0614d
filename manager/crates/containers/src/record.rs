//! The record of a container and its states.
//!
//! ```text
//!                 start                       the first process ends
//!   Created ───────────────▶ Running ────────────────────────────────▶ Exited
//!      │                        │                                        │
//!      │ start fails            │ start of an exited one ◀───────────────┤
//!      ▼                        ▼                                        ▼
//!   Exited (127, 126, …)     Dead: its record or rootfs cannot be used; only `remove` is left
//! ```
//!
//! The record is what was acknowledged; whether a process lives is asked of the shim and the kernel (see [`crate::recovery`]). So `Running` says
//! "was started, and nobody has yet seen it end".

use croze_model::{ContainerId, ContainerName};
use croze_store::Record;
use serde::{Deserialize, Serialize};

use crate::request::{CreateRequest, ImageFacts};

/// A container: what it was asked to be, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The identifier.
    pub id: ContainerId,
    /// The unique name.
    pub name: ContainerName,
    /// When it was made, RFC 3339 with nanoseconds.
    pub created_at: String,
    /// What was requested.
    pub request: CreateRequest,
    /// What its image says.
    pub image: ImageFacts,
    /// Where it stands.
    pub state: State,
    /// When it was last started.
    pub started_at: Option<String>,
    /// Why the last start failed, in one line.
    pub error: Option<String>,
}

impl Record for Container {
    const KIND: &'static str = "container";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.as_str().to_owned()
    }
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum State {
    /// Made, never started.
    Created,
    /// Started; not yet seen to have ended.
    Running {
        /// Its first process, as the host sees it.
        process: ProcessIdentity,
    },
    /// Ended, or its start failed.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// Cannot be used any more.
    Dead {
        /// Why.
        reason: String,
    },
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id on the host.
    pub pid: u32,
    /// Start time, clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The boot in which both are valid.
    pub boot_id: String,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Its exit code, or 128 + signal; 255 if nobody saw it end.
    pub code: u32,
    /// The signal that ended it.
    pub signal: Option<u32>,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When, RFC 3339.
    pub finished_at: String,
    /// Log lines that could not be written.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// Length of the log when this run's output was complete; not known of one that nobody saw end.
    #[serde(default)]
    pub log_end: Option<u64>,
    /// Nobody saw it end (the host or the shim died with it).
    #[serde(default)]
    pub unknown: bool,
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Its command was executed.
    Started {
        /// The first process.
        process: ProcessIdentity,
    },
    /// Its first process ended, or could not be started.
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// A further run began and ended, and neither was recorded.
    RanAgain {
        /// How it ended.
        status: ExitStatus,
    },
    /// It cannot be used any more.
    Broken {
        /// Why.
        reason: String,
    },
}

/// A transition that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {from} cannot become {to}")]
pub struct Refused {
    /// The present state.
    pub from: &'static str,
    /// The wanted one.
    pub to: &'static str,
}

impl State {
    /// The state's name, as users see it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
            Self::Dead { .. } => "dead",
        }
    }

    /// The state after `transition`; pure.
    ///
    /// # Errors
    ///
    /// [`Refused`] for what the drawing in the module's documentation does not show.
    pub fn after(&self, transition: Transition) -> Result<State, Refused> {
        let refused = |to| {
            Err(Refused {
                from: self.name(),
                to,
            })
        };
        match (self, transition) {
            (Self::Created | Self::Exited { .. }, Transition::Started { process }) => {
                Ok(Self::Running { process })
            }
            (Self::Running { .. } | Self::Dead { .. }, Transition::Started { .. }) => refused("running"),
            // Seen again after it was recorded: the first word stands.
            (Self::Exited { status }, Transition::Ended { .. }) => Ok(Self::Exited {
                status: status.clone(),
            }),
            (Self::Created | Self::Running { .. }, Transition::Ended { status }) => {
                Ok(Self::Exited { status })
            }
            (Self::Exited { .. }, Transition::RanAgain { status }) => Ok(Self::Exited { status }),
            (Self::Dead { .. }, Transition::Ended { .. }) | (_, Transition::RanAgain { .. }) => {
                refused("exited")
            }
            (_, Transition::Broken { reason }) => Ok(Self::Dead { reason }),
        }
    }

    /// Whether it was started and nobody has seen it end.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u32) -> ExitStatus {
        ExitStatus {
            code,
            signal: None,
            oom_killed: false,
            finished_at: "2026-01-01T00:00:00Z".into(),
            log_lines_dropped: 0,
            log_end: None,
            unknown: false,
        }
    }

    #[test]
    fn every_pair_of_state_and_transition() {
        let process = ProcessIdentity {
            pid: 7,
            start_ticks: 9,
            boot_id: "b".into(),
        };
        let running = State::Running {
            process: process.clone(),
        };
        let exited = State::Exited { status: ended(3) };
        let dead = State::Dead { reason: "r".into() };
        let start = Transition::Started { process };
        let end = Transition::Ended { status: ended(0) };
        let breaks = Transition::Broken { reason: "r".into() };
        let again = Transition::RanAgain { status: ended(0) };
        let table: [(&State, &Transition, Option<&State>); 16] = [
            (&State::Created, &start, Some(&running)),
            (&running, &start, None),
            (&exited, &start, Some(&running)),
            (&dead, &start, None),
            (&State::Created, &end, Some(&State::Exited { status: ended(0) })),
            (&running, &end, Some(&State::Exited { status: ended(0) })),
            (&exited, &end, Some(&exited)),
            (&dead, &end, None),
            (&State::Created, &again, None),
            (&running, &again, None),
            (&exited, &again, Some(&State::Exited { status: ended(0) })),
            (&dead, &again, None),
            (&State::Created, &breaks, Some(&dead)),
            (&running, &breaks, Some(&dead)),
            (&exited, &breaks, Some(&dead)),
            (&dead, &breaks, Some(&dead)),
        ];
        for (from, transition, to) in table {
            assert_eq!(
                from.after(transition.clone()).ok().as_ref(),
                to,
                "{from:?} {transition:?}"
            );
        }
    }
}
