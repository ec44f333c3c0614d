//! `croze`: the manager's command line, a client of crozed's gRPC API.
//!
//! ```text
//!   argv --args--> Cli --verbs--> calls of croze-client --output--> stdout
//!                        |              |
//!                        |              `-- streams, terminal: attached containers and execs
//!                        `-- failure: `croze: WHAT: CAUSE`, `hint: …` on stderr, and the exit code
//! ```
//!
//! Exit codes are docker's: the command's own (128 + signal when one ended it) for `run`, `start -a`, `attach` and `exec`; 125 when the
//! daemon or this program failed, 126 when the command cannot be executed, 127 when it was not found; 1 for other verbs.
//!
//! Invariants: nothing is read from or written to containers, images or the store except through the daemon; the terminal's mode is
//! restored on every way out; a broken pipe on standard output ends the program quietly.
#![forbid(unsafe_code)]

mod args;
mod credentials;
mod failure;
mod human;
mod listing;
mod moments;
mod output;
mod overview;
mod progress;
mod signals;
mod streams;
mod table;
mod template;
mod terminal;
mod usage;
mod values;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let matches = overview::with_overview(args::Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| args::Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return failure::Failure::io("start the asynchronous runtime", source).report(),
    };
    let result = runtime.block_on(verbs::execute(cli));
    // A thread may be stuck in a read of standard input: it is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}
