//! Seccomp profiles of users: docker's format, which names conditions, becomes the OCI spec's, which does not.
//!
//! ```text
//!   archMap [{architecture, subArchitectures}]       the host's entry       ─▶ architectures
//!   syscalls [{names, action, …,
//!              includes: {caps, arches, minKernel},   all of them must hold  ─▶ the rule, without its conditions
//!              excludes: {caps, arches, minKernel}}]  none of them may hold
//! ```
//!
//! A profile in the OCI spec's own format has none of these keys and passes unchanged.

use serde_json::{Value, json};

use super::capabilities::CapabilitySet;
use super::host::{HostFacts, kernel_version};

/// Refuses what says two things, or nothing that can be decided; the words follow the option.
pub(crate) fn check(profile: &Value) -> Result<(), String> {
    if !list(&profile["architectures"]).is_empty() && profile.get("archMap").is_some_and(|map| !map.is_null())
    {
        return Err("a profile has architectures and archMap, which cannot be used together".to_owned());
    }
    for rule in list(&profile["syscalls"]) {
        for conditions in [&rule["includes"], &rule["excludes"]] {
            let least = &conditions["minKernel"];
            let sound = match least {
                Value::Null => true,
                Value::String(text) => text.is_empty() || is_kernel_version(text),
                _ => false,
            };
            if !sound {
                return Err(format!("minKernel {least} is not of the form 5.10"));
            }
        }
    }
    Ok(())
}

/// Two numbers, as profiles write a kernel's version.
fn is_kernel_version(text: &str) -> bool {
    text.split_once('.')
        .is_some_and(|(major, minor)| major.parse::<u32>().is_ok() && minor.parse::<u32>().is_ok())
}

/// The OCI object of a profile, for a process with these capabilities on this host.
pub(crate) fn resolve(profile: &Value, capabilities: &CapabilitySet, host: &HostFacts) -> Value {
    let mut resolved = profile.clone();
    let Some(object) = resolved.as_object_mut() else {
        return resolved;
    };
    if let Some(map) = object.remove("archMap") {
        let native = format!("SCMP_ARCH_{}", host.arch);
        let entry = list(&map)
            .iter()
            .find(|entry| entry["architecture"] == native.as_str());
        let mut architectures = vec![json!(native)];
        architectures.extend(
            entry
                .map(|e| list(&e["subArchitectures"]).to_vec())
                .unwrap_or_default(),
        );
        object.entry("architectures").or_insert(json!(architectures));
    }
    if let Some(rules) = object.get_mut("syscalls").and_then(Value::as_array_mut) {
        rules.retain(|rule| applies(rule, capabilities, host));
        for rule in rules {
            if let Some(rule) = rule.as_object_mut() {
                for key in ["includes", "excludes", "comment"] {
                    rule.remove(key);
                }
                // Older profiles have one name for each rule.
                if let Some(name) = rule.remove("name") {
                    rule.entry("names").or_insert(json!([name]));
                }
                // docker writes what is not there as null or empty.
                rule.retain(|_, value| !value.is_null());
            }
        }
    }
    resolved
}

fn applies(rule: &Value, capabilities: &CapabilitySet, host: &HostFacts) -> bool {
    let names_us = |arches: &Value| texts(arches).any(|arch| go_name(host.arch) == arch);
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    let wants_arch = !list(&includes["arches"]).is_empty();
    let kernel_is_since = |conditions: &Value| {
        let least = conditions["minKernel"].as_str().filter(|text| !text.is_empty());
        least.map(|least| host.kernel >= kernel_version(least))
    };
    texts(&includes["caps"]).all(|name| capabilities.has(name))
        && (!wants_arch || names_us(&includes["arches"]))
        && kernel_is_since(includes) != Some(false)
        && !texts(&excludes["caps"]).any(|name| capabilities.has(name))
        && !names_us(&excludes["arches"])
        && kernel_is_since(excludes) != Some(true)
}

/// Profiles write architectures in conditions by Go's names.
fn go_name(arch: &str) -> &str {
    match arch {
        "X86_64" => "amd64",
        "AARCH64" => "arm64",
        other => other,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            hostname: "h".into(),
            unified_cgroup: false,
            swap_limit: true,
            cpus: 1,
            online_cpus: "0".into(),
            online_mems: "0".into(),
            capabilities: croze_sys::caps::NAMES.to_vec(),
            apparmor: false,
            kernel: (5, 10),
            may_reset_oom_score: true,
            arch: "X86_64",
        }
    }

    #[test]
    fn conditions_are_decided() {
        let rule = |name: &str, includes: Value, excludes: Value| {
            json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
                    "includes": includes, "excludes": excludes })
        };
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
            ],
            "syscalls": [
                rule("read", json!({}), json!({})),
                rule("chroot", json!({ "caps": ["CAP_SYS_CHROOT"] }), json!({})),
                rule("mount", json!({ "caps": ["CAP_SYS_ADMIN"] }), json!({})),
                rule("clone", json!({}), json!({ "caps": ["CAP_SYS_ADMIN"] })),
                rule("kill", json!({}), json!({ "caps": ["CAP_KILL"] })),
                rule("arch_prctl", json!({ "arches": ["amd64", "x32"] }), json!({})),
                rule("set_tls", json!({ "arches": ["arm64"] }), json!({})),
                rule("ptrace", json!({ "minKernel": "4.8" }), json!({})),
                rule("new", json!({ "minKernel": "6.0" }), json!({})),
                rule("before_us", json!({}), json!({ "minKernel": "5.10" })),
                rule("still", json!({}), json!({ "minKernel": "5.11" })),
                json!({ "name": "old", "action": "SCMP_ACT_ALLOW" }),
            ],
        });
        let set = CapabilitySet::resolve(&[], &[]).unwrap();
        let found = resolve(&profile, &set, &host());
        assert_eq!(
            found["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
        );
        let names: Vec<&str> = list(&found["syscalls"])
            .iter()
            .flat_map(|rule| texts(&rule["names"]))
            .collect();
        assert_eq!(
            names,
            ["read", "chroot", "clone", "arch_prctl", "ptrace", "still", "old"]
        );
        assert_eq!(
            found["syscalls"][0],
            json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW" })
        );
    }

    #[test]
    fn a_profile_of_the_oci_spec_passes_unchanged() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                           "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] }],
        });
        let set = CapabilitySet::resolve(&[], &[]).unwrap();
        assert_eq!(resolve(&profile, &set, &host()), profile);
    }
}
