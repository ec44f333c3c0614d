//! The bundles that are run: busybox's `true`, with a spec like the one an engine generates.
//!
//! All share one root file system. Each has a cgroup of its own, so that they can live side by side.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A profile of the size of docker's.
const SECCOMP: &str = include_str!("../../../runtime/crates/seccomp/tests/docker-like.json");

/// The bundles, and the directory that holds everything; it goes when this is dropped.
pub(crate) struct Bundles {
    directory: TempDir,
}

impl Bundles {
    /// Makes them in a temporary directory.
    pub(crate) fn make() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("croze-bench-").tempdir()?;
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "etc", "tmp"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).is_file());
        let busybox = busybox.context("busybox is not installed (Debian: busybox-static)")?;
        fs::copy(busybox, rootfs.join("bin/busybox"))?;
        for applet in ["true", "sleep"] {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        let bundles = Self { directory };
        bundles.write("plain", bundles.spec(&["/bin/true"]))?;
        bundles.write("sleeping", bundles.spec(&["/bin/sleep", "100000"]))?;
        let mut filtered = bundles.spec(&["/bin/true"]);
        filtered["linux"]["seccomp"] = serde_json::from_str(SECCOMP)?;
        bundles.write("seccomp", filtered)?;
        for number in 0..CROWD {
            bundles.write(&crowd_name(number), bundles.spec(&["/bin/true"]))?;
        }
        Ok(bundles)
    }

    /// A bundle's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether the containers have limits: a host may show a cgroup version 2 without the controllers for them.
    pub(crate) fn are_limited() -> bool {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
        controllers.map_or(true, |text| {
            ["memory", "pids"]
                .iter()
                .all(|name| text.split_whitespace().any(|there| there == *name))
        })
    }

    fn spec(&self, args: &[&str]) -> Value {
        let mut spec = document(&self.path("rootfs"), args);
        if Self::are_limited() {
            spec["linux"]["resources"]["memory"] = json!({ "limit": 268_435_456 });
            spec["linux"]["resources"]["pids"] = json!({ "limit": 100 });
        }
        spec
    }

    fn write(&self, name: &str, mut spec: Value) -> Result<()> {
        spec["linux"]["cgroupsPath"] = format!("/{}{name}", cgroup_prefix()).into();
        fs::create_dir(self.path(name))?;
        Ok(fs::write(self.path(name).join("config.json"), spec.to_string())?)
    }
}

impl Drop for Bundles {
    /// What a runtime has left of its cgroups, where nothing is inside.
    fn drop(&mut self) {
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let top = Path::new("/sys/fs/cgroup");
        let trees = std::iter::once(top.to_owned()).chain(entries(top).map(|entry| entry.path()));
        for entry in trees.flat_map(|tree| entries(&tree).collect::<Vec<_>>()) {
            if entry.file_name().to_string_lossy().starts_with(&cgroup_prefix()) {
                fs::remove_dir(entry.path()).ok();
            }
        }
    }
}

fn cgroup_prefix() -> String {
    format!("croze-bench-{}-", std::process::id())
}

/// How many containers are run at once.
pub(crate) const CROWD: usize = 50;

/// The bundle of one of many.
pub(crate) fn crowd_name(number: usize) -> String {
    format!("crowd-{number}")
}

fn document(rootfs: &Path, args: &[&str]) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
    ];
    let quiet = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true,
        },
        // Absolute: runc refuses a relative root that is a link, and every bundle has the same one.
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": quiet },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
