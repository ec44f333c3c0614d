//! What can go wrong in the shim.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A failure that the shim reports to crozed, or in its own log.
#[derive(Debug, Error)]
pub(crate) enum ShimError {
    /// A system call failed.
    #[error("{call}: {source}")]
    Call {
        /// Which one, and on what.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file could not be used.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came on standard input is no launch message.
    #[error("the launch message on standard input is unusable: {reason}")]
    Launch {
        /// Why.
        reason: String,
    },
    /// The runtime's program cannot be executed.
    #[error("cannot execute the runtime {program}: {source}")]
    Runtime {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The runtime succeeded and did not say which process it made.
    #[error("the runtime left no usable pid file at {}", path.display())]
    PidFile {
        /// The pid file.
        path: PathBuf,
    },
}

impl ShimError {
    pub(crate) fn call<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Call {
            call,
            source: source.into(),
        }
    }

    pub(crate) fn file<E: Into<io::Error>>(
        call: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File {
            call,
            path,
            source: source.into(),
        }
    }
}
