//! The default network of each engine: what it adds to a container's start, and what passes through it.
//!
//! ```text
//!   for each engine:    host namespace: the engine, its bridge, its rules ════ outside namespace
//!                         │  client ──▶ the container's address            bridge
//!                         │  client ──▶ 127.0.0.1:7000                     published port, loopback
//!                         │                       10.99.0.1:7000 ◀── client, published port, outside
//!                         └─ container: croze-probe serve-traffic
//! ```
//!
//! Every engine has a pair of namespaces of its own, all alike: none passes through another's packet filter. What is sent ends within them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{NetworkNamespace, Registry, Scene, bin, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::containers::{OBEDIENT, push_small};
use crate::engine::{Engine, KINDS, Kind};
use crate::measure::measure;
use crate::storage::{Mounted, Storage};

/// What is timed, in the order of the report.
pub(crate) const CASES: [&str; 3] = ["run --rm IMAGE true", "run -d -p 8080:80 IMAGE", "rm -f of that"];
/// The ways to the container, in the order of the report.
pub(crate) const PATHS: [&str; 3] = [
    "bridge: host to the container's address",
    "published port, from outside",
    "published port, from 127.0.0.1",
];
/// What is asked over each of them: the probe's verb and how long or how often. In the order of the report.
pub(crate) const TRAFFIC: [(&str, &str); 3] = [
    ("throughput", "1000"),
    ("round-trips", "2000"),
    ("connections", "300"),
];

/// Where the container serves, and where that is published.
const PORT: &str = "7000";
/// Where podman's network plugins note what they did, whatever they are told.
const PLUGIN_STATE: &str = "/var/lib/cni";

/// What was measured of one engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// By [`CASES`].
    pub(crate) times: [Vec<Duration>; CASES.len()],
    /// By [`TRAFFIC`] and [`PATHS`]: bytes per second, nanoseconds, connections per second.
    pub(crate) traffic: [[Vec<f64>; PATHS.len()]; TRAFFIC.len()],
}

/// Measures everything `rounds` times with every engine that can make a bridge, after one round that does not count; `None` for one that
/// cannot. In the order of [`KINDS`].
pub(crate) fn measure_all(scene: &Scene, rounds: usize) -> Result<Vec<Option<Figures>>> {
    let _plugins = Cover::new(PLUGIN_STATE)?;
    let registry = Registry::start(scene)?;
    let image = push_small(scene, &registry)?;
    let mut stores = Vec::new();
    let mut places = Vec::new();
    for kind in KINDS {
        stores.push(Mounted::new(scene, kind.name(), Storage::Memory)?);
        places.push(NetworkNamespace::pair(scene)?);
    }
    let mut stages = Vec::new();
    let mut results = vec![None; KINDS.len()];
    for (at, kind) in KINDS.into_iter().enumerate() {
        if kind == Kind::Podman && !podman_has_plugins() {
            continue;
        }
        let (host, outside) = &places[at];
        stages.push((
            at,
            Stage::set(scene, kind, stores[at].path(), (host, outside), &image)?,
        ));
        results[at] = Some(Figures::default());
    }
    for round in 0..=rounds {
        for turn in 0..stages.len() {
            let (at, stage) = &stages[(round + turn) % stages.len()];
            let mut figures = Figures::default();
            stage.live(&mut figures)?;
            stage.exchange(&mut figures)?;
            if let Some(result) = results[*at].as_mut().filter(|_| round > 0) {
                result.add(figures);
            }
        }
    }
    for (_, stage) in &stages {
        stage.call(&["rm", "-f", &stage.server])?;
    }
    Ok(results)
}

impl Figures {
    fn add(&mut self, round: Self) {
        for (all, some) in self.times.iter_mut().zip(round.times) {
            all.extend(some);
        }
        let all = self.traffic.iter_mut().flatten();
        for (all, some) in all.zip(round.traffic.into_iter().flatten()) {
            all.extend(some);
        }
    }
}

/// One engine in its host namespace, with a container that serves.
struct Stage<'scene> {
    scene: &'scene Scene,
    engine: Engine<'scene>,
    host: &'scene NetworkNamespace<'scene>,
    outside: &'scene NetworkNamespace<'scene>,
    image: String,
    /// The container's id.
    server: String,
    /// Its address on the bridge.
    address: String,
}

