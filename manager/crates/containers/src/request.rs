//! What a container is asked to be: the request as given, and the facts of its image.
//!
//! Both are stored unchanged in the container's record; everything that follows from them (the OCI spec) is computed at each start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use croze_model::{ContainerName, ExposedPorts, Platform};
use croze_store::Durable;
use serde::{Deserialize, Serialize};

use crate::networking::{Network, NetworkOptions};
use crate::options::Options;

/// A container as requested. The default is a container with the image's own settings, no network and no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// The wanted name; one is made up without it.
    pub name: Option<ContainerName>,
    /// The image as the user wrote it.
    pub image: String,
    /// The command; empty: the image's.
    pub command: Vec<String>,
    /// Replaces the image's entrypoint; an empty one means that there is none.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, or `NAME` to take a variable away; over the image's.
    pub env: Vec<String>,
    /// Absolute working directory; `None`: the image's, else `/`.
    pub working_dir: Option<String>,
    /// `user[:group]`; `None`: the image's, else root.
    pub user: Option<String>,
    /// `None`: the first twelve digits of the id.
    pub hostname: Option<String>,
    /// Terminal and standard input.
    pub io: IoConfig,
    /// Host directories and files that appear inside.
    pub mounts: Vec<BindMount>,
    /// The kind of network.
    pub network: Network,
    /// Ports and addresses.
    pub network_options: NetworkOptions,
    /// Limits.
    pub resources: Resources,
    /// Capabilities over the default ones: names with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken away: names with or without `CAP_`, or `ALL`.
    pub cap_drop: Vec<String>,
    /// The root file system cannot be written to.
    pub read_only: bool,
    /// The engine removes the container when it has ended.
    pub auto_remove: bool,
    /// Its client starts it next: if it goes away before, a container that removes itself is removed.
    #[serde(default)]
    pub start_follows: bool,
    /// Free pairs.
    pub labels: BTreeMap<String, String>,
    /// Signal of `stop`, name or number; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL; `None`: 10 s.
    pub stop_timeout: Option<Duration>,
    /// The platform that the image must be for, if one was asked for by name.
    pub platform: Option<Platform>,
    /// Everything that is asked for more rarely.
    pub options: Options,
}

impl CreateRequest {
    /// How durable the facts of this container are. What `run --rm` makes does not outlive a power cut: whatever a cut takes back of it, even
    /// its removal, recovery removes it. One that is created only is kept by recovery until it has run, so it is owed what others are.
    #[must_use]
    pub fn durable(&self) -> Durable {
        if self.auto_remove && self.start_follows {
            Durable::Soon
        } else {
            Durable::Now
        }
    }
}

/// How the first process's standard streams are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoConfig {
    /// A pseudo terminal for all three.
    pub tty: bool,
    /// Standard input can be written to by attached clients; else it is empty.
    pub open_stdin: bool,
    /// Standard input ends when the first client that wrote to it leaves.
    pub stdin_once: bool,
}

/// A host directory or file that appears in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Writes are refused.
    pub read_only: bool,
    /// How mounts travel.
    pub propagation: Propagation,
    /// Whether mounts below the source come along.
    pub recursive: bool,
    /// Whether what is mounted below a read-only source is read-only too.
    #[serde(default)]
    pub read_only_below: ReadOnlyBelow,
    /// Whether a missing source becomes a directory (what `-v` does) or an error.
    pub create_source: bool,
}

/// What a read-only bind means for the mounts below its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadOnlyBelow {
    /// Read-only as well, where the kernel (5.12) and the runtime can do that.
    #[default]
    WherePossible,
    /// As they are.
    Never,
    /// Read-only as well; the container does not start where that cannot be.
    Always,
}

/// Propagation of a bind mount, by the names of mount(8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names of mount(8) are their documentation")]
pub enum Propagation {
    #[default]
    Rprivate,
    Private,
    Rshared,
    Shared,
    Rslave,
    Slave,
}

