//! What a spec depends on in the host; observed anew for each container, because some of it can change.

use std::fs;
use std::path::Path;

use super::resources;

/// Facts of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct HostFacts {
    /// Its hostname.
    pub(crate) hostname: String,
    /// `/sys/fs/cgroup` is cgroup2 itself (not v1 or hybrid).
    pub(crate) unified_cgroup: bool,
    /// Swap can be limited.
    pub(crate) swap_limit: bool,
    /// CPUs that are online.
    pub(crate) cpus: u64,
    /// The CPUs that are online, as a list.
    pub(crate) online_cpus: String,
    /// The memory nodes that are online, as a list.
    pub(crate) online_mems: String,
    /// The capabilities of this process, which are all that it can give.
    pub(crate) capabilities: Vec<&'static str>,
    /// The kernel confines by AppArmor.
    pub(crate) apparmor: bool,
    /// The kernel's version: major, minor.
    pub(crate) kernel: (u32, u32),
    /// A process started by us may set its OOM score to 0: ours is not above it.
    pub(crate) may_reset_oom_score: bool,
    /// The architecture's name in OCI seccomp profiles, without the prefix.
    pub(crate) arch: &'static str,
}

impl HostFacts {
    /// Looks at the host.
    pub(crate) fn observe() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unified_cgroup = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let online_cpus = text("/sys/devices/system/cpu/online").trim().to_owned();
        Self {
            hostname: text("/proc/sys/kernel/hostname").trim().to_owned(),
            unified_cgroup,
            swap_limit: swap_limit(unified_cgroup),
            // Not what this process may use: a limit of the daemon's own is none of the containers'.
            cpus: cpu_count(&online_cpus),
            online_cpus,
            online_mems: text("/sys/devices/system/node/online").trim().to_owned(),
            capabilities: croze_sys::caps::own()
                .map(|own| own.permitted.names().collect())
                .unwrap_or_default(),
            apparmor: text("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            kernel: kernel_version(&text("/proc/sys/kernel/osrelease")),
            may_reset_oom_score: text("/proc/self/oom_score_adj")
                .trim()
                .parse::<i32>()
                .unwrap_or(0)
                <= 0,
            arch: if cfg!(target_arch = "aarch64") {
                "AARCH64"
            } else {
                "X86_64"
            },
        }
    }
}

/// How many CPUs a list has; what cannot be read is as many as this process may use.
fn cpu_count(list: &str) -> u64 {
    match resources::numbers(list) {
        Some(cpus) => cpus.len() as u64,
        None => std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
    }
}

/// With v1 it must be enabled at boot; with cgroup2 the root has no such file, but every child has where the kernel supports it.
fn swap_limit(unified: bool) -> bool {
    if unified {
        return Path::new("/proc/swaps").exists();
    }
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

/// The first two numbers of a release such as `6.1.0-9-amd64`.
pub(crate) fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.trim().parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_processors_are_counted_whatever_this_process_may_use() {
        for (list, count) in [("0", 1), ("0-3", 4), ("0-1,4,6-7", 5), ("0-63", 64)] {
            assert_eq!(cpu_count(list), count, "{list}");
        }
        assert!(cpu_count("") >= 1);
    }

    #[test]
    fn releases() {
        for (release, version) in [
            ("6.1.0-9-amd64", (6, 1)),
            ("5.10\n", (5, 10)),
            ("6-rc1", (6, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(kernel_version(release), version, "{release:?}");
        }
    }
}
