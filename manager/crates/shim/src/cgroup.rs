//! The shim's own cgroup, and the container's count of OOM kills.
//!
//! A shim moves itself to `/croze-shim/<id>` in the hierarchies that account for memory, CPU and processes, so that neither the container's limits nor the daemon's
//! slice count it; where that is not permitted it stays where it is. Before it ends it moves to the root and removes the directory.
//!
//! On version 1 it moves as a thread, which it has only one of: moving a process takes a lock against every fork of the machine, and the
//! runtime forks meanwhile (decision 5). That is also why it leaves the empty version 2 tree of a hybrid host alone.

use std::fs;
use std::path::{Path, PathBuf};

/// The directory of all shims below each hierarchy's root.
const PARENT: &str = "croze-shim";
/// The v1 hierarchies that matter for a shim; the named one is what init systems look at.
const WANTED: [&str; 4] = ["memory", "cpu", "pids", "name=systemd"];

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Path of the mount's root within the hierarchy.
    root: String,
    /// Controllers of a v1 hierarchy; empty for the unified one.
    controllers: Vec<String>,
}

/// Reads `/proc/self/mountinfo`'s text (proc(5)): fields up to ` - `, then type, source and super options.
fn parse_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else {
            continue;
        };
        let controllers = match kind {
            "cgroup2" => Vec::new(),
            "cgroup" => options
                .split(',')
                .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"))
                .map(str::to_owned)
                .collect(),
            _ => continue,
        };
        if found.iter().any(|h| h.controllers == controllers) {
            continue;
        }
        found.push(Hierarchy {
            mount: mount.into(),
            root: root.into(),
            controllers,
        });
    }
    found
}

fn hierarchies() -> Vec<Hierarchy> {
    parse_hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

impl Hierarchy {
    fn entrance(&self) -> &'static str {
        if self.controllers.is_empty() {
            "cgroup.procs"
        } else {
            "tasks"
        }
    }
}

/// Those that a shim has a cgroup in: the ones of version 1 that matter, or else version 2.
fn wanted(hierarchies: Vec<Hierarchy>) -> Vec<Hierarchy> {
    let (second, mut first): (Vec<_>, Vec<_>) =
        hierarchies.into_iter().partition(|h| h.controllers.is_empty());
    first.retain(|h| h.controllers.iter().any(|c| WANTED.contains(&c.as_str())));
    if first.is_empty() { second } else { first }
}

/// The shim's own directories; where it could not move, nothing.
#[derive(Debug, Default)]
pub(crate) struct OwnCgroup {
    moved: Vec<Moved>,
}

/// One of them.
#[derive(Debug)]
struct Moved {
    root: PathBuf,
    dir: PathBuf,
    /// The file of a cgroup that takes this process.
    entrance: &'static str,
}

impl OwnCgroup {
    /// Moves this process; what is not permitted is left out.
    pub(crate) fn enter(id: &str) -> Self {
        let mut own = Self::default();
        for hierarchy in wanted(hierarchies()) {
            let dir = hierarchy.mount.join(PARENT).join(id);
            // A shim that leaves at the same time may take the parent away in between.
            let created = (0..3).any(|_| fs::create_dir_all(&dir).is_ok());
            if !created {
                continue;
            }
            let entrance = hierarchy.entrance();
            if fs::write(dir.join(entrance), "0").is_ok() {
                own.moved.push(Moved {
                    root: hierarchy.mount,
                    dir,
                    entrance,
                });
            } else {
                remove_empty(&dir);
            }
        }
        own
    }

    /// Moves back to the roots and removes the directories, as far as possible.
    pub(crate) fn leave(&mut self) {
        for moved in self.moved.drain(..) {
            if fs::write(moved.root.join(moved.entrance), "0").is_ok() {
                remove_empty(&moved.dir);
            }
        }
    }
}

/// Removes a shim's directory, and the common parent if this was the last one.
fn remove_empty(dir: &Path) {
    if fs::remove_dir(dir).is_ok()
        && let Some(parent) = dir.parent()
    {
        let _others_may_be_there = fs::remove_dir(parent);
    }
}

/// The file in which the kernel counts the OOM kills of one container.
#[derive(Debug)]
pub(crate) struct OomCounter {
    file: PathBuf,
    /// Directories above the container's own, which `delete` leaves and which may be empty then.
    parents: Vec<PathBuf>,
}

