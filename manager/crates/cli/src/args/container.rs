//! The options of `run`, `create` and `exec`: what a container, or a further process in it, is asked to be.
//!
//! They end at the image or container: all that follows belongs to the command, as with docker. This is why the positional words are one
//! list that takes everything from its first member on.

use clap::{Args, ValueEnum};
use croze_client::v1::Mount;

use super::network::NetworkArgs;
use crate::args::OptionArgs;
use crate::args::headings::{IMAGE, LIMITS, RIGHTS};
use crate::values::{self, DetachKeys};

/// When to fetch an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Ask the registry each time
    Always,
    /// Only when the image is not on this machine
    Missing,
    /// Never
    Never,
    /// When the registry has another one by now; what is here will do if the registry cannot be asked
    Newer,
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
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Limit of memory, such as 64m or 1g
    #[arg(short, long, value_name = "SIZE", value_parser = values::size_bytes, help_heading = LIMITS)]
    pub(crate) memory: Option<u64>,
    /// Limit of memory and swap together; -1 for no limit of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = values::swap_bytes, allow_hyphen_values = true, help_heading = LIMITS)]
    pub(crate) memory_swap: Option<i64>,
    /// How many CPUs it may use, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = values::nano_cpus, help_heading = LIMITS)]
    pub(crate) cpus: Option<u64>,
    /// Relative weight of its CPU time [default of the kernel: 1024]
    #[arg(short, long, value_name = "WEIGHT", help_heading = LIMITS)]
    pub(crate) cpu_shares: Option<u64>,
    /// CPUs it may run on, such as 0-2,4
    #[arg(long, value_name = "CPUS", help_heading = LIMITS)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = values::pids_limit, allow_hyphen_values = true, help_heading = LIMITS)]
    pub(crate) pids_limit: Option<u64>,
    /// Hostname in the container [default: the start of its id]
    #[arg(short = 'h', long, value_name = "NAME")]
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
    #[arg(long, value_name = "CAPABILITY", help_heading = RIGHTS)]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability from the default ones
    #[arg(long, value_name = "CAPABILITY", help_heading = RIGHTS)]
    pub(crate) cap_drop: Vec<String>,
    /// Make the container's root file system read-only
    #[arg(long, help_heading = RIGHTS)]
    pub(crate) read_only: bool,
    /// When to fetch the image: always, missing (when it is not on this machine) or never
    #[arg(
        long,
        value_enum,
        value_name = "POLICY",
        default_value = "missing",
        hide_possible_values = true,
        help_heading = IMAGE
    )]
    pub(crate) pull: PullPolicy,
    /// Do not show how the image is fetched
    #[arg(short, long, help_heading = IMAGE)]
    pub(crate) quiet: bool,
    /// Platform of the image, as os/arch[/variant] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", help_heading = IMAGE)]
    pub(crate) platform: Option<String>,
    /// Who asks at the registry [default: what `login` has kept]
    #[arg(long, value_name = "USER[:PASSWORD]", help_heading = IMAGE)]
    pub(crate) creds: Option<String>,
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
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

/// `exec`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "clap's flags, one field each")]
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
    /// Read variables from a file, one per line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<std::path::PathBuf>,
    /// Give it every capability
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = values::detach_keys)]
    pub(crate) detach_keys: DetachKeys,
    /// The container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

fn parse_volume(text: &str) -> Result<Mount, String> {
    let here =
        std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    values::volume(text, &here)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Verb};

    fn run(line: &[&str]) -> Result<Box<RunArgs>, clap::Error> {
        match Cli::try_parse_from(["croze", "run"].iter().chain(line))?.verb {
            Verb::Run(args) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
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
        assert_eq!(args.container.network.network, None);
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
}
