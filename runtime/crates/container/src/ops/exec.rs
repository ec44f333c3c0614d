//! `exec`: a process added to a running container.

use std::path::{Path, PathBuf};

use croze_cgroups::Cgroup;
use croze_sys::Errno;
use croze_sys::caps::Set;
use croze_sys::clone::{CloneRequest, Cloned, Namespaces};
use croze_sys::sched;
use croze_sys::signal::SignalFd;
use oci_spec::runtime::{Process, Spec};

use super::create::tell_caller;
use super::run::Waiting;
use super::state::status;
use super::{Attachment, ExecOverrides, ExecProcess, ExecRequest, Warn, WhenPaused};
use crate::console::{self, Destination};
use crate::error::{Error, Result, While};
use crate::hooks::HookState;
use crate::namespaces::{self, NamespacePlan, Opened};
use crate::plan::ProcessPlan;
use crate::process::bootstrap;
use crate::process::join::{self, Inherited, Target};
use crate::process::parent::{self, Birthplace, Child};
use crate::process::protocol;
use crate::spec::{self, SpecError};
use crate::state::{Entry, Id, Record, Status, Store};

/// Runs a process in a container. In the foreground the result is its exit code, or 128 and the signal that killed it; detached it
/// is 0.
///
/// # Errors
/// The container does not run, the process cannot be made, or its command cannot be executed.
pub fn exec(request: &ExecRequest, warn: Warn<'_>) -> Result<i32> {
    let id = Id::parse(&request.id)?;
    let entry = Store::new(&request.settings.root)?.find(&id)?;
    let record = load(&entry, request)?;
    let spec = kept_spec(&entry, &record)?;
    let plan = plan(&spec, request, warn)?;
    parent::warn_of_missing(plan.preserve_fds, warn);
    let foreground = request.attachment == Attachment::Foreground;
    let signals = foreground
        .then(SignalFd::all)
        .transpose()
        .while_doing(|| "take signals for the process".to_owned())?;
    let console = Destination::open(
        plan.terminal.is_some(),
        request.console_socket.as_deref(),
        request.attachment,
    )?;
    let mut target = target(&spec, &record)?;
    let user = target.take_user()?;
    let init_pid = target.pid;
    let (console, receiver) = console.split();
    let (socket, child_end) = protocol::pair().while_doing(|| "talk to the process".to_owned())?;
    let cgroup = cgroup(&record, &request.cgroups)?;
    let inherited = Inherited {
        socket: child_end,
        console,
        target,
        doors: cgroup.doors()?,
        keyring: record.keyring.clone(),
    };
    let held = (socket, receiver);
    let user = user.as_ref();
    let inner = || inner_cgroup(&cgroup, &inherited.target, &request.cgroups);
    let (child, receiver) = launch(
        &plan,
        &inherited,
        held,
        user,
        cgroup.open_unified()?.as_ref(),
        &inner,
    )?;
    // The child's end must be the child's alone: its closing is how we hear of the end.
    drop(inherited);
    let state = HookState::of(&record, "running", init_pid);
    let started = child
        .set_up(None, &plan)
        .and_then(|()| child.until_ready(None, &state, plan.listener.as_ref()))
        .and_then(|()| receiver.as_ref().map(console::receive_master).transpose())
        .and_then(|master| {
            tell_caller(
                &child,
                request.pidfd_socket.as_deref(),
                request.pid_file.as_deref(),
            )?;
            child.start()?;
            Ok(master)
        });
    match (started, signals) {
        (Ok(master), Some(signals)) => {
            let waiting = Waiting {
                child: &child,
                signals: &signals,
                master,
                readiness: None,
                warn,
            };
            Ok(waiting.wait()?.as_code())
        }
        (Ok(_), None) => Ok(0),
        (Err(error), _) => Err(end(&child, error)),
    }
}

/// A process that could not be started is not left behind.
fn end(child: &Child, error: Error) -> Error {
    match child.kill() {
        Ok(()) => error,
        Err(left) => Error::Undo {
            source: Box::new(error),
            left: left.to_string(),
        },
    }
}

