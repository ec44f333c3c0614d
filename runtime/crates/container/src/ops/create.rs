//! `create`, and what it shares with `run`: a container built up to its command.
//!
//! ```text
//! spec ─ plan ─ console socket ─ namespaces opened │ id reserved ─ cgroup ─ record (creating) ─ clone ─ set up ─ ready
//!              nothing made yet                    │ each undone in reverse if a later one fails
//! ```

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use croze_cgroups::{Cgroup, Doors};
use croze_sys::clone::Namespaces;
use croze_sys::socket;
use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use rustix::fs::{FileType, Mode, OFlags};

use super::{Attachment, CgroupDriver, CreateRequest, Keyring, RootSwitch, Warn, scope};
use crate::console::{self, Destination};
use crate::error::{Error, Result, While, chain};
use crate::hooks::{self, HookState};
use crate::intel_rdt::{self, Assigned};
use crate::mounts;
use crate::mounts::cgroup::CgroupView;
use crate::mounts::devices;
use crate::namespaces::{self, Opened};
use crate::net_devices::{self, Moved};
use crate::notify::{self, Manager};
use crate::plan::{Choices, Facts, Plan};
use crate::process::init::{Gate, Inherited};
use crate::process::parent::{self, Child, Held};
use crate::process::protocol;
use crate::rootless;
use crate::security;
use crate::spec::{self, SpecError};
use crate::state::{EXEC_FIFO, Event, Id, Identity, Locked, Record, ScopeRecord, Store};

/// The fifo through which init explains why the command could not be executed.
pub(super) const RESULT_FIFO: &str = "result.fifo";
/// How long processes and cgroups of a container that failed get to go.
const UNDO: Duration = Duration::from_secs(5);

/// Who says that the command is to be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starter {
    /// Another call of the runtime.
    Later,
    /// This process.
    Own,
}

/// Makes a container up to its command.
///
/// # Errors
/// What failed on what, and why. Nothing is left behind.
pub fn create(request: &CreateRequest, warn: Warn<'_>) -> Result<()> {
    let mut built = build(request, Attachment::Detached, Starter::Later, warn)?;
    match built.publish(request) {
        Ok(()) => {
            built.keep();
            Ok(())
        }
        Err(error) => Err(built.undo(error)),
    }
}

/// A container that is built, and what must be undone if something fails from here on.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) spec: Spec,
    pub(super) record: Record,
    pub(super) locked: Locked,
    pub(super) child: Child,
    pub(super) cgroup: Cgroup,
    /// The master of its terminal, if it is relayed by this process.
    pub(super) master: Option<OwnedFd>,
    /// Who waits for it to be ready.
    pub(super) manager: Option<Manager>,
    /// Network devices that it was given.
    moved: Option<Moved>,
}

impl Built {
    /// Tells the caller who the process is, and writes the record.
    pub(super) fn publish(&mut self, request: &CreateRequest) -> Result<()> {
        let init = Identity::of(self.child.pid)?;
        self.record.state = self.record.state.clone().next(Event::Launched { init })?;
        self.locked.save(&self.record)?;
        tell_caller(
            &self.child,
            request.pidfd_socket.as_deref(),
            request.pid_file.as_deref(),
        )
    }

    /// The container is to stay.
    pub(super) fn keep(self) -> Locked {
        self.locked
    }

    /// Removes everything; returns the error with what could not be removed.
    pub(super) fn undo(self, error: Error) -> Error {
        Undo {
            locked: Some(self.locked),
            rdt: self.record.intel_rdt.clone(),
            cgroup: Some(self.cgroup),
            scope: self.record.scope.clone(),
            child: Some(self.child),
            moved: self.moved,
            poststop: Some((self.spec.hooks().clone(), self.record)),
        }
        .run(error)
    }
}

/// What was made so far; in reverse order of the fields.
#[derive(Debug, Default)]
struct Undo {
    locked: Option<Locked>,
    /// Where there was a first process hooks may have run: what they have made is for the poststop hooks to clean up.
    poststop: Option<(Option<Hooks>, Record)>,
    cgroup: Option<Cgroup>,
    rdt: Option<Assigned>,
    /// The scope that systemd has made, or may have made.
    scope: Option<ScopeRecord>,
    child: Option<Child>,
    /// Before the namespace that they are in goes.
    moved: Option<Moved>,
}

