//! Why a request and an image make no valid container.

use croze_model::{Error, ErrorKind};
use thiserror::Error as ThisError;

/// A request that cannot be carried out, whatever the host does.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum SpecError {
    /// Nothing to run.
    #[error("no command: neither the request nor the image names one")]
    NoCommand,
    /// The host's address is asked for where there is none.
    #[error(
        "the host {name:?} cannot have the address host-gateway: the container's network has no way to the host"
    )]
    NoGateway {
        /// The name that it was to have.
        name: String,
    },
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
    /// There is no such OCI runtime.
    #[error("the runtime {name:?} cannot be used: {reason}; there are: {known}")]
    Runtime {
        /// The name or path as given.
        name: String,
        /// Why not.
        reason: &'static str,
        /// The names that are configured, separated by commas.
        known: String,
    },
    /// A device that cannot be given to a container.
    #[error("the device {device:?} is not possible: {reason}")]
    Device {
        /// The path on the host.
        device: String,
        /// Why not.
        reason: &'static str,
    },
    /// A limit of processes that cannot be set.
    #[error("the ulimit {name:?} is not possible: {reason}")]
    Ulimit {
        /// Its name as given.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A kernel parameter that is not the container's.
    #[error("the sysctl {name:?} is not possible: {reason}")]
    Sysctl {
        /// Its name as given.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A security option that means nothing here.
    #[error("the security option {option:?} is not possible: {reason}")]
    SecurityOption {
        /// The option's beginning.
        option: String,
        /// Why not.
        reason: String,
    },
    /// Two options that contradict each other.
    #[error("conflicting options: {one} and {other}")]
    Conflict {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// The daemon has no croze-init.
    #[error("there is no init program to put before the command")]
    NoInit,
    /// A name that would not be one word in a file.
    #[error("the name {name:?} is malformed: it must be one word of at most 255 bytes")]
    Name {
        /// The name as given.
        name: String,
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
            SpecError::Capability { .. } => {
                Some("capabilities(7) has the names, such as NET_ADMIN; ALL is every one")
            }
            SpecError::NotAbsolute { .. } => Some("paths in a container begin with /"),
            SpecError::NoSuchUser { .. } | SpecError::NoSuchGroup { .. } => {
                Some("give a number, or a name that the image knows")
            }
            SpecError::Signal { .. } => Some("use a name such as TERM or SIGKILL, or a number from 1 to 64"),
            SpecError::NoInit => Some("install croze-init beside crozed, or name it with crozed's --init"),
            SpecError::Runtime { .. } => {
                Some("add it to croze.toml as [runtimes.NAME], or give an absolute path")
            }
            _ => None,
        };
        let converted = Error::new(ErrorKind::InvalidArgument, "spec", error.to_string());
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}
