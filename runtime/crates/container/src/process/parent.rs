//! The runtime's side of making a process: clone it, do what can only be done from outside, hold the conversation.
//!
//! ```text
//! clone3, from a stage if there are namespaces that only a child can be born into
//!   └▶ id maps ─ OOM score ─ hard limits ─▶ Proceed ─▶ [hooks ─▶ Proceed] ─▶ Ready
//! ```
//!
//! The child enters its cgroup by itself, through descriptors that it inherits; on version 2 it is born there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use croze_sys::clone::{self, CloneRequest, Cloned, Namespaces, Parentage};
use croze_sys::{Errno, fd, pidfd};

use crate::error::{Error, Result, While};
use crate::hooks::{self, HookState, Kind};
use crate::namespaces::{self, IdMaps, NamespacePlan, Opened};
use crate::ops::Warn;
use crate::plan::{self, Plan, ProcessPlan};
use crate::process::bootstrap;
use crate::process::init::{self, Inherited};
use crate::process::listener::Listener;
use crate::process::protocol::{ParentEnd, ToChild, ToParent};
use crate::state::Locked;

/// A process that was made and has not been reaped.
#[derive(Debug)]
pub struct Child {
    /// Its pid, in this process's namespace.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    /// This end of the conversation.
    pub socket: ParentEnd,
}

/// What goes into the clone and comes out of it on this side only.
#[derive(Debug)]
pub struct Held {
    /// The container's lock, which the child must not keep.
    pub locked: Locked,
    /// This end of the conversation, likewise.
    pub socket: ParentEnd,
    /// Where the master of a terminal arrives, likewise.
    pub master_receiver: Option<OwnedFd>,
}

/// Clones init. The child never returns from here.
///
/// # Errors
/// A namespace cannot be made or joined.
pub fn clone_init(
    plan: &Plan,
    inherited: Inherited,
    held: Held,
    cgroup: Option<&OwnedFd>,
) -> Result<(Child, Locked, Option<OwnedFd>)> {
    let inherited = &mut { inherited };
    let request = CloneRequest {
        namespaces: plan::cloned_namespaces(plan.namespaces.new),
        cgroup: cgroup.map(AsFd::as_fd),
        parentage: Parentage::Child,
    };
    let user = inherited
        .joined
        .iter()
        .position(|joined| joined.kind == Namespaces::USER)
        .map(|index| inherited.joined.remove(index));
    let is_entered = |opened: &Opened| Birthplace::is_entered(&plan.namespaces, opened.kind);
    let enters = plan.namespaces.new.contains(Namespaces::TIME) || inherited.joined.iter().any(is_entered);
    let action = || "make the container's first process in its namespaces".to_owned();
    let cloned = if enters || user.is_some() {
        // Who has joined a user namespace may not choose a cgroup any more.
        let cgroup = request.cgroup.filter(|_| user.is_some());
        bootstrap::clone_from_stage(cgroup, || {
            // Not to be left: the stage ends.
            drop(Birthplace::enter(&plan.namespaces, &mut inherited.joined)?);
            match &user {
                Some(user) => bootstrap::clone_inside(user, &[], &request),
                None => clone_untraceable(&CloneRequest {
                    parentage: Parentage::Sibling,
                    ..request
                })
                .while_doing(action),
            }
        })
    } else {
        clone_untraceable(&request).while_doing(action)
    };
    match cloned? {
        Cloned::Child => {
            drop(held);
            init::run(plan, inherited)
        }
        Cloned::Parent { pid, pidfd } => {
            let Held {
                locked,
                socket,
                master_receiver,
            } = held;
            Ok((Child { pid, pidfd, socket }, locked, master_receiver))
        }
    }
}

/// Clones a child that nobody in the container can trace or look into, from its first moment on: it has descriptors of the host
/// (CVE-2016-9962).
///
/// # Errors
/// Those of `clone3`.
pub fn clone_untraceable(request: &CloneRequest<'_>) -> croze_sys::Result<Cloned> {
    // Another user's runtime has to write to its child's /proc files, which would not be its own then.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        croze_sys::process::set_dumpable(false)?;
    }
    let cloned = clone::clone3(request);
    if is_root && !matches!(cloned, Ok(Cloned::Child)) {
        croze_sys::process::set_dumpable(true)?;
    }
    cloned
}

