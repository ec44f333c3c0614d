//! The engines' section of docs/benchmarks.md.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use croze_bench::{machine, median, table};

use crate::containers::{CASES, Lives};
use crate::engine::{KINDS, Version};
use crate::image::Description;
use crate::puller::PULLERS;
use crate::pulls::Pulls;

/// A row of the pulls.
const CROWD: &str = "ten images at once, s";

/// The section's title.
pub(crate) const TITLE: &str = "Engines";

/// All that was found out, each in the order of [`KINDS`]; of pulls in that of [`PULLERS`].
pub(crate) struct Findings {
    pub(crate) versions: Vec<Version>,
    /// containerd's, which only pulls.
    pub(crate) containerd: String,
    pub(crate) memory: Vec<Pulls>,
    pub(crate) disk: Vec<Pulls>,
    pub(crate) lives: Vec<Lives>,
    pub(crate) lives_in_memory: Vec<Lives>,
    pub(crate) image: Description,
    pub(crate) rounds: usize,
}

/// The section's text.
pub(crate) fn text(found: &Findings) -> String {
    let mut out = format!(
        "The manager beside podman and dockerd, all with storage of their own, the same registry on loopback (Debian's docker-registry)\n\
         and their own defaults: croze with croze-rt, podman and dockerd with what Debian gives them. In parentheses how many times\n\
         croze's figure: above 1.00 the other one needs more.\n\n{}.\n\n",
        machine()
    );
    add_engines(&mut out, found);
    let image = &found.image;
    // Writing to a string cannot fail.
    write!(
        out,
        "\n### Cold pull\n\nAn image of {} layers, {} files, {:.0} MB, gzip: {:.0} MB. Each pull goes into the empty store of a daemon that\n\
         has just started. Processor time is that of client and daemon; peak memory that of the daemon and its helpers, or of podman\n\
         itself. containerd is {}. The floor is no engine: the same bytes through curl, igzip, sha256sum (twice) and tar, two layers at a time, the\n\
         largest first. \"{}\" is that of images that have two layers in common, 106 MB compressed together, and one of their own, into an empty\n\
         store.\n",
        image.layers,
        image.files,
        image.unpacked as f64 / 1e6,
        image.compressed as f64 / 1e6,
        found.containerd,
        CROWD,
    )
    .ok();
    add_pulls(&mut out, "On tmpfs", &found.memory);
    add_pulls(&mut out, "On a fresh ext4", &found.disk);
    out.push_str(
        "\ncroze syncs blobs and layers before a pull is answered, and keeps the compressed blobs too, as podman and dockerd do not: the first\n\
         costs time on a disk, the second space.\n",
    );
    write!(
        out,
        "\n### Containers\n\nA small image, `--network none`, {} rounds; milliseconds from the client's start to its end.\n",
        found.rounds
    )
    .ok();
    out.push_str(
        "What `run --rm` makes is owed to no power cut by croze, which syncs little for it (docs/decisions/0008-durability-of-rm.md); the other\n\
         engines' own ways are as they come. `run -d` of croze is durable before it is answered, as `rm` is.\n",
    );
    add_lives(&mut out, "On ext4", &found.lives);
    add_lives(&mut out, "On tmpfs", &found.lives_in_memory);
    out
}

/// Prints the report as well.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name()).collect()
}

fn add_engines(out: &mut String, found: &Findings) {
    out.push_str(
        "| engine | version | runtime | all programs, MB | daemon at rest, MiB | per container, MiB |\n|---|---|---|---|---|---|\n",
    );
    for ((kind, version), lives) in KINDS.iter().zip(&found.versions).zip(&found.lives) {
        let idle = lives.idle_memory.map_or_else(
            || "no daemon".to_owned(),
            |kib| format!("{:.1}", kib as f64 / 1024.0),
        );
        writeln!(
            out,
            "| {} | {} | {} | {:.1} | {idle} | {:.1} |",
            kind.name(),
            version.engine,
            version.runtime,
            version.programs as f64 / 1e6,
            lives.monitor_memory as f64 / 1024.0
        )
        .ok();
    }
    out.push_str(
        "\nMemory is proportional (PSS): of the daemon with its helpers, and of the process beside each container.\n",
    );
}

