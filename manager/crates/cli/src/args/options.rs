//! The rarer options of `run` and `create`: devices, namespaces, rights, names, single limits. docker's names and spellings.

use std::path::PathBuf;

use clap::Args;
use croze_client::v1::{Device, TmpfsMount, Ulimit};

use crate::args::headings::{LIMITS, NAMESPACES, NETWORK, RIGHTS};
use crate::values::{self, MountSpec};

/// Options that few containers need.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "clap's flags, one field each")]
pub(crate) struct OptionArgs {
    /// Mount a memory file system.
    #[arg(help = "Mount a memory file system: /CONTAINER[:size=64m,mode=1777,...]", long, value_name = "MOUNT", value_parser = values::tmpfs)]
    pub(crate) tmpfs: Vec<TmpfsMount>,
    /// A mount in words.
    #[arg(help = "Mount in words: type=bind|tmpfs,source=/HOST,target=/CONTAINER[,readonly][,...]", long, value_name = "MOUNT", value_parser = parse_mount)]
    pub(crate) mount: Vec<MountSpec>,
    /// Give every right there is: all capabilities and devices, no seccomp filter, nothing masked
    #[arg(long, help_heading = RIGHTS)]
    pub(crate) privileged: bool,
    /// Put a small init before the command: it forwards signals and reaps
    #[arg(long)]
    pub(crate) init: bool,
    /// OCI runtime: a name that the daemon's configuration knows, or an absolute path
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) runtime: Option<String>,
    /// Devices of the host.
    #[arg(help = "Give a device of the host: /dev/HOST[:/dev/CONTAINER][:rwm]", long, value_name = "DEVICE", value_parser = values::device, help_heading = RIGHTS)]
    pub(crate) device: Vec<Device>,
    /// Limits of processes.
    #[arg(help = "Limit of each process: NAME=SOFT[:HARD], such as nofile=1024:4096", long, value_name = "LIMIT", value_parser = values::ulimit, help_heading = LIMITS)]
    pub(crate) ulimit: Vec<Ulimit>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = values::size_bytes, help_heading = LIMITS)]
    pub(crate) shm_size: Option<u64>,
    /// Limits of what it writes.
    #[arg(help = "Limit what it may write besides its mounts: size=10G, inodes=100000", long, value_name = "LIMIT", value_parser = values::storage_opt, help_heading = LIMITS)]
    pub(crate) storage_opt: Vec<(String, String)>,
    /// Add a line to /etc/hosts, NAME:ADDRESS
    #[arg(long, value_name = "HOST", value_parser = values::extra_host, help_heading = NETWORK)]
    pub(crate) add_host: Vec<String>,
    /// Name server instead of the host's
    #[arg(long, value_name = "ADDRESS", value_parser = values::dns_server, help_heading = NETWORK)]
    pub(crate) dns: Vec<String>,
    /// Search domain instead of the host's; `.` for none
    #[arg(long, value_name = "DOMAIN", help_heading = NETWORK)]
    pub(crate) dns_search: Vec<String>,
    /// Option of resolv.conf instead of the host's
    #[arg(long, alias = "dns-opt", value_name = "OPTION", help_heading = NETWORK)]
    pub(crate) dns_option: Vec<String>,
    /// Add a group, name or number, to the command's
    #[arg(long, value_name = "GROUP", help_heading = RIGHTS)]
    pub(crate) group_add: Vec<String>,
    /// Security options.
    #[arg(
        help = "no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, label=disable, systempaths=unconfined",
        long,
        value_name = "OPTION",
        help_heading = RIGHTS
    )]
    pub(crate) security_opt: Vec<String>,
    /// Set a kernel parameter of the container's namespaces, NAME=value
    #[arg(long, value_name = "PARAMETER", value_parser = values::sysctl, help_heading = RIGHTS)]
    pub(crate) sysctl: Vec<(String, String)>,
    /// Write the container's id into a file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Memory down to which it is squeezed when the host is short of it
    #[arg(long, value_name = "SIZE", value_parser = values::size_bytes, help_heading = LIMITS)]
    pub(crate) memory_reservation: Option<u64>,
    /// Memory nodes it may use, such as 0-1
    #[arg(long, value_name = "NODES", help_heading = LIMITS)]
    pub(crate) cpuset_mems: Option<String>,
    /// Length of a period of CPU time, microseconds
    #[arg(long, value_name = "MICROSECONDS", help_heading = LIMITS)]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time in each period, microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true, help_heading = LIMITS)]
    pub(crate) cpu_quota: Option<i64>,
    /// How readily it is killed for want of memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true, help_heading = LIMITS)]
    pub(crate) oom_score_adj: Option<i32>,
    /// Let it wait instead of killing it for want of memory
    #[arg(long, help_heading = LIMITS)]
    pub(crate) oom_kill_disable: bool,
    /// Whose processes it sees: host, or container:NAME [default: its own]
    #[arg(long, value_name = "MODE", help_heading = NAMESPACES)]
    pub(crate) pid: Option<String>,
    /// Whose IPC it shares: private, shareable, none or host [default: private]
    #[arg(long, value_name = "MODE", help_heading = NAMESPACES)]
    pub(crate) ipc: Option<String>,
    /// Whose hostname it has: host [default: its own]
    #[arg(long, value_name = "MODE", help_heading = NAMESPACES)]
    pub(crate) uts: Option<String>,
    /// What it sees of the cgroups: private or host [default: private with cgroup2, else host]
    #[arg(long, value_name = "MODE", help_heading = NAMESPACES)]
    pub(crate) cgroupns: Option<String>,
    /// Whose user ids it has: host, as all have
    #[arg(long, value_name = "MODE", help_heading = NAMESPACES)]
    pub(crate) userns: Option<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// Read labels from a file, one per line
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Attach a pair to the OCI spec, KEY=value
    #[arg(long, value_name = "PAIR", value_parser = values::label)]
    pub(crate) annotation: Vec<(String, String)>,
    /// Run no health checks, as is the case
    #[arg(long, hide = true)]
    pub(crate) no_healthcheck: bool,
    /// Not there yet; told in words
    #[arg(long, value_name = "CONTAINER", hide = true)]
    pub(crate) volumes_from: Vec<String>,
    /// Only `no` is there yet; others are told in words
    #[arg(long, value_name = "POLICY", hide = true)]
    pub(crate) restart: Option<String>,
}

fn parse_mount(text: &str) -> Result<MountSpec, String> {
    let here =
        std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    values::mount(text, &here)
}
