//! What ends a verb without success: its words, its hint and its exit code.

use std::io;
use std::process::ExitCode;

use croze_client::v1::ErrorKind;

use crate::template::TemplateError;

/// Exit code of a verb that failed, where docker has no special one.
pub(crate) const PLAIN_EXIT_CODE: u8 = 1;
/// Exit code of wrong arguments, and of `run` when the daemon or this program failed.
pub(crate) const USAGE_EXIT_CODE: u8 = 125;
/// A program that a signal ends has this and the signal's number as its exit code.
pub(crate) const SIGNAL_EXIT_BASE: u8 = 128;
const NOT_EXECUTABLE_EXIT_CODE: u8 = 126;
const NOT_FOUND_EXIT_CODE: u8 = 127;

/// Why a verb ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    exit_code: u8,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Client(#[from] croze_client::Error),
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("{message}")]
    Usage {
        message: String,
        hint: Option<&'static str>,
    },
    /// What stands after `--format` makes no sense.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A signal ended it before it was done.
    #[error("{action}: interrupted")]
    Interrupted { action: String },
    /// Everything was said already, once per name.
    #[error("some of the names failed")]
    Reported,
}

impl Failure {
    fn new(reason: Reason) -> Self {
        Self {
            reason,
            exit_code: PLAIN_EXIT_CODE,
        }
    }

    /// The host refused something this program itself does.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::new(Reason::Io {
            action: action.into(),
            source,
        })
    }

    /// The user's words make no sense.
    pub(crate) fn usage(message: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self::new(Reason::Usage {
            message: message.into(),
            hint,
        })
    }

    /// A signal of this number ended what was being done.
    pub(crate) fn interrupted(action: impl Into<String>, signal: u8) -> Self {
        let mut failure = Self::new(Reason::Interrupted {
            action: action.into(),
        });
        failure.exit_code = SIGNAL_EXIT_BASE + signal;
        failure
    }

    /// Failures were printed on the way.
    pub(crate) fn reported() -> Self {
        Self::new(Reason::Reported)
    }

    /// The daemon's kind of error, if it was the daemon that failed.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match &self.reason {
            Reason::Client(error) => error.kind(),
            _ => None,
        }
    }

    /// What failed, in one line.
    pub(crate) fn message(&self) -> String {
        self.reason.to_string()
    }

    /// The same failure with docker's exit code for `run`: 127 and 126 for the command, else `otherwise`. A signal's code stays.
    pub(crate) fn of_command(mut self, otherwise: u8) -> Self {
        if !matches!(self.reason, Reason::Interrupted { .. }) {
            self.exit_code = command_exit_code(self.kind(), otherwise);
        }
        self
    }

    /// Prints the failure and gives its exit code. Standard output closed by its reader is no news.
    pub(crate) fn report(&self) -> ExitCode {
        self.print();
        ExitCode::from(self.exit_code)
    }

    /// Prints the failure and its hint on standard error.
    pub(crate) fn print(&self) {
        match &self.reason {
            Reason::Reported => {}
            Reason::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {}
            Reason::Io { source, .. } => crate::output::error(&format!("{}: {source}", self.reason)),
            Reason::Client(_) | Reason::Usage { .. } | Reason::Template(_) | Reason::Interrupted { .. } => {
                crate::output::error(&self.reason.to_string());
            }
        }
        if let Some(hint) = self.hint() {
            crate::output::hint(hint);
        }
    }

    fn hint(&self) -> Option<&str> {
        match &self.reason {
            Reason::Client(error) => error.hint(),
            Reason::Usage { hint, .. } => *hint,
            Reason::Io { .. } | Reason::Template(_) | Reason::Interrupted { .. } | Reason::Reported => None,
        }
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        Self::new(Reason::Template(error))
    }
}

impl From<croze_client::Error> for Failure {
    fn from(error: croze_client::Error) -> Self {
        Self::new(Reason::Client(error))
    }
}

/// docker's exit codes for a command that did not start.
fn command_exit_code(kind: Option<ErrorKind>, otherwise: u8) -> u8 {
    match kind {
        Some(ErrorKind::CommandNotFound) => NOT_FOUND_EXIT_CODE,
        Some(ErrorKind::CommandNotExecutable) => NOT_EXECUTABLE_EXIT_CODE,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_dockers() {
        for (kind, code) in [
            (Some(ErrorKind::CommandNotFound), 127),
            (Some(ErrorKind::CommandNotExecutable), 126),
            (Some(ErrorKind::NotFound), 125),
            (None, 125),
        ] {
            assert_eq!(command_exit_code(kind, USAGE_EXIT_CODE), code, "{kind:?}");
        }
        assert_eq!(Failure::usage("x", None).exit_code, 1);
        assert_eq!(
            Failure::interrupted("x", 2).of_command(USAGE_EXIT_CODE).exit_code,
            130
        );
    }
}
