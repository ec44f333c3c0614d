//! The one error of this crate's operations.

use std::path::PathBuf;

use crate::hooks::HookError;
use crate::spec::SpecError;
use crate::state::{IdError, IdentityError, StoreError, TransitionError};

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. What it had made until then has been removed again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id cannot be one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The spec is missing, malformed or asks for something impossible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The record cannot be read or written, or there is none.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Who a process is cannot be found out.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The container's state does not allow it.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The cgroup cannot be made or used.
    #[error(transparent)]
    Cgroup(#[from] croze_cgroups::Error),
    /// The seccomp profile cannot be compiled.
    #[error("cannot compile linux.seccomp")]
    Seccomp(#[from] croze_seccomp::Error),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Init reported that one of its steps failed.
    #[error("unable to start container process: {message}")]
    Init {
        /// The step.
        step: String,
        /// What failed on what, and why.
        message: String,
    },
    /// Init ended before it was ready, without a word.
    #[error("the container's first process ended before it was ready ({how})")]
    InitEnded {
        /// How it ended.
        how: String,
    },
    /// A system call failed on this side.
    #[error("cannot {action}")]
    System {
        /// What was being done, and on what.
        action: String,
        /// The call and its error.
        source: croze_sys::Error,
    },
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The combination of terminal, detaching and console socket makes no sense.
    #[error("{0}")]
    Console(ConsoleMisuse),
    /// Something cannot be done to a container in this state.
    #[error("cannot {verb} container {id:?}: {reason}")]
    State {
        /// What was to be done.
        verb: &'static str,
        /// The container.
        id: String,
        /// Why not.
        reason: &'static str,
    },
    /// The container has no kept spec.
    #[error("container {id:?} has no kept config.json: its directory is damaged; delete it with --force")]
    NoSpec {
        /// The container.
        id: String,
    },
    /// An operation failed, and what it had made could not all be removed.
    #[error("{source}; and it could not all be undone: {left}")]
    Undo {
        /// Why the operation failed.
        #[source]
        source: Box<Error>,
        /// What went wrong on the way back.
        left: String,
    },
    /// A field asks for what this host cannot do.
    #[error("{field}: this host lacks what it needs: {feature}")]
    MissingFeature {
        /// The field, as a path through the spec.
        field: &'static str,
        /// What is missing.
        feature: &'static str,
    },
    /// A helper refuses to map ids for this user.
    #[error("{program} refuses: {said}; does {list} give this user these ids?")]
    IdMap {
        /// The helper.
        program: &'static str,
        /// What it said.
        said: String,
        /// Where it looks.
        list: &'static str,
    },
    /// Something that this runtime does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
}

/// Terminals and console sockets that do not go together. The words are those that callers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleMisuse {
    /// A terminal, nobody who stays, and nowhere to send it.
    #[error("cannot allocate tty if runc will detach without setting console socket")]
    NoSocket,
    /// A console socket, but no terminal to send.
    #[error("cannot use console socket if runc will not detach or allocate tty")]
    NoTerminal,
}

/// Adds to a failed system call what was being done, and on what.
pub(crate) trait While<T> {
    /// `action` completes "cannot …".
    fn while_doing(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> While<T> for croze_sys::Result<T> {
    fn while_doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System {
            action: action(),
            source,
        })
    }
}

impl<T> While<T> for std::result::Result<T, rustix::io::Errno> {
    fn while_doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::System {
            action: action(),
            source: croze_sys::Error::new("", errno),
        })
    }
}

/// An error and all its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent wrapper says what its source says.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use croze_sys::Errno;

    #[test]
    fn a_chain_names_every_cause_once() {
        let source = croze_sys::Error::new("setns", Errno::PERM);
        let error = Error::System {
            action: "join the namespace /n".to_owned(),
            source,
        };
        assert_eq!(
            chain(&error),
            "cannot join the namespace /n: setns: operation not permitted"
        );
        assert_eq!(
            chain(&Error::Console(ConsoleMisuse::NoTerminal)),
            ConsoleMisuse::NoTerminal.to_string()
        );
    }
}
