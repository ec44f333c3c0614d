//! The life of a container as the manager sees it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Scene, is_alive, wait_until};
use serde_json::json;

use crate::Stage;

#[test]
fn run_ends_with_the_commands_code() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (arguments, code) in [
            (vec!["/probe", "exit", "0"], 0),
            (vec!["/probe", "exit", "7"], 7),
            (vec!["/bin/sh", "-c", "/probe raise 9; exit $?"], 137),
            (vec!["/no/such/command"], 127),
            (vec!["no-such-command"], 127),
            (vec!["/etc/passwd"], 126),
            (vec!["/etc"], 126),
        ] {
            stage.run(&[], &arguments)?.code(code)?;
        }
        stage
            .daemon
            .croze(&["run", "--rm", "--no-such-flag", &stage.image])?
            .code(125)?;
        assert_eq!(
            stage.daemon.ok(&["ps", "-aq"])?.text(),
            "",
            "--rm removes, whatever came of it"
        );
        stage.daemon.finish()
    })
}

#[test]
fn ps_shows_what_runs_and_what_ran() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("alive", &[], &["/probe", "wait"], "ready")?;
        stage
            .daemon
            .croze(&["run", "--name", "over", &stage.image, "/probe", "exit", "3"])?
            .code(3)?;
        let running = stage.daemon.ok(&["ps"])?;
        ensure!(
            running.stdout.contains("alive") && !running.stdout.contains("over"),
            "{running}"
        );
        ensure!(
            running
                .stdout
                .lines()
                .any(|line| line.contains("alive") && line.contains("Up ")),
            "{running}"
        );
        let all = stage.daemon.ok(&["ps", "-a"])?;
        ensure!(
            all.stdout
                .lines()
                .any(|line| line.contains("over") && line.contains("Exited (3)")),
            "{all}"
        );
        let facts = stage.daemon.inspect("over")?;
        assert_eq!(facts["State"]["Status"], "exited");
        assert_eq!(facts["State"]["ExitCode"], 3);
        assert_eq!(facts["Name"], "/over");
        let pid = stage.daemon.pid("alive")?;
        ensure!(is_alive(pid), "inspect tells a live pid: {pid}");
        stage.daemon.finish()
    })
}

#[test]
fn stop_asks_first_and_kills_then() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("polite", &[], &["/probe", "wait"], "ready")?;
        let begin = Instant::now();
        stage.daemon.ok(&["stop", "polite"])?;
        ensure!(
            begin.elapsed() < Duration::from_secs(5),
            "a polite container ends at once: {:?}",
            begin.elapsed()
        );
        assert_eq!(stage.daemon.inspect("polite")?["State"]["ExitCode"], 0);
        ensure!(
            stage
                .daemon
                .ok(&["logs", "polite"])?
                .stdout
                .contains("got SIGTERM"),
            "it was asked"
        );

        stage.start("stubborn", &[], &["/probe", "stubborn"], "ready")?;
        let begin = Instant::now();
        stage.daemon.ok(&["stop", "-t", "1", "stubborn"])?;
        ensure!(
            begin.elapsed() >= Duration::from_millis(900),
            "it had its second: {:?}",
            begin.elapsed()
        );
        assert_eq!(stage.daemon.inspect("stubborn")?["State"]["ExitCode"], 137);
        // Stopping what has stopped is no error.
        stage.daemon.ok(&["stop", "stubborn"])?;
        stage.daemon.finish()
    })
}

#[test]
fn kill_sends_the_signal_asked_for() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (name, flags, code) in [
            ("plain", vec![], 137),
            ("named", vec!["-s", "HUP"], 0),
            ("number", vec!["-s", "2"], 0),
        ] {
            stage.start(name, &[], &["/probe", "wait"], "ready")?;
            stage
                .daemon
                .ok(&[&["kill"], flags.as_slice(), &[name]].concat())?;
            assert_eq!(
                stage.daemon.ok(&["wait", name])?.text(),
                code.to_string(),
                "{name}"
            );
            stage.daemon.croze(&["kill", name])?.failure(&[name, "run"])?;
        }
        stage.daemon.finish()
    })
}

