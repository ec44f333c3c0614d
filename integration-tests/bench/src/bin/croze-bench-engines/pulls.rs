//! Cold pulls: each into an empty store, by an engine that was just started.

use std::time::Duration;

use anyhow::Result;
use croze_integration_tests::Scene;

use crate::engine::{Engine, KINDS, Kind};
use crate::measure::measure;
use crate::processes;
use crate::storage::{Mounted, Storage};

/// What one engine's pulls cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulls {
    pub(crate) times: Vec<Duration>,
    /// Client and daemon together.
    pub(crate) processor: Vec<Duration>,
    /// Of the daemon and its helpers; of the client where there is no daemon. KiB.
    pub(crate) peak_memory: Vec<u64>,
    /// What the store has grown by, in bytes.
    pub(crate) stored: Vec<u64>,
}

/// Pulls `rounds` times with every engine, after one pull that does not count: the registry's files are in the page cache from then on, for all of
/// them alike. The results are in the order of [`KINDS`].
pub(crate) fn pull(scene: &Scene, storage: Storage, reference: &str, rounds: usize) -> Result<Vec<Pulls>> {
    let mut results = vec![Pulls::default(); KINDS.len()];
    if rounds > 0 {
        pull_once(scene, storage, KINDS[0], reference, &mut Pulls::default())?;
    }
    for round in 0..rounds {
        for turn in 0..KINDS.len() {
            let at = (round + turn) % KINDS.len();
            pull_once(scene, storage, KINDS[at], reference, &mut results[at])?;
        }
    }
    Ok(results)
}

fn pull_once(
    scene: &Scene,
    storage: Storage,
    kind: Kind,
    reference: &str,
    results: &mut Pulls,
) -> Result<()> {
    let mounted = Mounted::new(scene, "store", storage)?;
    let engine = Engine::start(scene, kind, mounted.path())?;
    if kind == Kind::Podman {
        // Its first call ever makes the databases; the daemons have had their start already.
        scene.run(engine.command(&["images"])?)?.success()?;
    }
    let (empty, before) = (mounted.used()?, processes::processor_time(&engine.daemons()?));
    let cost = measure(scene, &engine.pull(reference)?)?;
    let daemons = engine.daemons()?;
    let daemon = processes::processor_time(&daemons).saturating_sub(before);
    results.times.push(cost.time);
    results.processor.push(cost.processor + daemon);
    results.peak_memory.push(if daemons.is_empty() {
        cost.peak_memory_kib
    } else {
        processes::peak_memory(&daemons)
    });
    results.stored.push(mounted.used()?.saturating_sub(empty));
    drop(engine);
    Ok(())
}
