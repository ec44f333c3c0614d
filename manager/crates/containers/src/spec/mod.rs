//! The OCI spec of a container: what it is to be, with docker's defaults.
//!
//! ```text
//!   Container (request + image) ─┐
//!   Facts: host, users of the    ├─▶ generate (pure) ─▶ config.json
//!     rootfs, generated files ───┘   exec_process     ─▶ the OCI process of an exec
//! ```
//!
//! Everything here but [`host`], [`root`] and [`etc`]'s reading is pure and tested by tables. Built as JSON rather than through typed
//! structures, so that what stands here is what the runtime reads.

pub(crate) mod capabilities;
pub(crate) mod error;
pub(crate) mod etc;
pub(crate) mod host;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod root;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod user;

pub use error::SpecError;

use std::path::Path;

use serde_json::{Value, json};

use crate::record::Container;
use crate::request::{ExecRequest, Network};
use capabilities::CapabilitySet;
use host::HostFacts;
use user::{Accounts, UserSpec};

/// Kernel files that would tell about the host or other containers.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Kernel files that may be looked at.
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the spec depends on besides the record.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The host.
    pub(crate) host: &'a HostFacts,
    /// Users and groups of the root file system.
    pub(crate) accounts: &'a Accounts,
    /// The mounted root file system.
    pub(crate) rootfs: &'a Path,
    /// The directory of the generated `hosts`, `hostname` and `resolv.conf`.
    pub(crate) etc_dir: &'a Path,
}

/// The hostname of a container.
pub(crate) fn hostname<'a>(container: &'a Container, host: &'a HostFacts) -> &'a str {
    match (&container.request.hostname, container.request.network) {
        (Some(name), _) => name,
        (None, Network::Host) => &host.hostname,
        (None, Network::None) => container.id.short(),
    }
}

/// Checks what can be checked without the root file system, so that `create` refuses it.
pub(crate) fn validate(container: &Container, host: &HostFacts) -> Result<Vec<String>, SpecError> {
    let request = &container.request;
    process::args(request, &container.image)?;
    process::working_dir(request, &container.image)?;
    process::check_env(&request.env)?;
    if let Some(name) = &request.hostname {
        process::check_hostname(name)?;
    }
    UserSpec::parse(user_text(container))?;
    mounts::check(&request.mounts)?;
    CapabilitySet::resolve(&request.cap_add, &request.cap_drop)?;
    if let Some(text) = stop_signal_text(container) {
        signal::parse(text)?;
    }
    let (_, warnings) = resources::resources(&request.resources, host)?;
    Ok(warnings)
}

/// The user as requested, else as the image says; may be empty.
pub(crate) fn user_text(container: &Container) -> &str {
    container.request.user.as_deref().unwrap_or(&container.image.user)
}

/// The stop signal as requested, else as the image says.
pub(crate) fn stop_signal_text(container: &Container) -> Option<&str> {
    container
        .request
        .stop_signal
        .as_deref()
        .or(container.image.stop_signal.as_deref())
        .filter(|s| !s.is_empty())
}

/// The container's config.json.
pub(crate) fn generate(container: &Container, facts: &Facts<'_>) -> Result<Value, SpecError> {
    let request = &container.request;
    let capabilities = CapabilitySet::resolve(&request.cap_add, &request.cap_drop)?;
    let user = UserSpec::parse(user_text(container))?.resolve(facts.accounts)?;
    let hostname = hostname(container, facts.host);
    let mut process = json!({
        "terminal": request.io.tty,
        "user": user.to_json(),
        "args": process::args(request, &container.image)?,
        "env": process::env(container, hostname, &user),
        "cwd": process::working_dir(request, &container.image)?,
        "capabilities": capabilities.to_json(user.uid),
        "noNewPrivileges": false,
    });
    if facts.host.may_reset_oom_score {
        process["oomScoreAdj"] = 0.into();
    }
    let (resources, _warnings) = resources::resources(&request.resources, facts.host)?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": facts.rootfs, "readonly": request.read_only },
        "hostname": hostname,
        "mounts": mounts::mounts(request, facts)?,
        "annotations": {
            "org.croze.container.id": container.id.as_str(),
            "org.croze.container.name": container.name.as_str(),
            "org.croze.container.image": request.image,
        },
        "linux": {
            "namespaces": namespaces(request.network, facts.host),
            "cgroupsPath": format!("/croze/{}", container.id),
            "resources": resources,
            "seccomp": seccomp::profile(&capabilities, facts.host.arch),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READ_ONLY_PATHS,
        },
    }))
}

/// The OCI process of an exec: the container's, but for what the request changes.
pub(crate) fn exec_process(
    container: &Container,
    request: &ExecRequest,
    host: &HostFacts,
    accounts: &Accounts,
) -> Result<Value, SpecError> {
    if request.command.is_empty() {
        return Err(SpecError::NoCommand);
    }
    process::check_env(&request.env)?;
    let capabilities = CapabilitySet::resolve(&container.request.cap_add, &container.request.cap_drop)?;
    let user_text = request
        .user
        .as_deref()
        .filter(|u| !u.is_empty())
        .unwrap_or(user_text(container));
    let user = UserSpec::parse(user_text)?.resolve(accounts)?;
    let cwd = match &request.working_dir {
        Some(dir) => process::absolute(dir)?,
        None => process::working_dir(&container.request, &container.image)?,
    };
    Ok(json!({
        "terminal": request.tty,
        "user": user.to_json(),
        "args": request.command,
        "env": process::exec_env(container, hostname(container, host), &user, request),
        "cwd": cwd,
        "capabilities": capabilities.to_json(user.uid),
        "noNewPrivileges": false,
    }))
}

fn namespaces(network: Network, host: &HostFacts) -> Value {
    let mut kinds = vec!["mount", "uts", "ipc", "pid"];
    if network == Network::None {
        // A new one; the runtime brings its loopback up.
        kinds.push("network");
    }
    if host.unified_cgroup {
        // On v1 docker shows the host's paths read-only, and programs have come to expect that.
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| json!({ "type": kind })).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
