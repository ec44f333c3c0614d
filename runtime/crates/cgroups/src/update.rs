//! New limits for a cgroup that is in use.
//!
//! Only what is given changes. Where version 2 keeps two values of the spec in one file (`cpu.max` has quota and
//! period) or counts otherwise (swap without memory), the missing half is what the cgroup has now. Device rules are
//! not touched: whoever was let in with a set of devices keeps it, as with runc.

use crate::cgroup::{Cgroup, Dir};
use crate::error::Error;
use crate::file;
use crate::observe::Kind;
use crate::plan::{Directory, Plan};
use crate::resources;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use std::fs;

/// What a cgroup of version 2 has now, of those values that a partial update leaves alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Current {
    /// `cpu.max`: the quota (-1 for none) and the period.
    cpu_max: Option<(i64, u64)>,
    /// `memory.max`, -1 for none.
    memory_limit: Option<i64>,
    /// `memory.current`.
    memory_usage: Option<u64>,
}

impl Cgroup {
    /// Writes new limits.
    ///
    /// # Errors
    /// A value makes no sense, its controller is not here, or the kernel refuses it. What was written before stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.apply(&self.plan_update(resources)?)
    }

    /// What [`Cgroup::update`] would write.
    ///
    /// # Errors
    /// A value makes no sense, or its controller is not here.
    pub fn plan_update(&self, resources: &LinuxResources) -> Result<Plan, Error> {
        let current = self.current();
        check_usage(resources, current)?;
        let mut directories: Vec<Directory> = self.dirs().iter().map(directory).collect();
        resources::plan(&mut directories, &completed(resources, current))?;
        Ok(Plan::of(directories))
    }

    fn current(&self) -> Current {
        let v2 = |controller| self.dir_of(controller).filter(|dir| dir.kind == Kind::V2);
        let cpu_max = v2("cpu").and_then(|dir| {
            let text = fs::read_to_string(dir.path.join("cpu.max")).ok()?;
            parse_cpu_max(&text)
        });
        let memory = v2("memory");
        let limit = memory.and_then(|dir| fs::read_to_string(dir.path.join("memory.max")).ok());
        Current {
            cpu_max,
            memory_limit: limit.map(|text| text.trim().parse().unwrap_or(-1)),
            memory_usage: memory.and_then(|dir| file::number(&dir.path.join("memory.current"))),
        }
    }
}

