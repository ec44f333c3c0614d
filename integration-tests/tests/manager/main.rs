//! crozed, croze-shim and croze, judged from outside: real images from a real registry, run, limited, killed, lost.

#![forbid(unsafe_code)]

mod bars;
mod completion;
mod crash;
mod debian;
mod defaults;
mod errors;
mod faults;
mod first_contact;
mod hostile;
mod images;
mod lifecycle;
mod limits;
mod makers;
mod open_files;
mod operations;
mod options;
mod policies;
mod pulling;
mod registries;
mod rights;
mod shim;
mod slow;
mod snapshotter;
mod stacks;
mod streams;
mod terminal;
mod trees;

use anyhow::{Context, Result};
use croze_integration_tests::{Crozed, ImageLayout, Registry, Scene};
use serde_json::Value;

/// A registry with one small image, and a daemon that has pulled it.
struct Stage<'scene> {
    daemon: Crozed<'scene>,
    registry: Registry<'scene>,
    /// The small image's reference.
    image: String,
}

impl<'scene> Stage<'scene> {
    fn set(scene: &'scene Scene) -> Result<Self> {
        Self::around(scene, Crozed::start(scene)?)
    }

    /// The same with this daemon.
    fn around(scene: &'scene Scene, daemon: Crozed<'scene>) -> Result<Self> {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "small", "latest")?;
        registry.push(&layout, "latest", "small:latest")?;
        let image = registry.reference("small:latest");
        daemon.ok(&["pull", &image])?;
        Ok(Self {
            daemon,
            registry,
            image,
        })
    }

    /// `croze run --rm FLAGS IMAGE ARGUMENTS`, whatever comes of it.
    fn run(&self, flags: &[&str], arguments: &[&str]) -> Result<croze_integration_tests::Output> {
        self.daemon
            .croze(&[&["run", "--rm"], flags, &[self.image.as_str()], arguments].concat())
    }

    /// The probe's report from a container with these flags.
    fn report(&self, flags: &[&str]) -> Result<Value> {
        self.run(flags, &["/probe"])?.success()?.json()
    }

    /// Starts a container in the background and waits until it has printed a word.
    fn start(&self, name: &str, flags: &[&str], arguments: &[&str], word: &str) -> Result<()> {
        self.daemon.ok(&[
            &["run", "-d", "--name", name],
            flags,
            &[self.image.as_str()],
            arguments,
        ]
        .concat())?;
        croze_integration_tests::wait_until(
            &format!("{name} printed {word:?}"),
            std::time::Duration::from_secs(15),
            || {
                Ok(self
                    .daemon
                    .ok(&["logs", name])?
                    .stdout
                    .contains(word)
                    .then_some(()))
            },
        )
    }
}

/// Sorted strings of a JSON list.
fn strings(value: &Value) -> Result<Vec<&str>> {
    let list = value.as_array().with_context(|| format!("a list: {value}"))?;
    let mut strings: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    strings.sort_unstable();
    Ok(strings)
}
