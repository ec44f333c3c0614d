//! Other engines that call an OCI runtime: Debian's dockerd and podman, each with all of its state in the scene.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::bundle::populate_rootfs;
use crate::host::cgroup_directories;
use crate::image::LayerBuilder;
use crate::output::{Ended, Output};
use crate::programs::runtime_under_test;
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// A tar of a small root directory, as `docker import` and `podman import` take it.
fn rootfs_tar(scene: &Scene) -> Result<PathBuf> {
    let rootfs = scene.path("import-rootfs");
    populate_rootfs(&rootfs)?;
    let tar = scene.path("import.tar");
    fs::write(&tar, LayerBuilder::new().directory(&rootfs)?.finish()?)?;
    fs::remove_dir_all(&rootfs)?;
    Ok(tar)
}

/// dockerd in namespaces of its own (mounts, network), with the runtime under test as `croze`.
#[derive(Debug)]
pub struct Dockerd<'scene> {
    scene: &'scene Scene,
    process: Process,
    socket: String,
}

impl<'scene> Dockerd<'scene> {
    /// Starts it and imports a small image as `small`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(scene: &'scene Scene) -> Result<Self> {
        let socket = format!("unix://{}", scene.path("docker.sock").display());
        let path = |name: &str| scene.path(name).to_string_lossy().into_owned();
        // The daemon sets up a bridge and firewall rules, and mounts its layers: all of that goes with its namespaces.
        let mut command = reaper::command("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c"]);
        command
            .arg("ip link set lo up && exec dockerd \"$@\"")
            .arg("dockerd");
        command.args([
            "--host",
            &socket,
            "--data-root",
            &path("docker"),
            "--exec-root",
            &path("docker-exec"),
        ]);
        command.args([
            "--pidfile",
            &path("docker.pid"),
            "--bip",
            "10.99.0.1/24",
            "--storage-driver",
            "overlay2",
        ]);
        command.args([
            "--cgroup-parent",
            &scene.cgroup("docker"),
            "--config-file",
            &path("daemon.json"),
        ]);
        command
            .arg("--add-runtime")
            .arg(format!("croze={}", runtime_under_test()?.display()));
        fs::write(path("daemon.json"), "{}")?;
        let process = scene.start_daemon(command)?;
        let daemon = Self {
            scene,
            process,
            socket,
        };
        wait_until("dockerd answered", Duration::from_secs(60), || {
            if let Some(ended) = daemon.process.ended() {
                bail!("dockerd ended at once: {ended}: {}", daemon.process.stderr());
            }
            Ok((daemon.docker(&["version"])?.ended == Ended::Code(0)).then_some(()))
        })?;
        let tar = rootfs_tar(scene)?;
        daemon
            .docker(&["import", &tar.to_string_lossy(), "small"])?
            .success()?;
        Ok(daemon)
    }

    /// Calls the docker CLI.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn docker(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = reaper::command("docker");
        command.args(["--host", &self.socket]).args(arguments);
        command.env("DOCKER_CONFIG", self.scene.path("docker-config"));
        self.scene.run(command)
    }
}

impl Drop for Dockerd<'_> {
    fn drop(&mut self) {
        // What it leaves after this is found when the scene is struck.
        drop(self.process.signal(Signal::SIGTERM));
        drop(self.process.wait(Duration::from_secs(30)));
        remove_empty_cgroups(self.scene);
    }
}

/// podman with storage of its own, cgroupfs and the runtime under test.
#[derive(Debug)]
pub struct Podman<'scene> {
    scene: &'scene Scene,
    configuration: PathBuf,
    /// The cgroups of podman's monitors were there already: then they are not ours to remove.
    had_cgroups: bool,
}

impl<'scene> Podman<'scene> {
    /// Prepares the configuration and imports a small image as `small`.
    ///
    /// # Errors
    /// podman fails.
    pub fn new(scene: &'scene Scene) -> Result<Self> {
        let configuration = scene.path("containers.conf");
        fs::write(
            &configuration,
            format!(
                "[containers]\ndefault_ulimits = []\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \
                 \"file\"\nlock_type = \"file\"\ntmp_dir = \"{}\"\n",
                scene.path("podman-tmp").display()
            ),
        )?;
        let podman = Self {
            scene,
            configuration,
            had_cgroups: !monitor_cgroups().is_empty(),
        };
        let tar = rootfs_tar(scene)?;
        podman
            .call(&["import", &tar.to_string_lossy(), "small"])?
            .success()?;
        Ok(podman)
    }

    /// Calls podman.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = reaper::command("podman");
        command.env("CONTAINERS_CONF", &self.configuration);
        command
            .arg("--root")
            .arg(self.scene.path("podman"))
            .arg("--runroot")
            .arg(self.scene.path("podman-run"));
        command.args(["--storage-driver", "overlay"]);
        command
            .arg("--runtime")
            .arg(runtime_under_test()?)
            .args(arguments);
        self.scene.run(command)
    }

    /// The flags of `run` that keep all traces within the scene.
    #[must_use]
    pub fn run_flags(&self) -> [String; 2] {
        ["--cgroup-parent".to_owned(), self.scene.cgroup("podman")]
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        drop(self.call(&["rm", "--all", "--force", "--time", "0"]));
        // podman keeps its storage's directory mounted on itself between calls.
        let storage = self.scene.path("podman/overlay");
        nix::mount::umount2(&storage, nix::mount::MntFlags::MNT_DETACH).ok();
        remove_empty_cgroups(self.scene);
        if !self.had_cgroups {
            remove_cgroups(monitor_cgroups);
        }
    }
}

/// Where podman puts its monitors; a name that no flag changes.
fn monitor_cgroups() -> Vec<PathBuf> {
    cgroup_directories(|path| path.to_string_lossy().contains("/libpod_parent"))
}

/// Engines leave the parent cgroup that they were told to use; it is the scene's to remove, if nothing is in it.
fn remove_empty_cgroups(scene: &Scene) {
    let mark = scene.cgroup("");
    remove_cgroups(|| cgroup_directories(|path| path.to_string_lossy().contains(&mark)));
}

/// Removes what can be removed, until all is gone: a monitor that is about to end keeps its cgroup busy for a moment.
fn remove_cgroups(find: impl Fn() -> Vec<PathBuf>) {
    let gone = wait_until("the cgroups were gone", Duration::from_secs(5), || {
        let found = find();
        for directory in &found {
            fs::remove_dir(directory).ok();
        }
        Ok(found.is_empty().then_some(()))
    });
    // What stays all the same is found when the scene is struck.
    drop(gone);
}
