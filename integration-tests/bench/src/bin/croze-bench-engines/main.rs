//! Times the manager beside podman and dockerd, its pulls beside containerd's too, and writes its section of docs/benchmarks.md.
//!
//! ```text
//! croze-bench-engines [--rounds N] [--pulls N] [--disk-pulls N] [--report FILE]
//! croze-bench-engines networks [--rounds N] [--report FILE]
//! croze-bench-engines measure FILE PROGRAM [ARGUMENT...]     one program, timed; for the bench's own use
//! ```
//!
//! It expects namespaces of its own (mounts, network): scripts/bench.sh makes them. In each round every engine has its turn, in another
//! order each time. A pull goes into an empty store of a daemon that was just started; the registry, Debian's docker-registry on
//! loopback, serves the image from the page cache.
//!
//! A client's processor time and peak memory are what `wait4` says of it. So that it does not begin with this program's memory, it is
//! started by a copy of this program that does nothing else: `measure`.
#![forbid(unsafe_code)]

mod containers;
mod content;
mod crowd;
mod engine;
mod image;
mod measure;
mod network_report;
mod networks;
mod processes;
mod puller;
mod pulls;
mod report;
mod storage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use croze_integration_tests::{Registry, Scene};

use crate::storage::Storage;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "measure").is_some() {
        return measure::child(words);
    }
    if words.next_if(|word| word == "networks").is_some() {
        let options = Options::parse(words)?;
        return Scene::play(|scene| bench_networks(scene, &options));
    }
    let options = Options::parse(words)?;
    let layout = image::prepare()?;
    Scene::play(|scene| bench(scene, &layout, &options))
}

fn bench(scene: &Scene, layout: &Path, options: &Options) -> Result<()> {
    let versions = engine::versions(scene)?;
    let containerd = scene.call(&["containerd", "--version"])?.success()?.stdout;
    let registry = Registry::start(scene)?;
    registry.push(layout, image::TAG, "bench/large:1")?;
    let large = puller::Source::new(
        registry.reference("bench/large:1"),
        &registry.address(),
        "bench/large",
        &registry.manifest("bench/large", "1")?,
    )?;
    let crowd = crowd::push(scene, &registry, layout)?;
    let memory = pulls::pull(scene, Storage::Memory, &large, &crowd, options.pulls)?;
    let disk = pulls::pull(scene, Storage::Disk, &large, &[], options.disk_pulls)?;
    let small = containers::push_small(scene, &registry)?;
    let lives = containers::live_through(scene, Storage::Disk, &small, options.rounds)?;
    let lives_in_memory = containers::live_through(scene, Storage::Memory, &small, options.rounds)?;
    let text = report::text(&report::Findings {
        versions,
        containerd: containerd
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .to_owned(),
        memory,
        disk,
        lives,
        lives_in_memory,
        image: image::describe(layout)?,
        rounds: options.rounds,
    });
    report::print(&text)?;
    croze_bench::save_section(&options.report, report::TITLE, &text)
}

fn bench_networks(scene: &Scene, options: &Options) -> Result<()> {
    let versions = engine::versions(scene)?;
    let figures = networks::measure_all(scene, options.rounds)?;
    let text = network_report::text(&versions, &figures, options.rounds);
    report::print(&text)?;
    croze_bench::save_section(&options.report, network_report::TITLE, &text)
}

struct Options {
    rounds: usize,
    pulls: usize,
    disk_pulls: usize,
    report: PathBuf,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 30,
            pulls: 5,
            disk_pulls: 3,
            report: "docs/benchmarks.md".into(),
        };
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            let number = || value.parse().with_context(|| format!("{name} takes a number"));
            match name.as_str() {
                "--rounds" => options.rounds = number()?,
                "--pulls" => options.pulls = number()?,
                "--disk-pulls" => options.disk_pulls = number()?,
                "--report" => options.report = value.into(),
                _ => bail!("unknown option {name}: use --rounds, --pulls, --disk-pulls, --report"),
            }
        }
        ensure!(
            options.rounds > 0,
            "--rounds is at least 1: daemons and versions are measured on the way"
        );
        Ok(options)
    }
}
