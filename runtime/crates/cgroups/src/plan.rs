//! Where a container's cgroup goes and what is written into it: decided from facts alone.
//!
//! | `cgroupsPath` | version 1, and the version 2 tree of a hybrid host | version 2 |
//! |---|---|---|
//! | absolute | below the mount point | below the mount point |
//! | relative | below the caller's own cgroup | beside the caller's own cgroup |
//! | none | the id, as a relative path | the id, as a relative path |
//!
//! "Beside" on version 2, because a cgroup with processes in it cannot hand controllers to its children. This
//! is what runc does.

use crate::devices::{self, Rules};
use crate::error::Error;
use crate::observe::{Kind, Layout, Observed, Tree};
use crate::resources::{self, Step};
use oci_spec::runtime::LinuxResources;
use std::path::{Component, Path, PathBuf};

/// One directory of a plan: the container's place in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The version of its hierarchy.
    pub kind: Kind,
    /// The controllers of its hierarchy.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The directory, below `mount`.
    pub path: PathBuf,
    /// What is written into it, in this order.
    pub steps: Vec<Step>,
}

/// Everything that [`Cgroup::create`](crate::Cgroup::create) will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    directories: Vec<Directory>,
    layout: Layout,
}

impl Plan {
    /// Plans the cgroup of one container. `id` names it if the spec gives no path.
    ///
    /// # Errors
    /// If the host has no cgroups or lacks a controller that a limit needs, or if a value makes no sense.
    pub fn new(
        observed: &Observed,
        cgroups_path: Option<&str>,
        id: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, Error> {
        let layout = observed.layout();
        if layout == Layout::None {
            return Err(Error::NoHierarchy);
        }
        let given = cgroups_path.filter(|path| !path.is_empty()).unwrap_or(id);
        let (absolute, inner) = clean(given);
        if inner.as_os_str().is_empty() {
            return Err(Error::RootCgroup {
                path: given.to_owned(),
            });
        }
        let mut directories: Vec<Directory> = observed
            .trees
            .iter()
            .map(|tree| Directory {
                kind: tree.kind,
                controllers: tree.controllers.clone(),
                mount: tree.mount.clone(),
                path: base(tree, layout, absolute).join(&inner),
                steps: Vec::new(),
            })
            .collect();
        let rules = Rules::from_spec(resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]))?;
        devices::plan(&mut directories, &rules)?;
        if let Some(resources) = resources {
            resources::plan(&mut directories, resources)?;
        }
        Ok(Self { directories, layout })
    }

    /// A plan of these directories, for a cgroup that is there already.
    pub(crate) fn of(directories: Vec<Directory>) -> Self {
        let v2 = directories.iter().all(|directory| directory.kind == Kind::V2);
        Self {
            directories,
            layout: if v2 { Layout::V2 } else { Layout::Hybrid },
        }
    }

    /// The part of the plan that a caller without root's rights can carry out: the directories that `may_be_made`, without device rules,
    /// which take the host's root.
    ///
    /// # Errors
    /// [`Error::MissingController`]: a limit is asked for in a directory that may not be made.
    pub fn limited_to(self, may_be_made: &dyn Fn(&Directory) -> bool) -> Result<Self, Error> {
        let mut directories = Vec::new();
        for mut directory in self.directories {
            if directory.controllers.iter().any(|c| c == "devices") && directory.kind == Kind::V1 {
                directory.steps.clear();
            }
            directory
                .steps
                .retain(|step| !matches!(step, Step::DeviceProgram(_)));
            if may_be_made(&directory) {
                directories.push(directory);
            } else if !directory.steps.is_empty() {
                return Err(Error::MissingController {
                    controller: directory.controllers.join(","),
                    field: "linux.resources (this user may not make cgroups there)",
                });
            }
        }
        Ok(Self { directories, ..self })
    }

    /// The directories, in the order of the host's hierarchies.
    #[must_use]
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// Which versions the host shows.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }
}

fn base(tree: &Tree, layout: Layout, absolute: bool) -> &Path {
    match (absolute, layout) {
        (true, _) => &tree.mount,
        (false, Layout::V2) if tree.own != tree.mount => tree.own.parent().unwrap_or(&tree.mount),
        (false, _) => &tree.own,
    }
}

/// A path without `.`, `..` and repeated slashes, which never climbs above where it starts; and whether it was
/// absolute.
fn clean(path: &str) -> (bool, PathBuf) {
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (path.starts_with('/'), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::tests::{hybrid, v1, v2};

    fn path_in(plan: &Plan, controller: &str) -> String {
        let found = plan
            .directories()
            .iter()
            .find(|d| d.controllers.iter().any(|c| c == controller));
        found.unwrap().path.display().to_string()
    }

    #[test]
    fn paths_follow_the_table() {
        let plan = |observed: &Observed, path| Plan::new(observed, path, "c1", None).unwrap();
        for (observed, path, memory) in [
            (v1(), Some("/croze/c1"), "/sys/fs/cgroup/memory/croze/c1"),
            (v1(), Some("croze/c1"), "/sys/fs/cgroup/memory/sandbox/a/croze/c1"),
            (v1(), None, "/sys/fs/cgroup/memory/sandbox/a/c1"),
            (v1(), Some(""), "/sys/fs/cgroup/memory/sandbox/a/c1"),
            (v1(), Some("/../../c1//x/."), "/sys/fs/cgroup/memory/c1/x"),
            (hybrid(), Some("/croze/c1"), "/sys/fs/cgroup/memory/croze/c1"),
            (v2(), Some("/croze/c1"), "/sys/fs/cgroup/croze/c1"),
            (v2(), Some("croze/c1"), "/sys/fs/cgroup/user.slice/croze/c1"),
            (v2(), None, "/sys/fs/cgroup/user.slice/c1"),
        ] {
            assert_eq!(path_in(&plan(&observed, path), "memory"), memory, "{path:?}");
        }
        let hybrid = plan(&hybrid(), Some("/croze/c1"));
        assert_eq!(path_in(&hybrid, "hugetlb"), "/sys/fs/cgroup/unified/croze/c1");
        assert_eq!(
            path_in(&hybrid, "name=systemd"),
            "/sys/fs/cgroup/systemd/croze/c1"
        );
        assert_eq!(hybrid.directories().len(), 8);
    }

    #[test]
    fn without_rights_only_what_may_be_made_is_planned() {
        let resources = |text: &str| serde_json::from_str::<LinuxResources>(text).unwrap();
        let devices = resources(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
        let memory = resources(r#"{"memory": {"limit": 1048576}}"#);
        for observed in [v1(), hybrid(), v2()] {
            let plan = |resources| Plan::new(&observed, None, "c1", Some(resources)).unwrap();
            let none = plan(&devices).limited_to(&|_| false).unwrap();
            assert!(none.directories().is_empty());
            assert!(matches!(
                plan(&memory).limited_to(&|_| false),
                Err(Error::MissingController { .. })
            ));
            let all = plan(&devices).limited_to(&|_| true).unwrap();
            assert_eq!(all.directories().len(), plan(&devices).directories().len());
            assert!(all.directories().iter().all(|d| d.steps.is_empty()), "{all:?}");
        }
    }

    #[test]
    fn the_root_cgroup_is_refused() {
        for path in ["/", "/..", ".", "a/.."] {
            assert!(
                matches!(
                    Plan::new(&v1(), Some(path), "c", None),
                    Err(Error::RootCgroup { .. })
                ),
                "{path}"
            );
        }
        assert!(matches!(
            Plan::new(&Observed::default(), None, "c", None),
            Err(Error::NoHierarchy)
        ));
    }
}
