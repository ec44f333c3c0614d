//! CPU time and the CPUs themselves.
//!
//! Version 2 has a weight of 1 to 10000 (normally 100) where version 1 has shares of 2 to 262144 (normally
//! 1024). A straight line between the ends would make 39 of 1024; the curve used here goes through all three
//! points, as runc's does since 1.4. Realtime budgets do not exist on version 2 and are ignored there.

use super::{Assignment, Place, Step};
use crate::error::Error;
use crate::observe::Kind;
use oci_spec::runtime::LinuxCpu;

const SHARES: &str = "linux.resources.cpu.shares";
const PERIOD: &str = "linux.resources.cpu.period";
const QUOTA: &str = "linux.resources.cpu.quota";
const BURST: &str = "linux.resources.cpu.burst";

/// The kernel's own period, in microseconds.
const USUAL_PERIOD: u64 = 100_000;

pub(super) fn plan(place: &mut Place<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(cpus) = cpu.cpus().as_deref().filter(|v| !v.is_empty()) {
        place.set("cpuset", "linux.resources.cpu.cpus", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|v| !v.is_empty()) {
        place.set("cpuset", "linux.resources.cpu.mems", "cpuset.mems", mems)?;
    }
    let wanted = Wanted {
        shares: cpu.shares().filter(|v| *v != 0),
        quota: cpu.quota().filter(|v| *v != 0),
        period: cpu.period().filter(|v| *v != 0),
        burst: cpu.burst(),
        idle: cpu.idle(),
    };
    let Some(first) = wanted.first() else {
        return realtime(place, cpu);
    };
    match place.need("cpu", first)? {
        Kind::V1 => v1(place, &wanted),
        Kind::V2 => v2(place, &wanted),
    }
    realtime(place, cpu)
}

struct Wanted {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    burst: Option<u64>,
    idle: Option<i64>,
}

impl Wanted {
    /// A field that is given and limits something, to name it if the controller is missing.
    fn first(&self) -> Option<&'static str> {
        [
            (SHARES, self.shares.is_some()),
            (QUOTA, self.quota.is_some()),
            (PERIOD, self.period.is_some()),
            (BURST, self.burst.is_some()),
            ("linux.resources.cpu.idle", self.idle.is_some()),
        ]
        .into_iter()
        .find_map(|(field, given)| given.then_some(field))
    }
}

fn v1(place: &mut Place<'_>, wanted: &Wanted) {
    if let Some(shares) = wanted.shares {
        place.push("cpu", Step::write(SHARES, "cpu.shares", shares));
    }
    let period = wanted
        .period
        .map(|v| Assignment::new(PERIOD, "cpu.cfs_period_us", v));
    let quota = wanted
        .quota
        .map(|v| Assignment::new(QUOTA, "cpu.cfs_quota_us", v.max(-1)));
    match (period, quota) {
        (Some(period), Some(quota)) => place.push("cpu", Step::Pair(period, quota)),
        (Some(one), None) | (None, Some(one)) => place.push("cpu", Step::Write(one)),
        (None, None) => {}
    }
    if let Some(burst) = wanted.burst {
        let burst_step = Assignment::new(BURST, "cpu.cfs_burst_us", burst);
        place.push(
            "cpu",
            Step::Write(if burst == 0 {
                burst_step.optional()
            } else {
                burst_step
            }),
        );
    }
    idle(place, wanted);
}

fn v2(place: &mut Place<'_>, wanted: &Wanted) {
    if let Some(shares) = wanted.shares {
        place.push("cpu", Step::write(SHARES, "cpu.weight", weight(shares)));
    }
    if wanted.quota.is_some() || wanted.period.is_some() {
        let period = wanted.period.unwrap_or(USUAL_PERIOD);
        let line = match wanted.quota.filter(|v| *v > 0) {
            Some(quota) => format!("{quota} {period}"),
            None => format!("max {period}"),
        };
        place.push("cpu", Step::write(QUOTA, "cpu.max", line));
    }
    if let Some(burst) = wanted.burst {
        let burst_step = Assignment::new(BURST, "cpu.max.burst", burst);
        place.push(
            "cpu",
            Step::Write(if burst == 0 {
                burst_step.optional()
            } else {
                burst_step
            }),
        );
    }
    idle(place, wanted);
}

