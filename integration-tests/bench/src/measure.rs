//! Running the runtimes, by the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use croze_sys::usage::wait_with_usage;

use crate::bundle::Bundles;

/// One runtime.
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    /// The first line of `--version`.
    pub(crate) version: String,
    /// The program's size in bytes.
    pub(crate) size: u64,
}

/// What is timed, in the order of the report.
pub(crate) const CASES: [&str; 7] = [
    "run",
    "run, seccomp",
    "create",
    "state",
    "start",
    "delete",
    "exec",
];

/// What one case cost one runtime.
#[derive(Clone, Default)]
pub(crate) struct Samples {
    pub(crate) times: Vec<Duration>,
    /// Peak memory in KiB.
    pub(crate) memory: Vec<u64>,
}

/// Samples by case and runtime.
pub(crate) type Results = Vec<Vec<Samples>>;

/// croze-rt and those of crun and runc that are installed.
pub(crate) fn find_runtimes(croze_rt: &Path) -> Result<Vec<Runtime>> {
    let croze_rt = fs::canonicalize(croze_rt)
        .with_context(|| format!("{} is missing: run `make build`", croze_rt.display()))?;
    let mut found = vec![describe("croze-rt", croze_rt)?];
    for name in ["crun", "runc"] {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&directories)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file());
        let path = path.with_context(|| format!("{name} is not installed (Debian: {name})"))?;
        found.push(describe(name, path)?);
    }
    Ok(found)
}

fn describe(name: &'static str, path: PathBuf) -> Result<Runtime> {
    let output = Command::new(&path).arg("--version").output()?;
    let version = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let size = fs::metadata(&path)?.len();
    Ok(Runtime {
        name,
        path,
        version,
        size,
    })
}

/// One runtime at work, with a directory of its own.
struct Bench<'a> {
    runtime: &'a Runtime,
    bundles: &'a Bundles,
    root: PathBuf,
}

/// What one call cost.
struct Cost {
    time: Duration,
    memory: u64,
}

impl Bench<'_> {
    /// Runs one command to its end.
    fn call(&self, arguments: &[&str]) -> Result<Cost> {
        let errors = self.root.join("errors");
        let mut command = Command::new(&self.runtime.path);
        command.arg("--root").arg(&self.root).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?);
        let begin = Instant::now();
        let child = command.spawn()?;
        let (exit, usage) = wait_with_usage(i32::try_from(child.id())?)?;
        let time = begin.elapsed();
        if exit.as_code() != 0 {
            bail!(
                "{} {arguments:?}: code {}: {}",
                self.runtime.name,
                exit.as_code(),
                fs::read_to_string(&errors)?
            );
        }
        Ok(Cost {
            time,
            memory: usage.peak_memory_kib,
        })
    }

    fn bundle(&self, name: &str) -> String {
        self.bundles.path(name).display().to_string()
    }

    fn run(&self, bundle: &str) -> Result<Cost> {
        self.call(&["run", "--bundle", &self.bundle(bundle), "bench"])
    }

    fn create(&self, bundle: &str, id: &str) -> Result<(Cost, i32)> {
        let file = self.root.join(format!("{id}.pid"));
        let cost = self.call(&[
            "create",
            "--bundle",
            &self.bundle(bundle),
            "--pid-file",
            &file.display().to_string(),
            id,
        ])?;
        let pid = fs::read_to_string(&file)?
            .trim()
            .parse()
            .context("the pid file holds no number")?;
        Ok((cost, pid))
    }

    /// create, state, start, the process' end, delete.
    fn life(&self) -> Result<[Cost; 4]> {
        let (create, pid) = self.create("plain", "bench")?;
        let state = self.call(&["state", "bench"])?;
        let start = self.call(&["start", "bench"])?;
        // An orphan of the runtime's, and so a child of this subreaper.
        wait_with_usage(pid)?;
        let delete = self.call(&["delete", "bench"])?;
        Ok([create, state, start, delete])
    }
}

/// Measures every case `rounds` times with every runtime, after one round that does not count.
pub(crate) fn measure(runtimes: &[Runtime], bundles: &Bundles, rounds: usize) -> Result<Results> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
        .context("becoming a subreaper")?;
    let mut results: Results = vec![vec![Samples::default(); runtimes.len()]; CASES.len()];
    let mut benches = Vec::new();
    for runtime in runtimes {
        let root = bundles.path(&format!("root-{}", runtime.name));
        fs::create_dir(&root)?;
        benches.push(Bench {
            runtime,
            bundles,
            root,
        });
    }
    for round in 0..=rounds {
        for turn in 0..benches.len() {
            let at = (round + turn) % benches.len();
            let [create, state, start, delete] = benches[at].life()?;
            let costs = [
                benches[at].run("plain")?,
                benches[at].run("seccomp")?,
                create,
                state,
                start,
                delete,
            ];
            if round > 0 {
                for (case, cost) in costs.into_iter().enumerate() {
                    results[case][at].times.push(cost.time);
                    results[case][at].memory.push(cost.memory);
                }
            }
        }
    }
    for (at, bench) in benches.iter().enumerate() {
        results[CASES.len() - 1][at] = execs(bench, rounds)?;
    }
    Ok(results)
}

/// `exec` in a container that sleeps. Not interleaved: all containers have the same cgroup, so only one can be
/// there at a time.
fn execs(bench: &Bench<'_>, rounds: usize) -> Result<Samples> {
    let (_, pid) = bench.create("sleeping", "sleeper")?;
    let samples = bench.call(&["start", "sleeper"]).and_then(|_| {
        let mut samples = Samples::default();
        for round in 0..=rounds {
            let cost = bench.call(&["exec", "sleeper", "/bin/true"])?;
            if round > 0 {
                samples.times.push(cost.time);
                samples.memory.push(cost.memory);
            }
        }
        Ok(samples)
    });
    bench.call(&["kill", "sleeper", "KILL"])?;
    let (exit, _) = wait_with_usage(pid)?;
    ensure!(
        exit.as_code() == 137,
        "the sleeping container ended with {}",
        exit.as_code()
    );
    bench.call(&["delete", "sleeper"])?;
    samples
}
