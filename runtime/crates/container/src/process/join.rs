//! A process added to a container, from its birth to its command.
//!
//! ```text
//! runtime: pid (and time) namespace entered for the child ─ clone3 ─▶ joined process
//!               cgroup ┐ OOM score ─▶ Proceed ─▶ all other namespaces at once ─ terminal ─ identity … ─▶ Ready
//! ```
//!
//! It comes in with a way out in its hands (the runtime's descriptors), so until `execve` nobody in the container may trace it or look
//! at its `/proc` (CVE-2016-9962): it is born not dumpable, and stays so.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use croze_cgroups::Doors;
use croze_sys::clone::{self, Namespaces};
use croze_sys::{fd, process, tty};
use rustix::fs::{Mode, OFlags};

use crate::console;
use crate::error::{Result, While, chain};
use crate::mounts::root::{self, Root};
use crate::namespaces::Opened;
use crate::plan::ProcessPlan;
use crate::process::last::{self, LastError};
use crate::process::protocol::{ChildEnd, ToChild, ToParent};
use crate::security;

/// The namespaces of a container as seen from outside.
#[derive(Debug)]
pub struct Target {
    /// The container's first process.
    pub init: OwnedFd,
    /// Its pid, for kernels that join by path only.
    pub pid: i32,
    /// The kinds that the container does not share with the runtime.
    pub kinds: Namespaces,
}

/// The kinds that a process can join for itself, with the names of their files.
const OWN_KINDS: [(Namespaces, &str); 6] = [
    // The user namespace first: it gives the right to join the others.
    (Namespaces::USER, "user"),
    (Namespaces::CGROUP, "cgroup"),
    (Namespaces::IPC, "ipc"),
    (Namespaces::UTS, "uts"),
    (Namespaces::NETWORK, "net"),
    // The mount namespace last: afterwards /proc is the container's.
    (Namespaces::MOUNT, "mnt"),
];

impl Target {
    /// The namespaces that a child must be born into, opened.
    ///
    /// # Errors
    /// The container's first process is gone.
    pub fn birthplaces(&self) -> Result<Vec<Opened>> {
        [(Namespaces::PID, "pid"), (Namespaces::TIME, "time")]
            .into_iter()
            .filter(|(kind, _)| self.kinds.contains(*kind))
            .map(|(kind, name)| self.open(kind, name))
            .collect()
    }

    /// The user namespace, opened, for a caller who may only join the others from within it. The process is in it from its birth then, and
    /// does not join it again.
    ///
    /// # Errors
    /// As [`Target::birthplaces`].
    pub fn take_user(&mut self) -> Result<Option<Opened>> {
        if rustix::process::geteuid().is_root() || !self.kinds.contains(Namespaces::USER) {
            return Ok(None);
        }
        let user = self.open(Namespaces::USER, "user")?;
        self.kinds = self.kinds.without(Namespaces::USER);
        Ok(Some(user))
    }

    fn open(&self, kind: Namespaces, name: &str) -> Result<Opened> {
        let path = PathBuf::from(format!("/proc/{}/ns/{name}", self.pid));
        let fd = std::fs::File::open(&path).map_err(|source| crate::Error::File {
            action: "open the namespace",
            path: path.clone(),
            source,
        })?;
        Ok(Opened {
            kind,
            path,
            fd: fd.into(),
        })
    }

