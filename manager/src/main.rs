//! `crozed`: the manager's daemon.
//!
//! ```text
//!   flags, croze.toml --config--> Config --wiring--> Engine --door-grpc--> unix socket
//!                                                      ^
//!                                        recover: while the first clients wait on the socket
//! ```
//!
//! Invariants: one daemon per root and per run root; requests are served after recovery, or when that takes more than some seconds; ending this process, however that happens, ends no
//! container. Not here: what the verbs do (croze-engine), wire formats (croze-door-grpc).
#![forbid(unsafe_code)]

mod args;
mod config;
mod hello;
mod logging;
mod network;
mod programs;
mod registries;
mod serve;
mod socket;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};

fn main() -> ExitCode {
    let args = args::Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &args::Args) -> anyhow::Result<()> {
    if let Some(path) = &args.man_page {
        return write_man_page(path);
    }
    // Whoever speaks TLS first needs a provider; there is one for the process.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let config = config::Config::load(args)?;
    logging::init(&config)?;
    // What must be private has its mode set; directories that users ask for are as docker makes them.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Err(error) = croze_sys::files::raise_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    serve::serve(&config)
}

fn write_man_page(path: &Path) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(args::Args::command())
        .section("8")
        .render(&mut page)
        .context("cannot make the manual page")?;
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints an error as the CLI does: what failed and why in one line, then what to do.
fn report(error: &anyhow::Error) {
    let mut err = std::io::stderr().lock();
    // A daemon without standard error has its log.
    let (line, hint) = match error.downcast_ref::<croze_model::Error>() {
        Some(error) => (error.one_line(), error.advice().map(str::to_owned)),
        None => (format!("{error:#}"), None),
    };
    writeln!(err, "crozed: {line}").ok();
    if let Some(hint) = hint {
        writeln!(err, "hint: {hint}").ok();
    }
}
