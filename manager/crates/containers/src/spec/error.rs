//! Why a request and an image make no valid container.

use croze_model::{Error, ErrorKind};
use thiserror::Error as ThisError;

/// A request that cannot be carried out, whatever the host does.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum SpecError {
    /// Nothing to run.
    #[error("no command: neither the request nor the image names one")]
    NoCommand,
    /// A path that must be absolute is not.
    #[error("the path {path:?} is not absolute")]
    NotAbsolute {
        /// The path.
        path: String,
    },
    /// A mount that cannot be.
    #[error("the mount on {target:?} is not possible: {reason}")]
    Mount {
        /// Where it should appear.
        target: String,
        /// Why not.
        reason: String,
    },
    /// `user[:group]` is malformed.
    #[error("the user {text:?} is malformed: {reason}")]
    User {
        /// The text.
        text: String,
        /// Why.
        reason: &'static str,
    },
    /// The image has no such user.
    #[error("unable to find user {name:?}: no matching entry in the image's /etc/passwd")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// The image has no such group.
    #[error("unable to find group {name:?}: no matching entry in the image's /etc/group")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// There is no such capability.
    #[error("unknown capability {name:?}")]
    Capability {
        /// The name as given.
        name: String,
    },
    /// There is no such signal.
    #[error("unknown signal {text:?}")]
    Signal {
        /// The text as given.
        text: String,
    },
    /// A limit is out of its range.
    #[error("the limit {name} is not possible: {reason}")]
    Limit {
        /// The option's name.
        name: &'static str,
        /// Why.
        reason: String,
    },
    /// An environment variable is malformed.
    #[error(
        "the environment variable {text:?} is malformed: it needs a name and must not contain a zero byte"
    )]
    Environment {
        /// The text as given.
        text: String,
    },
    /// The hostname is malformed.
    #[error("the hostname {name:?} is malformed: letters, digits, dots and hyphens, at most 63 characters")]
    Hostname {
        /// The name as given.
        name: String,
    },
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        let hint = match &error {
            SpecError::NoCommand => Some("name a command after the image"),
            SpecError::NoSuchUser { .. } | SpecError::NoSuchGroup { .. } => {
                Some("give a number, or a name that the image knows")
            }
            SpecError::Signal { .. } => Some("use a name such as TERM or SIGKILL, or a number from 1 to 64"),
            _ => None,
        };
        let converted = Error::new(ErrorKind::InvalidArgument, "spec", error.to_string());
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}
