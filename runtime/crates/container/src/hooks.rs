//! Hooks: programs of the caller's that run at fixed moments of a container's life.
//!
//! | kind | who runs it, where | when | if it fails |
//! |---|---|---|---|
//! | prestart, createRuntime | the parent, host | namespaces and mounts are made, the root is not switched | create fails |
//! | createContainer | init, in the namespaces, host's tree | after the former | create fails |
//! | startContainer | init, container's tree | start was called, before the command | start fails |
//! | poststart | `start`, host | the command runs | start fails, the container is killed |
//! | poststop | `delete`, host | everything is removed | reported, delete goes on |
//!
//! A hook gets the container's state as JSON on its standard input and, if it has one, nothing but its own environment. What it writes is
//! kept in memory and shown, its end at least, only if it fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks};
use rustix::fs::MemfdFlags;
use serde::Serialize;

use crate::state::Record;

/// How much of a failed hook's output is shown.
const SHOWN_OUTPUT: u64 = 2048;

/// The moments at which hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Deprecated by the specification, still used.
    Prestart,
    /// In the runtime's namespaces, before the root is switched.
    CreateRuntime,
    /// In the container's namespaces, before the root is switched.
    CreateContainer,
    /// In the container, before the command.
    StartContainer,
    /// After the command was started.
    Poststart,
    /// After the container was deleted.
    Poststop,
}

impl Kind {
    /// The field of the spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// A hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be run, or its state could not be handed over.
    #[error("cannot run the {kind} hook {}", path.display())]
    Run {
        /// Which kind.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("the {kind} hook {} failed ({how}){output}", path.display())]
    Failed {
        /// Which kind.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// `exit status N` or `signal N`.
        how: String,
        /// What it had to say, with a colon in front, or nothing.
        output: String,
    },
    /// It took longer than it may.
    #[error("the {kind} hook {} did not end within its timeout of {seconds} s and was killed", path.display())]
    TimedOut {
        /// Which kind.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// The time that it had.
        seconds: u64,
    },
}

/// The container's state as hooks read it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// The spec's version.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'static str,
    /// The first process, in the reader's pid namespace.
    pub pid: i32,
    /// The bundle.
    pub bundle: PathBuf,
    /// The spec's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl HookState {
    /// The state of a recorded container.
    pub fn of(record: &Record, status: &'static str, pid: i32) -> Self {
        Self {
            oci_version: record.oci_version.clone(),
            id: record.id.clone(),
            status,
            pid,
            bundle: record.bundle.clone(),
            annotations: record.annotations.clone(),
        }
    }
}

/// The hooks of one kind.
pub fn of_kind(hooks: Option<&Hooks>, kind: Kind) -> &[Hook] {
    let Some(hooks) = hooks else { return &[] };
    let list = match kind {
        Kind::Prestart => hooks.prestart(),
        Kind::CreateRuntime => hooks.create_runtime(),
        Kind::CreateContainer => hooks.create_container(),
        Kind::StartContainer => hooks.start_container(),
        Kind::Poststart => hooks.poststart(),
        Kind::Poststop => hooks.poststop(),
    };
    list.as_deref().unwrap_or_default()
}

/// Runs hooks in their order up to the first that fails.
///
/// # Errors
/// What that one failed with.
pub fn run(hooks: &[Hook], kind: Kind, state: &HookState) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run_one(hook, kind, state))
}

/// Runs the poststop hooks of a container that was deleted, all of them; returns what failed.
pub fn poststop(hooks: Option<&Hooks>, record: &Record) -> Vec<HookError> {
    let state = HookState::of(record, "stopped", 0);
    let hooks = of_kind(hooks, Kind::Poststop);
    hooks
        .iter()
        .filter_map(|hook| run_one(hook, Kind::Poststop, &state).err())
        .collect()
}

fn run_one(hook: &Hook, kind: Kind, state: &HookState) -> Result<(), HookError> {
    let path = hook.path();
    let cannot_run = |source| HookError::Run {
        kind: kind.name(),
        path: path.clone(),
        source,
    };
    let output = memory_file().map_err(cannot_run)?;
    let input = input(state).map_err(cannot_run)?;
    let mut child = command(hook, input, &output)
        .map_err(cannot_run)?
        .spawn()
        .map_err(cannot_run)?;
    if let Some(seconds) = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()) {
        let ended = croze_sys::pidfd::open(child.id() as i32)
            .and_then(|pidfd| croze_sys::pidfd::wait_ended(pidfd, Some(Duration::from_secs(seconds))))
            .map_err(|error| cannot_run(error.into()))?;
        if !ended {
            child.kill().and_then(|()| child.wait()).map_err(cannot_run)?;
            return Err(HookError::TimedOut {
                kind: kind.name(),
                path: path.clone(),
                seconds,
            });
        }
    }
    let status = child.wait().map_err(cannot_run)?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Err(HookError::Failed {
        kind: kind.name(),
        path: path.clone(),
        how,
        output: last_words(output),
    })
}

