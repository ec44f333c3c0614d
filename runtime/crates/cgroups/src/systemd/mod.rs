//! The systemd driver: systemd makes a container's cgroup, a transient scope that is delegated to us.
//!
//! ```text
//! cgroupsPath "slice:prefix:name" ─ name ─┐
//! annotations ─ annotations ──────────────┼─> Scope ─ Manager::start(pid) ─ Cgroup::adopt: the exact values, devices, and
//! Plan (as for files) ─ properties ───────┘                                 on version 1 the hierarchies systemd leaves alone
//! ```
//!
//! * [`name`]: names and the directories that they lead to; [`properties`]: limits as properties; [`annotations`], [`text`]: properties
//!   that a spec asks for; [`manager`]: the calls.
//!
//! A scope begins with a process: systemd makes none that is empty, and forgets one whose last process has ended. So the container's
//! first process is cloned outside and moved in by systemd (which also has the right to do that across the borders of a user's
//! session), before it is told to go on.
//!
//! Invariants: systemd knows every limit that it has a property for, so that it does not undo them; nothing beyond the container's
//! own scope is changed.

pub mod annotations;
pub mod manager;
pub mod name;
pub mod properties;
pub mod text;

use crate::cgroup::Cgroup;
use crate::dbus;
use crate::devices::Rules;
use crate::error::Error as CgroupError;
use crate::file;
use crate::observe::{Observed, observe_process};
use crate::plan::Plan;
use oci_spec::runtime::LinuxResources;
use std::fs;
use std::path::{Path, PathBuf};

pub use manager::Manager;
pub use name::{ScopeName, slice_path};
pub use properties::Property;

/// A failure of having systemd make a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host is run by something else.
    #[error(
        "systemd does not run on this host (there is no /run/systemd/system), so it cannot make cgroups; use the cgroupfs driver \
         (leave out --systemd-cgroup)"
    )]
    Absent,
    /// The manager's socket is not there, or nobody answers.
    #[error("cannot reach systemd's {manager} manager")]
    Unreachable {
        /// Which one.
        manager: &'static str,
        /// Why the last attempt failed.
        source: dbus::Error,
    },
    /// A user's manager is wanted, and nothing says where it is.
    #[error(
        "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set: they say where the user's systemd is"
    )]
    NoAddress,
    /// It does not do what was asked.
    #[error("systemd refused")]
    Bus(#[from] dbus::Error),
    /// There is a unit of that name already.
    #[error("the unit {unit} exists already: choose another name in cgroupsPath, or stop it")]
    Exists {
        /// The unit.
        unit: String,
    },
    /// The job did not succeed.
    #[error(
        "systemd could not {action} {unit}: {result}; `systemctl status {unit}` and the journal say more"
    )]
    Job {
        /// Start or stop.
        action: &'static str,
        /// The unit.
        unit: String,
        /// The job's result, as systemd names it.
        result: String,
    },
    /// The scope's cgroup is not where it was planned.
    #[error("systemd put the container into the cgroup {found:?}, not {planned:?}")]
    Elsewhere {
        /// Where it is.
        found: PathBuf,
        /// Where it should be.
        planned: PathBuf,
    },
}

/// Which manager is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The system's.
    System,
    /// That of the user who calls: everybody but root, and who is root in a user namespace of their own only.
    User,
}

impl Which {
    /// The manager of whoever runs this process.
    #[must_use]
    pub fn of_caller() -> Self {
        let whole = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_whole(&map));
        if rustix::process::geteuid().is_root() && whole {
            Self::System
        } else {
            Self::User
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }

    const fn usual_slice(self) -> &'static str {
        match self {
            Self::System => "system.slice",
            Self::User => "user.slice",
        }
    }
}

/// Whether an id map is that of the first user namespace: every id is itself.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A manager, as far as a plan has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which one.
    pub which: Which,
    /// Its own cgroup, below which its slices are: empty for the root.
    pub root: String,
}

impl Facts {
    /// Looks at the manager of whoever runs this process.
    ///
    /// # Errors
    /// [`Error::Absent`] if systemd does not run here; the user's manager does not answer.
    pub fn observe() -> Result<Self, CgroupError> {
        manager::check_running()?;
        let which = Which::of_caller();
        let root = match which {
            // The system's manager is process 1.
            Which::System => root_of(&file::read(Path::new("/proc/1/cgroup"))?),
            Which::User => Manager::connect(which)?.cgroup()?,
        };
        Ok(Self { which, root })
    }
}

/// The manager's cgroup, from the file of its own process, which is in a scope below it.
fn root_of(cgroup: &str) -> String {
    let of = |start: &str| {
        cgroup
            .lines()
            .find_map(|line| line.split_once(':')?.1.strip_prefix(start))
    };
    let path = of("name=systemd:").or_else(|| of(":")).unwrap_or_default();
    path.trim_end_matches("/init.scope")
        .trim_end_matches('/')
        .to_owned()
}

/// A scope to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// Its name.
    pub unit: String,
    /// The slice it is in.
    pub slice: String,
    /// What `systemctl` shows.
    pub description: String,
    /// Whose manager makes it.
    pub which: Which,
    /// Properties that annotations ask for.
    pub annotated: Vec<Property>,
    /// The container's limits.
    pub limits: Vec<Property>,
}