impl OomCounter {
    /// Finds the memory cgroup of a process that is in its container's cgroup.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let hierarchies = hierarchies();
        let file = memory_events(&membership, &hierarchies)?;
        let parents = cgroup_dirs(&membership, &hierarchies)
            .iter()
            .filter_map(|dir| dir.parent().map(Path::to_path_buf))
            .collect();
        Some(Self { file, parents })
    }

    /// How many processes were killed so far; 0 if it cannot be read.
    pub(crate) fn read(&self) -> u64 {
        parse_oom_kills(&fs::read_to_string(&self.file).unwrap_or_default())
    }

    /// Removes the parents of the container's cgroups where they are called `croze` and are empty.
    pub(crate) fn remove_empty_parents(&self) {
        for parent in self.parents.iter().filter(|p| p.ends_with("croze")) {
            let _others_may_be_there = fs::remove_dir(parent);
        }
    }
}

/// The directories of a process, from the text of its `/proc/PID/cgroup`.
fn cgroup_dirs(membership: &str, hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let hierarchy = hierarchies.iter().find(|h| belongs(h, controllers))?;
            let below = path
                .strip_prefix(hierarchy.root.trim_end_matches('/'))
                .unwrap_or(path);
            Some(hierarchy.mount.join(below.trim_start_matches('/')))
        })
        .collect()
}

fn belongs(hierarchy: &Hierarchy, controllers: &str) -> bool {
    if controllers.is_empty() {
        return hierarchy.controllers.is_empty();
    }
    controllers
        .split(',')
        .all(|c| hierarchy.controllers.iter().any(|h| h == c))
}

/// `memory.oom_control` of the v1 memory hierarchy, else `memory.events` of the unified one.
fn memory_events(membership: &str, hierarchies: &[Hierarchy]) -> Option<PathBuf> {
    let line_of = |wanted: &dyn Fn(&str) -> bool| {
        membership
            .lines()
            .find(|line| line.split(':').nth(1).is_some_and(wanted))
            .map(|line| cgroup_dirs(line, hierarchies))
            .and_then(|dirs| dirs.into_iter().next())
    };
    if let Some(dir) = line_of(&|c| c.split(',').any(|c| c == "memory")) {
        return Some(dir.join("memory.oom_control"));
    }
    line_of(&str::is_empty).map(|dir| dir.join("memory.events"))
}

/// The value of `oom_kill`, which both files have in the same form.
fn parse_oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 /inner /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
";
    const UNIFIED: &str = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn oom_counts_are_where_the_memory_controller_is() {
        let hybrid = "5:memory:/croze/ab\n4:cpu,cpuacct:/croze/ab\n3:pids:/inner/croze/ab\n1:name=systemd:/x\n0::/croze/ab\n";
        let table = [
            (
                HYBRID,
                hybrid,
                "/sys/fs/cgroup/memory/croze/ab/memory.oom_control",
            ),
            (UNIFIED, "0::/croze/ab\n", "/sys/fs/cgroup/croze/ab/memory.events"),
        ];
        for (mountinfo, membership, expected) in table {
            let found = memory_events(membership, &parse_hierarchies(mountinfo));
            assert_eq!(found, Some(PathBuf::from(expected)));
        }
        let dirs = cgroup_dirs(hybrid, &parse_hierarchies(HYBRID));
        assert_eq!(
            dirs[2],
            Path::new("/sys/fs/cgroup/pids/croze/ab"),
            "the mount's root is taken off"
        );
    }

    #[test]
    fn a_shim_enters_what_counts_by_the_door_without_a_lock() {
        let entered = |mountinfo| -> Vec<(PathBuf, &str)> {
            let entrance = |h: Hierarchy| (h.mount.clone(), h.entrance());
            wanted(parse_hierarchies(mountinfo))
                .into_iter()
                .map(entrance)
                .collect()
        };
        let first = ["memory", "cpu,cpuacct", "pids", "systemd"];
        let first = first.map(|name| (Path::new("/sys/fs/cgroup").join(name), "tasks"));
        assert_eq!(entered(HYBRID), first);
        assert_eq!(
            entered(UNIFIED),
            [(PathBuf::from("/sys/fs/cgroup"), "cgroup.procs")]
        );
        assert_eq!(entered(""), []);
    }

    #[test]
    fn oom_kills_of_both_versions() {
        assert_eq!(
            parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            3
        );
        assert_eq!(
            parse_oom_kills("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n"),
            1
        );
        assert_eq!(parse_oom_kills("oom_kill_disable 0\n"), 0);
    }
}
