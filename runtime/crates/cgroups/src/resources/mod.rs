//! OCI resources as writes to files, per controller and version.
//!
//! Each module here reads one part of `linux.resources` and adds [`Step`]s to the directory whose hierarchy has
//! the controller. A limit whose controller is missing is an error; a value that means "no limit" needs no
//! controller.
//!
//! | module | parts | version 1 | version 2 |
//! |---|---|---|---|
//! | [`memory`] | memory | `memory.*` | `memory.*`; swap is the part above the limit |
//! | [`cpu`] | cpu, cpuset | `cpu.*`, `cpuset.*` | shares become a weight, quota and period one line |
//! | [`io`] | blockIO | `blkio.*` | `io.*`; the weight's scale differs |
//! | [`other`] | pids, hugepages, network, rdma, unified | | network classes are not there |

pub mod cpu;
pub mod io;
pub mod memory;
pub mod other;

use crate::error::Error;
use crate::observe::Kind;
use crate::plan::Directory;
use croze_sys::bpf::Instruction;
use oci_spec::runtime::LinuxResources;
use std::fmt::Display;

/// One value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The field of the spec it comes from.
    pub field: &'static str,
    /// Files and what each would get: the first file that exists is written.
    pub choices: Vec<(String, String)>,
    /// Whether it is no error if none of the files exists.
    pub optional: bool,
}

/// One thing to do in a cgroup's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a value.
    Write(Assignment),
    /// Write two values that bound each other. The kernel refuses an order in which the pair is inconsistent in
    /// between (a limit above the old swap limit); then the second goes first.
    Pair(Assignment, Assignment),
    /// Load a device program and put it in the place of those that are there.
    DeviceProgram(Vec<Instruction>),
}

impl Assignment {
    pub(crate) fn new(field: &'static str, file: impl Into<String>, value: impl Display) -> Self {
        Self {
            field,
            choices: vec![(file.into(), value.to_string())],
            optional: false,
        }
    }

    fn or(mut self, file: &str, value: impl Display) -> Self {
        self.choices.push((file.to_owned(), value.to_string()));
        self
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl Step {
    pub(crate) fn write(field: &'static str, file: &str, value: impl Display) -> Self {
        Self::Write(Assignment::new(field, file, value))
    }
}

/// Adds the steps of every resource but devices.
pub(crate) fn plan(directories: &mut [Directory], resources: &LinuxResources) -> Result<(), Error> {
    let mut place = Place { directories };
    if let Some(memory) = resources.memory() {
        memory::plan(&mut place, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::plan(&mut place, cpu)?;
    }
    if let Some(block) = resources.block_io() {
        io::plan(&mut place, block)?;
    }
    other::plan(&mut place, resources)
}

/// The directories, found by controller.
struct Place<'a> {
    directories: &'a mut [Directory],
}

impl Place<'_> {
    /// The version under which a controller is here.
    fn kind(&self, controller: &str) -> Option<Kind> {
        self.directories
            .iter()
            .find(|d| has(d, controller))
            .map(|d| d.kind)
    }

    /// The version under which a controller is here, which a field needs.
    fn need(&self, controller: &str, field: &'static str) -> Result<Kind, Error> {
        self.kind(controller).ok_or_else(|| Error::MissingController {
            controller: controller.to_owned(),
            field,
        })
    }

    fn push(&mut self, controller: &str, step: Step) {
        if let Some(directory) = self.directories.iter_mut().find(|d| has(d, controller)) {
            directory.steps.push(step);
        }
    }

    /// Adds one write to the directory of a controller that must be here.
    fn set(
        &mut self,
        controller: &str,
        field: &'static str,
        file: &str,
        value: impl Display,
    ) -> Result<(), Error> {
        self.need(controller, field)?;
        self.push(controller, Step::write(field, file, value));
        Ok(())
    }

    fn unified(&mut self) -> Option<&mut Directory> {
        self.directories.iter_mut().find(|d| d.kind == Kind::V2)
    }
}

fn has(directory: &Directory, controller: &str) -> bool {
    directory.controllers.iter().any(|c| c == controller)
}

/// A number, or `max` for a negative one: how version 2 writes "no limit".
fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::observe::Observed;
    use crate::plan::Plan;

    /// What a plan would write besides devices, one `directory-name file value` a line.
    pub(crate) fn writes(observed: &Observed, json: &str) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let plan = Plan::new(observed, Some("/c"), "c", Some(&resources)).unwrap();
        let mut lines = Vec::new();
        for directory in plan.directories() {
            let show = |a: &Assignment| {
                let choices: Vec<String> = a.choices.iter().map(|(f, v)| format!("{f} {v}")).collect();
                format!("{}{}", choices.join(" | "), if a.optional { " ?" } else { "" })
            };
            for step in &directory.steps {
                match step {
                    Step::Write(a) if a.field == "linux.resources.devices" => {}
                    Step::DeviceProgram(_) => {}
                    Step::Write(a) => lines.push(show(a)),
                    Step::Pair(a, b) => lines.push(format!("{} + {}", show(a), show(b))),
                }
            }
        }
        lines
    }

    pub(crate) fn refusal(observed: &Observed, json: &str) -> String {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        Plan::new(observed, Some("/c"), "c", Some(&resources))
            .unwrap_err()
            .to_string()
    }
}