/// Namespaces that are entered for the clone: those into which a process can only be born, and those that belong to the host's user
/// namespace while the process is in another one, where it has no right to join them any more. A stage enters them and ends there
/// (docs/decisions/0009); `exec` leaves them again.
#[derive(Debug, Default)]
pub struct Birthplace {
    /// The caller's own, to go back to.
    own: Vec<Opened>,
}

impl Birthplace {
    /// Makes the next child be born in the namespaces of the plan that it cannot join for itself. What is joined here is taken out of
    /// `joined`.
    ///
    /// # Errors
    /// One of them cannot be entered; the caller is where it was then.
    pub fn enter(plan: &NamespacePlan, joined: &mut Vec<Opened>) -> Result<Self> {
        let mut born = Self::default();
        match born.enter_all(plan, joined) {
            Ok(()) => Ok(born),
            Err(error) => {
                born.leave().ok();
                Err(error)
            }
        }
    }

    /// Whether a namespace of this kind that the plan joins is entered for the clone.
    fn is_entered(plan: &NamespacePlan, kind: Namespaces) -> bool {
        let by_child = matches!(kind, Namespaces::USER | Namespaces::MOUNT) || !plan.has(Namespaces::USER);
        is_by_birth(kind) || !by_child
    }

    fn enter_all(&mut self, plan: &NamespacePlan, joined: &mut Vec<Opened>) -> Result<()> {
        for opened in std::mem::take(joined) {
            let kind = opened.kind;
            if !Self::is_entered(plan, kind) {
                joined.push(opened);
                continue;
            }
            self.remember(kind)?;
            match opened.join() {
                Ok(()) => {}
                // It belongs to the user namespace that is joined: there the child will have the right.
                Err(Error::System { source, .. }) if !is_by_birth(kind) && source.errno == Errno::PERM => {
                    self.own.pop();
                    joined.push(opened);
                }
                Err(error) => return Err(error),
            }
        }
        if plan.new.contains(Namespaces::TIME) {
            self.remember(Namespaces::TIME)?;
            clone::unshare(Namespaces::TIME).while_doing(|| "make a time namespace".to_owned())?;
            if !plan.time_offsets.is_empty() {
                namespaces::write_time_offsets(&plan.time_offsets)?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, kind: Namespaces) -> Result<()> {
        let path = Path::new("/proc/self/ns").join(namespaces::name_of(kind));
        let fd = open_namespace(&path)?;
        self.own.push(Opened { kind, path, fd });
        Ok(())
    }

    /// Makes later children be born where the caller is.
    ///
    /// Root of a user namespace, as podman without root's rights calls a runtime, may be in pid and time namespaces that belong to the host's: it can
    /// enter the container's, but has no right to go back. It has not gone itself, only its next children would: this is for `exec`, which has
    /// none. Init, beside which hooks run, is cloned from a stage.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn leave(self) -> Result<()> {
        self.own.iter().try_for_each(|own| match own.join() {
            Err(Error::System { source, .. }) if source.errno == Errno::PERM && is_by_birth(own.kind) => {
                Ok(())
            }
            result => result,
        })
    }
}

/// Whether a process gets into such a namespace by being born there alone.
const fn is_by_birth(kind: Namespaces) -> bool {
    Namespaces::PID.contains(kind) || Namespaces::TIME.contains(kind)
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .while_doing(|| format!("open the namespace {}", path.display()))
}

impl Child {
    /// Does what can only be done from outside, and lets the child proceed.
    ///
    /// # Errors
    /// What could not be done.
    pub fn set_up(&self, maps: Option<&IdMaps>, process: &ProcessPlan) -> Result<()> {
        if let Some(maps) = maps {
            namespaces::write_id_maps(self.pid, maps)?;
        }
        if let Some(score) = process.oom_score_adj {
            crate::limits::set_oom_score_adj(self.pid, score)?;
        }
        process
            .limits
            .iter()
            .try_for_each(|limit| limit.allow(self.pid))?;
        self.tell(ToChild::Proceed)
    }

