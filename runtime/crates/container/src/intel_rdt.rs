//! `linux.intelRdt`: shares of the processor's cache and of its memory bandwidth, by the kernel's resctrl file system.
//!
//! ```text
//! <resctrl>/                      the root group, "/"
//!   <closID, or the id>/          a class of service: `schemata` says what it gets, `tasks` who is in it
//!     mon_groups/<id>/            the container's own counters (enableMonitoring)
//! ```
//!
//! | closID | schemata | what happens |
//! |---|---|---|
//! | none | given | a group named by the container's id is made, and removed with it |
//! | given | none | the group must be there; the container joins it |
//! | given | given | the group is made if it is not there; one that is there must have these lines already |
//! | none | none | only counters, if they are asked for, in the root group |
//!
//! A process takes its group along to its children, so it is enough that the first process joins before it does anything. What was made is in
//! the container's record and goes with the container; what was there stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::SpecError;

/// Names in a group's directory that no group can have.
const RESERVED: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// What is asked for, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdtPlan {
    group: Group,
    /// Lines of `schemata`.
    schemata: Vec<String>,
    /// The name of the monitoring group, if there is to be one.
    monitor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    /// The root group.
    Root,
    /// `closID`.
    Named(String),
    /// One of the container's own.
    Own(String),
}

/// Where a container was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// The group's directory.
    pub group: PathBuf,
    /// Whether it was made for the container, and goes with it.
    pub made: bool,
    /// The directory of the container's own counters.
    #[serde(default)]
    pub monitor: Option<PathBuf>,
}

/// Decides; pure. `id` is the container's.
///
/// # Errors
/// `closID` is no name of a group, or a schema is no line.
pub fn plan(rdt: &LinuxIntelRdt, id: &str) -> Result<RdtPlan, SpecError> {
    let invalid = |field: &str, value: &str, reason| SpecError::Invalid {
        field: field.to_owned(),
        value: value.to_owned(),
        reason,
    };
    let mut schemata = rdt.schemata().clone().unwrap_or_default();
    // The two older fields count where the newer one does not say it all.
    if schemata.is_empty() {
        let older = [rdt.l3_cache_schema(), rdt.mem_bw_schema()];
        schemata.extend(
            older
                .into_iter()
                .flatten()
                .filter(|line| !line.is_empty())
                .cloned(),
        );
    }
    let lines: Vec<String> = schemata
        .iter()
        .flat_map(|text| text.lines().map(|line| line.trim().to_owned()))
        .filter(|line| !line.is_empty())
        .collect();
    if let Some(line) = lines.iter().find(|line| !line.contains(':')) {
        return Err(invalid(
            "linux.intelRdt.schemata",
            line,
            "it must be like L3:0=ff;1=ff",
        ));
    }
    let group = match rdt.clos_id().as_deref() {
        None | Some("") if lines.is_empty() => Group::Root,
        None | Some("") => Group::Own(id.to_owned()),
        Some("/") => Group::Root,
        Some(name) if name.contains('/') || matches!(name, "." | "..") || RESERVED.contains(&name) => {
            return Err(invalid(
                "linux.intelRdt.closID",
                name,
                "it is the name of one group",
            ));
        }
        Some(name) => Group::Named(name.to_owned()),
    };
    Ok(RdtPlan {
        group,
        schemata: lines,
        // enableCMT and enableMBM, which came before it, never had an effect in runc.
        monitor: (*rdt.enable_monitoring() == Some(true)).then(|| id.to_owned()),
    })
}

/// Where resctrl is mounted, from the text of a `mountinfo`.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_resctrl = kind.split(' ').next() == Some("resctrl");
        place.split(' ').nth(4).filter(|_| is_resctrl).map(PathBuf::from)
    })
}

/// Where resctrl is mounted.
///
/// # Errors
/// It is not.
pub fn observe() -> Result<PathBuf> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    mount_point(&text).ok_or(Error::MissingFeature {
        field: "linux.intelRdt",
        feature: "resctrl is not mounted (mount -t resctrl resctrl /sys/fs/resctrl; it needs a processor with Intel RDT or its like)",
    })
}

fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path: path.clone(),
        source,
    }
}

/// Puts a process into its group, which is made if need be, below the resctrl file system at `root`.
///
/// # Errors
/// The group is not there and may not be made, has other schemata, or the kernel refuses. What was made is gone again.
pub fn assign(plan: &RdtPlan, root: &Path, pid: i32) -> Result<Assigned> {
    let mut assigned = prepare_group(plan, root)?;
    match fill(plan, &mut assigned, pid) {
        Ok(()) => Ok(assigned),
        Err(error) => Err(match assigned.remove() {
            Ok(()) => error,
            Err(left) => Error::Undo {
                source: Box::new(error),
                left: crate::error::chain(&left),
            },
        }),
    }
}

