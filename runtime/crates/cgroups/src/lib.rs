//! Control groups: a container's limits, and the handle by which all of its processes are found, frozen and killed.
//!
//! ```text
//!   /proc/self/mountinfo ┐
//!   /proc/self/cgroup    ┴─ observe ─> Observed ┐
//!   cgroupsPath, id, resources ─────────────────┴─ Plan::new (pure) ─> Plan ─ Cgroup::create ─> Cgroup
//!                                                                     record ─ from_paths ──────^
//! ```
//!
//! * [`observe`](mod@observe): which hierarchies this host shows and where this process stands in them. Version
//!   1, version 2 and hybrid hosts are one case: a list of trees, each with its controllers.
//! * [`plan`]: in which directory of each tree the container goes, and every write that its resources ask for.
//! * [`resources`]: OCI resources to file writes, per controller and version; [`devices`]: device rules to v1
//!   lists or to a program for version 2.
//! * [`cgroup`]: making, joining and removing the directories; [`freezer`], [`kill`], [`stats`], [`usage`], [`oom`] and [`Cgroup::update`]: what
//!   is done with them later.
//!
//! Invariants: planning touches nothing; limits are in force before the first process is inside; what a failed
//! `create` made is removed again; the root cgroup is never a container's.
//!
//! * [`systemd`]: the other driver: systemd makes the directories and is told of the limits; [`dbus`]: how it is talked to.
//!
//! It knows no container: the runtime and the manager both use it.
#![forbid(unsafe_code)]

pub mod cgroup;
mod controllers;
pub mod dbus;
pub mod devices;
pub mod error;
pub mod file;
pub mod freezer;
pub mod kill;
pub mod observe;
pub mod oom;
pub mod plan;
pub mod resources;
pub mod stats;
pub mod systemd;
mod update;
pub mod usage;

pub use cgroup::{Cgroup, Dir, Doors, Paths};
pub use error::Error;
pub use observe::{Kind, Layout, Observed, Tree, observe, observe_process};
pub use oom::OomWatch;
pub use plan::{Directory, Plan};
pub use stats::Stats;
pub use usage::Usage;