fn load(entry: &Entry, request: &ExecRequest) -> Result<Record> {
    let refuse = |reason| Error::State {
        verb: "exec in",
        id: request.id.clone(),
        reason,
    };
    let record = entry
        .load()?
        .ok_or_else(|| refuse("container not running: it is still being created"))?;
    match (status(entry, &record)?, request.paused) {
        (Status::Running | Status::Created, _) | (Status::Paused, WhenPaused::Proceed) => Ok(record),
        (Status::Paused, WhenPaused::Refuse) => {
            Err(refuse("it is paused: resume it, or use --ignore-paused"))
        }
        (Status::Creating, _) => Err(refuse("container not running: it is still being created")),
        (Status::Stopped, _) => Err(refuse("container not running: it has stopped")),
    }
}

fn kept_spec(entry: &Entry, record: &Record) -> Result<Spec> {
    let raw = entry.load_config()?.ok_or_else(|| Error::NoSpec {
        id: record.id.clone(),
    })?;
    Ok(spec::parse(&raw, "the container's config.json")?.0)
}

/// Decides everything about the process.
fn plan(spec: &Spec, request: &ExecRequest, warn: Warn<'_>) -> Result<ProcessPlan> {
    let linux = spec.linux().as_ref();
    match &request.process {
        ExecProcess::File(path) => {
            let (process, warnings) = spec::load_process(path)?;
            warnings.iter().for_each(|warning| warn(warning));
            let process = completed(process, spec.process().as_ref());
            ProcessPlan::new(&process, linux, request.preserve_fds)
        }
        ExecProcess::Overrides(overrides) => {
            let missing = SpecError::Missing {
                field: "process",
                reason: "it is what exec starts from",
            };
            let process = overridden(spec.process().clone().ok_or(missing)?, overrides);
            spec::validate_process(&process)?;
            let mut plan = ProcessPlan::new(&process, linux, request.preserve_fds)?;
            plan.add_capabilities(capabilities(&overrides.capabilities, warn));
            Ok(plan)
        }
    }
}