fn prepare_group(plan: &RdtPlan, root: &Path) -> Result<Assigned> {
    let invalid = |name: &str, reason| SpecError::Invalid {
        field: "linux.intelRdt.closID".to_owned(),
        value: name.to_owned(),
        reason,
    };
    let there = |group: PathBuf| Assigned {
        group,
        made: false,
        monitor: None,
    };
    let name = match &plan.group {
        Group::Root => return Ok(there(root.to_owned())),
        Group::Named(name) | Group::Own(name) => name,
    };
    let group = root.join(name);
    if plan.schemata.is_empty() && !group.is_dir() {
        let reason = "there is no such group, and no schemata to make it with";
        return Err(invalid(name, reason).into());
    }
    match fs::create_dir(&group) {
        _ if plan.schemata.is_empty() => Ok(there(group)),
        Ok(()) => Ok(Assigned {
            group,
            made: true,
            monitor: None,
        }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let path = group.join("schemata");
            let has = fs::read_to_string(&path).map_err(file("read", &path))?;
            if plan.schemata.iter().all(|line| has_line(&has, line)) {
                Ok(there(group))
            } else {
                let reason = "the group is there with other schemata, and may be somebody else's";
                Err(invalid(name, reason).into())
            }
        }
        Err(error) if error.raw_os_error() == Some(NO_CLASS_LEFT) => Err(Error::MissingFeature {
            field: "linux.intelRdt.closID",
            feature: "the processor has no class of service left",
        }),
        Err(error) => Err(file("make", &group)(error)),
    }
}

/// `ENOSPC`, as resctrl uses it.
const NO_CLASS_LEFT: i32 = rustix::io::Errno::NOSPC.raw_os_error();

/// Whether a group's schemata say what a line asks for: the kernel shows them with leading zeros and spaces.
fn has_line(schemata: &str, wanted: &str) -> bool {
    fn normal(line: &str) -> Option<(String, Vec<(String, String)>)> {
        let (resource, shares) = line.split_once(':')?;
        let shares = shares.split(';').filter_map(|share| {
            let (domain, mask) = share.split_once('=')?;
            let bits = mask.trim().trim_start_matches("0x").trim_start_matches('0');
            Some((domain.trim().to_owned(), bits.to_lowercase()))
        });
        Some((resource.trim().to_owned(), shares.collect()))
    }
    let Some((resource, shares)) = normal(wanted) else {
        return false;
    };
    schemata
        .lines()
        .filter_map(normal)
        .any(|(other, all)| other == resource && shares.iter().all(|share| all.contains(share)))
}

fn fill(plan: &RdtPlan, assigned: &mut Assigned, pid: i32) -> Result<()> {
    let is_root = plan.group == Group::Root;
    if assigned.made || is_root {
        write_schemata(&assigned.group, &plan.schemata)?;
    }
    // A group of counters may only be joined by those who are in the group above.
    write(&assigned.group.join("tasks"), &pid.to_string())?;
    if let Some(name) = &plan.monitor {
        let monitor = assigned.group.join("mon_groups").join(name);
        if !assigned.group.join("mon_groups").is_dir() {
            return Err(Error::MissingFeature {
                field: "linux.intelRdt.enableMonitoring",
                feature: "the processor cannot count what a group uses (there is no mon_groups)",
            });
        }
        fs::create_dir(&monitor).map_err(file("make", &monitor))?;
        assigned.monitor = Some(monitor.clone());
        write(&monitor.join("tasks"), &pid.to_string())?;
    }
    Ok(())
}

/// Writes lines of a group's schemata.
///
/// # Errors
/// The kernel refuses a line; its own words (`info/last_cmd_status`) are in the message.
pub fn write_schemata(group: &Path, lines: &[String]) -> Result<()> {
    for line in lines {
        let path = group.join("schemata");
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut schemata| io::Write::write_all(&mut schemata, format!("{line}\n").as_bytes()))
            .map_err(|source| {
                let why = [
                    group.join("../info/last_cmd_status"),
                    group.join("info/last_cmd_status"),
                ]
                .iter()
                .find_map(|path| fs::read_to_string(path).ok());
                let why = why.as_deref().map_or("", str::trim);
                Error::File {
                    action: "write linux.intelRdt.schemata to",
                    path: path.clone(),
                    source: io::Error::new(source.kind(), format!("{source} ({line:?}; {why})")),
                }
            })?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(file("write linux.intelRdt to", path))
}

