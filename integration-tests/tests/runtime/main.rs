//! The low-level runtime, judged from outside: what a bundle asks for against what the probe sees inside.
//!
//! The same cases run against any OCI runtime (`RUNTIME=/usr/sbin/runc`): a case that runc fails is a case to look at
//! twice. What only croze-rt promises asks [`is_croze`] first.

#![forbid(unsafe_code)]

mod apparmor;
mod attacks;
mod cgroups;
mod commands;
mod devices;
mod errors;
mod exec;
mod fields;
mod hooks;
mod identity;
mod lifecycle;
mod mounts;
mod namespaces;
mod net_devices;
mod notify;
mod old_kernel;
mod review;
mod rootless;
mod seccomp;
mod systemd;
mod terminal;
mod unified;

use anyhow::{Context, Result};
use croze_integration_tests::{Bundle, Runtime, Scene};
use serde_json::Value;

/// Runs a spec to its end in a fresh bundle and returns the JSON that it printed.
fn run_json(scene: &Scene, name: &str, spec: &Value) -> Result<Value> {
    let runtime = Runtime::new(scene)?;
    let bundle = Bundle::new(scene, name, spec)?;
    runtime.run(&bundle, &scene.id(name))?.success()?.json()
}

/// Whether the runtime under test is ours.
fn is_croze(runtime: &Runtime<'_>) -> bool {
    runtime
        .program()
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("croze"))
}

/// A namespace's inode as a process of the host sees it.
fn namespace_of(process: &str, kind: &str) -> Result<u64> {
    let target = std::fs::read_link(format!("/proc/{process}/ns/{kind}"))?;
    let text = target.to_string_lossy().into_owned();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{text:?} has an inode"))
}

/// The line of the report's mount table with this mount point; the last one, which is what a path reaches.
fn mount_line<'report>(report: &'report Value, point: &str) -> Result<&'report str> {
    let lines = report["mountinfo"]
        .as_array()
        .context("the report has a mount table")?;
    lines
        .iter()
        .filter_map(Value::as_str)
        .rfind(|line| line.split(' ').nth(4) == Some(point))
        .with_context(|| format!("nothing is mounted at {point}: {lines:#?}"))
}
