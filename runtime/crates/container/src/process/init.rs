//! The container's first process, from its birth to its command.
//!
//! It does everything that must be done from inside, as a list of small named steps. The name of the step is told with every
//! failure. The order matters, and each step that has a reason to be where it is says so.
//!
//! There is no undo here: what init makes lies in its own namespaces and goes with it. The parent undoes the rest. The one exception are
//! the mounts of a container without a mount namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use croze_cgroups::Doors;
use croze_sys::clone::{self, Namespaces};
use croze_sys::path::{self, Missing};
use croze_sys::{Errno, fd, link, process, tty};

use crate::console;
use crate::error::{Error, Result, While, chain};
use crate::hooks::{self, HookState, Kind};
use crate::limits;
use crate::mounts::cgroup::CgroupView;
use crate::mounts::root::{self, Root};
use crate::mounts::target::{Links, Target};
use crate::mounts::{self, attach, devices, masks};
use crate::namespaces::Opened;
use crate::ops::{Keyring, RootSwitch};
use crate::plan::Plan;
use crate::process::last::{self, LastError};
use crate::process::protocol::{ChildEnd, ToChild, ToParent};
use crate::security;

/// Where init waits until it is started.
#[derive(Debug)]
pub enum Gate {
    /// `start` is another process: it writes a byte into a fifo and reads the result from another one.
    Fifo {
        /// Open for both directions, so that a read waits even while nobody has it open for writing.
        start: OwnedFd,
        /// Where a failed `execve` is explained; closed by a successful one.
        result: OwnedFd,
    },
    /// `run`: the parent itself says so.
    Socket,
}

/// What init gets from its parent, beside a copy of its memory.
#[derive(Debug)]
pub struct Inherited {
    /// Its end of the conversation.
    pub socket: ChildEnd,
    /// Where it waits.
    pub gate: Gate,
    /// Where the master of its terminal goes.
    pub console: Option<OwnedFd>,
    /// Namespaces to join (those that the parent cannot join for it).
    pub joined: Vec<Opened>,
    /// The ways into its cgroup, where it was not born into it.
    pub doors: Doors,
    /// The container's place in the cgroup trees.
    pub cgroups: CgroupView,
    /// Sources of bind mounts that it might not reach by itself.
    pub sources: mounts::Sources,
    /// Devices that it may not make by itself.
    pub devices: mounts::Sources,
    /// The state that hooks are told.
    pub hook_state: HookState,
}

/// What the steps share.
struct Init<'a> {
    plan: &'a Plan,
    inherited: &'a Inherited,
    /// The host's procfs, for writes that must not reach one that a container has touched.
    proc: Option<OwnedFd>,
    /// The host's null device, for masks.
    null: Option<OwnedFd>,
    root: Option<Root>,
}

type Step = (&'static str, fn(&mut Init<'_>) -> Result<()>);

/// Everything before the parts that all processes share, in order.
const STEPS: [Step; 21] = [
    // Before anything that could cost memory or processes.
    ("enter the cgroup", enter_cgroup),
    ("wait for the id maps", wait_for_parent),
    ("become root in the user namespace", become_root),
    ("start a session", start_session),
    ("join namespaces", join_namespaces),
    // In its cgroup since the first step: the namespace's root is the container's cgroup.
    ("unshare the cgroup namespace", unshare_cgroup),
    ("make a session keyring", make_keyring),
    ("bring the loopback link up", bring_loopback_up),
    // While /proc and /dev are the host's.
    ("take what is needed of the host", take_from_host),
    ("prepare the root file system", prepare_root),
    ("mount", mount_all),
    ("make devices", make_devices),
    // The mounts are there, the root is still the host's: the hooks' programs are the host's.
    ("wait for hooks", wait_for_hooks),
    ("run createContainer hooks", run_create_container_hooks),
    // Needs the container's devpts, and /dev/console to be writable.
    ("make the terminal", make_terminal),
    ("set the host name", set_names),
    ("set kernel parameters", set_sysctls),
    // After the parameters: /proc/sys is usually among the read-only paths.
    ("make paths read-only", protect_paths),
    // While the null device of the host is mounted here: what is detached cannot be bound any more.
    ("hide paths", hide_paths),
    // While the root can be written, whatever it becomes.
    ("make the working directory", make_working_directory),
    ("switch the root", switch_root),
];

