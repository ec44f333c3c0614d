//! `linux.namespaces`, `uidMappings`, `gidMappings`, `timeOffsets`, `netDevices`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, spec, wait_until};
use serde_json::{Value, json};

use crate::case::Case;
use crate::host::Need;
use crate::stage::{MAPPED, Stage, namespace_of, with_user_namespace};

/// The config's name of a kind, and the kernel's.
const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::script("linux.namespaces new pid", |stage| is_new(stage, "pid")),
        Case::script("linux.namespaces new network", |stage| is_new(stage, "network")),
        Case::script("linux.namespaces new ipc", |stage| is_new(stage, "ipc")),
        Case::script("linux.namespaces new uts", |stage| is_new(stage, "uts")),
        Case::script("linux.namespaces new mount", |stage| is_new(stage, "mount")),
        Case::script("linux.namespaces new cgroup", |stage| is_new(stage, "cgroup")),
        Case::script("linux.namespaces new time", |stage| is_new(stage, "time"))
            .needs(Need::Path("/proc/self/ns/time", "time namespaces")),
        Case::script("linux.namespaces join pid", |stage| is_joined(stage, "pid")),
        Case::script("linux.namespaces join network", |stage| is_joined(stage, "network")),
        Case::script("linux.namespaces join ipc", |stage| is_joined(stage, "ipc")),
        Case::script("linux.namespaces join uts", |stage| is_joined(stage, "uts")),
        Case::script("linux.namespaces join mount", joined_mounts),
        Case::script("linux.namespaces join cgroup", |stage| is_joined(stage, "cgroup")),
        Case::script("linux.namespaces join time", |stage| is_joined(stage, "time"))
            .needs(Need::Path("/proc/self/ns/time", "time namespaces")),
        Case::new("linux.namespaces twice").append("/linux/namespaces", json!({ "type": "pid" })).refused(&["pid"]),
        Case::new("linux.namespaces unknown").append("/linux/namespaces", json!({ "type": "dream" })).refused(&["dream"]),
        Case::new("linux.namespaces path missing")
            .set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }, { "type": "network", "path": "/no/such/namespace" }]))
            .set("/hostname", Value::Null)
            .refused(&["/no/such/namespace"]),
        Case::new("linux.namespaces path of another kind")
            .set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }, { "type": "network", "path": "/proc/self/ns/ipc" }]))
            .set("/hostname", Value::Null)
            .refused(&["/proc/self/ns/ipc"]),
    ];
    cases.extend(user());
    cases.extend(network());
    cases.extend(clocks());
    cases
}

/// Whether this kind is new, and none of the others.
fn is_new(stage: &Stage<'_>, asked: &str) -> Result<()> {
    let mut config = spec::minimal(&["/probe"]);
    let mut namespaces = vec![json!({ "type": "mount" })];
    if asked != "mount" {
        namespaces.push(json!({ "type": asked }));
    }
    config["linux"]["namespaces"] = json!(namespaces);
    let report = stage.run(&config)?.success()?.json()?;
    for (kind, file) in KINDS {
        let Ok(ours) = namespace_of("self", file) else {
            continue;
        };
        let inside = report["namespaces"][file].as_u64().context("an inode")?;
        ensure!(
            (inside != ours) == (kind == asked || kind == "mount"),
            "{kind}: {inside} beside our {ours}"
        );
    }
    Ok(())
}

/// Whether a second container is in the first one's namespace of this kind.
fn is_joined(stage: &Stage<'_>, kind: &str) -> Result<()> {
    let file = KINDS
        .iter()
        .find(|(name, _)| *name == kind)
        .map_or(kind, |(_, file)| *file);
    let mut holder = spec::docker_like(&["/probe", "wait"]);
    for extra in ["cgroup", "time"] {
        if extra == kind {
            spec::append(&mut holder, "/linux/namespaces", json!({ "type": extra }))?;
        }
    }
    let id = stage.start(&holder)?;
    let pid = stage.runtime.pid(&id)?;
    let expected = namespace_of(&pid.to_string(), file)?;
    let mut config = spec::minimal(&["/probe"]);
    let path = format!("/proc/{pid}/ns/{file}");
    config["linux"]["namespaces"] = match kind {
        "pid" => json!([{ "type": kind, "path": path }, { "type": "mount" }]),
        _ => json!([{ "type": kind, "path": path }, { "type": "mount" }, { "type": "pid" }]),
    };
    let report = stage.run(&config)?.success()?.json()?;
    ensure!(
        report["namespaces"][file].as_u64() == Some(expected),
        "{} instead of {expected}",
        report["namespaces"]
    );
    stage.runtime.delete_by_force(&id)
}

