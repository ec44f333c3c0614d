//! Limits: from what users write to the OCI object, by docker's rules.

use serde_json::{Map, Value, json};

use super::SpecError;
use super::host::HostFacts;
use crate::request::Resources;

/// Less than this does not even start a process.
const MEMORY_MIN: u64 = 6 * 1024 * 1024;
/// Length of the accounting period, microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Character devices that every container may use: (major, minor).
const DEVICES: [(i64, i64); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// The OCI resources, and what the user should know about them.
pub(crate) fn resources(wanted: &Resources, host: &HostFacts) -> Result<(Value, Vec<String>), SpecError> {
    let mut warnings = Vec::new();
    let mut resources = Map::new();
    resources.insert("devices".into(), devices());
    if let Some(memory) = memory(wanted, host, &mut warnings)? {
        resources.insert("memory".into(), memory);
    }
    if let Some(cpu) = cpu(wanted, host)? {
        resources.insert("cpu".into(), cpu);
    }
    if let Some(limit) = wanted.pids_limit {
        let limit = i64::try_from(limit).map_err(|_| limit_error("--pids-limit", "it is too large"))?;
        resources.insert("pids".into(), json!({ "limit": limit }));
    }
    Ok((Value::Object(resources), warnings))
}

fn limit_error(name: &'static str, reason: impl Into<String>) -> SpecError {
    SpecError::Limit {
        name,
        reason: reason.into(),
    }
}

fn memory(
    wanted: &Resources,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>, SpecError> {
    let Some(limit) = wanted.memory_bytes else {
        return match wanted.memory_swap_bytes {
            None | Some(-1) => Ok(None),
            Some(_) => Err(limit_error("--memory-swap", "it needs --memory too")),
        };
    };
    if limit < MEMORY_MIN {
        return Err(limit_error("--memory", "at least 6 MiB are needed"));
    }
    let limit = i64::try_from(limit).map_err(|_| limit_error("--memory", "it is too large"))?;
    let swap = match wanted.memory_swap_bytes {
        None => limit.saturating_mul(2),
        Some(-1) => -1,
        Some(swap) if swap >= limit => swap,
        Some(_) => {
            return Err(limit_error(
                "--memory-swap",
                "it includes the memory and cannot be less",
            ));
        }
    };
    if !host.swap_limit {
        warnings.push("this host cannot limit swap: only memory is limited".into());
        return Ok(Some(json!({ "limit": limit })));
    }
    Ok(Some(json!({ "limit": limit, "swap": swap })))
}

fn cpu(wanted: &Resources, host: &HostFacts) -> Result<Option<Value>, SpecError> {
    let mut cpu = Map::new();
    if let Some(nanos) = wanted.nano_cpus {
        if nanos < 10_000_000 || nanos > host.cpus * 1_000_000_000 {
            let reason = format!("it must be from 0.01 to {}, the number of CPUs", host.cpus);
            return Err(limit_error("--cpus", reason));
        }
        cpu.insert("period".into(), CPU_PERIOD.into());
        cpu.insert("quota".into(), (nanos * CPU_PERIOD / 1_000_000_000).into());
    }
    if let Some(shares) = wanted.cpu_shares {
        if !(2..=262_144).contains(&shares) {
            return Err(limit_error("--cpu-shares", "it must be from 2 to 262144"));
        }
        cpu.insert("shares".into(), shares.into());
    }
    if let Some(cpus) = wanted.cpuset_cpus.as_deref().filter(|c| !c.is_empty()) {
        if !cpus.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-') {
            return Err(limit_error("--cpuset-cpus", "write it like 0-2,4"));
        }
        cpu.insert("cpus".into(), cpus.into());
    }
    Ok((!cpu.is_empty()).then_some(Value::Object(cpu)))
}

/// Deny everything; then nodes may be made (not opened), and the usual ones used.
fn devices() -> Value {
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    rules.extend(DEVICES.iter().map(|(major, minor)| {
        json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
    }));
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            hostname: "h".into(),
            unified_cgroup: false,
            swap_limit: true,
            cpus: 4,
            may_reset_oom_score: true,
            arch: "X86_64",
        }
    }

    fn memory_of(memory: Option<u64>, swap: Option<i64>) -> Result<Value, SpecError> {
        let wanted = Resources {
            memory_bytes: memory,
            memory_swap_bytes: swap,
            ..Resources::default()
        };
        resources(&wanted, &host()).map(|(r, _)| r.get("memory").cloned().unwrap_or(Value::Null))
    }

    #[test]
    fn memory_and_swap() {
        const M64: u64 = 64 << 20;
        let good = [
            (None, None, Value::Null),
            (None, Some(-1), Value::Null),
            (Some(M64), None, json!({ "limit": 64 << 20, "swap": 128 << 20 })),
            (Some(M64), Some(-1), json!({ "limit": 64 << 20, "swap": -1 })),
            (
                Some(M64),
                Some(64 << 20),
                json!({ "limit": 64 << 20, "swap": 64 << 20 }),
            ),
        ];
        for (memory, swap, expected) in good {
            assert_eq!(memory_of(memory, swap), Ok(expected), "{memory:?} {swap:?}");
        }
        for (memory, swap) in [
            (Some(M64), Some(1 << 20)),
            (Some(1 << 20), None),
            (None, Some(1 << 30)),
        ] {
            assert!(memory_of(memory, swap).is_err(), "{memory:?} {swap:?}");
        }
    }

    #[test]
    fn without_swap_accounting_only_memory_is_limited_and_a_warning_says_so() {
        let wanted = Resources {
            memory_bytes: Some(64 << 20),
            ..Resources::default()
        };
        let (found, warnings) = resources(
            &wanted,
            &HostFacts {
                swap_limit: false,
                ..host()
            },
        )
        .unwrap();
        assert_eq!(found["memory"], json!({ "limit": 64 << 20 }));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn cpus_become_a_quota() {
        let quota = |nanos| {
            let wanted = Resources {
                nano_cpus: Some(nanos),
                ..Resources::default()
            };
            resources(&wanted, &host()).map(|(r, _)| r["cpu"]["quota"].as_u64())
        };
        assert_eq!(quota(500_000_000), Ok(Some(50_000)));
        assert_eq!(quota(4_000_000_000), Ok(Some(400_000)));
        assert!(quota(4_000_000_001).is_err());
        assert!(quota(1).is_err());
    }

    #[test]
    fn everything_is_denied_first() {
        let (found, _) = resources(&Resources::default(), &host()).unwrap();
        assert_eq!(found["devices"][0], json!({ "allow": false, "access": "rwm" }));
        assert!(found.get("pids").is_none() && found.get("cpu").is_none());
    }
}
