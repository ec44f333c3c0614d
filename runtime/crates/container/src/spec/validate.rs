//! What a spec must be for anything to be made of it.
//!
//! Each check is about one part and names the field that it refuses. Whether the host can do what is asked (a namespace that
//! the kernel lacks, a cgroup controller that is not mounted) shows later, when it is done.

use std::collections::HashSet;
use std::path::{Component, Path};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Mount, Process, Spec};

use super::SpecError;

/// The `kernel.*` values that belong to the IPC namespace.
const IPC_SYSCTLS: [&str; 8] = [
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_rmid_forced",
];

/// Checks a whole spec.
///
/// # Errors
/// The first field that is wrong.
pub fn validate(spec: &Spec) -> Result<(), SpecError> {
    if !spec.version().is_empty() && !spec.version().starts_with("1.") {
        return Err(invalid(
            "ociVersion",
            spec.version(),
            "this runtime knows version 1 of the specification",
        ));
    }
    let root = spec.root().as_ref().ok_or(SpecError::Missing {
        field: "root",
        reason: "a container needs a root file system",
    })?;
    if root.path().as_os_str().is_empty() {
        return Err(SpecError::Missing {
            field: "root.path",
            reason: "a container needs a root file system",
        });
    }
    for mount in spec.mounts().iter().flatten() {
        validate_mount(mount)?;
    }
    if let Some(process) = spec.process() {
        validate_process(process)?;
    }
    match spec.linux() {
        Some(linux) => validate_linux(linux, spec.hostname().is_some(), spec.domainname().is_some()),
        None => Err(SpecError::Missing {
            field: "linux",
            reason: "this runtime makes Linux containers only",
        }),
    }
}

/// Checks a process, of a spec or of `exec`.
///
/// # Errors
/// The first field that is wrong.
pub fn validate_process(process: &Process) -> Result<(), SpecError> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(command) = args.first() else {
        return Err(SpecError::Missing {
            field: "process.args",
            reason: "it holds the command to run",
        });
    };
    if command.is_empty() {
        return Err(invalid("process.args[0]", command, "the command has no name"));
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(SpecError::Missing {
            field: "process.cwd",
            reason: "it is the directory to start in",
        });
    }
    if !cwd.is_absolute() {
        return Err(invalid_path("process.cwd", cwd, "it must be an absolute path"));
    }
    for text in args.iter().chain(process.env().iter().flatten()) {
        if text.contains('\0') {
            return Err(invalid(
                "process.args or process.env",
                text,
                "it contains a NUL byte",
            ));
        }
    }
    // As runc has it. A program would be handed something that is in no environment: nobody could ask for it, and shells drop it.
    let is_variable = |entry: &&String| entry.find('=').is_some_and(|length| length > 0);
    if let Some(entry) = process.env().iter().flatten().find(|entry| !is_variable(entry)) {
        return Err(invalid(
            "process.env",
            entry,
            "it must be NAME=value (an empty value is NAME=)",
        ));
    }
    let mut kinds = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !kinds.insert(limit.typ().to_string()) {
            return Err(SpecError::Duplicate {
                field: "process.rlimits",
                value: limit.typ().to_string(),
            });
        }
        if limit.soft() > limit.hard() {
            return Err(invalid(
                "process.rlimits",
                &limit.typ().to_string(),
                "the soft limit is above the hard one",
            ));
        }
    }
    if let Some(score) = process.oom_score_adj()
        && !(-1000..=1000).contains(&score)
    {
        return Err(invalid(
            "process.oomScoreAdj",
            &score.to_string(),
            "it must be between -1000 and 1000",
        ));
    }
    Ok(())
}

fn validate_mount(mount: &Mount) -> Result<(), SpecError> {
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        return Err(SpecError::Missing {
            field: "mounts.destination",
            reason: "it says where to mount",
        });
    }
    if destination
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(invalid_path(
            "mounts.destination",
            destination,
            "it must not contain \"..\"",
        ));
    }
    let uid_maps = mount.uid_mappings().as_deref().unwrap_or_default();
    let gid_maps = mount.gid_mappings().as_deref().unwrap_or_default();
    if uid_maps.is_empty() != gid_maps.is_empty() {
        return Err(invalid_path(
            "mounts",
            destination,
            "uidMappings and gidMappings go together",
        ));
    }
    for (field, maps) in [("mounts.uidMappings", uid_maps), ("mounts.gidMappings", gid_maps)] {
        maps.iter().try_for_each(|map| validate_id_map(field, map))?;
    }
    Ok(())
}

