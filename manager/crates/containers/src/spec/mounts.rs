//! Mounts: docker's own ones, the generated files below `/etc`, and what the request binds.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::process::absolute;
use super::{Facts, SpecError};
use crate::request::{BindMount, CreateRequest};

/// Size of `/dev/shm`.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Refuses mounts that cannot be.
pub(crate) fn check(mounts: &[BindMount]) -> Result<(), SpecError> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let bad = |reason: &str| SpecError::Mount {
            target: mount.target.clone(),
            reason: reason.into(),
        };
        let target = absolute(&mount.target)?;
        if target == "/" {
            return Err(bad("the root itself cannot be replaced"));
        }
        if target == "/proc" || target.starts_with("/proc/") {
            return Err(bad("nothing may be mounted into /proc"));
        }
        if !mount.source.is_absolute() {
            return Err(SpecError::NotAbsolute {
                path: mount.source.display().to_string(),
            });
        }
        if !targets.insert(target) {
            return Err(bad("another mount has the same target"));
        }
    }
    Ok(())
}

/// All mounts, parents before what lies below them. A requested mount replaces a default one with the same target.
pub(crate) fn mounts(request: &CreateRequest, facts: &Facts<'_>) -> Result<Vec<Value>, SpecError> {
    let mut requested = Vec::new();
    for mount in &request.mounts {
        requested.push((absolute(&mount.target)?, bind(mount)?));
    }
    let taken: BTreeSet<String> = requested.iter().map(|(target, _)| target.clone()).collect();
    let free = |(target, _): &(String, Value)| !taken.contains(target);
    let defaults = defaults().into_iter().filter(free);
    // The generated files lie on top of a requested /etc as well; the sort is stable.
    let mut over: Vec<(String, Value)> = requested
        .into_iter()
        .chain(generated(facts).into_iter().filter(free))
        .collect();
    over.sort_by_key(|(target, _)| target.matches('/').count());
    Ok(defaults.chain(over).map(|(_, mount)| mount).collect())
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> (String, Value) {
    let value = json!({ "destination": target, "type": kind, "source": source, "options": options });
    (target.to_owned(), value)
}

fn defaults() -> Vec<(String, Value)> {
    let size = format!("size={SHM_BYTES}");
    vec![
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
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["ro", "nosuid", "noexec", "nodev"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ),
    ]
}

fn generated(facts: &Facts<'_>) -> Vec<(String, Value)> {
    ["resolv.conf", "hostname", "hosts"]
        .into_iter()
        .map(|name| {
            let target = format!("/etc/{name}");
            let source = facts.etc_dir.join(name);
            let value =
                json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate"] });
            (target, value)
        })
        .collect()
}

fn bind(mount: &BindMount) -> Result<Value, SpecError> {
    let source = mount.source.to_str().ok_or_else(|| SpecError::Mount {
        target: mount.target.clone(),
        reason: "the source is not UTF-8".into(),
    })?;
    let options = [
        if mount.recursive { "rbind" } else { "bind" },
        if mount.read_only { "ro" } else { "rw" },
        mount.propagation.as_str(),
    ];
    Ok(json!({
        "destination": absolute(&mount.target)?,
        "type": "bind",
        "source": source,
        "options": options,
    }))
}
