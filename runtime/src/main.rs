//! croze-rt: a low-level OCI runtime, a drop-in for runc.
//!
//! ```text
//! arguments ─ cli::args ─> Invocation ─ cli::commands ─> croze_container::ops ─> exit code
//!                                           └ cli::output, cli::log: everything that is printed
//! ```
//!
//! This package reads the command line, calls one operation, and prints. What containers are is in `croze-container`.
#![forbid(unsafe_code)]

mod cli;

use cli::args::Invocation;
use cli::log::Log;
use std::process::ExitCode;

/// Most calls live some milliseconds; see the module for what that gains.
#[global_allocator]
static ALLOCATOR: croze_sys::alloc::Arena = croze_sys::alloc::Arena::new();

fn main() -> ExitCode {
    cli::commands::seal_early();
    let line: Vec<_> = std::env::args_os().collect();
    let invocation = match Invocation::read(line.clone()) {
        Ok(invocation) => invocation,
        Err(error) => {
            return cli::output::usage(&error, Log::named_by(&Invocation::globals_of(&line)).as_ref());
        }
    };
    let globals = &invocation.globals;
    let log = match Log::open(globals.log.as_deref(), globals.log_format, globals.level()) {
        Ok(log) => log,
        Err(error) => return cli::output::fatal(None, "", &error, 1),
    };
    let verb = invocation.verb.name();
    match cli::commands::execute(&invocation, &log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => cli::output::fatal(Some(&log), verb, &error, invocation.verb.failure_code()),
    }
}