impl Propagation {
    /// The mount option.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rprivate => "rprivate",
            Self::Private => "private",
            Self::Rshared => "rshared",
            Self::Shared => "shared",
            Self::Rslave => "rslave",
            Self::Slave => "slave",
        }
    }

    /// The propagation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Rprivate,
            Self::Private,
            Self::Rshared,
            Self::Shared,
            Self::Rslave,
            Self::Slave,
        ]
        .into_iter()
        .find(|p| p.as_str() == name)
    }
}

/// Limits of one container; `None` means that there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory and swap together; -1: unlimited swap; `None`: twice the memory.
    pub memory_swap_bytes: Option<i64>,
    /// Billionths of one CPU.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub pids_limit: Option<u64>,
    /// Relative weight of CPU time, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use: `0-1`.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory down to which it is squeezed when the host is short of it.
    pub memory_reservation_bytes: Option<u64>,
    /// Microseconds of CPU time in each period; an alternative to `nano_cpus`.
    pub cpu_quota_micros: Option<i64>,
    /// Length of the period, microseconds.
    pub cpu_period_micros: Option<u64>,
    /// Its processes wait instead of being killed for want of memory (cgroup v1).
    pub oom_kill_disable: bool,
}

/// What a container takes from its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// The image's id (digest of its config).
    pub id: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Start of the command line.
    pub entrypoint: Vec<String>,
    /// Default command.
    pub cmd: Vec<String>,
    /// Working directory, may be empty.
    pub working_dir: String,
    /// `user[:group]`, may be empty.
    pub user: String,
    /// Free pairs.
    pub labels: BTreeMap<String, String>,
    /// Signal of `stop`.
    pub stop_signal: Option<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Ports that its programs listen on.
    pub exposed_ports: Vec<ExposedPorts>,
}

impl ImageFacts {
    /// The facts of an image with this id and this OCI configuration.
    #[must_use]
    pub fn from_config(id: impl Into<String>, image: &oci_spec::image::ImageConfiguration) -> Self {
        let mut facts = Self {
            id: id.into(),
            ..Self::default()
        };
        let Some(config) = image.config() else {
            return facts;
        };
        facts.env = config.env().clone().unwrap_or_default();
        facts.entrypoint = config.entrypoint().clone().unwrap_or_default();
        facts.cmd = config.cmd().clone().unwrap_or_default();
        facts.working_dir = config.working_dir().clone().unwrap_or_default();
        facts.user = config.user().clone().unwrap_or_default();
        facts.labels = config.labels().clone().unwrap_or_default().into_iter().collect();
        facts.stop_signal = config.stop_signal().clone();
        facts.volumes = config.volumes().clone().unwrap_or_default();
        facts.volumes.sort();
        // What is no port is the image's mistake, and nobody's who runs it.
        let exposed = config.exposed_ports().iter().flatten();
        facts.exposed_ports = exposed.filter_map(|text| text.parse().ok()).collect();
        facts
    }
}

/// A process to be added to a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct ExecRequest {
    /// The process's arguments.
    pub command: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// Absolute; `None`: the container's.
    pub working_dir: Option<String>,
    /// `user[:group]`; `None`: the container's.
    pub user: Option<String>,
    /// It gets every capability.
    pub privileged: bool,
    /// It gets a terminal.
    pub tty: bool,
    /// Its standard input is connected.
    pub stdin: bool,
    /// It is left running; the stream ends after it has begun.
    pub detach: bool,
    /// First size of the terminal.
    pub size: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_recovery_removes_anyway_may_be_lost_to_a_power_cut() {
        for (auto_remove, start_follows, durable) in [
            (false, false, Durable::Now),
            (false, true, Durable::Now),
            (true, false, Durable::Now),
            (true, true, Durable::Soon),
        ] {
            let request = CreateRequest {
                auto_remove,
                start_follows,
                ..CreateRequest::default()
            };
            assert_eq!(request.durable(), durable, "{auto_remove} {start_follows}");
        }
    }
}