/// Whether a container joins a mount namespace that sees the same files: its mounts are made there.
fn joined_mounts(stage: &Stage<'_>) -> Result<()> {
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sleep", "1000"]);
    let holder = stage.scene.start(command)?;
    let pid = holder.pid().to_string();
    let ours = namespace_of("self", "mnt")?;
    let within = Duration::from_secs(20);
    let expected = wait_until("the holder has a namespace of its own", within, || {
        Ok(namespace_of(&pid, "mnt").ok().filter(|theirs| *theirs != ours))
    })?;
    let mut config = spec::minimal(&["/probe"]);
    config["linux"]["namespaces"] =
        json!([{ "type": "mount", "path": format!("/proc/{pid}/ns/mnt") }, { "type": "pid" }]);
    let ran = stage.run(&config);
    stage.scene.call(&["kill", "-KILL", &pid])?.success()?;
    holder.wait(within)?;
    let report = ran?.success()?.json()?;
    ensure!(
        report["namespaces"]["mnt"].as_u64() == Some(expected),
        "{}",
        report["namespaces"]
    );
    Ok(())
}

fn words(value: &Value) -> Vec<&str> {
    value.as_str().unwrap_or_default().split_whitespace().collect()
}

fn user() -> Vec<Case> {
    vec![
        Case::script("linux.namespaces new user, uidMappings, gidMappings", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            with_user_namespace(&mut config)?;
            config["process"]["user"] = json!({ "uid": 7, "gid": 8 });
            let report = stage.run(&config)?.success()?.json()?;
            let (first, count) = (MAPPED.0.to_string(), MAPPED.1.to_string());
            for map in ["uid_map", "gid_map"] {
                ensure!(
                    words(&report[map]) == ["0", &first, &count],
                    "{map}: {}",
                    report[map]
                );
            }
            ensure!(
                report["uid"]["effective"] == 7 && report["gid"]["effective"] == 8,
                "{report}"
            );
            ensure!(
                report["namespaces"]["user"].as_u64() != Some(namespace_of("self", "user")?),
                "it is ours"
            );
            Ok(())
        }),
        Case::script("linux.uidMappings several", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            with_user_namespace(&mut config)?;
            config["linux"]["uidMappings"] = json!([
                { "containerID": 0, "hostID": MAPPED.0, "size": 1000 },
                { "containerID": 1000, "hostID": 300_000, "size": 10 },
            ]);
            let report = stage.run(&config)?.success()?.json()?;
            ensure!(words(&report["uid_map"]).len() == 6, "{}", report["uid_map"]);
            Ok(())
        }),
        Case::script("linux.namespaces join user", |stage| {
            let mut holder = spec::docker_like(&["/probe", "wait"]);
            with_user_namespace(&mut holder)?;
            let id = stage.start(&holder)?;
            let pid = stage.runtime.pid(&id)?;
            let mut config = spec::docker_like(&["/probe"]);
            spec::append(
                &mut config,
                "/linux/namespaces",
                json!({ "type": "user", "path": format!("/proc/{pid}/ns/user") }),
            )?;
            let report = stage.run(&config)?.success()?.json()?;
            let expected = namespace_of(&pid.to_string(), "user")?;
            ensure!(
                report["namespaces"]["user"].as_u64() == Some(expected),
                "{}",
                report["namespaces"]
            );
            ensure!(report["uid"]["effective"] == 0, "{}", report["uid"]);
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("linux.devices in a user namespace", |stage| {
            let mut config = spec::docker_like(&[
                "/bin/sh",
                "-c",
                "echo x > /dev/null && test -c /dev/zero && echo usable",
            ]);
            with_user_namespace(&mut config)?;
            let output = stage.run(&config)?.success()?;
            ensure!(output.text() == "usable", "{output}");
            Ok(())
        }),
        Case::new("linux.uidMappings without a user namespace")
            .set(
                "/linux/uidMappings",
                json!([{ "containerID": 0, "hostID": MAPPED.0, "size": 10 }]),
            )
            .refused(&["uidMappings"]),
        Case::script("linux.namespaces user without maps", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
            let bundle = Bundle::new(stage.scene, "mapped", &config)?;
            let report = stage.runtime.run(&bundle, &stage.next_id())?.success()?.json()?;
            ensure!(
                words(&report["uid_map"]) == ["0", "0", "4294967295"],
                "{}",
                report["uid_map"]
            );
            ensure!(
                report["namespaces"]["user"].as_u64() != Some(namespace_of("self", "user")?),
                "it is ours"
            );
            Ok(())
        }),
    ]
}

