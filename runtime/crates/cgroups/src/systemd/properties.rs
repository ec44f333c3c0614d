//! What a plan writes into files, as properties of a unit.
//!
//! systemd writes a unit's files anew when it feels like it (after `daemon-reload` for one), from what it knows: so it is told of
//! every limit that it has a property for. The exact values are written into the files afterwards, as without it: systemd counts CPU
//! quotas in whole percents, and has no property for huge pages, bursts and the like.
//!
//! | version 2 | version 1 | property |
//! |---|---|---|
//! | `memory.min` `.low` `.high` `.max` `.swap.max` | `memory.limit_in_bytes` | `MemoryMin` … `MemorySwapMax`; `MemoryLimit` |
//! | `cpu.weight` | `cpu.shares` | `CPUWeight`; `CPUShares` |
//! | `cpu.max` | `cpu.cfs_quota_us`, `cpu.cfs_period_us` | `CPUQuotaPerSecUSec`, `CPUQuotaPeriodUSec` |
//! | `cpuset.cpus` `.mems` | | `AllowedCPUs`, `AllowedMemoryNodes`: a bit for each |
//! | `pids.max` | the same | `TasksMax` |
//! | `io.weight`, `io.max` | `blkio.weight` | `IOWeight`, `IODeviceWeight`, `IOReadBandwidthMax` …; `BlockIOWeight` |
//! | the device program | `devices.*` | `DevicePolicy`, `DeviceAllow` |

use crate::dbus::Value;
use crate::devices::Rules;
use crate::plan::Plan;
use crate::resources::{Assignment, Step};

/// A property's name and value.
pub type Property = (String, Value);

/// How systemd says "no limit".
const INFINITY: u64 = u64::MAX;

/// The properties for what a plan writes; pure. What systemd has no property for is left out.
#[must_use]
pub fn of_plan(plan: &Plan) -> Vec<Property> {
    let mut found = Vec::new();
    let mut quota = Quota::default();
    for step in plan.directories().iter().flat_map(|directory| &directory.steps) {
        match step {
            Step::Write(one) => of_assignment(one, &mut quota, &mut found),
            Step::Pair(one, two) => {
                of_assignment(one, &mut quota, &mut found);
                of_assignment(two, &mut quota, &mut found);
            }
            Step::DeviceProgram(_) => {}
        }
    }
    quota.properties(&mut found);
    found
}

/// The quota of version 1 comes in two files.
#[derive(Default)]
struct Quota {
    quota: Option<i64>,
    period: Option<u64>,
}

impl Quota {
    fn properties(&self, found: &mut Vec<Property>) {
        if self.quota.is_none() && self.period.is_none() {
            return;
        }
        let period = self.period.unwrap_or(100_000).max(1);
        let per_second = match self
            .quota
            .and_then(|quota| u64::try_from(quota).ok())
            .filter(|q| *q > 0)
        {
            None => INFINITY,
            // Rounded up to a whole percent, the step in which systemd counts; zero would be no limit.
            Some(quota) => (quota.saturating_mul(1_000_000) / period)
                .div_ceil(10_000)
                .max(1)
                .saturating_mul(10_000),
        };
        found.push(("CPUQuotaPerSecUSec".to_owned(), Value::U64(per_second)));
        if self.period.is_some() {
            found.push(("CPUQuotaPeriodUSec".to_owned(), Value::U64(period)));
        }
    }
}

fn of_assignment(assignment: &Assignment, quota: &mut Quota, found: &mut Vec<Property>) {
    let mut push = |name: &str, value| found.push((name.to_owned(), value));
    for (file, value) in &assignment.choices {
        match &**file {
            "memory.limit_in_bytes" => push("MemoryLimit", limit(value)),
            "cpu.shares" => push("CPUShares", limit(value)),
            "blkio.weight" => push("BlockIOWeight", limit(value)),
            "cpu.cfs_quota_us" => quota.quota = value.parse().ok(),
            "cpu.cfs_period_us" => quota.period = value.parse().ok(),
            "memory.min" => push("MemoryMin", limit(value)),
            "memory.low" => push("MemoryLow", limit(value)),
            "memory.high" => push("MemoryHigh", limit(value)),
            "memory.max" => push("MemoryMax", limit(value)),
            "memory.swap.max" => push("MemorySwapMax", limit(value)),
            "cpu.weight" => push("CPUWeight", limit(value)),
            "cpu.max" => {
                let mut words = value.split_whitespace();
                quota.quota = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(-1));
                quota.period = words.next().and_then(|word| word.parse().ok());
            }
            // systemd takes no zero; whoever is in there already is one.
            "pids.max" if value == "0" => push("TasksMax", Value::U64(1)),
            "pids.max" => push("TasksMax", limit(value)),
            "cpuset.cpus" => push("AllowedCPUs", bits(value)),
            "cpuset.mems" => push("AllowedMemoryNodes", bits(value)),
            "io.weight" => io_weight(value, &mut push),
            "io.max" => io_max(value, &mut push),
            _ => {}
        }
    }
}

