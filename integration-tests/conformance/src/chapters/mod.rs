//! The chapters of the table.

mod commands;
mod exec;
mod hooks;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod system;
mod update;

use crate::case::Case;
use crate::host::Host;

/// Cases about one part of the specification.
#[derive(Debug)]
pub struct Chapter {
    /// What they are about.
    pub name: &'static str,
    /// The cases.
    pub cases: Vec<Case>,
}

/// The whole table. The host only gives names that differ: a disk's number.
#[must_use]
pub fn all(host: &Host) -> Vec<Chapter> {
    let chapter = |name, cases| Chapter { name, cases };
    vec![
        chapter("process", process::cases()),
        chapter("mounts", mounts::cases()),
        chapter("namespaces", namespaces::cases()),
        chapter("system", system::cases()),
        chapter("resources", resources::cases(host)),
        chapter("seccomp", seccomp::cases()),
        chapter("hooks", hooks::cases()),
        chapter("commands", commands::cases()),
        chapter("exec", exec::cases()),
        chapter("update", update::cases()),
    ]
}
