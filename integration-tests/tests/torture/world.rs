//! A registry behind a slow network, several images with common layers, and a daemon.

use anyhow::Result;
use croze_integration_tests::{Crozed, ImageLayout, LayerBuilder, Registry, Scene, SlowProxy};
use serde_json::json;
use std::time::Duration;

use crate::seed::Seed;

/// Rest after each 8 KiB: about a megabyte in a quarter of a second.
const REST: Duration = Duration::from_millis(2);
/// Bytes of a layer that is worth waiting for.
const LAYER: usize = 300 << 10;

/// Everything that a test of this suite plays with. The daemon goes first, then what it talks to.
pub(crate) struct World<'scene> {
    pub(crate) daemon: Crozed<'scene>,
    pub(crate) proxy: SlowProxy,
    _registry: Registry<'scene>,
    /// One layer; the containers' image.
    pub(crate) small: String,
    /// Five layers each, three of them the same.
    pub(crate) large: [String; 2],
}

impl<'scene> World<'scene> {
    /// With a daemon that runs over the scene's directory and has pulled the small image.
    pub(crate) fn set(scene: &'scene Scene, seed: &mut Seed) -> Result<Self> {
        let runtime = croze_integration_tests::runtime_under_test()?;
        let daemon = Crozed::prepare(scene, &runtime, &scene.path("root"), &scene.path("run"));
        let world = Self::around(scene, seed, daemon)?;
        world.daemon.launch()?;
        world.daemon.ok(&["pull", &world.small])?;
        Ok(world)
    }

    /// Around a daemon that is not started yet.
    pub(crate) fn around(scene: &'scene Scene, seed: &mut Seed, daemon: Crozed<'scene>) -> Result<Self> {
        let registry = Registry::start(scene)?;
        let tar = ImageLayout::small_tar(scene)?;
        let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] });
        let mut layer = |name: &str| {
            LayerBuilder::new()
                .file(name, 0o644, &seed.noise(LAYER))?
                .finish()
        };
        let common = [tar.clone(), layer("common/one")?, layer("common/two")?];
        let push = |name: &str, tars: &[Vec<u8>]| -> Result<()> {
            let layout = ImageLayout::new(tars, &config)?.write(scene, name, "latest")?;
            registry
                .push(&layout, "latest", &format!("{name}:latest"))
                .map(drop)
        };
        push("small", &[tar])?;
        for name in ["large-a", "large-b"] {
            let own = [layer(&format!("{name}/one"))?, layer(&format!("{name}/two"))?];
            push(name, &[&common[..], &own[..]].concat())?;
        }
        let proxy = SlowProxy::before(&registry.address(), REST)?;
        Ok(Self {
            small: proxy.reference("small:latest"),
            large: ["large-a", "large-b"].map(|name| proxy.reference(&format!("{name}:latest"))),
            daemon,
            proxy,
            _registry: registry,
        })
    }
}
