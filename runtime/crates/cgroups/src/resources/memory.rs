//! Memory: limit, reservation, swap, swappiness, the OOM killer.
//!
//! In the spec 0 is "not given" and -1 "no limit"; `swap` is memory and swap together. Version 2 counts swap
//! alone, so it gets the difference. Swappiness and the OOM switch do not exist there, and kernel memory limits
//! nowhere any more: they are ignored.

use super::{Assignment, Place, Step, or_max};
use crate::error::Error;
use crate::observe::Kind;
use oci_spec::runtime::LinuxMemory;

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";
const SWAPPINESS: &str = "linux.resources.memory.swappiness";

pub(super) fn plan(place: &mut Place<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let wanted = Wanted {
        limit: given(memory.limit()),
        swap: given(memory.swap()),
        reservation: given(memory.reservation()),
    };
    wanted.check()?;
    match place.kind("memory") {
        None => wanted.need_nothing()?,
        Some(Kind::V1) => {
            v1(place, &wanted);
            v1_only(place, memory)?;
        }
        Some(Kind::V2) => v2(place, &wanted)?,
    }
    Ok(())
}

struct Wanted {
    limit: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
}

impl Wanted {
    fn check(&self) -> Result<(), Error> {
        for (field, value) in [
            (LIMIT, self.limit),
            (SWAP, self.swap),
            (RESERVATION, self.reservation),
        ] {
            if let Some(value) = value.filter(|v| *v < -1) {
                let why = "give bytes, or -1 for no limit";
                return Err(Error::Value {
                    field,
                    value: value.to_string(),
                    why,
                });
            }
        }
        if let (Some(limit), Some(swap)) = (self.limit, self.swap)
            && limit > 0
            && swap > 0
            && swap < limit
        {
            let why = "it counts memory and swap together, so it cannot be below the memory limit";
            return Err(Error::Value {
                field: SWAP,
                value: swap.to_string(),
                why,
            });
        }
        Ok(())
    }

    fn need_nothing(&self) -> Result<(), Error> {
        let limits = [
            (LIMIT, self.limit),
            (SWAP, self.swap),
            (RESERVATION, self.reservation),
        ];
        match limits.into_iter().find(|(_, value)| value.is_some_and(|v| v > 0)) {
            Some((field, _)) => Err(Error::MissingController {
                controller: "memory".to_owned(),
                field,
            }),
            None => Ok(()),
        }
    }
}

fn v1(place: &mut Place<'_>, wanted: &Wanted) {
    let limit = wanted
        .limit
        .map(|v| Assignment::new(LIMIT, "memory.limit_in_bytes", v));
    let swap_file = |v: i64| Assignment::new(SWAP, "memory.memsw.limit_in_bytes", v);
    let swap = match (wanted.swap, wanted.limit) {
        (Some(swap), _) => Some(swap_file(swap)),
        // No memory limit with a swap limit left standing would be a limit after all.
        (None, Some(-1)) => Some(swap_file(-1).optional()),
        (None, _) => None,
    };
    match (limit, swap) {
        (Some(limit), Some(swap)) => place.push("memory", Step::Pair(limit, swap)),
        (Some(one), None) | (None, Some(one)) => place.push("memory", Step::Write(one)),
        (None, None) => {}
    }
    if let Some(reservation) = wanted.reservation {
        place.push(
            "memory",
            Step::write(RESERVATION, "memory.soft_limit_in_bytes", reservation),
        );
    }
}

fn v1_only(place: &mut Place<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    if let Some(tcp) = memory.kernel_tcp().filter(|v| *v != 0) {
        let field = "linux.resources.memory.kernelTCP";
        let step = Assignment::new(field, "memory.kmem.tcp.limit_in_bytes", tcp).optional();
        place.push("memory", Step::Write(step));
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            let why = "it is between 0 and 100";
            return Err(Error::Value {
                field: SWAPPINESS,
                value: swappiness.to_string(),
                why,
            });
        }
        place.push("memory", Step::write(SWAPPINESS, "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        place.push(
            "memory",
            Step::write("linux.resources.memory.disableOOMKiller", "memory.oom_control", 1),
        );
    }
    Ok(())
}

