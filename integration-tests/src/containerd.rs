//! Debian's containerd, with all of its state in the scene, driven by `ctr`.
//!
//! ```text
//!   ctr ──socket──▶ containerd ──▶ containerd-shim-runc-v2 ──▶ the runtime under test
//! ```
//!
//! Only the shims' sockets are elsewhere, below `/run/containerd/s`: no option moves them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::image::{ImageLayout, LayerBuilder};
use crate::output::{Ended, Output};
use crate::peers::{Keeper, Network, remove_empty_cgroups};
use crate::programs::runtime_under_test;
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// A containerd; with an image `small:latest` unless it was started in a place of its own.
#[derive(Debug)]
pub struct Containerd<'scene> {
    scene: &'scene Scene,
    keeper: Keeper,
    process: Process,
    configuration: PathBuf,
    socket: PathBuf,
    runtime: PathBuf,
}

impl<'scene> Containerd<'scene> {
    /// Starts it with all of its state in the scene, and imports the image.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(scene: &'scene Scene) -> Result<Self> {
        let daemon = Self::start_in(scene, scene.directory(), Network::Own)?;
        let layout = ImageLayout::small(scene)?.write(scene, "containerd-image", "latest")?;
        let tar = scene.path("containerd-image.tar");
        fs::write(&tar, LayerBuilder::new().directory(&layout)?.finish()?)?;
        let tar = tar.to_string_lossy();
        daemon
            .ctr(&["images", "import", "--base-name", "small", &tar])?
            .success()?;
        Ok(daemon)
    }

    /// Starts it with its images and snapshots below a directory, and without an image.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_in(scene: &'scene Scene, storage: &Path, network: Network<'_>) -> Result<Self> {
        let socket = scene.path("containerd.sock");
        let configuration = scene.path("containerd.toml");
        let disabled = ["grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs"]
            .map(|name| format!("\"io.containerd.{name}\""))
            .join(", ");
        fs::write(
            &configuration,
            format!(
                "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [{disabled}]\n[grpc]\naddress = \
                 \"{}\"\n",
                storage.join("containerd").display(),
                scene.path("containerd-run").display(),
                socket.display()
            ),
        )?;
        let keeper = Keeper::new(scene, network)?;
        let process = Self::launch(scene, &keeper, &configuration)?;
        let daemon = Self {
            scene,
            keeper,
            process,
            configuration,
            socket,
            runtime: runtime_under_test()?,
        };
        daemon.answers()?;
        Ok(daemon)
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    fn launch(scene: &Scene, keeper: &Keeper, configuration: &Path) -> Result<Process> {
        let mut command = keeper.command();
        command.args(["containerd", "--config"]).arg(configuration);
        scene.start_daemon(command)
    }

    fn answers(&self) -> Result<()> {
        wait_until("containerd answered", Duration::from_secs(60), || {
            if let Some(ended) = self.process.ended() {
                bail!("containerd ended at once: {ended}: {}", self.process.stderr());
            }
            Ok((self.ctr(&["version"])?.ended == Ended::Code(0)).then_some(()))
        })
    }

    /// Ends the daemon by a signal and starts it again in the same namespaces.
    ///
    /// # Errors
    /// It does not end, or does not answer.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.process.wait(Duration::from_secs(30))?;
        self.process = Self::launch(self.scene, &self.keeper, &self.configuration)?;
        self.answers()
    }

    /// A command line of ctr.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = reaper::command("ctr");
        command.arg("--address").arg(&self.socket).args(arguments);
        command
    }

    /// Calls ctr.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        self.scene.run(self.command(arguments))
    }

    /// The words of `ctr run` with the runtime under test, its state and the container's cgroup in the scene, up to where flags of the
    /// test's, the image, the id and the command follow.
    #[must_use]
    pub fn run_words(&self, name: &str) -> Vec<String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut words = vec!["run".to_owned()];
        for (flag, value) in [
            ("--runc-binary", text(self.runtime.clone())),
            ("--runc-root", text(self.scene.path("containerd-rt"))),
            ("--fifo-dir", text(self.scene.path("fifo"))),
            ("--cgroup", self.scene.cgroup(name)),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        words
    }

    /// The bundle of a container that runs.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.scene
            .path("containerd-run/io.containerd.runtime.v2.task/default")
            .join(id)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // What it leaves after this is found when the scene is struck.
        if let Ok(tasks) = self.ctr(&["tasks", "list", "--quiet"]) {
            for id in tasks.stdout.lines() {
                drop(self.ctr(&["tasks", "kill", "--signal", "KILL", id]));
                drop(self.ctr(&["tasks", "delete", "--force", id]));
            }
        }
        drop(self.process.signal(Signal::SIGTERM));
        drop(self.process.wait(Duration::from_secs(30)));
        self.keeper.end();
        remove_empty_cgroups(self.scene);
    }
}
