//! How a process is scheduled: `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`, `linux.memoryPolicy`.
//!
//! Planned purely, taken on by the process itself shortly before it gives up its rights: realtime policies need `CAP_SYS_NICE`.

use croze_sys::sched::{self, NumberSet, Scheduling};
use croze_sys::{Errno, Error as SysError};
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};

use crate::error::{Error, Result, While};
use crate::spec::SpecError;

/// What is asked of the kernel's schedulers; nothing where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulingPlan {
    /// CPU time.
    pub scheduler: Option<Scheduling>,
    /// I/O priority: the kernel's class, and 0 to 7 within it.
    pub io_priority: Option<(u32, u32)>,
    /// Memory nodes: the kernel's mode with its flags, and the nodes.
    pub memory_policy: Option<(u32, NumberSet)>,
    /// CPUs of an added process until it is in the container's cgroup.
    pub first_cpus: Option<NumberSet>,
    /// CPUs of an added process from then on.
    pub last_cpus: Option<NumberSet>,
}

/// Decides; pure. `memory` is the container's.
///
/// # Errors
/// The field whose value makes no sense.
pub fn plan(process: &Process, memory: Option<&LinuxMemoryPolicy>) -> Result<SchedulingPlan, SpecError> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let cpus = |list: Option<&String>| {
        let given = list.filter(|list| !list.is_empty());
        given
            .map(|list| numbers("process.execCPUAffinity", list))
            .transpose()
    };
    Ok(SchedulingPlan {
        scheduler: process.scheduler().as_ref().map(scheduling).transpose()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        memory_policy: memory.map(memory_policy).transpose()?,
        first_cpus: cpus(affinity.and_then(|affinity| affinity.initial().as_ref()))?,
        last_cpus: cpus(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()))?,
    })
}

fn invalid(field: &str, value: &dyn std::fmt::Display, reason: &'static str) -> SpecError {
    SpecError::Invalid {
        field: field.to_owned(),
        value: value.to_string(),
        reason,
    }
}

fn numbers(field: &str, list: &str) -> Result<NumberSet, SpecError> {
    NumberSet::parse(list).ok_or_else(|| invalid(field, &list, "it must be a list of numbers like 0-3,7"))
}

fn scheduling(scheduler: &Scheduler) -> Result<Scheduling, SpecError> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *scheduler.policy();
    let number = match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
        Policy::SchedIso => {
            let reason = "Linux has no such policy";
            return Err(invalid("process.scheduler.policy", &policy, reason));
        }
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(invalid(
            "process.scheduler.nice",
            &nice,
            "it is between -20 and 19",
        ));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let is_realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if priority != 0 && !is_realtime {
        let reason = "only SCHED_FIFO and SCHED_RR have a priority";
        return Err(invalid("process.scheduler.priority", &priority, reason));
    }
    let deadlines = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|v| v.unwrap_or(0));
    if deadlines != [0; 3] && policy != Policy::SchedDeadline {
        let reason = "only SCHED_DEADLINE has runtime, deadline and period";
        return Err(invalid("process.scheduler.policy", &policy, reason));
    }
    Ok(Scheduling {
        policy: number,
        flags,
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| invalid("process.scheduler.priority", &priority, "it is between 1 and 99"))?,
        runtime: deadlines[0],
        deadline: deadlines[1],
        period: deadlines[2],
    })
}

fn io_priority(wanted: &LinuxIOPriority) -> Result<(u32, u32), SpecError> {
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let priority = wanted.priority();
    match u32::try_from(priority) {
        Ok(priority) if priority <= 7 => Ok((class, priority)),
        _ => Err(invalid(
            "process.ioPriority.priority",
            &priority,
            "it is between 0 and 7",
        )),
    }
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(u32, NumberSet), SpecError> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => NumberSet::default(),
        Some(list) => numbers("linux.memoryPolicy.nodes", list)?,
    };
    Ok((mode | flags, nodes))
}

