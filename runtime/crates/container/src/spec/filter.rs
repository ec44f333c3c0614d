//! Makes a JSON spec fit the strict types: what a caller may expect to be ignored is dropped with a warning, what is missing
//! and has a default is filled in, and what is wrong is refused with the name of its field.
//!
//! Most specs are written by programs in Go, where `null` stands for everything that is not there, and so does an empty text: they are read so.

use croze_sys::caps;
use serde_json::{Map, Value};

use super::SpecError;

const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "permitted", "inheritable", "ambient"];
const NAMESPACES: [&str; 8] = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"];
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];
const POLICIES: [&str; 7] = [
    "SCHED_OTHER",
    "SCHED_FIFO",
    "SCHED_RR",
    "SCHED_BATCH",
    "SCHED_ISO",
    "SCHED_IDLE",
    "SCHED_DEADLINE",
];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
];
/// Those that the types know; the compiler of profiles says which of them it can do.
const ARCHITECTURES: [&str; 24] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];
const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// Filters a whole spec in place; returns what was dropped, one line each.
pub(super) fn spec(value: &mut Value) -> Result<Vec<String>, SpecError> {
    without_nulls(value);
    let mut warnings = Vec::new();
    let Some(root) = value.as_object_mut() else {
        return Err(invalid("config.json", value, "it must be an object"));
    };
    if let Some(value) = root.get_mut("process").filter(|value| !value.is_null()) {
        warnings.append(&mut process(value)?);
    }
    if let Some(linux) = object_mut(root, "linux") {
        for namespace in array_mut(linux, "namespaces") {
            known(
                "linux.namespaces.type",
                namespace.get("type"),
                &NAMESPACES,
                "there is no such namespace",
            )?;
        }
        // As runc has it: without a default action and without rules there is no filter.
        let is_filter = |profile: &Map<String, Value>| {
            let has = |key, empty: Value| profile.get(key).is_some_and(|value| *value != empty);
            has("defaultAction", "".into()) || has("syscalls", Value::Array(Vec::new()))
        };
        if object_mut(linux, "seccomp").is_some_and(|profile| !is_filter(profile)) {
            linux.remove("seccomp");
        }
        if let Some(profile) = object_mut(linux, "seccomp") {
            warnings.append(&mut seccomp(profile)?);
        }
        if let Some(value) = linux.get_mut("resources") {
            resources(value)?;
        }
    }
    Ok(warnings)
}

/// Filters a `resources` object in place.
pub(super) fn resources(value: &mut Value) -> Result<(), SpecError> {
    without_nulls(value);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Some(resources) = value.as_object_mut() else {
        return Err(invalid("resources", value, "it must be an object"));
    };
    // A rule without a type is about all devices.
    for rule in array_mut(resources, "devices") {
        if let Some(rule) = rule
            .as_object_mut()
            .filter(|rule| rule.get("type") == Some(&"".into()))
        {
            rule.remove("type");
        }
    }
    // A limit that is not there is no limit, but the types insist on it.
    if resources
        .get("pids")
        .is_some_and(|pids| pids.get("limit").is_none_or(Value::is_null))
    {
        resources.remove("pids");
    }
    Ok(())
}

/// Filters a `process` object in place; returns what was dropped, one line each.
pub(super) fn process(value: &mut Value) -> Result<Vec<String>, SpecError> {
    without_nulls(value);
    let mut warnings = Vec::new();
    let Some(process) = value.as_object_mut() else {
        return Err(invalid("process", value, "it must be an object"));
    };
    process.entry("user").or_insert_with(|| Value::Object(Map::new()));
    process
        .entry("cwd")
        .or_insert_with(|| Value::String(String::new()));
    if let Some(sets) = object_mut(process, "capabilities") {
        for set in CAPABILITY_SETS {
            let Some(names) = sets.get_mut(set).and_then(Value::as_array_mut) else {
                continue;
            };
            names.retain(|name| {
                let is_known = name.as_str().is_some_and(|name| caps::Set::named(name).is_some());
                if !is_known {
                    warnings.push(format!(
                        "process.capabilities.{set}: unknown capability {name} ignored"
                    ));
                }
                is_known
            });
        }
    }
    if let Some(scheduler) = object_mut(process, "scheduler") {
        let reason = "there is no such policy";
        known(
            "process.scheduler.policy",
            scheduler.get("policy"),
            &POLICIES,
            reason,
        )?;
        for flag in array_mut(scheduler, "flags") {
            // The types spell these in their own way.
            match flag.as_str() {
                Some("SCHED_FLAG_DL_OVERRUN") => *flag = Value::String("SCHED_FLAG_D_L_OVERRUN".to_owned()),
                Some("SCHED_FLAG_RESET_ON_FORK") => *flag = Value::String("SCHED_RESET_ON_FORK".to_owned()),
                _ => {}
            }
        }
    }
    for limit in array_mut(process, "rlimits") {
        known(
            "process.rlimits.type",
            limit.get("type"),
            &RLIMITS,
            "there is no such limit",
        )?;
    }
    Ok(warnings)
}

