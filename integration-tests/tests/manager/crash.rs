//! The daemon is killed; containers do not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Scene, Terminal, is_alive, wait_until};
use serde_json::json;

use crate::Stage;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(20);

fn lines_up_to(last: usize) -> String {
    (1..=last).map(|number| format!("line {number}\n")).collect()
}

#[test]
fn a_container_outlives_the_daemon_and_loses_no_line() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start(
            "printer",
            &[],
            &["/bin/sh", "-c", "/probe print 300 10; exec /probe wait"],
            "line 20\n",
        )?;
        let pid = stage.daemon.pid("printer")?;
        stage.daemon.kill()?;
        ensure!(is_alive(pid), "the container went with the daemon");
        stage.daemon.croze(&["ps"])?.failure(&["croze.sock"])?;
        stage.daemon.launch()?;

        assert_eq!(stage.daemon.pid("printer")?, pid, "it is the same process");
        let listed = stage.daemon.ok(&["ps"])?;
        ensure!(
            listed.stdout.contains("printer") && listed.stdout.contains("Up "),
            "{listed}"
        );
        let logs = wait_until("the last line is logged", Duration::from_secs(20), || {
            let logs = stage.daemon.ok(&["logs", "printer"])?;
            Ok(logs.stdout.contains("ready").then_some(logs))
        })?;
        assert_eq!(
            logs.stdout,
            format!("{}ready\n", lines_up_to(300)),
            "every line once and in order"
        );

        stage
            .daemon
            .croze(&["exec", "printer", "/probe", "exit", "9"])?
            .code(9)?;
        stage.daemon.ok(&["stop", "printer"])?;
        assert_eq!(stage.daemon.inspect("printer")?["State"]["ExitCode"], 0);
        stage.daemon.finish()
    })
}

#[test]
fn an_end_while_the_daemon_is_away_is_recorded() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start(
            "short",
            &[],
            &["/bin/sh", "-c", "/probe print 100 10; exit 7"],
            "line 5\n",
        )?;
        let removes_itself = [
            "run",
            "-d",
            "--rm",
            "--name",
            "passing",
            &stage.image,
            "/probe",
            "print",
            "100",
            "10",
        ];
        stage.daemon.ok(&removes_itself)?;
        let pids = [stage.daemon.pid("short")?, stage.daemon.pid("passing")?];
        stage.daemon.kill()?;
        wait_until("both containers have ended", Duration::from_secs(20), || {
            Ok(pids.iter().all(|pid| !is_alive(*pid)).then_some(()))
        })?;
        stage.daemon.launch()?;
        let facts = wait_until("the end is known", Duration::from_secs(10), || {
            let facts = stage.daemon.inspect("short")?;
            Ok((facts["State"]["Status"] == "exited").then_some(facts))
        })?;
        assert_eq!(facts["State"]["ExitCode"], 7);
        assert_eq!(stage.daemon.ok(&["logs", "short"])?.stdout, lines_up_to(100));
        wait_until("the other one is removed", Duration::from_secs(10), || {
            Ok((stage.daemon.container_ids()?.len() == 1).then_some(()))
        })?;
        stage.daemon.finish()
    })
}

#[test]
fn images_and_stopped_containers_survive_a_kill() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage
            .daemon
            .croze(&["run", "--name", "over", &stage.image, "/probe", "exit", "3"])?
            .code(3)?;
        let images = stage.daemon.ok(&["images", "-q", "--no-trunc"])?.stdout;
        let before = stage.daemon.inspect("over")?;
        for _ in 0..3 {
            stage.daemon.kill()?;
            stage.daemon.launch()?;
        }
        assert_eq!(stage.daemon.ok(&["images", "-q", "--no-trunc"])?.stdout, images);
        assert_eq!(stage.daemon.inspect("over")?, before);
        stage.run(&[], &["/bin/true"])?.success()?;
        stage.daemon.finish()
    })
}