impl Undo {
    /// Goes on after a failure, and adds what could not be undone to the error.
    fn run(self, error: Error) -> Error {
        let mut left = Vec::new();
        if let Some(Err(error)) = self.moved.map(Moved::give_back) {
            left.push(chain(&error));
        }
        if let Some(Err(error)) = self.child.as_ref().map(Child::kill) {
            left.push(error.to_string());
        }
        left.extend(scope::stop(self.scope.as_ref()).err().map(|error| chain(&error)));
        if let Some(cgroup) = &self.cgroup {
            // Never more than what was made here: the rest, and who is in it, is somebody else's.
            let own = cgroup.own_part();
            let gone = own.kill_all(UNDO).and_then(|()| own.remove(UNDO));
            left.extend(gone.err().map(|error| chain(&error)));
        }
        if let Some(Err(error)) = self.rdt.as_ref().map(Assigned::remove) {
            left.push(chain(&error));
        }
        if let Some((hooks, record)) = &self.poststop {
            let failed = hooks::poststop(hooks.as_ref(), record);
            left.extend(failed.iter().map(|error| chain(error)));
        }
        if let Some(Err(error)) = self.locked.map(Locked::remove) {
            left.push(chain(&error));
        }
        if left.is_empty() {
            error
        } else {
            Error::Undo {
                source: Box::new(error),
                left: left.join("; "),
            }
        }
    }
}

/// Builds a container up to its command.
pub(super) fn build(
    request: &CreateRequest,
    attachment: Attachment,
    starter: Starter,
    warn: Warn<'_>,
) -> Result<Built> {
    let id = Id::parse(&request.id)?;
    let bundle = canonical("find the bundle", &request.bundle)?;
    let loaded = spec::load(&bundle.join(&request.config))?;
    loaded.warnings.iter().for_each(|warning| warn(warning));
    let facts = facts(&loaded.spec, bundle, request.settings.cgroup_driver)?;
    let label = loaded
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().as_ref());
    if label.is_some_and(|label| !label.is_empty()) && !facts.labels_mounts {
        warn("linux.mountLabel is ignored: this host has no SELinux");
    }
    let sockets = notify::activation_sockets(|name| std::env::var(name).ok(), std::process::id());
    let choices = Choices {
        root_switch: request.root_switch,
        keyring: request.keyring,
        preserve_fds: request.preserve_fds.saturating_add(sockets),
    };
    let mut plan = Plan::new(id.as_str(), &loaded.spec, choices, &facts)?;
    security::check_selinux(&plan.process.labels)?;
    // systemd asks its user manager, which knows what it may do.
    if request.settings.cgroup_driver == CgroupDriver::Cgroupfs && !request.settings.rights.are_full() {
        plan.cgroup = rootless::permitted(plan.cgroup)?;
    }
    if sockets > 0 {
        let env = [format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()];
        plan.process.env.extend(env);
        if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
            plan.process.env.push(format!("LISTEN_FDNAMES={names}"));
        }
    }
    let manager = Manager::of(std::env::var_os(notify::VARIABLE).as_deref()).unwrap_or_else(|problem| {
        warn(&problem);
        None
    });
    if let Some(manager) = &manager {
        let container = request.settings.root.join(id.as_str());
        plan.root.mounts.push(manager.mount(&container));
        plan.process.env.push(manager.variable());
    }
    parent::warn_of_missing(plan.process.preserve_fds, warn);
    let terminal = plan.process.terminal.is_some();
    let console = Destination::open(terminal, request.console_socket.as_deref(), attachment)?;
    let joined = plan.namespaces.open()?;
    plan.check_shared(namespaces::shared(&joined)?)?;

    let locked = Store::new(&request.settings.root)?.reserve(&id)?;
    let record = new_record(&id, &plan);
    let parts = Parts {
        plan: &plan,
        raw: &loaded.raw,
        console,
        joined,
        starter,
        notifies: manager.is_some(),
    };
    let Assembled {
        child,
        cgroup,
        locked,
        record,
        master,
        moved,
    } = parts.assemble(locked, record)?;
    Ok(Built {
        spec: loaded.spec,
        record,
        locked,
        child,
        cgroup,
        master,
        manager,
        moved,
    })
}

/// There exactly if the kernel runs with SELinux.
const SELINUX: &str = "/sys/fs/selinux";

fn facts(spec: &Spec, bundle: PathBuf, driver: CgroupDriver) -> Result<Facts> {
    let missing = SpecError::Missing {
        field: "root",
        reason: "a container needs a root file system",
    };
    let root = spec.root().as_ref().ok_or(missing)?;
    let rootfs = canonical("find the root file system (root.path)", &bundle.join(root.path()))?;
    if !rootfs.is_dir() || rootfs == Path::new("/") {
        return Err(SpecError::Invalid {
            field: "root.path".to_owned(),
            value: rootfs.display().to_string(),
            reason: "it must be a directory other than the host's root",
        }
        .into());
    }
    let linux = spec.linux().as_ref();
    let maps_missing = linux.is_some_and(|linux| {
        spec::has_namespace(linux, LinuxNamespaceType::User)
            && linux.uid_mappings().as_ref().is_none_or(Vec::is_empty)
    });
    let labels = linux.is_some_and(|linux| linux.mount_label().is_some());
    Ok(Facts {
        cgroups: croze_cgroups::observe()?,
        systemd: scope::facts(driver)?,
        rootfs,
        bundle,
        own_ids: maps_missing.then(namespaces::own_ids).transpose()?,
        labels_mounts: labels && Path::new(SELINUX).exists(),
    })
}

