//! What a cgroup uses: a few numbers for whoever watches a container.

use crate::cgroup::{Cgroup, Dir};
use crate::file;
use crate::observe::Kind;
use std::fs;

/// Usage and limits; `None` where the controller is missing, or for "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of memory in use.
    pub memory_usage: Option<u64>,
    /// The most bytes that were in use.
    pub memory_peak: Option<u64>,
    /// The limit in bytes.
    pub memory_limit: Option<u64>,
    /// CPU time in nanoseconds.
    pub cpu_usage: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Their limit.
    pub pids_limit: Option<u64>,
    /// How many processes the OOM killer has killed.
    pub oom_kills: Option<u64>,
}

/// The memory limit of version 1 that means "none": the largest number of whole pages below 2^63, whatever the
/// page size.
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup {
    /// Reads the numbers that are there.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let number = |dir: Option<&Dir>, v1: &str, v2: &str| {
            let dir = dir?;
            file::number(&dir.path.join(if dir.kind == Kind::V1 { v1 } else { v2 }))
        };
        let memory = self.dir_of("memory");
        let limit = number(memory, "memory.limit_in_bytes", "memory.max");
        let pids = self.dir_of("pids");
        Stats {
            memory_usage: number(memory, "memory.usage_in_bytes", "memory.current"),
            memory_peak: number(memory, "memory.max_usage_in_bytes", "memory.peak"),
            memory_limit: limit.filter(|bytes| *bytes < NO_LIMIT),
            cpu_usage: self.cpu_usage(),
            pids: number(pids, "pids.current", "pids.current"),
            pids_limit: number(pids, "pids.max", "pids.max"),
            oom_kills: self.oom_kill_count(),
        }
    }

    /// How many of its processes the OOM killer has killed; `None` if that is not counted here.
    #[must_use]
    pub fn oom_kill_count(&self) -> Option<u64> {
        let dir = self.dir_of("memory")?;
        let name = if dir.kind == Kind::V1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        file::keyed(&fs::read_to_string(dir.path.join(name)).ok()?, "oom_kill")
    }

    fn cpu_usage(&self) -> Option<u64> {
        let dir = self.dir_of("cpuacct")?;
        match dir.kind {
            Kind::V1 => file::number(&dir.path.join("cpuacct.usage")),
            Kind::V2 => {
                let text = fs::read_to_string(dir.path.join("cpu.stat")).ok()?;
                file::keyed(&text, "usage_usec").map(|micros| micros * 1000)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Paths;

    #[test]
    fn numbers_are_read_per_version() {
        let host = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = host.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("v1/memory.usage_in_bytes", "4096\n");
        put("v1/memory.limit_in_bytes", "9223372036854771712\n");
        put(
            "v1/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        put("v1/cpuacct.usage", "77\n");
        put("v2/memory.current", "8192\n");
        put("v2/memory.max", "65536\n");
        put("v2/memory.events", "low 0\noom 1\noom_kill 1\n");
        put("v2/cpu.stat", "usage_usec 5\nuser_usec 1\n");
        put("v2/pids.current", "3\n");
        put("v2/pids.max", "max\n");

        let path = |name: &str| host.path().join(name);
        let v1 = Paths::from([
            ("memory".to_owned(), path("v1")),
            ("cpuacct".to_owned(), path("v1")),
        ]);
        let want = Stats {
            memory_usage: Some(4096),
            cpu_usage: Some(77),
            oom_kills: Some(2),
            ..Stats::default()
        };
        assert_eq!(Cgroup::from_paths(&v1).stats(), want);

        let v2 = Paths::from([(String::new(), path("v2"))]);
        let want = Stats {
            memory_usage: Some(8192),
            memory_limit: Some(65536),
            cpu_usage: Some(5000),
            pids: Some(3),
            oom_kills: Some(1),
            ..Stats::default()
        };
        assert_eq!(Cgroup::from_paths(&v2).stats(), want);
    }
}
