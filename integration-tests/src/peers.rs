//! Other engines that call an OCI runtime: Debian's dockerd and podman, each with all of its state in the scene.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bundle::populate_rootfs;
use crate::host::{cgroup_directories, descendants};
use crate::image::LayerBuilder;
use crate::namespace::NetworkNamespace;
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

/// dockerd's bridge: apart from the addresses of a [`NetworkNamespace`].
const BRIDGE: &str = "10.98.0.1/24";

/// Which network namespace a daemon lives in.
#[derive(Clone, Copy, Debug)]
pub enum Network<'namespace> {
    /// One made for it: what it does to interfaces and the firewall goes with it.
    Own,
    /// The test process's, which is then itself in one that was made for it.
    Shared,
    /// This one.
    In(&'namespace NetworkNamespace<'namespace>),
}

/// dockerd in namespaces of its own (mounts, network), with the runtime under test as `croze`.
#[derive(Debug)]
pub struct Dockerd<'scene> {
    scene: &'scene Scene,
    /// What the daemon does to mounts, interfaces and the firewall goes with this one's namespaces.
    keeper: Keeper,
    process: Process,
    words: Vec<String>,
    /// Found before all other programs.
    programs: Option<PathBuf>,
    socket: String,
}

impl<'scene> Dockerd<'scene> {
    /// Starts it and imports a small image as `small`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(scene: &'scene Scene) -> Result<Self> {
        Self::start_with(scene, &[])
    }

    /// The same with further flags.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_with(scene: &'scene Scene, flags: &[&str]) -> Result<Self> {
        Self::begin(scene, scene.directory(), Network::Own, flags, None)?.with_image()
    }

    /// The same with the runtime under test for everything: as the default, and as the `runc` that BuildKit looks for, which
    /// notes its calls in the scene's file `runc-calls`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_with_nothing_else(scene: &'scene Scene) -> Result<Self> {
        let programs = scene.new_directory("programs")?;
        let runc = programs.join("runc");
        let (calls, runtime) = (scene.path("runc-calls"), runtime_under_test()?);
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n",
            calls.display(),
            runtime.display()
        );
        fs::write(&runc, script)?;
        fs::set_permissions(&runc, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let flags = ["--default-runtime", "croze"];
        Self::begin(scene, scene.directory(), Network::Own, &flags, Some(programs))?.with_image()
    }

    /// Starts it with all that it stores below a directory, and no image.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_in(scene: &'scene Scene, storage: &Path, network: Network<'_>) -> Result<Self> {
        Self::begin(scene, storage, network, &[], None)
    }

    fn begin(
        scene: &'scene Scene,
        storage: &Path,
        network: Network<'_>,
        flags: &[&str],
        programs: Option<PathBuf>,
    ) -> Result<Self> {
        let path = |name: &str| storage.join(name).to_string_lossy().into_owned();
        let socket = format!("unix://{}", path("docker.sock"));
        let runtime = format!("croze={}", runtime_under_test()?.display());
        fs::write(path("daemon.json"), "{}")?;
        let mut words: Vec<String> = vec!["dockerd".to_owned()];
        for (flag, value) in [
            ("--host", socket.clone()),
            ("--data-root", path("docker")),
            ("--exec-root", path("docker-exec")),
            ("--pidfile", path("docker.pid")),
            ("--bip", BRIDGE.to_owned()),
            ("--storage-driver", "overlay2".to_owned()),
            ("--cgroup-parent", scene.cgroup("docker")),
            ("--config-file", path("daemon.json")),
            ("--add-runtime", runtime),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        let keeper = Keeper::new(scene, network)?;
        let process = Self::launch(scene, &keeper, &words, programs.as_deref())?;
        let daemon = Self {
            scene,
            keeper,
            process,
            words,
            programs,
            socket,
        };
        daemon.answers()?;
        Ok(daemon)
    }

    fn launch(scene: &Scene, keeper: &Keeper, words: &[String], programs: Option<&Path>) -> Result<Process> {
        let mut command = keeper.command();
        command.args(words);
        if let Some(programs) = programs {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
        }
        scene.start_daemon(command)
    }

    fn answers(&self) -> Result<()> {
        wait_until("dockerd answered", Duration::from_secs(60), || {
            if let Some(ended) = self.process.ended() {
                bail!("dockerd ended at once: {ended}: {}", self.process.stderr());
            }
            Ok((self.docker(&["version"])?.ended == Ended::Code(0)).then_some(()))
        })
    }

    fn with_image(self) -> Result<Self> {
        let tar = rootfs_tar(self.scene)?;
        self.docker(&["import", &tar.to_string_lossy(), "small"])?
            .success()?;
        Ok(self)
    }

    /// Ends the daemon by a signal and starts it again in the same namespaces.
    ///
    /// # Errors
    /// It does not end, or does not answer.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.process.wait(Duration::from_secs(60))?;
        self.process = Self::launch(self.scene, &self.keeper, &self.words, self.programs.as_deref())?;
        self.answers()
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// A command line of the docker CLI.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = reaper::command("docker");
        command.args(["--host", &self.socket]).args(arguments);
        command.env("DOCKER_CONFIG", self.scene.path("docker-config"));
        command
    }

    /// Calls the docker CLI.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn docker(&self, arguments: &[&str]) -> Result<Output> {
        self.scene.run(self.command(arguments))
    }
}

