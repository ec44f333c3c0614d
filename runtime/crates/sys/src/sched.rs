//! When, where and in which order the calling process runs: scheduler, CPUs, I/O priority, memory nodes.

use crate::{Error, Result};

/// A scheduling policy with its parameters, as `sched_setattr(2)` takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// The kernel's `SCHED_*`.
    pub policy: u32,
    /// The kernel's `SCHED_FLAG_*`.
    pub flags: u64,
    /// How willingly it gives way, -20 to 19; for the ordinary policies.
    pub nice: i32,
    /// 1 to 99 for the realtime policies, else 0.
    pub priority: u32,
    /// Nanoseconds of each period that it needs; for deadlines.
    pub runtime: u64,
    /// Nanoseconds from the start of a period to the end of its work.
    pub deadline: u64,
    /// Nanoseconds from one start to the next.
    pub period: u64,
}

/// The kernel's `struct sched_attr` (`SCHED_ATTR_SIZE_VER0`).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// A set of CPUs or memory nodes by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberSet(Vec<libc::c_ulong>);

/// The highest number that a set can hold: what the kernel is ever built for.
const HIGHEST: usize = 8191;
const WORD: usize = libc::c_ulong::BITS as usize;

impl NumberSet {
    /// Reads a list like `0-3,7`; `None` if it is none, or a number is beyond what any kernel knows.
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = Self::default();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse().ok().filter(|number| *number <= HIGHEST);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            (first..=last).for_each(|number| set.insert(number));
        }
        Some(set)
    }

    fn insert(&mut self, number: usize) {
        let word = number / WORD;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % WORD);
    }
}

/// Sets policy and parameters of the calling thread.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE`, or in a cgroup without realtime budget; `EINVAL` for parameters that the policy does not have;
/// `EBUSY` if the deadlines of all could not be kept.
pub fn set_scheduling(scheduling: &Scheduling) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: scheduling.policy,
        flags: scheduling.flags,
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
    };
    // SAFETY: `attr` has the layout and the size that it names, and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    Error::check("sched_setattr", result).map(drop)
}

/// Sets the I/O priority of the calling thread: the kernel's `IOPRIO_CLASS_*`, and 0 (first) to 7 within it.
///
/// # Errors
/// `EPERM` for the realtime class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`; `EINVAL` for other values.
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: the call takes integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            class << CLASS_SHIFT | priority,
        )
    };
    Error::check("ioprio_set", result).map(drop)
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// None that is to be expected.
pub fn affinity() -> Result<NumberSet> {
    let mut words = vec![0; HIGHEST.div_ceil(WORD)];
    let bytes = size_of_val(words.as_slice());
    // SAFETY: the pointer and the length in bytes describe `words`.
    let result = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, words.as_mut_ptr()) };
    let written = Error::check("sched_getaffinity", result)?;
    words.truncate(usize::try_from(written).unwrap_or(bytes) / size_of::<libc::c_ulong>());
    Ok(NumberSet(words))
}

/// Sets the CPUs that the calling thread may run on.
///
/// # Errors
/// `EINVAL`: its cpuset has none of them.
pub fn set_affinity(cpus: &NumberSet) -> Result<()> {
    let bytes = size_of_val(cpus.0.as_slice());
    // SAFETY: the pointer and the length in bytes describe the set, which is only read.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, cpus.0.as_ptr()) };
    Error::check("sched_setaffinity", result).map(drop)
}

/// Sets where the calling thread's memory comes from; `mode` is the kernel's `MPOL_*` with its flags.
///
/// # Errors
/// `ENOSYS`: a kernel without NUMA; `EINVAL`: nodes that are not there, or that the mode does not take.
pub fn set_memory_policy(mode: u32, nodes: &NumberSet) -> Result<()> {
    // The kernel takes the number of bits plus one.
    let bits = match nodes.0.len() {
        0 => 0,
        words => words * WORD + 1,
    };
    // SAFETY: the mask holds at least `bits - 1` bits, or is not looked at if that is none; it is only read.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.0.as_ptr(), bits) };
    Error::check("set_mempolicy", result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_sets_of_bits() {
        assert_eq!(NumberSet::parse("0-2,5"), Some(NumberSet(vec![0b10_0111])));
        assert_eq!(NumberSet::parse("64"), Some(NumberSet(vec![0, 1])));
        for list in ["", "x", "3-1", "-1", "1-", "8192", "99999999999999999999"] {
            assert_eq!(NumberSet::parse(list), None, "{list:?}");
        }
    }

    #[test]
    fn the_own_cpus_can_be_set_again() {
        let own = affinity().expect("asked");
        assert!(own.0.iter().any(|word| *word != 0));
        set_affinity(&own).expect("they are allowed");
    }
}
