//! The low-level runtime under test, with a state directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::output::Output;
use crate::programs::runtime_under_test;
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// A runtime and its state directory.
#[derive(Debug)]
pub struct Runtime<'scene> {
    scene: &'scene Scene,
    program: PathBuf,
    root: PathBuf,
}

impl<'scene> Runtime<'scene> {
    /// The runtime that `$RUNTIME` names, else croze-rt.
    ///
    /// # Errors
    /// It is not there.
    pub fn new(scene: &'scene Scene) -> Result<Self> {
        Ok(Self {
            scene,
            program: runtime_under_test()?,
            root: scene.path("rt"),
        })
    }

    /// Its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its state directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command line of the runtime.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = reaper::command(&self.program);
        command.arg("--root").arg(&self.root).args(arguments);
        command
    }

    /// Calls the runtime and waits for it.
    ///
    /// # Errors
    /// It cannot be started or does not end. That it fails is in the output.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        self.scene.run(self.command(arguments))
    }

    /// Runs a bundle in the foreground, to its end.
    ///
    /// # Errors
    /// As [`Runtime::call`].
    pub fn run(&self, bundle: &Bundle, id: &str) -> Result<Output> {
        self.scene.run(self.bundle_command("run", bundle, id))
    }

    /// Starts `run` in the foreground and lets it run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_run(&self, bundle: &Bundle, id: &str) -> Result<Process> {
        self.scene.start(self.bundle_command("run", bundle, id))
    }

    /// Calls `create`. The returned process is the runtime's; its files collect what the container writes later.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn create(&self, bundle: &Bundle, id: &str) -> Result<Process> {
        let process = self.scene.start(self.bundle_command("create", bundle, id))?;
        process.wait(Duration::from_secs(60))?.success()?;
        Ok(process)
    }

    /// Calls `create`, then `start`.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn create_and_start(&self, bundle: &Bundle, id: &str) -> Result<Process> {
        let process = self.create(bundle, id)?;
        self.call(&["start", id])?.success()?;
        Ok(process)
    }

    /// What `state` prints.
    ///
    /// # Errors
    /// The runtime fails, or prints no JSON.
    pub fn state(&self, id: &str) -> Result<Value> {
        self.call(&["state", id])?.success()?.json()
    }

    /// The pid that `state` prints.
    ///
    /// # Errors
    /// As [`Runtime::state`].
    pub fn pid(&self, id: &str) -> Result<i32> {
        let state = self.state(id)?;
        let pid = state["pid"].as_i64().context("the state has a pid")?;
        Ok(i32::try_from(pid)?)
    }

    /// Waits until `state` shows this status.
    ///
    /// # Errors
    /// It does not in ten seconds.
    pub fn wait_for_status(&self, id: &str, status: &str) -> Result<()> {
        wait_until(&format!("{id} was {status}"), Duration::from_secs(10), || {
            Ok((self.state(id)?["status"] == status).then_some(()))
        })
    }

    /// Kills and deletes a container that runs.
    ///
    /// # Errors
    /// The runtime fails.
    pub fn delete_by_force(&self, id: &str) -> Result<()> {
        self.call(&["delete", "--force", id])?.success().map(drop)
    }

    /// A `create` or `run` of a bundle, to add flags to: they go before the id, which the caller appends.
    #[must_use]
    pub fn open_command(&self, verb: &str, bundle: &Bundle) -> Command {
        let mut command = self.command(&[verb, "--bundle"]);
        command.arg(bundle.directory());
        command
    }

    fn bundle_command(&self, verb: &str, bundle: &Bundle, id: &str) -> Command {
        let mut command = self.open_command(verb, bundle);
        command.arg(id);
        command
    }
}
