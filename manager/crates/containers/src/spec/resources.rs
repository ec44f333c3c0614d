//! Limits: from what users write to the OCI object, by docker's rules.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::SpecError;
use super::host::HostFacts;
use crate::request::Resources;

/// Less than this does not even start a process.
const MEMORY_MIN: u64 = 6 * 1024 * 1024;
/// Length of the accounting period, microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The kernel's bounds of a period, microseconds.
const CPU_PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The least quota, microseconds.
const CPU_QUOTA_MIN: i64 = 1_000;
/// No machine has a CPU or a memory node with such a number.
const CPU_NUMBER_END: u32 = 8192;

/// The OCI resources but for devices, and what the user should know about them.
pub(crate) fn resources(wanted: &Resources, host: &HostFacts) -> Result<(Value, Vec<String>), SpecError> {
    let mut warnings = Vec::new();
    let mut resources = Map::new();
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
    let mut memory = Map::new();
    if wanted.oom_kill_disable {
        oom_kill_disable(wanted, host, &mut memory, warnings);
    }
    let reservation = wanted.memory_reservation_bytes;
    if let Some(bytes) = reservation {
        memory.insert("reservation".into(), fits("--memory-reservation", bytes)?.into());
    }
    let Some(limit) = wanted.memory_bytes else {
        return match wanted.memory_swap_bytes {
            None | Some(-1) => Ok((!memory.is_empty()).then_some(Value::Object(memory))),
            Some(_) => Err(limit_error("--memory-swap", "it needs --memory too")),
        };
    };
    if limit < MEMORY_MIN {
        return Err(limit_error("--memory", "at least 6 MiB are needed"));
    }
    if reservation.is_some_and(|bytes| bytes > limit) {
        return Err(limit_error(
            "--memory",
            "it cannot be less than --memory-reservation",
        ));
    }
    let limit = fits("--memory", limit)?;
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
    memory.insert("limit".into(), limit.into());
    if host.swap_limit {
        memory.insert("swap".into(), swap.into());
    } else {
        warnings.push("this host cannot limit swap: only memory is limited".into());
    }
    Ok(Some(Value::Object(memory)))
}

fn fits(name: &'static str, bytes: u64) -> Result<i64, SpecError> {
    i64::try_from(bytes).map_err(|_| limit_error(name, "it is too large"))
}

fn oom_kill_disable(
    wanted: &Resources,
    host: &HostFacts,
    memory: &mut Map<String, Value>,
    warnings: &mut Vec<String>,
) {
    if host.unified_cgroup {
        warnings.push("cgroup2 has no --oom-kill-disable: processes are killed for want of memory".into());
        return;
    }
    if wanted.memory_bytes.is_none() {
        warnings.push("without a limit of memory, --oom-kill-disable can make the whole host hang".into());
    }
    memory.insert("disableOOMKiller".into(), true.into());
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
    period_and_quota(wanted, &mut cpu)?;
    let sets = [
        ("--cpuset-cpus", "cpus", &wanted.cpuset_cpus, &host.online_cpus),
        ("--cpuset-mems", "mems", &wanted.cpuset_mems, &host.online_mems),
    ];
    for (option, key, list, online) in sets {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        let asked = numbers(list).ok_or_else(|| limit_error(option, "write it like 0-2,4"))?;
        // What the host does not say is left to the kernel to judge.
        if numbers(online).is_some_and(|there| !asked.is_subset(&there)) {
            let reason = format!("{list} is not available; available are {online}");
            return Err(limit_error(option, reason));
        }
        cpu.insert(key.into(), list.into());
    }
    Ok((!cpu.is_empty()).then_some(Value::Object(cpu)))
}