impl Scope {
    /// Plans a container's scope, and everything that is written besides; pure.
    ///
    /// # Errors
    /// As [`Plan::new`]; a path or an annotation that makes no sense.
    pub fn plan<'a>(
        observed: &Observed,
        facts: &Facts,
        cgroups_path: Option<&str>,
        id: &str,
        resources: Option<&LinuxResources>,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(Plan, Self), CgroupError> {
        let name = ScopeName::parse(cgroups_path, id, facts.which.usual_slice())?;
        let below = slice_path(&name.slice).unwrap_or_default();
        let path = Path::new("/")
            .join(facts.root.trim_start_matches('/'))
            .join(below)
            .join(&name.unit);
        // Every part was checked, so this is UTF-8.
        let plan = Plan::new(observed, Some(&path.to_string_lossy()), id, resources)?;
        let rules = Rules::from_spec(resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]))?;
        let mut limits = properties::of_devices(&rules);
        limits.extend(properties::of_plan(&plan));
        let scope = Self {
            unit: name.unit,
            slice: name.slice,
            description: format!("Container {id}"),
            which: facts.which,
            annotated: annotations::properties(annotations)?,
            limits,
        };
        Ok((plan, scope))
    }

    /// Makes the scope with a process in it, and writes what systemd does not.
    ///
    /// # Errors
    /// What systemd or the kernel refuses. The scope is stopped again then, if it was made.
    pub fn start(&self, manager: &mut Manager, plan: &Plan, pid: i32) -> Result<Cgroup, CgroupError> {
        manager.start(self, pid)?;
        let adopted = check_place(plan, pid).and_then(|()| Cgroup::adopt(plan, pid));
        if adopted.is_err() {
            // The error that came first is the one to tell.
            manager.stop(&self.unit).ok();
        }
        adopted
    }
}

/// Where the process is now must be where its limits will be written.
fn check_place(plan: &Plan, pid: i32) -> Result<(), CgroupError> {
    let observed = observe_process(pid)?;
    let unified = observed
        .trees
        .iter()
        .find(|tree| tree.kind == crate::observe::Kind::V2);
    let named = observed.tree_of("name=systemd");
    let Some(tree) = named.or(unified) else {
        return Ok(());
    };
    let planned = plan
        .directories()
        .iter()
        .find(|directory| directory.mount == tree.mount);
    match planned {
        Some(planned) if planned.path != tree.own => Err(Error::Elsewhere {
            found: tree.own.clone(),
            planned: planned.path.clone(),
        }
        .into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dbus::Value;
    use crate::observe::tests::{hybrid, v2};

    pub(crate) fn scope() -> Scope {
        Scope {
            unit: "x.scope".to_owned(),
            slice: "system.slice".to_owned(),
            description: "Container x".to_owned(),
            which: Which::System,
            annotated: vec![("CollectMode".to_owned(), Value::text("inactive-or-failed"))],
            limits: vec![("MemoryMax".to_owned(), Value::U64(4096))],
        }
    }

    fn facts(which: Which, root: &str) -> Facts {
        Facts {
            which,
            root: root.to_owned(),
        }
    }

    #[test]
    fn a_scope_is_planned_where_systemd_will_put_it() {
        let path = |observed: &Observed, facts: &Facts, path| {
            let (plan, scope) = Scope::plan(observed, facts, path, "web", None, []).unwrap();
            let first = plan.directories().last().unwrap().path.display().to_string();
            (scope.slice, scope.unit, first)
        };
        let system = facts(Which::System, "");
        let user = facts(Which::User, "/user.slice/user-7.slice/user@7.service");
        for (observed, facts, given, slice, unit, directory) in [
            (
                v2(),
                &system,
                None,
                "system.slice",
                "croze-web.scope",
                "/sys/fs/cgroup/system.slice/croze-web.scope",
            ),
            (
                v2(),
                &system,
                Some("a-b.slice:docker:1"),
                "a-b.slice",
                "docker-1.scope",
                "/sys/fs/cgroup/a.slice/a-b.slice/docker-1.scope",
            ),
            (
                v2(),
                &user,
                None,
                "user.slice",
                "croze-web.scope",
                "/sys/fs/cgroup/user.slice/user-7.slice/user@7.service/user.slice/croze-web.scope",
            ),
            (
                hybrid(),
                &system,
                Some("-.slice::x"),
                "-.slice",
                "x.scope",
                "/sys/fs/cgroup/unified/x.scope",
            ),
        ] {
            let want = (slice.to_owned(), unit.to_owned(), directory.to_owned());
            assert_eq!(path(&observed, facts, given), want);
        }
    }

    #[test]
    fn limits_devices_and_annotations_come_together() {
        let resources = serde_json::from_str(r#"{"pids":{"limit":9}}"#).unwrap();
        let annotation = ("org.systemd.property.TimeoutStopSec".to_owned(), "3".to_owned());
        let (_, scope) = Scope::plan(
            &v2(),
            &facts(Which::System, ""),
            None,
            "web",
            Some(&resources),
            [(&annotation.0, &annotation.1)],
        )
        .unwrap();
        let names: Vec<_> = scope.limits.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["DevicePolicy", "DeviceAllow", "TasksMax"]);
        assert_eq!(
            scope.annotated,
            [("TimeoutStopUSec".to_owned(), Value::U64(3_000_000))]
        );
        assert_eq!(scope.description, "Container web");
    }

    #[test]
    fn the_systems_manager_is_above_its_own_scope() {
        for (text, root) in [
            ("0::/init.scope\n", ""),
            ("0::/\n", ""),
            ("0::/docker/x/init.scope\n", "/docker/x"),
            ("4:memory:/\n1:name=systemd:/a/init.scope\n0::/b\n", "/a"),
        ] {
            assert_eq!(root_of(text), root, "{text}");
        }
    }

    #[test]
    fn only_the_first_user_namespace_has_the_whole_map() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0       1000          1\n"));
        assert!(!is_whole(""));
    }
}
