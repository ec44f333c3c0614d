//! A real distribution, pushed by skopeo: pulled, shared between images, run with limits.

use anyhow::{Result, ensure};
use croze_integration_tests::{Crozed, Debian, Registry, Scene};

use crate::images::pull_numbers;

#[test]
fn debian_and_an_image_on_top_of_it_share_their_layers() -> Result<()> {
    Scene::play(|scene| {
        let debian = Debian::prepare(scene)?;
        let registry = Registry::start(scene)?;
        registry.push(debian.layout(), "debian", "debian:bookworm")?;
        registry.push(debian.layout(), "app", "app:1")?;
        let daemon = Crozed::start(scene)?;
        let (base, app) = (registry.reference("debian:bookworm"), registry.reference("app:1"));

        let first = daemon.ok(&["pull", &base])?;
        let [bytes, layers, _, present] = pull_numbers(&first.stdout)?;
        ensure!(bytes > 20_000_000 && layers == 1 && present == 0, "{first}");
        let second = daemon.ok(&["pull", &app])?;
        let [more, new_layers, shared_bytes, shared_layers] = pull_numbers(&second.stdout)?;
        ensure!(
            more < 2_000_000 && new_layers == 2,
            "only the difference is fetched: {second}"
        );
        ensure!(
            shared_bytes > 20_000_000 && shared_layers == 1,
            "the base is shared: {second}"
        );

        let release = daemon.ok(&["run", "--rm", &base, "cat", "/etc/os-release"])?;
        ensure!(release.stdout.contains("bookworm"), "{release}");
        assert_eq!(
            daemon.ok(&["run", "--rm", &app])?.text(),
            "hello from the third layer"
        );
        let report = daemon
            .ok(&["run", "--rm", &app, "/opt/tools/probe-link"])?
            .json()?;
        assert_eq!(report["cwd"], "/srv/data");
        assert_eq!(report["environment"]["LAYERS"], "three");

        let limits = ["run", "--rm", "-m", "64m", "--cpus", "0.5", "--pids-limit", "64"];
        let run = |arguments: &[&str]| daemon.croze(&[&limits[..], &[app.as_str()], arguments].concat());
        run(&["/opt/tools/probe", "alloc", "128m"])?.code(137)?;
        let bomb = run(&["/opt/tools/probe", "forkbomb"])?.success()?;
        ensure!(
            bomb.stdout.contains("refused Resource temporarily unavailable"),
            "{bomb}"
        );
        // A real dpkg and a real shell work inside: files are owned, linked and moded as they should be.
        let script = "dpkg --verify && dpkg -l | grep -c ^ii && su -s /bin/sh nobody -c id";
        let checked = run(&["bash", "-c", script])?.success()?;
        ensure!(checked.stdout.contains("uid=65534(nobody)"), "{checked}");

        daemon.ok(&["rmi", &base])?;
        assert_eq!(
            daemon.ok(&["run", "--rm", &app])?.text(),
            "hello from the third layer",
            "the base layer is kept"
        );
        daemon.finish()
    })
}
