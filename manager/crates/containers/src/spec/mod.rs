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

pub(crate) mod binds;
pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod error;
pub(crate) mod etc;
pub(crate) mod host;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod root;
pub(crate) mod seccomp;
pub(crate) mod seccomp_profile;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod tmpfs;
pub(crate) mod user;

pub use error::SpecError;

use std::path::Path;

use serde_json::{Value, json};

use crate::networking::Network;
use crate::record::Container;
use crate::request::{CreateRequest, ExecRequest};
use binds::ReadOnlyDepth;
use capabilities::CapabilitySet;
use devices::DeviceNode;
use host::HostFacts;
use security::{Filter, Security};
use user::{Accounts, ResolvedUser, UserSpec};

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
    /// croze-init, where there is one.
    pub(crate) init: Option<&'a Path>,
    /// The devices that were asked for.
    pub(crate) devices: &'a [DeviceNode],
    /// The pid namespace of another container, where it is joined.
    pub(crate) pid_namespace: Option<&'a Path>,
    /// How far down a read-only bind can be read-only.
    pub(crate) read_only_depth: ReadOnlyDepth,
    /// The network namespace to join.
    pub(crate) network_namespace: Option<&'a Path>,
}

/// The hostname of a container.
pub(crate) fn hostname<'a>(container: &'a Container, host: &'a HostFacts) -> &'a str {
    let request = &container.request;
    match (&request.hostname, &request.network) {
        (Some(name), _) => name,
        (None, Network::Host) => &host.hostname,
        (None, _) if request.options.namespaces.host_uts => &host.hostname,
        (None, _) => container.id.short(),
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
    mounts::check(request)?;
    namespaces::check(request, host)?;
    check_options(request, host)?;
    capabilities(request, host)?;
    if let Some(text) = stop_signal_text(container) {
        signal::parse(text)?;
    }
    let (_, warnings) = resources::resources(&request.resources, host)?;
    Ok(warnings)
}

fn check_options(request: &CreateRequest, host: &HostFacts) -> Result<(), SpecError> {
    let options = &request.options;
    devices::check(&options.devices)?;
    limits::rlimits(&options.ulimits)?;
    namespaces::check_domainname(options)?;
    etc::check(options)?;
    let security = Security::parse(&options.security_opt)?;
    if let Some(profile) = security.apparmor
        && !host.apparmor
    {
        return Err(SpecError::SecurityOption {
            option: format!("apparmor={profile}"),
            reason: "this host's kernel does not confine by AppArmor".into(),
        });
    }
    match options.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => Err(SpecError::Limit {
            name: "--oom-score-adj",
            reason: format!("{score} is not from -1000 to 1000"),
        }),
        _ => Ok(()),
    }
}

fn capabilities(request: &CreateRequest, host: &HostFacts) -> Result<CapabilitySet, SpecError> {
    let asked = CapabilitySet::resolve(&request.cap_add, &request.cap_drop)?;
    let within = |set: CapabilitySet| set.within(&host.capabilities, &request.cap_add);
    Ok(if request.options.privileged {
        within(CapabilitySet::all())
    } else if request
        .cap_add
        .iter()
        .any(|name| name.eq_ignore_ascii_case("ALL"))
    {
        within(asked)
    } else {
        asked
    })
}

