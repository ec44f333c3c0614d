//! croze-shim: the small parent of one container.
//!
//! ```text
//!   crozed ──spawn, Launch on stdin──▶ croze-shim ──fork, exec──▶ runtime create | start | exec | delete
//!      ◀──ready | failure on stdout──      │  ▲
//!      ◀═══ shim.sock: protocol ═══════════╡  └─ orphans: it is a subreaper, so the container's processes become its children
//!                                          ├─ stdio: pipes or the terminal ──▶ log, attached clients
//!                                          └─ exit: drain, log and exit record synced, runtime delete, leave
//! ```
//!
//! One thread, one poll loop ([`shim`]); everything in it is non-blocking but the log's file. Invariants:
//!
//! - The container's life and output never depend on crozed: no client is ever waited for. What one has no room for it does not get, and is told
//!   where in the log to find it.
//! - What the container wrote is in the log before more is read; only a disk that refuses loses lines, and they are counted.
//! - While a runtime call is in flight no unknown child is reaped: a process may end before its pid is known, and its status must be there when it is.
//! - A process is signalled through its pidfd only.
//! - When the shim is gone, either the exit record is there (durable, or for this boot only if the container is ephemeral) or the shim was killed; then
//!   crozed recovers from `shim.json`.
//!
//! What it does not do: restart policies, log rotation, anything with images. Called with the word `port-proxy` the program is something else: the
//! process that holds a container's published ports (see [`proxy`]).
#![forbid(unsafe_code)]

mod cgroup;
mod children;
mod client;
mod ending;
mod entry;
mod error;
mod exit;
mod log;
mod process;
mod proxy;
mod requests;
mod runtime;
mod shim;
mod time;
mod waiting;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use croze_proto::shim::{Failure, FailureKind, Launch, Reply, reply};
use prost::Message as _;

use crate::error::ShimError;

/// The only version of [`Launch`] so far.
const LAUNCH_VERSION: u32 = 1;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(proxy::VERB) {
        return exit_code(proxy::main(std::env::args().skip(2)));
    }
    if std::env::args().nth(1).as_deref() == Some("--version") {
        let line = format!("croze-shim version {}\n", env!("CARGO_PKG_VERSION"));
        return exit_code(std::io::stdout().write_all(line.as_bytes()).is_ok());
    }
    let mut shim = match read_launch().and_then(shim::Shim::launch) {
        Ok(shim) => shim,
        Err(error) => {
            let _nobody_needs_to_know = answer(reply::Body::Failure(Failure {
                kind: FailureKind::Internal.into(),
                stage: "shim".into(),
                message: error.to_string(),
            }));
            return ExitCode::FAILURE;
        }
    };
    exit_code(shim.run())
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read_launch() -> Result<Launch, ShimError> {
    let mut bytes = Vec::new();
    let unusable = |reason: String| ShimError::Launch { reason };
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|e| unusable(e.to_string()))?;
    let launch = Launch::decode(bytes.as_slice()).map_err(|e| unusable(e.to_string()))?;
    if launch.version != LAUNCH_VERSION {
        let words = format!(
            "version {} is not {LAUNCH_VERSION}; crozed starts this program",
            launch.version
        );
        return Err(unusable(words));
    }
    Ok(launch)
}

/// Tells crozed how the launch went; says whether somebody could be told.
pub(crate) fn answer(body: reply::Body) -> bool {
    let frame = client::encode(&Reply {
        id: 0,
        body: Some(body),
    });
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&frame).and_then(|()| stdout.flush()).is_ok()
}

/// Notes trouble that nobody can be told about, in the shim's standard error (a file in the run directory).
pub(crate) fn note(error: &dyn std::fmt::Display) {
    let line = format!("{} {error}\n", time::rfc3339(time::now_nanos()));
    let _nowhere_else = std::io::stderr().write_all(line.as_bytes());
}
