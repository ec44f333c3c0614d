//! What running processes have used, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A process and all that descend from it.
pub(crate) fn family(first: i32) -> Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("listing /proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // One that ended meanwhile is no member any more.
        if let Some(parent) = stat_field(pid, 3) {
            parents.push((pid, i32::try_from(parent)?));
        }
    }
    let mut members = vec![first];
    let mut next = 0;
    while let Some(&parent) = members.get(next) {
        members.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    Ok(members)
}

/// Processor time of a daemon's family so far, with that of children it has waited for.
pub(crate) fn processor_time(family: &[i32]) -> Duration {
    let ticks: u64 = family
        .iter()
        .flat_map(|pid| (13..17).filter_map(|field| stat_field(*pid, field)))
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The sum of the members' peaks of resident memory, in KiB.
pub(crate) fn peak_memory(family: &[i32]) -> u64 {
    family
        .iter()
        .filter_map(|pid| kib(&format!("/proc/{pid}/status"), "VmHWM:"))
        .sum()
}

/// The memory that these processes have for themselves, and their share of what they share, in KiB.
pub(crate) fn proportional_memory(pids: &[i32]) -> u64 {
    pids.iter()
        .filter_map(|pid| kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
        .sum()
}

/// Those of the family whose name begins like this.
pub(crate) fn named(family: &[i32], name: &str) -> Vec<i32> {
    let is = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim().starts_with(name))
    };
    family.iter().copied().filter(is).collect()
}

/// A number of `/proc/PID/stat`, counted from 0 as proc(5) does less one; the name may hold anything but ends with the last `)`.
fn stat_field(pid: i32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(field.checked_sub(2)?)?.parse().ok()
}

fn kib(file: &str, label: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_what_it_used() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = i32::try_from(stat_field(own, 3).unwrap()).unwrap();
        assert!(family(parent).unwrap().contains(&own));
        assert!(peak_memory(&[own]) > 0);
        assert!(proportional_memory(&[own]) > 0);
        assert!(!named(&[own], "").is_empty());
        assert!(named(&[own], "no such name").is_empty());
        assert!(processor_time(&[own]) < Duration::from_secs(60));
    }
}
