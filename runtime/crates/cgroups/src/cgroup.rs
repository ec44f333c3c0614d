//! A container's cgroup: its directories, made, filled, joined and removed.
//!
//! The order of [`Cgroup::create`]: every directory is made, controllers are enabled (version 2) or CPUs
//! inherited (version 1), then every planned value is written. Only after that may a process come in, so that
//! no process is ever inside without its limits. If a step fails, the directories made here are removed again,
//! the deepest first.

use crate::controllers;
use crate::error::Error;
use crate::file::{self, Writer};
use crate::observe::Kind;
use crate::plan::{Directory, Plan};
use crate::resources::{Assignment, Step};
use croze_sys::bpf;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A cgroup's directories by controller, as they are kept in a record: a named hierarchy is `name=NAME`,
/// version 2 is the empty string.
pub type Paths = BTreeMap<String, PathBuf>;

/// One directory of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    /// The version of its hierarchy.
    pub kind: Kind,
    /// The controllers of a version 1 hierarchy; empty for version 2.
    pub controllers: Vec<String>,
    /// Where it is.
    pub path: PathBuf,
}

/// A cgroup in every hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cgroup {
    dirs: Vec<Dir>,
    /// Those of its directories that [`Cgroup::create`] did not find there already.
    made: Vec<PathBuf>,
}

/// The ways into the version 1 hierarchies of a cgroup, opened.
///
/// A process that is moved by another one, with all its threads, makes the kernel stop every fork and exit of
/// the machine until all processors have passed a quiet moment: milliseconds. A thread that moves itself (it
/// writes `0` to `tasks`) needs none of that. For version 2 the same is had by cloning into the cgroup's
/// directory.
#[derive(Debug, Default)]
pub struct Doors(Vec<(PathBuf, OwnedFd)>);

