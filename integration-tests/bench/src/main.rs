//! Times croze-rt beside crun and runc on the same bundles and writes its section of docs/benchmarks.md.
//!
//! ```text
//! croze-bench --runtime NAME=PATH … [--reference NAME] [--rounds N] [--crowds N] [--report FILE] [--title TEXT]
//! ```
//!
//! Every round runs every case once with every runtime, in an order drawn by lot, so that a change in the machine's load, and what
//! the neighbour has left, meets all of them. What is reported are medians, and their ratio to the reference's: the absolute numbers
//! belong to one machine.
//!
//! The peak memory is what `wait4` says of the runtime's process. A child starts with what its parent's memory
//! was, so this program is small and static itself; its own peak is a floor that is reported too.
#![forbid(unsafe_code)]

mod bundle;
mod measure;
mod report;
mod runtimes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use runtimes::Runtime;

fn main() -> Result<()> {
    let mut options = Options::parse(std::env::args().skip(1))?;
    let bundles = bundle::Bundles::make()?;
    let unable = measure::take_out_unable(&mut options.runtimes, &bundles)?;
    let reference = options.reference()?;
    let results = measure::measure(&options.runtimes, &bundles, options.rounds, options.crowds)?;
    let text = report::text(&options, reference, &results, &unable);
    report::print(&text)?;
    croze_bench::save_section(&options.report, &options.title, &text)
}

struct Options {
    runtimes: Vec<Runtime>,
    /// The one that the others are compared with; the first if none is named.
    reference: Option<String>,
    rounds: usize,
    /// How often many containers are run at once.
    crowds: usize,
    report: PathBuf,
    title: String,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runtimes: Vec::new(),
            reference: None,
            rounds: 60,
            crowds: 7,
            report: "docs/benchmarks.md".into(),
            title: "Low-level runtimes".to_owned(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--runtime" => {
                    let (name, path) = value.split_once('=').context("--runtime takes NAME=PATH")?;
                    options.runtimes.push(Runtime::find(name, Path::new(path))?);
                }
                "--reference" => options.reference = Some(value),
                "--rounds" => options.rounds = value.parse().context("--rounds takes a number")?,
                "--crowds" => options.crowds = value.parse().context("--crowds takes a number")?,
                "--report" => options.report = value.into(),
                "--title" => options.title = value,
                _ => bail!(
                    "unknown option {name}: use --runtime, --reference, --rounds, --crowds, --report, --title"
                ),
            }
        }
        if options.runtimes.is_empty() || options.rounds == 0 {
            bail!("give at least one --runtime NAME=PATH, and at least one round");
        }
        Ok(options)
    }

    /// Where in the list the reference is.
    fn reference(&self) -> Result<usize> {
        let Some(wanted) = &self.reference else {
            return Ok(0);
        };
        let known = self.runtimes.iter().position(|runtime| runtime.name == *wanted);
        known.with_context(|| {
            format!("--reference {wanted}: there is no such --runtime, or it does not work here")
        })
    }
}