fn period_and_quota(wanted: &Resources, cpu: &mut Map<String, Value>) -> Result<(), SpecError> {
    let (period, quota) = (wanted.cpu_period_micros, wanted.cpu_quota_micros);
    if wanted.nano_cpus.is_some() && period.is_some() {
        return Err(conflict("--cpus", "--cpu-period"));
    }
    if wanted.nano_cpus.is_some() && quota.is_some() {
        return Err(conflict("--cpus", "--cpu-quota"));
    }
    if let Some(period) = period {
        if !CPU_PERIODS.contains(&period) {
            return Err(limit_error(
                "--cpu-period",
                "it must be from 1000 (1 ms) to 1000000 (1 s)",
            ));
        }
        cpu.insert("period".into(), period.into());
    }
    if let Some(quota) = quota {
        if (0..CPU_QUOTA_MIN).contains(&quota) {
            return Err(limit_error("--cpu-quota", "it must be at least 1000 (1 ms)"));
        }
        // Less than none is no limit at all.
        cpu.insert("quota".into(), quota.max(-1).into());
    }
    Ok(())
}

fn conflict(one: &'static str, other: &'static str) -> SpecError {
    SpecError::Conflict { one, other }
}

/// The members of a list such as `0-2,4`.
pub(crate) fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u32>().ok().filter(|n| digits && *n < CPU_NUMBER_END)
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
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
            online_cpus: "0-3".into(),
            online_mems: "0".into(),
            capabilities: croze_sys::caps::NAMES.to_vec(),
            apparmor: false,
            kernel: (6, 1),
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
    fn what_is_asked_for_together_must_fit_together() {
        const M64: u64 = 64 << 20;
        let base = Resources::default;
        let table = [
            (
                Resources {
                    memory_bytes: Some(M64),
                    memory_reservation_bytes: Some(M64 + 1),
                    ..base()
                },
                "--memory",
            ),
            (
                Resources {
                    nano_cpus: Some(500_000_000),
                    cpu_quota_micros: Some(50_000),
                    ..base()
                },
                "conflicting options: --cpus and --cpu-quota",
            ),
            (
                Resources {
                    nano_cpus: Some(500_000_000),
                    cpu_period_micros: Some(50_000),
                    ..base()
                },
                "conflicting options: --cpus and --cpu-period",
            ),
            (
                Resources {
                    cpu_period_micros: Some(999),
                    ..base()
                },
                "--cpu-period",
            ),
            (
                Resources {
                    cpu_quota_micros: Some(1),
                    ..base()
                },
                "--cpu-quota",
            ),
            (
                Resources {
                    cpuset_cpus: Some("0-4".into()),
                    ..base()
                },
                "available are 0-3",
            ),
            (
                Resources {
                    cpuset_mems: Some("1".into()),
                    ..base()
                },
                "available are 0",
            ),
            (
                Resources {
                    cpuset_cpus: Some("3-1".into()),
                    ..base()
                },
                "write it like",
            ),
        ];
        for (wanted, words) in table {
            let error = resources(&wanted, &host()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let fits = Resources {
            memory_bytes: Some(M64),
            memory_reservation_bytes: Some(M64 / 2),
            cpu_period_micros: Some(50_000),
            cpu_quota_micros: Some(25_000),
            cpuset_cpus: Some("0,2-3".into()),
            cpuset_mems: Some("0".into()),
            oom_kill_disable: true,
            ..base()
        };
        let (found, warnings) = resources(&fits, &host()).unwrap();
        assert_eq!(warnings, [] as [&str; 0]);
        assert_eq!(
            found,
            json!({
                "memory": { "limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "disableOOMKiller": true },
                "cpu": { "period": 50_000, "quota": 25_000, "cpus": "0,2-3", "mems": "0" },
            })
        );
    }

    #[test]
    fn killing_for_want_of_memory_is_only_left_out_where_that_can_be() {
        let wanted = Resources {
            oom_kill_disable: true,
            ..Resources::default()
        };
        let (found, warnings) = resources(&wanted, &host()).unwrap();
        assert_eq!(found["memory"]["disableOOMKiller"], true);
        assert!(warnings[0].contains("hang"), "{warnings:?}");
        let unified = HostFacts {
            unified_cgroup: true,
            ..host()
        };
        let (found, warnings) = resources(&wanted, &unified).unwrap();
        assert_eq!(found, json!({}));
        assert!(warnings[0].contains("cgroup2"), "{warnings:?}");
    }
}
