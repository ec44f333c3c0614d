//! Commands about a container that runs: new limits, what it uses, its processes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, cgroup_file, cgroups_are_unified, spec, wait_until};
use serde_json::{Value, json};

use crate::is_croze;

/// A running container with a memory limit of 64 MiB in a cgroup of the test's own.
fn waiting(scene: &Scene, runtime: &Runtime<'_>, name: &str) -> Result<String> {
    let mut config = spec::docker_like(&["/probe", "wait"]);
    config["linux"]["cgroupsPath"] = json!(scene.cgroup(name));
    config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 64 << 20 });
    let bundle = Bundle::new(scene, name, &config)?;
    let id = scene.id(name);
    runtime.create_and_start(&bundle, &id)?;
    Ok(id)
}

#[test]
fn update_changes_what_it_is_given_and_nothing_else() -> Result<()> {
    // Flags, and files with their values on version 1 and on version 2.
    type Files<'a> = &'a [(&'a str, &'a str, &'a str)];
    type Case<'a> = (&'a [&'a str], Files<'a>, Files<'a>);
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = waiting(scene, &runtime, "update")?;
        let cgroup = scene.cgroup("update");
        let cases: [Case<'_>; 7] = [
            (
                &["--memory", "32m", "--memory-swap", "48m"],
                &[
                    ("memory", "memory.limit_in_bytes", "33554432"),
                    ("memory", "memory.memsw.limit_in_bytes", "50331648"),
                ],
                &[
                    ("memory", "memory.max", "33554432"),
                    ("memory", "memory.swap.max", "16777216"),
                ],
            ),
            // Up again: the bound has to go first.
            (
                &[
                    "--memory=96m",
                    "--memory-swap=128m",
                    "--memory-reservation",
                    "16m",
                ],
                &[
                    ("memory", "memory.limit_in_bytes", "100663296"),
                    ("memory", "memory.memsw.limit_in_bytes", "134217728"),
                    ("memory", "memory.soft_limit_in_bytes", "16777216"),
                ],
                &[
                    ("memory", "memory.max", "100663296"),
                    ("memory", "memory.swap.max", "33554432"),
                    ("memory", "memory.low", "16777216"),
                ],
            ),
            (
                &["--cpu-period", "50000", "--cpu-quota", "20000"],
                &[
                    ("cpu", "cpu.cfs_period_us", "50000"),
                    ("cpu", "cpu.cfs_quota_us", "20000"),
                ],
                &[("cpu", "cpu.max", "20000 50000")],
            ),
            (
                &["--cpu-quota=-1"],
                &[
                    ("cpu", "cpu.cfs_period_us", "50000"),
                    ("cpu", "cpu.cfs_quota_us", "-1"),
                ],
                &[("cpu", "cpu.max", "max 50000")],
            ),
            (
                &["--cpu-share", "300", "--cpuset-cpus", "0"],
                &[("cpu", "cpu.shares", "300"), ("cpuset", "cpuset.cpus", "0")],
                &[("cpuset", "cpuset.cpus", "0")],
            ),
            (
                &["--pids-limit", "44"],
                &[("pids", "pids.max", "44")],
                &[("pids", "pids.max", "44")],
            ),
            (
                &["--pids-limit=-1"],
                &[("pids", "pids.max", "max")],
                &[("pids", "pids.max", "max")],
            ),
        ];
        for (flags, version_1, version_2) in cases {
            let files = if cgroups_are_unified() {
                version_2
            } else {
                version_1
            };
            let mut line = vec!["update"];
            line.extend(flags);
            line.push(&id);
            runtime.call(&line)?.success()?;
            for (controller, file, want) in files {
                assert_eq!(
                    &cgroup_file(controller, &cgroup, file)?,
                    want,
                    "{flags:?}: {file}"
                );
            }
        }
        runtime.delete_by_force(&id)
    })
}

#[test]
fn update_reads_resources_from_a_file_and_from_standard_input() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = waiting(scene, &runtime, "resources")?;
        let cgroup = scene.cgroup("resources");
        // The weight of version 2 goes through the usual value, where all runtimes agree.
        let (weight, first, second) = match cgroups_are_unified() {
            true => ("cpu.weight", "100", "1"),
            false => ("cpu.shares", "1024", "2"),
        };
        let file = scene.path("resources.json");
        std::fs::write(&file, r#"{"pids": {"limit": 21}, "cpu": {"shares": 1024}}"#)?;
        let name = file.display().to_string();
        runtime.call(&["update", "--resources", &name, &id])?.success()?;
        assert_eq!(cgroup_file("pids", &cgroup, "pids.max")?, "21");
        assert_eq!(cgroup_file("cpu", &cgroup, weight)?, first);

        let mut command = runtime.command(&["update", "-r", "-", &id]);
        std::fs::write(&file, r#"{"cpu": {"shares": 2}}"#)?;
        command.stdin(std::fs::File::open(&file)?);
        scene.run(command)?.success()?;
        assert_eq!(cgroup_file("cpu", &cgroup, weight)?, second);
        assert_eq!(cgroup_file("pids", &cgroup, "pids.max")?, "21");

        std::fs::write(&file, r#"{"cpu": 7}"#)?;
        runtime
            .call(&["update", "--resources", &name, &id])?
            .failure(&[])?;
        runtime
            .call(&["update", "--memory", "lots", &id])?
            .failure(&["memory"])?;
        runtime.delete_by_force(&id)?;
        runtime
            .call(&["update", "--pids-limit", "5", &id])?
            .failure(&["does not exist"])
            .map(drop)
    })
}

#[test]
fn events_tell_what_is_used() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = waiting(scene, &runtime, "stats")?;
        let event: Value = runtime.call(&["events", "--stats", &id])?.success()?.json()?;
        assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
        let number = |pointer: &str| {
            event["data"]
                .pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("{pointer} in {event}"))
        };
        assert_eq!(number("/memory/usage/limit")?, 64 << 20);
        let used = number("/memory/usage/usage")?;
        ensure!((1..64 << 20).contains(&used), "{event}");
        ensure!(number("/cpu/usage/total")? > 0, "{event}");
        assert_eq!(number("/pids/current")?, 1);
        ensure!(event["data"]["memory"]["raw"]["pgfault"].is_u64(), "{event}");
        runtime.delete_by_force(&id)?;
        runtime
            .call(&["events", "--stats", &id])?
            .failure(&["does not exist"])
            .map(drop)
    })
}

