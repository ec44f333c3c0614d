//! The engines that are compared, behind one set of verbs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use croze_integration_tests::{Crozed, Dockerd, Network, NetworkNamespace, Podman, Scene, bin};

use crate::processes;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Croze,
    Podman,
    Docker,
}

/// In the order of the report.
pub(crate) const KINDS: [Kind; 3] = [Kind::Croze, Kind::Podman, Kind::Docker];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Croze => "croze",
            Self::Podman => "podman",
            Self::Docker => "dockerd",
        }
    }

    /// The process beside each container.
    pub(crate) fn monitor(self) -> &'static str {
        match self {
            Self::Croze => "croze-shim",
            Self::Podman => "conmon",
            Self::Docker => "containerd-shim",
        }
    }

    /// The programs that it needs to run a container, the low-level runtime included.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Croze => &["crozed", "croze", "croze-shim", "croze-rt"],
            Self::Podman => &["podman", "conmon", "crun"],
            Self::Docker => &[
                "dockerd",
                "docker",
                "containerd",
                "containerd-shim-runc-v2",
                "runc",
            ],
        }
    }

    fn find(self, program: &str) -> Result<PathBuf> {
        if self == Self::Croze {
            return bin(program);
        }
        let directories = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&directories)
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
            .with_context(|| format!("{program} is not installed: `make setup-tests` installs it"))
    }
}

/// What an engine is, at rest.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// What it says of itself.
    pub(crate) engine: String,
    /// The low-level runtime it uses.
    pub(crate) runtime: String,
    /// Bytes of all its programs.
    pub(crate) programs: u64,
}

/// The versions, in the order of [`KINDS`].
pub(crate) fn versions(scene: &Scene) -> Result<Vec<Version>> {
    let first_line = |program: &Path| -> Result<String> {
        let output = scene
            .call(&[program.as_os_str(), "--version".as_ref()])?
            .success()?;
        Ok(output.stdout.lines().next().unwrap_or_default().to_owned())
    };
    KINDS
        .iter()
        .map(|kind| {
            let programs = kind
                .programs()
                .iter()
                .map(|name| kind.find(name))
                .collect::<Result<Vec<_>>>()?;
            let size = |path: &PathBuf| Ok(std::fs::metadata(path)?.len());
            Ok(Version {
                engine: first_line(programs.first().context("an engine has a program")?)?,
                runtime: first_line(programs.last().context("an engine has a runtime")?)?,
                programs: programs.iter().map(size).sum::<Result<u64>>()?,
            })
        })
        .collect()
}

/// An engine at work, with its daemon if it has one.
pub(crate) enum Engine<'scene> {
    Croze(Crozed<'scene>),
    Podman(Podman<'scene>),
    Docker(Dockerd<'scene>),
}

impl<'scene> Engine<'scene> {
    /// Starts it with all that it stores below a directory. podman and dockerd use what Debian made their defaults.
    pub(crate) fn start(scene: &'scene Scene, kind: Kind, storage: &Path) -> Result<Self> {
        Ok(match kind {
            Kind::Croze => Self::Croze(Crozed::start_in(scene, storage)?),
            Kind::Podman => Self::Podman(Podman::new_in(scene, storage, None)?),
            Kind::Docker => Self::Docker(Dockerd::start_in(scene, storage, Network::Shared)?),
        })
    }

    /// Starts it in a network namespace, with the default network that it has there.
    pub(crate) fn start_inside(
        scene: &'scene Scene,
        kind: Kind,
        storage: &Path,
        host: &NetworkNamespace<'_>,
    ) -> Result<Self> {
        Ok(match kind {
            Kind::Croze => Self::Croze(Crozed::start_inside(scene, storage, host)?),
            Kind::Podman => Self::Podman(Podman::new_in(scene, storage, None)?.inside(host)?),
            Kind::Docker => Self::Docker(Dockerd::start_in(scene, storage, Network::In(host))?),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Croze(_) => Kind::Croze,
            Self::Podman(_) => Kind::Podman,
            Self::Docker(_) => Kind::Docker,
        }
    }

    /// A command line of its CLI.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        Ok(match self {
            Self::Croze(croze) => croze.command(arguments)?,
            Self::Podman(podman) => podman.command(arguments),
            Self::Docker(docker) => docker.command(arguments),
        })
    }

    pub(crate) fn pull(&self, reference: &str) -> Result<Command> {
        match self {
            // The others know that loopback needs no TLS.
            Self::Podman(podman) => Ok(podman.command(&["pull", "--quiet", "--tls-verify=false", reference])),
            _ => self.command(&["pull", "--quiet", reference]),
        }
    }

    /// `run` with these flags, and with what keeps all traces within the scene.
    pub(crate) fn run(&self, flags: &[&str], image: &str, program: &[&str]) -> Result<Command> {
        let own = match self {
            Self::Podman(podman) => podman.run_flags().to_vec(),
            _ => Vec::new(),
        };
        let mut words = vec!["run"];
        words.extend(own.iter().map(String::as_str));
        words.extend(flags);
        words.push(image);
        words.extend(program);
        self.command(&words)
    }

    /// The daemon and its helpers; empty for an engine without one.
    pub(crate) fn daemons(&self) -> Result<Vec<i32>> {
        match self {
            Self::Croze(croze) => croze.daemon_pid().map_or(Ok(Vec::new()), processes::family),
            Self::Podman(_) => Ok(Vec::new()),
            Self::Docker(docker) => processes::family(docker.pid()),
        }
    }
}
