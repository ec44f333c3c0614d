//! The runtimes' section of docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;

use anyhow::Result;
use croze_bench::{machine, median, table};

use crate::measure::{CASES, Results, Runtime, Samples};

/// The section's title.
pub(crate) const TITLE: &str = "Low-level runtimes";
/// Whom the others are compared with.
const REFERENCE: &str = "crun";

/// The section's text.
pub(crate) fn text(runtimes: &[Runtime], results: &Results, rounds: usize) -> String {
    let mut out = String::from(
        "The low-level runtimes on the same bundle: busybox's `true` with a spec as an engine generates it (all mounts, masks, a memory\n\
         and a pids limit, five namespaces).\n\n",
    );
    // Writing to a string cannot fail.
    writeln!(out, "{}, {rounds} rounds.\n", machine()).ok();
    add_runtimes(&mut out, runtimes);
    let reference = runtimes.iter().position(|r| r.name == REFERENCE).unwrap_or(0);
    out.push_str("\n### Time\n\nMilliseconds; in parentheses the ratio to crun (below 1 is faster).\n\n");
    out.push_str(&figures(runtimes, results, reference, |samples| {
        median(&samples.times).map(|time| time.as_secs_f64() * 1000.0)
    }));
    out.push_str(
        "\n`start` of croze-rt returns when the user's program is executed, or says why it could not be; crun's and runc's\n\
         return before that.\n",
    );
    out.push_str("\n### Peak memory\n\nThe runtime's process, MiB, as `wait4` reports it; in parentheses the ratio to crun.\n");
    if let Some(floor) = own_peak() {
        writeln!(
            out,
            "A child begins with its parent's memory: nothing below {floor:.1} MiB can be seen."
        )
        .ok();
    }
    out.push('\n');
    out.push_str(&figures(runtimes, results, reference, |samples| {
        median(&samples.memory).map(|kib| kib as f64 / 1024.0)
    }));
    out
}

/// Prints the report as well.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn add_runtimes(out: &mut String, runtimes: &[Runtime]) {
    out.push_str("| runtime | version | program, MB |\n|---|---|---|\n");
    for runtime in runtimes {
        let size = runtime.size as f64 / 1e6;
        writeln!(out, "| {} | {} | {size:.2} |", runtime.name, runtime.version).ok();
    }
}

fn figures(
    runtimes: &[Runtime],
    results: &Results,
    reference: usize,
    value: impl Fn(&Samples) -> Option<f64>,
) -> String {
    let names: Vec<&str> = runtimes.iter().map(|r| r.name).collect();
    let rows: Vec<(&str, Vec<Option<f64>>)> = CASES
        .iter()
        .zip(results)
        .map(|(case, row)| (*case, row.iter().map(&value).collect()))
        .collect();
    table(&names, reference, &rows)
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
    fn the_section_has_runtimes_times_and_memory() {
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