impl<'scene> Stage<'scene> {
    fn set(
        scene: &'scene Scene,
        kind: Kind,
        store: &Path,
        (host, outside): (&'scene NetworkNamespace<'scene>, &'scene NetworkNamespace<'scene>),
        image: &str,
    ) -> Result<Self> {
        // The registry is not in the namespace: the image is fetched before the engine is.
        let engine = Engine::start(scene, kind, store)?;
        scene.run(engine.pull(image)?)?.success()?;
        drop(engine);
        let mut stage = Self {
            scene,
            engine: Engine::start_inside(scene, kind, store, host)?,
            host,
            outside,
            image: image.to_owned(),
            server: String::new(),
            address: String::new(),
        };
        let published = format!("{PORT}:{PORT}");
        let program = ["/probe", "serve-traffic", PORT];
        let run = stage.engine.run(&["-d", "-p", &published], image, &program)?;
        scene
            .run(stage.client(run))?
            .success()?
            .text()
            .clone_into(&mut stage.server);
        wait_until("the container serves", Duration::from_secs(20), || {
            Ok(stage
                .call(&["logs", &stage.server])?
                .contains("ready")
                .then_some(()))
        })?;
        let format = "{{.NetworkSettings.IPAddress}}";
        stage.address = stage.call(&["inspect", "--format", format, &stage.server])?;
        ensure!(
            !stage.address.is_empty(),
            "{}'s container has no address",
            kind.name()
        );
        Ok(stage)
    }

    /// A command line as it is started in the host namespace. podman enters it anyway, by the same program.
    fn client(&self, command: Command) -> Command {
        match self.engine.kind() {
            Kind::Podman => command,
            Kind::Croze | Kind::Docker => self.host.enter(&command),
        }
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        let command = self.client(self.engine.command(arguments)?);
        Ok(self.scene.run(command)?.success()?.text().to_owned())
    }

    /// The cases, once.
    fn live(&self, figures: &mut Figures) -> Result<()> {
        let image = &self.image;
        let run = self.client(self.engine.run(&["--rm"], image, &["true"])?);
        let run = measure(self.scene, &run)?;
        let flags = ["-d", "-p", "8080:80"];
        let detached = self.client(self.engine.run(&flags, image, &OBEDIENT)?);
        let detached = measure(self.scene, &detached)?;
        let rm = self.engine.command(&["rm", "-f", detached.stdout.trim()])?;
        let rm = measure(self.scene, &self.client(rm))?;
        for (times, cost) in figures.times.iter_mut().zip([run, detached, rm]) {
            times.push(cost.time);
        }
        Ok(())
    }

    /// The traffic over every path, once.
    fn exchange(&self, figures: &mut Figures) -> Result<()> {
        let ways = [
            (self.host, format!("{}:{PORT}", self.address)),
            (self.outside, format!("10.99.0.1:{PORT}")),
            (self.host, format!("127.0.0.1:{PORT}")),
        ];
        for ((verb, bound), by_path) in TRAFFIC.into_iter().zip(&mut figures.traffic) {
            for ((from, address), values) in ways.iter().zip(by_path) {
                let mut client = from.command(bin("croze-probe")?);
                client.args([verb, address, bound]);
                let printed = self
                    .scene
                    .run(client)?
                    .success()
                    .with_context(|| format!("{} {verb} to {address}", self.engine.kind().name()))?;
                values.push(printed.text().parse().context("the probe prints a number")?);
            }
        }
        Ok(())
    }
}

/// Whether podman can make a bridge here.
fn podman_has_plugins() -> bool {
    Path::new("/usr/lib/cni/bridge").exists()
}

/// An empty directory in place of one of the host's, which is seen in this mount namespace only.
struct Cover {
    path: PathBuf,
    made: bool,
}

impl Cover {
    fn new(path: &str) -> Result<Self> {
        let path = PathBuf::from(path);
        let made = !path.exists();
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let cover = Self { path, made };
        mount(
            Some("tmpfs"),
            &cover.path,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting a tmpfs on {}", cover.path.display()))?;
        Ok(cover)
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
        if self.made {
            // Of a host that uses it meanwhile it is not empty, and stays.
            fs::remove_dir(&self.path).ok();
        }
    }
}
