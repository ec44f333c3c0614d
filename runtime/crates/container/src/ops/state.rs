//! `state`: what a caller is told of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use croze_cgroups::Cgroup;

use super::Settings;
use crate::error::{Error, Result};
use crate::state::status::Seen;
use crate::state::{Entry, Id, Record, State, Status, Store};

/// A container as it stands now: the record, corrected by what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The spec's version.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its first process; `None` if it has none (any more).
    pub pid: Option<i32>,
    /// How it stands.
    pub status: Status,
    /// The bundle.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The user who made it.
    pub owner: u32,
}

/// Looks at one container.
///
/// # Errors
/// There is none of that id, or its record or processes cannot be read.
pub fn state(settings: &Settings, id: &str) -> Result<Snapshot> {
    snapshot(&find(settings, id)?)
}

/// The pids of every process of a container, sorted.
///
/// # Errors
/// There is none of that id, or its processes cannot be listed.
pub fn processes(settings: &Settings, id: &str) -> Result<Vec<i32>> {
    let record = find(settings, id)?.load()?;
    match record {
        Some(record) if record.cgroup.is_empty() => pids_of_namespace(&record),
        Some(record) => Ok(Cgroup::from_paths(&record.cgroup).pids()?),
        None => Ok(Vec::new()),
    }
}

/// Where there is no cgroup: who is in the pid namespace of the first process, if that is its own.
fn pids_of_namespace(record: &Record) -> Result<Vec<i32>> {
    let Some(init) = record.state.init() else {
        return Ok(Vec::new());
    };
    if init.pidfd()?.is_none() {
        return Ok(Vec::new());
    }
    if !leads_its_pid_namespace(init.pid) {
        return Ok(vec![init.pid]);
    }
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(init.pid) else {
        return Ok(vec![init.pid]);
    };
    let entries = std::fs::read_dir("/proc").map_err(|source| Error::File {
        action: "list",
        path: "/proc".into(),
        source,
    })?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut pids: Vec<i32> = numbers
        .filter(|pid| namespace(*pid).as_ref() == Some(&own))
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The container of an id as it came from the command line.
pub(super) fn find(settings: &Settings, id: &str) -> Result<Entry> {
    Ok(Store::new(&settings.root)?.find(&Id::parse(id)?)?)
}

pub(super) fn snapshot(entry: &Entry) -> Result<Snapshot> {
    // Between the id's reservation and the first record there is only the id.
    let record = entry.load()?.unwrap_or_else(|| empty_record(entry.id()));
    let status = status(entry, &record)?;
    let pid = record
        .state
        .init()
        .map(|init| init.pid)
        .filter(|_| status != Status::Stopped);
    Ok(Snapshot {
        oci_version: record.oci_version,
        id: record.id,
        pid,
        status,
        bundle: record.bundle,
        rootfs: record.rootfs,
        created: record.created,
        annotations: record.annotations,
        owner: record.owner,
    })
}

/// A record for a container that has none yet.
pub(super) fn empty_record(id: &Id) -> Record {
    Record::new(id, String::new(), PathBuf::new(), PathBuf::new())
}

/// How a container stands: its record, corrected by what is seen.
pub(super) fn status(entry: &Entry, record: &Record) -> Result<Status> {
    let Some(init) = record.state.init() else {
        return Ok(Status::derive(
            &record.state,
            Seen {
                alive: false,
                frozen: false,
                fifo: false,
            },
        ));
    };
    let alive = init.is_alive()?;
    let seen = Seen {
        alive,
        frozen: alive && Cgroup::from_paths(&record.cgroup).is_frozen()?,
        // Asked for only where it matters: a started container has none.
        fifo: !matches!(record.state, State::Running { .. }) && entry.has_fifo(),
    };
    Ok(Status::derive(&record.state, seen))
}

/// Whether a process is the first of a pid namespace of its own: then the kernel ends all the others with it.
pub(super) fn leads_its_pid_namespace(pid: i32) -> bool {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    text.is_ok_and(|text| is_first_inside(&text))
}

/// `NSpid` lists the process's ids from the reader's namespace down to its own.
fn is_first_inside(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.is_some_and(|ids| {
        let ids: Vec<&str> = ids.split_whitespace().collect();
        ids.len() > 1 && ids.last() == Some(&"1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_namespace_is_told_from_others() {
        for (line, want) in [
            ("NSpid:\t4711\t1\n", true),
            ("NSpid:\t4711\t12\t1\n", true),
            ("NSpid:\t4711\t12\n", false),
            // Pid 1 of the reader's own namespace is not a container's.
            ("NSpid:\t1\n", false),
            ("NSpid:\t4711\n", false),
            ("", false),
        ] {
            assert_eq!(is_first_inside(&format!("Name:\tsh\n{line}")), want, "{line:?}");
        }
    }
}
