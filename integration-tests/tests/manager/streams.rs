//! Standard input, output and error, attached and logged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Scene, digest, wait_until};

use crate::Stage;

#[test]
fn stdout_and_stderr_are_kept_apart() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let output = stage
            .run(&[], &["/bin/sh", "-c", "echo to stdout; echo to stderr >&2"])?
            .success()?;
        assert_eq!(output.stdout, "to stdout\n");
        assert_eq!(output.stderr, "to stderr\n");
        stage.daemon.finish()
    })
}

#[test]
fn standard_input_is_passed_on_to_its_end() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let run = stage
            .daemon
            .shell_words(&format!("run --rm -i {} /bin/wc -c", stage.image))?;
        let output = scene
            .call(&["sh", "-c", &format!("head -c 1000000 /dev/zero | {run}")])?
            .success()?;
        assert_eq!(output.text(), "1000000");
        // Without -i the input is empty.
        assert_eq!(stage.run(&[], &["/bin/wc", "-c"])?.success()?.text(), "0");
        stage.daemon.finish()
    })
}

#[test]
fn much_output_arrives_whole() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let output =
            stage
                .daemon
                .ok(&["run", "--name", "much", &stage.image, "/probe", "print", "200000"])?;
        let expected: String = (1..=200_000).map(|number| format!("line {number}\n")).collect();
        assert_eq!(
            digest(output.stdout.as_bytes()),
            digest(expected.as_bytes()),
            "attached"
        );
        let logged = stage.daemon.ok(&["logs", "much"])?;
        assert_eq!(
            digest(logged.stdout.as_bytes()),
            digest(expected.as_bytes()),
            "logged"
        );
        assert_eq!(
            stage.daemon.ok(&["logs", "--tail", "2", "much"])?.stdout,
            "line 199999\nline 200000\n"
        );
        stage.daemon.finish()
    })
}

#[test]
fn logs_follow_until_the_end() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let words = [
            "run",
            "-d",
            "--name",
            "slow",
            &stage.image,
            "/probe",
            "print",
            "50",
            "20",
        ];
        let started = stage.daemon.ok(&words)?;
        ensure!(started.text().len() == 64, "an id and no more: {started}");
        let follower = scene.start(stage.daemon.command(&["logs", "-f", "slow"])?)?;
        wait_until(
            "the follower sees the first lines",
            Duration::from_secs(10),
            || Ok(follower.stdout().contains("line 3\n").then_some(())),
        )?;
        ensure!(follower.ended().is_none(), "it follows");
        let output = follower.wait(Duration::from_secs(20))?.success()?;
        let expected: String = (1..=50).map(|number| format!("line {number}\n")).collect();
        assert_eq!(output.stdout, expected);
        let stamped = stage.daemon.ok(&["logs", "-t", "--tail", "1", "slow"])?;
        let (time, line) = stamped.text().split_once(' ').context("a time and a line")?;
        ensure!(
            time.contains('T') && time.ends_with('Z') && line == "line 50",
            "{stamped}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn exec_has_streams_and_a_code_of_its_own() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("host", &["-e", "FROM_RUN=yes"], &["/probe", "wait"], "ready")?;
        let output = stage
            .daemon
            .croze(&["exec", "host", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"])?
            .code(7)?;
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("out\n", "err\n")
        );
        let report = stage
            .daemon
            .ok(&[
                "exec", "-e", "ADDED=1", "-w", "/tmp", "-u", "app", "host", "/probe",
            ])?
            .json()?;
        assert_eq!(report["environment"]["FROM_RUN"], "yes");
        assert_eq!(report["environment"]["ADDED"], "1");
        assert_eq!(report["cwd"], "/tmp");
        assert_eq!(report["uid"]["effective"], 1000);
        let exec = stage.daemon.shell_words("exec -i host /bin/wc -c")?;
        assert_eq!(
            scene
                .call(&["sh", "-c", &format!("printf abc | {exec}")])?
                .success()?
                .text(),
            "3"
        );
        stage
            .daemon
            .croze(&["exec", "host", "/no/such/command"])?
            .code(127)?;
        stage.daemon.croze(&["exec", "host", "/etc/passwd"])?.code(126)?;
        stage
            .daemon
            .croze(&["exec", "nobody", "/bin/true"])?
            .failure(&["nobody"])?;
        stage.daemon.finish()
    })
}
