//! One program by the clock, started by a small process of its own.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use croze_integration_tests::Scene;
use croze_sys::usage::wait_with_usage;
use serde_json::{Value, json};

/// What a program cost.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    pub(crate) processor: Duration,
    pub(crate) peak_memory_kib: u64,
    /// What it printed.
    pub(crate) stdout: String,
}

/// Runs a command that must succeed, by the clock.
pub(crate) fn measure(scene: &Scene, command: &Command) -> Result<Cost> {
    let notes = scene.path("measured.json");
    let mut wrapped = Command::new(std::env::current_exe()?);
    wrapped
        .arg("measure")
        .arg(&notes)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    let output = scene.run(wrapped)?.success()?;
    let noted: Value = serde_json::from_slice(&fs::read(&notes)?)?;
    let number = |name: &str| {
        noted[name]
            .as_u64()
            .with_context(|| format!("no {name} was noted"))
    };
    Ok(Cost {
        time: Duration::from_micros(number("time")?),
        processor: Duration::from_micros(number("processor")?),
        peak_memory_kib: number("memory")?,
        stdout: output.stdout,
    })
}

/// `measure FILE PROGRAM ARGUMENT...`: this process' whole life.
pub(crate) fn child(mut words: impl Iterator<Item = String>) -> Result<()> {
    let notes = words.next().context("measure needs a file")?;
    let program = words.next().context("measure needs a program")?;
    let mut command = Command::new(&program);
    command.args(words);
    let begin = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {program}"))?;
    let (exit, usage) = wait_with_usage(i32::try_from(child.id())?)?;
    let time = begin.elapsed();
    let noted = json!({
        "time": u64::try_from(time.as_micros())?,
        "processor": u64::try_from(usage.processor.as_micros())?,
        "memory": usage.peak_memory_kib,
    });
    fs::write(&notes, serde_json::to_vec(&noted)?).with_context(|| format!("writing {notes}"))?;
    std::process::exit(exit.as_code())
}
