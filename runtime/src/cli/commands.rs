//! Each verb: resolved arguments, one operation, its result printed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use croze_container::ops::{
    self, Attachment, CgroupDriver, CreateRequest, DeleteRequest, ExecOverrides, ExecProcess, ExecRequest,
    Force, Keyring, KillRequest, Reach, Reaping, Retention, Rights, RootSwitch, RunRequest, Settings,
    WhenPaused,
};
use croze_container::rootless::is_in_user_namespace;
use croze_container::sealed;
use croze_container::state::Store;
use croze_sys::pattern::Pattern;

use super::args::{
    CgroupManager, CreateArgs, DeleteArgs, ExecArgs, Globals, Invocation, KillArgs, ListArgs, ListFormat,
    PsArgs, Rootless, RunArgs, Verb,
};
use super::events::{self, EventsArgs};
use super::log::{Level, Log};
use super::update::UpdateArgs;
use super::{features, output, spec};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The operation failed.
    #[error(transparent)]
    Container(#[from] croze_container::Error),
    /// The result could not be printed.
    #[error("cannot write to standard output")]
    Output(#[from] std::io::Error),
    /// The result could not be put into JSON.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
    /// A path could not be made absolute: the working directory is gone.
    #[error("cannot tell the absolute path of {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// `spec` failed.
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    /// `exec` got neither a command nor a process file.
    #[error("process args cannot be empty: give a command, or a file with --process")]
    NoCommand,
    /// `exec --user` with something else than numbers.
    #[error("--user {text:?}: {part:?} is not a number from 0 to 4294967295; it is UID or UID:GID")]
    User {
        /// What was given.
        text: String,
        /// The part that is no number.
        part: String,
    },
    /// `ps` could not be run.
    #[error("cannot run ps")]
    Ps {
        /// The cause.
        source: std::io::Error,
    },
    /// `ps` was told to leave out what its lines are chosen by.
    #[error("couldn't find PID field in ps output: let it print the column PID")]
    NoPidColumn,
    /// `--regex` with something else.
    #[error("--regex: {text:?} is not an extended regular expression as POSIX has them")]
    Pattern {
        /// What was given.
        text: String,
    },
    /// No place for records.
    #[error("XDG_RUNTIME_DIR is not set: give a directory with --root")]
    NoRoot,
}

/// Continues in a sealed copy of this program if the verb looks like one that needs it, before anything is
/// spent on the command line that the copy would do again. An id that reads like a verb only costs a copy. A
/// failure is told when the verb is carried out.
pub(crate) fn seal_early() {
    if std::env::args_os().any(|argument| argument == "create" || argument == "run" || argument == "exec") {
        sealed::ensure().ok();
    }
}

/// Does what the command line says; returns the exit code.
pub(crate) fn execute(invocation: &Invocation, log: &Log) -> Result<u8, CommandError> {
    let globals = &invocation.globals;
    log.line(
        Level::Debug,
        &format!("{} as {:?}", invocation.verb.name(), std::env::args_os()),
    );
    match &invocation.verb {
        // These carry this program into a container, so they do it with a copy that nobody can write to.
        Verb::Create(_) | Verb::Run(_) | Verb::Exec(_) => sealed::ensure()?,
        Verb::Features => return show(&(features::json()? + "\n")),
        Verb::Spec(args) => return Ok(spec::write(&args.bundle, args.rootless).map(|()| 0)?),
        _ => {}
    }
    // Most have children: init, hooks. It cannot fail for a signal that there is.
    croze_sys::signal::keep_ended_children().ok();
    let settings = settings(globals)?;
    match &invocation.verb {
        Verb::Create(args) => {
            ops::create(&create(settings, args)?, &|text| log.line(Level::Warning, text))?;
        }
        Verb::Start(args) => ops::start(&settings, &args.id)?,
        Verb::Run(args) => return run(settings, args, log),
        Verb::State(args) => return show(&output::state(&ops::state(&settings, &args.id)?)?),
        Verb::Kill(args) => kill(&settings, args)?,
        Verb::Delete(args) => delete(&settings, args, log)?,
        Verb::Exec(args) => return exec(settings, args, log),
        Verb::Pause(args) => ops::pause(&settings, &args.id)?,
        Verb::Resume(args) => ops::resume(&settings, &args.id)?,
        Verb::List(args) => return list(&settings, args, log),
        Verb::Ps(args) => return ps(&settings, args),
        Verb::Update(args) => update(&settings, args)?,
        Verb::Events(args) => return events(&settings, args),
        Verb::Spec(_) | Verb::Features => {}
    }
    Ok(0)
}

fn show(text: &str) -> Result<u8, CommandError> {
    output::print(text)?;
    Ok(0)
}

fn settings(globals: &Globals) -> Result<Settings, CommandError> {
    let root = match &globals.root {
        Some(root) => absolute(root)?,
        None if !has_a_run_directory() => PathBuf::from("/run/croze-rt"),
        None => {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
            Path::new(&runtime.ok_or(CommandError::NoRoot)?).join("croze-rt")
        }
    };
    let cgroup_driver = if globals.systemd_cgroup || globals.cgroup_manager == Some(CgroupManager::Systemd) {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    };
    let rights = match globals.rootless {
        Rootless::Auto => Rights::Looked,
        Rootless::True => Rights::None,
        Rootless::False => Rights::Full,
    };
    Ok(Settings {
        root,
        cgroup_driver,
        rights,
    })
}

/// Whether this is a user with a run directory of its own; root of a user namespace is one unless it calls itself root, as with runc.
fn has_a_run_directory() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // Not every caller sets it for its user: podman's namespaces may have none.
    let is_root = std::env::var_os("USER").is_some_and(|user| user == "root");
    !is_root && is_set("XDG_RUNTIME_DIR") && is_in_user_namespace()
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|source| CommandError::Path {
        path: path.to_owned(),
        source,
    })
}

