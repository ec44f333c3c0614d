//! What can go wrong with containers, and how it is told to users.

use std::io;
use std::path::PathBuf;

use croze_model::{ContainerId, Error, ErrorKind};
use croze_store::{NameTaken, StoreError};
use thiserror::Error as ThisError;

use crate::record::Refused;
use crate::spec::SpecError;

/// A failure of an operation on containers.
#[derive(Debug, ThisError)]
pub enum ContainersError {
    /// There is no such container.
    #[error("no such container: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The name that is spelled most alike, if one is near enough to be meant.
        near: Option<String>,
    },
    /// The beginning of an id fits several containers.
    #[error("{prefix} is the beginning of several container ids: {candidates}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The short ids and names that it fits.
        candidates: String,
    },
    /// The name is taken.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// The container's state does not allow it.
    #[error("container {name} is {state}: {needs}")]
    WrongState {
        /// The container's name.
        name: String,
        /// Its state.
        state: &'static str,
        /// What the request needs.
        needs: &'static str,
    },
    /// A transition was refused: a fault of the program.
    #[error(transparent)]
    Transition(#[from] Refused),
    /// The request and the image do not make a valid container.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The OCI runtime or the shim refused.
    #[error("{stage}: {message}")]
    Runtime {
        /// `create`, `start`, `exec` …
        stage: String,
        /// The runtime's words.
        message: String,
        /// What they mean.
        kind: ErrorKind,
    },
    /// The shim cannot be reached or does not keep to the protocol.
    #[error("the shim of {name}: {reason}")]
    Shim {
        /// The container's name or id.
        name: String,
        /// Why.
        reason: String,
    },
    /// The shim is there and does not answer in time. It may have done what it was asked, or do it later.
    #[error("the shim of {name}: {reason}")]
    ShimSilent {
        /// The container's name or id.
        name: String,
        /// What it was waited for, and how long.
        reason: String,
    },
    /// The process did not end in time.
    #[error("container {name} did not end within {seconds} s of SIGKILL")]
    StillRunning {
        /// The container's name.
        name: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file could not be used.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record could not be stored or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking thread panicked or the daemon is shutting down.
    #[error("the work was interrupted")]
    Interrupted,
}

impl ContainersError {
    /// A container that was there a moment ago.
    pub(crate) fn gone(id: &ContainerId) -> Self {
        Self::NotFound {
            name: id.short().into(),
            near: None,
        }
    }

    pub(crate) fn file(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { call, path, source }
    }
}

/// How the known runtimes begin what they say of the command itself; croze-rt and runc quote its name after the first. Elsewhere in a message (a path, an
/// option such as noexec) the same words mean nothing.
const ABOUT_COMMAND: [&str; 6] = [
    "exec: \"",
    "exec /",
    "exec user process",
    "exec container process",
    "executable file `",
    "open executable",
];

/// Sorts the words of a runtime: `create`, `start` and `exec` of runc, crun and croze-rt name a command that is missing or cannot be executed.
#[must_use]
pub fn classify_runtime_message(message: &str) -> ErrorKind {
    // Messages are chains, `outer: inner: innermost`: a link that begins so is the runtime's own sentence.
    let about = ABOUT_COMMAND.iter().filter_map(|opening| {
        message
            .match_indices(opening)
            .find(|(at, _)| *at == 0 || message[..*at].ends_with(": "))
            .map(|(at, _)| at)
    });
    let Some(sentence) = about.min().map(|at| message[at..].to_ascii_lowercase()) else {
        return ErrorKind::Internal;
    };
    let says = |words: &[&str]| words.iter().any(|w| sentence.contains(w));
    if says(&["not found in", "no such file or directory"]) {
        return ErrorKind::CommandNotFound;
    }
    if says(&["permission denied", "exec format error", "is a directory"]) {
        return ErrorKind::CommandNotExecutable;
    }
    ErrorKind::Internal
}

/// What to do about a command that is missing or cannot be executed: croze-rt's words name the cause where the file shows one.
fn advice_about_command(kind: ErrorKind, message: &str) -> &'static str {
    let says = |words| message.contains(words);
    if says("exec: \"-") {
        "options stand before the image (with exec: before the container); what follows it is the command"
    } else if says("it is a directory") {
        "a directory cannot be executed: name a program"
    } else if says("CR LF") {
        "save the script with Unix line endings: dos2unix FILE, or sed -i 's/\\r$//' FILE"
    } else if says("its interpreter") {
        "put that interpreter into the image, or name one that it has in the script's first line"
    } else if says("its loader") {
        "the program wants another C library than the image has: link it statically, or build it in the same distribution"
    } else if says("it is built for") {
        "fetch the image for this machine (`croze pull --platform`), or build the program for it"
    } else if says("it is neither") || says("it is empty") || says("byte order mark") {
        "a script's first line begins with #! and its interpreter, such as #!/bin/sh"
    } else if kind == ErrorKind::CommandNotFound {
        "check the command's spelling, and that it (or its interpreter) is in the image"
    } else {
        "check the file's execute permission and that it is built for this CPU"
    }
}

