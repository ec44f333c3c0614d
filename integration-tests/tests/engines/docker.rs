//! dockerd with `--add-runtime`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{Dockerd, Scene, spec, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::verbs::{self, Engine};

/// docker, each container with the runtime under test.
struct Docker<'scene> {
    scene: &'scene Scene,
    daemon: Dockerd<'scene>,
}

impl Engine for Docker<'_> {
    fn scene(&self) -> &Scene {
        self.scene
    }

    fn command(&self, words: &[&str]) -> Command {
        self.daemon.command(words)
    }

    fn is_docker(&self) -> bool {
        true
    }

    fn flags(&self) -> Vec<String> {
        ["--runtime", "croze", "--network", "none"]
            .map(str::to_owned)
            .to_vec()
    }
}

/// A test with docker.
fn with_docker(act: impl FnOnce(&Docker<'_>) -> Result<()>) -> Result<()> {
    Scene::play(|scene| {
        let daemon = Dockerd::start(scene)?;
        act(&Docker { scene, daemon })
    })
}

#[test]
fn docker_execs() -> Result<()> {
    with_docker(|docker| verbs::added_processes(docker))
}

#[test]
fn docker_gives_a_terminal() -> Result<()> {
    with_docker(|docker| verbs::a_terminal(docker))
}

#[test]
fn docker_limits_and_updates() -> Result<()> {
    with_docker(|docker| {
        verbs::limits(docker)?;
        verbs::figures(docker)
    })
}

#[test]
fn docker_pauses_and_signals() -> Result<()> {
    with_docker(|docker| {
        verbs::pausing(docker)?;
        verbs::signals(docker)
    })
}

#[test]
fn docker_has_an_init_and_read_only_roots() -> Result<()> {
    with_docker(|docker| {
        verbs::an_init(docker, &["--init"])?;
        verbs::a_read_only_root(docker)
    })
}

#[test]
fn docker_checks_health() -> Result<()> {
    with_docker(|docker| {
        let check = ["--health-cmd", "test -e /tmp/well", "--health-interval", "100ms"];
        let flags = [&check[..], &["--health-retries", "1"]].concat();
        docker.start("checked", &flags, &["/probe", "stubborn"])?;
        let becomes = |status: &str| {
            wait_until(&format!("it was {status}"), Duration::from_secs(30), || {
                let health = &docker.inspect("checked")?["State"]["Health"]["Status"];
                Ok((health == status).then_some(()))
            })
        };
        becomes("unhealthy")?;
        docker.ok(&["exec", "checked", "touch", "/tmp/well"])?;
        becomes("healthy")?;
        docker.ok(&["rm", "-f", "checked"]).map(drop)
    })
}

#[test]
fn containers_outlive_dockerd() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Dockerd::start_with(scene, &["--live-restore"])?;
        let mut docker = Docker { scene, daemon };
        docker.start("kept", &[], &["/probe", "wait"])?;
        let pid = docker.inspect("kept")?["State"]["Pid"].clone();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            docker.daemon.restart(signal)?;
            assert_eq!(docker.inspect("kept")?["State"]["Pid"], pid, "after {signal}");
            docker.call(&["exec", "kept", "/probe", "exit", "7"])?.code(7)?;
        }
        docker.ok(&["stop", "kept"])?;
        docker.printed("kept", "got SIGTERM")?;
        docker.ok(&["rm", "kept"]).map(drop)
    })
}

/// Without `--live-restore` the daemon ends its containers, and starts those again that ask for it.
#[test]
fn dockerd_starts_its_containers_again() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Dockerd::start(scene)?;
        let mut docker = Docker { scene, daemon };
        docker.start("again", &["--restart", "always"], &["/probe", "wait"])?;
        let before = docker.inspect("again")?["State"]["Pid"].clone();
        docker.daemon.restart(Signal::SIGTERM)?;
        wait_until("it runs again", Duration::from_secs(30), || {
            let state = &docker.inspect("again")?["State"];
            Ok((state["Running"] == true && state["Pid"] != before).then_some(()))
        })?;
        docker.call(&["exec", "again", "/probe", "exit", "7"])?.code(7)?;
        docker.ok(&["rm", "-f", "again"]).map(drop)
    })
}

/// The builder of old, which starts a container for each step, and BuildKit, which calls the runtime itself.
#[test]
fn docker_builds() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Dockerd::start_with_nothing_else(scene)?;
        let context = scene.new_directory("context")?;
        std::fs::write(
            context.join("Dockerfile"),
            r#"FROM small
RUN ["/bin/sh", "-c", "echo $$ > /built; id -u >> /built"]
USER app
RUN ["/bin/sh", "-c", "test $(id -u) = 1000 && ! echo x > /built"]
"#,
        )?;
        let cli = ["/usr/bin/docker", "docker"]
            .into_iter()
            .find(|path| std::path::Path::new(path).is_file())
            .unwrap_or("docker");
        for (name, kit) in [("classic", "0"), ("kit", "1")] {
            let plain = daemon.command(&["build", "-t", name, &context.to_string_lossy()]);
            // Debian's client has BuildKit's own built in; others look for a program beside them.
            let mut command = Command::new(cli);
            command.args(plain.get_args()).env("DOCKER_BUILDKIT", kit);
            command.env("DOCKER_CONFIG", scene.path("docker-config"));
            scene.run(command)?.success()?;
            let run = ["run", "--rm", "--network", "none", name];
            let shown = daemon.docker(&[&run[..], &["cat", "/built"]].concat())?;
            assert_eq!(shown.success()?.text(), "1\n0", "{name}");
        }
        let calls = std::fs::read_to_string(scene.path("runc-calls"))?;
        ensure!(
            calls.contains("run --bundle"),
            "BuildKit called the runtime: {calls}"
        );
        Ok(())
    })
}

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