/// A number; everything else (`max`, `-1`) is no limit.
fn limit(text: &str) -> Value {
    Value::U64(text.trim().parse().unwrap_or(INFINITY))
}

/// `0-2,8` as bytes with a bit for each number, the lowest first. A list that makes no sense is the kernel's to refuse.
fn bits(list: &str) -> Value {
    /// More CPUs than any kernel has.
    const MOST: usize = 1 << 16;
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            continue;
        };
        for number in first..=last.min(MOST) {
            if bytes.len() <= number / 8 {
                bytes.resize(number / 8 + 1, 0);
            }
            bytes[number / 8] |= 1 << (number % 8);
        }
    }
    Value::Array("y".to_owned(), bytes.into_iter().map(Value::Byte).collect())
}

/// `default 100` or `8:0 100`.
fn io_weight(line: &str, push: &mut impl FnMut(&str, Value)) {
    match line.split_once(' ') {
        Some(("default", weight)) => push("IOWeight", limit(weight)),
        Some((device, weight)) => push("IODeviceWeight", of_device(device, weight)),
        None => push("IOWeight", limit(line)),
    }
}

/// `8:0 rbps=1000 wiops=max`
fn io_max(line: &str, push: &mut impl FnMut(&str, Value)) {
    let Some((device, limits)) = line.split_once(' ') else {
        return;
    };
    for (key, value) in limits.split_whitespace().filter_map(|word| word.split_once('=')) {
        let name = match key {
            "rbps" => "IOReadBandwidthMax",
            "wbps" => "IOWriteBandwidthMax",
            "riops" => "IOReadIOPSMax",
            "wiops" => "IOWriteIOPSMax",
            _ => continue,
        };
        push(name, of_device(device, value));
    }
}

fn of_device(device: &str, value: &str) -> Value {
    let pair = vec![Value::Text(format!("/dev/block/{device}")), limit(value)];
    Value::Array("(st)".to_owned(), vec![Value::Struct(pair)])
}

/// The properties for device rules. Rules that systemd cannot express are left to the program alone, with a policy that allows all.
#[must_use]
pub fn of_devices(rules: &Rules) -> Vec<Property> {
    let allowed = rules.v1().ok().and_then(|writes| {
        let mut writes = writes.iter();
        // The first line resets: a denial of everything, unless everything but exceptions is allowed.
        let denied = writes.next().is_some_and(|(file, _)| *file == "devices.deny");
        denied.then(|| writes.map(|(_, line)| device(line)).collect::<Option<Vec<_>>>())?
    });
    let (policy, list) = match allowed {
        Some(list) => ("strict", list),
        None => ("auto", Vec::new()),
    };
    vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        ("DeviceAllow".to_owned(), Value::Array("(ss)".to_owned(), list)),
    ]
}

