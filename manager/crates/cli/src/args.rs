//! Raw arguments: what clap reads from the command line. What they mean is decided in [`crate::verbs`].
//!
//! Options of `run`, `create` and `exec` end at the image or container: all that follows belongs to the command, as with docker. This is
//! why the positional words are one list that takes everything from its first member on.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use croze_client::v1::Mount;

use crate::values::{self, DetachKeys, Tail};

/// croze runs containers: a client of the croze daemon.
#[derive(Debug, Parser)]
#[command(
    name = "croze",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Where the daemon listens: unix:///PATH [default: $CROZE_HOST, else unix:///run/croze/croze.sock]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) host: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the daemon (crozed) in the foreground with the arguments that follow
    #[command(disable_help_flag = true)]
    Daemon(DaemonArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Create a container from an image and start it
    Run(Box<RunArgs>),
    /// Create a container without starting it
    Create(Box<CreateArgs>),
    /// Start created or stopped containers
    Start(StartArgs),
    /// Connect to a running container's streams
    Attach(AttachArgs),
    /// List containers
    Ps(PsArgs),
    /// Show what a container printed
    Logs(LogsArgs),
    /// Run a further command in a running container
    Exec(ExecArgs),
    /// Stop containers: their stop signal, then SIGKILL after a time
    Stop(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Wait until containers have ended, and print their exit codes
    Wait(NamesArgs),
    /// Show everything about containers or images, as a JSON array
    Inspect(NamesArgs),
    /// Show what happens, one line per event, until interrupted
    Events,
    /// Show versions of client, daemon and runtime
    Version,
    /// Show what the daemon runs on and how much it holds
    Info,
}

/// `daemon`
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Arguments of crozed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

/// `pull`
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Print only the image's reference
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform to fetch, as os/arch[/variant] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// The image's reference.
    #[arg(help = "[REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]", value_name = "IMAGE")]
    pub(crate) image: String,
}

/// `images`
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print only image ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also show digests
    #[arg(long)]
    pub(crate) digests: bool,
}

/// `rmi`
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Also remove an image of several references when it is named by id
    #[arg(short, long)]
    pub(crate) force: bool,
    /// References, ids or prefixes of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// When to fetch an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Ask the registry each time
    Always,
    /// Only when the image is not on this machine
    Missing,
    /// Never
    Never,
}

/// What `run` and `create` share.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "clap's flags, one field each")]
pub(crate) struct ContainerArgs {
    /// Name of the container [default: a made-up one]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Set a variable (NAME=value), or pass on this environment's (NAME)
    #[arg(short, long, value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file, one per line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<std::path::PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group.
    #[arg(
        help = "User and group, names or numbers: USER[:GROUP]",
        short,
        long,
        value_name = "USER"
    )]
    pub(crate) user: Option<String>,
    /// Bind mounts.
    #[arg(help = "Bind a host directory or file: /HOST:/CONTAINER[:ro]", short, long, value_name = "MOUNT", value_parser = parse_volume)]
    pub(crate) volume: Vec<Mount>,
    /// Network: none (no network but loopback) or host (the host's); bridge networks are not there yet
    #[arg(long, alias = "net", value_name = "NETWORK", default_value = "none")]
    pub(crate) network: String,
    /// Limit of memory, such as 64m or 1g
    #[arg(short, long, value_name = "SIZE", value_parser = values::size_bytes)]
    pub(crate) memory: Option<u64>,
    /// Limit of memory and swap together; -1 for no limit of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = values::swap_bytes, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<i64>,
    /// How many CPUs it may use, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = values::nano_cpus)]
    pub(crate) cpus: Option<u64>,
    /// Relative weight of its CPU time [default of the kernel: 1024]
    #[arg(short, long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// CPUs it may run on, such as 0-2,4
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = values::pids_limit, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<u64>,
    /// Hostname in the container [default: the start of its id]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Replace the image's entrypoint; an empty text for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Attach a label, KEY=value
    #[arg(short, long, value_name = "LABEL", value_parser = values::label)]
    pub(crate) label: Vec<(String, String)>,
    /// Signal that asks the command to stop [default: the image's, else TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// Add a capability to the default ones
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability from the default ones
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Make the container's root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// When to fetch the image
    #[arg(long, value_enum, value_name = "POLICY", default_value = "missing")]
    pub(crate) pull: PullPolicy,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Leave it running, and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) attach: AttachOptions,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

