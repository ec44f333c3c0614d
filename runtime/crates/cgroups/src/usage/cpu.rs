//! CPU time and the CPUs.

use super::{number, table};
use crate::cgroup::Cgroup;
use crate::observe::Kind;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Nanoseconds in one tick of the kernel's `USER_HZ`, which is 100 on every architecture this runs on.
const TICK: u64 = 10_000_000;

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All of it.
    pub total: u64,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// All of it, by CPU; version 1 only.
    pub per_cpu: Vec<u64>,
    /// In programs, by CPU; version 1 only.
    pub per_cpu_user: Vec<u64>,
    /// In the kernel, by CPU; version 1 only.
    pub per_cpu_kernel: Vec<u64>,
    /// What the quota did.
    pub throttling: Throttling,
}

/// What a CPU quota did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which anything ran.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds for which processes were kept from running.
    pub throttled_time: u64,
}

/// What may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// CPUs by number.
    pub cpus: Vec<u16>,
    /// Memory nodes by number.
    pub mems: Vec<u16>,
    /// The other files of version 1, by name without `cpuset.`.
    pub flags: BTreeMap<&'static str, i64>,
}

/// The files of version 1 that hold one number, and the names they are reported under.
const FLAGS: [(&str, &str); 9] = [
    ("cpuset.cpu_exclusive", "cpu_exclusive"),
    ("cpuset.mem_hardwall", "mem_hardwall"),
    ("cpuset.mem_exclusive", "mem_exclusive"),
    ("cpuset.memory_migrate", "memory_migrate"),
    ("cpuset.memory_spread_page", "memory_spread_page"),
    ("cpuset.memory_spread_slab", "memory_spread_slab"),
    ("cpuset.memory_pressure", "memory_pressure"),
    ("cpuset.sched_load_balance", "sched_load_balance"),
    ("cpuset.sched_relax_domain_level", "sched_relax_domain_level"),
];

pub(super) fn read(cgroup: &Cgroup) -> CpuUsage {
    let mut usage = CpuUsage::default();
    if let Some(dir) = cgroup.dir_of("cpuacct") {
        match dir.kind {
            Kind::V1 => read_v1(&dir.path, &mut usage),
            Kind::V2 => {
                let stat = table(&dir.path, "cpu.stat");
                let nanos = |key: &str| stat.get(key).copied().unwrap_or(0).saturating_mul(1000);
                usage.total = nanos("usage_usec");
                usage.user = nanos("user_usec");
                usage.kernel = nanos("system_usec");
            }
        }
    }
    if let Some(dir) = cgroup.dir_of("cpu") {
        let stat = table(&dir.path, "cpu.stat");
        let get = |key: &str| stat.get(key).copied().unwrap_or(0);
        usage.throttling = Throttling {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_time: match dir.kind {
                Kind::V1 => get("throttled_time"),
                Kind::V2 => get("throttled_usec").saturating_mul(1000),
            },
        };
    }
    usage
}

fn read_v1(dir: &Path, usage: &mut CpuUsage) {
    usage.total = number(dir, "cpuacct.usage");
    let ticks = table(dir, "cpuacct.stat");
    let nanos = |key: &str| ticks.get(key).copied().unwrap_or(0).saturating_mul(TICK);
    usage.user = nanos("user");
    usage.kernel = nanos("system");
    let text = fs::read_to_string(dir.join("cpuacct.usage_percpu")).unwrap_or_default();
    usage.per_cpu = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let text = fs::read_to_string(dir.join("cpuacct.usage_all")).unwrap_or_default();
    for line in text.lines().skip(1) {
        let mut numbers = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok());
        if let (Some(user), Some(kernel)) = (numbers.next(), numbers.next()) {
            usage.per_cpu_user.push(user);
            usage.per_cpu_kernel.push(kernel);
        }
    }
}

pub(super) fn read_set(cgroup: &Cgroup) -> CpuSet {
    let Some(dir) = cgroup.dir_of("cpuset") else {
        return CpuSet::default();
    };
    let list = |name: &str| {
        let text = fs::read_to_string(dir.path.join(name)).unwrap_or_default();
        numbers(text.trim())
    };
    match dir.kind {
        Kind::V1 => CpuSet {
            cpus: list("cpuset.cpus"),
            mems: list("cpuset.mems"),
            flags: FLAGS
                .into_iter()
                .map(|(file, name)| {
                    let text = fs::read_to_string(dir.path.join(file)).unwrap_or_default();
                    (name, text.trim().parse().unwrap_or(0))
                })
                .collect(),
        },
        Kind::V2 => CpuSet {
            cpus: list("cpuset.cpus.effective"),
            mems: list("cpuset.mems.effective"),
            flags: BTreeMap::new(),
        },
    }
}

/// A list like `0-2,7` as numbers.
fn numbers(list: &str) -> Vec<u16> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<u16>().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_spelt_out() {
        assert_eq!(numbers("0-2,7"), [0, 1, 2, 7]);
        assert_eq!(numbers("3"), [3]);
        assert_eq!(numbers(""), [] as [u16; 0]);
        assert_eq!(numbers("x,2-"), [] as [u16; 0]);
    }
}