impl Assigned {
    /// Removes what was made for the container; what has gone already is no error.
    ///
    /// # Errors
    /// Somebody is still in it.
    pub fn remove(&self) -> Result<()> {
        let own = self.made.then_some(&self.group);
        for path in self.monitor.iter().chain(own) {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(rdt: Value) -> Result<RdtPlan, String> {
        let rdt = serde_json::from_value(rdt).expect("an intelRdt");
        plan(&rdt, "c1").map_err(|error| error.to_string())
    }

    /// A directory that looks like resctrl, with a group `gold` in it.
    fn fake() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("made");
        for (group, schemata) in [("", "L3:0=ff\n"), ("gold", "    L3:0=00f;1=0ff\n    MB:0=50\n")] {
            group_in(&root.path().join(group), schemata);
        }
        root
    }

    fn group_in(path: &Path, schemata: &str) {
        fs::create_dir_all(path.join("mon_groups")).expect("made");
        fs::write(path.join("schemata"), schemata).expect("written");
        fs::write(path.join("tasks"), "").expect("written");
    }

    #[test]
    fn the_older_fields_and_the_newer_one_say_the_same() {
        let newer = planned(json!({"schemata": ["L3:0=f", "MB:0=20"], "enableMonitoring": true}));
        let older =
            planned(json!({"l3CacheSchema": "L3:0=f\n", "memBwSchema": "MB:0=20", "enableMonitoring": true}));
        assert_eq!(newer, older);
        assert_eq!(newer.map(|plan| plan.group), Ok(Group::Own("c1".into())));
        for (closid, group) in [("/", Group::Root), ("gold", Group::Named("gold".into()))] {
            assert_eq!(
                planned(json!({"closID": closid})).map(|plan| plan.group),
                Ok(group)
            );
        }
        for bad in [
            json!({"closID": "a/b"}),
            json!({"closID": ".."}),
            json!({"closID": "info"}),
            json!({"schemata": ["nonsense"]}),
        ] {
            assert!(planned(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_that_is_there_is_joined_and_stays() {
        let root = fake();
        let gold = root.path().join("gold");
        for rdt in [
            json!({"closID": "gold"}),
            json!({"closID": "gold", "schemata": ["L3:0=f", "MB:0=50"]}),
        ] {
            let plan = planned(rdt).expect("a plan");
            let assigned = assign(&plan, root.path(), 7).expect("assigned");
            assert!(!assigned.made);
            assigned.remove().expect("nothing to remove");
            assert!(gold.is_dir());
        }
        assert_eq!(fs::read_to_string(gold.join("tasks")).expect("read"), "77");
        for (rdt, words) in [
            (
                json!({"closID": "gold", "schemata": ["L3:0=1"]}),
                "other schemata",
            ),
            (json!({"closID": "silver"}), "no such group"),
        ] {
            let error = assign(&planned(rdt).expect("a plan"), root.path(), 7).expect_err("refused");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn counters_are_made_and_go_with_the_container() {
        let root = fake();
        let mut assigned = Assigned {
            group: root.path().to_owned(),
            made: false,
            monitor: None,
        };
        let plan = planned(json!({"enableMonitoring": true})).expect("a plan");
        // The kernel fills a new group; here there is nobody who would.
        let error = fill(&plan, &mut assigned, 9).expect_err("an empty group");
        assert!(error.to_string().contains("mon_groups/c1/tasks"), "{error}");
        assert_eq!(assigned.monitor, Some(root.path().join("mon_groups/c1")));
        assigned.remove().expect("removed");
        assert!(!root.path().join("mon_groups/c1").exists() && root.path().is_dir());
        assigned.remove().expect("twice");
    }

    #[test]
    fn what_a_failed_assignment_has_made_is_gone() {
        let root = fake();
        let plan = planned(json!({"schemata": ["L3:0=f"]})).expect("a plan");
        assign(&plan, root.path(), 9).expect_err("nobody fills the group");
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn resctrl_is_found_where_it_is_mounted() {
        let line = "36 25 0:32 / /sys/fs/resctrl rw,relatime shared:17 - resctrl resctrl rw\n";
        assert_eq!(mount_point(line), Some(PathBuf::from("/sys/fs/resctrl")));
        assert_eq!(mount_point("1 2 0:3 / /resctrl rw - tmpfs resctrl rw"), None);
    }
}
