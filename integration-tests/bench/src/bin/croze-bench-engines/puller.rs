//! Who pulls: the engines, containerd, and what no engine can be faster than.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use croze_integration_tests::{Containerd, Network, Scene};
use serde_json::Value;

use crate::engine::{Engine, Kind};
use crate::processes;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Puller {
    Engine(Kind),
    Containerd,
    /// The same bytes fetched by curl, inflated by igzip, hashed twice by sha256sum and unpacked by tar, two layers at a time, the largest
    /// first: no manifest is looked at and no record kept.
    Floor,
}

/// In the order of the report.
pub(crate) const PULLERS: [Puller; 5] = [
    Puller::Engine(Kind::Croze),
    Puller::Engine(Kind::Podman),
    Puller::Engine(Kind::Docker),
    Puller::Containerd,
    Puller::Floor,
];

/// One layer, from the socket to files.
const FLOOR: &str = r#"set -euo pipefail
layer() {
    mkdir "$STORE/$1"
    curl --silent --show-error --fail "$BLOBS/sha256:$1" | tee >(sha256sum >"$STORE/$1.blob") | igzip -d -c - |
        tee >(sha256sum >"$STORE/$1.tar") | tar -x -C "$STORE/$1"
}
export -f layer
printf '%s\n' "$@" | xargs -P 2 -I '{}' bash -c 'set -euo pipefail; layer {}'"#;

impl Puller {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Engine(kind) => kind.name(),
            Self::Containerd => "containerd",
            Self::Floor => "floor",
        }
    }

    /// Those who have a store, and so can pull what is there, or several images at once.
    pub(crate) fn is_engine(self) -> bool {
        self != Self::Floor
    }
}

/// An image in a registry.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) reference: String,
    /// Where its blobs are.
    pub(crate) blobs: String,
    /// Its layers' digests without the algorithm, the largest first.
    pub(crate) layers: Vec<String>,
}

impl Source {
    /// By what the registry answers when it is asked for the manifest.
    pub(crate) fn new(reference: String, address: &str, name: &str, answer: &str) -> Result<Self> {
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
        let manifest: Value = serde_json::from_str(body)?;
        let mut layers: Vec<(u64, String)> = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|layer| {
                let digest = layer["digest"].as_str()?.strip_prefix("sha256:")?;
                Some((layer["size"].as_u64()?, digest.to_owned()))
            })
            .collect();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self {
            reference,
            blobs: format!("http://{address}/v2/{name}/blobs"),
            layers: layers.into_iter().map(|(_, digest)| digest).collect(),
        })
    }
}

/// One of them, ready to pull into an empty store.
pub(crate) enum Running<'scene> {
    Engine(Engine<'scene>),
    Containerd(Containerd<'scene>),
    Floor(&'scene Path),
}

impl<'scene> Running<'scene> {
    pub(crate) fn start(scene: &'scene Scene, puller: Puller, storage: &'scene Path) -> Result<Self> {
        Ok(match puller {
            Puller::Engine(kind) => {
                let engine = Engine::start(scene, kind, storage)?;
                if kind == Kind::Podman {
                    // Its first call ever makes the databases; the daemons have had their start already.
                    scene.run(engine.command(&["images"])?)?.success()?;
                }
                Self::Engine(engine)
            }
            Puller::Containerd => Self::Containerd(Containerd::start_in(scene, storage, Network::Shared)?),
            Puller::Floor => Self::Floor(storage),
        })
    }

    pub(crate) fn pull(&self, source: &Source) -> Result<Command> {
        Ok(match self {
            Self::Engine(engine) => engine.pull(&source.reference)?,
            Self::Containerd(containerd) => {
                containerd.command(&["images", "pull", "--plain-http", &source.reference])
            }
            Self::Floor(storage) => {
                let mut command = Command::new("bash");
                command.args(["-c", FLOOR, "floor"]).args(&source.layers);
                command.env("STORE", storage).env("BLOBS", &source.blobs);
                command
            }
        })
    }

    /// The daemon and its helpers; empty for who has none.
    pub(crate) fn daemons(&self) -> Result<Vec<i32>> {
        match self {
            Self::Engine(engine) => engine.daemons(),
            Self::Containerd(containerd) => processes::family(containerd.pid()),
            Self::Floor(_) => Ok(Vec::new()),
        }
    }
}
