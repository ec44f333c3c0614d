//! Namespaces, and the kernel parameters that belong to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::host::HostFacts;
use super::{Facts, SpecError};
use crate::networking::Network;
use crate::options::{CgroupView, IpcMode, Options, PidMode};
use crate::request::CreateRequest;

/// Kernel parameters of the IPC namespace; besides all of `fs.mqueue.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses modes that contradict each other.
pub(crate) fn check(request: &CreateRequest, host: &HostFacts) -> Result<(), SpecError> {
    let options = &request.options;
    let modes = &options.namespaces;
    let conflict = |one: &'static str, other: &'static str| Err(SpecError::Conflict { one, other });
    if modes.host_uts && request.hostname.is_some() {
        return conflict("--hostname", "--uts host");
    }
    if modes.host_uts && options.domainname.is_some() {
        return conflict("--domainname", "--uts host");
    }
    if options.privileged && modes.cgroup == Some(CgroupView::Private) && !host.unified_cgroup {
        return conflict(
            "--privileged",
            "--cgroupns private on a host with cgroup version 1",
        );
    }
    sysctls(request).map(drop)
}

/// The list of the OCI spec. A network namespace that is missing here is the host's.
pub(crate) fn namespaces(request: &CreateRequest, facts: &Facts<'_>) -> Value {
    let modes = &request.options.namespaces;
    let mut list = vec![json!({ "type": "mount" })];
    let mut own = |kind: &str| list.push(json!({ "type": kind }));
    if !modes.host_uts {
        own("uts");
    }
    if modes.ipc != IpcMode::Host {
        own("ipc");
    }
    if cgroup_view(request, facts.host) == CgroupView::Private {
        own("cgroup");
    }
    match (&request.network, facts.network_namespace) {
        (Network::Host, _) => {}
        (_, Some(path)) => list.push(json!({ "type": "network", "path": path })),
        // A new one; the runtime brings its loopback up.
        (_, None) => list.push(json!({ "type": "network" })),
    }
    match (&modes.pid, facts.pid_namespace) {
        (PidMode::Host, _) => {}
        (PidMode::Container(_), Some(path)) => list.push(json!({ "type": "pid", "path": path })),
        (PidMode::Private | PidMode::Container(_), _) => list.push(json!({ "type": "pid" })),
    }
    Value::Array(list)
}

/// Which cgroups the container sees. On v1 docker shows the host's paths read-only, and programs have come to expect that.
pub(crate) fn cgroup_view(request: &CreateRequest, host: &HostFacts) -> CgroupView {
    request
        .options
        .namespaces
        .cgroup
        .unwrap_or(if host.unified_cgroup {
            CgroupView::Private
        } else {
            CgroupView::Host
        })
}

/// The kernel parameters: docker's own, then those asked for.
pub(crate) fn sysctls(request: &CreateRequest) -> Result<BTreeMap<String, String>, SpecError> {
    let mut all = BTreeMap::new();
    if matches!(request.network, Network::None | Network::Bridge) {
        // Whoever has no capability may still bind port 80, and ping.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    if let Some(domain) = &request.options.domainname {
        // Older runtimes do not know the spec's own field.
        all.insert("kernel.domainname".to_owned(), domain.clone());
    }
    for (name, value) in &request.options.sysctls {
        check_sysctl(name, request)?;
        all.insert(name.replace('/', "."), value.clone());
    }
    Ok(all)
}

fn check_sysctl(name: &str, request: &CreateRequest) -> Result<(), SpecError> {
    let bad = |reason| {
        Err(SpecError::Sysctl {
            name: name.to_owned(),
            reason,
        })
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let dotted = name.replace('/', ".");
    if name.is_empty() || !name.bytes().all(good) || dotted.split('.').any(str::is_empty) {
        return bad("it is no name of a kernel parameter");
    }
    let modes = &request.options.namespaces;
    if IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        return match modes.ipc {
            IpcMode::Host => bad("it would change the host's: leave out --ipc host"),
            _ => Ok(()),
        };
    }
    if dotted.starts_with("net.") {
        return match request.network {
            Network::Host => bad("it would change the host's: leave out --network host"),
            _ => Ok(()),
        };
    }
    if dotted == "kernel.domainname" {
        return if modes.host_uts {
            bad("it would change the host's: leave out --uts host")
        } else {
            Ok(())
        };
    }
    bad("no namespace has its own, so it would change the host's")
}

/// Refuses a domain name that the kernel would not take.
pub(crate) fn check_domainname(options: &Options) -> Result<(), SpecError> {
    match &options.domainname {
        Some(name) if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) => {
            Err(SpecError::Hostname { name: name.clone() })
        }
        _ => Ok(()),
    }
}
