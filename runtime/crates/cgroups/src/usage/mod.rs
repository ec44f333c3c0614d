//! What a cgroup has used and may use, in full: what `events --stats` reports. [`Stats`](crate::Stats) is the short form.
//!
//! A number that this kernel or version does not count is zero or an empty list: who reads the report finds
//! every key, and does not ask which controllers there are. Version 2 is reported in the words of version 1, as callers know
//! them: swap with memory, throttled time in nanoseconds.
//!
//! | module | files |
//! |---|---|
//! | `cpu` | `cpuacct.*`, `cpu.stat`, `cpuset.*` |
//! | `memory` | `memory.*` |
//! | `io` | `blkio.*`, `io.stat` |

mod cpu;
mod io;
mod memory;

use crate::cgroup::{Cgroup, Dir};
use crate::file;
use crate::observe::Kind;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use cpu::{CpuSet, CpuUsage, Throttling};
pub use io::{BlockIo, Transfer};
pub use memory::{MemoryUsage, Pool};

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time.
    pub cpu: CpuUsage,
    /// The CPUs and memory nodes that may be used.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub block: BlockIo,
    /// Huge pages, by their size as the kernel names it (`2MB`).
    pub huge_pages: BTreeMap<String, HugePages>,
    /// Time that was lost by waiting, by what was waited for (`cpu`, `memory`, `io`); version 2 only.
    pub pressure: BTreeMap<&'static str, Pressure>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 for any number.
    pub limit: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes in use.
    pub usage: u64,
    /// The most bytes that were in use.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Lost time, as the kernel's `*.pressure` files have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: Stall,
    /// While all of them did.
    pub full: Stall,
}

// The averages are never NaN: they are parsed from digits.
impl Eq for Pressure {}

/// One line of a `*.pressure` file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total: u64,
}

impl Cgroup {
    /// Reads everything that is there.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let unified = self.unified().map(|dir| dir.path.as_path());
        Usage {
            cpu: cpu::read(self),
            cpuset: cpu::read_set(self),
            memory: memory::read(self),
            pids: self.dir_of("pids").map(|dir| pids(&dir.path)).unwrap_or_default(),
            block: io::read(self),
            huge_pages: self.dir_of("hugetlb").map(huge_pages).unwrap_or_default(),
            pressure: unified.map(pressures).unwrap_or_default(),
        }
    }
}

/// A file of one number, 0 if there is none.
fn number(dir: &Path, name: &str) -> u64 {
    file::number(&dir.join(name)).unwrap_or(0)
}

/// A file of `key number` lines.
fn table(dir: &Path, name: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn pids(dir: &Path) -> Pids {
    Pids {
        current: number(dir, "pids.current"),
        limit: number(dir, "pids.max"),
    }
}

/// The sizes are found by the names of the files: which there are depends on the machine.
fn huge_pages(dir: &Dir) -> BTreeMap<String, HugePages> {
    let current = match dir.kind {
        Kind::V1 => ".usage_in_bytes",
        Kind::V2 => ".current",
    };
    let names = fs::read_dir(&dir.path).into_iter().flatten().flatten();
    let sizes = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(current)?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    sizes
        .map(|size| {
            let read = |end: &str| number(&dir.path, &format!("hugetlb.{size}.{end}"));
            let pages = match dir.kind {
                Kind::V1 => HugePages {
                    usage: read("usage_in_bytes"),
                    max: read("max_usage_in_bytes"),
                    failures: read("failcnt"),
                },
                Kind::V2 => HugePages {
                    usage: read("current"),
                    max: 0,
                    failures: table(&dir.path, &format!("hugetlb.{size}.events"))
                        .remove("max")
                        .unwrap_or(0),
                },
            };
            (size, pages)
        })
        .collect()
}

fn pressures(dir: &Path) -> BTreeMap<&'static str, Pressure> {
    ["cpu", "memory", "io"]
        .into_iter()
        .filter_map(|kind| {
            let text = fs::read_to_string(dir.join(format!("{kind}.pressure"))).ok()?;
            Some((kind, pressure(&text)))
        })
        .collect()
}

