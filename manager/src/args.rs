//! Raw arguments of crozed.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// crozed is Croze's daemon: images, snapshots, containers, served over gRPC.
#[derive(Debug, Default, Parser)]
#[command(name = "crozed", version, max_term_width = 110)]
pub(crate) struct Args {
    /// Configuration [default: /etc/croze/croze.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Durable state [default: /var/lib/croze]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// State that is forgotten after a boot [default: /run/croze]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_root: Option<PathBuf>,
    /// Unix socket to listen on [default: croze.sock in the run root]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Default OCI runtime: a name from the configuration, a path, or a name looked for beside crozed and in PATH [default: croze-rt]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) runtime: Option<PathBuf>,
    /// Shim: a path, or a name looked for beside crozed and in PATH [default: croze-shim]
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<PathBuf>,
    /// Program for containers with --init: a path, or a name looked for beside crozed and in PATH [default: croze-init]
    #[arg(long, value_name = "PATH")]
    pub(crate) init: Option<PathBuf>,
    /// Network of containers that ask for none in particular: bridge, none or host [default: bridge]
    #[arg(long, value_name = "NETWORK")]
    pub(crate) default_network: Option<String>,
    /// Name of the bridge network's interface, and of its packet filter tables [default: croze0]
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// What to log: error, warn, info, debug or trace, or directives such as info,croze_images=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Write the manual page to this file and end (for packagers)
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) man_page: Option<PathBuf>,
    /// How to log [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }
}