#[test]
fn a_container_is_created_started_and_started_again() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let script = "echo run >> /count; cat /count";
        let created =
            stage
                .daemon
                .ok(&["create", "--name", "twice", &stage.image, "/bin/sh", "-c", script])?;
        assert_eq!(stage.daemon.inspect("twice")?["State"]["Status"], "created");
        assert_eq!(stage.daemon.inspect("twice")?["Id"], json!(created.text()));
        stage.daemon.ok(&["start", "twice"])?;
        assert_eq!(stage.daemon.ok(&["wait", "twice"])?.text(), "0");
        let second = stage.daemon.ok(&["start", "-a", "twice"])?;
        assert_eq!(second.stdout, "run\nrun\n", "its files have lasted");
        assert_eq!(stage.daemon.ok(&["logs", "twice"])?.stdout, "run\nrun\nrun\n");
        stage.daemon.finish()
    })
}

#[test]
fn a_running_container_is_removed_by_force_only() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("running", &[], &["/probe", "stubborn"], "ready")?;
        let pid = stage.daemon.pid("running")?;
        stage.daemon.croze(&["rm", "running"])?.failure(&["running"])?;
        ensure!(is_alive(pid), "a refused rm does no harm");
        stage.daemon.ok(&["rm", "-f", "running"])?;
        ensure!(!is_alive(pid), "a forced one does");
        assert_eq!(stage.daemon.ok(&["ps", "-aq"])?.text(), "");
        stage.daemon.finish()
    })
}

#[test]
fn names_and_prefixes_find_a_container() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let id = stage
            .daemon
            .ok(&["create", "--name", "one", &stage.image])?
            .text()
            .to_owned();
        for name in ["one", &id, id.get(..12).context("a prefix")?] {
            assert_eq!(stage.daemon.inspect(name)?["Id"], json!(id), "{name}");
        }
        stage
            .daemon
            .croze(&["create", "--name", "one", &stage.image])?
            .failure(&["one"])?;
        stage
            .daemon
            .croze(&["create", "--name", "../bad", &stage.image])?
            .failure(&["name"])?;
        // After a refused name nothing stays of the second one.
        assert_eq!(stage.daemon.container_ids()?.len(), 1);
        stage.daemon.ok(&["rm", "one"])?;
        stage.daemon.ok(&["create", "--name", "one", &stage.image])?;
        stage.daemon.finish()
    })
}

#[test]
fn version_and_info_name_all_programs() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let version = stage.daemon.ok(&["version"])?;
        ensure!(
            version.stdout.to_lowercase().contains("client")
                && version.stdout.to_lowercase().contains("runtime"),
            "{version}"
        );
        let info = stage.daemon.ok(&["info"])?;
        ensure!(
            info.stdout.contains(&*stage.daemon.root().to_string_lossy()),
            "{info}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn the_embedded_image_shows_its_isolation() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let output = stage
            .daemon
            .ok(&["run", "--rm", "-m", "64m", "--hostname", "barrel", "croze/hello"])?;
        for word in ["barrel", "seccomp", "64"] {
            ensure!(output.stdout.contains(word), "{word} in {output}");
        }
        stage.daemon.finish()
    })
}

/// The manager knows the runtime's contract only, so another one can stand in.
#[test]
fn runc_can_stand_in_for_the_runtime() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start_with_runtime(scene, Path::new("/usr/sbin/runc"))?;
        let output = daemon.ok(&[
            "run",
            "--name",
            "other",
            "-m",
            "64m",
            "--hostname",
            "barrel",
            "croze/hello",
        ])?;
        ensure!(output.stdout.contains("barrel"), "{output}");
        let runtime = daemon.inspect("other")?["HostConfig"]["Runtime"].to_string();
        ensure!(runtime.contains("runc"), "{runtime}");
        ensure!(
            daemon.ok(&["version"])?.stdout.contains("runc version"),
            "the version tells which it is"
        );
        daemon.finish()
    })
}

#[test]
fn events_are_told_as_they_happen() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let listener = scene.start(stage.daemon.command(&["events"])?)?;
        // Each run is one more chance: nothing tells when the listener is connected.
        let told = wait_until("an event was told", Duration::from_secs(20), || {
            stage.run(&["--name", "short"], &["/bin/true"])?.success()?;
            let told = listener.stdout();
            Ok((told.contains("short") && told.contains(" destroy ")).then_some(told))
        })?;
        ensure!(
            told.lines().all(|line| line.contains('T') && line.contains('Z')),
            "each has its time: {told}"
        );
        ensure!(
            [" create ", " start ", " die "]
                .iter()
                .all(|action| told.contains(action)),
            "{told}"
        );
        listener.signal(nix::sys::signal::SIGINT)?;
        listener.wait(Duration::from_secs(10))?;
        stage.daemon.finish()
    })
}
