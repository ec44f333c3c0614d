//! The one error that crosses the manager's crate borders.
//!
//! Every crate keeps an enum of its own for what can go wrong inside it; at its public border that enum becomes an [`Error`],
//! which carries all that a user needs to act: what failed, during which stage, why, and what to do about it. Doors map
//! [`ErrorKind`] to their wire by one table each.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for results that carry the manager's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is, from the caller's point of view. Each door maps it to one code of its wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong and would be wrong on any host.
    InvalidArgument,
    /// What was named does not exist.
    NotFound,
    /// The name or identifier is taken.
    AlreadyExists,
    /// The thing exists but is not in a state that allows the request (running, in use, stopped).
    Conflict,
    /// A registry or a peer wants to know who is asking.
    Unauthenticated,
    /// Who asks is known and may not.
    PermissionDenied,
    /// A registry, the runtime or a shim cannot be reached now; trying again later may succeed.
    Unavailable,
    /// No space, no memory, too many of something.
    ResourceExhausted,
    /// What arrived or was read is not what its digest, size or format promised.
    Corrupt,
    /// The host or this build cannot do it.
    Unsupported,
    /// A stated time was over.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// The container's command is not there (exit code 127 of `docker run`).
    CommandNotFound,
    /// The container's command cannot be executed (exit code 126 of `docker run`).
    CommandNotExecutable,
    /// Our own fault, or the host's in a way we do not know.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables that must be complete.
    pub const ALL: [ErrorKind; 15] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Unavailable,
        Self::ResourceExhausted,
        Self::Corrupt,
        Self::Unsupported,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::CommandNotFound,
        Self::CommandNotExecutable,
        Self::Internal,
    ];

    /// The kind's stable name on every wire and in JSON logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::CommandNotFound => "command_not_found",
            Self::CommandNotExecutable => "command_not_executable",
            Self::Internal => "internal",
        }
    }

    /// The kind with this stable name, if there is one (a newer peer may send names we do not know).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where in the work the failure happened: a short stable word such as `resolve`, `download`, `unpack`, `create`.
pub type Stage = &'static str;

/// A failure with all that a user needs: what failed, on which thing, why, and what to do.
///
/// `Display` prints only [`Error::what`]; the reasons follow through [`StdError::source`] and [`Error::causes`].
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    stage: Stage,
    what: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    /// A failure of `kind` during `stage`; `what` is a lower-case phrase that names the thing it happened to.
    pub fn new(kind: ErrorKind, stage: Stage, what: impl Into<String>) -> Self {
        Self {
            kind,
            stage,
            what: what.into(),
            cause: None,
            hint: None,
        }
    }

    /// The same failure with the lower-level error that caused it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same failure with advice on what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure's kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The stage of the work that failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What failed, and on which thing.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The chain of reasons, outermost first. A reason whose text the one before it already ends with is left out, so that nothing is said
    /// twice.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            let said = causes.last().map_or(self.what.as_str(), String::as_str);
            if !said.ends_with(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }

    /// The failure in one line: what, then every cause, joined by `: `.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.what.clone();
        for cause in self.causes() {
            line.push_str(": ");
            line.push_str(&cause);
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause
            .as_deref()
            .map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_unique_names_that_parse_back() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.as_str()), Some(kind));
        }
        assert_eq!(ErrorKind::from_name("unheard_of"), None);
    }

    #[test]
    fn one_line_names_every_cause_once() {
        let inner = std::io::Error::other("no space left on device");
        let error = Error::new(
            ErrorKind::ResourceExhausted,
            "unpack",
            "cannot write layer sha256:ab",
        )
        .because(Error::new(ErrorKind::Internal, "write", "write etc/passwd").because(inner))
        .hint("free some space and pull again");
        assert_eq!(
            error.one_line(),
            "cannot write layer sha256:ab: write etc/passwd: no space left on device"
        );
        assert_eq!(error.advice(), Some("free some space and pull again"));
    }

    #[test]
    fn a_cause_already_quoted_is_not_said_twice() {
        let inner = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Unavailable, "resolve", "dial: connection refused").because(inner);
        assert_eq!(error.one_line(), "dial: connection refused");
    }
}
