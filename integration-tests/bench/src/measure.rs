//! The rounds: what is called, in which order.
//!
//! ```text
//! round ─▶ every (errand, runtime) once, in an order drawn by lot
//!            run ─ seccomp, twice ─ life: create, state, start, exec, kill, delete
//! ```
//!
//! By lot, because a runtime feels its neighbours: a process moved into a cgroup by another one, as crun and runc do it, waits for a
//! quiet moment of the kernel, and right after somebody else has waited for one it is cheap.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use croze_sys::usage::wait_with_usage;

use crate::bundle::{Bundles, CROWD, crowd_name};
use crate::runtimes::{Bench, Cost, Runtime};

/// What is timed, in the order of the report.
pub(crate) const CASES: [&str; 9] = [
    "run",
    "run, seccomp, no cache",
    "run, seccomp, cached",
    "create",
    "state",
    "start",
    "exec",
    "kill",
    "delete",
];
/// Where in [`CASES`] those of a life begin.
const LIFE: usize = 3;

/// What one case cost one runtime.
#[derive(Clone, Default)]
pub(crate) struct Samples {
    pub(crate) times: Vec<Duration>,
    /// Peak memory in KiB.
    pub(crate) memory: Vec<u64>,
}

/// Everything that was measured, by runtime.
#[derive(Default)]
pub(crate) struct Results {
    /// By case and runtime.
    pub(crate) cases: Vec<Vec<Samples>>,
    /// How long a crowd took, by runtime.
    pub(crate) crowds: Vec<Vec<Duration>>,
    /// System calls by case and runtime.
    pub(crate) calls: Vec<Vec<Option<usize>>>,
}

#[derive(Clone, Copy)]
enum Errand {
    Run,
    Filtered,
    Life,
}

/// Takes out the runtimes that cannot make the container here; returns them with what they say. The first one must be able to.
pub(crate) fn take_out_unable(
    runtimes: &mut Vec<Runtime>,
    bundles: &Bundles,
) -> Result<Vec<(String, String)>> {
    become_subreaper()?;
    let mut unable = Vec::new();
    for (at, runtime) in std::mem::take(runtimes).into_iter().enumerate() {
        let bench = Bench::new(&runtime, bundles)?;
        match bench.life() {
            Ok(_) => runtimes.push(runtime),
            Err(error) if at == 0 => return Err(error),
            Err(error) => {
                // It may have left nothing.
                bench.call(&["delete", "--force", "sleeper"]).ok();
                unable.push((runtime.name, format!("{error:#}")));
            }
        }
    }
    Ok(unable)
}

fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).context("becoming a subreaper")
}

/// Measures every case `rounds` times with every runtime, after two rounds that do not count.
pub(crate) fn measure(
    runtimes: &[Runtime],
    bundles: &Bundles,
    rounds: usize,
    crowds: usize,
) -> Result<Results> {
    const WARM: usize = 2;
    become_subreaper()?;
    let benches = runtimes
        .iter()
        .map(|runtime| Bench::new(runtime, bundles))
        .collect::<Result<Vec<_>>>()?;
    let mut results = Results {
        cases: vec![vec![Samples::default(); runtimes.len()]; CASES.len()],
        crowds: vec![Vec::new(); runtimes.len()],
        calls: vec![vec![None; runtimes.len()]; CASES.len()],
    };
    let mut lots = Lots::new();
    for round in 0..rounds + WARM {
        let errands = [Errand::Run, Errand::Filtered, Errand::Life];
        let all = (0..benches.len()).flat_map(|at| errands.map(|errand| (at, errand)));
        for (at, errand) in lots.shuffled(all.collect()) {
            let (first, costs) = benches[at].perform(errand)?;
            if round < WARM {
                continue;
            }
            for (case, cost) in costs.into_iter().enumerate() {
                let samples = &mut results.cases[first + case][at];
                samples.times.push(cost.time);
                samples.memory.push(cost.memory);
            }
        }
    }
    let crowd: Vec<String> = (0..CROWD).map(crowd_name).collect();
    for turn in 0..crowds {
        for at in lots.shuffled((0..benches.len()).collect()) {
            results.crowds[at].push(benches[at].run_at_once(&crowd, turn)?);
        }
    }
    for (at, bench) in benches.iter().enumerate() {
        for (case, calls) in bench.calls()?.into_iter().enumerate() {
            results.calls[case][at] = calls;
        }
    }
    Ok(results)
}

impl Bench<'_> {
    /// What the errand cost, and where in [`CASES`] that begins.
    fn perform(&self, errand: Errand) -> Result<(usize, Vec<Cost>)> {
        match errand {
            Errand::Run => Ok((0, vec![self.run("plain", "plain")?])),
            Errand::Filtered => {
                self.forget_compiled()?;
                let cold = self.run("seccomp", "seccomp")?;
                Ok((1, vec![cold, self.run("seccomp", "seccomp")?]))
            }
            Errand::Life => Ok((LIFE, self.life()?)),
        }
    }

    /// create, state, start, exec, kill, the process' end, delete.
    fn life(&self) -> Result<Vec<Cost>> {
        let (create, pid) = self.create("sleeping", "sleeper")?;
        let state = self.call(&["state", "sleeper"])?;
        let start = self.call(&["start", "sleeper"])?;
        let exec = self.call(&["exec", "sleeper", "/bin/true"])?;
        let kill = self.call(&["kill", "sleeper", "KILL"])?;
        await_killed(pid)?;
        let delete = self.call(&["delete", "sleeper"])?;
        Ok(vec![create, state, start, exec, kill, delete])
    }

    /// The system calls of every case, in the order of [`CASES`].
    fn calls(&self) -> Result<Vec<Option<usize>>> {
        let count = |bundle: &str| self.count_calls(&["run", "--bundle", &self.bundle(bundle), "traced"]);
        let plain = count("plain")?;
        self.forget_compiled()?;
        let mut calls = vec![plain, count("seccomp")?, count("seccomp")?];
        let (_, pid) = self.create("sleeping", "before")?;
        self.call(&["start", "before"])?;
        // `create` under strace would leave its container's process traced: it is what `run` does without the end.
        calls.push(None);
        calls.push(self.count_calls(&["state", "before"])?);
        calls.push(None);
        calls.push(self.count_calls(&["exec", "before", "/bin/true"])?);
        calls.push(self.count_calls(&["kill", "before", "KILL"])?);
        await_killed(pid)?;
        calls.push(self.count_calls(&["delete", "before"])?);
        Ok(calls)
    }
}

/// An orphan of the runtime's is a child of this subreaper.
fn await_killed(pid: i32) -> Result<()> {
    let (exit, _) = wait_with_usage(pid)?;
    ensure!(
        exit.as_code() == 137,
        "the killed container ended with {}",
        exit.as_code()
    );
    Ok(())
}

/// Orders drawn by lot (SplitMix64).
struct Lots(u64);

impl Lots {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(now.map_or(1, |time| u64::from(time.subsec_nanos())))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half decides; `end` is small.
        ((mixed >> 32) as usize) % end
    }

    fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for end in (1..items.len()).rev() {
            let other = self.below(end + 1);
            items.swap(end, other);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::Lots;

    #[test]
    fn an_order_has_everything_once() {
        let mut lots = Lots(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = lots.shuffled(vec![0, 1, 2]);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
            seen.insert(order);
        }
        assert_eq!(seen.len(), 6, "every order comes");
    }
}
