//! Handing controllers down a tree of version 2, where a directory has only those that the one above it gives.

use crate::error::Error;
use crate::file;
use crate::plan::Directory;
use crate::resources::Step;
use std::fs;
use std::path::Path;

/// Enables controllers for every level below the mount point, from the top. On a host with version 2 only, that
/// is every controller there is (their counters are wanted as well); on a hybrid host only those that a limit
/// needs.
pub(crate) fn enable(directory: &Directory) -> Result<(), Error> {
    let needed: Vec<&str> = directory.steps.iter().filter_map(controller_of).collect();
    // On a hybrid host the tree has few controllers, mostly none, and is other people's: it is left alone
    // without need.
    if needed.is_empty() && !directory.controllers.iter().any(|c| c == "memory" || c == "pids") {
        return Ok(());
    }
    // systemd's scopes come with what systemd gives them; more is only taken from it if a limit needs it.
    if let Ok(there) = fs::read_to_string(directory.path.join("cgroup.controllers")) {
        let has = |controller: &str| there.split_whitespace().any(|one| one == controller);
        let given =
            directory.path.extension().is_some_and(|end| end == "scope") && has("memory") && has("pids");
        if needed.iter().all(|controller| has(controller))
            && (given || directory.controllers.iter().all(|c| has(c)))
        {
            return Ok(());
        }
    }
    let mut levels: Vec<&Path> = directory
        .path
        .ancestors()
        .skip(1)
        .take_while(|a| a.starts_with(&directory.mount))
        .collect();
    levels.reverse();
    for level in levels {
        let available = file::read(&level.join("cgroup.controllers"))?;
        let path = level.join("cgroup.subtree_control");
        let enabled = file::read(&path)?;
        let missing: Vec<&str> = available
            .split_whitespace()
            .filter(|c| !enabled.split_whitespace().any(|e| e == *c))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let all: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
        if file::write_raw(&path, &all.join(" ")).is_ok() {
            continue;
        }
        // One of them cannot be had (a realtime process keeps `cpu` away, for one): the others are enabled one
        // by one.
        for controller in missing {
            let result = file::write(&path, &format!("+{controller}"));
            if needed.contains(&controller) {
                result?;
            }
        }
    }
    Ok(())
}

/// The controller whose file a step writes.
fn controller_of(step: &Step) -> Option<&str> {
    let (Step::Write(assignment) | Step::Pair(assignment, _)) = step else {
        return None;
    };
    let name = assignment.choices.first()?.0.split('.').next()?;
    (name != "cgroup").then_some(name)
}
