//! The arguments, as runc has them. Nothing is looked up here but the environment.

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::events::EventsArgs;
use super::log::Level;
use super::update::UpdateArgs;
use super::words::{self, Translated};

/// The version text: callers split its first line at the word `version`.
const VERSION: &str = concat!(
    "version ",
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("CROZE_COMMIT"),
    "\nspec: 1.3.0",
    // What crun says of itself in this way: its callers look for the words.
    "\n+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF"
);

/// A low-level OCI container runtime.
#[derive(Debug, Parser)]
#[command(
    name = "croze-rt",
    bin_name = "croze-rt",
    version = VERSION,
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    // What wraps a runtime appends flags: the last one counts.
    args_override_self = true
)]
pub(crate) struct Invocation {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Invocation {
    /// Reads a command line, the program's name first.
    ///
    /// Called by the name `runc` it says of itself that it is `runc version …`: some callers look for these very words.
    pub(crate) fn read(mut line: Vec<OsString>) -> Result<Self, clap::Error> {
        let is_runc = line.first().is_some_and(|name| Path::new(name).ends_with("runc"));
        let mut is_translated = words::is_in_question(&line);
        if is_translated {
            line = Translated::new(Self::command(), &line).words;
        }
        loop {
            let mut command = Self::command();
            if is_runc {
                command = command.name("runc").bin_name("runc");
            }
            match command.try_get_matches_from(&line) {
                Ok(mut matches) => return Self::from_arg_matches_mut(&mut matches),
                Err(error) if !is_translated && error.use_stderr() => {
                    is_translated = true;
                    let translated = Translated::new(Self::command(), &line).words;
                    line = if translated == line {
                        left_to_ps(&error, &line).ok_or(error)?
                    } else {
                        translated
                    };
                }
                Err(error) => line = left_to_ps(&error, &line).ok_or(error)?,
            }
        }
    }

    /// The words before the verb of a line that is not understood.
    pub(crate) fn globals_of(line: &[OsString]) -> Vec<OsString> {
        Translated::new(Self::command(), line).globals().to_vec()
    }
}

/// The line with a `-f` behind the container's id left to `ps`, whose own it is if it has none of our values.
fn left_to_ps(error: &clap::Error, line: &[OsString]) -> Option<Vec<OsString>> {
    let at = line.iter().rposition(|word| word == "-f")?;
    let verb = line.iter().position(|word| word == "ps")?;
    if error.kind() != ErrorKind::InvalidValue || at < verb + 2 || line.iter().any(|word| word == "--") {
        return None;
    }
    let mut line = line.to_vec();
    line.insert(at, "--".into());
    Some(line)
}

/// The flags before the verb.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Directory for the containers' records [default: /run/croze-rt, or $XDG_RUNTIME_DIR/croze-rt for other
    /// users than root]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Write log lines to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub(crate) debug: bool,
    /// Let systemd make cgroups: cgroupsPath is slice:prefix:name then
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Who makes cgroups, as crun's callers say it
    #[arg(long, value_name = "MANAGER", conflicts_with = "systemd_cgroup")]
    pub(crate) cgroup_manager: Option<CgroupManager>,
    /// Whether the caller is taken for one without rights
    #[arg(long, value_name = "true|false|auto", default_value = "auto")]
    pub(crate) rootless: Rootless,
    /// Obsolete and ignored: where criu is
    #[arg(long, value_name = "FILE", hide = true)]
    criu: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

impl Globals {
    pub(crate) const fn level(&self) -> Level {
        if self.debug { Level::Debug } else { Level::Warning }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Values of `--cgroup-manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
}

/// Values that callers give `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rootless {
    Auto,
    True,
    False,
}

impl FromStr for Rootless {
    type Err = &'static str;

    /// As runc: nothing and `auto` are the same, all else is a truth value.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        match words::truth(text) {
            Some(true) => Ok(Self::True),
            Some(false) => Ok(Self::False),
            None => Err("true, false and auto are known"),
        }
    }
}

/// What to do. Each verb's arguments are only built when it is the one that is called: the whole tree would
/// cost a good part of a short run.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Make a container; its process waits to be started
    Create(CreateArgs),
    /// Run the process of a container that was made
    Start(IdArgs),
    /// Make a container, run it, and remove it when its process has ended
    Run(RunArgs),
    /// Print a container's state as JSON
    State(IdArgs),
    /// Send a signal to a container
    Kill(KillArgs),
    /// Remove a container
    Delete(DeleteArgs),
    /// Run one more process in a container
    Exec(Box<ExecArgs>),
    /// Freeze a container's processes
    Pause(IdArgs),
    /// Let a frozen container's processes run again
    Resume(IdArgs),
    /// List containers
    List(ListArgs),
    /// List a container's processes
    Ps(PsArgs),
    /// Change a container's limits
    Update(Box<UpdateArgs>),
    /// Tell what a container uses, and when its memory runs out
    Events(EventsArgs),
    /// Write a default config.json
    Spec(SpecArgs),
    /// Print what this runtime can do as JSON
    Features,
}

impl Verb {
    /// The verb as it is typed.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Run(_) => "run",
            Self::State(_) => "state",
            Self::Kill(_) => "kill",
            Self::Delete(_) => "delete",
            Self::Exec(_) => "exec",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::List(_) => "list",
            Self::Ps(_) => "ps",
            Self::Update(_) => "update",
            Self::Events(_) => "events",
            Self::Spec(_) => "spec",
            Self::Features => "features",
        }
    }

    /// The exit code of a failure: 255 for `exec`, which tells it from the process's own codes for callers that
    /// know it.
    pub(crate) const fn failure_code(&self) -> u8 {
        if matches!(self, Self::Exec(_)) { 255 } else { 1 }
    }
}