fn validate_linux(linux: &Linux, hostname: bool, domainname: bool) -> Result<(), SpecError> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    validate_namespaces(namespaces)?;
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    let covers = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|paths| !paths.is_empty());
    if !has(LinuxNamespaceType::Mount) && (covers(linux.masked_paths()) || covers(linux.readonly_paths())) {
        return Err(SpecError::Missing {
            field: "linux.namespaces: mount",
            reason: "without a mount namespace linux.maskedPaths and linux.readonlyPaths would hide the host's",
        });
    }
    if hostname && !has(LinuxNamespaceType::Uts) {
        return Err(invalid(
            "hostname",
            "",
            "it needs a uts namespace, or it would rename the host",
        ));
    }
    if domainname && !has(LinuxNamespaceType::Uts) {
        return Err(invalid(
            "domainname",
            "",
            "it needs a uts namespace, or it would rename the host",
        ));
    }
    validate_id_maps(linux, namespaces)?;
    let offsets = linux.time_offsets().as_ref();
    for clock in offsets.into_iter().flat_map(|offsets| offsets.keys()) {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(invalid(
                "linux.timeOffsets",
                clock,
                "only monotonic and boottime have an offset",
            ));
        }
        if !has(LinuxNamespaceType::Time) {
            return Err(invalid("linux.timeOffsets", clock, "it needs a time namespace"));
        }
    }
    for name in linux.sysctl().iter().flat_map(|sysctl| sysctl.keys()) {
        validate_sysctl(name, &has)?;
    }
    for (field, paths) in [
        ("linux.maskedPaths", linux.masked_paths()),
        ("linux.readonlyPaths", linux.readonly_paths()),
    ] {
        let is_relative = |path: &&String| !path.is_empty() && !Path::new(path).is_absolute();
        if let Some(path) = paths.iter().flatten().find(is_relative) {
            return Err(invalid(field, path, "it must be an absolute path"));
        }
    }
    if let Some(propagation) = linux.rootfs_propagation()
        && !propagation.is_empty()
        && crate::mounts::options::propagation(propagation).is_none()
    {
        return Err(invalid(
            "linux.rootfsPropagation",
            propagation,
            "there is no such propagation",
        ));
    }
    validate_net_devices(linux, has(LinuxNamespaceType::Network))
}

fn validate_net_devices(linux: &Linux, has_network: bool) -> Result<(), SpecError> {
    let field = "linux.netDevices";
    let mut inside = HashSet::new();
    for device in crate::net_devices::plan(linux.net_devices().iter().flatten()) {
        for name in [&device.host, &device.inside] {
            if !crate::net_devices::is_name(name) {
                return Err(invalid(field, name, "it is no name of a network device"));
            }
        }
        if !has_network {
            return Err(invalid(
                field,
                &device.host,
                "it needs a network namespace of the container's own",
            ));
        }
        if !device.inside.contains('%') && !inside.insert(device.inside.clone()) {
            return Err(SpecError::Duplicate {
                field,
                value: device.inside,
            });
        }
    }
    Ok(())
}

/// Whether the spec asks for a namespace of this kind, new or joined.
pub fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == kind)
}

fn validate_namespaces(namespaces: &[LinuxNamespace]) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    for namespace in namespaces {
        if !seen.insert(namespace.typ()) {
            return Err(SpecError::Duplicate {
                field: "linux.namespaces",
                value: namespace.typ().to_string(),
            });
        }
        if let Some(path) = namespace.path()
            && !path.as_os_str().is_empty()
            && !path.is_absolute()
        {
            return Err(invalid_path(
                "linux.namespaces.path",
                path,
                "it must be an absolute path",
            ));
        }
    }
    Ok(())
}