impl SchedulingPlan {
    /// Takes on all but the CPUs.
    ///
    /// # Errors
    /// The field that the kernel refuses or lacks.
    pub fn take(&self) -> Result<()> {
        if let Some(scheduler) = &self.scheduler {
            sched::set_scheduling(scheduler).map_err(|error| explained(error, "process.scheduler"))?;
        }
        if let Some((class, priority)) = self.io_priority {
            sched::set_io_priority(class, priority)
                .map_err(|error| explained(error, "process.ioPriority"))?;
        }
        if let Some((mode, nodes)) = &self.memory_policy {
            sched::set_memory_policy(*mode, nodes).map_err(|error| explained(error, "linux.memoryPolicy"))?;
        }
        Ok(())
    }

    /// Moves the calling process to the CPUs of a process in the container's cgroup.
    ///
    /// # Errors
    /// The cpuset has none of them.
    pub fn take_last_cpus(&self) -> Result<()> {
        match &self.last_cpus {
            Some(cpus) => sched::set_affinity(cpus).while_doing(|| {
                "set process.execCPUAffinity.final: are these CPUs in the cpuset?".to_owned()
            }),
            None => Ok(()),
        }
    }
}

fn explained(source: SysError, field: &str) -> Error {
    let action = match source.errno {
        Errno::NOSYS => format!("set {field}: this kernel lacks the feature"),
        Errno::PERM => format!(
            "set {field}: it needs CAP_SYS_NICE, and realtime policies a realtime budget of the cgroup"
        ),
        _ => format!("set {field}"),
    };
    Error::System { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(process: &str) -> Result<SchedulingPlan, String> {
        let process = serde_json::from_str(process).expect("a process");
        plan(&process, None).map_err(|error| error.to_string())
    }

    fn with(fields: &str) -> Result<SchedulingPlan, String> {
        planned(&format!(r#"{{"user":{{}},"cwd":"/",{fields}}}"#))
    }

    #[test]
    fn policies_become_the_kernels_numbers() {
        let scheduler = |fields: &str| with(&format!(r#""scheduler":{{{fields}}}"#)).map(|p| p.scheduler);
        let none = Scheduling::default();
        for (fields, want) in [
            (
                r#""policy":"SCHED_BATCH","nice":7"#,
                Scheduling {
                    policy: 3,
                    nice: 7,
                    ..none
                },
            ),
            (
                r#""policy":"SCHED_RR","priority":9,"flags":["SCHED_RESET_ON_FORK"]"#,
                Scheduling {
                    policy: 2,
                    priority: 9,
                    flags: 1,
                    ..none
                },
            ),
            (
                r#""policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3"#,
                Scheduling {
                    policy: 6,
                    runtime: 1,
                    deadline: 2,
                    period: 3,
                    ..none
                },
            ),
        ] {
            assert_eq!(scheduler(fields), Ok(Some(want)), "{fields}");
        }
        for fields in [
            r#""policy":"SCHED_ISO""#,
            r#""policy":"SCHED_OTHER","nice":20"#,
            r#""policy":"SCHED_OTHER","priority":1"#,
            r#""policy":"SCHED_FIFO","priority":-1"#,
            r#""policy":"SCHED_OTHER","runtime":5"#,
        ] {
            assert!(scheduler(fields).is_err(), "{fields}");
        }
    }

    #[test]
    fn priorities_and_cpus_are_checked() {
        let io = |fields: &str| with(&format!(r#""ioPriority":{{{fields}}}"#)).map(|p| p.io_priority);
        assert_eq!(
            io(r#""class":"IOPRIO_CLASS_IDLE","priority":0"#),
            Ok(Some((3, 0)))
        );
        assert!(io(r#""class":"IOPRIO_CLASS_BE","priority":8"#).is_err());
        let cpus = with(r#""execCPUAffinity":{"initial":"0","final":"0-1"}"#).expect("a plan");
        assert_eq!(
            (cpus.first_cpus, cpus.last_cpus),
            (NumberSet::parse("0"), NumberSet::parse("0,1"))
        );
        let memory =
            serde_json::from_str(r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#);
        let (mode, nodes) = memory_policy(&memory.expect("a policy")).expect("valid");
        assert_eq!((mode, Some(nodes)), (2 | 1 << 15, NumberSet::parse("0")));
    }
}
