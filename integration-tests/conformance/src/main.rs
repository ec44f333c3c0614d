//! `croze-conformance [--list] [WORD…]`: judges one runtime by the table, or by the cases whose names contain a word.
//!
//! Prints a line for each case, `RESULT<tab>NAME<tab>REASON` with a result of `ok`, `skip` or `FAIL`, and ends with 1 if one failed. It
//! needs root and, by environment variables (docs/testing.md): `RUNTIME`, `CROZE_BIN` (the probe), `CROZE_TEST_BUSYBOX`,
//! `CROZE_TEST_SCRATCH`.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use croze_conformance::{Host, Verdict, all};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (flags, words): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.starts_with("--"));
    let list_only = flags.iter().any(|flag| flag == "--list");
    let host = Host::observe();
    let mut failed = false;
    let mut out = std::io::stdout().lock();
    for case in all(&host).into_iter().flat_map(|chapter| chapter.cases) {
        if !words.is_empty() && !words.iter().any(|word| case.name.contains(word.as_str())) {
            continue;
        }
        if list_only {
            writeln!(out, "{}", case.name).context("writing the list")?;
            continue;
        }
        let (result, reason) = match case.judge(&host) {
            Verdict::Ok => ("ok", String::new()),
            Verdict::Skipped(reason) => ("skip", reason),
            Verdict::Failed(reason) => {
                failed = true;
                ("FAIL", reason)
            }
        };
        let reason: Vec<&str> = reason.split_whitespace().collect();
        let reason: String = reason.join(" ").chars().take(400).collect();
        writeln!(out, "{result}\t{}\t{reason}", case.name).context("writing the results")?;
        out.flush().context("writing the results")?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}