    /// The container's root, where joining its mount namespace does not lead there: it has none of its own.
    fn root(&self, proc: &OwnedFd) -> Result<Option<OwnedFd>> {
        if self.kinds.contains(Namespaces::MOUNT) {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(proc, format!("{}/root", self.pid), flags, Mode::empty())
            .map(Some)
            .while_doing(|| "open the container's root".to_owned())
    }

    /// Joins everything that a process can join for itself: in one call where the kernel can (Linux 5.8), else one by one.
    fn join(&self) -> Result<()> {
        let own = OWN_KINDS.iter().filter(|(kind, _)| self.kinds.contains(*kind));
        let kinds = own
            .clone()
            .fold(Namespaces::NONE, |kinds, (kind, _)| kinds | *kind);
        match clone::join_process(self.init.as_fd(), kinds) {
            Err(error) if !clone::joins_by_pidfd(&error) => {
                let opened: Vec<Opened> = own
                    .map(|(kind, name)| self.open(*kind, name))
                    .collect::<Result<_>>()?;
                opened.iter().try_for_each(Opened::join)
            }
            result => result.while_doing(|| "join the container's namespaces".to_owned()),
        }
    }
}

/// What the process gets from the runtime, beside a copy of its memory.
#[derive(Debug)]
pub struct Inherited {
    /// Its end of the conversation.
    pub socket: ChildEnd,
    /// Where the master of its terminal goes.
    pub console: Option<OwnedFd>,
    /// What it joins.
    pub target: Target,
    /// The ways into the container's cgroup, where it was not born into it.
    pub doors: Doors,
    /// The container's session keyring, if it has one of its own.
    pub keyring: Option<String>,
}

/// Joins, gets ready, waits to be started, and becomes the command. Never returns.
pub fn run(plan: &ProcessPlan, inherited: &Inherited) -> ! {
    let command = match enter(plan, inherited)
        .map_err(LastError::Step)
        .and_then(|proc| last::prepare(plan, &proc, &inherited.socket))
    {
        Ok(command) => command,
        Err(LastError::Command(error)) => fail(&inherited.socket, "find the command", &error.to_string()),
        Err(LastError::Step(error)) => fail(&inherited.socket, "enter the container", &chain(&error)),
    };
    let told = inherited
        .socket
        .send(&ToParent::Ready)
        .and_then(|()| inherited.socket.wait_for(ToChild::Start));
    if told.is_err() {
        process::exit_now(1);
    }
    let refused = command.execute();
    tell(&inherited.socket, "execute the command", &refused.to_string());
    if let Some(reason) = command.reason(&refused, plan.seccomp.as_ref()) {
        inherited.socket.send(&ToParent::Because { reason }).ok();
    }
    process::exit_now(1)
}

/// Becomes a process of the container; returns the host's procfs.
fn enter(plan: &ProcessPlan, inherited: &Inherited) -> Result<OwnedFd> {
    inherited.doors.enter()?;
    plan.scheduling.take_last_cpus()?;
    inherited
        .socket
        .wait_for(ToChild::Proceed)
        .while_doing(|| "wait for the runtime".to_owned())?;
    process::set_dumpable(false).while_doing(|| "become untraceable".to_owned())?;
    rustix::process::setsid().while_doing(|| "start a session".to_owned())?;
    let proc = root::open_proc()?;
    let root = inherited.target.root(&proc)?;
    inherited.target.join()?;
    if let Some(root) = root {
        let action = || "enter the container's root".to_owned();
        rustix::process::fchdir(&root).while_doing(action)?;
        rustix::process::chroot(".").while_doing(action)?;
    }
    if inherited.target.kinds.contains(Namespaces::USER) {
        let action = || "become root in the user namespace (is id 0 mapped?)".to_owned();
        process::set_group(0).while_doing(action)?;
        process::set_user(0).while_doing(action)?;
        // A change of ids may have made it traceable again.
        process::set_dumpable(false).while_doing(|| "become untraceable".to_owned())?;
    }
    // The caller's session keyring holds the caller's secrets; the container's is found by its name, in its user namespace.
    if let Some(keyring) = &inherited.keyring {
        security::join_keyring(keyring)?;
    }
    if let (Some(terminal), Some(to)) = (&plan.terminal, &inherited.console) {
        let slave = console::make(&Root::current()?, terminal, to.as_fd())?;
        fd::replace_stdio(&slave)
            .while_doing(|| "use the terminal as standard input and output".to_owned())?;
        tty::make_controlling(rustix::stdio::stdin()).while_doing(|| "control the terminal".to_owned())?;
    }
    Ok(proc)
}

fn fail(socket: &ChildEnd, step: &str, message: &str) -> ! {
    tell(socket, step, message);
    process::exit_now(1)
}

fn tell(socket: &ChildEnd, step: &str, message: &str) {
    let failed = ToParent::Failed {
        step: step.to_owned(),
        message: message.to_owned(),
    };
    // If the runtime is gone there is nobody to tell.
    socket.send(&failed).ok();
}
