//! The default bridge network and published ports, from outside: the daemon runs in a network namespace of the test's own, and another one
//! plays the outside. The machine's own network is never touched.

mod crash;
mod many;
mod options;
mod ports;

use std::time::Duration;

use anyhow::{Context, Result};
use croze_integration_tests::{Crozed, ImageLayout, NetworkNamespace, Registry, Scene, wait_until};
use serde_json::Value;

/// A daemon in a namespace, the outside, and the test image.
struct Stage<'scene> {
    daemon: Crozed<'scene>,
    host: NetworkNamespace<'scene>,
    outside: NetworkNamespace<'scene>,
    image: String,
}

impl<'scene> Stage<'scene> {
    fn set(scene: &'scene Scene) -> Result<Self> {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "small", "latest")?;
        registry.push(&layout, "latest", "small:latest")?;
        let image = registry.reference("small:latest");
        // The registry is not in the namespace: the image is fetched before the daemon is.
        let daemon = Crozed::start(scene)?;
        daemon.ok(&["pull", &image])?;
        daemon.stop()?;
        let (host, outside) = NetworkNamespace::pair(scene)?;
        daemon.launch_in(&host)?;
        Ok(Self {
            daemon,
            host,
            outside,
            image,
        })
    }

    /// Starts a container that answers on these ports, and waits until it does.
    fn serve(&self, name: &str, flags: &[&str], ports: &[&str]) -> Result<()> {
        self.daemon.ok(&[
            &["run", "-d", "--name", name],
            flags,
            &[self.image.as_str(), "/probe", "serve"],
            ports,
        ]
        .concat())?;
        self.wait_until_ready(name)
    }

    fn wait_until_ready(&self, name: &str) -> Result<()> {
        wait_until(&format!("{name} serves"), Duration::from_secs(15), || {
            let log = self.daemon.ok(&["logs", name])?.stdout;
            Ok(log.contains("ready").then_some(()))
        })
    }

    /// Has a container ask; what is answered.
    fn ask_from(&self, name: &str, protocol: &str, address: &str) -> Result<Option<String>> {
        let output = self
            .daemon
            .croze(&["exec", name, "/probe", "ask", protocol, address])?;
        Ok(
            (output.ended == croze_integration_tests::Ended::Code(0))
                .then(|| output.stdout.trim().to_owned()),
        )
    }

    /// Asks from outside until an answer comes: right after something was repaired.
    fn outside_asks(&self, protocol: &str, address: &str) -> Result<String> {
        self.outside
            .ask(protocol, address)?
            .with_context(|| format!("nobody answers at {protocol} {address}"))
    }

    fn network(&self, name: &str) -> Result<Value> {
        Ok(self.daemon.inspect(name)?["NetworkSettings"].clone())
    }

    fn address(&self, name: &str) -> Result<String> {
        let network = self.network(name)?;
        Ok(network["IPAddress"].as_str().unwrap_or_default().to_owned())
    }
}