impl From<ContainersError> for Error {
    fn from(error: ContainersError) -> Self {
        use ContainersError as E;
        let text = error.to_string();
        match error {
            E::NotFound { near, .. } => {
                let meant = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
                Error::new(ErrorKind::NotFound, "find", text)
                    .hint(format!("{meant}`croze ps -a` lists all containers"))
            }
            E::Ambiguous { .. } => Error::new(ErrorKind::InvalidArgument, "find", text)
                .hint("give more digits of the id, or the name"),
            E::NameTaken(taken) => Error::new(ErrorKind::AlreadyExists, "create", text).hint(format!(
                "`croze rm {0}` frees it (`croze rm -f {0}` while that container runs); or choose another --name",
                taken.name
            )),
            E::WrongState { name, state, .. } => {
                let error = Error::new(ErrorKind::Conflict, "state", text);
                if matches!(state, "created" | "exited") {
                    error.hint(format!("start it first: croze start {name}"))
                } else {
                    error
                }
            }
            E::Transition(_) | E::Interrupted => Error::new(ErrorKind::Internal, "state", text),
            E::Spec(spec) => spec.into(),
            E::Runtime { kind, ref stage, .. } => {
                let stage = match stage.as_str() {
                    "create" => "create",
                    "start" => "start",
                    "exec" => "exec",
                    _ => "runtime",
                };
                let converted = Error::new(kind, stage, text);
                match kind {
                    ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable => {
                        let advice = advice_about_command(kind, converted.what());
                        converted.hint(advice)
                    }
                    _ if converted.what().contains("process.cwd") => converted
                        .hint("--workdir must name a directory in the container that the user may enter"),
                    _ => converted,
                }
            }
            E::Shim { .. } | E::ShimSilent { .. } => Error::new(ErrorKind::Unavailable, "shim", text),
            E::StillRunning { .. } => Error::new(ErrorKind::DeadlineExceeded, "stop", text).hint(
                "a process in uninterruptible sleep cannot be killed: look at the storage it waits for",
            ),
            E::File { call, path, source } => {
                let full = croze_store::is_full(&source);
                let kind = match source.kind() {
                    _ if full => ErrorKind::ResourceExhausted,
                    io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                    _ => ErrorKind::Internal,
                };
                let what = format!("cannot {call} {}", path.display());
                let error = Error::new(kind, "files", what).because(source);
                if full {
                    error.hint(croze_store::full_disk_advice(&path))
                } else {
                    error
                }
            }
            E::Store(store) => store.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_what_the_runtime_found() {
        for (message, words) in [
            (
                r#"exec: "/x": no such file or directory: its first line ends in CR LF, so the interpreter it names is "/bin/sh\r""#,
                "line endings",
            ),
            (
                r#"exec: "/x": no such file or directory: its interpreter "/bin/bash" is not there"#,
                "first line",
            ),
            (
                r#"exec: "/x": no such file or directory: its loader "/lib/ld-musl-x86_64.so.1" is not there"#,
                "C library",
            ),
            (
                r#"exec: "/x": exec format error: it is built for arm64, this machine is amd64"#,
                "for this machine",
            ),
            (
                r#"exec: "/x": exec format error: it is neither a program nor a script that begins with #!"#,
                "#!/bin/sh",
            ),
            (r#"exec: "x": executable file not found in $PATH"#, "spelling"),
            (
                r#"exec: "-it": executable file not found in $PATH"#,
                "stand before the image",
            ),
            (
                r#"exec: "/bin": permission denied: it is a directory"#,
                "name a program",
            ),
            (r#"exec: "/x": permission denied"#, "permission"),
        ] {
            let kind = classify_runtime_message(message);
            assert!(advice_about_command(kind, message).contains(words), "{message}");
        }
    }

    #[test]
    fn an_unknown_container_has_a_name_that_is_near() {
        let error = Error::from(ContainersError::NotFound {
            name: "wbe".into(),
            near: Some("web".into()),
        });
        assert_eq!(error.what(), "no such container: wbe");
        assert_eq!(
            error.advice(),
            Some("did you mean web? `croze ps -a` lists all containers")
        );
    }

    #[test]
    fn runtimes_words_are_sorted() {
        let table = [
            (
                "runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH",
                ErrorKind::CommandNotFound,
            ),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                ErrorKind::CommandNotFound,
            ),
            (
                "exec: \"/nope\": stat /nope: no such file or directory",
                ErrorKind::CommandNotFound,
            ),
            ("exec: \"/etc\": is a directory", ErrorKind::CommandNotExecutable),
            ("exec /bin/x: exec format error", ErrorKind::CommandNotExecutable),
            (
                "exec: \"/etc/passwd\": permission denied",
                ErrorKind::CommandNotExecutable,
            ),
            (
                "exec user process caused: no such file or directory",
                ErrorKind::CommandNotFound,
            ),
            (
                "open executable: Permission denied",
                ErrorKind::CommandNotExecutable,
            ),
            (
                "exec container process `/x`: Exec format error",
                ErrorKind::CommandNotExecutable,
            ),
            (
                "mount /srv/executor/x to /data: no such file or directory",
                ErrorKind::Internal,
            ),
            (
                "chdir to cwd (\"/opt/command\") set in config.json failed: permission denied",
                ErrorKind::Internal,
            ),
            (
                "mount /x with options noexec: permission denied",
                ErrorKind::Internal,
            ),
            ("mount proc: no such file or directory", ErrorKind::Internal),
            ("cgroup: permission denied", ErrorKind::Internal),
        ];
        for (message, kind) in table {
            assert_eq!(classify_runtime_message(message), kind, "{message}");
        }
    }
}