#[test]
fn a_kill_of_the_daemon_during_starts_leaves_nothing_undone() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for round in 0..4 {
            let name = format!("cut-{round}");
            let client = scene.start(stage.daemon.command(&[
                "run",
                "-d",
                "--name",
                &name,
                &stage.image,
                "/probe",
                "wait",
            ])?)?;
            // Somewhere in the middle of the start: as soon as the daemon knows the name, or has answered.
            wait_until("the start is under way", Duration::from_secs(10), || {
                let known = stage.daemon.croze(&["inspect", &name])?.stdout.contains(&name);
                Ok((known || client.ended().is_some()).then_some(()))
            })?;
            stage.daemon.kill()?;
            client.wait(Duration::from_secs(10))?;
            stage.daemon.launch()?;
            // Whatever the daemon makes of it: the record agrees with the world, and it can be removed.
            let state = stage.daemon.croze(&["inspect", &name])?;
            if state.stdout.contains(&name) {
                let facts = state.json()?;
                let facts = facts.get(0).context("one container")?;
                let pid = facts["State"]["Pid"].as_i64().unwrap_or_default();
                let runs = pid > 0 && is_alive(i32::try_from(pid)?);
                assert_eq!(facts["State"]["Running"], json!(runs), "{facts}");
                stage.daemon.ok(&["rm", "-f", &name])?;
            }
        }
        stage.run(&[], &["/bin/true"])?.success()?;
        stage.daemon.finish()
    })
}

#[test]
fn a_killed_shim_is_noticed() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("orphan", &[], &["/probe", "wait"], "ready")?;
        let pid = stage.daemon.pid("orphan")?;
        let shim = stage.daemon.inspect("orphan")?["State"]["ShimPid"]
            .as_i64()
            .context("the shim's pid")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(shim)?),
            nix::sys::signal::SIGKILL,
        )?;
        // It lives on if it does not write; its end, of itself or by us, is seen without the shim.
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL) {
            Err(nix::errno::Errno::ESRCH) => {}
            signalled => signalled?,
        }
        let state = wait_until("the end is seen", SOON, || {
            let state = stage.daemon.inspect("orphan")?["State"].clone();
            Ok((state["Status"] == "exited").then_some(state))
        })?;
        assert_eq!(
            (&state["Running"], &state["Pid"]),
            (&json!(false), &json!(0)),
            "{state}"
        );
        assert_ne!(
            state["ShimPid"],
            json!(shim),
            "a shim that is dead is nobody's: {state}"
        );
        stage.daemon.ok(&["rm", "orphan"])?;
        assert_eq!(stage.daemon.ok(&["ps", "-aq"])?.text(), "");
        stage.daemon.finish()
    })
}

#[test]
fn what_a_shim_that_stays_holds_up_is_cleaned_up_when_it_leaves() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.daemon.ok(&[
            "run",
            "-d",
            "--rm",
            "--name",
            "held",
            &stage.image,
            "/probe",
            "wait",
        ])?;
        let (pid, shim) = (
            stage.daemon.pid("held")?,
            stage.daemon.inspect("held")?["State"]["ShimPid"]
                .as_i64()
                .context("the shim's pid")?,
        );
        let shim = nix::unistd::Pid::from_raw(i32::try_from(shim)?);
        // It is stopped as soon as the daemon knows of the end; by then it may have left already, and all is done.
        let record = stage.daemon.root().join("containers");
        let record = std::fs::read_dir(record)?
            .next()
            .context("its directory")??
            .path();
        let asked = scene.start(stage.daemon.command(&["wait", "held"])?)?;
        let events = scene.start(stage.daemon.command(&["events", "--since", "1h"])?)?;
        wait_until("the events are heard", SOON, || {
            Ok(events.stdout().contains(" start ").then_some(()))
        })?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?;
        wait_until("the end is known", SOON, || {
            Ok(events.stdout().contains(" die ").then_some(()))
        })?;
        let _it_may_have_left = nix::sys::signal::kill(shim, nix::sys::signal::SIGSTOP);
        let told = wait_until(
            "it is told that something stays, or all is done",
            Duration::from_secs(60),
            || {
                let told = stage.daemon.ok(&["info"])?.stdout.contains("stays mounted");
                Ok((told || !record.exists()).then_some(told))
            },
        );
        let _it_may_have_left = nix::sys::signal::kill(shim, nix::sys::signal::SIGCONT);
        told?;
        wait_until("it is removed", Duration::from_secs(40), || {
            Ok(stage.daemon.container_ids()?.is_empty().then_some(()))
        })?;
        asked.wait(SOON)?;
        stage.daemon.finish()
    })
}

