//! The report: what a process can see of its own isolation, as one JSON object.
//!
//! Every part is read on its own; a part that cannot be read becomes `{"error": "…"}` in its place, so that one masked
//! file does not hide the rest.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd;
use serde_json::{Map, Value, json};

use crate::{Outcome, say};

/// Prints the report. `sysctls` are names such as `net.ipv4.ip_forward`; what stands after `--` is only echoed as `argv`.
pub(crate) fn print(sysctls: &[&str]) -> Outcome {
    let asked: Vec<&str> = sysctls.iter().copied().take_while(|name| *name != "--").collect();
    say(&whole(&asked).to_string())?;
    Ok(0)
}

fn whole(sysctls: &[&str]) -> Value {
    let status = status_fields();
    let text = |name: &str| status.get(name).cloned().map_or(Value::Null, Value::String);
    let capability = |name: &str| {
        status
            .get(name)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map_or(Value::Null, capability_names)
    };
    json!({
        "pid": std::process::id(),
        "ppid": unistd::getppid().as_raw(),
        "uid": ids(unistd::getresuid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()])),
        "gid": ids(unistd::getresgid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()])),
        "groups": unistd::getgroups().map_or_else(failure, |all| json!(all.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>())),
        "capabilities": {
            "effective": capability("CapEff"),
            "permitted": capability("CapPrm"),
            "inheritable": capability("CapInh"),
            "bounding": capability("CapBnd"),
            "ambient": capability("CapAmb"),
        },
        "seccomp": text("Seccomp"),
        "no_new_privs": rustix::thread::no_new_privs().map_or_else(failure, Value::Bool),
        "umask": format!("{:04o}", current_umask()),
        "oom_score_adj": file("/proc/self/oom_score_adj"),
        "namespaces": namespaces(),
        "uid_map": file("/proc/self/uid_map"),
        "gid_map": file("/proc/self/gid_map"),
        "mountinfo": fs::read_to_string("/proc/self/mountinfo")
            .map_or_else(failure, |table| json!(table.lines().collect::<Vec<_>>())),
        "rlimits": rlimits(),
        "devices": devices(Path::new("/dev")),
        "fds": open_files(),
        "environment": std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), json!(value.to_string_lossy())))
            .collect::<Map<_, _>>(),
        "argv": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "cwd": std::env::current_dir().map_or_else(failure, |path| json!(path)),
        "exe": fs::read_link("/proc/self/exe").map_or_else(failure, |path| json!(path)),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "domainname": rustix::system::uname().domainname().to_string_lossy(),
        "session": unistd::getsid(None).map_or_else(failure, |sid| json!(sid.as_raw())),
        "tty": {
            "stdin": std::io::stdin().is_terminal(),
            "stdout": std::io::stdout().is_terminal(),
            "stderr": std::io::stderr().is_terminal(),
        },
        "cgroup": file("/proc/self/cgroup"),
        "sysctl": sysctls.iter().map(|name| ((*name).to_owned(), sysctl(name))).collect::<Map<_, _>>(),
        "clock": { "boottime": uptime() },
    })
}

/// What stands in a part's place when it could not be read.
#[expect(
    clippy::needless_pass_by_value,
    reason = "passed by name to map_or_else, which hands over the error"
)]
fn failure(error: impl ToString) -> Value {
    json!({ "error": error.to_string() })
}

fn ids(read: nix::Result<[u32; 3]>) -> Value {
    read.map_or_else(
        failure,
        |[real, effective, saved]| json!({ "real": real, "effective": effective, "saved": saved }),
    )
}

fn file(path: &str) -> Value {
    fs::read_to_string(path).map_or_else(failure, |text| json!(text.trim_end()))
}

fn sysctl(name: &str) -> Value {
    file(&format!("/proc/sys/{}", name.replace('.', "/")))
}