#[test]
fn events_tell_of_memory_that_runs_out_and_end_with_the_container() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = waiting(scene, &runtime, "oom")?;
        let events = scene.start(runtime.command(&["events", "--interval", "100ms", &id]))?;
        let within = Duration::from_secs(20);
        let told = |kind: &str| events.stdout().contains(&format!("\"type\":\"{kind}\""));
        wait_until("usage was told", within, || Ok(told("stats").then_some(())))?;
        ensure!(!told("oom"), "{}", events.stdout());
        runtime
            .call(&["exec", &id, "/probe", "alloc", "128m"])?
            .code(137)?;
        wait_until("the OOM was told", within, || Ok(told("oom").then_some(())))?;
        runtime.delete_by_force(&id)?;
        let output = events.wait(within)?;
        if is_croze(&runtime) {
            output.success()?;
        }
        Ok(())
    })
}

#[test]
fn ps_lists_processes_as_a_table_and_as_json() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = waiting(scene, &runtime, "ps")?;
        let pid = runtime.pid(&id)?;
        let listed: Value = runtime
            .call(&["ps", "--format", "json", &id])?
            .success()?
            .json()?;
        assert_eq!(listed, json!([pid]));
        for arguments in [&[][..], &["-o", "pid,comm"], &["aux"]] {
            let mut line = vec!["ps", id.as_str()];
            line.extend(arguments);
            let table = runtime.call(&line)?.success()?.stdout;
            let rows: Vec<&str> = table.lines().collect();
            ensure!(
                rows.len() == 2 && rows[0].contains("PID"),
                "{arguments:?}: {table}"
            );
            ensure!(rows[1].contains(&pid.to_string()), "{arguments:?}: {table}");
        }
        runtime.call(&["ps", &id, "-o", "comm"])?.failure(&["PID"])?;
        runtime.delete_by_force(&id)
    })
}

#[test]
fn containers_are_deleted_and_killed_by_expression() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let first = waiting(scene, &runtime, "many-1")?;
        let second = waiting(scene, &runtime, "many-2")?;
        let other = waiting(scene, &runtime, "other")?;
        runtime
            .call(&["kill", "--regex", "many-[0-9]$", "KILL"])?
            .success()?;
        for id in [&first, &second] {
            runtime.wait_for_status(id, "stopped")?;
        }
        assert_eq!(runtime.state(&other)?["status"], "running");
        runtime.call(&["delete", "--regex", "many-"])?.success()?;
        runtime
            .call(&["delete", "--regex", "other"])?
            .failure(&["running"])?;
        assert_eq!(runtime.call(&["list", "-q"])?.success()?.text(), other.as_str());
        runtime
            .call(&["delete", "--regex", "("])?
            .failure(&["regular expression"])?;
        runtime.call(&["delete", "-f", "-r", "."])?.success()?;
        assert_eq!(runtime.call(&["list", "-q"])?.success()?.text(), "");
        Ok(())
    })
}