/// Does all steps, waits to be started, and becomes the command. Never returns.
pub fn run(plan: &Plan, inherited: &Inherited) -> ! {
    let mut init = Init {
        plan,
        inherited,
        proc: None,
        null: None,
        root: None,
    };
    for (name, step) in STEPS {
        if let Err(error) = step(&mut init) {
            if plan.root.switch == RootSwitch::Change && init.root.is_some() {
                // The step's failure is the one to tell.
                Root::detach(&plan.root.path).ok();
            }
            fail(&inherited.socket, name, &chain(&error));
        }
    }
    let Some(proc) = &init.proc else {
        fail(&inherited.socket, "prepare the process", "there is no /proc")
    };
    let command = match last::prepare(&plan.process, proc, &inherited.socket) {
        Ok(command) => command,
        Err(LastError::Command(error)) => fail(&inherited.socket, "find the command", &error.to_string()),
        Err(LastError::Step(error)) => fail(&inherited.socket, "prepare the process", &chain(&error)),
    };
    if inherited.socket.send(&ToParent::Ready).is_err() {
        process::exit_now(1);
    }
    if wait_at_gate(&inherited.gate, &inherited.socket).is_err() {
        process::exit_now(1);
    }
    let started = hooks::of_kind(plan.hooks.as_ref(), Kind::StartContainer);
    if let Err(error) = hooks::run(started, Kind::StartContainer, &own_state(inherited, "created")) {
        explain(inherited, "run startContainer hooks", &chain(&error));
    }
    let refused = command.execute();
    tell(inherited, "execute the command", &refused.to_string());
    if let Some(reason) = command.reason(&refused, plan.process.seccomp.as_ref()) {
        add(inherited, reason);
    }
    process::exit_now(1)
}

/// Tells the parent, and ends.
fn fail(socket: &ChildEnd, step: &str, message: &str) -> ! {
    let failed = ToParent::Failed {
        step: step.to_owned(),
        message: message.to_owned(),
    };
    // If the parent is gone there is nobody to tell.
    socket.send(&failed).ok();
    process::exit_now(1)
}

/// Tells whoever has started us, and ends.
fn explain(inherited: &Inherited, step: &str, message: &str) -> ! {
    tell(inherited, step, message);
    process::exit_now(1)
}

/// Tells whoever has started us. If nobody is there any more, nobody is told.
fn tell(inherited: &Inherited, step: &str, message: &str) {
    match &inherited.gate {
        Gate::Fifo { result, .. } => drop(rustix::io::write(result, message.as_bytes())),
        Gate::Socket => drop(inherited.socket.send(&ToParent::Failed {
            step: step.to_owned(),
            message: message.to_owned(),
        })),
    }
}

/// Adds a reason to what was told.
fn add(inherited: &Inherited, reason: String) {
    match &inherited.gate {
        Gate::Fifo { result, .. } => drop(rustix::io::write(result, format!(": {reason}").as_bytes())),
        Gate::Socket => drop(inherited.socket.send(&ToParent::Because { reason })),
    }
}

fn wait_at_gate(gate: &Gate, socket: &ChildEnd) -> croze_sys::Result<()> {
    let Gate::Fifo { start, .. } = gate else {
        return socket.wait_for(ToChild::Start);
    };
    loop {
        match rustix::io::read(start, &mut [0; 1]) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(croze_sys::Error::new("read", errno)),
        }
    }
}

fn enter_cgroup(init: &mut Init<'_>) -> Result<()> {
    Ok(init.inherited.doors.enter()?)
}

fn wait_for_parent(init: &mut Init<'_>) -> Result<()> {
    init.inherited
        .socket
        .wait_for(ToChild::Proceed)
        .while_doing(|| "wait for the parent".to_owned())
}

fn become_root(init: &mut Init<'_>) -> Result<()> {
    if !init.plan.namespaces.has(Namespaces::USER) {
        return Ok(());
    }
    let action = || "become root in the user namespace (is id 0 mapped?)".to_owned();
    process::set_group(0).while_doing(action)?;
    process::set_user(0).while_doing(action)
}

fn start_session(_init: &mut Init<'_>) -> Result<()> {
    // Nobody in the container shall reach us while we hold descriptors of the host. execve sets it anew.
    process::set_dumpable(false).while_doing(|| "become untraceable".to_owned())?;
    rustix::process::setsid()
        .map(drop)
        .while_doing(|| "start a session".to_owned())
}

fn join_namespaces(init: &mut Init<'_>) -> Result<()> {
    init.inherited.joined.iter().try_for_each(Opened::join)
}

fn unshare_cgroup(init: &mut Init<'_>) -> Result<()> {
    if !init.plan.namespaces.new.contains(Namespaces::CGROUP) {
        return Ok(());
    }
    clone::unshare(Namespaces::CGROUP).while_doing(|| "make a cgroup namespace".to_owned())
}

fn make_keyring(init: &mut Init<'_>) -> Result<()> {
    if init.plan.keyring == Keyring::Inherit {
        return Ok(());
    }
    security::join_keyring(&security::keyring_of(&init.plan.id))
}

fn bring_loopback_up(init: &mut Init<'_>) -> Result<()> {
    if !init.plan.namespaces.new.contains(Namespaces::NETWORK) {
        return Ok(());
    }
    link::bring_up("lo").while_doing(|| "bring the link lo up".to_owned())
}

fn take_from_host(init: &mut Init<'_>) -> Result<()> {
    init.proc = Some(root::open_proc()?);
    if !init.plan.root.masked.is_empty() {
        init.null = Some(masks::open_null()?);
    }
    Ok(())
}

fn prepare_root(init: &mut Init<'_>) -> Result<()> {
    // Modes below are meant as they are written; the process gets its own umask at the end.
    rustix::process::umask(rustix::fs::Mode::empty());
    init.root = Some(root::prepare(
        &init.plan.root.path,
        init.plan.root.propagation,
        init.plan.root.switch,
    )?);
    Ok(())
}