fn canonical(action: &'static str, path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|source| Error::File {
        action,
        path: path.to_owned(),
        source,
    })
}

fn new_record(id: &Id, plan: &Plan) -> Record {
    let mut record = Record::new(
        id,
        plan.oci_version.clone(),
        plan.bundle.clone(),
        plan.root.path.clone(),
    );
    record.annotations.clone_from(&plan.annotations);
    record.scope = scope::record(plan);
    record.shares_mounts = plan.root.switch == RootSwitch::Change;
    record.keyring = (plan.keyring == Keyring::New).then(|| security::keyring_of(&plan.id));
    record
}

/// Everything that is needed to make the container, nothing of it made yet.
struct Parts<'a> {
    plan: &'a Plan,
    raw: &'a [u8],
    console: Destination,
    joined: Vec<Opened>,
    starter: Starter,
    /// Whether somebody waits for the container to be ready.
    notifies: bool,
}

/// A container up to its command.
struct Assembled {
    child: Child,
    cgroup: Cgroup,
    locked: Locked,
    record: Record,
    master: Option<OwnedFd>,
    moved: Option<Moved>,
}

/// What the container is given from outside, while its first process waits for that.
#[derive(Default)]
struct Gifts {
    rdt: Option<Assigned>,
    moved: Option<Moved>,
}

impl Parts<'_> {
    fn assemble(self, locked: Locked, mut record: Record) -> Result<Assembled> {
        let cgroup = match locked
            .save_config(self.raw)
            .map_err(Error::from)
            .and_then(|()| self.make_notify_directory(&locked))
            .and_then(|()| self.make_cgroup())
        {
            Ok(cgroup) => cgroup,
            Err(error) => {
                return Err(Undo {
                    locked: Some(locked),
                    ..Undo::default()
                }
                .run(error));
            }
        };
        record.cgroup = cgroup.paths();
        let undo = |locked, cgroup| Undo {
            locked: Some(locked),
            cgroup: Some(cgroup),
            ..Undo::default()
        };
        // From here on `delete --force` finds the cgroup even if this process is killed.
        if let Err(error) = locked.save(&record) {
            return Err(undo(locked, cgroup).run(error.into()));
        }
        let plan = self.plan;
        let hook_state = HookState::of(&record, "creating", 0);
        let directory = locked.path().to_owned();
        let network = self.joined_network();
        match network.and_then(|network| {
            let launched = self.launch(locked, &cgroup, hook_state.clone())?;
            Ok((launched, network))
        }) {
            Ok(((child, locked, receiver), network)) => {
                let mut gifts = Gifts::default();
                let mut cgroup = cgroup;
                let ready = scope::start(plan, child.pid)
                    .map(|made| cgroup = made.unwrap_or_else(|| cgroup.clone()))
                    .and_then(|()| give(plan, child.pid, network.as_ref(), &mut gifts))
                    .and_then(|()| set_up(plan, &child, &hook_state))
                    .and_then(|()| match plan.namespaces.id_maps {
                        Some(_) => devices::tidy(&directory, &plan.root.devices),
                        None => Ok(()),
                    })
                    .and_then(|()| receiver.as_ref().map(console::receive_master).transpose());
                record.intel_rdt = gifts.rdt;
                match ready {
                    Ok(master) => Ok(Assembled {
                        child,
                        cgroup,
                        locked,
                        record,
                        master,
                        moved: gifts.moved,
                    }),
                    Err(error) => Err(Undo {
                        locked: Some(locked),
                        rdt: record.intel_rdt.clone(),
                        scope: record.scope.clone(),
                        poststop: Some((plan.hooks.clone(), record)),
                        cgroup: Some(cgroup),
                        child: Some(child),
                        moved: gifts.moved,
                    }
                    .run(error)),
                }
            }
            Err(error) => Err(remove_without_lock(&directory, cgroup, error)),
        }
    }

    /// The network namespace that is joined by path, for those devices that go there.
    fn joined_network(&self) -> Result<Option<OwnedFd>> {
        let joined = self
            .joined
            .iter()
            .find(|opened| opened.kind == Namespaces::NETWORK && !self.plan.net_devices.is_empty());
        let copy = joined.map(|opened| opened.fd.try_clone().map_err(|source| (source, opened)));
        copy.transpose().map_err(|(source, opened)| Error::File {
            action: "keep open",
            path: opened.path.clone(),
            source,
        })
    }

    fn make_notify_directory(&self, locked: &Locked) -> Result<()> {
        if self.notifies {
            notify::make_directory(locked.path())
        } else {
            Ok(())
        }
    }

    fn make_cgroup(&self) -> Result<Cgroup> {
        match &self.plan.scope {
            None => Ok(Cgroup::create(&self.plan.cgroup)?),
            Some(_) => Ok(Cgroup::expected(&self.plan.cgroup)?),
        }
    }

    fn launch(
        self,
        locked: Locked,
        cgroup: &Cgroup,
        hook_state: HookState,
    ) -> Result<(Child, Locked, Option<OwnedFd>)> {
        // systemd moves the process into the cgroup that it makes for it.
        let outside = self.plan.scope.is_some();
        let gate = match self.starter {
            Starter::Own => Gate::Socket,
            Starter::Later => make_fifos(locked.path())?,
        };
        let (socket, child_end) =
            protocol::pair().while_doing(|| "talk to the container's process".to_owned())?;
        let (console, master_receiver) = self.console.split();
        let sources = mounts::open_sources(&self.plan.root.mounts, &self.plan.namespaces, &self.joined)?;
        let devices = match &self.plan.namespaces.id_maps {
            Some(maps) => devices::make_outside(locked.path(), &self.plan.root.devices, maps)?,
            None => mounts::Sources::new(),
        };
        let inherited = Inherited {
            socket: child_end,
            gate,
            console,
            joined: self.joined,
            doors: if outside {
                Doors::default()
            } else {
                cgroup.doors()?
            },
            cgroups: CgroupView::new(self.plan.cgroup.directories()),
            sources,
            devices,
            hook_state,
        };
        let unified = if outside { None } else { cgroup.open_unified()? };
        parent::clone_init(
            self.plan,
            inherited,
            Held {
                locked,
                socket,
                master_receiver,
            },
            unified.as_ref(),
        )
    }
}

