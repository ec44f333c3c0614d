//! Mounts: docker's own ones, the generated files below `/etc`, and what the request binds.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::process::absolute;
use super::{Facts, SpecError, binds, tmpfs};
use crate::options::IpcMode;
use crate::request::CreateRequest;

/// Size of `/dev/shm`.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Where croze-init appears.
pub(crate) const INIT_TARGET: &str = "/sbin/croze-init";

/// Refuses mounts that cannot be.
pub(crate) fn check(request: &CreateRequest) -> Result<(), SpecError> {
    let mut targets = BTreeSet::new();
    let binds = request.mounts.iter().map(|mount| &mount.target);
    let tmpfs = request.options.tmpfs.iter().map(|mount| &mount.target);
    for given in binds.chain(tmpfs) {
        let bad = |reason: &str| SpecError::Mount {
            target: given.clone(),
            reason: reason.into(),
        };
        let target = absolute(given)?;
        if target == "/" {
            return Err(bad("the root itself cannot be replaced"));
        }
        if target == "/proc" || target.starts_with("/proc/") {
            return Err(bad("nothing may be mounted into /proc"));
        }
        if !targets.insert(target) {
            return Err(bad("another mount has the same target"));
        }
    }
    for mount in &request.mounts {
        if !mount.source.is_absolute() {
            return Err(SpecError::NotAbsolute {
                path: mount.source.display().to_string(),
            });
        }
    }
    for mount in &request.options.tmpfs {
        tmpfs::options(&mount.target, &mount.options)?;
    }
    Ok(())
}

/// All mounts, parents before what lies below them. A requested mount replaces a default one with the same target.
pub(crate) fn mounts(request: &CreateRequest, facts: &Facts<'_>) -> Result<Vec<Value>, SpecError> {
    let mut requested = Vec::new();
    for mount in &request.mounts {
        requested.push((
            absolute(&mount.target)?,
            binds::spec(mount, facts.read_only_depth)?,
        ));
    }
    for memory in &request.options.tmpfs {
        let target = absolute(&memory.target)?;
        let options = tmpfs::options(&memory.target, &memory.options)?;
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        requested.push(mount(&target, "tmpfs", "tmpfs", &options));
    }
    let taken: BTreeSet<String> = requested.iter().map(|(target, _)| target.clone()).collect();
    let free = |(target, _): &(String, Value)| !taken.contains(target);
    let defaults = defaults(request).into_iter().filter(free);
    // The generated files lie on top of a requested /etc as well; the sort is stable.
    let mut over: Vec<(String, Value)> = requested
        .into_iter()
        .chain(generated(request, facts).into_iter().filter(free))
        .chain(init(request, facts)?)
        .collect();
    over.sort_by_key(|(target, _)| target.matches('/').count());
    Ok(defaults.chain(over).map(|(_, mount)| mount).collect())
}

/// The program that is put before the command, where that is asked for.
fn init(request: &CreateRequest, facts: &Facts<'_>) -> Result<Option<(String, Value)>, SpecError> {
    if !request.options.init {
        return Ok(None);
    }
    let program = facts.init.and_then(Path::to_str).ok_or(SpecError::NoInit)?;
    Ok(Some(mount(
        INIT_TARGET,
        "bind",
        program,
        &["bind", "ro", "rprivate"],
    )))
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> (String, Value) {
    let value = json!({ "destination": target, "type": kind, "source": source, "options": options });
    (target.to_owned(), value)
}

fn defaults(request: &CreateRequest) -> Vec<(String, Value)> {
    let system = |fixed: &[&'static str]| -> Vec<&'static str> {
        let access = if request.options.privileged { "rw" } else { "ro" };
        [fixed, &[access]].concat()
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", &system(&["nosuid", "noexec", "nodev"])),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &system(&["nosuid", "noexec", "nodev"]),
        ),
    ];
    mounts.extend(ipc(request));
    mounts
}

/// What belongs to the IPC namespace: message queues and shared memory.
fn ipc(request: &CreateRequest) -> Vec<(String, Value)> {
    let mode = request.options.namespaces.ipc;
    let mut mounts = vec![mount(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    )];
    if mode == IpcMode::Host {
        mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
    } else if mode != IpcMode::None {
        let size = format!("size={}", request.options.shm_size_bytes.unwrap_or(SHM_BYTES));
        mounts.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ));
    }
    mounts
}

fn generated(request: &CreateRequest, facts: &Facts<'_>) -> Vec<(String, Value)> {
    // A read-only root file system reads as one whole.
    let access = if request.read_only { "ro" } else { "rw" };
    ["resolv.conf", "hostname", "hosts"]
        .into_iter()
        .map(|name| {
            let target = format!("/etc/{name}");
            let source = facts.etc_dir.join(name);
            let value = json!({
                "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access],
            });
            (target, value)
        })
        .collect()
}
