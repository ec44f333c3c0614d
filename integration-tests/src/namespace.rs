//! Network namespaces of a test's own: one in which the daemon runs, one that plays the outside.
//!
//! ```text
//!   host: lo, out0 10.99.0.1/24 fd99::1/64 ════ outside: eth0 10.99.0.2/24 fd99::2/64
//! ```
//!
//! Each lives as long as a process that sleeps in it. Nothing is made in the machine's own namespace.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::output::Output;
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// A network namespace.
#[derive(Debug)]
pub struct NetworkNamespace<'scene> {
    scene: &'scene Scene,
    sleeper: Process,
}

impl<'scene> NetworkNamespace<'scene> {
    /// A new one, with nothing but a loopback that is up.
    ///
    /// # Errors
    /// The kernel refuses, or `unshare` and `ip` are not installed.
    pub fn new(scene: &'scene Scene) -> Result<Self> {
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let mut command = reaper::command("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let namespace = Self {
            scene,
            sleeper: scene.start(command)?,
        };
        wait_until("the namespace is there", Duration::from_secs(5), || {
            let link = format!("/proc/{}/ns/net", namespace.sleeper.pid());
            Ok(std::fs::read_link(link)
                .is_ok_and(|link| link != own)
                .then_some(()))
        })?;
        namespace.sh("ip link set lo up")?;
        Ok(namespace)
    }

    /// A host and an outside, connected.
    ///
    /// # Errors
    /// As [`NetworkNamespace::new`].
    pub fn pair(scene: &'scene Scene) -> Result<(Self, Self)> {
        let (host, outside) = (Self::new(scene)?, Self::new(scene)?);
        host.sh(&format!(
            "ip link add out0 type veth peer name eth0 netns {}
             ip address add 10.99.0.1/24 dev out0
             ip address add fd99::1/64 dev out0 nodad
             ip link set out0 up",
            outside.sleeper.pid()
        ))?;
        outside.sh("ip address add 10.99.0.2/24 dev eth0
             ip address add fd99::2/64 dev eth0 nodad
             ip link set eth0 up")?;
        Ok((host, outside))
    }

    /// A process in the namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.sleeper.pid()
    }

    /// The file by which it can be joined.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.sleeper.pid())
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = reaper::command("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.sleeper.pid()))
            .arg("--")
            .arg(program.as_ref());
        command
    }

    /// The same command, run in the namespace.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Runs shell lines there, and expects success.
    ///
    /// # Errors
    /// They fail.
    pub fn sh(&self, lines: &str) -> Result<Output> {
        let mut command = self.command("sh");
        command.args(["-ec", lines]);
        self.scene.run(command)?.success()
    }

    /// Has the probe ask a server from there: `tcp` or `udp`, and the address. What it answers; `None`: nobody does.
    ///
    /// # Errors
    /// The probe is not built.
    pub fn ask(&self, protocol: &str, address: &str) -> Result<Option<String>> {
        let mut command = self.command(crate::programs::bin("croze-probe")?);
        command.args(["ask", protocol, address]);
        let output = self.scene.run(command)?;
        Ok((output.ended == crate::output::Ended::Code(0)).then(|| output.stdout.trim().to_owned()))
    }

    /// Interfaces, routes, rules and settings: everything that a daemon might leave behind. Whether a link has come up yet is the kernel's matter.
    ///
    /// # Errors
    /// `ip`, `nft` or `sysctl` is missing.
    pub fn traces(&self) -> Result<String> {
        let settings = "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding";
        let lines = format!(
            "ip -o link | cut -d' ' -f2; (ip route; ip -6 route) | sed 's/ linkdown//'; nft list ruleset; {settings}"
        );
        Ok(self.sh(&lines)?.stdout)
    }
}

impl Drop for NetworkNamespace<'_> {
    fn drop(&mut self) {
        // What survives is found and reported by the scene.
        let _ended = self
            .sleeper
            .signal(Signal::SIGKILL)
            .and_then(|()| self.sleeper.wait(Duration::from_secs(5)))
            .context("ending the namespace");
    }
}