/// The user of this text, with the groups that the request adds.
fn user(request: &CreateRequest, text: &str, accounts: &Accounts) -> Result<ResolvedUser, SpecError> {
    UserSpec::parse(text)?
        .resolve(accounts)?
        .with_groups(&request.options.group_add, accounts)
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
    let options = &request.options;
    let security = Security::parse(&options.security_opt)?;
    let capabilities = capabilities(request, facts.host)?;
    let user = user(request, user_text(container), facts.accounts)?;
    let hostname = hostname(container, facts.host);
    let mut process = json!({
        "terminal": request.io.tty,
        "user": user.to_json(),
        "args": process::executed(request, &container.image)?,
        "env": process::env(container, hostname, &user),
        "cwd": process::working_dir(request, &container.image)?,
        "capabilities": capabilities.to_json(user.uid),
        "noNewPrivileges": security.no_new_privileges,
        "rlimits": limits::rlimits(&options.ulimits)?,
    });
    confine(&mut process, &security);
    set_oom_score(&mut process, request, facts.host);
    let (mut resources, _warnings) = resources::resources(&request.resources, facts.host)?;
    resources["devices"] = devices::rules(options, facts.devices);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": facts.rootfs, "readonly": request.read_only },
        "mounts": mounts::mounts(request, facts)?,
        "annotations": annotations(container),
        "linux": {
            "namespaces": namespaces::namespaces(request, facts),
            "cgroupsPath": format!("/croze/{}", container.id),
            "devices": devices::nodes(facts.devices),
            "resources": resources,
            "sysctl": namespaces::sysctls(request)?,
        },
    });
    if let Some(propagation) = binds::root_propagation(&request.mounts) {
        spec["linux"]["rootfsPropagation"] = propagation.into();
    }
    // Without a namespace of its own there is no name of its own to set.
    if !options.namespaces.host_uts {
        spec["hostname"] = hostname.into();
    }
    let filter = match (&security.filter, options.privileged) {
        (Filter::Unconfined, _) | (Filter::Default, true) => None,
        (Filter::Default, false) => Some(seccomp::profile(&capabilities, facts.host.arch)),
        (Filter::Profile(profile), _) => Some(seccomp_profile::resolve(profile, &capabilities, facts.host)),
    };
    if let Some(filter) = filter {
        spec["linux"]["seccomp"] = filter;
    }
    if !options.privileged && !security.open_system_paths {
        spec["linux"]["maskedPaths"] = json!(MASKED_PATHS);
        spec["linux"]["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    Ok(spec)
}

fn confine(process: &mut Value, security: &Security) {
    if let Some(profile) = &security.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
}

/// The first process and those of execs have the same score. One that was not asked for is only set where that is permitted.
fn set_oom_score(process: &mut Value, request: &CreateRequest, host: &HostFacts) {
    match request.options.oom_score_adj {
        Some(score) => process["oomScoreAdj"] = score.into(),
        None if host.may_reset_oom_score => process["oomScoreAdj"] = 0.into(),
        None => {}
    }
}

/// The request's, and under them what tells runtimes' own tools whose container it is.
fn annotations(container: &Container) -> Value {
    let request = &container.request;
    let mut all = request.options.annotations.clone();
    for (key, value) in [
        ("id", container.id.as_str()),
        ("name", container.name.as_str()),
        ("image", request.image.as_str()),
    ] {
        all.insert(format!("org.croze.container.{key}"), value.to_owned());
    }
    json!(all)
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
    let security = Security::parse(&container.request.options.security_opt)?;
    let capabilities = if request.privileged {
        CapabilitySet::all().within(&host.capabilities, &[])
    } else {
        capabilities(&container.request, host)?
    };
    let user_text = request
        .user
        .as_deref()
        .filter(|u| !u.is_empty())
        .unwrap_or(user_text(container));
    let user = user(&container.request, user_text, accounts)?;
    let cwd = match &request.working_dir {
        Some(dir) => process::absolute(dir)?,
        None => process::working_dir(&container.request, &container.image)?,
    };
    let mut process = json!({
        "terminal": request.tty,
        "user": user.to_json(),
        "args": request.command,
        "env": process::exec_env(container, hostname(container, host), &user, request),
        "cwd": cwd,
        "capabilities": capabilities.to_json(user.uid),
        "noNewPrivileges": security.no_new_privileges,
        "rlimits": limits::rlimits(&container.request.options.ulimits)?,
    });
    confine(&mut process, &security);
    set_oom_score(&mut process, &container.request, host);
    Ok(process)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
