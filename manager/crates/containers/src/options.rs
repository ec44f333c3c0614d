//! What a container is asked to be beyond its command, its mounts and its limits: devices, namespaces, rights, names.
//!
//! Stored unchanged in the record, as the rest of the request is; `spec` gives it its meaning and refuses what cannot be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Options of one container. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Memory file systems of its own.
    pub tmpfs: Vec<TmpfsMount>,
    /// Every right that its root could have: all capabilities and devices, no filter, nothing masked.
    pub privileged: bool,
    /// croze-init is its first process, and the command that one's child.
    pub init: bool,
    /// The OCI runtime: a configured name, or an absolute path; `None`: the daemon's default.
    pub runtime: Option<String>,
    /// Devices of the host that it may use.
    pub devices: Vec<DeviceMapping>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; `None`: 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
    /// What stands in `/etc/resolv.conf` instead of the host's.
    pub dns: Dns,
    /// Further groups of its processes, names or numbers.
    pub group_add: Vec<String>,
    /// docker's `--security-opt`, `KEY[=VALUE]`: `no-new-privileges`, `seccomp=unconfined` or a profile's JSON, `apparmor=`, `label=`,
    /// `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces are the host's.
    pub namespaces: NamespaceModes,
    /// How readily the kernel kills it for want of memory, -1000 to 1000; `None`: 0.
    pub oom_score_adj: Option<i32>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Pairs for the OCI spec.
    pub annotations: BTreeMap<String, String>,
    /// Limits of what it may write besides its mounts, as given: whoever makes its file system gives them their meaning.
    pub storage_opt: BTreeMap<String, String>,
}

/// A memory file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub target: String,
    /// Options of mount(8), separated by commas; over `rw,nosuid,nodev,noexec`.
    pub options: String,
}

/// A device of the host, or all in a directory of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Of `r` (read), `w` (write) and `m` (make nodes).
    pub permissions: String,
}

/// A limit as setrlimit(2) has it; -1: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The name without `RLIMIT_`, such as `nofile`.
    pub name: String,
    /// What is in force.
    pub soft: i64,
    /// How far the process may raise it.
    pub hard: i64,
}

/// A name for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// The address.
    pub address: HostAddress,
}

/// What a name of `/etc/hosts` stands for; as text an address, or `host-gateway`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum HostAddress {
    /// An address.
    Ip(IpAddr),
    /// The host's, as the container sees it: known when it is connected.
    Gateway,
}

const HOST_GATEWAY: &str = "host-gateway";

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Gateway => f.write_str(HOST_GATEWAY),
        }
    }
}

impl FromStr for HostAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            HOST_GATEWAY => Ok(Self::Gateway),
            _ => text.parse().map(Self::Ip),
        }
    }
}

impl From<HostAddress> for String {
    fn from(address: HostAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for HostAddress {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

/// Name resolution; each list that is empty leaves the host's lines of that kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked for; a single `.` for none.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty() && self.options.is_empty()
    }
}

/// Which namespaces are not the container's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceModes {
    /// Process ids.
    pub pid: PidMode,
    /// System V IPC, POSIX queues and `/dev/shm`.
    pub ipc: IpcMode,
    /// Hostname: the host's own.
    pub host_uts: bool,
    /// View of the cgroups; `None`: its own with cgroup2, the host's with version 1, as docker has it.
    pub cgroup: Option<CgroupView>,
}

/// Whose process ids a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// All of the host.
    Host,
    /// Those of another container, by its name or id; `create` stores the full id.
    Container(String),
}

impl PidMode {
    /// As users write it; empty: private.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Private => String::new(),
            Self::Host => "host".into(),
            Self::Container(id) => format!("container:{id}"),
        }
    }

    /// The mode of this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "" | "private" => Some(Self::Private),
            "host" => Some(Self::Host),
            _ => match text.strip_prefix("container:") {
                None | Some("") => None,
                Some(name) => Some(Self::Container(name.to_owned())),
            },
        }
    }
}

/// Whose IPC objects a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The host's.
    Host,
}

impl IpcMode {
    /// The name users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shareable => "shareable",
            Self::None => "none",
            Self::Host => "host",
        }
    }

    /// The mode of this name; empty: private.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Private, Self::Shareable, Self::None, Self::Host]
            .into_iter()
            .find(|mode| mode.as_str() == name || (name.is_empty() && *mode == Self::Private))
    }
}

/// What a container sees of the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupView {
    /// Its own as the root.
    Private,
    /// The host's tree.
    Host,
}

impl CgroupView {
    /// The name users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_they_are_read() {
        for text in ["", "host", "container:web"] {
            assert_eq!(PidMode::from_text(text).unwrap().to_text(), text);
        }
        for text in ["container:", "web", "shareable"] {
            assert_eq!(PidMode::from_text(text), None, "{text}");
        }
        for name in ["private", "shareable", "none", "host"] {
            assert_eq!(IpcMode::from_name(name).unwrap().as_str(), name);
        }
        assert_eq!(IpcMode::from_name(""), Some(IpcMode::Private));
        assert_eq!(IpcMode::from_name("container:x"), None);
    }
}
