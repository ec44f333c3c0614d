//! `linux.netDevices` and `linux.intelRdt`: what is given to a container from outside. In a network namespace of the test's own.

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, NetworkNamespace, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::is_croze;

/// A pair of connected devices, the first with addresses, up.
const PAIR: &str = "ip link add give0 address 02:00:00:00:00:07 mtu 1400 type veth peer name stay0
    ip address add 192.0.2.7/24 dev give0
    ip address add 2001:db8::7/64 dev give0 nodad
    ip link set give0 up
    ip link set stay0 up";

fn with_devices(arguments: &[&str], devices: Value) -> Value {
    let mut config = spec::docker_like(arguments);
    config["linux"]["netDevices"] = devices;
    config
}

#[test]
fn devices_move_in_with_their_addresses_under_another_name() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let host = NetworkNamespace::new(scene)?;
        host.sh(PAIR)?;
        let show = ["/bin/busybox", "ip", "address", "show", "in0"];
        let config = with_devices(&show, json!({ "give0": { "name": "in0" } }));
        let bundle = Bundle::new(scene, "moved", &config)?;
        let mut run = runtime.open_command("run", &bundle);
        run.arg(scene.id("moved"));
        let output = scene.run(host.enter(&run))?.success()?;
        for words in [
            "02:00:00:00:00:07",
            "mtu 1400",
            "inet 192.0.2.7/24",
            "inet6 2001:db8::7/64",
            "UP",
        ] {
            ensure!(output.stdout.contains(words), "{words}: {}", output.stdout);
        }
        Ok(())
    })
}

#[test]
fn the_kernel_chooses_a_number_where_it_is_asked_to() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let host = NetworkNamespace::new(scene)?;
        host.sh(PAIR)?;
        let devices = json!({ "give0": { "name": "in%d" }, "stay0": { "name": "in%d" } });
        let bundle = Bundle::new(
            scene,
            "numbered",
            &with_devices(&["/bin/busybox", "ip", "-o", "link"], devices),
        )?;
        let mut run = runtime.open_command("run", &bundle);
        run.arg(scene.id("numbered"));
        let output = scene.run(host.enter(&run))?.success()?;
        ensure!(
            output.stdout.contains(" in0@") && output.stdout.contains(" in1@"),
            "{}",
            output.stdout
        );
        Ok(())
    })
}

/// A virtual device would be destroyed with the namespace of a container that nothing comes of.
#[test]
fn what_was_moved_is_back_after_a_failure() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let host = NetworkNamespace::new(scene)?;
        host.sh(PAIR)?;
        let before = host
            .sh("ip -o address | sort -k2 | sed 's/^[0-9]*: //; s/ tentative//'")?
            .stdout;
        let cases = [
            (json!({ "give0": { "name": "in0" } }), "/no/such/command"),
            (
                json!({ "give0": {}, "zzz0": {} }),
                "no network device of this name",
            ),
            (
                json!({ "give0": { "name": "lo" } }),
                "has a device of this name already",
            ),
        ];
        for (number, (devices, words)) in cases.into_iter().enumerate() {
            let name = format!("failed-{number}");
            let bundle = Bundle::new(scene, &name, &with_devices(&["/no/such/command"], devices))?;
            let mut run = runtime.open_command("run", &bundle);
            run.arg(scene.id(&name));
            scene.run(host.enter(&run))?.failure(&[words])?;
            let after = host
                .sh("ip -o address | sort -k2 | sed 's/^[0-9]*: //; s/ tentative//'")?
                .stdout;
            assert_eq!(after, before, "{words}");
        }
        Ok(())
    })
}

#[test]
fn devices_need_a_network_namespace_and_can_go_into_one_that_is_there() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let (host, other) = (NetworkNamespace::new(scene)?, NetworkNamespace::new(scene)?);
        host.sh(PAIR)?;
        let devices = json!({ "give0": {} });
        let mut config = with_devices(&["/bin/busybox", "ip", "address"], devices);
        let into = |config: &mut Value, network: Option<String>| {
            config["linux"]["namespaces"] =
                json!([{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }]);
            match network {
                Some(path) => spec::append(
                    config,
                    "/linux/namespaces",
                    json!({ "type": "network", "path": path }),
                ),
                None => Ok(()),
            }
        };
        into(&mut config, None)?;
        let bundle = Bundle::new(scene, "shared", &config)?;
        let mut run = runtime.open_command("run", &bundle);
        run.arg(scene.id("shared"));
        scene
            .run(host.enter(&run))?
            .failure(&["linux.netDevices", "network namespace"])?;
        into(&mut config, Some(other.path()))?;
        bundle.write(&config.to_string())?;
        let output = scene.run(host.enter(&run))?.success()?;
        ensure!(output.stdout.contains("192.0.2.7/24"), "{}", output.stdout);
        let there = other.sh("ip address show give0")?;
        ensure!(there.stdout.contains("192.0.2.7/24"), "{}", there.stdout);
        Ok(())
    })
}

#[test]
fn a_host_without_resctrl_says_so() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        if mounts.contains(" resctrl ") || !is_croze(&runtime) {
            return Ok(());
        }
        let mut config = spec::docker_like(&["/probe"]);
        config["linux"]["intelRdt"] = json!({ "schemata": ["L3:0=ff"], "enableMonitoring": true });
        let bundle = Bundle::new(scene, "rdt", &config)?;
        runtime
            .run(&bundle, &scene.id("rdt"))?
            .failure(&["linux.intelRdt", "resctrl is not mounted"])?;
        Ok(())
    })
}
