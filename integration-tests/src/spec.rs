//! Specs to start from: the smallest that runs a program, and one like those that engines generate.
//!
//! They are plain JSON, so that a test can make them wrong as well.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The fourteen capabilities that docker gives by default.
pub const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The smallest useful spec: a mount and a pid namespace, `/proc`, no limits.
#[must_use]
pub fn minimal(arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
    })
}

/// A spec as docker generates it, but for seccomp (see [`docker_seccomp`]).
#[must_use]
pub fn docker_like(arguments: &[&str]) -> Value {
    let capabilities = json!(DOCKER_CAPABILITIES);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "inside",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "pid" }, { "type": "ipc" },
            ],
            "resources": {
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm" },
                ],
            },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// Appends to a list in the spec, made if it is missing.
///
/// # Errors
/// What the pointer's parent names is no object, or the thing itself no list.
pub fn append(spec: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, name) = pointer.rsplit_once('/').context("a pointer has a parent")?;
    let object = spec
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .with_context(|| format!("{parent} is no object"))?;
    let list = object.entry(name).or_insert_with(|| json!([]));
    list.as_array_mut()
        .with_context(|| format!("{pointer} is no list"))?
        .push(value);
    Ok(())
}

/// What docker allows only to those who hold `CAP_SYS_ADMIN`; podman's profile allows these calls to everyone.
const ADMINISTRATORS_ONLY: [&str; 12] = [
    "bpf",
    "fanotify_init",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// Docker's default profile in the form that an engine hands to a runtime: made from the one that Debian's container
/// tools ship, with rules that depend on an architecture or a capability resolved for x86-64 and docker's default
/// capabilities.
///
/// # Errors
/// It is not installed, or has another form.
pub fn docker_seccomp() -> Result<Value> {
    const PROFILE: &str = "/usr/share/containers/seccomp.json";
    let text = fs::read_to_string(PROFILE)
        .with_context(|| format!("reading {PROFILE}: `make setup-tests` installs the package that has it"))?;
    let profile: Value = serde_json::from_str(&text).context("parsing the seccomp profile")?;
    let applies = |rule: &Value| -> bool {
        let list = |side: &str, key: &str| -> Vec<String> {
            let names = rule.pointer(&format!("/{side}/{key}")).and_then(Value::as_array);
            names
                .into_iter()
                .flatten()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect()
        };
        let held = |name: &String| DOCKER_CAPABILITIES.contains(&name.as_str());
        let native = |name: &String| name == "amd64" || name == "x86_64";
        let (caps, arches) = (list("includes", "caps"), list("includes", "arches"));
        caps.iter().all(held)
            && (arches.is_empty() || arches.iter().any(native))
            && !list("excludes", "caps").iter().any(held)
            && !list("excludes", "arches").iter().any(native)
    };
    let rules: Vec<Value> = profile["syscalls"]
        .as_array()
        .context("the profile has rules")?
        .iter()
        .filter(|rule| applies(rule))
        .map(|rule| {
            let mut names = rule["names"].as_array().cloned().unwrap_or_default();
            names.retain(|name| !ADMINISTRATORS_ONLY.iter().any(|only| name == only));
            let mut kept = json!({ "names": names, "action": rule["action"] });
            for key in ["args", "errnoRet"] {
                if rule.get(key).is_some_and(|value| !value.is_null()) {
                    kept[key] = rule[key].clone();
                }
            }
            kept
        })
        .filter(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()))
        .collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }))
}
