//! What the host offers. A case whose needs are not met is skipped with what is missing.

use std::fs;
use std::path::Path;

use crate::cgroups;

/// What a case needs of the host.
#[derive(Clone, Debug)]
pub enum Need {
    /// A cgroup controller with this file, by the version in which the host has the controller; `None`: that version has no such thing.
    CgroupFile {
        /// Its name in version 1; the same in version 2 but for a few.
        controller: &'static str,
        /// The file's name in version 1.
        v1: Option<String>,
        /// The file's name in version 2.
        v2: Option<String>,
    },
    /// cgroup version 2 and nothing else.
    Unified,
    /// systemd as the host's init.
    Systemd,
    /// A path that the kernel shows only if it was built or mounted with the feature that the second word names.
    Path(&'static str, &'static str),
    /// AppArmor, enabled.
    AppArmor,
    /// No SELinux.
    NoSeLinux,
    /// A disk whose throughput can be limited.
    Disk,
    /// Real-time scheduling may be asked for: no version 1 cpu controller with group scheduling that gives containers none.
    RealTime,
    /// As [`Need::RealTime`], and the right to raise limits.
    Capability(u32, &'static str),
}

/// The host, observed once.
#[derive(Debug, Default)]
pub struct Host {
    capabilities: u64,
    disk: Option<String>,
}

impl Host {
    /// Looks at the host.
    #[must_use]
    pub fn observe() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or_default();
        Self {
            capabilities,
            disk: disk(),
        }
    }

    /// A disk's `major:minor`.
    #[must_use]
    pub fn disk(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    /// What is missing for `need`, if something is.
    #[must_use]
    pub fn lacks(&self, need: &Need) -> Option<String> {
        let unless = |there: bool, what: &str| (!there).then(|| what.to_owned());
        match need {
            Need::CgroupFile { controller, v1, v2 } => match cgroups::version_of(controller) {
                None => Some(format!("the host has no cgroup controller {controller}")),
                Some(version) => {
                    let file = if version == 1 { v1 } else { v2 };
                    match file {
                        None => Some(format!("cgroup version {version} has no such thing")),
                        Some(file) => unless(
                            cgroups::has_file(controller, version, file),
                            &format!("this kernel's cgroups have no {file}"),
                        ),
                    }
                }
            },
            Need::Unified => unless(
                Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
                "the host has cgroup version 1",
            ),
            Need::Systemd => unless(
                Path::new("/run/systemd/system").exists(),
                "the host has no systemd",
            ),
            Need::Path(path, what) => unless(Path::new(path).exists(), &format!("the host has no {what}")),
            Need::AppArmor => unless(
                fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                    .is_ok_and(|text| text.trim() == "Y"),
                "the host has no AppArmor",
            ),
            Need::NoSeLinux => unless(
                !Path::new("/sys/fs/selinux/enforce").exists(),
                "the host has SELinux",
            ),
            Need::Disk => unless(self.disk.is_some(), "the host has no disk to be limited"),
            Need::RealTime => unless(
                !Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists(),
                "the cpu controller of version 1 gives containers no real time",
            ),
            Need::Capability(number, name) => unless(
                self.capabilities >> number & 1 == 1,
                &format!("the host gives root no {name}"),
            ),
        }
    }
}

/// The first real disk: loop and ram devices do not count.
fn disk() -> Option<String> {
    let mut names: Vec<_> = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names
        .iter()
        .filter(|path| path.join("device").exists())
        .find_map(|path| fs::read_to_string(path.join("dev")).ok())
        .map(|text| text.trim().to_owned())
}
