//! The daemon under directories of its own, and the CLI that talks to it.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::namespace::NetworkNamespace;
use crate::output::{Ended, Output};
use crate::programs::{bin, runtime_under_test};
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// A running daemon. When this value goes, its containers are removed and it is told to stop.
#[derive(Debug)]
pub struct Crozed<'scene> {
    scene: &'scene Scene,
    runtime: PathBuf,
    root: PathBuf,
    run_root: PathBuf,
    socket: PathBuf,
    configuration: PathBuf,
    /// The process id of the sleeper of the network namespace it runs in; `None`: the machine's own, where it makes no bridge.
    namespace: RefCell<Option<i32>>,
    process: RefCell<Option<Process>>,
    /// What the daemon finds in its environment besides.
    environment: RefCell<Vec<(String, String)>>,
    /// The soft limit of open files that it is started with; `None`: this process's own.
    open_files: Option<u32>,
}

impl<'scene> Crozed<'scene> {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It is not built, or does not answer.
    pub fn start(scene: &'scene Scene) -> Result<Self> {
        Self::start_with_runtime(scene, &runtime_under_test()?)
    }

    /// The same with this OCI runtime.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_with_runtime(scene: &'scene Scene, runtime: &Path) -> Result<Self> {
        Self::begin(scene, scene.directory(), runtime, "")
    }

    /// The same with this text as its croze.toml.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_configured(scene: &'scene Scene, configuration: &str) -> Result<Self> {
        Self::begin(scene, scene.directory(), &runtime_under_test()?, configuration)
    }

    /// Starts the daemon with croze-rt, and all that it stores below this directory.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_in(scene: &'scene Scene, storage: &Path) -> Result<Self> {
        Self::begin(scene, storage, &bin("croze-rt")?, "")
    }

    /// The same in a network namespace.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_inside(
        scene: &'scene Scene,
        storage: &Path,
        namespace: &NetworkNamespace<'_>,
    ) -> Result<Self> {
        let daemon = Self::placed(scene, storage, &bin("croze-rt")?);
        daemon.namespace.replace(Some(namespace.pid()));
        daemon.first_launch("")
    }

    /// Starts the daemon with this directory for what a boot forgets.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_with_run_root(scene: &'scene Scene, run_root: PathBuf) -> Result<Self> {
        let mut daemon = Self::placed(scene, scene.directory(), &runtime_under_test()?);
        daemon.run_root = run_root;
        daemon.first_launch("")
    }

    /// Starts the daemon with this soft limit of open files.
    ///
    /// # Errors
    /// As [`Crozed::start`].
    pub fn start_with_open_files(scene: &'scene Scene, soft: u32) -> Result<Self> {
        let mut daemon = Self::placed(scene, scene.directory(), &runtime_under_test()?);
        daemon.open_files = Some(soft);
        daemon.first_launch("")
    }

    fn begin(scene: &'scene Scene, storage: &Path, runtime: &Path, configuration: &str) -> Result<Self> {
        Self::placed(scene, storage, runtime).first_launch(configuration)
    }

    fn placed(scene: &'scene Scene, storage: &Path, runtime: &Path) -> Self {
        Self {
            configuration: storage.join("croze.toml"),
            runtime: runtime.to_owned(),
            scene,
            root: storage.join("root"),
            run_root: storage.join("run"),
            socket: storage.join("croze.sock"),
            namespace: RefCell::new(None),
            process: RefCell::new(None),
            environment: RefCell::default(),
            open_files: None,
        }
    }

    fn first_launch(self, configuration: &str) -> Result<Self> {
        self.scene.watch_croze_cgroups();
        self.configure(configuration)?;
        self.launch()?;
        Ok(self)
    }

    /// Writes the croze.toml that the next [`Crozed::launch`] reads.
    ///
    /// # Errors
    /// The disk fails.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        Ok(std::fs::write(&self.configuration, configuration)?)
    }

    /// Sets the variables that the next [`Crozed::launch`] gives the daemon besides this process's own.
    pub fn set_environment(&self, variables: &[(&str, &str)]) {
        let owned = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.environment.replace(owned.collect());
    }

    /// A daemon over these directories that is not started yet: see [`Crozed::launch`].
    #[must_use]
    pub fn prepare(scene: &'scene Scene, runtime: &Path, root: &Path, run_root: &Path) -> Self {
        scene.watch_croze_cgroups();
        let mut daemon = Self::placed(scene, scene.directory(), runtime);
        root.clone_into(&mut daemon.root);
        run_root.clone_into(&mut daemon.run_root);
        daemon
    }

    /// Starts the daemon in a network namespace, from then on.
    ///
    /// # Errors
    /// It does not answer.
    pub fn launch_in(&self, namespace: &NetworkNamespace<'_>) -> Result<()> {
        self.namespace.replace(Some(namespace.pid()));
        self.launch()
    }

    /// Starts the daemon again, after [`Crozed::kill`] or [`Crozed::stop`].
    ///
    /// # Errors
    /// It does not answer.
    pub fn launch(&self) -> Result<()> {
        if !self.configuration.exists() {
            self.configure("")?;
        }
        let mut command = match *self.namespace.borrow() {
            Some(pid) => {
                let program = self.program()?;
                let mut command = reaper::command("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--");
                command.arg(program.get_program()).args(program.get_args());
                command
            }
            None => {
                let mut command = self.program()?;
                command.args(["--default-network", "none"]);
                command
            }
        };
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--run-root")
            .arg(&self.run_root);
        command
            .arg("--socket")
            .arg(&self.socket)
            .arg("--runtime")
            .arg(&self.runtime)
            .arg("--config")
            .arg(&self.configuration);
        command.envs(
            self.environment
                .borrow()
                .iter()
                .map(|(name, value)| (name, value)),
        );
        let process = self.scene.start_daemon(command)?;
        wait_until("crozed answered", Duration::from_secs(20), || {
            if let Some(ended) = process.ended() {
                bail!("crozed ended at once: {ended}: {}", process.stderr());
            }
            if UnixStream::connect(&self.socket).is_err() {
                return Ok(None);
            }
            Ok((self.croze(&["info"])?.ended == Ended::Code(0)).then_some(()))
        })?;
        self.process.replace(Some(process));
        Ok(())
    }

    /// The daemon's process id, while it runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        self.process.borrow().as_ref().map(Process::pid)
    }

    /// crozed, in a view of the cgroups that its runtime understands: crun refuses hosts that have both versions mounted.
    fn program(&self) -> Result<Command> {
        let crozed = bin("crozed")?;
        let hybrid = std::fs::read_to_string("/proc/self/mountinfo")?.contains(" /sys/fs/cgroup/unified ");
        let plain = !hybrid || self.runtime.file_name().is_none_or(|name| name != "crun");
        let limit = self.open_files.map(|soft| format!("ulimit -Sn {soft} && "));
        if plain && limit.is_none() {
            return Ok(reaper::command(crozed));
        }
        let limit = limit.unwrap_or_default();
        let mut command = if plain {
            let mut command = reaper::command("sh");
            command.args(["-c", &format!("{limit}exec \"$@\"")]);
            command
        } else {
            let mut command = reaper::command("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg(format!("umount /sys/fs/cgroup/unified && {limit}exec \"$@\""));
            command
        };
        command.arg("sh").arg(crozed);
        Ok(command)
    }

    /// The same daemon on another socket.
    #[must_use]
    pub fn on_socket(mut self, name: &str) -> Self {
        self.socket = self.scene.path(name);
        self
    }

    /// What the running daemon has said on standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process
            .borrow()
            .as_ref()
            .map(Process::stderr)
            .unwrap_or_default()
    }

    /// Where it keeps what a boot forgets.
    #[must_use]
    pub fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// Where it keeps what lasts.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Kills the daemon as a power cut would: it learns nothing of it.
    ///
    /// # Errors
    /// It does not die.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL).map(drop)
    }

    /// Tells the daemon to stop and waits for it.
    ///
    /// # Errors
    /// It does not end with exit code 0.
    pub fn stop(&self) -> Result<()> {
        match self.end(Signal::SIGTERM)? {
            Some(output) => output.success().map(drop),
            None => Ok(()),
        }
    }

    fn end(&self, signal: Signal) -> Result<Option<Output>> {
        let Some(process) = self.process.take() else {
            return Ok(None);
        };
        process.signal(signal)?;
        process.wait(Duration::from_secs(20)).map(Some)
    }

    /// A command line of the CLI.
    ///
    /// # Errors
    /// It is not built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = reaper::command(bin("croze")?);
        command.arg("--host").arg(self.host()).args(arguments);
        // No login of whoever runs the tests.
        command
            .env_remove("REGISTRY_AUTH_FILE")
            .env("DOCKER_CONFIG", self.scene.path("docker-config"))
            .env("XDG_RUNTIME_DIR", self.scene.path("xdg"))
            .env("HOME", self.scene.path("home"));
        Ok(command)
    }

    /// The words of a CLI call, for a shell.
    ///
    /// # Errors
    /// It is not built.
    pub fn shell_words(&self, arguments: &str) -> Result<String> {
        Ok(format!(
            "{} --host {} {arguments}",
            bin("croze")?.display(),
            self.host()
        ))
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Calls the CLI and waits for it.
    ///
    /// # Errors
    /// It cannot be started or does not end. That it fails is in the output.
    pub fn croze(&self, arguments: &[&str]) -> Result<Output> {
        self.scene.run(self.command(arguments)?)
    }

    /// Calls the CLI and expects success.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, arguments: &[&str]) -> Result<Output> {
        self.croze(arguments)?.success()
    }

    /// Ids of the images there are, but for the one that the daemon carries itself.
    ///
    /// # Errors
    /// `images` fails.
    pub fn images(&self) -> Result<Vec<String>> {
        let listed = self.ok(&["images", "--no-trunc"])?;
        let others = listed
            .stdout
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with("croze/hello"));
        Ok(others
            .filter_map(|line| Some(line.split_whitespace().nth(2)?.to_owned()))
            .collect())
    }

    /// What `inspect` says of one container.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let answer = self.ok(&["inspect", container])?.json()?;
        Ok(answer.get(0).cloned().unwrap_or(answer))
    }

    /// Full ids of all containers. The cgroups that carry them count as the test's from then on.
    ///
    /// # Errors
    /// `ps` fails.
    pub fn container_ids(&self) -> Result<Vec<String>> {
        let ids: Vec<String> = self
            .ok(&["ps", "-a", "-q", "--no-trunc"])?
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();
        for id in &ids {
            self.scene.watch_cgroup(id);
        }
        Ok(ids)
    }

    /// The host's pid of a container's first process: the daemon's word, checked against the container's cgroup.
    ///
    /// # Errors
    /// `inspect` has no pid.
    pub fn pid(&self, container: &str) -> Result<i32> {
        let facts = self.inspect(container)?;
        let pid = find(&facts, &["pid", "Pid"]).and_then(Value::as_i64);
        Ok(i32::try_from(pid.with_context(|| {
            format!("inspect of {container} has a pid: {facts}")
        })?)?)
    }

    /// Removes every container and stops the daemon.
    ///
    /// # Errors
    /// Either fails.
    pub fn finish(&self) -> Result<()> {
        let ids = self.container_ids()?;
        if !ids.is_empty() {
            let mut words = vec!["rm", "-f"];
            words.extend(ids.iter().map(String::as_str));
            self.ok(&words)?;
        }
        self.stop()
    }
}

impl Drop for Crozed<'_> {
    fn drop(&mut self) {
        if self.process.borrow().is_none() {
            return;
        }
        // The scene finds and reports what could not be removed.
        if self.finish().is_err() {
            drop(self.end(Signal::SIGKILL));
        }
    }
}

/// The first value under any of these keys, at any depth.
pub(crate) fn find<'value>(value: &'value Value, keys: &[&str]) -> Option<&'value Value> {
    match value {
        Value::Object(map) => keys
            .iter()
            .find_map(|key| map.get(*key))
            .or_else(|| map.values().find_map(|inner| find(inner, keys))),
        Value::Array(list) => list.iter().find_map(|inner| find(inner, keys)),
        _ => None,
    }
}
