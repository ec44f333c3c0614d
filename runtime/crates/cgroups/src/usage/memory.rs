//! Memory.

use super::{number, table};
use crate::cgroup::Cgroup;
use crate::file;
use crate::observe::Kind;
use std::collections::BTreeMap;
use std::path::Path;

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Pages of files.
    pub cache: u64,
    /// Memory.
    pub memory: Pool,
    /// Memory and swap together.
    pub swap: Pool,
    /// The kernel's part; version 1 only.
    pub kernel: Pool,
    /// Buffers of sockets; version 1 only.
    pub kernel_tcp: Pool,
    /// `memory.stat` as it is.
    pub raw: BTreeMap<String, u64>,
}

/// One kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// How much may be used; the largest number for any amount.
    pub limit: u64,
    /// How much is.
    pub usage: u64,
    /// The most that was.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> MemoryUsage {
    let Some(dir) = cgroup.dir_of("memory") else {
        return MemoryUsage::default();
    };
    let path = dir.path.as_path();
    let raw = table(path, "memory.stat");
    let get = |key: &str| raw.get(key).copied().unwrap_or(0);
    match dir.kind {
        Kind::V1 => MemoryUsage {
            cache: get("cache"),
            memory: v1(path, "memory"),
            swap: v1(path, "memory.memsw"),
            kernel: v1(path, "memory.kmem"),
            kernel_tcp: v1(path, "memory.kmem.tcp"),
            raw,
        },
        Kind::V2 => {
            let memory = v2(path, "memory");
            let swap = v2(path, "memory.swap");
            MemoryUsage {
                cache: get("file"),
                memory,
                swap: Pool {
                    limit: swap.limit.saturating_add(memory.limit),
                    usage: swap.usage.saturating_add(memory.usage),
                    ..swap
                },
                raw,
                ..MemoryUsage::default()
            }
        }
    }
}

fn v1(dir: &Path, prefix: &str) -> Pool {
    let read = |end: &str| number(dir, &format!("{prefix}.{end}"));
    Pool {
        limit: read("limit_in_bytes"),
        usage: read("usage_in_bytes"),
        max: read("max_usage_in_bytes"),
        failures: read("failcnt"),
    }
}

fn v2(dir: &Path, prefix: &str) -> Pool {
    let read = |end: &str| number(dir, &format!("{prefix}.{end}"));
    let limit = dir.join(format!("{prefix}.max"));
    let mut events = table(dir, &format!("{prefix}.events"));
    Pool {
        // "max" is no number, and neither is a file that is not there.
        limit: file::number(&limit).unwrap_or(if limit.exists() { u64::MAX } else { 0 }),
        usage: read("current"),
        max: read("peak"),
        failures: events.remove("max").unwrap_or(0),
    }
}
