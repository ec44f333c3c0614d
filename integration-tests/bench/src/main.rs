//! Times croze-rt beside crun and runc on the same bundles and writes its section of docs/benchmarks.md.
//!
//! ```text
//! croze-bench [--rounds N] [--croze-rt PATH] [--report FILE]
//! ```
//!
//! Every round runs every case once with every runtime, in another order each time, so that a change in the
//! machine's load meets all of them. What is reported are medians, and their ratio to crun's: the absolute
//! numbers belong to one machine.
//!
//! The peak memory is what `wait4` says of the runtime's process. A child starts with what its parent's memory
//! was, so this program is small and static itself; its own peak is a floor that is reported too.
#![forbid(unsafe_code)]

mod bundle;
mod measure;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let runtimes = measure::find_runtimes(&options.croze_rt)?;
    let bundles = bundle::Bundles::make()?;
    let results = measure::measure(&runtimes, &bundles, options.rounds)?;
    let text = report::text(&runtimes, &results, options.rounds);
    report::print(&text)?;
    croze_bench::save_section(&options.report, report::TITLE, &text)
}

struct Options {
    rounds: usize,
    croze_rt: PathBuf,
    report: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 60,
            croze_rt: "bin/croze-rt".into(),
            report: "docs/benchmarks.md".into(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--rounds" => options.rounds = value.parse().context("--rounds takes a number")?,
                "--croze-rt" => options.croze_rt = value.into(),
                "--report" => options.report = value.into(),
                _ => bail!("unknown option {name}: use --rounds, --croze-rt, --report"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds is at least 1");
        }
        Ok(options)
    }
}