fn add_pulls(out: &mut String, title: &str, pulls: &[Pulls]) {
    let Some(count) = pulls
        .first()
        .map(|pulls| pulls.times.len())
        .filter(|count| *count > 0)
    else {
        return;
    };
    write!(out, "\n{title}, {count} rounds:\n\n").ok();
    let seconds = |times: &[Duration]| median(times).map(|time| time.as_secs_f64());
    let each = |value: &dyn Fn(&Pulls) -> Option<f64>| pulls.iter().map(value).collect::<Vec<_>>();
    let mut rows = vec![
        ("time, s", each(&|pulls| seconds(&pulls.times))),
        ("processor time, s", each(&|pulls| seconds(&pulls.processor))),
        (
            "peak memory, MiB",
            each(&|pulls| median(&pulls.peak_memory).map(|kib| kib as f64 / 1024.0)),
        ),
        (
            "stored, MB",
            each(&|pulls| median(&pulls.stored).map(|bytes| bytes as f64 / 1e6)),
        ),
    ];
    rows.push((
        "the same again, ms",
        each(&|pulls| seconds(&pulls.again).map(|time| time * 1000.0)),
    ));
    if pulls.iter().any(|pulls| !pulls.crowd.is_empty()) {
        rows.push((CROWD, each(&|pulls| seconds(&pulls.crowd))));
    }
    let pullers: Vec<&str> = PULLERS.iter().map(|puller| puller.name()).collect();
    out.push_str(&table(&pullers, 0, &rows));
}

fn add_lives(out: &mut String, title: &str, lives: &[Lives]) {
    write!(out, "\n{title}:\n\n").ok();
    let milliseconds = |times: &Vec<Duration>| median(times).map(|time| time.as_secs_f64() * 1000.0);
    let rows: Vec<(&str, Vec<Option<f64>>)> = CASES
        .iter()
        .enumerate()
        .map(|(n, case)| {
            let values = lives
                .iter()
                .map(|lives| lives.times.get(n).and_then(milliseconds));
            (*case, values.collect())
        })
        .collect();
    out.push_str(&table(&names(), 0, &rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_has_engines_pulls_and_containers() {
        let version = Version {
            engine: "engine 1".to_owned(),
            runtime: "runtime 2".to_owned(),
            programs: 12_000_000,
        };
        let pulls = |seconds| Pulls {
            times: vec![Duration::from_secs(seconds)],
            processor: vec![Duration::from_secs(seconds)],
            peak_memory: vec![2048],
            stored: vec![5_000_000],
            again: vec![Duration::from_millis(seconds * 10)],
            crowd: Vec::new(),
        };
        let lives = Lives {
            times: vec![vec![Duration::from_millis(20)]; CASES.len()],
            idle_memory: Some(1024),
            monitor_memory: 512,
        };
        let text = text(&Findings {
            versions: vec![version; 3],
            containerd: "1.2.3".to_owned(),
            memory: vec![pulls(2), pulls(4), pulls(6), pulls(8), pulls(1)],
            disk: vec![Pulls::default(); PULLERS.len()],
            lives: vec![lives.clone(), lives.clone(), lives.clone()],
            lives_in_memory: vec![lives; 3],
            image: Description {
                layers: 8,
                files: 25_000,
                unpacked: 850_000_000,
                compressed: 320_000_000,
            },
            rounds: 1,
        });
        assert!(
            text.contains("| croze | engine 1 | runtime 2 | 12.0 | 1.0 | 0.5 |"),
            "{text}"
        );
        assert!(
            text.contains(
                "| time, s | 2.00 (1.00) | 4.00 (2.00) | 6.00 (3.00) | 8.00 (4.00) | 1.00 (0.50) |"
            ),
            "{text}"
        );
        assert!(!text.contains("fresh ext4, "), "no round, no table: {text}");
        assert!(
            text.contains("| ps | 20.00 (1.00) | 20.00 (1.00) | 20.00 (1.00) |"),
            "{text}"
        );
    }
}
