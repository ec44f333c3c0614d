//! The runtimes' section of docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;

use anyhow::Result;
use croze_bench::{machine, median, table};

use crate::Options;
use crate::bundle::{Bundles, CROWD};
use crate::measure::{CASES, Results, Samples};
use crate::runtimes::Runtime;

/// The section's text.
pub(crate) fn text(
    options: &Options,
    reference: usize,
    results: &Results,
    unable: &[(String, String)],
) -> String {
    let name = &options.runtimes[reference].name;
    let limits = if Bundles::are_limited() {
        "a memory and a pids limit"
    } else {
        "no limits: the host has no controllers for them here"
    };
    let mut out = format!(
        "The low-level runtimes on the same bundle: busybox's `true` with a spec as an engine generates it (all mounts, masks, device\n\
         rules, five namespaces, {limits}), bundle and state on tmpfs. The order is drawn by lot in every round.\n\n",
    );
    // Writing to a string cannot fail.
    writeln!(out, "{}, {} rounds.\n", machine(), options.rounds).ok();
    add_runtimes(&mut out, &options.runtimes);
    for (runtime, reason) in unable {
        // Without directories of their own time and place.
        let reason = reason.rsplit("code ").next().unwrap_or_default().trim();
        writeln!(
            out,
            "\nLeft out, because it cannot make the container here: {runtime} (code {reason})"
        )
        .ok();
    }
    writeln!(
        out,
        "\n### Time\n\nMilliseconds, medians; in parentheses the ratio to {name} (below 1 is faster). The seccomp profile is as \
         large as docker's;\ncrun caches the compiled one, croze-rt and runc do not. `exec`, `kill` and `delete` are those of a container that sleeps.\n"
    )
    .ok();
    out.push_str(&figures(options, reference, results, |samples| {
        median(&samples.times).map(|time| time.as_secs_f64() * 1000.0)
    }));
    out.push_str(
        "\n`start` of croze-rt returns when the user's program is executed, or says why it could not be; crun's and runc's\n\
         return before that.\n",
    );
    add_crowds(&mut out, options, reference, results);
    writeln!(
        out,
        "\n### Peak memory\n\nThe runtime's process, MiB, as `wait4` reports it; in parentheses the ratio to {name}."
    )
    .ok();
    if let Some(floor) = own_peak() {
        writeln!(
            out,
            "A child begins with its parent's memory: nothing below {floor:.1} MiB can be seen."
        )
        .ok();
    }
    out.push('\n');
    out.push_str(&figures(options, reference, results, |samples| {
        median(&samples.memory).map(|kib| kib as f64 / 1024.0)
    }));
    add_calls(&mut out, options, reference, results);
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

fn add_crowds(out: &mut String, options: &Options, reference: usize, results: &Results) {
    if results.crowds.iter().all(Vec::is_empty) {
        return;
    }
    writeln!(
        out,
        "\n### {CROWD} at once\n\n{CROWD} calls of `run` started together; containers per second until the last one has ended, median of {} \
         times\n(above 1 is faster).\n",
        options.crowds
    )
    .ok();
    let rates = results
        .crowds
        .iter()
        .map(|times| median(times).map(|time| CROWD as f64 / time.as_secs_f64()))
        .collect();
    out.push_str(&table(
        &names(&options.runtimes),
        reference,
        &[("containers per second", rates)],
    ));
}

fn add_calls(out: &mut String, options: &Options, reference: usize, results: &Results) {
    let counted = |row: &&Vec<Option<usize>>| row.iter().any(Option::is_some);
    if !results.calls.iter().any(|row| counted(&row)) {
        return;
    }
    writeln!(
        out,
        "\n### System calls\n\nOf the runtime and of all its children (the container's process too), counted by strace; in parentheses the \
         ratio.\n"
    )
    .ok();
    let rows: Vec<(&str, Vec<Option<f64>>)> = CASES
        .iter()
        .zip(&results.calls)
        .filter(|(_, row)| counted(row))
        .map(|(case, row)| (*case, row.iter().map(|calls| calls.map(|n| n as f64)).collect()))
        .collect();
    let text = table(&names(&options.runtimes), reference, &rows);
    // Whole numbers.
    out.push_str(&text.replace(".00 (", " ("));
}

fn names(runtimes: &[Runtime]) -> Vec<&str> {
    runtimes.iter().map(|r| r.name.as_str()).collect()
}

fn figures(
    options: &Options,
    reference: usize,
    results: &Results,
    value: impl Fn(&Samples) -> Option<f64>,
) -> String {
    let rows: Vec<(&str, Vec<Option<f64>>)> = CASES
        .iter()
        .zip(&results.cases)
        .map(|(case, row)| (*case, row.iter().map(&value).collect()))
        .collect();
    table(&names(&options.runtimes), reference, &rows)
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
    fn the_section_has_runtimes_times_crowds_memory_and_calls() {
        let runtime = |name: &str| Runtime {
            name: name.to_owned(),
            path: "/".into(),
            version: format!("{name} 1"),
            size: 1_500_000,
        };
        let samples = |ms| Samples {
            times: vec![Duration::from_millis(ms)],
            memory: vec![2048],
        };
        let options = Options {
            runtimes: vec![runtime("croze-rt"), runtime("crun")],
            reference: None,
            rounds: 1,
            crowds: 1,
            report: "/".into(),
            title: "T".to_owned(),
        };
        let results = Results {
            cases: vec![vec![samples(3), samples(6)]],
            crowds: vec![vec![Duration::from_millis(100)], vec![Duration::from_millis(200)]],
            calls: vec![vec![Some(500), Some(1000)]],
        };
        let text = text(
            &options,
            1,
            &results,
            &[("other".to_owned(), "code 1: no".to_owned())],
        );
        for line in [
            "| croze-rt | croze-rt 1 | 1.50 |",
            "container here: other (code 1: no)",
            "| run | 3.00 (0.50) | 6.00 (1.00) |",
            "| containers per second | 500.00 (2.00) | 250.00 (1.00) |",
            "| run | 2.00 (1.00) | 2.00 (1.00) |",
            "| run | 500 (0.50) | 1000 (1.00) |",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
