//! Where a container's cgroup is, whatever the version.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A file of a cgroup in the hierarchy of one controller.
#[derive(Clone, Debug)]
pub struct Place {
    pub(crate) controller: &'static str,
    pub(crate) version: u8,
    pub(crate) file: String,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (version {})", self.file, self.version)
    }
}

impl Place {
    /// The file's text for the cgroup of a process; `None` where the controller is in a hierarchy of the other version.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(&self, pid: i32) -> Result<Option<String>> {
        let Some((version, directory)) = directory_of(pid, self.controller)? else {
            return Ok(None);
        };
        if version != self.version {
            return Ok(None);
        }
        let path = directory.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some(normal(&text)))
    }
}

/// One line, so that a table's cell can hold what the kernel writes in several.
fn normal(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// The version of a controller's hierarchy, and a process' directory in it.
///
/// # Errors
/// The process is gone.
pub(crate) fn directory_of(pid: i32, controller: &str) -> Result<Option<(u8, PathBuf)>> {
    let path = format!("/proc/{pid}/cgroup");
    let table = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mut unified = None;
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(cgroup)) = (parts.next(), parts.next()) else {
            continue;
        };
        let cgroup = cgroup.trim_start_matches('/');
        if controllers.is_empty() {
            unified = unified_root().map(|root| (2, root.join(cgroup)));
        } else if controllers.split(',').any(|name| name == controller) {
            return Ok(Some((
                1,
                PathBuf::from("/sys/fs/cgroup").join(controller).join(cgroup),
            )));
        }
    }
    Ok(unified)
}

/// Where version 2 is mounted: alone, or beside version 1.
fn unified_root() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|root| root.join("cgroup.controllers").exists())
}

/// The version in which this host has a controller, if it has it.
pub(crate) fn version_of(controller: &str) -> Option<u8> {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let in_v1 = table
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .any(|controllers| controllers.split(',').any(|name| name == controller));
    if in_v1 {
        return Some(1);
    }
    let list = fs::read_to_string(unified_root()?.join("cgroup.controllers")).unwrap_or_default();
    list.split_whitespace()
        .any(|name| name == controller)
        .then_some(2)
}

/// Whether any cgroup of that hierarchy has this file: what the kernel was built with.
pub(crate) fn has_file(controller: &str, version: u8, file: &str) -> bool {
    let root = if version == 1 {
        Some(PathBuf::from("/sys/fs/cgroup").join(controller))
    } else {
        unified_root()
    };
    let Some(root) = root else { return false };
    // The root has not every file; its children have.
    let children = fs::read_dir(&root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    if root.join(file).exists() || children.into_iter().any(|child| child.join(file).exists()) {
        return true;
    }
    let scratch = root.join(format!("croze-conformance-{}", std::process::id()));
    let made = fs::create_dir(&scratch).is_ok();
    let found = scratch.join(file).exists();
    if made {
        fs::remove_dir(&scratch).ok();
    }
    found
}