fn command(hook: &Hook, input: File, output: &File) -> std::io::Result<Command> {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    // The first argument is the name that the program sees itself called by.
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    // Without a list of its own a hook has the caller's environment, as with runc and crun: scripts count on a PATH.
    if let Some(env) = hook.env() {
        command.env_clear();
        for pair in env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            command.env(name, value);
        }
    }
    command
        .stdin(Stdio::from(input))
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    if hook.path().is_absolute() {
        return Ok(command);
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        "its path is not absolute",
    ))
}

/// A memory file instead of a pipe: a hook that does not read its input, or writes a lot, cannot block anybody.
fn memory_file() -> std::io::Result<File> {
    let fd: OwnedFd = rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

fn input(state: &HookState) -> std::io::Result<File> {
    let mut file = memory_file()?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn last_words(mut output: File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let read = output
        .seek(SeekFrom::Start(length.saturating_sub(SHOWN_OUTPUT)))
        .and_then(|_| output.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    match (read, text.trim()) {
        (Ok(_), words) if !words.is_empty() => format!(": {words}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::HookBuilder;

    fn state() -> HookState {
        HookState {
            oci_version: "1.2.0".to_owned(),
            id: "c".to_owned(),
            status: "creating",
            pid: 7,
            bundle: PathBuf::from("/bundle"),
            annotations: BTreeMap::new(),
        }
    }

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        let mut hook = HookBuilder::default()
            .path("/bin/sh")
            .args(args)
            .env(vec!["A=b".to_owned()])
            .build()
            .expect("complete");
        hook.set_timeout(timeout);
        hook
    }

    #[test]
    fn a_hook_reads_the_state_and_has_only_its_own_environment() {
        let script = r#"read -r line; [ "$A" = b ] && [ -z "$HOME" ] && [ "$line" = "$EXPECTED" ]"#;
        let mut hook = shell(script, None);
        let expected = r#"{"ociVersion":"1.2.0","id":"c","status":"creating","pid":7,"bundle":"/bundle"}"#;
        hook.set_env(Some(vec!["A=b".to_owned(), format!("EXPECTED={expected}")]));
        run(&[hook], Kind::CreateRuntime, &state()).expect("the script agrees");
    }

    #[test]
    fn a_hook_without_an_environment_has_the_callers() {
        let mut hook = shell(r#"[ "$PATH" = "$0" ]"#, None);
        hook.set_env(None);
        let mut args = hook.args().clone().unwrap_or_default();
        args.push(std::env::var("PATH").unwrap_or_default());
        hook.set_args(Some(args));
        run(&[hook], Kind::CreateRuntime, &state()).expect("the same path");
    }

    #[test]
    fn a_failure_says_how_and_shows_the_last_words() {
        let error = run(
            &[shell("echo no luck >&2; exit 3", None)],
            Kind::Prestart,
            &state(),
        )
        .expect_err("it fails");
        assert_eq!(
            error.to_string(),
            "the prestart hook /bin/sh failed (exit status 3): no luck"
        );
        let error = run(&[shell("kill -9 $$", None)], Kind::Prestart, &state()).expect_err("it fails");
        assert_eq!(error.to_string(), "the prestart hook /bin/sh failed (signal 9)");
    }

    #[test]
    fn a_hook_that_does_not_end_is_killed() {
        let error = run(
            &[shell("read -r x < /dev/ptmx", Some(0))],
            Kind::Poststart,
            &state(),
        )
        .expect_err("too late");
        assert!(matches!(error, HookError::TimedOut { seconds: 0, .. }), "{error}");
    }

    #[test]
    fn hooks_stop_at_the_first_failure_and_need_absolute_paths() {
        let mut relative = shell("exit 0", None);
        relative.set_path(PathBuf::from("sh"));
        let error =
            run(&[relative, shell("exit 9", None)], Kind::Prestart, &state()).expect_err("not absolute");
        assert!(matches!(error, HookError::Run { .. }), "{error}");
    }
}