/// A failed launch has taken the lock with it; nobody else can have made anything of a container without a first process.
fn remove_without_lock(directory: &Path, cgroup: Cgroup, error: Error) -> Error {
    let error = Undo {
        cgroup: Some(cgroup),
        ..Undo::default()
    }
    .run(error);
    match fs::remove_dir_all(directory) {
        Ok(()) => error,
        Err(left) => Error::Undo {
            source: Box::new(error),
            left: left.to_string(),
        },
    }
}

/// Gives the first process, which waits for it, what comes from outside of its namespaces. What was given is in `gifts`, also after a failure.
fn give(plan: &Plan, pid: i32, network: Option<&OwnedFd>, gifts: &mut Gifts) -> Result<()> {
    if let Some(rdt) = &plan.intel_rdt {
        gifts.rdt = Some(intel_rdt::assign(rdt, &intel_rdt::observe()?, pid)?);
    }
    gifts.moved = net_devices::move_in(&plan.net_devices, pid, network)?;
    Ok(())
}

fn set_up(plan: &Plan, child: &Child, state: &HookState) -> Result<()> {
    child.set_up(plan.namespaces.id_maps.as_ref(), &plan.process)?;
    child.until_ready(plan.hooks.as_ref(), state, plan.process.listener.as_ref())
}

/// Makes the fifos that init waits at and explains itself through, and opens them for it.
fn make_fifos(directory: &Path) -> Result<Gate> {
    let open = |name: &str| {
        let path = directory.join(name);
        let action = || format!("make {}", path.display());
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).while_doing(action)?;
        rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).while_doing(action)
    };
    Ok(Gate::Fifo {
        start: open(EXEC_FIFO)?,
        result: open(RESULT_FIFO)?,
    })
}

/// Hands the process to whoever asked for it: its pidfd over a socket, its pid in a file.
pub(super) fn tell_caller(child: &Child, pidfd_socket: Option<&Path>, pid_file: Option<&Path>) -> Result<()> {
    if let Some(path) = pidfd_socket {
        let action = || format!("send the pidfd to {}", path.display());
        let to = socket::connect(path).while_doing(action)?;
        socket::send_fds(&to, b"pidfd", &[child.pidfd.as_fd()]).while_doing(action)?;
    }
    pid_file.map_or(Ok(()), |path| write_pid_file(path, child.pid))
}

/// Written under another name first: a reader who finds the file finds the whole pid.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let failed = |source| Error::File {
        action: "write the pid file",
        path: path.to_owned(),
        source,
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // The error itself is what the caller must know.
        fs::remove_file(&temporary).ok();
        failed(source)
    })
}
