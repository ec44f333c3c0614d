//! One case's place: its scene, its runtime, its bundles.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Output, Runtime, Scene, spec, wait_until};
use serde_json::{Value, json};

use crate::host::Host;

/// The first id on the host that a user namespace of the tests maps, and how many.
pub(crate) const MAPPED: (u32, u32) = (100_000, 65_536);

/// What a script works with.
#[derive(Debug)]
pub struct Stage<'scene> {
    /// The scene, which compares the host afterwards.
    pub scene: &'scene Scene,
    /// The runtime under test.
    pub runtime: Runtime<'scene>,
    /// What the host offers.
    pub host: &'scene Host,
    made: Cell<u32>,
}

impl<'scene> Stage<'scene> {
    pub(crate) fn new(scene: &'scene Scene, host: &'scene Host) -> Result<Self> {
        Ok(Self {
            scene,
            runtime: Runtime::new(scene)?,
            host,
            made: Cell::new(0),
        })
    }

    /// Whether the runtime under test is ours.
    #[must_use]
    pub fn is_croze(&self) -> bool {
        let name = self.runtime.program().file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("croze")
    }

    /// A name for a container that this scene has not used.
    #[must_use]
    pub fn next_id(&self) -> String {
        self.made.set(self.made.get() + 1);
        self.scene.id(&format!("c{}", self.made.get()))
    }

    /// A fresh bundle. With a user namespace its root directory belongs to the root inside.
    ///
    /// # Errors
    /// The disk fails.
    pub fn bundle(&self, config: &Value) -> Result<Bundle> {
        self.made.set(self.made.get() + 1);
        let bundle = Bundle::new(self.scene, &format!("b{}", self.made.get()), config)?;
        let namespaces = config["linux"]["namespaces"].as_array();
        let is_mapped = namespaces.is_some_and(|all| all.iter().any(|one| one["type"] == "user"));
        if is_mapped {
            for path in ["/", "dev", "proc", "sys", "tmp", "etc", "root", "home/app"] {
                chown(bundle.rootfs(path), Some(MAPPED.0), Some(MAPPED.0))?;
            }
        }
        Ok(bundle)
    }

    /// Runs a spec in a fresh bundle to its end.
    ///
    /// # Errors
    /// The runtime cannot be started or does not end.
    pub fn run(&self, config: &Value) -> Result<Output> {
        self.run_with(config, &[])
    }

    /// As [`Stage::run`], with flags.
    ///
    /// # Errors
    /// As [`Stage::run`].
    pub fn run_with(&self, config: &Value, flags: &[&str]) -> Result<Output> {
        let bundle = self.bundle(config)?;
        let mut command = self.runtime.open_command("run", &bundle);
        command.args(flags).arg(self.next_id());
        self.scene.run(command)
    }

    /// Runs a line of shell in a spec like docker's, changed by `edit`; its trimmed output.
    ///
    /// # Errors
    /// It fails.
    pub fn shell(&self, line: &str, edit: impl FnOnce(&mut Value)) -> Result<String> {
        let mut config = spec::docker_like(&["/bin/sh", "-c", line]);
        edit(&mut config);
        Ok(self.run(&config)?.success()?.text().to_owned())
    }

    /// Creates and starts a spec in a fresh bundle; the container's id.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn start(&self, config: &Value) -> Result<String> {
        let bundle = self.bundle(config)?;
        let id = self.next_id();
        self.runtime.create_and_start(&bundle, &id)?;
        Ok(id)
    }

    /// Starts a container that waits for a signal; one that came before it does would be lost on a first process.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn waiting(&self) -> Result<String> {
        let bundle = self.bundle(&spec::docker_like(&["/probe", "wait"]))?;
        let id = self.next_id();
        let process = self.runtime.create_and_start(&bundle, &id)?;
        wait_until("the container waits", Duration::from_secs(10), || {
            Ok(process.stdout().contains("ready").then_some(()))
        })?;
        Ok(id)
    }

    /// Calls the runtime; it must succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn call(&self, words: &[&str]) -> Result<Output> {
        self.runtime.call(words)?.success()
    }

    /// What the probe reports as a process added with these flags.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn exec_report(&self, id: &str, flags: &[&str]) -> Result<Value> {
        let mut words = vec!["exec"];
        words.extend(flags);
        words.extend([id, "/probe"]);
        self.call(&words)?.json()
    }

    /// A new directory on the host that the container's root may read.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        self.scene.new_directory(name)
    }

    /// A file on the host with this text, as a word for a command line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.scene.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.display().to_string())
    }
}

/// Adds a user namespace with the usual maps.
///
/// # Errors
/// The spec has no list of namespaces.
pub(crate) fn with_user_namespace(config: &mut Value) -> Result<()> {
    spec::append(config, "/linux/namespaces", json!({ "type": "user" }))?;
    let map = json!([{ "containerID": 0, "hostID": MAPPED.0, "size": MAPPED.1 }]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    Ok(())
}

/// A namespace's inode as a process of the host sees it.
///
/// # Errors
/// The process is gone.
pub(crate) fn namespace_of(process: &str, kind: &str) -> Result<u64> {
    let target = fs::read_link(format!("/proc/{process}/ns/{kind}"))?;
    let text = target.to_string_lossy().into_owned();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    ensure!(!digits.is_empty(), "{text:?} has no inode");
    Ok(digits.parse()?)
}
