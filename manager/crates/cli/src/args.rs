//! Raw arguments: what clap reads from the command line. What they mean is decided in [`crate::verbs`].
//!
//! The options of `run`, `create` and `exec`, which are many, are in [`container`] and [`options`], shown in parts ([`headings`]); those of what
//! lists and shows are in [`listing`]; [`nouns`] has docker's other names of the verbs.

mod container;
mod headings;
mod listing;
mod network;
mod nouns;
mod operations;
mod options;

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use container::{AttachOptions, ContainerArgs, CreateArgs, ExecArgs, PullPolicy, RunArgs};
pub(crate) use listing::{
    EventsArgs, FormatArgs, HistoryArgs, ImagesArgs, InspectArgs, LogsArgs, ObjectType, PsArgs, TreeArgs,
};
pub(crate) use network::{NetworkArgs, NetworkVerb, NetworkVerbArgs, PortArgs};
pub(crate) use nouns::{ContainerVerb, ImageVerb, SystemVerb};
pub(crate) use operations::{OperationVerb, OperationVerbArgs};
pub(crate) use options::OptionArgs;

/// Behind each verb's own options, and before its help.
const HOST_ORDER: usize = 990;

/// Below the help of `run`.
const RUN_EXAMPLES: &str = "\
Examples:
  croze run --rm -it debian:bookworm bash                            a shell, removed at the end
  croze run -d --name web -p 8080:80 -v /srv/www:/www:ro nginx       a server, and files of the host
  croze run --rm -v .:/work -w /work -m 1g --cpus 2 gcc make         a command on files of the host, with limits";

/// croze runs containers: a client of the croze daemon.
#[derive(Debug, Parser)]
#[command(
    name = "croze",
    version,
    disable_version_flag = true,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Where the daemon listens: unix:///PATH [default: $CROZE_HOST, else unix:///run/croze/croze.sock]
    #[arg(short = 'H', long, global = true, value_name = "URL", display_order = HOST_ORDER)]
    pub(crate) host: Option<String>,
    /// Print the version
    #[arg(short = 'v', long, short_alias = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
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
    /// Log in to a registry
    Login(LoginArgs),
    /// Forget the login of a registry
    Logout(LogoutArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show how an image was made, step by step
    History(HistoryArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Create a container from an image and start it
    #[command(disable_help_flag = true, after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Create a container without starting it
    #[command(disable_help_flag = true)]
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
    /// List a container's published ports
    Port(PortArgs),
    /// Look at networks
    Network(NetworkVerbArgs),
    /// See, watch and cancel what the daemon is doing for its clients
    Operation(OperationVerbArgs),
    /// Show everything about containers or images, as a JSON array
    Inspect(InspectArgs),
    /// Show what happens, one line per event, until interrupted
    Events(EventsArgs),
    /// Write the manual pages of croze and of each verb into a directory (for packagers)
    #[command(hide = true)]
    ManPages(ManPagesArgs),
    /// Show versions of client, daemon and runtime
    Version(FormatArgs),
    /// Show what the daemon runs on and how much it holds
    Info(FormatArgs),
    /// Print what makes a shell complete croze's words
    Completion(CompletionArgs),
    /// Verbs on containers
    #[command(arg_required_else_help = true)]
    Container {
        /// What to do
        #[command(subcommand)]
        verb: ContainerVerb,
    },
    /// Verbs on images
    #[command(arg_required_else_help = true)]
    Image {
        /// What to do
        #[command(subcommand)]
        verb: ImageVerb,
    },
    /// Verbs on the daemon
    #[command(arg_required_else_help = true)]
    System {
        /// What to do
        #[command(subcommand)]
        verb: SystemVerb,
    },
}

/// `daemon`
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Arguments of crozed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

/// `man-pages`
#[derive(Debug, Args)]
pub(crate) struct ManPagesArgs {
    /// Where to; it must exist
    #[arg(value_name = "DIR")]
    pub(crate) dir: std::path::PathBuf,
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
    /// Who asks at the registry [default: what `login` has kept]
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(crate) creds: Option<String>,
    /// The image's reference.
    #[arg(help = "[REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]", value_name = "IMAGE")]
    pub(crate) image: String,
}

/// `login`
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// User name [default: asked for]
    #[arg(short, long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// Password [default: asked for]; others on this host may see it: better --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// The registry
    #[arg(
        value_name = "SERVER",
        help = "The registry, HOST[:PORT] [default: Docker Hub]"
    )]
    pub(crate) server: Option<String>,
}

/// `logout`
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry
    #[arg(
        value_name = "SERVER",
        help = "The registry, HOST[:PORT] [default: Docker Hub]"
    )]
    pub(crate) server: Option<String>,
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

/// `tag`
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Reference, id or prefix of an id
    #[arg(value_name = "IMAGE")]
    pub(crate) source: String,
    /// The new name.
    #[arg(help = "Its new name: [REGISTRY[:PORT]/]NAME[:TAG]", value_name = "NAME")]
    pub(crate) target: String,
}

/// `completion`
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell: bash, zsh or fish
    #[arg(value_enum, value_name = "SHELL", hide_possible_values = true)]
    pub(crate) shell: CompletedShell,
}

/// A shell that words can be completed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletedShell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
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

/// `stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Signal to send first, name or number [default: the container's own, else the image's, else TERM]
    #[arg(short, long, value_name = "SIGNAL")]
    pub(crate) signal: Option<String>,
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
    /// Also remove its anonymous volumes; they are part of a container here, and go with it in any case
    #[arg(short, long)]
    pub(crate) volumes: bool,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_has_a_line_for_each_option_and_parts_where_there_are_many() {
        let mut help = BTreeMap::new();
        for verb in Cli::command()
            .get_subcommands()
            .filter(|verb| verb.get_name() != "daemon")
        {
            let said = Cli::try_parse_from(["croze", verb.get_name(), "--help"]).unwrap_err();
            help.insert(verb.get_name().to_owned(), said.to_string());
        }
        for (verb, text) in &help {
            for line in text.lines().map(str::trim).filter(|line| line.starts_with('-')) {
                // clap would rather spread each over three lines.
                assert!(line.contains("  "), "{verb}: {line}");
            }
        }
        let run = &help["run"];
        let parts = [
            "Options:",
            "Network:",
            "Limits:",
            "Rights and devices:",
            "Image:",
            "Namespaces:",
            "Examples:",
        ];
        let found: Vec<&str> = run.lines().filter(|line| parts.contains(line)).collect();
        assert_eq!(found, parts, "{run}");
        let network = run
            .split_once("Network:")
            .and_then(|(_, rest)| rest.split_once("\n\n"));
        for line in network.unwrap().0.lines().skip(1) {
            let known = [
                "publish",
                "expose",
                "network",
                "ip",
                "mac-address",
                "add-host",
                "dns",
            ];
            assert!(
                known.iter().any(|name| line.contains(&format!("--{name}"))),
                "{line}"
            );
        }
    }

    #[test]
    fn the_examples_of_run_are_understood() {
        for line in RUN_EXAMPLES.lines().skip(1) {
            let words = line.trim().split("   ").next().unwrap().split_whitespace();
            Cli::try_parse_from(words).unwrap();
        }
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