/// The root, which the step "prepare the root file system" has made.
fn root_of<'a>(init: &'a Init<'_>) -> Result<&'a Root> {
    init.root.as_ref().ok_or(Error::Unsupported {
        what: "a container without a root",
    })
}

fn mount_all(init: &mut Init<'_>) -> Result<()> {
    let root = root_of(init)?;
    let inherited = init.inherited;
    let mut mounts = init.plan.root.mounts.iter().enumerate();
    mounts.try_for_each(|(index, planned)| {
        mounts::perform(root, planned, &inherited.cgroups, inherited.sources.get(&index))
    })
}

fn make_devices(init: &mut Init<'_>) -> Result<()> {
    let root = root_of(init)?;
    if devices::is_hosts_dev(root)? {
        return Ok(());
    }
    devices::create(root, &init.plan.root.devices, &init.inherited.devices)?;
    if init.plan.root.device_links {
        devices::link(root)
    } else {
        Ok(())
    }
}

fn wait_for_hooks(init: &mut Init<'_>) -> Result<()> {
    let hooks = init.plan.hooks.as_ref();
    let due = [Kind::Prestart, Kind::CreateRuntime]
        .iter()
        .any(|kind| !hooks::of_kind(hooks, *kind).is_empty());
    if !due {
        return Ok(());
    }
    let action = || "wait for the hooks".to_owned();
    init.inherited
        .socket
        .send(&ToParent::AwaitHooks)
        .while_doing(action)?;
    init.inherited
        .socket
        .wait_for(ToChild::Proceed)
        .while_doing(action)
}

fn run_create_container_hooks(init: &mut Init<'_>) -> Result<()> {
    let due = hooks::of_kind(init.plan.hooks.as_ref(), Kind::CreateContainer);
    Ok(hooks::run(
        due,
        Kind::CreateContainer,
        &own_state(init.inherited, "creating"),
    )?)
}

/// The state as a hook inside of the container's namespaces reads it: with the pid that it sees.
fn own_state(inherited: &Inherited, status: &'static str) -> HookState {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    HookState {
        status,
        pid,
        ..inherited.hook_state.clone()
    }
}

fn make_terminal(init: &mut Init<'_>) -> Result<()> {
    let (Some(terminal), Some(console)) = (&init.plan.process.terminal, &init.inherited.console) else {
        return Ok(());
    };
    let root = root_of(init)?;
    let slave = console::make(root, terminal, console.as_fd())?;
    // The slave is bound by its descriptor: what is at /dev/pts/N by now does not matter (CVE-2025-52565).
    let path = Path::new("/dev/console");
    let action = || "bind the terminal at /dev/console".to_owned();
    let target = Target::open(root, path, Missing::File, Links::Refused)?;
    attach::bind(
        &slave,
        &target,
        croze_sys::mount::Depth::One,
        &mounts::options::MountOptions::default(),
    )
    .while_doing(action)?;
    fd::replace_stdio(&slave).while_doing(|| "use the terminal as standard input and output".to_owned())?;
    tty::make_controlling(rustix::stdio::stdin()).while_doing(|| "control the terminal".to_owned())
}

fn set_names(init: &mut Init<'_>) -> Result<()> {
    if let Some(name) = &init.plan.names.host {
        rustix::system::sethostname(name.as_bytes()).while_doing(|| format!("set hostname {name:?}"))?;
    }
    if let Some(name) = &init.plan.names.domain {
        rustix::system::setdomainname(name.as_bytes()).while_doing(|| format!("set domainname {name:?}"))?;
    }
    Ok(())
}

fn set_sysctls(init: &mut Init<'_>) -> Result<()> {
    match &init.proc {
        Some(proc) => limits::write_sysctls(proc, &init.plan.sysctls),
        None => Ok(()),
    }
}

fn protect_paths(init: &mut Init<'_>) -> Result<()> {
    masks::protect(root_of(init)?, &init.plan.root.readonly_paths)
}

fn hide_paths(init: &mut Init<'_>) -> Result<()> {
    match &init.null {
        Some(null) => masks::hide(root_of(init)?, &init.plan.root.masked, null),
        None => Ok(()),
    }
}

/// Callers count on it: an image need not have the directory that its configuration names.
fn make_working_directory(init: &mut Init<'_>) -> Result<()> {
    let cwd = &init.plan.process.cwd;
    let root = root_of(init)?;
    path::create_below(root, cwd, Missing::Directory)
        .map(drop)
        .while_doing(|| format!("make process.cwd {}", cwd.display()))
}

fn switch_root(init: &mut Init<'_>) -> Result<()> {
    let root = root_of(init)?;
    let plan = &init.plan.root;
    root.enter(plan.switch)?;
    if let Some((propagation, depth)) = plan.propagation.filter(|_| plan.switch != RootSwitch::Change) {
        root.set_propagation(propagation, depth)?;
    }
    if plan.readonly {
        root.set_read_only()
    } else {
        Ok(())
    }
}
