//! Containers whose cgroup systemd makes (`--systemd-cgroup`): what is different for them.
//!
//! A scope begins with a process, so it is made after the clone: systemd moves the waiting first process into it, and only then is the
//! process told to go on. The record keeps the unit's name: later calls need no flag to know whom to ask.

use croze_cgroups::systemd::{Facts, Manager, Which, properties};
use croze_cgroups::{Cgroup, Error as CgroupError};
use oci_spec::runtime::LinuxResources;

use super::CgroupDriver;
use crate::error::Result;
use crate::plan::Plan;
use crate::state::{Record, ScopeManager, ScopeRecord};

/// What has to be known of systemd, if it is to make the cgroup.
///
/// # Errors
/// It does not run here, or does not answer.
pub(super) fn facts(driver: CgroupDriver) -> Result<Option<Facts>> {
    match driver {
        CgroupDriver::Cgroupfs => Ok(None),
        CgroupDriver::Systemd => Ok(Some(Facts::observe()?)),
    }
}

/// What the record says of a plan's scope.
pub(super) fn record(plan: &Plan) -> Option<ScopeRecord> {
    plan.scope.as_ref().map(|scope| ScopeRecord {
        unit: scope.unit.clone(),
        manager: match scope.which {
            Which::System => ScopeManager::System,
            Which::User => ScopeManager::User,
        },
    })
}

/// Has the first process moved into its scope; its cgroup, if systemd makes it.
///
/// # Errors
/// What systemd or the kernel refuses. No scope is left then.
pub(super) fn start(plan: &Plan, pid: i32) -> Result<Option<Cgroup>> {
    let Some(scope) = &plan.scope else {
        return Ok(None);
    };
    // Connected only now: the first process has no descriptor of the bus.
    let mut manager = connect(scope.which)?;
    Ok(Some(scope.start(&mut manager, &plan.cgroup, pid)?))
}

/// Stops a container's scope, if it has one.
///
/// # Errors
/// systemd cannot be reached, or refuses.
pub(super) fn stop(scope: Option<&ScopeRecord>) -> Result<()> {
    let Some(scope) = scope else { return Ok(()) };
    let mut manager = connect(which(scope))?;
    manager.stop(&scope.unit).map_err(CgroupError::from)?;
    Ok(())
}

/// Writes new limits, and tells systemd of them first: it could undo them otherwise.
///
/// # Errors
/// A limit makes no sense or cannot be had.
pub(super) fn update(record: &Record, resources: &LinuxResources) -> Result<()> {
    let cgroup = Cgroup::from_paths(&record.cgroup);
    let Some(scope) = &record.scope else {
        return Ok(cgroup.update(resources)?);
    };
    let plan = cgroup.plan_update(resources)?;
    let changes = properties::of_plan(&plan);
    let mut manager = connect(which(scope))?;
    manager.change(&scope.unit, &changes).map_err(CgroupError::from)?;
    Ok(cgroup.apply(&plan)?)
}

fn connect(which: Which) -> Result<Manager> {
    Ok(Manager::connect(which).map_err(CgroupError::from)?)
}

const fn which(scope: &ScopeRecord) -> Which {
    match scope.manager {
        ScopeManager::System => Which::System,
        ScopeManager::User => Which::User,
    }
}