fn v2(place: &mut Place<'_>, wanted: &Wanted) -> Result<(), Error> {
    let swap = match (wanted.swap, wanted.limit) {
        // Kernels without swap accounting have no such file, and no limit on swap to lift either.
        (Some(-1), _) | (None, Some(-1)) => Some(Assignment::new(SWAP, "memory.swap.max", "max").optional()),
        (Some(swap), Some(limit)) if limit > 0 => {
            let only_swap = Assignment::new(SWAP, "memory.swap.max", swap - limit);
            Some(if swap == limit {
                only_swap.optional()
            } else {
                only_swap
            })
        }
        (Some(swap), _) => {
            let why = "it counts memory and swap together, so it needs a memory limit beside it";
            return Err(Error::Value {
                field: SWAP,
                value: swap.to_string(),
                why,
            });
        }
        (None, _) => None,
    };
    if let Some(swap) = swap {
        place.push("memory", Step::Write(swap));
    }
    if let Some(limit) = wanted.limit {
        place.push("memory", Step::write(LIMIT, "memory.max", or_max(limit)));
    }
    if let Some(reservation) = wanted.reservation {
        place.push(
            "memory",
            Step::write(RESERVATION, "memory.low", or_max(reservation)),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::observe::tests::{v1, v2};
    use crate::resources::tests::{refusal, writes};

    #[test]
    fn memory_is_written_per_version() {
        for (json, want1, want2) in [
            (
                r#"{"memory":{"limit":1000,"swap":3000,"reservation":500}}"#,
                vec![
                    "memory.limit_in_bytes 1000 + memory.memsw.limit_in_bytes 3000",
                    "memory.soft_limit_in_bytes 500",
                ],
                vec!["memory.swap.max 2000", "memory.max 1000", "memory.low 500"],
            ),
            (
                r#"{"memory":{"limit":1000,"swap":1000}}"#,
                vec!["memory.limit_in_bytes 1000 + memory.memsw.limit_in_bytes 1000"],
                vec!["memory.swap.max 0 ?", "memory.max 1000"],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                vec!["memory.limit_in_bytes -1 + memory.memsw.limit_in_bytes -1 ?"],
                vec!["memory.swap.max max ?", "memory.max max"],
            ),
            (
                r#"{"memory":{"limit":1000,"swap":-1}}"#,
                vec!["memory.limit_in_bytes 1000 + memory.memsw.limit_in_bytes -1"],
                vec!["memory.swap.max max ?", "memory.max 1000"],
            ),
            (
                r#"{"memory":{"limit":0,"swap":0,"swappiness":60,"disableOOMKiller":true}}"#,
                vec!["memory.swappiness 60", "memory.oom_control 1"],
                vec![],
            ),
            (r#"{"memory":{"disableOOMKiller":false}}"#, vec![], vec![]),
        ] {
            assert_eq!(writes(&v1(), json), want1, "{json}");
            assert_eq!(writes(&v2(), json), want2, "{json}");
        }
    }

    #[test]
    fn senseless_values_are_refused() {
        for (json, want) in [
            (
                r#"{"memory":{"limit":-2}}"#,
                "linux.resources.memory.limit is -2: give bytes, or -1 for no limit",
            ),
            (
                r#"{"memory":{"limit":10,"swap":5}}"#,
                "linux.resources.memory.swap is 5: it counts memory and swap together, so it cannot be below the \
                 memory limit",
            ),
        ] {
            assert_eq!(refusal(&v1(), json), want);
            assert_eq!(refusal(&v2(), json), want);
        }
        assert_eq!(
            refusal(&v1(), r#"{"memory":{"swappiness":101}}"#),
            "linux.resources.memory.swappiness is 101: it is between 0 and 100"
        );
        assert_eq!(
            refusal(&v2(), r#"{"memory":{"swap":5}}"#),
            "linux.resources.memory.swap is 5: it counts memory and swap together, so it needs a memory limit \
             beside it"
        );
    }
}
