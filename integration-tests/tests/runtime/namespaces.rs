//! Namespaces: new ones, those of the host, those of another process.

use std::os::unix::fs::chown;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::{is_croze, namespace_of, run_json};

/// The config's name of a kind, and the kernel's.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

#[test]
fn each_namespace_is_new_exactly_if_it_is_asked_for() -> Result<()> {
    Scene::play(|scene| {
        for (asked, _) in KINDS {
            let mut config = spec::minimal(&["/probe"]);
            let mut namespaces = vec![json!({ "type": "mount" })];
            if asked != "mount" {
                namespaces.push(json!({ "type": asked }));
            }
            // Without a new pid namespace a new /proc would show the host's processes; that is what is asked for here.
            config["linux"]["namespaces"] = json!(namespaces);
            let report = run_json(scene, &format!("new-{asked}"), &config)?;
            for (kind, file) in KINDS {
                let inside = report["namespaces"][file].as_u64().context("an inode")?;
                let is_new = inside != namespace_of("self", file)?;
                assert_eq!(
                    is_new,
                    kind == asked || kind == "mount",
                    "asked for {asked}, looked at {kind}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_new_pid_namespace_starts_with_pid_one() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "pid", &spec::docker_like(&["/probe"]))?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["ppid"], 0);
        Ok(())
    })
}

#[test]
fn namespaces_of_another_container_are_joined_by_path() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let holder = Bundle::new(scene, "holder", &spec::docker_like(&["/probe", "wait"]))?;
        let holder_id = scene.id("holder");
        runtime.create_and_start(&holder, &holder_id)?;
        let pid = runtime.pid(&holder_id)?;

        let mut config = spec::docker_like(&["/probe"]);
        config.as_object_mut().context("an object")?.remove("hostname");
        config["linux"]["namespaces"] = json!([
            { "type": "mount" },
            { "type": "network", "path": format!("/proc/{pid}/ns/net") },
            { "type": "uts", "path": format!("/proc/{pid}/ns/uts") },
            { "type": "ipc", "path": format!("/proc/{pid}/ns/ipc") },
            { "type": "pid", "path": format!("/proc/{pid}/ns/pid") },
        ]);
        let report = run_json(scene, "guest", &config)?;
        for (_, file) in KINDS
            .iter()
            .filter(|(kind, _)| ["pid", "network", "ipc", "uts"].contains(kind))
        {
            let expected = namespace_of(&pid.to_string(), file)?;
            assert_eq!(report["namespaces"][*file].as_u64(), Some(expected), "{file}");
        }
        assert_eq!(report["hostname"], "inside");
        ensure!(
            report["pid"].as_u64() > Some(1),
            "not the first process there: {}",
            report["pid"]
        );
        runtime.delete_by_force(&holder_id)
    })
}

#[test]
fn a_user_namespace_maps_ids() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 200_000, "size": 65_536 }]);
        config["process"]["user"] = json!({ "uid": 7, "gid": 8 });
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "user", &config)?;
        chown(bundle.rootfs("/"), Some(100_000), Some(200_000))?;
        for name in ["dev", "proc", "sys"] {
            chown(bundle.rootfs(name), Some(100_000), Some(200_000))?;
        }
        let report = runtime.run(&bundle, &scene.id("user"))?.success()?.json()?;
        assert_eq!(report["uid"], json!({ "real": 7, "effective": 7, "saved": 7 }));
        assert_eq!(report["gid"], json!({ "real": 8, "effective": 8, "saved": 8 }));
        let words = |value: &Value| -> Vec<String> {
            value
                .as_str()
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(words(&report["uid_map"]), ["0", "100000", "65536"]);
        assert_eq!(words(&report["gid_map"]), ["0", "200000", "65536"]);
        assert_ne!(
            report["namespaces"]["user"].as_u64(),
            Some(namespace_of("self", "user")?)
        );
        Ok(())
    })
}

#[test]
fn a_time_namespace_shifts_the_clocks() -> Result<()> {
    Scene::play(|scene| {
        if !is_croze(&Runtime::new(scene)?) {
            return Ok(());
        }
        const SHIFT: u64 = 1_000_000;
        let mut config = spec::docker_like(&["/probe"]);
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "time" }))?;
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": SHIFT, "nanosecs": 0 } });
        let report = run_json(scene, "time", &config)?;
        let inside = report["clock"]["boottime"].as_u64().context("an uptime")?;
        ensure!(inside >= SHIFT, "the boot clock inside says {inside}");
        assert_ne!(
            report["namespaces"]["time"].as_u64(),
            Some(namespace_of("self", "time")?)
        );
        Ok(())
    })
}

#[test]
fn a_network_namespace_has_loopback_only() -> Result<()> {
    Scene::play(|scene| {
        let config = spec::docker_like(&["/bin/cat", "/proc/net/dev"]);
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "net", &config)?;
        let output = runtime.run(&bundle, &scene.id("net"))?.success()?;
        let interfaces: Vec<&str> = output
            .stdout
            .lines()
            .skip(2)
            .filter_map(|line| line.split(':').next())
            .map(str::trim)
            .collect();
        ensure!(interfaces.contains(&"lo"), "{interfaces:?}");
        ensure!(
            !interfaces.iter().any(|name| name.starts_with("eth")),
            "{interfaces:?}"
        );
        Ok(())
    })
}