/// `c 1:3 rwm`, `c 136:* rwm` or `b *:* m` as systemd names devices.
fn device(line: &str) -> Option<Value> {
    let mut words = line.split(' ');
    let kind = if words.next()? == "c" { "char" } else { "block" };
    let node = match words.next()?.split_once(':')? {
        ("*", "*") => format!("{kind}-*"),
        ("*", _) => return None,
        (major, "*") => format!("{kind}-{major}"),
        (major, minor) => format!("/dev/{kind}/{major}:{minor}"),
    };
    Some(Value::Struct(vec![Value::Text(node), Value::text(words.next()?)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Observed;
    use crate::observe::tests::{v1, v2};
    use oci_spec::runtime::LinuxResources;

    fn shown(observed: &Observed, json: &str) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let plan = Plan::new(observed, Some("/c"), "c", Some(&resources)).unwrap();
        let show = |(name, value): &Property| match value {
            Value::U64(INFINITY) => format!("{name}=infinity"),
            Value::U64(number) => format!("{name}={number}"),
            Value::Array(_, items) if items.iter().all(|item| matches!(item, Value::Byte(_))) => {
                format!("{name}={items:?}").replace("Byte", "")
            }
            Value::Array(_, items) => match &items[0] {
                Value::Struct(fields) => format!("{name}={fields:?}"),
                other => format!("{name}={other:?}"),
            },
            other => format!("{name}={other:?}"),
        };
        let mut shown: Vec<String> = of_plan(&plan).iter().map(show).collect();
        shown.sort();
        shown
    }

    #[test]
    fn limits_of_version_2_become_properties() {
        for (json, want) in [
            (
                r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#,
                &["MemoryMax=1000", "MemorySwapMax=500", "MemoryLow=500"][..],
            ),
            (
                r#"{"memory":{"limit":-1,"swap":-1}}"#,
                &["MemoryMax=infinity", "MemorySwapMax=infinity"],
            ),
            (
                r#"{"cpu":{"shares":1024,"quota":50000,"period":100000}}"#,
                &[
                    "CPUWeight=100",
                    "CPUQuotaPerSecUSec=500000",
                    "CPUQuotaPeriodUSec=100000",
                ],
            ),
            // Whole percents, rounded up.
            (
                r#"{"cpu":{"quota":33333,"period":100000}}"#,
                &["CPUQuotaPerSecUSec=340000", "CPUQuotaPeriodUSec=100000"],
            ),
            (
                r#"{"cpu":{"quota":-1}}"#,
                &["CPUQuotaPerSecUSec=infinity", "CPUQuotaPeriodUSec=100000"],
            ),
            (
                r#"{"cpu":{"cpus":"0-1,8","mems":"0"}}"#,
                &["AllowedCPUs=[(3), (1)]", "AllowedMemoryNodes=[(1)]"],
            ),
            (r#"{"pids":{"limit":7}}"#, &["TasksMax=7"]),
            (r#"{"pids":{"limit":0}}"#, &["TasksMax=1"]),
            (r#"{"pids":{"limit":-1}}"#, &["TasksMax=infinity"]),
            (r#"{"blockIO":{"weight":100}}"#, &["IOWeight=910"]),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],"weightDevice":[{"major":8,"minor":16,"weight":10}]}}"#,
                &[
                    r#"IODeviceWeight=[Text("/dev/block/8:16"), U64(1)]"#,
                    r#"IOReadBandwidthMax=[Text("/dev/block/8:0"), U64(5)]"#,
                ],
            ),
            (
                r#"{"unified":{"memory.high":"7","cpu.max":"max 5000","pids.max":"9","cgroup.max.depth":"3"}}"#,
                &[
                    "MemoryHigh=7",
                    "TasksMax=9",
                    "CPUQuotaPerSecUSec=infinity",
                    "CPUQuotaPeriodUSec=5000",
                ],
            ),
            ("{}", &[]),
        ] {
            let mut want = want.to_vec();
            want.sort_unstable();
            assert_eq!(shown(&v2(), json), want, "{json}");
        }
    }

    #[test]
    fn limits_of_version_1_become_its_own_properties() {
        let json = r#"{"memory":{"limit":1000},"cpu":{"shares":512,"quota":20000},"pids":{"limit":3}}"#;
        assert_eq!(
            shown(&v1(), json),
            [
                "CPUQuotaPerSecUSec=200000",
                "CPUShares=512",
                "MemoryLimit=1000",
                "TasksMax=3"
            ]
        );
    }

    #[test]
    fn cpus_that_make_no_sense_cost_nothing() {
        for (list, bytes) in [("", 0), ("x", 0), ("9-3", 0), ("0-999999999", 8193)] {
            let Value::Array(_, items) = bits(list) else {
                panic!("{list}")
            };
            assert_eq!(items.len(), bytes, "{list}");
        }
    }

    #[test]
    fn devices_are_named_as_systemd_does() {
        let of = |json: &str| {
            of_devices(&Rules::from_spec(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap())
        };
        let strict = of(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":0,"access":"r"}]"#,
        );
        assert_eq!(strict[0], ("DevicePolicy".to_owned(), Value::text("strict")));
        let Value::Array(_, list) = &strict[1].1 else {
            panic!("a list")
        };
        let has = |node: &str, access: &str| {
            list.contains(&Value::Struct(vec![Value::text(node), Value::text(access)]))
        };
        assert!(
            has("/dev/block/8:0", "r")
                && has("char-*", "m")
                && has("char-136", "rwm")
                && has("/dev/char/1:3", "rwm")
        );
        for open in [
            r#"[{"allow":true,"access":"rwm"}]"#,
            r#"[{"allow":true,"type":"c","minor":5,"access":"r"}]"#,
        ] {
            let auto = of(open);
            assert_eq!(auto[0].1, Value::text("auto"), "{open}");
            assert_eq!(auto[1].1, Value::Array("(ss)".to_owned(), vec![]));
        }
    }
}