fn validate_id_maps(linux: &Linux, namespaces: &[LinuxNamespace]) -> Result<(), SpecError> {
    let user = namespaces
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let is_new = user.is_some_and(|user| crate::namespaces::path_of(user).is_none());
    let uid_maps = linux.uid_mappings().as_deref().unwrap_or_default();
    let gid_maps = linux.gid_mappings().as_deref().unwrap_or_default();
    if user.is_none() && (!uid_maps.is_empty() || !gid_maps.is_empty()) {
        return Err(invalid(
            "linux.uidMappings",
            "",
            "ids can be mapped only in a user namespace",
        ));
    }
    if !is_new {
        return Ok(());
    }
    // Without either it gets the caller's own ids.
    if uid_maps.is_empty() && gid_maps.is_empty() {
        return Ok(());
    }
    for (field, maps) in [("linux.uidMappings", uid_maps), ("linux.gidMappings", gid_maps)] {
        if maps.is_empty() {
            return Err(SpecError::Missing {
                field,
                reason: "a new user namespace needs a mapping",
            });
        }
        for map in maps {
            validate_id_map(field, map)?;
        }
    }
    Ok(())
}

fn validate_id_map(field: &str, map: &LinuxIdMapping) -> Result<(), SpecError> {
    let shown = format!("{} {} {}", map.container_id(), map.host_id(), map.size());
    if map.size() == 0 {
        return Err(invalid(field, &shown, "its size is zero"));
    }
    let last = map.size() - 1;
    if map.container_id().checked_add(last).is_none() || map.host_id().checked_add(last).is_none() {
        return Err(invalid(field, &shown, "it goes beyond the highest id"));
    }
    Ok(())
}

/// Only values that belong to one of the container's own namespaces may be set: all others are the host's.
fn validate_sysctl(name: &str, has: &dyn Fn(LinuxNamespaceType) -> bool) -> Result<(), SpecError> {
    let field = "linux.sysctl";
    let needs = |kind, reason| {
        if has(kind) {
            Ok(())
        } else {
            Err(invalid(field, name, reason))
        }
    };
    match sysctl_kind(name) {
        SysctlKind::None => Err(invalid(field, name, "it is not a name of a kernel parameter")),
        SysctlKind::Of(LinuxNamespaceType::Ipc) => needs(
            LinuxNamespaceType::Ipc,
            "it needs an ipc namespace of the container's own",
        ),
        SysctlKind::Of(LinuxNamespaceType::Network) => needs(
            LinuxNamespaceType::Network,
            "it needs a network namespace of the container's own",
        ),
        SysctlKind::Of(kind) => needs(kind, "it needs a uts namespace of the container's own"),
        SysctlKind::HostName => Err(invalid(field, name, "use the field hostname instead")),
        SysctlKind::Host => Err(invalid(
            field,
            name,
            "it belongs to the whole host, not to a namespace",
        )),
    }
}

/// Whose value a kernel parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlKind {
    /// That of a namespace of this kind.
    Of(LinuxNamespaceType),
    /// The host name, which has a field of its own.
    HostName,
    /// The whole host's.
    Host,
    /// There is no such name.
    None,
}

