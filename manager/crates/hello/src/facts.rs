//! What this process can find out about itself, from files alone.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::addresses;

/// Capabilities by number (capabilities(7)), without the prefix.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The namespaces in the order in which they are shown.
const NAMESPACES: [&str; 8] = ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup", "time"];

/// v1 shows "no limit" as a number near 2^63, rounded down to pages.
const NO_LIMIT_V1: u64 = 1 << 60;

/// A limit as its cgroup shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit<T> {
    /// So much.
    At(T),
    /// There is none.
    Unlimited,
    /// No cgroup can be seen from here.
    NotVisible,
}

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) pid: u32,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Vec<u32>,
    pub(crate) hostname: String,
    pub(crate) kernel: String,
    pub(crate) namespaces: Vec<(&'static str, String)>,
    pub(crate) processes: usize,
    pub(crate) memory_bytes: Limit<u64>,
    pub(crate) cpus: Limit<f64>,
    pub(crate) pids: Limit<u64>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privs: Option<bool>,
    pub(crate) seccomp: Option<u32>,
    pub(crate) root_type: String,
    pub(crate) root_read_only: bool,
    pub(crate) interfaces: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The rest of the line of `/proc/self/status` that begins with `name:`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

impl Facts {
    /// Looks around.
    pub(crate) fn observe() -> Self {
        let status = read("/proc/self/status");
        let ids = |name| field(&status, name).and_then(|v| v.split_whitespace().nth(1)?.parse().ok());
        let groups = field(&status, "Groups").unwrap_or_default();
        let (root_type, root_read_only) = parse_root(&read("/proc/self/mountinfo"));
        let cgroup = own_cgroup(&read("/proc/self/cgroup"));
        Self {
            pid: std::process::id(),
            uid: ids("Uid"),
            gid: ids("Gid"),
            groups: groups.split_whitespace().filter_map(|g| g.parse().ok()).collect(),
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            namespaces: NAMESPACES
                .into_iter()
                .filter_map(|kind| Some((kind, namespace(kind)?)))
                .collect(),
            processes: count_processes(),
            memory_bytes: first_visible(
                &cgroup,
                &["memory.max", "memory/memory.limit_in_bytes"],
                parse_limit,
            ),
            cpus: cpu_limit(&cgroup),
            pids: first_visible(&cgroup, &["pids.max", "pids/pids.max"], parse_limit),
            capabilities: field(&status, "CapEff")
                .map(parse_capabilities)
                .unwrap_or_default(),
            no_new_privs: field(&status, "NoNewPrivs").map(|v| v == "1"),
            seccomp: field(&status, "Seccomp").and_then(|v| v.parse().ok()),
            root_type,
            root_read_only,
            interfaces: interfaces(&read("/proc/self/net/dev")),
            addresses: addresses::observe(),
        }
    }

    /// Whether this is a process tree of its own.
    pub(crate) fn is_first_process(&self) -> bool {
        self.pid == 1
    }

    /// The same as JSON; a limit is a number, `null` if there is none, or the text "not visible".
    pub(crate) fn to_json(&self) -> Value {
        let namespaces: serde_json::Map<String, Value> = self
            .namespaces
            .iter()
            .map(|(kind, id)| ((*kind).to_owned(), id.clone().into()))
            .collect();
        json!({
            "pid": self.pid,
            "uid": self.uid,
            "gid": self.gid,
            "groups": self.groups,
            "hostname": self.hostname,
            "kernel": self.kernel,
            "namespaces": namespaces,
            "processes_visible": self.processes,
            "limits": {
                "memory_bytes": limit_json(self.memory_bytes),
                "cpus": limit_json(self.cpus),
                "pids": limit_json(self.pids),
            },
            "capabilities": self.capabilities,
            "no_new_privs": self.no_new_privs,
            "seccomp_mode": self.seccomp,
            "root": { "type": self.root_type, "read_only": self.root_read_only },
            "interfaces": self.interfaces,
            "addresses": self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

fn limit_json<T: Into<Value>>(limit: Limit<T>) -> Value {
    match limit {
        Limit::At(value) => value.into(),
        Limit::Unlimited => Value::Null,
        Limit::NotVisible => "not visible".into(),
    }
}

/// `pid:[4026531836]` becomes `4026531836`.
fn namespace(kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    let text = link.to_str()?;
    Some(text.rsplit_once('[')?.1.trim_end_matches(']').to_owned())
}

fn count_processes() -> usize {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(is_pid))
        .count()
}

/// The path in the unified hierarchy; `/` where there is none, or where a namespace hides it.
fn own_cgroup(membership: &str) -> String {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    if path.contains("..") {
        "/".into()
    } else {
        path.trim_end_matches('/').to_owned()
    }
}

/// Reads the first of some files below `/sys/fs/cgroup`: in the process's own directory, then at the top, where a container sees its own.
fn first_visible<T>(own: &str, files: &[&str], parse: impl Fn(&str) -> Limit<T>) -> Limit<T> {
    for file in files {
        for dir in [own, ""] {
            let text = read(&format!("/sys/fs/cgroup{dir}/{file}"));
            if !text.is_empty() {
                return parse(text.trim());
            }
        }
    }
    Limit::NotVisible
}

fn parse_limit(text: &str) -> Limit<u64> {
    match text.parse::<u64>() {
        Ok(value) if value < NO_LIMIT_V1 => Limit::At(value),
        Ok(_) => Limit::Unlimited,
        Err(_) if text == "max" || text == "-1" => Limit::Unlimited,
        Err(_) => Limit::NotVisible,
    }
}

fn cpu_limit(own: &str) -> Limit<f64> {
    let unified = first_visible(own, &["cpu.max"], parse_cpu_max);
    if unified != Limit::NotVisible {
        return unified;
    }
    let quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    let period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    parse_cpu_max(&format!("{} {}", quota.trim(), period.trim()))
}

/// `50000 100000` is half a CPU; `max` and a negative quota are no limit.
fn parse_cpu_max(text: &str) -> Limit<f64> {
    let mut words = text.split_whitespace();
    let (Some(quota), Some(period)) = (words.next(), words.next()) else {
        return Limit::NotVisible;
    };
    if quota == "max" || quota.starts_with('-') {
        return Limit::Unlimited;
    }
    match (quota.parse::<f64>(), period.parse::<f64>()) {
        (Ok(quota), Ok(period)) if period > 0.0 => Limit::At(quota / period),
        _ => Limit::NotVisible,
    }
}

/// Names of the bits of a hexadecimal mask; bits without a name are shown by number.
fn parse_capabilities(mask: &str) -> Vec<String> {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    (0..64)
        .filter(|bit| mask >> bit & 1 == 1)
        .map(|bit: usize| {
            CAPABILITIES
                .get(bit)
                .map_or_else(|| bit.to_string(), |name| (*name).to_owned())
        })
        .collect()
}

/// Type and read-only state of the topmost mount on `/` (mountinfo: proc(5)).
fn parse_root(mountinfo: &str) -> (String, bool) {
    let root = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some("/"));
    let Some((left, right)) = root.and_then(|line| line.split_once(" - ")) else {
        return ("unknown".into(), false);
    };
    let options = left.split(' ').nth(5).unwrap_or_default();
    let kind = right.split(' ').next().unwrap_or("unknown");
    (kind.to_owned(), options.split(',').any(|o| o == "ro"))
}

fn interfaces(dev: &str) -> Vec<String> {
    dev.lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_cgroup_versions() {
        let table = [
            ("67108864", Limit::At(67_108_864)),
            ("max", Limit::Unlimited),
            ("9223372036854771712", Limit::Unlimited),
            ("", Limit::NotVisible),
        ];
        for (text, limit) in table {
            assert_eq!(parse_limit(text), limit, "{text:?}");
        }
        let table = [
            ("50000 100000", Limit::At(0.5)),
            ("max 100000", Limit::Unlimited),
            ("-1 100000", Limit::Unlimited),
            (" ", Limit::NotVisible),
            ("5 0", Limit::NotVisible),
        ];
        for (text, limit) in table {
            assert_eq!(parse_cpu_max(text), limit, "{text:?}");
        }
    }

    #[test]
    fn dockers_default_capabilities_by_name() {
        let names = parse_capabilities("00000000a80425fb");
        assert_eq!(names.len(), 14);
        assert_eq!((names[0].as_str(), names[13].as_str()), ("chown", "setfcap"));
        assert_eq!(parse_capabilities("8000000000000000"), ["63"]);
        assert_eq!(parse_capabilities("nonsense"), [] as [&str; 0]);
    }

    #[test]
    fn the_topmost_root_counts() {
        let text = "20 1 0:5 / / rw - rootfs rootfs rw\n21 20 0:6 / / ro,relatime - overlay overlay rw,lowerdir=x\n\
                    22 21 0:7 / /proc rw - proc proc rw\n";
        assert_eq!(parse_root(text), ("overlay".into(), true));
        assert_eq!(parse_root(""), ("unknown".into(), false));
    }

    #[test]
    fn interfaces_and_own_cgroup() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo:  0 0\n  eth0: 1 2\n";
        assert_eq!(interfaces(dev), ["lo", "eth0"]);
        assert_eq!(own_cgroup("4:pids:/x\n0::/croze/a\n"), "/croze/a");
        assert_eq!(own_cgroup("0::/../../x\n"), "/");
    }
}