fn optional(path: Option<&PathBuf>) -> Result<Option<PathBuf>, CommandError> {
    path.map(|path| absolute(path)).transpose()
}

fn create(settings: Settings, args: &CreateArgs) -> Result<CreateRequest, CommandError> {
    Ok(CreateRequest {
        settings,
        id: args.id.clone(),
        bundle: absolute(&args.bundle)?,
        config: args.config.clone(),
        console_socket: optional(args.console_socket.as_ref())?,
        pidfd_socket: optional(args.pidfd_socket.as_ref())?,
        pid_file: optional(args.pid_file.as_ref())?,
        root_switch: if args.no_pivot {
            RootSwitch::Move
        } else {
            RootSwitch::Pivot
        },
        keyring: if args.no_new_keyring {
            Keyring::Inherit
        } else {
            Keyring::New
        },
        preserve_fds: args.preserve_fds,
    })
}

fn run(settings: Settings, args: &RunArgs, log: &Log) -> Result<u8, CommandError> {
    let request = RunRequest {
        create: create(settings, &args.create)?,
        attachment: if args.detach {
            Attachment::Detached
        } else {
            Attachment::Foreground
        },
        retention: if args.keep {
            Retention::Keep
        } else {
            Retention::Delete
        },
        reaping: if args.no_subreaper {
            Reaping::Plain
        } else {
            Reaping::Subreaper
        },
    };
    Ok(exit_code(ops::run(&request, &|text| {
        log.line(Level::Warning, text);
    })?))
}

/// Codes of processes are a byte; anything else would be an error of ours.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

fn kill(settings: &Settings, args: &KillArgs) -> Result<(), CommandError> {
    let reach = if args.all { Reach::All } else { Reach::Init };
    each(settings, &args.id, args.regex, &|id| {
        let settings = settings.clone();
        Ok(ops::kill(&KillRequest {
            settings,
            id,
            signal: args.signal,
            reach,
        })?)
    })
}

