//! Limits hold, and their excess is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Scene, is_alive, process_ids_in_cgroup, wait_until};
use serde_json::json;

use crate::Stage;

#[test]
fn an_allocation_over_the_limit_is_killed_and_told() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "64"];
        stage.run(&limits, &["/probe", "alloc", "256m"])?.code(137)?;
        stage.run(&limits, &["/probe", "alloc", "32m"])?.success()?;

        let words = [
            "run",
            "--name",
            "big",
            "-m",
            "64m",
            &stage.image,
            "/probe",
            "alloc",
            "256m",
        ];
        stage.daemon.croze(&words)?.code(137)?;
        let facts = stage.daemon.inspect("big")?;
        assert_eq!(facts["State"]["OOMKilled"], json!(true), "{facts}");
        assert_eq!(facts["State"]["ExitCode"], json!(137));
        assert_eq!(facts["HostConfig"]["Memory"], json!(64 << 20));
        stage.daemon.finish()
    })
}

#[test]
fn a_child_that_is_killed_for_memory_is_told_too() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        // The first process survives its child: the container ends well, and the kill is told all the same.
        let script = "/probe alloc 256m; echo child ended with $?; exit 0";
        let words = [
            "run",
            "--name",
            "child",
            "-m",
            "64m",
            &stage.image,
            "/bin/sh",
            "-c",
            script,
        ];
        let output = stage.daemon.croze(&words)?.success()?;
        ensure!(output.stdout.contains("child ended with 137"), "{output}");
        assert_eq!(stage.daemon.inspect("child")?["State"]["OOMKilled"], json!(true));
        stage.daemon.finish()
    })
}

#[test]
fn a_fork_bomb_stops_at_its_limit() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let output = stage
            .run(&["--pids-limit", "64"], &["/probe", "forkbomb"])?
            .success()?;
        let forked: u32 = output.text().split(' ').nth(1).context("a number")?.parse()?;
        ensure!((55..64).contains(&forked), "{output}");
        stage.daemon.finish()
    })
}

#[test]
fn the_cpu_share_holds() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let answer = stage
            .run(&["--cpus", "0.5"], &["/probe", "spin", "3"])?
            .success()?
            .json()?;
        let used = answer["percent"].as_f64().context("a percentage")?;
        ensure!(
            (30.0..58.0).contains(&used),
            "half a CPU was allowed, {used:.1} % used"
        );
        stage.daemon.finish()
    })
}

#[test]
fn killing_the_first_process_kills_all() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("family", &[], &["/probe", "children", "5"], "ready")?;
        let ids = stage.daemon.container_ids()?;
        let id = ids.first().context("an id")?;
        let members = wait_until("six processes run", Duration::from_secs(10), || {
            let members = process_ids_in_cgroup("pids", id)?;
            Ok((members.len() == 6).then_some(members))
        })?;
        let pid = stage.daemon.pid("family")?;
        ensure!(members.contains(&pid), "{pid} in {members:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?;
        assert_eq!(stage.daemon.ok(&["wait", "family"])?.text(), "137");
        ensure!(
            members.iter().all(|pid| !is_alive(*pid)),
            "some of {members:?} live on"
        );
        stage.daemon.finish()
    })
}