/// A process of a file with what it leaves open as the container's first process has it, as with runc: not to say anything of
/// capabilities is not to ask for none. Limits and the umask are the file's alone. Pure.
fn completed(mut process: Process, first: Option<&Process>) -> Process {
    let Some(first) = first else { return process };
    if process.capabilities().is_none() {
        process.set_capabilities(first.capabilities().clone());
    }
    let is_open = |label: &Option<String>| label.as_ref().is_none_or(String::is_empty);
    if is_open(process.apparmor_profile()) {
        process.set_apparmor_profile(first.apparmor_profile().clone());
    }
    if is_open(process.selinux_label()) {
        process.set_selinux_label(first.selinux_label().clone());
    }
    let score = process.oom_score_adj().or_else(|| first.oom_score_adj());
    process.set_oom_score_adj(score);
    if process.scheduler().is_none() {
        process.set_scheduler(first.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*first.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(first.exec_cpu_affinity().clone());
    }
    process
}

/// The process of the spec with what the command line changes; pure.
fn overridden(mut process: Process, overrides: &ExecOverrides) -> Process {
    process.set_args(Some(overrides.args.clone()));
    process.set_terminal(Some(overrides.terminal.unwrap_or(false)));
    if !overrides.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(overrides.env.iter().cloned());
        process.set_env(Some(env));
    }
    if let Some(cwd) = &overrides.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some((uid, gid)) = overrides.user {
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !overrides.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&overrides.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if let Some(no_new_privileges) = overrides.no_new_privileges {
        process.set_no_new_privileges(Some(no_new_privileges));
    }
    if overrides.apparmor_profile.is_some() {
        process.set_apparmor_profile(overrides.apparmor_profile.clone());
    }
    if overrides.selinux_label.is_some() {
        process.set_selinux_label(overrides.selinux_label.clone());
    }
    process
}

/// The set of these names; one that this kernel does not know is ignored with a warning, as in a spec.
fn capabilities(names: &[String], warn: Warn<'_>) -> Set {
    let known = names.iter().filter_map(|name| {
        let set = Set::named(name);
        if set.is_none() {
            warn(&format!("--cap: unknown capability {name:?} ignored"));
        }
        set
    });
    known.collect()
}

/// What the process joins: the namespaces in which the container is not where this process is.
fn target(spec: &Spec, record: &Record) -> Result<Target> {
    let gone = || Error::State {
        verb: "exec in",
        id: record.id.clone(),
        reason: "container not running",
    };
    let init = record.state.init().ok_or_else(gone)?;
    let pidfd = init.pidfd()?.ok_or_else(gone)?;
    let linux = spec.linux().as_ref();
    let listed = linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    let kinds = listed
        .iter()
        .map(|namespace| namespaces::kind_of(namespace.typ()))
        .fold(Namespaces::NONE, |kinds, kind| kinds | kind);
    // Joining the user namespace that one is in already is an error of its own.
    let kinds = if kinds.contains(Namespaces::USER) && shares_user_namespace(init.pid) {
        kinds.without(Namespaces::USER)
    } else {
        kinds
    };
    Ok(Target {
        init: pidfd,
        pid: init.pid,
        kinds,
    })
}

fn shares_user_namespace(pid: i32) -> bool {
    let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    link("self").is_some_and(|own| link(&pid.to_string()) == Some(own))
}

/// Clones the process. The child never returns from here.
fn launch(
    plan: &ProcessPlan,
    inherited: &Inherited,
    held: (protocol::ParentEnd, Option<std::os::fd::OwnedFd>),
    user: Option<&Opened>,
    unified: Option<&std::os::fd::OwnedFd>,
    inner: &dyn Fn() -> Result<Option<std::os::fd::OwnedFd>>,
) -> Result<(Child, Option<std::os::fd::OwnedFd>)> {
    // What the new process inherits for its way to the cgroup; this one goes back to what it had.
    let own_cpus = match &plan.scheduling.first_cpus {
        Some(cpus) => {
            let action = || "set process.execCPUAffinity.initial".to_owned();
            let own = sched::affinity().while_doing(action)?;
            sched::set_affinity(cpus).while_doing(action)?;
            Some(own)
        }
        None => None,
    };
    let mut birthplaces = inherited.target.birthplaces()?;
    let born = match user {
        Some(_) => Birthplace::default(),
        None => Birthplace::enter(&NamespacePlan::default(), &mut birthplaces)?,
    };
    let request = CloneRequest {
        cgroup: unified.map(std::os::fd::AsFd::as_fd),
        ..CloneRequest::default()
    };
    let action = || "make the process".to_owned();
    let cloned = match user {
        Some(user) => bootstrap::clone_in_user_namespace(user, &birthplaces, &request)?,
        None => clone_where_it_may_be(&request, inner).while_doing(action)?,
    };
    let launched = run_or_return(cloned, plan, inherited, held);
    born.leave()?;
    if let Some(own) = own_cpus {
        sched::set_affinity(&own).while_doing(|| "go back to the own CPUs".to_owned())?;
    }
    Ok(launched)
}

/// Clones into the container's cgroup of version 2, or into the one below it that its first process is in, if it takes no processes itself.
fn clone_where_it_may_be(
    request: &CloneRequest<'_>,
    inner: &dyn Fn() -> Result<Option<std::os::fd::OwnedFd>>,
) -> croze_sys::Result<Cloned> {
    let cloned = parent::clone_untraceable(request);
    if matches!(&cloned, Err(error) if error.errno == Errno::BUSY)
        && let Ok(Some(inner)) = inner()
    {
        let request = CloneRequest {
            cgroup: Some(std::os::fd::AsFd::as_fd(&inner)),
            ..*request
        };
        return parent::clone_untraceable(&request);
    }
    cloned
}

/// The child goes its way, and never returns; the parent keeps what it holds.
fn run_or_return(
    cloned: Cloned,
    plan: &ProcessPlan,
    inherited: &Inherited,
    held: (protocol::ParentEnd, Option<std::os::fd::OwnedFd>),
) -> (Child, Option<std::os::fd::OwnedFd>) {
    match cloned {
        Cloned::Child => {
            drop(held);
            join::run(plan, inherited)
        }
        Cloned::Parent { pid, pidfd } => {
            let (socket, receiver) = held;
            (Child { pid, pidfd, socket }, receiver)
        }
    }
}

/// The directory of version 2 in which the container's first process is, if it is below the container's own: one that enables controllers
/// for those below it (systemd in a container, an engine in a container) takes no processes itself any more (`EBUSY`).
fn inner_cgroup(cgroup: &Cgroup, target: &Target, wanted: &[String]) -> Result<Option<std::os::fd::OwnedFd>> {
    let (Some(outer), []) = (cgroup.unified(), wanted) else {
        return Ok(None);
    };
    let observed = croze_cgroups::observe_process(target.pid)?;
    let own = observed.unified().map(|tree| tree.own.clone());
    let Some(path) = own.filter(|own| own != &outer.path && own.starts_with(&outer.path)) else {
        return Ok(None);
    };
    let paths = [(String::new(), path)].into_iter().collect();
    Ok(Cgroup::from_paths(&paths).open_unified()?)
}

/// The container's cgroup, or the directories below it that were asked for.
fn cgroup(record: &Record, wanted: &[String]) -> Result<Cgroup> {
    let mut paths = record.cgroup.clone();
    for text in wanted {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (controllers.split(',').collect(), path),
            None => (Vec::new(), text.as_str()),
        };
        let inner = below(path)?;
        let concerned: Vec<String> = if controllers.is_empty() {
            paths.keys().cloned().collect()
        } else {
            controllers.into_iter().map(str::to_owned).collect()
        };
        for controller in concerned {
            let directory = paths
                .get_mut(&controller)
                .ok_or_else(|| invalid_cgroup(&controller))?;
            *directory = directory.join(&inner);
        }
    }
    Ok(Cgroup::from_paths(&paths))
}

