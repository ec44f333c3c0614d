//! What the host looks like: processes, mounts, cgroups, interfaces. Read before and after each test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the cgroup hierarchies are mounted.
const CGROUP: &str = "/sys/fs/cgroup";

/// The parts of the host that a test may change, restricted to what can be told apart from other tests' traces.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    interfaces: BTreeSet<String>,
}

/// What a test left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) processes: Vec<(i32, String)>,
    pub(crate) mounts: Vec<PathBuf>,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) interfaces: Vec<String>,
}

impl Leftovers {
    pub(crate) fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.mounts.is_empty()
            && self.cgroups.is_empty()
            && self.interfaces.is_empty()
    }
}

impl std::fmt::Display for Leftovers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (pid, command) in &self.processes {
            writeln!(out, "  process {pid}: {command}")?;
        }
        for mount in &self.mounts {
            writeln!(out, "  mount {}", mount.display())?;
        }
        for cgroup in &self.cgroups {
            writeln!(out, "  cgroup {}", cgroup.display())?;
        }
        for interface in &self.interfaces {
            writeln!(out, "  interface {interface}")?;
        }
        Ok(())
    }
}

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        Ok(Self {
            interfaces: interfaces()?,
        })
    }

    /// What is there now and belongs to the test: descendants of this process, mounts that name its directory, cgroups
    /// that carry one of its marks, interfaces that were not there.
    pub(crate) fn leftovers(&self, directory: &Path, marks: &[String]) -> Result<Leftovers> {
        Ok(Leftovers {
            processes: descendants()?,
            mounts: mounts_naming(directory)?,
            cgroups: cgroup_directories(|path| {
                let path = path.to_string_lossy();
                marks.iter().any(|mark| path.contains(mark.as_str()))
            }),
            interfaces: interfaces()?.difference(&self.interfaces).cloned().collect(),
        })
    }
}

/// Every cgroup of crozed's that holds neither a process nor a cgroup: one that stays so has been forgotten. Those of
/// other tests' daemons are so for a moment only, when they come and when they go.
pub(crate) fn idle_cgroups_of_croze() -> BTreeSet<PathBuf> {
    let is_idle = |path: &Path| {
        let has_children = fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        !has_children && fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
    };
    // The parents of the containers' and the shims' cgroups are named `croze…`.
    let ours = |path: &Path| {
        let text = path.to_string_lossy();
        text.contains("/croze") && !text.contains("/croze-test")
    };
    cgroup_directories(|path| ours(path) && is_idle(path))
        .into_iter()
        .collect()
}

fn interfaces() -> Result<BTreeSet<String>> {
    let entries = fs::read_dir("/sys/class/net").context("listing /sys/class/net")?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Every live descendant of this process with its command line. Zombies do not count: their reaper is us.
pub(crate) fn descendants() -> Result<Vec<(i32, String)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        if let Some((state, parent)) = state_and_parent(pid) {
            parents.push((pid, state, parent));
        }
    }
    let mut family = vec![i32::try_from(std::process::id())?];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        for (pid, state, _) in parents.iter().filter(|(_, _, of)| *of == parent) {
            family.push(*pid);
            if *state != 'Z' && *state != 'X' {
                found.push((*pid, command_line(*pid)));
            }
        }
        next += 1;
    }
    Ok(found)
}

/// The state letter and the parent from `/proc/PID/stat`; the command's name in it may hold anything but ends with the
/// last `)`.
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    words.join(" ").trim().to_owned()
}

/// Whether a process is there and is no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Mount points whose line names the directory, be it as target, source or layer; the newest first.
fn mounts_naming(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    let name = directory.to_string_lossy();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter(|line| line.contains(name.as_ref()))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect();
    found.reverse();
    Ok(found)
}

/// Every cgroup directory, in every hierarchy, that `wanted` accepts; children before their parents.
pub fn cgroup_directories(wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from(CGROUP)];
    while let Some(directory) = waiting.pop() {
        // cgroups come and go while this looks; one that is gone has nothing to tell.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
        // crun makes directories of a cgroup's name where no hierarchy is mounted.
        if wanted(&directory) && is_cgroup(&directory) {
            found.push(directory);
        }
    }
    found.reverse();
    found
}

/// Whether this host has cgroups of version 2 alone, where all controllers are in one tree and the files have other names.
#[must_use]
pub fn cgroups_are_unified() -> bool {
    Path::new(CGROUP).join("cgroup.controllers").exists()
}

/// Whether a directory lies in a cgroup file system of either version.
fn is_cgroup(directory: &Path) -> bool {
    use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
    statfs(directory)
        .is_ok_and(|found| [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type()))
}

/// The value of a cgroup's file, by controller and by the cgroup's name or a part of its path.
///
/// # Errors
/// No hierarchy of that controller has such a cgroup, or the file cannot be read.
pub fn cgroup_file(controller: &str, fragment: &str, file: &str) -> Result<String> {
    let prefix = match cgroups_are_unified() {
        true => PathBuf::from(CGROUP),
        false => Path::new(CGROUP).join(controller),
    };
    let directories =
        cgroup_directories(|path| path.starts_with(&prefix) && path.to_string_lossy().ends_with(fragment));
    let directory = directories
        .first()
        .with_context(|| format!("no cgroup of {controller} ends with {fragment:?}"))?;
    let path = directory.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The processes of a cgroup and of those below it.
///
/// # Errors
/// As [`cgroup_file`].
pub fn process_ids_in_cgroup(controller: &str, fragment: &str) -> Result<Vec<i32>> {
    let text = cgroup_file(controller, fragment, "cgroup.procs")?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
