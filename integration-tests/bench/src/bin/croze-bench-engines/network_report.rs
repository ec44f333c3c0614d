//! The networks' section of docs/benchmarks.md.

use std::fmt::Write as _;
use std::time::Duration;

use croze_bench::{machine, median, table};

use crate::engine::{KINDS, Version};
use crate::networks::{CASES, Figures, PATHS, TRAFFIC};

/// The section's title.
pub(crate) const TITLE: &str = "Networks";

/// How one kind of traffic is shown.
struct Shown {
    title: &'static str,
    /// What was measured, in which unit, and which way is better.
    words: &'static str,
    /// The probe's numbers in one of that unit.
    unit: f64,
}

/// In the order of [`TRAFFIC`].
const SHOWN: [Shown; TRAFFIC.len()] = [
    Shown {
        title: "Throughput",
        words: "One TCP stream from the container, one second each; Gbit/s. Above 1.00 the other one carries more.",
        unit: 1e9 / 8.0,
    },
    Shown {
        title: "Round trips",
        words: "One byte there and back on an open TCP connection, the median of 2000; microseconds. Above 1.00 the other one takes longer.",
        unit: 1e3,
    },
    Shown {
        title: "Connections",
        words: "Connect, one byte there and one back, close, 300 times one after the other; in a second. Above 1.00 the other one makes more.",
        unit: 1.0,
    },
];

/// The section's text; versions and figures are in the order of [`KINDS`].
pub(crate) fn text(versions: &[Version], found: &[Option<Figures>], rounds: usize) -> String {
    let mut out = format!(
        "The default bridge network of each engine: croze's own nftables table, podman with CNI's plugins, dockerd with iptables and its proxy.\n\
         Each lives in a network namespace of its own, connected by a veth to another one that plays the outside; no packet leaves them, and\n\
         none passes through another engine's rules. In parentheses how many times croze's figure.\n\n{}, {rounds} rounds.\n\n",
        machine()
    );
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
    for (name, version) in names.iter().zip(versions) {
        // Writing to a string cannot fail.
        writeln!(out, "- {name}: {}, {}", version.engine, version.runtime).ok();
    }
    if found.iter().any(Option::is_none) {
        out.push_str("\nA dash: podman was found without plugins for a bridge (/usr/lib/cni).\n");
    }
    out.push_str(
        "\n### Containers on the bridge\n\nA small image on tmpfs; milliseconds from the client's start to its end. Above 1.00 the other one takes longer.\n\n",
    );
    let figures = |value: &dyn Fn(&Figures) -> Option<f64>| -> Vec<Option<f64>> {
        found
            .iter()
            .map(|figures| figures.as_ref().and_then(value))
            .collect()
    };
    let milliseconds = |times: &Vec<Duration>| median(times).map(|time| time.as_secs_f64() * 1000.0);
    let rows: Vec<_> = CASES
        .into_iter()
        .enumerate()
        .map(|(n, case)| (case, figures(&|found| milliseconds(&found.times[n]))))
        .collect();
    out.push_str(&table(&names, 0, &rows));
    for (n, Shown { title, words, unit }) in SHOWN.into_iter().enumerate() {
        write!(out, "\n### {title}\n\n{words}\n\n").ok();
        let rows: Vec<_> = PATHS
            .into_iter()
            .enumerate()
            .map(|(path, name)| {
                let value = |found: &Figures| median(&found.traffic[n][path]).map(|number| number / unit);
                (name, figures(&value))
            })
            .collect();
        out.push_str(&table(&names, 0, &rows));
    }
    out.push_str(
        "\nFrom 127.0.0.1 croze and dockerd serve by a process of their own, which copies; CNI rewrites in the kernel, for which it lets the\n\
         bridge route loopback addresses (`route_localnet`).\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_has_every_figure_and_says_what_was_not_taken() {
        let version = Version {
            engine: "engine 1".to_owned(),
            runtime: "runtime 2".to_owned(),
            programs: 1,
        };
        let figures = |factor: f64| {
            let values = |value: f64| std::array::from_fn(|_| vec![value * factor]);
            Figures {
                times: std::array::from_fn(|_| vec![Duration::from_secs_f64(0.02 * factor)]),
                traffic: [values(1e9), values(30_000.0), values(5_000.0)],
            }
        };
        let found = [Some(figures(1.0)), None, Some(figures(2.0))];
        let text = text(&[version.clone(), version.clone(), version], &found, 3);
        for row in [
            "- dockerd: engine 1, runtime 2\n",
            "| run --rm IMAGE true | 20.00 (1.00) | - | 40.00 (2.00) |",
            "| published port, from outside | 8.00 (1.00) | - | 16.00 (2.00) |",
            "| published port, from outside | 30.00 (1.00) | - | 60.00 (2.00) |",
            "| published port, from 127.0.0.1 | 5000.00 (1.00) | - | 10000.00 (2.00) |",
            "podman was found without plugins",
        ] {
            assert!(text.contains(row), "{row}: {text}");
        }
    }
}
