//! docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;

use anyhow::Result;

use crate::measure::{CASES, Results, Runtime, Samples};

/// Whom the others are compared with.
const REFERENCE: &str = "crun";

/// The whole file.
pub(crate) fn text(runtimes: &[Runtime], results: &Results, rounds: usize) -> String {
    let mut out = String::new();
    out.push_str(
        "# Benchmarks\n\n\
         Written by `make bench`; do not edit. The low-level runtimes on the same bundle: busybox's `true` with a spec as an engine\n\
         generates it (all mounts, masks, a memory and a pids limit, five namespaces). Calls are interleaved; the figures are medians.\n\
         Absolute times belong to the machine they were taken on: compare the ratios.\n\n",
    );
    add_machine(&mut out, rounds);
    add_runtimes(&mut out, runtimes);
    let reference = runtimes.iter().position(|r| r.name == REFERENCE).unwrap_or(0);
    out.push_str("\n## Time\n\nMilliseconds; in parentheses the ratio to crun (below 1 is faster).\n\n");
    add_table(&mut out, runtimes, results, reference, |samples| {
        median(&samples.times).map(|time| time.as_secs_f64() * 1000.0)
    });
    out.push_str(
        "\n`start` of croze-rt returns when the user's program is executed, or says why it could not be; crun's and runc's\n\
         return before that.\n",
    );
    out.push_str("\n## Peak memory\n\nThe runtime's process, MiB, as `wait4` reports it; in parentheses the ratio to crun.\n");
    if let Some(floor) = own_peak() {
        writeln!(
            out,
            "A child begins with its parent's memory: nothing below {floor:.1} MiB can be seen."
        )
        .ok();
    }
    out.push('\n');
    add_table(&mut out, runtimes, results, reference, |samples| {
        median(&samples.memory).map(|kib| kib as f64 / 1024.0)
    });
    out
}

/// Prints the report as well.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn add_machine(out: &mut String, rounds: usize) {
    let system = rustix::system::uname();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let layout = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) {
        2
    } else {
        1
    };
    // The numbers only: what follows names a distribution or a provider, and says nothing of the speed.
    let release = system.release().to_string_lossy();
    let release = release.split('-').next().unwrap_or_default();
    let machine = system.machine().to_string_lossy();
    // Writing to a string cannot fail.
    writeln!(
        out,
        "Linux {release} ({machine}), {processors} processors, cgroup version {layout}, {rounds} rounds.\n"
    )
    .ok();
}

fn add_runtimes(out: &mut String, runtimes: &[Runtime]) {
    out.push_str("| runtime | version | program, MB |\n|---|---|---|\n");
    for runtime in runtimes {
        let size = runtime.size as f64 / 1e6;
        writeln!(out, "| {} | {} | {size:.2} |", runtime.name, runtime.version).ok();
    }
}

fn add_table(
    out: &mut String,
    runtimes: &[Runtime],
    results: &Results,
    reference: usize,
    value: impl Fn(&Samples) -> Option<f64>,
) {
    let names: Vec<&str> = runtimes.iter().map(|r| r.name).collect();
    writeln!(
        out,
        "| case | {} |\n|---{}|",
        names.join(" | "),
        "|---".repeat(names.len())
    )
    .ok();
    for (case, row) in CASES.iter().zip(results) {
        let base = value(&row[reference]);
        write!(out, "| {case} |").ok();
        for samples in row {
            match (value(samples), base) {
                (Some(value), Some(base)) if base > 0.0 => {
                    write!(out, " {value:.2} ({:.2}) |", value / base).ok();
                }
                _ => out.push_str(" - |"),
            }
        }
        out.push('\n');
    }
}

fn median<T: Copy + Ord>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// This program's own peak memory in MiB.
fn own_peak() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(
            median(&[Duration::from_millis(4), Duration::from_millis(2)]),
            Some(Duration::from_millis(4))
        );
    }

    #[test]
    fn tables_show_values_and_ratios() {
        let runtime = |name| Runtime {
            name,
            path: "/".into(),
            version: format!("{name} 1"),
            size: 1_500_000,
        };
        let samples = |ms| Samples {
            times: vec![Duration::from_millis(ms)],
            memory: vec![2048],
        };
        let results = vec![vec![samples(3), samples(6)]];
        let text = text(&[runtime("croze-rt"), runtime("crun")], &results, 1);
        assert!(text.contains("| croze-rt | croze-rt 1 | 1.50 |"), "{text}");
        assert!(text.contains("| run | 3.00 (0.50) | 6.00 (1.00) |"), "{text}");
        assert!(text.contains("| run | 2.00 (1.00) | 2.00 (1.00) |"), "{text}");
    }
}