/// Filters a seccomp profile in place; returns what was dropped. It is written for many hosts: an architecture that nobody here knows matters
/// to none of them.
fn seccomp(profile: &mut Map<String, Value>) -> Result<Vec<String>, SpecError> {
    const UNKNOWN_ACTION: &str = "there is no such action";
    let mut warnings = Vec::new();
    if let Some(architectures) = profile.get_mut("architectures").and_then(Value::as_array_mut) {
        architectures.retain(|name| {
            let is_known = name.as_str().is_some_and(|name| ARCHITECTURES.contains(&name));
            if !is_known {
                warnings.push(format!(
                    "linux.seccomp.architectures: unknown architecture {name} ignored"
                ));
            }
            is_known
        });
    }
    for flag in array_mut(profile, "flags") {
        known("linux.seccomp.flags", Some(flag), &FLAGS, "there is no such flag")?;
    }
    known(
        "linux.seccomp.defaultAction",
        profile.get("defaultAction"),
        &ACTIONS,
        UNKNOWN_ACTION,
    )?;
    for syscall in array_mut(profile, "syscalls") {
        known(
            "linux.seccomp.syscalls.action",
            syscall.get("action"),
            &ACTIONS,
            UNKNOWN_ACTION,
        )?;
        let Some(syscall) = syscall.as_object_mut() else {
            continue;
        };
        syscall.entry("names").or_insert_with(|| Value::Array(Vec::new()));
        for arg in array_mut(syscall, "args") {
            known(
                "linux.seccomp.syscalls.args.op",
                arg.get("op"),
                &OPERATORS,
                "there is no such operator",
            )?;
            if let Some(arg) = arg.as_object_mut() {
                for number in ["index", "value"] {
                    arg.entry(number).or_insert_with(|| Value::from(0));
                }
            }
        }
    }
    Ok(warnings)
}

/// Takes away every `null`, in lists too.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(without_nulls);
        }
        _ => {}
    }
}

fn known(field: &str, value: Option<&Value>, names: &[&str], reason: &'static str) -> Result<(), SpecError> {
    match value {
        Some(Value::String(name)) if names.contains(&name.as_str()) => Ok(()),
        Some(other) => Err(invalid(field, other, reason)),
        None => Err(invalid(field, &Value::Null, "it must be there")),
    }
}

fn invalid(field: &str, value: &Value, reason: &'static str) -> SpecError {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    SpecError::Invalid {
        field: field.to_owned(),
        value,
        reason,
    }
}

fn object_mut<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    parent.get_mut(key).and_then(Value::as_object_mut)
}

fn array_mut<'a>(parent: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Value> {
    parent
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_capabilities_are_dropped_with_a_warning() {
        let mut value = json!({"process": {"cwd": "/", "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_FUTURE"], "effective": ["CAP_KILL"]}}});
        let warnings = spec(&mut value).expect("lenient");
        assert_eq!(
            warnings,
            [r#"process.capabilities.bounding: unknown capability "CAP_FUTURE" ignored"#]
        );
        assert_eq!(
            value["process"],
            json!({"cwd": "/", "user": {}, "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_KILL"]}})
        );
    }

    #[test]
    fn unknown_architectures_are_dropped_with_a_warning() {
        let mut value = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_FUTURE"]}}});
        let warnings = spec(&mut value).expect("lenient");
        assert_eq!(
            warnings,
            [r#"linux.seccomp.architectures: unknown architecture "SCMP_ARCH_FUTURE" ignored"#]
        );
        assert_eq!(
            value["linux"]["seccomp"]["architectures"],
            json!(["SCMP_ARCH_X86_64"])
        );
    }

    #[test]
    fn null_and_empty_texts_are_what_is_not_there() {
        let mut value = json!({
            "ociVersion": null,
            "process": {"cwd": "/", "user": {"uid": null, "additionalGids": [null, 5]}, "args": null},
            "linux": {
                "seccomp": {"defaultAction": "", "syscalls": []},
                "resources": {"pids": {"limit": null}, "devices": [{"allow": null, "type": "", "access": "rwm"}]},
            },
        });
        assert_eq!(spec(&mut value).expect("lenient"), [""; 0]);
        assert_eq!(
            value,
            json!({
                "process": {"cwd": "/", "user": {"additionalGids": [5]}},
                "linux": {"resources": {"devices": [{"access": "rwm"}]}},
            })
        );
        let mut value = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"action": "SCMP_ACT_ERRNO", "args": [{"op": "SCMP_CMP_EQ"}]}]}}});
        spec(&mut value).expect("lenient");
        assert_eq!(
            value["linux"]["seccomp"]["syscalls"],
            json!([{"action": "SCMP_ACT_ERRNO", "names": [], "args": [{"op": "SCMP_CMP_EQ", "index": 0, "value": 0}]}])
        );
    }

    #[test]
    fn what_no_system_knows_is_refused_by_name() {
        let cases = [
            (
                json!({"linux": {"namespaces": [{"type": "moon"}]}}),
                "linux.namespaces.type",
            ),
            (
                json!({"process": {"rlimits": [{"type": "RLIMIT_JOY"}]}}),
                "process.rlimits.type",
            ),
            (
                json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_MAYBE"}}}),
                "linux.seccomp.defaultAction",
            ),
            (
                json!({"linux": {"seccomp": {"syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}}}),
                "linux.seccomp.defaultAction",
            ),
            (
                json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "?"}]}}}),
                "linux.seccomp.syscalls.action",
            ),
            (
                json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_MAYBE"]}}}),
                "linux.seccomp.flags",
            ),
            (json!({"linux": {"resources": []}}), "resources"),
            (json!({"process": 7}), "process"),
            (json!([]), "config.json"),
        ];
        for (mut value, expected) in cases {
            match spec(&mut value) {
                Err(SpecError::Invalid { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
