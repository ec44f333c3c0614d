//! Pulls: each engine's first into an empty store, right after its start; the same again; and ten images at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use croze_integration_tests::Scene;

use crate::measure::measure;
use crate::processes;
use crate::puller::{PULLERS, Puller, Running, Source};
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
    /// The same pull again, when everything is there.
    pub(crate) again: Vec<Duration>,
    /// Several images with a common base, until the last one is there.
    pub(crate) crowd: Vec<Duration>,
}

/// Pulls `rounds` times with everybody, after one pull that does not count: the registry's files are in the page cache from then on, for all of
/// them alike. The results are in the order of [`PULLERS`].
pub(crate) fn pull(
    scene: &Scene,
    storage: Storage,
    source: &Source,
    crowd: &[Source],
    rounds: usize,
) -> Result<Vec<Pulls>> {
    let mut results = vec![Pulls::default(); PULLERS.len()];
    if rounds > 0 {
        pull_once(scene, storage, PULLERS[0], source, &mut Pulls::default())?;
    }
    for round in 0..rounds {
        for turn in 0..PULLERS.len() {
            let at = (round + turn) % PULLERS.len();
            pull_once(scene, storage, PULLERS[at], source, &mut results[at])?;
            if !crowd.is_empty() && PULLERS[at].is_engine() {
                results[at]
                    .crowd
                    .push(pull_all(scene, storage, PULLERS[at], crowd)?);
            }
        }
    }
    Ok(results)
}

fn pull_once(
    scene: &Scene,
    storage: Storage,
    puller: Puller,
    source: &Source,
    results: &mut Pulls,
) -> Result<()> {
    let mounted = Mounted::new(scene, "store", storage)?;
    let running = Running::start(scene, puller, mounted.path())?;
    let (empty, before) = (mounted.used()?, processes::processor_time(&running.daemons()?));
    let cost = measure(scene, &running.pull(source)?)?;
    let daemons = running.daemons()?;
    let daemon = processes::processor_time(&daemons).saturating_sub(before);
    results.times.push(cost.time);
    results.processor.push(cost.processor + daemon);
    if puller.is_engine() {
        results.peak_memory.push(if daemons.is_empty() {
            cost.peak_memory_kib
        } else {
            processes::peak_memory(&daemons)
        });
        results.stored.push(mounted.used()?.saturating_sub(empty));
        results.again.push(measure(scene, &running.pull(source)?)?.time);
    }
    drop(running);
    Ok(())
}

fn pull_all(scene: &Scene, storage: Storage, puller: Puller, crowd: &[Source]) -> Result<Duration> {
    let mounted = Mounted::new(scene, "store", storage)?;
    let running = Running::start(scene, puller, mounted.path())?;
    let begin = Instant::now();
    let pulls = crowd
        .iter()
        .map(|source| scene.start(running.pull(source)?))
        .collect::<Result<Vec<_>>>()?;
    for pull in pulls {
        pull.wait(Duration::from_secs(300))?.success()?;
    }
    let time = begin.elapsed();
    drop(running);
    Ok(time)
}