impl Doors {
    /// Moves the calling thread into every hierarchy: for a process with one thread only.
    ///
    /// # Errors
    /// [`Error::Enter`] with the first directory that refused it.
    pub fn enter(&self) -> Result<(), Error> {
        for (path, fd) in &self.0 {
            rustix::io::write(fd, b"0").map_err(|errno| Error::Enter {
                path: path.clone(),
                source: errno.into(),
            })?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Makes the directories of a plan and writes its values. A directory that is there already is used if it is empty: limits and
    /// device rules are never written over other people's processes.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::Frozen`] before anything was written; else the first step that failed, and what was made is removed
    /// again.
    pub fn create(plan: &Plan) -> Result<Self, Error> {
        check_unused(plan)?;
        let mut made = Vec::new();
        match Self::build(plan, &mut made) {
            Ok(cgroup) => Ok(cgroup),
            Err(error) => {
                for path in made.iter().rev() {
                    // What cannot be undone here is an empty directory; the caller is told of the failure itself.
                    fs::remove_dir(path).ok();
                }
                Err(error)
            }
        }
    }

    /// The cgroup of a plan that somebody else is about to make: nothing of it is ours to remove.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::Frozen`]: it is there already, with other people's processes.
    pub fn expected(plan: &Plan) -> Result<Self, Error> {
        check_unused(plan)?;
        Ok(Self {
            dirs: plan.directories().iter().map(dir).collect(),
            made: Vec::new(),
        })
    }

    /// Completes a cgroup that somebody else (systemd) has made with one process in it: the hierarchies of version 1 that were left
    /// out are made and entered, and every planned value is written.
    ///
    /// # Errors
    /// The first step that failed; the directories made here are removed again, unless the process is in them.
    pub fn adopt(plan: &Plan, pid: i32) -> Result<Self, Error> {
        let mut made = Vec::new();
        let built = Self::build(plan, &mut made).and_then(|cgroup| {
            if cgroup.dirs.iter().any(|dir| dir.kind == Kind::V1) {
                cgroup.attach(pid)?;
            }
            Ok(cgroup)
        });
        if built.is_err() {
            for path in made.iter().rev() {
                fs::remove_dir(path).ok();
            }
        }
        built
    }

    fn build(plan: &Plan, made: &mut Vec<PathBuf>) -> Result<Self, Error> {
        let mut dirs = Vec::with_capacity(plan.directories().len());
        for directory in plan.directories() {
            make(&directory.path, made)?;
            if directory.kind == Kind::V2 {
                controllers::enable(directory)?;
            } else if directory.controllers.iter().any(|c| c == "cpuset") {
                let is_new = made.last() == Some(&directory.path);
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    if is_new {
                        inherit_new(&directory.path, &directory.mount, name)?;
                    } else {
                        inherit(&directory.path, &directory.mount, name)?;
                    }
                }
            }
            dirs.push(dir(directory));
        }
        let own = |dir: &&Dir| made.contains(&dir.path);
        let made = dirs.iter().filter(own).map(|dir| dir.path.clone()).collect();
        let cgroup = Self { dirs, made };
        cgroup.apply(plan)?;
        Ok(cgroup)
    }

    /// Writes the values of a plan into the directories it names; for a change of limits, too.
    ///
    /// # Errors
    /// The first value that could not be written, with its file and cause.
    pub fn apply(&self, plan: &Plan) -> Result<(), Error> {
        for directory in plan.directories() {
            let writer = &mut Writer::default();
            for step in &directory.steps {
                run(&directory.path, step, writer)?;
            }
        }
        Ok(())
    }

    /// The cgroup of a record.
    #[must_use]
    pub fn from_paths(paths: &Paths) -> Self {
        let mut dirs: Vec<Dir> = Vec::new();
        for (controller, path) in paths {
            if controller.is_empty() {
                dirs.push(Dir {
                    kind: Kind::V2,
                    controllers: Vec::new(),
                    path: path.clone(),
                });
            } else if let Some(known) = dirs.iter_mut().find(|d| d.kind == Kind::V1 && d.path == *path) {
                known.controllers.push(controller.clone());
            } else {
                let controllers = vec![controller.clone()];
                dirs.push(Dir {
                    kind: Kind::V1,
                    controllers,
                    path: path.clone(),
                });
            }
        }
        Self {
            dirs,
            made: Vec::new(),
        }
    }

    /// The part of it that [`Cgroup::create`] has made: what may be killed and removed if the container comes to nothing. Whatever
    /// was there before is somebody else's.
    #[must_use]
    pub fn own_part(&self) -> Self {
        let own = |dir: &&Dir| self.made.contains(&dir.path);
        Self {
            dirs: self.dirs.iter().filter(own).cloned().collect(),
            made: self.made.clone(),
        }
    }

    /// Its directories by controller, for a record.
    #[must_use]
    pub fn paths(&self) -> Paths {
        let mut paths = Paths::new();
        for dir in &self.dirs {
            if dir.kind == Kind::V2 {
                paths.insert(String::new(), dir.path.clone());
            }
            for controller in &dir.controllers {
                paths.insert(controller.clone(), dir.path.clone());
            }
        }
        paths
    }

    /// Its directories.
    #[must_use]
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    /// The directory in which a controller's files are, if there is one: that of version 1 if the controller is
    /// there, else that of version 2.
    #[must_use]
    pub fn dir_of(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|d| d.controllers.iter().any(|c| c == controller))
            .or_else(|| self.unified())
    }

