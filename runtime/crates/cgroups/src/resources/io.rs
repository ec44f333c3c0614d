//! Block devices: weights and throttles.
//!
//! Which file takes a weight depends on the I/O scheduler: BFQ has files of its own, on either version, so both
//! are offered. The weight of version 2's own file runs from 1 to 10000 where the spec's runs from 10 to 1000.

use super::{Assignment, Place, Step};
use crate::error::Error;
use crate::observe::Kind;
use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

const WEIGHT: &str = "linux.resources.blockIO.weight";
const LEAF_WEIGHT: &str = "linux.resources.blockIO.leafWeight";
const WEIGHT_DEVICE: &str = "linux.resources.blockIO.weightDevice";

pub(super) fn plan(place: &mut Place<'_>, block: &LinuxBlockIo) -> Result<(), Error> {
    // The controller has another name on each version.
    let kind = place.kind("blkio").or_else(|| place.kind("io"));
    let steps = steps(kind.unwrap_or(Kind::V2), block)?;
    match kind {
        None if steps.is_empty() => {}
        None => {
            let controller = "blkio".to_owned();
            return Err(Error::MissingController {
                controller,
                field: "linux.resources.blockIO",
            });
        }
        Some(kind) => {
            let controller = if kind == Kind::V1 { "blkio" } else { "io" };
            for step in steps {
                place.push(controller, step);
            }
        }
    }
    Ok(())
}

fn steps(kind: Kind, block: &LinuxBlockIo) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let v1 = kind == Kind::V1;
    if let Some(weight) = block.weight().filter(|w| *w != 0) {
        let weight = in_range(WEIGHT, weight)?;
        steps.push(Step::Write(if v1 {
            Assignment::new(WEIGHT, "blkio.weight", weight).or("blkio.bfq.weight", weight)
        } else {
            Assignment::new(WEIGHT, "io.bfq.weight", weight)
                .or("io.weight", format!("default {}", unified_weight(weight)))
        }));
    }
    if let Some(weight) = block.leaf_weight().filter(|w| *w != 0 && v1) {
        steps.push(Step::write(
            LEAF_WEIGHT,
            "blkio.leaf_weight",
            in_range(LEAF_WEIGHT, weight)?,
        ));
    }
    for device in block.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let weight = in_range(WEIGHT_DEVICE, weight)?;
            let line = format!("{number} {weight}");
            steps.push(Step::Write(if v1 {
                Assignment::new(WEIGHT_DEVICE, "blkio.weight_device", &line)
                    .or("blkio.bfq.weight_device", &line)
            } else {
                Assignment::new(WEIGHT_DEVICE, "io.bfq.weight", &line)
                    .or("io.weight", format!("{number} {}", unified_weight(weight)))
            }));
        }
        if let Some(weight) = device.leaf_weight().filter(|w| *w != 0 && v1) {
            let line = format!("{number} {}", in_range(LEAF_WEIGHT, weight)?);
            steps.push(Step::write(LEAF_WEIGHT, "blkio.leaf_weight_device", line));
        }
    }
    for (field, v1_file, v2_key, devices) in throttles(block) {
        for device in devices {
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            steps.push(if v1 {
                Step::write(field, v1_file, format!("{major}:{minor} {rate}"))
            } else {
                // On version 1 a rate of 0 lifts the limit.
                let rate = if rate == 0 {
                    "max".to_owned()
                } else {
                    rate.to_string()
                };
                Step::write(field, "io.max", format!("{major}:{minor} {v2_key}={rate}"))
            });
        }
    }
    Ok(steps)
}

type Throttle<'a> = (
    &'static str,
    &'static str,
    &'static str,
    &'a [LinuxThrottleDevice],
);

/// Field, version 1 file, version 2 key and devices of each throttle.
fn throttles(block: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    fn list(devices: &Option<Vec<LinuxThrottleDevice>>) -> &[LinuxThrottleDevice] {
        devices.as_deref().unwrap_or_default()
    }
    [
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            list(block.throttle_read_bps_device()),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            list(block.throttle_write_bps_device()),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            list(block.throttle_read_iops_device()),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            list(block.throttle_write_iops_device()),
        ),
    ]
}

fn in_range(field: &'static str, weight: u16) -> Result<u16, Error> {
    if (10..=1000).contains(&weight) {
        Ok(weight)
    } else {
        Err(Error::Value {
            field,
            value: weight.to_string(),
            why: "a weight is between 10 and 1000",
        })
    }
}

fn unified_weight(weight: u16) -> u32 {
    1 + (u32::from(weight) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::tests::{v1, v2};
    use crate::resources::tests::{refusal, writes};

    #[test]
    fn block_devices_are_written_per_version() {
        let mut host1 = v1();
        host1.trees[0].controllers = vec!["blkio".to_owned()];
        let json = r#"{"blockIO":{"weight":500,"leafWeight":10,
            "weightDevice":[{"major":8,"minor":0,"weight":1000}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#;
        assert_eq!(
            writes(&host1, json),
            [
                "blkio.weight 500 | blkio.bfq.weight 500",
                "blkio.leaf_weight 10",
                "blkio.weight_device 8:0 1000 | blkio.bfq.weight_device 8:0 1000",
                "blkio.throttle.read_bps_device 8:0 1024",
                "blkio.throttle.write_iops_device 8:16 0",
            ]
        );
        assert_eq!(
            writes(&v2(), json),
            [
                "io.bfq.weight 500 | io.weight default 4950",
                "io.bfq.weight 8:0 1000 | io.weight 8:0 10000",
                "io.max 8:0 rbps=1024",
                "io.max 8:16 wiops=max",
            ]
        );
    }

    #[test]
    fn weights_have_a_range_and_need_a_controller() {
        assert_eq!(
            refusal(&v2(), r#"{"blockIO":{"weight":1001}}"#),
            "linux.resources.blockIO.weight is 1001: a weight is between 10 and 1000"
        );
        assert_eq!(
            refusal(&v1(), r#"{"blockIO":{"weight":10}}"#),
            "linux.resources.blockIO cannot be set: the cgroup controller \"blkio\" is not available here"
        );
        assert!(writes(&v1(), r#"{"blockIO":{"weight":0,"weightDevice":[]}}"#).is_empty());
        assert_eq!((unified_weight(10), unified_weight(1000)), (1, 10_000));
    }
}
