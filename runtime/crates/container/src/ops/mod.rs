//! The operations on containers, one file per verb.
//!
//! Every operation takes one request made of resolved arguments (absolute paths, parsed numbers), does its work, and
//! either succeeds or leaves nothing behind. Nothing here prints: what a user sees is decided by the caller.

mod create;
mod delete;
mod events;
mod exec;
mod kill;
mod list;
mod pause;
mod run;
mod scope;
mod start;
mod state;
mod update;

pub use create::create;
pub use delete::{DeleteRequest, Force, delete, locked_delete};
pub use events::{Notice, usage, watch};
pub use exec::exec;
pub use kill::{KillRequest, Reach, kill};
pub use list::{Listing, list};
pub use pause::{pause, resume};
pub use run::run;
pub use start::start;
pub use state::{Snapshot, processes, state};
pub use update::{Source, update};

/// What [`usage`](usage()) and [`Notice`] are made of.
pub use croze_cgroups as cgroups;

use std::path::PathBuf;

pub use crate::rootless::Rights;

/// Takes what is worth telling a user and is no error: something in a spec that was ignored.
pub type Warn<'a> = &'a dyn Fn(&str);

/// What all operations share: the global flags that change how containers are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory that holds one directory per container (`--root`).
    pub root: PathBuf,
    /// Who makes the cgroups.
    pub cgroup_driver: CgroupDriver,
    /// What the caller may do on this host.
    pub rights: Rights,
}

/// Who creates a container's cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime writes to the cgroup file system itself.
    #[default]
    Cgroupfs,
    /// systemd is asked for a scope (`--systemd-cgroup`).
    Systemd,
}

/// How the container's root becomes `/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootSwitch {
    /// `pivot_root(2)`; the host's tree is detached.
    #[default]
    Pivot,
    /// `MS_MOVE` and `chroot` (`--no-pivot`), for a host that runs from an initramfs.
    Move,
    /// `chroot(2)` alone: the spec has no mount namespace, and the host's tree must stay where it is.
    Change,
}

/// Which session keyring the container's first process gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keyring {
    /// A new, empty one.
    #[default]
    New,
    /// The caller's (`--no-new-keyring`).
    Inherit,
}

/// Whether the caller waits for the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attachment {
    /// Wait, forward signals, and return the process's exit code.
    #[default]
    Foreground,
    /// Return as soon as the process runs (`--detach`).
    Detached,
}

/// Whether `run` removes the container once its process has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Retention {
    /// Remove it.
    #[default]
    Delete,
    /// Leave it stopped (`--keep`).
    Keep,
}

/// The request of [`create()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// The global settings.
    pub settings: Settings,
    /// The container's id, not yet validated.
    pub id: String,
    /// The bundle's directory, with `config.json` in it.
    pub bundle: PathBuf,
    /// The spec's file, relative to the bundle.
    pub config: PathBuf,
    /// A unix socket that is sent the terminal's master side.
    pub console_socket: Option<PathBuf>,
    /// A unix socket that is sent a pidfd of the container's first process.
    pub pidfd_socket: Option<PathBuf>,
    /// Where to write the pid of the container's first process.
    pub pid_file: Option<PathBuf>,
    /// How the root is switched.
    pub root_switch: RootSwitch,
    /// Which session keyring the process gets.
    pub keyring: Keyring,
    /// How many descriptors from 3 on are passed to the process (beside `LISTEN_FDS`).
    pub preserve_fds: u32,
}

/// The request of [`run()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRequest {
    /// The container to make.
    pub create: CreateRequest,
    /// Whether to wait for it.
    pub attachment: Attachment,
    /// Whether to remove it afterwards.
    pub retention: Retention,
    /// Whether orphans of the container are reaped here while waiting (`--no-subreaper` turns it off).
    pub reaping: Reaping,
}

/// Whether the caller becomes the reaper of orphaned descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reaping {
    /// `PR_SET_CHILD_SUBREAPER` is set while waiting.
    #[default]
    Subreaper,
    /// Orphans go to whoever is the subreaper already.
    Plain,
}

/// The request of [`exec()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The global settings.
    pub settings: Settings,
    /// The container's id.
    pub id: String,
    /// What to run.
    pub process: ExecProcess,
    /// A unix socket that is sent the terminal's master side.
    pub console_socket: Option<PathBuf>,
    /// A unix socket that is sent a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Where to write the pid of the process.
    pub pid_file: Option<PathBuf>,
    /// Whether to wait for it.
    pub attachment: Attachment,
    /// How many descriptors from 3 on are passed to the process.
    pub preserve_fds: u32,
    /// Sub-cgroups to start in: `path` (v2) or `controller[,controller]:path` (v1), below the container's own.
    pub cgroups: Vec<String>,
    /// What to do when the container is paused.
    pub paused: WhenPaused,
}

/// What [`exec()`] does in a paused container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenPaused {
    /// Refuse.
    #[default]
    Refuse,
    /// Start the process, which stays frozen until the container is resumed (`--ignore-paused`).
    Proceed,
}

/// The process of an [`ExecRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecProcess {
    /// A file with an OCI `process` object (`--process`).
    File(PathBuf),
    /// Changes to the process of the container's spec.
    Overrides(Box<ExecOverrides>),
}

/// What the command line of `exec` changes in the process of the container's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOverrides {
    /// The command and its arguments; never empty.
    pub args: Vec<String>,
    /// Added to the spec's environment, `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// The user id, and the group id when one was given.
    pub user: Option<(u32, Option<u32>)>,
    /// Added to the spec's additional groups.
    pub additional_gids: Vec<u32>,
    /// Capabilities added to the spec's bounding, effective, permitted sets (and to the ambient and inheritable one never).
    pub capabilities: Vec<String>,
    /// `Some(true)` for `--tty`; `None` means no terminal.
    pub terminal: Option<bool>,
    /// `Some(true)` for `--no-new-privs`; otherwise the spec's.
    pub no_new_privileges: Option<bool>,
    /// An AppArmor profile in place of the spec's.
    pub apparmor_profile: Option<String>,
    /// An SELinux label in place of the spec's.
    pub selinux_label: Option<String>,
}