    /// Holds the conversation up to the moment when only the command is missing.
    ///
    /// # Errors
    /// A step of the child's, or a hook.
    pub fn until_ready(
        &self,
        hooks: Option<&oci_spec::runtime::Hooks>,
        state: &HookState,
        listener: Option<&Listener>,
    ) -> Result<()> {
        loop {
            match self.listen()? {
                ToParent::AwaitHooks => {
                    // The older of the two was made for the moment between creating and starting, and is told so.
                    for (kind, status) in [(Kind::Prestart, "created"), (Kind::CreateRuntime, "creating")] {
                        let state = HookState {
                            pid: self.pid,
                            status,
                            ..state.clone()
                        };
                        hooks::run(hooks::of_kind(hooks, kind), kind, &state)?;
                    }
                    self.tell(ToChild::Proceed)?;
                }
                ToParent::Listening { descriptor } => {
                    let listener = listener.ok_or_else(out_of_turn)?;
                    listener.hand_over(self.pid, &self.pidfd, descriptor, state)?;
                }
                ToParent::Ready => return Ok(()),
                ToParent::Failed { step, message } => return Err(Error::Init { step, message }),
                ToParent::Because { .. } => return Err(out_of_turn()),
            }
        }
    }

    /// Lets the child execute its command, and waits until it has.
    ///
    /// # Errors
    /// The command could not be executed.
    pub fn start(&self) -> Result<()> {
        self.tell(ToChild::Start)?;
        match self
            .socket
            .receive()
            .while_doing(|| "hear from the container's process".to_owned())?
        {
            None => Ok(()),
            Some(ToParent::Failed { step, message }) => Err(Error::Init {
                step,
                message: self.with_reason(message),
            }),
            Some(_) => Err(out_of_turn()),
        }
    }

    /// The message, and what the child finds out about it before it ends.
    fn with_reason(&self, message: String) -> String {
        match self.socket.receive() {
            Ok(Some(ToParent::Because { reason })) => format!("{message}: {reason}"),
            _ => message,
        }
    }

    fn tell(&self, message: ToChild) -> Result<()> {
        match self.socket.send(message) {
            // It is gone: what it said before tells why.
            Err(error) if matches!(error.errno, Errno::PIPE | Errno::CONNRESET) => match self.listen()? {
                ToParent::Failed { step, message } => Err(Error::Init { step, message }),
                _ => Err(out_of_turn()),
            },
            result => result.while_doing(|| "talk to the container's process".to_owned()),
        }
    }

    fn listen(&self) -> Result<ToParent> {
        match self
            .socket
            .receive()
            .while_doing(|| "hear from the container's process".to_owned())?
        {
            Some(message) => Ok(message),
            None => Err(Error::InitEnded {
                how: self.how_it_ended(),
            }),
        }
    }

    fn how_it_ended(&self) -> String {
        match pidfd::reap(&self.pidfd) {
            Ok(pidfd::Exit::Code(code)) => format!("exit status {code}"),
            Ok(pidfd::Exit::Signal(9)) => {
                "killed; if its memory limit is very low that was the kernel".to_owned()
            }
            Ok(pidfd::Exit::Signal(signal)) => format!("signal {signal}"),
            Err(_) => "its status is gone".to_owned(),
        }
    }

    /// Kills and reaps it, if that has not happened yet.
    ///
    /// # Errors
    /// None that is to be expected of a child.
    pub fn kill(&self) -> croze_sys::Result<()> {
        match pidfd::send_signal(&self.pidfd, 9) {
            Err(error) if error.errno == Errno::SRCH => return Ok(()),
            result => result?,
        }
        match pidfd::reap(&self.pidfd) {
            Err(error) if error.errno == Errno::CHILD => Ok(()),
            result => result.map(drop),
        }
    }
}

fn out_of_turn() -> Error {
    Error::Unsupported {
        what: "a message out of turn from the container's process",
    }
}

/// Tells which of the descriptors that are to be passed on are not there. One that this program has opened itself (its log, say) is
/// none of the container's business: it counts as not there.
pub fn warn_of_missing(count: u32, warn: Warn<'_>) {
    /// Beyond what any kernel lets a process have there is nothing to look for.
    const MOST: u32 = 1 << 20;
    let end = count.min(MOST).saturating_add(3);
    let is_missing = |number: &u32| !i32::try_from(*number).is_ok_and(fd::is_inherited);
    let mut missing = (3..end).filter(is_missing);
    if let Some(first) = missing.next() {
        let others = match missing.count() {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        warn(&format!(
            "descriptor {first}{others} is not open and cannot be passed on: --preserve-fds {count}"
        ));
    }
}
