//! podman with `--runtime`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Ended, Podman, Scene, wait_until};
use nix::sys::signal::Signal;

use crate::verbs::{self, Engine};

impl Engine for (&Scene, Podman<'_>) {
    fn scene(&self) -> &Scene {
        self.0
    }

    fn command(&self, words: &[&str]) -> Command {
        self.1.command(words)
    }

    fn is_docker(&self) -> bool {
        false
    }

    fn flags(&self) -> Vec<String> {
        let common = ["--network", "none", "--log-driver", "k8s-file"].map(str::to_owned);
        [&common[..], &self.1.run_flags()].concat()
    }
}

/// A test with podman.
fn with_podman(act: impl FnOnce(&(&Scene, Podman<'_>)) -> Result<()>) -> Result<()> {
    Scene::play(|scene| act(&(scene, Podman::new(scene)?)))
}

#[test]
fn podman_execs() -> Result<()> {
    with_podman(|podman| verbs::added_processes(podman))
}

#[test]
fn podman_gives_a_terminal() -> Result<()> {
    with_podman(|podman| verbs::a_terminal(podman))
}

#[test]
fn podman_limits_and_updates() -> Result<()> {
    with_podman(|podman| {
        verbs::limits(podman)?;
        verbs::figures(podman)
    })
}

#[test]
fn podman_pauses_and_signals() -> Result<()> {
    with_podman(|podman| {
        verbs::pausing(podman)?;
        verbs::signals(podman)
    })
}

#[test]
fn podman_has_an_init_and_read_only_roots() -> Result<()> {
    with_podman(|podman| {
        // Debian's podman has no init of its own; docker's is the same program.
        verbs::an_init(podman, &["--init", "--init-path", "/usr/bin/docker-init"])?;
        verbs::a_read_only_root(podman)
    })
}

#[test]
fn podman_checks_health() -> Result<()> {
    with_podman(|podman| {
        // Without systemd there are no timers: the checks are made by hand.
        let check = [
            "--health-cmd",
            "test -e /tmp/well",
            "--health-interval",
            "disable",
        ];
        let flags = [&check[..], &["--health-retries", "1"]].concat();
        podman.start("checked", &flags, &["/probe", "stubborn"])?;
        podman.call(&["healthcheck", "run", "checked"])?.code(1)?;
        podman.ok(&["exec", "checked", "touch", "/tmp/well"])?;
        podman.ok(&["healthcheck", "run", "checked"])?;
        assert_eq!(podman.inspect("checked")?["State"]["Health"]["Status"], "healthy");
        podman.ok(&["rm", "-f", "-t", "0", "checked"]).map(drop)
    })
}

#[test]
fn podman_makes_user_namespaces() -> Result<()> {
    with_podman(|podman| {
        let map = ["--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536"];
        let volume = podman.0.new_directory("volume")?;
        std::os::unix::fs::chown(&volume, Some(301_000), Some(401_000))?;
        let bind = format!("{}:/data", volume.display());
        podman.start(
            "mapped",
            &[&map[..], &["-v", &bind]].concat(),
            &["/probe", "wait"],
        )?;
        let pid = podman.inspect("mapped")?["State"]["Pid"]
            .as_i64()
            .context("it has a pid")?;
        for (file, first) in [("uid_map", "300000"), ("gid_map", "400000")] {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            assert_eq!(
                text.split_whitespace().collect::<Vec<_>>(),
                ["0", first, "65536"],
                "{file}"
            );
        }
        let report = podman.ok(&["exec", "mapped", "/probe"])?.json()?;
        assert_eq!(report["uid"]["effective"], 0);
        // Its root is nobody outside, and its user is the volume's owner.
        podman.ok(&["exec", "-u", "app", "mapped", "touch", "/data/by-app"])?;
        let written = std::fs::metadata(volume.join("by-app"))?;
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&written), 301_000);
        podman.ok(&["rm", "-f", "-t", "0", "mapped"]).map(drop)
    })
}

/// podman has no daemon but for its service; what it started lives on without it.
#[test]
fn containers_outlive_podmans_service() -> Result<()> {
    with_podman(|podman| {
        let socket = format!("unix://{}", podman.0.path("podman.sock").display());
        let serve = || -> Result<_> {
            let service = podman
                .0
                .start_daemon(podman.command(&["system", "service", "--time", "0", &socket]))?;
            wait_until("the service answers", Duration::from_secs(30), || {
                Ok((remote(podman.0, &socket, &["version"])?.ended == Ended::Code(0)).then_some(()))
            })?;
            Ok(service)
        };
        let service = serve()?;
        let own = podman.flags();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let run = [
            &["run", "-d", "--name", "kept"],
            &own[..],
            &["small", "/probe", "wait"],
        ]
        .concat();
        remote(podman.0, &socket, &run)?.success()?;
        service.signal(Signal::SIGKILL)?;
        service.wait(Duration::from_secs(10))?;
        let service = serve()?;
        // By the program itself: the monitor of a process that the service adds stays for minutes.
        podman.call(&["exec", "kept", "/probe", "exit", "7"])?.code(7)?;
        remote(podman.0, &socket, &["stop", "kept"])?.success()?;
        podman.printed("kept", "got SIGTERM")?;
        remote(podman.0, &socket, &["rm", "kept"])?.success()?;
        service.signal(Signal::SIGTERM)?;
        service.wait(Duration::from_secs(10)).map(drop)
    })
}

fn remote(scene: &Scene, socket: &str, words: &[&str]) -> Result<croze_integration_tests::Output> {
    scene.call(&[&["podman", "--remote", "--url", socket], words].concat())
}

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