fn idle(place: &mut Place<'_>, wanted: &Wanted) {
    if let Some(idle) = wanted.idle {
        let step = Assignment::new("linux.resources.cpu.idle", "cpu.idle", idle);
        place.push("cpu", Step::Write(if idle == 0 { step.optional() } else { step }));
    }
}

fn realtime(place: &mut Place<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    let period = cpu.realtime_period().filter(|v| *v != 0);
    let runtime = cpu.realtime_runtime().filter(|v| *v != 0);
    for (field, file, value) in [
        (
            "linux.resources.cpu.realtimePeriod",
            "cpu.rt_period_us",
            period.map(|v| v.to_string()),
        ),
        (
            "linux.resources.cpu.realtimeRuntime",
            "cpu.rt_runtime_us",
            runtime.map(|v| v.to_string()),
        ),
    ] {
        let Some(value) = value else { continue };
        if place.need("cpu", field)? == Kind::V1 {
            place.push("cpu", Step::write(field, file, value));
        }
    }
    Ok(())
}

/// Shares as a weight: 2 gives 1, 1024 gives 100, 262144 gives 10000, and in between a curve that is a parabola
/// in the logarithms.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    // Below 2^18 a float holds the number exactly.
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Between 1 and 10000 after the two ends above.
    10_f64.powf(exponent).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::tests::{v1 as host1, v2 as host2};
    use crate::resources::tests::{refusal, writes};

    #[test]
    fn shares_become_weights() {
        for (shares, want) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
        let mut last = 0;
        for shares in (2..262_144).step_by(97) {
            let now = weight(shares);
            assert!(now >= last && (1..=10_000).contains(&now), "{shares}");
            last = now;
        }
    }

    #[test]
    fn cpu_is_written_per_version() {
        for (json, want1, want2) in [
            (
                r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000}}"#,
                vec![
                    "cpu.shares 1024",
                    "cpu.cfs_period_us 100000 + cpu.cfs_quota_us 50000",
                    "cpu.cfs_burst_us 1000",
                ],
                vec!["cpu.weight 100", "cpu.max 50000 100000", "cpu.max.burst 1000"],
            ),
            (
                r#"{"cpu":{"quota":-1}}"#,
                vec!["cpu.cfs_quota_us -1"],
                vec!["cpu.max max 100000"],
            ),
            (
                r#"{"cpu":{"period":5000}}"#,
                vec!["cpu.cfs_period_us 5000"],
                vec!["cpu.max max 5000"],
            ),
            (
                r#"{"cpu":{"realtimePeriod":1000000,"realtimeRuntime":950000,"idle":1}}"#,
                vec![
                    "cpu.idle 1",
                    "cpu.rt_period_us 1000000",
                    "cpu.rt_runtime_us 950000",
                ],
                vec!["cpu.idle 1"],
            ),
            (
                r#"{"cpu":{"cpus":"0-1","mems":"0","shares":0,"quota":0}}"#,
                vec!["cpuset.cpus 0-1", "cpuset.mems 0"],
                vec!["cpuset.cpus 0-1", "cpuset.mems 0"],
            ),
            (r#"{"cpu":{"cpus":"","mems":""}}"#, vec![], vec![]),
        ] {
            assert_eq!(writes(&host1(), json), want1, "{json}");
            assert_eq!(writes(&host2(), json), want2, "{json}");
        }
    }

    #[test]
    fn a_missing_controller_is_named_with_the_field() {
        let mut host = host1();
        host.trees.retain(|t| !t.controllers.iter().any(|c| c == "cpu"));
        assert_eq!(
            refusal(&host, r#"{"cpu":{"quota":1000}}"#),
            "linux.resources.cpu.quota cannot be set: the cgroup controller \"cpu\" is not available here"
        );
    }
}
