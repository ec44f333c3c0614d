//! Devices in a user namespace. The default ones, those asked for, and those that the cgroup denies are in the conformance table.

use anyhow::Result;
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::json;

use crate::is_croze;

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