/// A verb with an id and nothing else.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The container's id
    pub(crate) id: String,
}

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// The spec's file, in the bundle or absolute
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub(crate) config: PathBuf,
    /// Unix socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Unix socket that is sent a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// File for the pid of the container's first process
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting, for hosts that run from an initramfs
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Pass this many descriptors from 3 on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) create: CreateArgs,
    /// Do not wait for the process
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the container when its process has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not adopt the container's orphans
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Accepted for compatibility: signal every process, and do not mind if there is none
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
    /// The id is a regular expression: every container that it matches
    #[arg(short, long)]
    pub(crate) regex: bool,
    /// The container's id
    pub(crate) id: String,
    /// The signal's name or number
    #[arg(default_value = "SIGTERM", value_parser = super::signals::parse)]
    pub(crate) signal: i32,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill the container if it runs; no error if it does not exist
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The id is a regular expression: every container that it matches
    #[arg(short, long)]
    pub(crate) regex: bool,
    /// The container's id
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct ExecArgs {
    /// Unix socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Unix socket that is sent a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Add to the environment: NAME=value
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User and group by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Add a group by number
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// File with an OCI process object
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for the process
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File for the pid of the process
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// The process can gain no privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Pass this many descriptors from 3 on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Start in a cgroup below the container's
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub(crate) cgroup: Vec<String>,
    /// Go on if the container is paused
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container's id
    pub(crate) id: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// The container's id
    pub(crate) id: String,
    /// Arguments for ps [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// A table for people or JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For a user other than root
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        Invocation::read(
            std::iter::once("croze-rt")
                .chain(line.split_whitespace())
                .map(OsString::from)
                .collect(),
        )
    }

    #[test]
    fn of_a_flag_that_is_given_twice_the_last_value_counts() {
        let line = parse("--root /a --root /b exec -e A=1 -e B=2 c1 true").unwrap();
        assert_eq!(line.globals.root, Some(PathBuf::from("/b")));
        let Verb::Exec(args) = line.verb else { panic!() };
        assert_eq!(args.env, ["A=1", "B=2"]);
    }

    #[test]
    fn it_says_that_it_is_runc_if_it_is_called_so() {
        for (name, first) in [
            ("/usr/bin/runc", "runc version "),
            ("croze-rt", "croze-rt version "),
            ("/x/runc-old", "croze-rt version "),
        ] {
            let line = [name, "--version"].map(OsString::from).to_vec();
            let text = Invocation::read(line).unwrap_err().to_string();
            assert!(text.starts_with(first), "{text}");
        }
    }

    #[test]
    fn what_follows_the_id_of_ps_is_for_ps() {
        for (line, format, arguments) in [
            ("ps c1", ListFormat::Table, &[][..]),
            ("ps -f json c1", ListFormat::Json, &[]),
            ("ps c1 --format json", ListFormat::Json, &[]),
            ("ps c1 -ef", ListFormat::Table, &["-ef"]),
            ("ps c1 -f", ListFormat::Table, &["-f"]),
            ("ps c1 -f -H", ListFormat::Table, &["-f", "-H"]),
            ("ps c1 -f json", ListFormat::Json, &[]),
            ("ps c1 -o pid,args", ListFormat::Table, &["-o", "pid,args"]),
            ("ps c1 aux -f", ListFormat::Table, &["aux", "-f"]),
        ] {
            let Verb::Ps(args) = parse(line).expect(line).verb else {
                panic!("{line}")
            };
            assert_eq!((args.format, args.id.as_str()), (format, "c1"), "{line}");
            assert_eq!(args.arguments, arguments, "{line}");
        }
        assert!(parse("ps -f c1").is_err() && parse("ps c1 -f").is_ok());
    }

    #[test]
    fn options_stand_before_or_after_the_id() {
        for line in [
            "create --bundle /b --pid-file p c1",
            "create c1 -b /b --pid-file=p",
            "create -b /b c1 --pid-file p",
        ] {
            let Verb::Create(args) = parse(line).unwrap().verb else {
                panic!("{line}")
            };
            assert_eq!(
                (args.id.as_str(), args.bundle.to_str(), args.preserve_fds),
                ("c1", Some("/b"), 0)
            );
            assert!(args.pid_file.is_some());
        }
    }

    #[test]
    fn everything_after_the_command_of_exec_is_the_commands() {
        let Verb::Exec(args) = parse("exec -e A=1 -u 5:6 c1 sh -c -t --env x").unwrap().verb else {
            panic!()
        };
        assert_eq!(args.command, ["sh", "-c", "-t", "--env", "x"]);
        assert_eq!(
            (args.id.as_str(), args.user.as_deref(), args.tty),
            ("c1", Some("5:6"), false)
        );
    }

    #[test]
    fn callers_lines_are_understood() {
        for line in [
            "--root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s c1",
            "--root /r --log /l --log-format json --systemd-cgroup start c1",
            "--rootless=true --root=/r --debug state c1",
            "--log-format=json --log=/l kill --all c1 9",
            "kill -a c1 KILL",
            "kill c1",
            "delete --force c1",
            "delete -f --regex test-*",
            "kill --regex ^a KILL",
            "exec --process /p --detach --pid-file /f c1",
            "exec --cap CAP_SYS_ADMIN --cgroup sub --no-new-privs c1 true",
            "run --bundle /b --keep --no-pivot c1",
            "--cgroup-manager cgroupfs run --config other.json --detach c1",
            "list -f json",
            "ps --format json c1",
            "update --resources=- c1",
            "update c1 --memory 64m",
            "events --stats c1",
            "events --interval=500ms c1",
            "features",
            "spec --rootless -b /b",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "",
            "frob",
            "state",
            "state a b",
            "kill c1 BOGUS",
            "create --preserve-fds -1 c1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