fn pressure(text: &str) -> Pressure {
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = |key: &str| {
            line?
                .split_whitespace()
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
        };
        let share = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        Stall {
            avg10: share("avg10"),
            avg60: share("avg60"),
            avg300: share("avg300"),
            total: value("total").and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    };
    Pressure {
        some: line("some "),
        full: line("full "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Paths;

    /// A directory with these files.
    fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_is_told_in_the_words_of_version_1() {
        let dir = files(&[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
            ),
            ("cpuset.cpus.effective", "0-1,4\n"),
            ("memory.current", "100\n"),
            ("memory.max", "1000\n"),
            ("memory.swap.current", "5\n"),
            ("memory.swap.max", "50\n"),
            ("memory.events", "max 7\noom_kill 1\n"),
            ("memory.stat", "anon 1\nfile 60\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.events", "max 9\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            ),
        ]);
        let cgroup = Cgroup::from_paths(&Paths::from([(String::new(), dir.path().to_owned())]));
        let usage = cgroup.usage();
        assert_eq!(
            (usage.cpu.total, usage.cpu.user, usage.cpu.kernel),
            (30_000, 20_000, 10_000)
        );
        assert_eq!(
            usage.cpu.throttling,
            Throttling {
                periods: 4,
                throttled_periods: 3,
                throttled_time: 2000
            }
        );
        assert_eq!(usage.cpuset.cpus, [0, 1, 4]);
        assert_eq!(
            (
                usage.memory.cache,
                usage.memory.memory.limit,
                usage.memory.memory.failures
            ),
            (60, 1000, 7)
        );
        assert_eq!((usage.memory.swap.usage, usage.memory.swap.limit), (105, 1050));
        assert_eq!(usage.memory.raw["anon"], 1);
        assert_eq!(usage.pids, Pids { current: 2, limit: 0 });
        assert_eq!(usage.block.service_bytes.len(), 3);
        assert_eq!(usage.huge_pages["2MB"].failures, 9);
        let cpu = &usage.pressure["cpu"];
        assert_eq!((cpu.some.avg10, cpu.full.total), (1.5, 3));
    }

    #[test]
    fn version_1_is_read_from_its_own_files() {
        let dir = files(&[
            ("cpuacct.usage", "1000\n"),
            ("cpuacct.usage_percpu", "600 400 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 500 100\n1 300 100\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("cpu.stat", "nr_periods 1\nnr_throttled 0\nthrottled_time 5\n"),
            ("cpuset.cpus", "0-1\n"),
            ("cpuset.mems", "0\n"),
            ("cpuset.sched_load_balance", "1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("memory.usage_in_bytes", "10\n"),
            ("memory.max_usage_in_bytes", "20\n"),
            ("memory.limit_in_bytes", "30\n"),
            ("memory.failcnt", "4\n"),
            ("memory.stat", "cache 6\nrss 7\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 11\n8:0 Total 11\nTotal 11\n",
            ),
        ]);
        let names = ["cpu", "cpuacct", "cpuset", "memory", "blkio"];
        let cgroup = Cgroup::from_paths(&names.map(|name| (name.to_owned(), dir.path().to_owned())).into());
        let usage = cgroup.usage();
        assert_eq!((usage.cpu.total, usage.cpu.user), (1000, 20_000_000));
        assert_eq!(usage.cpu.per_cpu, [600, 400]);
        assert_eq!(
            (&usage.cpu.per_cpu_user[..], &usage.cpu.per_cpu_kernel[..]),
            (&[500, 300][..], &[100, 100][..])
        );
        assert_eq!(usage.cpu.throttling.throttled_time, 5);
        assert_eq!(usage.cpuset.flags["sched_relax_domain_level"], -1);
        assert_eq!(
            usage.memory.memory,
            Pool {
                limit: 30,
                usage: 10,
                max: 20,
                failures: 4
            }
        );
        assert_eq!(usage.memory.cache, 6);
        let read = &usage.block.service_bytes[0];
        assert_eq!(
            (read.major, read.minor, read.operation.as_str(), read.value),
            (8, 0, "Read", 11)
        );
        assert_eq!(usage.block.service_bytes.len(), 2);
        assert!(usage.pressure.is_empty());
    }
}