/// `create`
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

/// How an attached client behaves.
#[derive(Debug, Clone, Args)]
pub(crate) struct AttachOptions {
    /// Forward signals to the container
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) sig_proxy: bool,
    /// Keys that leave the container without stopping it
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = values::detach_keys)]
    pub(crate) detach_keys: DetachKeys,
}

/// `start`
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Connect to its output, and end with its exit code
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Also connect to its input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) options: AttachOptions,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// `attach`
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Do not connect to its input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    #[command(flatten)]
    pub(crate) options: AttachOptions,
    /// Name, id or prefix of an id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

/// `ps`
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only so many of the last lines, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = values::tail, allow_hyphen_values = true)]
    pub(crate) tail: Tail,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Name, id or prefix of an id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

/// `exec`
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable (NAME=value), or pass on this environment's (NAME)
    #[arg(short, long, value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group.
    #[arg(
        help = "User and group, names or numbers: USER[:GROUP]",
        short,
        long,
        value_name = "USER"
    )]
    pub(crate) user: Option<String>,
    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = values::detach_keys)]
    pub(crate) detach_keys: DetachKeys,
    /// The container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

/// `stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before SIGKILL [default: the container's own, else 10]
    #[arg(short, long, alias = "timeout", value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// `kill`
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal, name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(crate) signal: String,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// `rm`
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill a running container first
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// A verb that takes names alone.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

fn parse_volume(text: &str) -> Result<Mount, String> {
    let here =
        std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    values::volume(text, &here)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(line: &[&str]) -> Result<Box<RunArgs>, clap::Error> {
        match Cli::try_parse_from(["croze", "run"].iter().chain(line))?.verb {
            Verb::Run(args) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_image() {
        let args = run(&[
            "-it", "--rm", "-m", "64m", "busybox", "-it", "--rm", "--", "-m", "--bogus",
        ])
        .unwrap();
        assert!(args.container.interactive && args.container.tty && args.container.rm);
        assert_eq!(args.container.memory, Some(64 << 20));
        assert_eq!(
            args.container.words,
            ["busybox", "-it", "--rm", "--", "-m", "--bogus"]
        );
    }

    #[test]
    fn short_options_join_and_take_values() {
        let args = run(&["-dit", "-eA=b", "-e", "C", "-w/x", "-u1:2", "-v/a:/b:ro", "i"]).unwrap();
        assert!(args.detach && args.container.tty);
        assert_eq!(args.container.env, ["A=b", "C"]);
        assert_eq!(args.container.workdir.as_deref(), Some("/x"));
        assert_eq!(args.container.user.as_deref(), Some("1:2"));
        assert!(args.container.volume[0].read_only);
        assert_eq!(args.container.network, "none");
        assert_eq!(args.container.pull, PullPolicy::Missing);
        assert!(args.attach.sig_proxy);
        assert!(!run(&["--sig-proxy=false", "i"]).unwrap().attach.sig_proxy);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            (vec![], "IMAGE"),
            (vec!["-m", "lots", "i"], "invalid size"),
            (vec!["--cpus", "-1", "i"], "unexpected argument"),
            (vec!["--cpus=x", "i"], "invalid number of CPUs"),
            (vec!["--pids-limit", "-5", "i"], "no limit"),
            (vec!["-v", "name:/b", "i"], "named volumes"),
            (vec!["--bogus", "i"], "--bogus"),
            (vec!["--pull", "often", "i"], "often"),
        ] {
            let error = run(&line).unwrap_err().to_string();
            assert!(error.contains(words), "{line:?}: {error}");
        }
    }

    #[test]
    fn exec_needs_a_command_and_keeps_its_options() {
        let Verb::Exec(args) = Cli::try_parse_from(["croze", "exec", "-i", "c", "ls", "-l", "-i"])
            .unwrap()
            .verb
        else {
            panic!("not exec");
        };
        assert_eq!(args.words, ["c", "ls", "-l", "-i"]);
        assert!(Cli::try_parse_from(["croze", "exec", "c"]).is_err());
    }

    #[test]
    fn the_daemon_gets_its_arguments_as_they_are() {
        let Verb::Daemon(args) = Cli::try_parse_from(["croze", "daemon", "--root", "/x", "--help", "-v"])
            .unwrap()
            .verb
        else {
            panic!("not daemon");
        };
        assert_eq!(args.args, ["--root", "/x", "--help", "-v"]);
    }
}
