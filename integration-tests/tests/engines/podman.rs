//! podman with `--runtime`.

use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{Podman, Scene, wait_until};

#[test]
fn podman_runs_execs_into_and_removes_a_container() -> Result<()> {
    Scene::play(|scene| {
        let podman = Podman::new(scene)?;
        let [flag, parent] = podman.run_flags();
        let common = ["--network", "none", "--log-driver", "k8s-file", &flag, &parent];
        let run = |front: &[&str], back: &[&str]| {
            podman.call(&[&["run"], front, &common, &["small"], back].concat())
        };

        let report = run(&["--rm", "-m", "64m", "--hostname", "by-podman"], &["/probe"])?
            .success()?
            .json()?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["hostname"], "by-podman");
        assert_eq!(report["seccomp"], "2");

        let name = scene.id("kept");
        run(&["-d", "--name", &name], &["/probe", "wait"])?.success()?;
        podman.call(&["exec", &name, "/probe", "exit", "7"])?.code(7)?;
        let inside = podman
            .call(&["exec", "-e", "ADDED=1", &name, "/probe"])?
            .success()?
            .json()?;
        assert_eq!(inside["environment"]["ADDED"], "1");
        wait_until("the container is ready", Duration::from_secs(10), || {
            Ok(podman
                .call(&["logs", &name])?
                .stdout
                .contains("ready")
                .then_some(()))
        })?;
        podman.call(&["stop", &name])?.success()?;
        let logs = podman.call(&["logs", &name])?.success()?;
        ensure!(logs.stdout.contains("got SIGTERM"), "{logs}");
        podman.call(&["rm", &name])?.success()?;
        assert_eq!(podman.call(&["ps", "-aq"])?.success()?.text(), "");
        Ok(())
    })
}

#[test]
fn podman_understands_how_a_container_ended() -> Result<()> {
    Scene::play(|scene| {
        let podman = Podman::new(scene)?;
        let [flag, parent] = podman.run_flags();
        let run = |arguments: &[&str]| {
            let words = [
                "run",
                "--rm",
                "--network",
                "none",
                "-m",
                "64m",
                &flag,
                &parent,
                "small",
            ];
            podman.call(&[&words, arguments].concat())
        };
        run(&["/probe", "exit", "3"])?.code(3)?;
        run(&["/probe", "alloc", "256m"])?.code(137)?;
        run(&["/no/such/command"])?.code(127)?;
        run(&["/etc/passwd"])?.code(126)?;
        Ok(())
    })
}
