//! Devices: the default ones, those asked for, and those that the cgroup denies.

use anyhow::Result;
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::json;

use crate::{is_croze, run_json};

#[test]
fn the_default_devices_and_links_are_there() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "defaults", &spec::docker_like(&["/probe"]))?;
        let devices = &report["devices"];
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let found = &devices[name];
            assert_eq!(found["type"], "c", "{name}: {found}");
            assert_eq!(
                (&found["major"], &found["minor"]),
                (&json!(major), &json!(minor)),
                "{name}"
            );
            assert_eq!(found["mode"], "0666", "{name}");
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            assert_eq!(devices[name]["type"], "l", "{name}: {}", devices[name]);
            assert_eq!(devices[name]["target"], target, "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_device_asked_for_has_its_numbers_mode_and_owner() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        config["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 2000 },
            { "path": "/dev/sub/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600 },
        ]);
        let report = run_json(scene, "asked", &config)?;
        let expected =
            json!({ "type": "c", "major": 1, "minor": 3, "mode": "0640", "uid": 1000, "gid": 2000 });
        assert_eq!(report["devices"]["mine"], expected);
        let expected = json!({ "type": "c", "major": 1, "minor": 5, "mode": "0600", "uid": 0, "gid": 0 });
        assert_eq!(report["devices"]["sub/mine"], expected);
        Ok(())
    })
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe", "attempt", "mknod", "mknod:disk"]);
        config["linux"]["cgroupsPath"] = json!(scene.cgroup("devices"));
        let answer = run_json(scene, "denied", &config)?;
        assert_eq!(answer["mknod"], "ok", "making a node is allowed to all");
        assert_eq!(answer["mknod:disk"], "EPERM", "opening a block device is not");
        Ok(())
    })
}

/// Root of a user namespace may make no device: the runtime makes it, with the owner and the mode that were asked for.
#[test]
fn a_user_namespace_has_devices_that_the_host_has_not() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["stat", "-c", "%F %a %u:%g %t:%T", "/dev/foo"]);
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
        config["linux"]["devices"] = json!([{
            "path": "/dev/foo", "type": "b", "major": 1, "minor": 5, "fileMode": 0o157, "uid": 10, "gid": 11,
        }]);
        let bundle = Bundle::new(scene, "made", &config)?;
        let output = runtime.run(&bundle, &scene.id("made"))?;
        // runc binds what the host has, and refuses the rest.
        if is_croze(&runtime) {
            assert_eq!(output.success()?.text(), "block special file 157 10:11 1:5");
        }
        Ok(())
    })
}