impl Drop for Dockerd<'_> {
    fn drop(&mut self) {
        // What it leaves after this is found when the scene is struck.
        drop(self.process.signal(Signal::SIGTERM));
        drop(self.process.wait(Duration::from_secs(30)));
        self.keeper.end();
        remove_empty_cgroups(self.scene);
    }
}

/// A mount and a network namespace that a daemon lives in, kept by a process that sleeps: they outlive the daemon, so that it can be
/// started again in them.
#[derive(Debug)]
pub(crate) struct Keeper {
    sleeper: Process,
}

impl Keeper {
    pub(crate) fn new(scene: &Scene, network: Network<'_>) -> Result<Self> {
        let mut command = match network {
            Network::In(namespace) => namespace.command("unshare"),
            Network::Own | Network::Shared => reaper::command("unshare"),
        };
        command.args(["--mount", "--propagation", "private"]);
        let script = if matches!(network, Network::Own) {
            command.arg("--net");
            "ip link set lo up && echo ready && exec sleep infinity"
        } else {
            "echo ready && exec sleep infinity"
        };
        command.args(["sh", "-c", script]);
        let sleeper = scene.start(command)?;
        wait_until(
            "the daemon's namespaces are there",
            Duration::from_secs(10),
            || Ok(sleeper.stdout().contains("ready").then_some(())),
        )?;
        Ok(Self { sleeper })
    }

    /// A command in the namespaces; its words are appended.
    pub(crate) fn command(&self) -> Command {
        let mut command = reaper::command("nsenter");
        let pid = self.sleeper.pid().to_string();
        command.args(["--target", &pid, "--mount", "--net", "--"]);
        command
    }

    /// Gives the namespaces up.
    pub(crate) fn end(&self) {
        // What survives is found when the scene is struck.
        drop(self.sleeper.signal(Signal::SIGKILL));
        drop(self.sleeper.wait(Duration::from_secs(5)));
    }
}

/// podman with storage of its own, cgroupfs and the runtime under test.
#[derive(Debug)]
pub struct Podman<'scene> {
    scene: &'scene Scene,
    storage: PathBuf,
    configuration: PathBuf,
    /// `None`: the one that podman chooses.
    runtime: Option<PathBuf>,
    /// The cgroups of podman's monitors were there already: then they are not ours to remove.
    had_cgroups: bool,
    /// The process id of the sleeper of the network namespace it runs in.
    namespace: Option<i32>,
}

impl<'scene> Podman<'scene> {
    /// Prepares the configuration and imports a small image as `small`.
    ///
    /// # Errors
    /// podman fails.
    pub fn new(scene: &'scene Scene) -> Result<Self> {
        let podman = Self::new_in(scene, scene.directory(), Some(runtime_under_test()?))?;
        let tar = rootfs_tar(scene)?;
        podman
            .call(&["import", &tar.to_string_lossy(), "small"])?
            .success()?;
        Ok(podman)
    }

