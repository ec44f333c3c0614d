//! The life of a container of a small image, verb by verb.

use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{ImageLayout, Registry, Scene};

use crate::engine::{Engine, KINDS};
use crate::measure::measure;
use crate::processes;
use crate::storage::{Mounted, Storage};

/// What is timed, in the order of the report.
pub(crate) const CASES: [&str; 6] = [
    "run --rm IMAGE true",
    "run -d",
    "exec CONTAINER true",
    "ps",
    "stop",
    "rm",
];

/// Ends at once when it is told to: what is timed is the engine.
pub(crate) const OBEDIENT: [&str; 3] = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done",
];

/// What one engine's containers cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    /// By case.
    pub(crate) times: Vec<Vec<Duration>>,
    /// Of the daemon and its helpers after its start, KiB; `None`: it has none.
    pub(crate) idle_memory: Option<u64>,
    /// Of the process beside a running container, KiB.
    pub(crate) monitor_memory: u64,
}

/// Pushes the small image; its reference.
pub(crate) fn push_small(scene: &Scene, registry: &Registry<'_>) -> Result<String> {
    let layout = ImageLayout::small(scene)?.write(scene, "small", "small")?;
    registry.push(&layout, "small", "bench/small:1")?;
    Ok(registry.reference("bench/small:1"))
}

/// Measures every case `rounds` times with every engine, after one round that does not count.
pub(crate) fn live_through(
    scene: &Scene,
    storage: Storage,
    image: &str,
    rounds: usize,
) -> Result<Vec<Lives>> {
    let mut results = vec![
        Lives {
            times: vec![Vec::new(); CASES.len()],
            ..Lives::default()
        };
        KINDS.len()
    ];
    let mut stores = Vec::new();
    for kind in KINDS {
        stores.push(Mounted::new(scene, kind.name(), storage)?);
    }
    let mut engines = Vec::new();
    for ((kind, store), result) in KINDS.into_iter().zip(&stores).zip(&mut results) {
        let engine = Engine::start(scene, kind, store.path())?;
        let daemons = engine.daemons()?;
        if !daemons.is_empty() {
            result.idle_memory = Some(processes::proportional_memory(&daemons));
        }
        scene.run(engine.pull(image)?)?.success()?;
        engines.push(engine);
    }
    for round in 0..=rounds {
        for turn in 0..engines.len() {
            let at = (round + turn) % engines.len();
            live(scene, &engines[at], image, round > 0, &mut results[at])?;
        }
    }
    Ok(results)
}

/// One round of one engine.
fn live(scene: &Scene, engine: &Engine<'_>, image: &str, counts: bool, result: &mut Lives) -> Result<()> {
    let run = measure(
        scene,
        &engine.run(&["--network", "none", "--rm"], image, &["true"])?,
    )?;
    let detached = measure(
        scene,
        &engine.run(&["--network", "none", "-d"], image, &OBEDIENT)?,
    )?;
    let id = detached.stdout.trim().to_owned();
    ensure!(!id.is_empty(), "{} run -d printed no id", engine.kind().name());
    let exec = measure(scene, &engine.command(&["exec", &id, "true"])?)?;
    let ps = measure(scene, &engine.command(&["ps"])?)?;
    let own = i32::try_from(std::process::id())?;
    let monitors = processes::named(&processes::family(own)?, engine.kind().monitor());
    let monitor_memory = processes::proportional_memory(&monitors);
    let stop = measure(scene, &engine.command(&["stop", "--time", "5", &id])?)?;
    let rm = measure(scene, &engine.command(&["rm", &id])?)?;
    if counts {
        for (times, cost) in result.times.iter_mut().zip([run, detached, exec, ps, stop, rm]) {
            times.push(cost.time);
        }
        result.monitor_memory = monitor_memory;
    }
    Ok(())
}