fn network() -> Vec<Case> {
    vec![
        Case::new("linux.namespaces network has loopback up")
            .shell("cat /sys/class/net/lo/operstate; ls /sys/class/net | grep -c eth")
            .set("/process/env", json!(["PATH=/bin"]))
            .shell("cat /sys/class/net/lo/flags")
            .prints("0x9"),
        Case::script("linux.netDevices", |stage| {
            let mut config = spec::docker_like(&[
                "/bin/sh",
                "-c",
                "ls /sys/class/net; cat /sys/class/net/inside/address",
            ]);
            config["linux"]["netDevices"] = json!({ "croze-c0": { "name": "inside" } });
            let bundle = stage.bundle(&config)?;
            // In a network namespace of the test's own: the device comes from there and goes with it.
            let script = format!(
                "ip link add croze-c0 address 02:00:00:00:00:07 type veth peer name croze-c1 && exec {} --root {} run --bundle {} {}",
                stage.runtime.program().display(),
                stage.runtime.root().display(),
                bundle.directory().display(),
                stage.next_id(),
            );
            let output = stage
                .scene
                .call(&["unshare", "-n", "sh", "-c", &script])?
                .success()?;
            let lines: Vec<&str> = output.stdout.lines().collect();
            ensure!(
                lines.contains(&"inside") && lines.contains(&"02:00:00:00:00:07"),
                "{output}"
            );
            Ok(())
        }),
        Case::new("linux.netDevices missing")
            .set("/linux/netDevices", json!({ "croze-none": {} }))
            .refused(&["croze-none"]),
    ]
}

fn clocks() -> Vec<Case> {
    let needs = |case: Case| case.needs(Need::Path("/proc/self/ns/time", "time namespaces"));
    vec![
        needs(Case::script("linux.timeOffsets boottime", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            spec::append(&mut config, "/linux/namespaces", json!({ "type": "time" }))?;
            config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 } });
            let report = stage.run(&config)?.success()?.json()?;
            ensure!(
                report["clock"]["boottime"].as_u64() >= Some(1_000_000),
                "{}",
                report["clock"]
            );
            Ok(())
        })),
        needs(Case::script("linux.timeOffsets monotonic", |stage| {
            let mut config = spec::docker_like(&["/bin/cat", "/proc/self/timens_offsets"]);
            spec::append(&mut config, "/linux/namespaces", json!({ "type": "time" }))?;
            config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 5000, "nanosecs": 7 } });
            let output = stage.run(&config)?.success()?;
            let first: Vec<&str> = output
                .stdout
                .lines()
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            ensure!(first == ["monotonic", "5000", "7"], "{output}");
            Ok(())
        })),
        Case::new("linux.timeOffsets without a time namespace")
            .set(
                "/linux/timeOffsets",
                json!({ "boottime": { "secs": 1, "nanosecs": 0 } }),
            )
            .refused(&["timeOffsets"]),
    ]
}
