//! One test's place on the host.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Leftovers, Snapshot, idle_cgroups_of_croze};
use crate::output::Output;
use crate::reaper::{self, PATIENCE, Process};
use crate::wait::wait_until;

/// How long a program may take to be gone after it was told to, before it counts as left behind.
const GRACE: Duration = Duration::from_secs(5);

/// A directory, a mark that every name made by the test carries, and the state of the host at its start.
#[derive(Debug)]
pub struct Scene {
    directory: PathBuf,
    mark: String,
    marks: RefCell<Vec<String>>,
    /// A daemon of ours was started: its cgroups do not carry the scene's mark.
    had_daemon: Cell<bool>,
    logs: RefCell<Vec<PathBuf>>,
    started: Cell<u32>,
    before: Snapshot,
}

impl Scene {
    /// Runs a test: sets the scene, calls `act`, cleans up, and compares the host.
    ///
    /// # Errors
    /// The test's own, with the logs of the daemons it started; or what was left behind.
    pub fn play(act: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let scene = Self::set()?;
        let result = catch_unwind(AssertUnwindSafe(|| act(&scene)));
        let failed = !matches!(result, Ok(Ok(())));
        let logs = if failed { scene.logs() } else { String::new() };
        let left = scene.strike();
        match result {
            Ok(Ok(())) => left,
            // The logs stand last, below the error and its causes.
            Ok(Err(error)) => {
                let left = left.err().map(|left| format!("\n{left}")).unwrap_or_default();
                bail!("{error:?}{left}{logs}")
            }
            Err(payload) => {
                drop(std::io::Write::write_all(&mut std::io::stderr(), logs.as_bytes()));
                resume_unwind(payload)
            }
        }
    }

    fn set() -> Result<Self> {
        if !rustix::process::getuid().is_root() {
            bail!("these tests need root: they make namespaces, mounts and cgroups");
        }
        reaper::begin()?;
        // Short, because paths of unix sockets are (107 bytes).
        let scratch = std::env::var_os("CROZE_TEST_SCRATCH").unwrap_or_else(|| "/tmp".into());
        let directory = tempfile::Builder::new()
            .prefix("croze-test-")
            .tempdir_in(scratch)?
            .keep();
        let name = directory
            .file_name()
            .context("a directory has a name")?
            .to_string_lossy()
            .into_owned();
        let mark = name.to_lowercase();
        // A root in a user namespace is nobody outside, and has to reach its bundle.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o711))?;
        fs::create_dir(directory.join("log"))?;
        Ok(Self {
            directory,
            marks: RefCell::new(vec![mark.clone(), name]),
            mark,
            had_daemon: Cell::new(false),
            logs: RefCell::default(),
            started: Cell::new(0),
            before: Snapshot::take()?,
        })
    }

    /// The test's directory; it goes with the test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in the test's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A new directory in the test's directory.
    ///
    /// # Errors
    /// It cannot be made, or is there already.
    pub fn new_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A name that only this test has: for containers, cgroups, images.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.mark)
    }

    /// A cgroup path of the test's own. It has no parent of its own, which nobody would remove.
    #[must_use]
    pub fn cgroup(&self, name: &str) -> String {
        format!("/{}-{name}", self.mark)
    }

    /// From now on a cgroup whose path contains `fragment` counts as the test's.
    pub fn watch_cgroup(&self, fragment: &str) {
        self.marks.borrow_mut().push(fragment.to_owned());
    }

    /// From now on cgroups of crozed that nobody uses count as left behind.
    pub(crate) fn watch_croze_cgroups(&self) {
        self.had_daemon.set(true);
    }

    /// From now on this file is shown if the test fails.
    pub fn show_on_failure(&self, log: PathBuf) {
        self.logs.borrow_mut().push(log);
    }

    /// A number that this scene has not used yet.
    pub(crate) fn next_number(&self) -> u32 {
        let number = self.started.get() + 1;
        self.started.set(number);
        number
    }

    /// Starts a program and lets it run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, command: Command) -> Result<Process> {
        let number = self.next_number();
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Process::start(
            command,
            &self.directory.join("log").join(format!("{number:03}-{program}")),
        )
    }

    /// Starts a program whose output is shown if the test fails.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_daemon(&self, command: Command) -> Result<Process> {
        let process = self.start(command)?;
        let stem = format!("{:03}-", self.started.get());
        for entry in fs::read_dir(self.path("log"))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&stem) {
                self.show_on_failure(entry.path());
            }
        }
        Ok(process)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It cannot be started, or takes longer than a minute.
    pub fn run(&self, command: Command) -> Result<Output> {
        self.start(command)?.wait(PATIENCE)
    }

    /// Runs a program by its words, with nothing on its standard input.
    ///
    /// # Errors
    /// As [`Scene::run`].
    pub fn call<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("a command has a first word")?;
        let mut command = reaper::command(program);
        command.args(arguments);
        self.run(command)
    }

    /// Compiles a C program of the suite's own with libseccomp, and gives its path.
    ///
    /// # Errors
    /// There is no compiler or no libseccomp, or the program is wrong.
    pub fn compile(&self, source: &str, name: &str) -> Result<PathBuf> {
        let program = self.path(name);
        self.call(&[
            "cc",
            "-Wall",
            "-O1",
            "-o",
            &program.to_string_lossy(),
            source,
            "-lseccomp",
        ])?
        .success()
        .with_context(|| format!("compiling {source}: `make setup-tests` installs libseccomp-dev"))?;
        Ok(program)
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for log in self.logs.borrow().iter() {
            let content = fs::read(log).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(60)..)
                .unwrap_or_default()
                .join("\n");
            text.push_str(&format!("\n--- {}\n{tail}", log.display()));
        }
        text
    }

    /// Removes all that is left, in the order in which it can be removed; what had to be removed is the error.
    fn strike(self) -> Result<()> {
        let look = || self.before.leftovers(&self.directory, &self.marks.borrow());
        // Only what was idle all the time is forgotten: another test's daemon may be in the middle of something.
        let mut forgotten = if self.had_daemon.get() {
            idle_cgroups_of_croze()
        } else {
            BTreeSet::new()
        };
        let settled = wait_until("nothing was left", GRACE, || {
            if !forgotten.is_empty() {
                let idle = idle_cgroups_of_croze();
                forgotten.retain(|path| idle.contains(path));
            }
            Ok((forgotten.is_empty() && look()?.is_empty()).then_some(()))
        });
        let mut left = if settled.is_ok() {
            Leftovers::default()
        } else {
            look()?
        };
        left.cgroups.extend(forgotten);
        for (pid, _) in &left.processes {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        for mount in &left.mounts {
            umount2(mount, MntFlags::MNT_DETACH).ok();
        }
        // Each look tries again: a cgroup stays busy until its killed processes are reaped.
        wait_until("the cgroups were removed", GRACE, || {
            for cgroup in &left.cgroups {
                fs::remove_dir(cgroup).ok();
            }
            Ok(left.cgroups.iter().all(|cgroup| !cgroup.exists()).then_some(()))
        })
        .with_context(|| format!("removing what the test left behind:\n{left}"))?;
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("removing the test's directory {}", self.directory.display()))?;
        if left.is_empty() {
            Ok(())
        } else {
            bail!("the test left behind:\n{left}")
        }
    }
}