    /// The directory of version 2.
    #[must_use]
    pub fn unified(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.kind == Kind::V2)
    }

    /// Whether any of its directories is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|d| d.path.exists())
    }

    /// Opens the ways into the version 1 hierarchies, for a process that enters by itself.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub fn doors(&self) -> Result<Doors, Error> {
        let v1 = self.dirs.iter().filter(|dir| dir.kind == Kind::V1);
        let open = |dir: &Dir| {
            let path = dir.path.join("tasks");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(fd) => Ok((dir.path.clone(), fd)),
                Err(errno) => Err(Error::Enter {
                    path,
                    source: errno.into(),
                }),
            }
        };
        Ok(Doors(v1.map(open).collect::<Result<_, _>>()?))
    }

    /// Puts a process into every hierarchy. Being in one already is no error. It is slow: see [`Doors`].
    ///
    /// # Errors
    /// [`Error::Attach`] with the first directory that refused it.
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        let text = pid.to_string();
        for dir in &self.dirs {
            file::write_raw(&dir.path.join("cgroup.procs"), &text).map_err(|source| Error::Attach {
                pid,
                path: dir.path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// A descriptor of the version 2 directory, for `CLONE_INTO_CGROUP`; `None` without version 2.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_unified(&self) -> Result<Option<OwnedFd>, Error> {
        self.unified().map(|dir| open(&dir.path)).transpose()
    }
}

/// The directory of a plan as it is kept.
fn dir(directory: &Directory) -> Dir {
    Dir {
        kind: directory.kind,
        controllers: match directory.kind {
            Kind::V1 => directory.controllers.clone(),
            Kind::V2 => Vec::new(),
        },
        path: directory.path.clone(),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::Read {
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Refuses directories that are there already with processes in them, or frozen: a second container in the same cgroup, or a mistaken
/// path to one of the host's own.
fn check_unused(plan: &Plan) -> Result<(), Error> {
    for directory in plan.directories() {
        if !directory.path.exists() {
            continue;
        }
        let there = Cgroup {
            dirs: vec![Dir {
                kind: directory.kind,
                controllers: directory.controllers.clone(),
                path: directory.path.clone(),
            }],
            made: Vec::new(),
        };
        let path = directory.path.clone();
        let processes = there.pids()?.len();
        if processes > 0 {
            return Err(Error::InUse { path, processes });
        }
        if there.is_frozen()? {
            return Err(Error::Frozen { path });
        }
    }
    Ok(())
}

/// Makes a directory and what is missing above it.
fn make(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => {
            made.push(path.to_owned());
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            if let Some(parent) = path.parent() {
                make(parent, made)?;
            }
            match fs::create_dir(path) {
                Ok(()) => made.push(path.to_owned()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Make {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
            Ok(())
        }
        Err(source) => Err(Error::Make {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Gives an empty cpuset file its parent's value, down from the first ancestor that has one: without CPUs and
/// memory nodes no process can be attached (cgroup v1, `cpuset(7)`).
fn inherit(dir: &Path, mount: &Path, name: &str) -> Result<String, Error> {
    let path = dir.join(name);
    let value = file::read(&path)?.trim().to_owned();
    match dir.parent() {
        Some(parent) if value.is_empty() && dir != mount => {
            let value = inherit(parent, mount, name)?;
            file::write(&path, &value)?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

/// As [`inherit`] for a directory that was made just now and has nothing to be asked for: either its files are empty, or
/// `cgroup.clone_children` has given them what they get here.
fn inherit_new(dir: &Path, mount: &Path, name: &str) -> Result<(), Error> {
    match dir.parent() {
        Some(parent) if dir != mount => file::write(&dir.join(name), &inherit(parent, mount, name)?),
        _ => Ok(()),
    }
}

fn run(dir: &Path, step: &Step, writer: &mut Writer) -> Result<(), Error> {
    match step {
        Step::Write(assignment) => assign(dir, assignment, writer),
        Step::Pair(first, second) => match assign(dir, first, writer) {
            Ok(()) => assign(dir, second, writer),
            Err(error) if error.errno() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                // Raised together, the bound has to go up before what it bounds. If that fails as well, the
                // first refusal is the one that names the field at fault.
                if assign(dir, second, writer).is_err() {
                    Err(error)
                } else {
                    assign(dir, first, writer)
                }
            }
            Err(error) => Err(error),
        },
        Step::DeviceProgram(program) => install(dir, program),
    }
}

fn assign(dir: &Path, assignment: &Assignment, writer: &mut Writer) -> Result<(), Error> {
    let mut missing = None;
    for (name, value) in &assignment.choices {
        let path = dir.join(name);
        match writer.write(&path, value) {
            Ok(()) => return Ok(()),
            // Cgroup file systems answer the creation of a file, which an open for writing can look like, with
            // EACCES or EPERM; opened without creation, a missing file is ENOENT.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                missing.get_or_insert(Error::Write {
                    path,
                    value: value.clone(),
                    source: e,
                });
            }
            Err(source) => return Err(refused(dir, path, value, source)),
        }
    }
    match missing {
        Some(error) if !assignment.optional => Err(error),
        _ => Ok(()),
    }
}

/// The error of a refused write, with what is in use if that is why.
fn refused(dir: &Path, path: PathBuf, value: &str, source: io::Error) -> Error {
    let value = value.to_owned();
    if source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error())
        && let Some(usage) = file::number(&dir.join("memory.usage_in_bytes"))
    {
        return Error::MemoryInUse {
            path,
            value,
            usage,
            source,
        };
    }
    Error::Write { path, value, source }
}

/// Loads a device program and attaches it; those attached before are detached after it, so that there is no
/// moment without rules.
fn install(dir: &Path, program: &[bpf::Instruction]) -> Result<(), Error> {
    let fail = |action| {
        move |error: croze_sys::Error| Error::Program {
            action,
            path: dir.to_owned(),
            source: error.into(),
        }
    };
    let directory = open(dir)?;
    let old = bpf::device_programs(&directory).map_err(fail("list"))?;
    let loaded = bpf::load_device_program(program).map_err(fail("load"))?;
    bpf::attach_device_program(&directory, &loaded).map_err(fail("attach"))?;
    for program in old {
        bpf::detach_device_program(&directory, program).map_err(fail("detach"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_survives_its_record() {
        let v1 = |names: &[&str], path: &str| Dir {
            kind: Kind::V1,
            controllers: names.iter().map(|n| (*n).to_owned()).collect(),
            path: path.into(),
        };
        let unified = Dir {
            kind: Kind::V2,
            controllers: Vec::new(),
            path: "/u/c".into(),
        };
        let cgroup = Cgroup {
            dirs: vec![
                unified,
                v1(&["cpu", "cpuacct"], "/cpu/c"),
                v1(&["name=systemd"], "/s/c"),
            ],
            made: vec!["/cpu/c".into()],
        };
        let own = cgroup.own_part();
        assert_eq!(own.dirs().len(), 1);
        assert_eq!(own.dirs()[0].path, Path::new("/cpu/c"));
        let cgroup = Cgroup {
            made: Vec::new(),
            ..cgroup
        };
        let again = Cgroup::from_paths(&cgroup.paths());
        assert_eq!(again, cgroup);
        assert_eq!(again.dir_of("cpuacct").unwrap().path, Path::new("/cpu/c"));
        assert_eq!(again.dir_of("memory").unwrap().path, Path::new("/u/c"));
    }

    #[test]
    fn the_pair_is_written_in_the_order_the_kernel_takes() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Step::Pair(Assignment::new("f", "a", 1), Assignment::new("f", "b", 2));
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        run(dir.path(), &pair, &mut Writer::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "2");
    }

    #[test]
    fn the_first_file_that_exists_is_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("second"), "").unwrap();
        let mut assignment = Assignment::new("f", "first", "x");
        assert!(matches!(
            assign(dir.path(), &assignment, &mut Writer::default()),
            Err(Error::Write { .. })
        ));
        assignment.optional = true;
        assign(dir.path(), &assignment, &mut Writer::default()).unwrap();
        assignment.choices.push(("second".into(), "y".into()));
        assign(dir.path(), &assignment, &mut Writer::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("second")).unwrap(), "y");
    }

    #[test]
    fn empty_cpusets_are_filled_from_above() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        for (dir, value) in [
            (root.path(), "0-3\n"),
            (leaf.parent().unwrap(), "\n"),
            (&leaf, ""),
        ] {
            fs::write(dir.join("cpuset.cpus"), value).unwrap();
        }
        assert_eq!(inherit(&leaf, root.path(), "cpuset.cpus").unwrap(), "0-3");
        assert_eq!(fs::read_to_string(leaf.join("cpuset.cpus")).unwrap(), "0-3");
        assert!(
            fs::read_to_string(root.path().join("a/cpuset.cpus"))
                .unwrap()
                .starts_with("0-3")
        );
    }

    #[test]
    fn what_a_failed_create_made_goes_again() {
        let root = tempfile::tempdir().unwrap();
        let mut made = Vec::new();
        make(&root.path().join("a/b/c"), &mut made).unwrap();
        assert_eq!(made, ["a", "a/b", "a/b/c"].map(|p| root.path().join(p)));
        made.clear();
        make(&root.path().join("a/b"), &mut made).unwrap();
        assert!(made.is_empty());
    }
}
