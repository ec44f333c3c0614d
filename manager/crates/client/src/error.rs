//! What can go wrong between a client and the daemon, or inside the daemon.

use std::io;

use croze_proto::ERROR_DETAIL_KEY;
use croze_proto::v1::{ErrorDetail, ErrorKind};
use prost::Message as _;
use tonic::Code;

/// A failed connection or a failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint's text is not one.
    #[error("{text:?} is not where a daemon can listen: {reason}")]
    InvalidEndpoint {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No connection came about.
    #[error("cannot connect to the croze daemon at {endpoint}: {failure}")]
    Connect {
        /// Where it was tried.
        endpoint: String,
        /// Why not.
        failure: ConnectFailure,
    },
    /// The daemon speaks another version of the API.
    #[error("the daemon speaks version {daemon} of the API, this client version {client}")]
    VersionMismatch {
        /// The daemon's.
        daemon: u32,
        /// This client's.
        client: u32,
    },
    /// The connection broke while a call was under way.
    #[error("the connection to the daemon was lost: {message}")]
    Lost {
        /// What the transport said.
        message: String,
    },
    /// The daemon broke the protocol, for instance by ending a stream before its last message.
    #[error("the daemon's answer is incomplete: {expected} is missing")]
    Protocol {
        /// What should have come.
        expected: &'static str,
    },
    /// The daemon answered with an error.
    #[error("{}", one_line(.0))]
    Daemon(ErrorDetail),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectFailure {
    /// There is no socket.
    NoSocket,
    /// There is a socket, and nobody listens.
    NobodyListens,
    /// This user may not use the socket.
    PermissionDenied,
    /// Something else.
    Io(io::Error),
}

impl std::fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSocket => f.write_str("there is no such socket; is the daemon running?"),
            Self::NobodyListens => f.write_str("nobody listens on it; the daemon is not running"),
            Self::PermissionDenied => f.write_str("permission denied"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl ConnectFailure {
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::NobodyListens,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            _ => Self::Io(error),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSocket | Self::NobodyListens => Some(
                "start it as root: `systemctl start croze`, or `croze daemon` in a terminal of its own; or name another one with --host or CROZE_HOST",
            ),
            Self::PermissionDenied => Some(
                "use sudo, or join the group croze (`sudo usermod -aG croze $USER`, then log in anew); its members are as powerful as root",
            ),
            Self::Io(_) => None,
        }
    }
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::InvalidEndpoint { .. } => {
                Some("name its socket: --host unix:///run/croze/croze.sock, or CROZE_HOST in the environment")
            }
            Self::Connect { failure, .. } => failure.hint(),
            Self::VersionMismatch { daemon, client } if daemon < client => {
                Some("the daemon is older than this client: restart it with the installed version")
            }
            Self::VersionMismatch { .. } => {
                Some("this client is older than the daemon: install the daemon's version of it")
            }
            Self::Lost { .. } => Some(
                "containers go on without the daemon; once it runs again, see `croze ps`, `croze logs` and `croze attach`",
            ),
            Self::Protocol { .. } => None,
            Self::Daemon(detail) => Some(detail.hint.as_str()).filter(|hint| !hint.is_empty()),
        }
    }

    /// The daemon's kind of error, if it was the daemon that failed.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Daemon(detail) => Some(detail.kind()),
            _ => None,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        if let Some(detail) = detail_of(&status) {
            return Self::Daemon(detail);
        }
        match status.code() {
            // The transport's own failures carry no detail of ours.
            Code::Unavailable | Code::Unknown | Code::Cancelled => Self::Lost {
                message: status_text(&status),
            },
            code => Self::Daemon(ErrorDetail {
                kind: kind_of(code).into(),
                stage: "call".to_owned(),
                what: status_text(&status),
                causes: Vec::new(),
                hint: String::new(),
            }),
        }
    }
}

/// What a status says: its message, the causes below it, else its code's meaning.
fn status_text(status: &tonic::Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

fn detail_of(status: &tonic::Status) -> Option<ErrorDetail> {
    let bytes = status.metadata().get_bin(ERROR_DETAIL_KEY)?.to_bytes().ok()?;
    ErrorDetail::decode(bytes).ok()
}

/// The kind that comes closest to a status code without detail (a gRPC layer's own refusals).
fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::FailedPrecondition | Code::Aborted => ErrorKind::Conflict,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        _ => ErrorKind::Internal,
    }
}

/// What failed and why, in one line.
fn one_line(detail: &ErrorDetail) -> String {
    let mut line = detail.what.clone();
    for cause in &detail.causes {
        line.push_str(": ");
        line.push_str(cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    #[test]
    fn a_detail_survives_the_wire() {
        let detail = ErrorDetail {
            kind: ErrorKind::NotFound.into(),
            stage: "resolve".to_owned(),
            what: "no such image: x".to_owned(),
            causes: vec!["manifest unknown".to_owned()],
            hint: "look at its name".to_owned(),
        };
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(
            ERROR_DETAIL_KEY,
            MetadataValue::from_bytes(&detail.encode_to_vec()),
        );
        let error = Error::from(tonic::Status::with_metadata(Code::NotFound, "ignored", metadata));
        assert_eq!(error.to_string(), "no such image: x: manifest unknown");
        assert_eq!(error.hint(), Some("look at its name"));
        assert_eq!(error.kind(), Some(ErrorKind::NotFound));
    }

    #[test]
    fn a_status_without_detail_is_still_an_error_with_words() {
        for (code, kind) in [
            (Code::Unimplemented, Some(ErrorKind::Unsupported)),
            (Code::DeadlineExceeded, Some(ErrorKind::DeadlineExceeded)),
            (Code::Unavailable, None),
        ] {
            let error = Error::from(tonic::Status::new(code, "words"));
            assert_eq!(error.kind(), kind, "{code:?}");
            assert!(error.to_string().contains("words"), "{error}");
        }
    }

    #[test]
    fn each_failed_connection_has_its_own_words() {
        for (kind, words) in [
            (io::ErrorKind::NotFound, "is the daemon running?"),
            (io::ErrorKind::ConnectionRefused, "nobody listens"),
            (io::ErrorKind::PermissionDenied, "permission denied"),
            (io::ErrorKind::TimedOut, "timed out"),
        ] {
            let failure = ConnectFailure::from_io(kind.into());
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}
