//! Limits: what the kernel's files say, and that they hold.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{
    Bundle, Runtime, Scene, cgroup_file, cgroups_are_unified, process_ids_in_cgroup, spec,
};
use serde_json::{Value, json};

use crate::run_json;

/// A spec with limits in a cgroup of the test's own.
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

#[test]
fn an_allocation_over_the_memory_limit_is_killed() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let limit = json!({ "memory": { "limit": 64 << 20, "swap": 64 << 20 } });
        for (name, size, code) in [("over", "128m", 137), ("under", "32m", 0)] {
            let bundle = Bundle::new(
                scene,
                name,
                &limited(scene, name, &["/probe", "alloc", size], &limit),
            )?;
            let output = runtime.run(&bundle, &scene.id(name))?.code(code)?;
            assert_eq!(output.stdout.contains("allocated"), code == 0, "{output}");
        }
        Ok(())
    })
}

#[test]
fn a_fork_bomb_stops_at_the_pids_limit() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let config = limited(
            scene,
            "bomb",
            &["/probe", "forkbomb"],
            &json!({ "pids": { "limit": 20 } }),
        );
        let bundle = Bundle::new(scene, "bomb", &config)?;
        let output = runtime.run(&bundle, &scene.id("bomb"))?.success()?;
        let forked: u32 = output.text().split(' ').nth(1).context("a number")?.parse()?;
        ensure!((15..20).contains(&forked), "{output}");
        ensure!(
            output.stdout.contains("refused Resource temporarily unavailable"),
            "{output}"
        );
        Ok(())
    })
}

#[test]
fn the_cpu_share_holds() -> Result<()> {
    Scene::play(|scene| {
        let quota = json!({ "cpu": { "quota": 25_000, "period": 100_000 } });
        let config = limited(scene, "spin", &["/probe", "spin", "2"], &quota);
        let used = run_json(scene, "spin", &config)?["percent"]
            .as_f64()
            .context("a percentage")?;
        ensure!(
            (10.0..32.0).contains(&used),
            "a quarter of a CPU was allowed, {used:.1} % used"
        );
        Ok(())
    })
}

#[test]
fn limits_reach_the_kernels_files() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let resources = json!({
            "memory": { "limit": 96 << 20, "reservation": 48 << 20, "swap": 128 << 20 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" },
            "pids": { "limit": 33 },
        });
        let bundle = Bundle::new(
            scene,
            "files",
            &limited(scene, "files", &["/probe", "wait"], &resources),
        )?;
        let id = scene.id("files");
        runtime.create_and_start(&bundle, &id)?;
        let cgroup = scene.cgroup("files");
        let table = if cgroups_are_unified() {
            vec![
                ("memory", "memory.max", (96 << 20).to_string()),
                ("memory", "memory.low", (48 << 20).to_string()),
                ("memory", "memory.swap.max", (32 << 20).to_string()),
                ("cpu", "cpu.max", "50000 100000".to_owned()),
                ("cpuset", "cpuset.cpus", "0".to_owned()),
                ("pids", "pids.max", "33".to_owned()),
            ]
        } else {
            let mut table = vec![
                ("memory", "memory.limit_in_bytes", (96 << 20).to_string()),
                ("memory", "memory.soft_limit_in_bytes", (48 << 20).to_string()),
                ("cpu", "cpu.shares", "512".to_owned()),
                ("cpu", "cpu.cfs_quota_us", "50000".to_owned()),
                ("cpu", "cpu.cfs_period_us", "100000".to_owned()),
                ("cpuset", "cpuset.cpus", "0".to_owned()),
                ("pids", "pids.max", "33".to_owned()),
            ];
            if std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
                table.push(("memory", "memory.memsw.limit_in_bytes", (128 << 20).to_string()));
            }
            table
        };
        for (controller, file, expected) in table {
            assert_eq!(cgroup_file(controller, &cgroup, file)?, expected, "{file}");
        }
        let pid = runtime.pid(&id)?;
        for controller in ["memory", "cpu", "cpuset", "pids", "devices", "freezer"] {
            assert_eq!(process_ids_in_cgroup(controller, &cgroup)?, [pid], "{controller}");
        }
        runtime.delete_by_force(&id)
    })
}

#[test]
fn without_a_path_the_id_names_the_cgroup() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "plain", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("plain");
        runtime.create_and_start(&bundle, &id)?;
        let pid = runtime.pid(&id)?;
        assert_eq!(process_ids_in_cgroup("pids", &format!("/{id}"))?, [pid]);
        runtime.delete_by_force(&id)
    })
}