fn delete(settings: &Settings, args: &DeleteArgs, log: &Log) -> Result<(), CommandError> {
    let force = if args.force { Force::Kill } else { Force::Refuse };
    each(settings, &args.id, args.regex, &|id| {
        let settings = settings.clone();
        match ops::delete(&DeleteRequest { settings, id, force }) {
            Ok(failed_hooks) => {
                for failed in failed_hooks {
                    log.line(Level::Warning, &croze_container::error::chain(&failed));
                }
                Ok(())
            }
            // As crun has it: who deletes whatever there is by force goes on, and is told.
            Err(error) if args.force && args.regex => {
                log.line(Level::Warning, &croze_container::error::chain(&error));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    })
}

/// Does something to one container, or to all that a regular expression matches. One that fails does not keep it from the others; the
/// first error is the result.
fn each(
    settings: &Settings,
    id: &str,
    regex: bool,
    act: &dyn Fn(String) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    if !regex {
        return act(id.to_owned());
    }
    let pattern = Pattern::parse(id).ok_or_else(|| CommandError::Pattern { text: id.to_owned() })?;
    let ids = Store::new(&settings.root)
        .and_then(|store| store.list())
        .map_err(croze_container::Error::from)?;
    let matching = ids.iter().filter(|id| pattern.is_in(id.as_str()));
    let results: Vec<_> = matching.map(|id| act(id.to_string())).collect();
    results.into_iter().collect()
}

fn exec(settings: Settings, args: &ExecArgs, log: &Log) -> Result<u8, CommandError> {
    let process = match &args.process {
        Some(file) => ExecProcess::File(absolute(file)?),
        None if args.command.is_empty() => return Err(CommandError::NoCommand),
        None => ExecProcess::Overrides(Box::new(ExecOverrides {
            args: args.command.clone(),
            env: args.env.clone(),
            cwd: args.cwd.clone(),
            user: user(args.user.as_deref())?,
            additional_gids: args.additional_gids.clone(),
            capabilities: args.cap.clone(),
            terminal: args.tty.then_some(true),
            no_new_privileges: args.no_new_privs.then_some(true),
            apparmor_profile: args.apparmor.clone(),
            selinux_label: args.process_label.clone(),
        })),
    };
    let request = ExecRequest {
        settings,
        id: args.id.clone(),
        process,
        console_socket: optional(args.console_socket.as_ref())?,
        pidfd_socket: optional(args.pidfd_socket.as_ref())?,
        pid_file: optional(args.pid_file.as_ref())?,
        attachment: if args.detach {
            Attachment::Detached
        } else {
            Attachment::Foreground
        },
        preserve_fds: args.preserve_fds,
        cgroups: args.cgroup.clone(),
        paused: if args.ignore_paused {
            WhenPaused::Proceed
        } else {
            WhenPaused::Refuse
        },
    };
    Ok(exit_code(ops::exec(&request, &|text| {
        log.line(Level::Warning, text);
    })?))
}

/// `uid` or `uid:gid`; nothing is nobody else, as with runc.
fn user(text: Option<&str>) -> Result<Option<(u32, Option<u32>)>, CommandError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = |part: &str| {
        part.parse().map_err(|_| CommandError::User {
            text: text.to_owned(),
            part: part.to_owned(),
        })
    };
    Ok(Some(match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
        None => (number(text)?, None),
    }))
}

fn list(settings: &Settings, args: &ListArgs, log: &Log) -> Result<u8, CommandError> {
    let listing = ops::list(settings)?;
    for (id, error) in &listing.damaged {
        log.line(
            Level::Error,
            &format!("load container {id}: {}", croze_container::error::chain(error)),
        );
    }
    let containers = &listing.containers;
    if args.quiet {
        return show(&containers.iter().fold(String::new(), |all, c| all + &c.id + "\n"));
    }
    match args.format {
        ListFormat::Json => show(&output::list_json(containers)?),
        ListFormat::Table => show(&output::list_table(containers)),
    }
}

fn update(settings: &Settings, args: &UpdateArgs) -> Result<(), CommandError> {
    let schemata: Vec<String> = args.schemata().into_iter().map(str::to_owned).collect();
    Ok(ops::update(settings, &args.id, &args.source(), &schemata)?)
}

fn events(settings: &Settings, args: &EventsArgs) -> Result<u8, CommandError> {
    if args.stats {
        let usage = ops::Notice::Usage(Box::new(ops::usage(settings, &args.id)?));
        return show(&events::line(&args.id, &usage));
    }
    let mut printed = Ok(());
    ops::watch(settings, &args.id, args.interval, &mut |notice| {
        printed = output::print(&events::line(&args.id, &notice));
        if printed.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    printed?;
    Ok(0)
}

fn ps(settings: &Settings, args: &PsArgs) -> Result<u8, CommandError> {
    let pids = ops::processes(settings, &args.id)?;
    if args.format == ListFormat::Json {
        return show(&(serde_json::to_string(&pids)? + "\n"));
    }
    let default = ["-ef".to_owned()];
    let arguments = if args.arguments.is_empty() {
        &default[..]
    } else {
        &args.arguments
    };
    let result = Command::new("ps")
        .args(arguments)
        .output()
        .map_err(|source| CommandError::Ps { source })?;
    if !result.status.success() {
        let text = String::from_utf8_lossy(&result.stderr).trim().to_owned();
        return Err(CommandError::Ps {
            source: std::io::Error::other(text),
        });
    }
    let table = String::from_utf8_lossy(&result.stdout);
    show(&output::matching_lines(&table, &pids).ok_or(CommandError::NoPidColumn)?)
}
