//! `events`: what containers use, in the words of runc's events.

use std::time::Duration;

use clap::Args;
use croze_container::ops::Notice;
use croze_container::ops::cgroups::Usage;
use croze_container::ops::cgroups::usage::{Pool, Pressure, Stall, Transfer};
use serde_json::{Map, Value, json};

/// The arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// How often to tell what is used
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Tell once what is used, and end
    #[arg(long)]
    pub(crate) stats: bool,
    /// The container's id
    pub(crate) id: String,
}

/// One line for one event.
pub(crate) fn line(id: &str, notice: &Notice) -> String {
    let event = match notice {
        Notice::Usage(usage) => json!({ "type": "stats", "id": id, "data": data(usage) }),
        Notice::Oom => json!({ "type": "oom", "id": id }),
    };
    format!("{event}\n")
}

fn data(usage: &Usage) -> Value {
    let with_pressure = |mut value: Value, kind: &str| {
        if let Some(pressure) = usage.pressure.get(kind) {
            value["psi"] = pressures(pressure);
        }
        value
    };
    let cpu = &usage.cpu;
    let memory = &usage.memory;
    let block = &usage.block;
    let mut cpuset: Map<String, Value> = usage
        .cpuset
        .flags
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    cpuset.insert("cpus".to_owned(), json!(usage.cpuset.cpus));
    cpuset.insert("mems".to_owned(), json!(usage.cpuset.mems));
    let huge_pages: Map<String, Value> = usage
        .huge_pages
        .iter()
        .map(|(size, pages)| {
            let value = json!({ "usage": pages.usage, "max": pages.max, "failcnt": pages.failures });
            (size.clone(), value)
        })
        .collect();
    json!({
        "cpu": with_pressure(json!({
            "usage": {
                "total": cpu.total, "percpu": cpu.per_cpu, "percpu_kernel": cpu.per_cpu_kernel,
                "percpu_user": cpu.per_cpu_user, "kernel": cpu.kernel, "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.throttling.periods, "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_time,
            },
        }), "cpu"),
        "cpuset": cpuset,
        "memory": with_pressure(json!({
            "cache": memory.cache, "usage": pool(memory.memory), "swap": pool(memory.swap),
            "kernel": pool(memory.kernel), "kernelTCP": pool(memory.kernel_tcp), "raw": memory.raw,
        }), "memory"),
        "pids": { "current": usage.pids.current, "limit": usage.pids.limit },
        "blkio": with_pressure(json!({
            "ioServiceBytesRecursive": transfers(&block.service_bytes),
            "ioServicedRecursive": transfers(&block.serviced),
            "ioQueueRecursive": transfers(&block.queued),
            "ioServiceTimeRecursive": transfers(&block.service_time),
            "ioWaitTimeRecursive": transfers(&block.wait_time),
            "ioMergedRecursive": transfers(&block.merged),
            "ioTimeRecursive": transfers(&block.time),
            "sectorsRecursive": transfers(&block.sectors),
        }), "io"),
        "hugetlb": huge_pages,
        "intel_rdt": {},
        // The runtime sets up no interface of its own.
        "network_interfaces": null,
    })
}

fn pool(pool: Pool) -> Value {
    json!({ "limit": pool.limit, "usage": pool.usage, "max": pool.max, "failcnt": pool.failures })
}

fn transfers(list: &[Transfer]) -> Value {
    list.iter()
        .map(|entry| {
            json!({ "major": entry.major, "minor": entry.minor, "op": entry.operation, "value": entry.value })
        })
        .collect()
}

fn pressures(pressure: &Pressure) -> Value {
    let stall = |stall: Stall| json!({ "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300, "total": stall.total });
    json!({ "some": stall(pressure.some), "full": stall(pressure.full) })
}

/// A duration as Go writes them: `5s`, `1m30s`, `500ms`. Zero would be a busy loop.
fn interval(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a duration like 5s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(malformed()),
        };
        total += number.parse::<f64>().map_err(|_| malformed())? * seconds;
        rest = tail;
    }
    match Duration::try_from_secs_f64(total) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{text:?}: the interval must be greater than 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_gos_durations() {
        for (text, millis) in [
            ("5s", 5000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "1x", "1s2"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_is_one_line_with_every_key() {
        let oom = line("c", &Notice::Oom);
        assert_eq!(oom.find('\n'), Some(oom.len() - 1));
        // The order of keys is nobody's to rely on.
        assert_eq!(
            serde_json::from_str::<Value>(&oom).unwrap(),
            json!({"id": "c", "type": "oom"})
        );
        let text = line("c", &Notice::Usage(Box::default()));
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("c")));
        for pointer in [
            "/data/cpu/usage/total",
            "/data/cpu/throttling/throttledTime",
            "/data/memory/usage/failcnt",
            "/data/memory/kernelTCP/limit",
            "/data/pids/current",
            "/data/blkio/ioServiceBytesRecursive",
        ] {
            assert!(event.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
