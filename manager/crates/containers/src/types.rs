//! What the operations take and give.

use std::path::PathBuf;

use bytes::Bytes;
use croze_model::{ContainerId, ContainerName};
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::error::ContainersError;
use crate::options::CgroupView;
use crate::record::{Container, ExitStatus};
use crate::runtimes::Runtimes;

/// Where things are and which programs are used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Durable state, such as `/var/lib/croze/containers`.
    pub state_dir: PathBuf,
    /// State of this boot, such as `/run/croze/containers`.
    pub run_dir: PathBuf,
    /// The OCI runtimes.
    pub runtimes: Runtimes,
    /// The runtimes' `--root`, such as `/run/croze/rt`.
    pub runtime_root: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// croze-init, for containers that ask for it.
    pub init: Option<PathBuf>,
}

/// What `create` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The identifier.
    pub id: ContainerId,
    /// The name, given or made up.
    pub name: ContainerName,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Something happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its command was executed.
    Started {
        /// Which one.
        id: ContainerId,
    },
    /// Its first process has ended, and the runtime has deleted it; its rootfs is no longer in use.
    Exited {
        /// Which one.
        id: ContainerId,
        /// How.
        status: ExitStatus,
        /// The request asks for its removal.
        auto_remove: bool,
    },
    /// It was prepared, never started, and is as it was before; its rootfs is no longer in use.
    TakenBack {
        /// Which one.
        id: ContainerId,
    },
    /// Its record is gone.
    Removed {
        /// Which one.
        id: ContainerId,
    },
}

/// Everything about one container.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The record.
    pub container: Container,
    /// Its first process while it runs.
    pub pid: Option<u32>,
    /// Its shim while there is one.
    pub shim_pid: Option<u32>,
    /// The process's arguments.
    pub args: Vec<String>,
    /// The variables that the request and the image say; what every process gets besides is not among them.
    pub env: Vec<String>,
    /// The process's working directory.
    pub working_dir: String,
    /// `user[:group]`.
    pub user: String,
    /// The hostname.
    pub hostname: String,
    /// Signal of `stop`, by name.
    pub stop_signal: String,
    /// Which cgroups it sees, asked for or by default.
    pub cgroup_view: CgroupView,
    /// The log.
    pub log_path: PathBuf,
    /// The bundle.
    pub bundle_path: PathBuf,
    /// The OCI runtime, by its name or path.
    pub runtime: String,
    /// Log lines that could not be written.
    pub log_lines_dropped: u64,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Of these, only what was written at this time or later.
    pub since: Option<Timestamp>,
    /// Of these, only what was written before this time or at it; a log that is followed ends then.
    pub until: Option<Timestamp>,
}

/// One entry of a log: a line, or a part of a very long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Whether it was written to standard error.
    pub stderr: bool,
    /// When the shim read it, RFC 3339 with nanoseconds.
    pub time: String,
    /// The text, with its line end if it has one.
    pub data: Bytes,
}

/// The entries of a log in their order.
pub type LogStream = BoxStream<'static, Result<LogEntry, ContainersError>>;

/// What recovery found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Containers that still run.
    pub running: Vec<ContainerId>,
    /// Containers that ended while nobody looked; an [`Event::Exited`] is sent for each.
    pub ended: Vec<ContainerId>,
    /// Containers that could not be looked at, and why.
    pub failed: Vec<(ContainerId, String)>,
}
