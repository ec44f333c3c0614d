//! What only version 2 of cgroups has, or does in its own way. On other hosts these tests say so and end.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{
    Bundle, Runtime, Scene, cgroup_file, cgroups_are_unified, is_alive, process_ids_in_cgroup, spec,
    wait_until,
};
use serde_json::{Value, json};

use crate::is_croze;

#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn has_version_2() -> bool {
    let unified = cgroups_are_unified();
    if !unified {
        eprintln!("skipped: this host has cgroups of version 1");
    }
    unified
}

/// A spec in a cgroup of the test's own, with these resources beside the devices'.
fn limited(scene: &Scene, name: &str, arguments: &[&str], resources: &Value) -> Value {
    let mut config = spec::docker_like(arguments);
    config["linux"]["cgroupsPath"] = json!(scene.cgroup(name));
    if let (Some(all), Some(new)) = (
        config["linux"]["resources"].as_object_mut(),
        resources.as_object(),
    ) {
        all.extend(new.clone());
    }
    config
}

fn started(scene: &Scene, runtime: &Runtime<'_>, name: &str, config: &Value) -> Result<String> {
    let bundle = Bundle::new(scene, name, config)?;
    let id = scene.id(name);
    runtime.create_and_start(&bundle, &id)?;
    Ok(id)
}

/// The device number of some disk, to limit.
fn disk() -> Result<(u64, u64)> {
    let entries = fs::read_dir("/sys/block")?.flatten();
    let mut numbers = entries.filter_map(|entry| fs::read_to_string(entry.path().join("dev")).ok());
    let text = numbers.find(|text| !text.starts_with("7:")).context("a disk")?;
    let (major, minor) = text.trim().split_once(':').context("a device number")?;
    Ok((major.parse()?, minor.parse()?))
}

#[test]
fn every_controller_gets_its_limits() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (major, minor) = disk()?;
        let resources = json!({
            "cpu": { "shares": 1024, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0" },
            "blockIO": {
                "weight": 500,
                "throttleReadBpsDevice": [{ "major": major, "minor": minor, "rate": 1_048_576 }],
                "throttleWriteIOPSDevice": [{ "major": major, "minor": minor, "rate": 200 }],
            },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }],
            "memory": { "limit": 64 << 20, "swap": -1, "swappiness": 60 },
            "pids": { "limit": 99 },
            "unified": { "memory.high": "50331648", "cgroup.max.descendants": "5", "memory.oom.group": "1" },
        });
        let id = started(
            scene,
            &runtime,
            "all",
            &limited(scene, "all", &["/probe", "wait"], &resources),
        )?;
        let cgroup = scene.cgroup("all");
        for (file, value) in [
            ("cpu.weight", "100".to_owned()),
            ("cpu.max", "20000 50000".to_owned()),
            ("cpuset.cpus", "0".to_owned()),
            ("cpuset.mems", "0".to_owned()),
            (
                "io.max",
                format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=200"),
            ),
            ("hugetlb.2MB.max", "4194304".to_owned()),
            ("memory.max", "67108864".to_owned()),
            ("memory.swap.max", "max".to_owned()),
            ("memory.high", "50331648".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("cgroup.max.descendants", "5".to_owned()),
            ("pids.max", "99".to_owned()),
        ] {
            assert_eq!(cgroup_file("", &cgroup, file)?, value, "{file}");
        }
        // Weights run from 10 to 1000 in a spec, and from 1 to 10000 here.
        let weight = cgroup_file("", &cgroup, "io.weight")?;
        ensure!(weight.starts_with("default 49"), "{weight}");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn unified_files_that_cannot_be_are_refused() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        for (name, file, value, words) in [
            ("file", "memory.nonsense", "1", &["memory.nonsense"][..]),
            ("value", "memory.max", "many", &["memory.max"]),
            ("path", "../memory.max", "1", &[]),
            ("controller", "nonsense.max", "1", &["nonsense"]),
        ] {
            let config = limited(
                scene,
                name,
                &["/bin/true"],
                &json!({ "unified": { file: value } }),
            );
            let bundle = Bundle::new(scene, name, &config)?;
            let words = if is_croze(&runtime) { words } else { &[] };
            runtime.run(&bundle, &scene.id(name))?.failure(words)?;
        }
        Ok(())
    })
}