/// A path that stays below where it is joined to.
fn below(path: &str) -> Result<PathBuf> {
    let relative = path.trim_start_matches('/');
    let plain = |component: std::path::Component<'_>| matches!(component, std::path::Component::Normal(_));
    if Path::new(relative).components().all(plain) {
        Ok(PathBuf::from(relative))
    } else {
        Err(invalid_cgroup(path))
    }
}

fn invalid_cgroup(value: &str) -> Error {
    SpecError::Invalid {
        field: "--cgroup".to_owned(),
        value: value.to_owned(),
        reason: "it must be a controller of this container and a path below its cgroup",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::ProcessBuilder;

    #[test]
    fn the_command_line_changes_only_what_it_names() {
        let base = ProcessBuilder::default()
            .terminal(true)
            .cwd("/w")
            .env(vec!["A=1".to_owned()])
            .args(vec!["init".to_owned()])
            .build()
            .expect("complete");
        let overrides = ExecOverrides {
            args: vec!["ls".to_owned()],
            env: vec!["B=2".to_owned()],
            user: Some((7, None)),
            additional_gids: vec![9],
            ..ExecOverrides::default()
        };
        let process = overridden(base, &overrides);
        assert_eq!(process.args().as_deref(), Some(&["ls".to_owned()][..]));
        assert_eq!(
            process.env().as_deref(),
            Some(&["A=1".to_owned(), "B=2".to_owned()][..])
        );
        assert_eq!((process.user().uid(), process.user().gid()), (7, 0));
        assert_eq!(process.user().additional_gids(), &Some(vec![9]));
        assert_eq!(process.cwd(), Path::new("/w"));
        assert_eq!(process.terminal(), Some(false));
    }

    #[test]
    fn what_a_file_leaves_open_is_the_containers() {
        let parsed = |text: &str| serde_json::from_str::<Process>(text).expect("a process");
        let first = parsed(
            r#"{"user": {"uid": 3, "umask": 63}, "cwd": "/w", "env": ["A=1"], "args": ["init"],
                "capabilities": {"bounding": ["CAP_KILL"]}, "apparmorProfile": "p", "oomScoreAdj": 7,
                "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}], "noNewPrivileges": true}"#,
        );
        let process = completed(
            parsed(r#"{"user": {}, "cwd": "/", "args": ["ls"]}"#),
            Some(&first),
        );
        assert_eq!(process.capabilities(), first.capabilities());
        assert_eq!(process.apparmor_profile().as_deref(), Some("p"));
        assert_eq!(process.oom_score_adj(), Some(7));
        assert_eq!((process.rlimits(), process.user().umask()), (&None, None));
        // Who it is, where, and with which environment, the file says alone.
        assert_eq!((process.user().uid(), process.cwd().to_str()), (0, Some("/")));
        assert_eq!((process.env(), process.no_new_privileges()), (&None, None));
        let own = parsed(
            r#"{"user": {}, "cwd": "/", "capabilities": {}, "oomScoreAdj": 1, "apparmorProfile": "q"}"#,
        );
        assert_eq!(completed(own.clone(), Some(&first)), own);
    }

    #[test]
    fn a_sub_cgroup_stays_below() {
        for (path, expected) in [
            ("a", Some("a")),
            ("/a/b", Some("a/b")),
            ("a/../..", None),
            ("..", None),
        ] {
            assert_eq!(below(path).ok(), expected.map(PathBuf::from), "{path}");
        }
    }
}