/// Whose value the parameter `name` is; pure. It looks at the names that will be opened, however they are spelt.
pub fn sysctl_kind(name: &str) -> SysctlKind {
    let Some(names) = crate::limits::sysctl_names(name) else {
        return SysctlKind::None;
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names[..] {
        ["net", _, ..] => SysctlKind::Of(LinuxNamespaceType::Network),
        ["fs", "mqueue", _] => SysctlKind::Of(LinuxNamespaceType::Ipc),
        ["kernel", value] if IPC_SYSCTLS.contains(&value) => SysctlKind::Of(LinuxNamespaceType::Ipc),
        ["kernel", "domainname"] => SysctlKind::Of(LinuxNamespaceType::Uts),
        ["kernel", "hostname"] => SysctlKind::HostName,
        _ => SysctlKind::Host,
    }
}

fn invalid(field: &str, value: &str, reason: &'static str) -> SpecError {
    SpecError::Invalid {
        field: field.to_owned(),
        value: value.to_owned(),
        reason,
    }
}

fn invalid_path(field: &str, value: &Path, reason: &'static str) -> SpecError {
    invalid(field, &value.display().to_string(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{default_spec, parse};
    use serde_json::{Value, json};

    fn check(value: &Value) -> Result<(), String> {
        let (spec, _) =
            parse(&serde_json::to_vec(value).expect("JSON"), "test").map_err(|error| error.to_string())?;
        validate(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_spec_is_valid() {
        assert_eq!(check(&default_spec()), Ok(()));
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_is_wrong_is_refused_by_name() {
        let cases = [
            (
                "/process/args",
                json!(null),
                "process.args is missing: it holds the command to run",
            ),
            (
                "/process/args",
                json!([]),
                "process.args is missing: it holds the command to run",
            ),
            (
                "/process/args",
                json!([""]),
                r#"process.args[0]: "" is not valid: the command has no name"#,
            ),
            (
                "/process/env",
                json!(["A=", "NAME"]),
                r#"process.env: "NAME" is not valid: it must be NAME=value (an empty value is NAME=)"#,
            ),
            (
                "/process/env",
                json!(["A=1", "=1"]),
                r#"process.env: "=1" is not valid: it must be NAME=value (an empty value is NAME=)"#,
            ),
            (
                "/process/env",
                json!([""]),
                r#"process.env: "" is not valid: it must be NAME=value (an empty value is NAME=)"#,
            ),
            (
                "/process/cwd",
                json!("tmp"),
                r#"process.cwd: "tmp" is not valid: it must be an absolute path"#,
            ),
            (
                "/process/cwd",
                json!(""),
                "process.cwd is missing: it is the directory to start in",
            ),
            (
                "/root",
                json!(null),
                "root is missing: a container needs a root file system",
            ),
            (
                "/root",
                json!({}),
                "root.path is missing: a container needs a root file system",
            ),
            (
                "/linux",
                json!(null),
                "linux is missing: this runtime makes Linux containers only",
            ),
            (
                "/ociVersion",
                json!("2.0.0"),
                r#"ociVersion: "2.0.0" is not valid: this runtime knows version 1 of the specification"#,
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]),
                r#"linux.namespaces: "pid" is there more than once"#,
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pluto"}]),
                r#"linux.namespaces.type: "pluto" is not valid: there is no such namespace"#,
            ),
            (
                "/linux/namespaces",
                json!([{"type": "pid"}, {"type": "uts"}]),
                "linux.namespaces: mount is missing: without a mount namespace linux.maskedPaths and linux.readonlyPaths would hide the host's",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "uts", "path": "proc/1/ns/uts"}]),
                r#"linux.namespaces.path: "proc/1/ns/uts" is not valid: it must be an absolute path"#,
            ),
            (
                "/process/oomScoreAdj",
                json!(1001),
                r#"process.oomScoreAdj: "1001" is not valid: it must be between -1000 and 1000"#,
            ),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
                r#"process.rlimits: "RLIMIT_CORE" is not valid: the soft limit is above the hard one"#,
            ),
            (
                "/linux/maskedPaths",
                json!(["proc/kcore"]),
                r#"linux.maskedPaths: "proc/kcore" is not valid: it must be an absolute path"#,
            ),
            (
                "/linux/rootfsPropagation",
                json!("sideways"),
                r#"linux.rootfsPropagation: "sideways" is not valid: there is no such propagation"#,
            ),
            (
                "/linux/netDevices",
                json!({"eth0": {"name": "a/b"}}),
                r#"linux.netDevices: "a/b" is not valid: it is no name of a network device"#,
            ),
            (
                "/linux/netDevices",
                json!({"eth0": {"name": "x"}, "x": {}}),
                r#"linux.netDevices: "x" is there more than once"#,
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut spec = default_spec();
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            spec.pointer_mut(parent).expect("there")[key] = value;
            assert_eq!(check(&spec), Err(expected.to_owned()), "{pointer}");
        }
    }

    #[test]
    fn only_sysctls_of_the_containers_namespaces_pass() {
        let all = |_| true;
        let none = |_| false;
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
        ] {
            assert!(validate_sysctl(name, &all).is_ok(), "{name}");
            assert!(validate_sysctl(name, &none).is_err(), "{name}");
        }
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "kernel.hostname",
            "net..x",
            "net.",
            "",
            "net/../kernel/panic",
            "net.//.kernel.core_pattern",
            "net.ipv4.//.//.kernel.printk",
            "fs.mqueue.//.file-max",
            "net",
        ] {
            assert!(validate_sysctl(name, &all).is_err(), "{name}");
        }
    }
}
