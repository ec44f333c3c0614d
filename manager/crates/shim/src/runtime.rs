//! Calls of the OCI runtime: never waited for, looked at when their process ends.
//!
//! The working directory of every call is the shim's, which is the bundle; so all paths handed over are short and relative, whatever the length of the
//! daemon's root (a unix socket's path is limited to 107 bytes).

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use croze_proto::shim::Launch;
use nix::unistd::Pid;

use crate::error::ShimError;

/// How long adding a process may take; whoever asked has long given up by then.
const EXEC_LIMIT: Duration = Duration::from_secs(120);

/// What the runtime was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Create the container.
    Create,
    /// Start it, for the request of a client.
    Start {
        /// The client.
        client: u64,
        /// Its request.
        request: u64,
    },
    /// Add a process.
    Exec {
        /// The key of the process within the shim.
        process: u32,
    },
    /// Delete the container.
    Delete,
}

impl Verb {
    /// The runtime's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start { .. } => "start",
            Self::Exec { .. } => "exec",
            Self::Delete => "delete",
        }
    }
}

/// A call in flight.
#[derive(Debug)]
pub(crate) struct Call {
    /// The runtime's process.
    pub(crate) pid: Pid,
    /// What it does.
    pub(crate) verb: Verb,
    began: Instant,
    log: PathBuf,
}

/// The three standard streams of a call, which the container's process inherits.
pub(crate) struct CallStdio {
    /// Standard input.
    pub(crate) stdin: Stdio,
    /// Standard output.
    pub(crate) stdout: Stdio,
    /// Standard error.
    pub(crate) stderr: Stdio,
}

impl CallStdio {
    /// Nothing to read, nobody listens.
    pub(crate) fn null() -> Self {
        Self {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
        }
    }
}

/// Starts a call; `arguments` follow the verb.
pub(crate) fn call(
    launch: &Launch,
    verb: Verb,
    name: &str,
    arguments: &[&str],
    stdio: CallStdio,
) -> Result<Call, ShimError> {
    let log = PathBuf::from(format!("{name}.runtime.log"));
    // A log of an earlier call of this name would be taken for this one's.
    let _may_not_exist = fs::remove_file(&log);
    // The container must not inherit the shim's protection.
    let protected = set_oom_score(0);
    let spawned = Command::new(&launch.runtime)
        .args(&launch.runtime_args)
        .arg("--root")
        .arg(&launch.runtime_root)
        .arg("--log")
        .arg(&log)
        .args(["--log-format", "json", verb.name()])
        .args(arguments)
        .stdin(stdio.stdin)
        .stdout(stdio.stdout)
        .stderr(stdio.stderr)
        .spawn();
    if protected && verb != Verb::Create {
        protect_from_oom();
    }
    let child = spawned.map_err(|source| ShimError::Runtime {
        program: launch.runtime.clone(),
        source,
    })?;
    Ok(Call {
        pid: Pid::from_raw(child.id().cast_signed()),
        verb,
        began: Instant::now(),
        log,
    })
}

/// Makes this process one of the last that the kernel kills for want of memory, where that is permitted.
pub(crate) fn protect_from_oom() {
    set_oom_score(-999);
}

/// What serves anybody who connects is killed before the rest of the host is, and replaced.
pub(crate) fn expose_to_oom() {
    set_oom_score(0);
}

fn set_oom_score(score: i32) -> bool {
    fs::write("/proc/self/oom_score_adj", score.to_string()).is_ok()
}

impl Call {
    /// When the call is no longer waited for; `end` is the limit that the end of the container's first process sets.
    ///
    /// A create is limited by whoever started the shim, and a start may take as long as its hooks do; delete has its own stage.
    pub(crate) fn deadline(&self, end: Option<Instant>) -> Option<Instant> {
        let own = matches!(self.verb, Verb::Exec { .. }).then(|| self.began + EXEC_LIMIT);
        let end = end.filter(|_| self.verb != Verb::Delete);
        own.into_iter().chain(end).min()
    }

    /// Kills the runtime's process, which is this one's child and not reaped yet.
    pub(crate) fn kill(&self) {
        let _ended_already = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
    }

    /// What the ended call says: nothing, or the runtime's words.
    pub(crate) fn outcome(&self, status: ExitStatus) -> Result<(), String> {
        let words = last_error(&self.log);
        let _may_not_exist = fs::remove_file(&self.log);
        if status.success() {
            return Ok(());
        }
        Err(words.unwrap_or_else(|| match (status.code(), status.signal()) {
            (Some(code), _) => format!("the runtime ended with code {code} and said nothing"),
            (None, Some(signal)) => format!("the runtime was killed by signal {signal}"),
            (None, None) => "the runtime ended in an unknown way".into(),
        }))
    }
}

/// The message of the last line of level error (or fatal) in a runtime's JSON log.
fn last_error(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = value.get("level")?.as_str()?;
        let message = value.get("msg")?.as_str()?;
        matches!(level, "error" | "fatal").then(|| message.trim().to_owned())
    })
}

/// The pid in a pid file.
pub(crate) fn read_pid(path: &Path) -> Result<Pid, ShimError> {
    let text = fs::read_to_string(path).map_err(ShimError::file("read", path))?;
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
        _ => Err(ShimError::PidFile { path: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let table: [(&str, Option<&str>); 4] = [
            ("", None),
            ("{\"level\":\"warning\",\"msg\":\"w\"}\n", None),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\" last \"}\n{\"level\":\"info\",\"msg\":\"i\"}\n",
                Some("last"),
            ),
            ("not json\n{\"level\":\"fatal\",\"msg\":\"f\"}\nhalf {", Some("f")),
        ];
        for (text, expected) in table {
            fs::write(&path, text).unwrap();
            assert_eq!(last_error(&path).as_deref(), expected, "{text:?}");
        }
    }
}
