//! croze-hello: the program of the embedded image `croze/hello`.
//!
//! It says hello, then what isolation it sees from inside: process, user, hostname, namespaces, limits, capabilities, seccomp, root file
//! system, network. With `--json` the same as one JSON object.
//!
//! ```text
//!   /proc, /sys ──observe──▶ Facts ──▶ text (80 columns, colour only on a terminal) | JSON
//! ```
//!
//! It never fails for want of a fact: what cannot be seen is shown as not visible. It uses nothing but files, so that it runs in an image with
//! nothing else in it.
#![forbid(unsafe_code)]

mod facts;
mod text;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use facts::Facts;
use text::Style;

const USAGE: &str =
    "usage: croze-hello [--json]\n\nPrints what isolation this process sees; --json as one JSON object.\n";

fn main() -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (output, code) = match words.as_slice() {
        [] => {
            let style = if stdout.is_terminal() {
                Style::Colour
            } else {
                Style::Plain
            };
            (text::render(&Facts::observe(), style), ExitCode::SUCCESS)
        }
        ["--json"] => (format!("{:#}\n", Facts::observe().to_json()), ExitCode::SUCCESS),
        ["--version"] => (
            format!("croze-hello version {}\n", env!("CARGO_PKG_VERSION")),
            ExitCode::SUCCESS,
        ),
        ["--help" | "-h"] => (USAGE.to_owned(), ExitCode::SUCCESS),
        _ => (USAGE.to_owned(), ExitCode::from(2)),
    };
    // A reader that has gone away is no failure of ours.
    let _gone = stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush());
    code
}