fn directory(dir: &Dir) -> Directory {
    let controllers = match dir.kind {
        Kind::V1 => dir.controllers.clone(),
        Kind::V2 => fs::read_to_string(dir.path.join("cgroup.controllers"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    };
    Directory {
        kind: dir.kind,
        controllers,
        mount: dir.path.clone(),
        path: dir.path.clone(),
        steps: Vec::new(),
    }
}

/// `QUOTA PERIOD`, the quota `max` for none.
fn parse_cpu_max(text: &str) -> Option<(i64, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    let quota = if quota == "max" { -1 } else { quota.parse().ok()? };
    Some((quota, period.parse().ok()?))
}

/// The resources with the missing halves filled in; pure.
fn completed(resources: &LinuxResources, current: Current) -> LinuxResources {
    let mut resources = resources.clone();
    if let (Some(cpu), Some((quota, period))) = (resources.cpu(), current.cpu_max) {
        resources.set_cpu(Some(completed_cpu(cpu, quota, period)));
    }
    if let (Some(memory), Some(limit)) = (resources.memory(), current.memory_limit) {
        resources.set_memory(Some(completed_memory(memory, limit)));
    }
    resources
}

fn completed_cpu(cpu: &LinuxCpu, quota: i64, period: u64) -> LinuxCpu {
    let mut cpu = cpu.clone();
    let given = |quota: Option<i64>| quota.filter(|v| *v != 0);
    match (given(cpu.quota()), cpu.period().filter(|v| *v != 0)) {
        (Some(_), None) => drop(cpu.set_period(Some(period))),
        (None, Some(_)) => drop(cpu.set_quota(Some(quota))),
        _ => {}
    }
    cpu
}

fn completed_memory(memory: &LinuxMemory, limit: i64) -> LinuxMemory {
    let mut memory = *memory;
    if memory.limit().is_none_or(|v| v == 0) && memory.swap().is_some_and(|swap| swap > 0) {
        memory.set_limit(Some(limit));
    }
    memory
}

/// `checkBeforeUpdate`: a limit below what is in use would have the OOM killer make it true. Version 1 refuses it by
/// itself.
fn check_usage(resources: &LinuxResources, current: Current) -> Result<(), Error> {
    let Some(memory) = resources
        .memory()
        .filter(|m| m.check_before_update() == Some(true))
    else {
        return Ok(());
    };
    let (Some(limit), Some(usage)) = (memory.limit().filter(|v| *v > 0), current.memory_usage) else {
        return Ok(());
    };
    if u64::try_from(limit).is_ok_and(|limit| limit < usage) {
        return Err(Error::Value {
            field: "linux.resources.memory.limit",
            value: limit.to_string(),
            why: "more memory than that is in use, and checkBeforeUpdate is set",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(json: &str, current: Current) -> LinuxResources {
        completed(&serde_json::from_str(json).unwrap(), current)
    }

    #[test]
    fn the_half_that_is_not_given_stays_as_it_is() {
        let current = Current {
            cpu_max: Some((20_000, 50_000)),
            memory_limit: Some(4096),
            memory_usage: None,
        };
        let cpu = |json| {
            let cpu = filled(json, current).cpu().clone().unwrap();
            (cpu.quota(), cpu.period())
        };
        assert_eq!(cpu(r#"{"cpu":{"quota":1000}}"#), (Some(1000), Some(50_000)));
        assert_eq!(cpu(r#"{"cpu":{"period":1000}}"#), (Some(20_000), Some(1000)));
        assert_eq!(cpu(r#"{"cpu":{"shares":2}}"#), (None, None));
        let memory = |json| filled(json, current).memory().unwrap().limit();
        assert_eq!(memory(r#"{"memory":{"swap":8192}}"#), Some(4096));
        assert_eq!(memory(r#"{"memory":{"limit":1,"swap":8192}}"#), Some(1));
        assert_eq!(memory(r#"{"memory":{"swap":-1}}"#), None);
        assert_eq!(parse_cpu_max("max 100000\n"), Some((-1, 100_000)));
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_where_that_is_asked_for() {
        let current = Current {
            memory_usage: Some(5000),
            ..Current::default()
        };
        let check = |json| check_usage(&serde_json::from_str(json).unwrap(), current).is_ok();
        assert!(!check(r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#));
        assert!(check(r#"{"memory":{"limit":8192,"checkBeforeUpdate":true}}"#));
        assert!(check(r#"{"memory":{"limit":4096}}"#));
    }

    #[test]
    fn new_limits_are_written_into_the_directory_of_their_controller() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cpu.max", "max 100000\n"),
            ("pids.max", "max\n"),
            ("memory.max", "8192\n"),
            ("memory.swap.max", "0\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let cgroup = Cgroup::from_paths(&[(String::new(), dir.path().to_owned())].into_iter().collect());
        let json = r#"{"cpu":{"quota":30000},"pids":{"limit":7},"memory":{"swap":12288}}"#;
        cgroup.update(&serde_json::from_str(json).unwrap()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("cpu.max").starts_with("30000 100000"));
        assert!(read("pids.max").starts_with('7'));
        assert!(read("memory.swap.max").starts_with("4096"));
        let refused = cgroup.update(&serde_json::from_str(r#"{"blockIO":{"weight":100}}"#).unwrap());
        assert!(matches!(refused, Err(Error::MissingController { .. })));
    }
}
