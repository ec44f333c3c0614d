//! dockerd with `--add-runtime`.

use anyhow::{Result, ensure};
use croze_integration_tests::{Dockerd, Scene, spec};
use serde_json::Value;

#[test]
fn docker_runs_execs_into_and_removes_a_container() -> Result<()> {
    Scene::play(|scene| {
        let docker = Dockerd::start(scene)?;
        let report = docker
            .docker(&[
                "run",
                "--rm",
                "--runtime",
                "croze",
                "--network",
                "none",
                "-m",
                "64m",
                "--pids-limit",
                "50",
                "--hostname",
                "by-docker",
                "small",
                "/probe",
            ])?
            .success()?
            .json()?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["hostname"], "by-docker");
        let mut names: Vec<&str> = report["capabilities"]["effective"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        names.sort_unstable();
        assert_eq!(names, spec::DOCKER_CAPABILITIES);

        let name = scene.id("kept");
        let run = [
            "run",
            "-d",
            "--runtime",
            "croze",
            "--network",
            "none",
            "--name",
            &name,
            "small",
            "/probe",
            "wait",
        ];
        docker.docker(&run)?.success()?;
        let inspected = docker.docker(&["inspect", &name])?.success()?.json()?;
        assert_eq!(inspected[0]["HostConfig"]["Runtime"], "croze");
        assert_eq!(inspected[0]["State"]["Running"], true);
        docker.docker(&["exec", &name, "/probe", "exit", "7"])?.code(7)?;
        let inside = docker
            .docker(&["exec", "-e", "ADDED=1", &name, "/probe"])?
            .success()?
            .json()?;
        assert_eq!(inside["environment"]["ADDED"], "1");
        docker.docker(&["stop", &name])?.success()?;
        let logs = docker.docker(&["logs", &name])?.success()?;
        ensure!(
            logs.stdout.contains("ready") && logs.stdout.contains("got SIGTERM"),
            "{logs}"
        );
        docker.docker(&["rm", &name])?.success()?;
        assert_eq!(docker.docker(&["ps", "-aq"])?.success()?.text(), "");
        Ok(())
    })
}

#[test]
fn docker_understands_how_a_container_ended() -> Result<()> {
    Scene::play(|scene| {
        let docker = Dockerd::start(scene)?;
        let run = |arguments: &[&str]| {
            let words = [
                "run",
                "--rm",
                "--runtime",
                "croze",
                "--network",
                "none",
                "-m",
                "64m",
                "small",
            ];
            docker.docker(&[&words, arguments].concat())
        };
        run(&["/probe", "exit", "3"])?.code(3)?;
        run(&["/probe", "alloc", "256m"])?.code(137)?;
        run(&["/no/such/command"])?.code(127)?;
        run(&["/etc/passwd"])?.code(126)?;
        assert_eq!(docker.docker(&["ps", "-aq"])?.success()?.text(), "");
        Ok(())
    })
}

#[test]
fn docker_lists_pauses_and_kills_the_processes() -> Result<()> {
    Scene::play(|scene| {
        let docker = Dockerd::start(scene)?;
        let name = scene.id("seen");
        let run = [
            "run",
            "-d",
            "--runtime",
            "croze",
            "--network",
            "none",
            "--name",
            &name,
            "small",
            "/probe",
            "children",
            "2",
        ];
        docker.docker(&run)?.success()?;
        let top = docker.docker(&["top", &name])?.success()?;
        assert_eq!(
            top.stdout.lines().count(),
            4,
            "a heading and three processes: {top}"
        );
        docker.docker(&["pause", &name])?.success()?;
        let inspected = docker.docker(&["inspect", &name])?.success()?.json()?;
        assert_eq!(inspected[0]["State"]["Paused"], true);
        docker.docker(&["unpause", &name])?.success()?;
        docker.docker(&["kill", &name])?.success()?;
        docker.docker(&["rm", "-f", &name])?.success().map(drop)
    })
}