#[test]
fn a_paused_container_stands_still_in_the_kernels_own_file() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let config = limited(scene, "frozen", &["/probe", "children", "3"], &json!({}));
        let id = started(scene, &runtime, "frozen", &config)?;
        let cgroup = scene.cgroup("frozen");
        runtime.call(&["pause", &id])?.success()?;
        ensure!(cgroup_file("", &cgroup, "cgroup.events")?.contains("frozen 1"));
        assert_eq!(runtime.state(&id)?["status"], "paused");
        runtime.call(&["resume", &id])?.success()?;
        ensure!(cgroup_file("", &cgroup, "cgroup.events")?.contains("frozen 0"));
        // Killed though frozen: version 2 ends frozen processes.
        runtime.call(&["pause", &id])?.success()?;
        runtime.delete_by_force(&id)
    })
}

#[test]
fn without_a_pid_namespace_every_process_is_killed() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = limited(scene, "shared", &["/probe", "children", "4"], &json!({}));
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
        let id = started(scene, &runtime, "shared", &config)?;
        let cgroup = scene.cgroup("shared");
        let members = wait_until("five processes run", Duration::from_secs(20), || {
            let members = process_ids_in_cgroup("", &cgroup)?;
            Ok((members.len() == 5).then_some(members))
        })?;
        runtime.call(&["kill", &id, "KILL"])?.success()?;
        wait_until("none of them is left", Duration::from_secs(10), || {
            Ok(members.iter().all(|pid| !is_alive(*pid)).then_some(()))
        })?;
        runtime.call(&["delete", &id])?.success().map(drop)
    })
}

#[test]
fn a_container_may_divide_what_it_was_given() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let script = "cd /sys/fs/cgroup && mkdir inner && echo 0 >inner/cgroup.procs &&
            echo +pids +memory >cgroup.subtree_control && echo 7 >inner/pids.max && cat inner/pids.max && exec /probe wait";
        let mut config = limited(scene, "divided", &["/bin/sh", "-c", script], &json!({}));
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "cgroup" }))?;
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["rw", "nosuid", "noexec", "nodev"]);
            }
        }
        let id = started(scene, &runtime, "divided", &config)?;
        let inner = format!("{}/inner", scene.cgroup("divided"));
        wait_until(
            "the container has divided its cgroup",
            Duration::from_secs(20),
            || Ok((cgroup_file("", &inner, "pids.max").ok().as_deref() == Some("7")).then_some(())),
        )?;
        // The cgroup itself takes no processes any more: those that are added go where the first one is.
        let added = runtime
            .call(&["exec", &id, "/bin/cat", "/proc/self/cgroup"])?
            .success()?;
        ensure!(added.text().ends_with("/inner"), "{added}");
        runtime.delete_by_force(&id)?;
        let left = PathBuf::from("/sys/fs/cgroup").join(scene.cgroup("divided").trim_start_matches('/'));
        ensure!(!left.exists(), "{} is left", left.display());
        Ok(())
    })
}

#[test]
fn what_is_used_is_told_in_the_usual_words() -> Result<()> {
    if !has_version_2() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } });
        let config = limited(scene, "usage", &["/probe", "children", "2"], &resources);
        let id = started(scene, &runtime, "usage", &config)?;
        let cgroup = scene.cgroup("usage");
        wait_until("three processes run", Duration::from_secs(20), || {
            Ok((process_ids_in_cgroup("", &cgroup)?.len() == 3).then_some(()))
        })?;
        let event: Value = runtime.call(&["events", "--stats", &id])?.success()?.json()?;
        let number = |pointer: &str| {
            let found = event["data"].pointer(pointer).and_then(Value::as_u64);
            found.with_context(|| format!("{pointer} in {event}"))
        };
        assert_eq!(number("/pids/current")?, 3);
        assert_eq!(number("/pids/limit")?, 20);
        assert_eq!(number("/memory/usage/limit")?, 64 << 20);
        ensure!(number("/memory/usage/usage")? > 0, "{event}");
        ensure!(number("/memory/raw/anon")? > 0, "{event}");
        ensure!(
            number("/cpu/usage/total")? >= number("/cpu/usage/user")?,
            "{event}"
        );
        ensure!(event["data"]["cpu"]["psi"]["some"].is_object(), "{event}");
        ensure!(event["data"]["hugetlb"]["2MB"].is_object(), "{event}");
        runtime.delete_by_force(&id)
    })
}