    /// The same with all that it stores below a directory, no image, and this runtime or podman's own choice.
    ///
    /// # Errors
    /// The disk fails.
    pub fn new_in(scene: &'scene Scene, storage: &Path, runtime: Option<PathBuf>) -> Result<Self> {
        let configuration = storage.join("containers.conf");
        fs::write(
            &configuration,
            format!(
                "[containers]\ndefault_ulimits = []\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \
                 \"file\"\nlock_type = \"file\"\ntmp_dir = \"{}\"\n",
                storage.join("podman-tmp").display()
            ),
        )?;
        Ok(Self {
            scene,
            storage: storage.to_owned(),
            configuration,
            runtime,
            had_cgroups: !monitor_cgroups().is_empty(),
            namespace: None,
        })
    }

    /// The same in a network namespace, with the addresses in use noted in its storage.
    ///
    /// # Errors
    /// The disk fails.
    pub fn inside(mut self, namespace: &NetworkNamespace<'_>) -> Result<Self> {
        let networks = self.storage.join("podman-networks");
        fs::create_dir_all(&networks)?;
        let default = json!({
            "cniVersion": "0.4.0",
            "name": "podman",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni-podman0",
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.storage.join("podman-addresses"),
                        "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
                { "type": "firewall" },
                { "type": "tuning" },
            ],
        });
        fs::write(networks.join("87-podman.conflist"), default.to_string())?;
        let section = format!(
            "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{}\"\n",
            networks.display()
        );
        let before = fs::read_to_string(&self.configuration)?;
        fs::write(&self.configuration, before + &section)?;
        self.namespace = Some(namespace.pid());
        Ok(self)
    }

    /// A command line of podman.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.namespace {
            Some(pid) => {
                let mut command = reaper::command("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net"));
                command.args(["--", "podman"]);
                command
            }
            None => reaper::command("podman"),
        };
        command.env("CONTAINERS_CONF", &self.configuration);
        command
            .arg("--root")
            .arg(self.storage.join("podman"))
            .arg("--runroot")
            .arg(self.storage.join("podman-run"));
        command.args(["--storage-driver", "overlay"]);
        if let Some(runtime) = &self.runtime {
            command.arg("--runtime").arg(runtime);
        }
        command.args(arguments);
        command
    }

    /// Calls podman.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        self.scene.run(self.command(arguments))
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
        // A monitor calls podman once more when its container has ended.
        let monitors = wait_until("podman's monitors ended", Duration::from_secs(20), || {
            let storage = self.storage.to_string_lossy().into_owned();
            let all = descendants()?;
            Ok((!all.iter().any(|(_, line)| line.contains(&storage))).then_some(()))
        });
        // What stays all the same is found when the scene is struck.
        drop(monitors);
        // podman keeps its storage's directory mounted on itself between calls.
        let storage = self.storage.join("podman/overlay");
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
pub(crate) fn remove_empty_cgroups(scene: &Scene) {
    let mark = scene.cgroup("");
    remove_cgroups(|| cgroup_directories(|path| path.to_string_lossy().contains(&mark)));
}

/// Removes what can be removed, until all is gone: a monitor that is about to end keeps its cgroup busy for a moment.
fn remove_cgroups(find: impl Fn() -> Vec<PathBuf>) {
    let gone = wait_until("the cgroups were gone", Duration::from_secs(5), || {
        let found = find();
        for directory in &found {
            if fs::remove_dir(directory).is_err() && is_ordinary(directory) {
                fs::remove_dir_all(directory).ok();
            }
        }
        Ok(found.is_empty().then_some(()))
    });
    // What stays all the same is found when the scene is struck.
    drop(gone);
}

/// Whether a directory below `/sys/fs/cgroup` is none of the kernel's: where version 2 is not mounted, podman and crun write their files
/// into the empty directory all the same.
fn is_ordinary(directory: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    rustix::fs::statfs(directory).is_ok_and(|facts| facts.f_type == TMPFS_MAGIC)
}