/// Prints numbered lines, and each line that it is given.
const ECHO: &str =
    "/probe print 400 5 & while read -r line; do echo \"got $line\"; done; wait; exec /probe wait";

#[test]
fn after_a_kill_the_streams_of_pipes_go_on() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("echo", &["-i"], &["/bin/sh", "-c", ECHO], "line 3\n")?;
        let pid = stage.daemon.pid("echo")?;
        stage.daemon.kill()?;
        stage.daemon.launch()?;
        assert_eq!(stage.daemon.pid("echo")?, pid, "it is the same process");

        let follower = scene.start(stage.daemon.command(&["logs", "-f", "echo"])?)?;
        let words = scene.path("words");
        std::fs::write(&words, "one\ntwo\n")?;
        let mut attach = stage.daemon.command(&["attach", "echo"])?;
        attach.stdin(std::fs::File::open(&words)?);
        let attached = scene.start(attach)?;
        wait_until("input went in and output came out", SOON, || {
            let output = attached.stdout();
            Ok((output.contains("got one\n") && output.contains("got two\n")).then_some(()))
        })?;
        // Once more while both are connected: they see the connection end, and the next ones miss nothing.
        stage.daemon.kill()?;
        follower.wait(SOON)?;
        attached.wait(SOON)?;
        stage.daemon.launch()?;
        let follower = scene.start(stage.daemon.command(&["logs", "-f", "echo"])?)?;
        wait_until("the last line was followed", SOON, || {
            Ok(follower.stdout().contains("line 400\n").then_some(()))
        })?;
        let waiter = scene.start(stage.daemon.command(&["wait", "echo"])?)?;
        stage
            .daemon
            .croze(&["exec", "echo", "/probe", "exit", "9"])?
            .code(9)?;
        stage.daemon.ok(&["kill", "echo"])?;
        assert_eq!(waiter.wait(SOON)?.success()?.text(), "137");
        let followed = follower.wait(SOON)?.success()?.stdout;
        let numbered: String = followed
            .lines()
            .filter(|line| line.starts_with("line "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(numbered, lines_up_to(400), "every line once and in order");
        assert_eq!(followed, stage.daemon.ok(&["logs", "echo"])?.stdout);
        stage.daemon.ok(&["rm", "echo"])?;
        stage.daemon.finish()
    })
}

#[test]
fn after_a_kill_the_terminal_goes_on() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage
            .daemon
            .ok(&["run", "-dit", "--name", "shell", &stage.image, "/bin/sh"])?;
        let pid = stage.daemon.pid("shell")?;
        for round in 1..=2 {
            stage.daemon.kill()?;
            stage.daemon.launch()?;
            assert_eq!(stage.daemon.pid("shell")?, pid, "it is the same process");
            let terminal = Terminal::open(scene, &stage.daemon.shell_words("attach shell")?)?;
            // The prompt was printed before anybody looked.
            terminal.type_line(&format!("echo round $(({round} + 0)) on a $(stty size | wc -w)"))?;
            terminal.wait_for_line(&format!("round {round} on a 2"))?;
            terminal.press("C-p")?;
            terminal.press("C-q")?;
            terminal.wait_for_end(0)?;
        }
        stage
            .daemon
            .croze(&["exec", "-t", "shell", "/probe", "exit", "4"])?
            .code(4)?;
        let log = stage.daemon.ok(&["logs", "shell"])?.stdout;
        ensure!(
            log.contains("round 1 on a 2") && log.contains("round 2 on a 2"),
            "{log}"
        );
        stage.daemon.ok(&["stop", "-t", "1", "shell"])?;
        stage.daemon.ok(&["wait", "shell"])?;
        stage.daemon.ok(&["rm", "shell"])?;
        stage.daemon.finish()
    })
}