/// The lines `Name:\tvalue` of `/proc/self/status`; empty where it cannot be read.
fn status_fields() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The umask can only be read by setting it; nothing else runs in this process meanwhile.
fn current_umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// Names in the order of their numbers (capabilities(7)); a bit without a name is shown by its number.
fn capability_names(bits: u64) -> Value {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let held = (0..64_usize).filter(|bit| bits >> bit & 1 == 1);
    let names: Vec<String> = held
        .map(|bit| {
            NAMES
                .get(bit)
                .map_or_else(|| format!("CAP_{bit}"), |name| format!("CAP_{name}"))
        })
        .collect();
    json!(names)
}

/// Kind to inode number: two processes share a namespace exactly if these are equal.
fn namespaces() -> Value {
    const KINDS: [&str; 9] = [
        "cgroup",
        "ipc",
        "mnt",
        "net",
        "pid",
        "pid_for_children",
        "time",
        "user",
        "uts",
    ];
    let read = |kind: &str| match fs::read_link(format!("/proc/self/ns/{kind}")) {
        Ok(target) => {
            let text = target.to_string_lossy().into_owned();
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            digits.parse::<u64>().map_or_else(failure, |inode| json!(inode))
        }
        Err(error) => failure(error),
    };
    KINDS
        .iter()
        .map(|kind| ((*kind).to_owned(), read(kind)))
        .collect::<Map<_, _>>()
        .into()
}

/// Name to `[soft, hard]`; "unlimited" is the largest number.
fn rlimits() -> Value {
    const ALL: [(&str, Resource); 16] = [
        ("RLIMIT_AS", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", Resource::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
    ];
    let read = |resource| getrlimit(resource).map_or_else(failure, |(soft, hard)| json!([soft, hard]));
    ALL.iter()
        .map(|(name, resource)| ((*name).to_owned(), read(*resource)))
        .collect::<Map<_, _>>()
        .into()
}

/// Every entry of a directory of devices, one level of directories deep.
fn devices(directory: &Path) -> Value {
    let mut found = Map::new();
    collect_devices(directory, "", &mut found);
    Value::Object(found)
}

fn collect_devices(directory: &Path, prefix: &str, found: &mut Map<String, Value>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            found.insert(directory.display().to_string(), failure(error));
            return;
        }
    };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let kind = metadata.file_type();
        let mut described = json!({
            "mode": format!("{:04o}", metadata.mode() & 0o7777),
            "uid": metadata.uid(),
            "gid": metadata.gid(),
        });
        if kind.is_char_device() || kind.is_block_device() {
            described["type"] = json!(if kind.is_char_device() { "c" } else { "b" });
            described["major"] = json!(rustix::fs::major(metadata.rdev()));
            described["minor"] = json!(rustix::fs::minor(metadata.rdev()));
        } else if kind.is_symlink() {
            described["type"] = json!("l");
            described["target"] = fs::read_link(entry.path()).map_or_else(failure, |target| json!(target));
        } else {
            described["type"] = json!(if kind.is_dir() { "d" } else { "f" });
        }
        if kind.is_dir() && prefix.is_empty() {
            collect_devices(&entry.path(), &format!("{name}/"), found);
        }
        found.insert(name, described);
    }
}

/// Number to target. The descriptor that lists the directory is left out.
fn open_files() -> Value {
    let entries = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(error) => return failure(error),
    };
    // The list is complete before the directory is closed: its own descriptor is known by its target.
    let own = format!("/proc/{}/fd", std::process::id());
    let mut found = Map::new();
    for entry in entries.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.to_string_lossy() != own {
            found.insert(
                entry.file_name().to_string_lossy().into_owned(),
                json!(target.to_string_lossy()),
            );
        }
    }
    Value::Object(found)
}

/// Seconds since boot as a time namespace shows them.
fn uptime() -> Value {
    fs::read_to_string("/proc/uptime").map_or_else(failure, |text| {
        json!(
            text.split('.')
                .next()
                .and_then(|seconds| seconds.parse::<u64>().ok())
        )
    })
}
