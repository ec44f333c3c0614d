//! Clients that read slowly, stop, or lose their daemon: the container waits for none of them, and none loses a byte.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{Process, Scene, digest, is_alive, wait_until};
use nix::sys::signal::Signal;

use crate::Stage;

const PATIENCE: Duration = Duration::from_secs(60);

/// What `seq LAST` prints.
fn numbers(last: usize) -> String {
    (1..=last).fold(String::with_capacity(last * 8), |mut text, number| {
        text.push_str(&number.to_string());
        text.push('\n');
        text
    })
}

/// A directory that a container shares with the test, with a fifo at which it waits.
struct Gate {
    directory: PathBuf,
}

impl Gate {
    fn new(scene: &Scene) -> Result<Self> {
        let directory = scene.new_directory("shared")?;
        nix::unistd::mkfifo(&directory.join("go"), nix::sys::stat::Mode::S_IRWXU)?;
        Ok(Self { directory })
    }

    /// The flag that mounts it.
    fn mount(&self) -> String {
        format!("-v={}:/shared", self.directory.display())
    }

    /// Lets the container go on; returns when it has begun to.
    fn open(&self) -> Result<()> {
        Ok(std::fs::write(self.directory.join("go"), "go\n")?)
    }
}

/// A container's script that says `begun` and waits at the gate before it does `what`.
fn gated(what: &str) -> String {
    format!("echo begun >&2; read x </shared/go; {what}")
}

/// Starts a client of a gated container and stops it before anything else is printed.
fn stopped_client(scene: &Scene, stage: &Stage<'_>, gate: &Gate, arguments: &[&str]) -> Result<Process> {
    let client = scene.start(stage.daemon.command(arguments)?)?;
    wait_until("the container waits at the gate", PATIENCE, || {
        let said = format!("{}{}", client.stdout(), client.stderr());
        Ok(said.contains("begun").then_some(()))
    })?;
    client.signal(Signal::SIGSTOP)?;
    gate.open()?;
    Ok(client)
}

fn wait_for_exit(stage: &Stage<'_>, name: &str) -> Result<()> {
    wait_until("the container has ended", PATIENCE, || {
        let ended = stage.daemon.inspect(name)?["State"]["Status"] == "exited";
        Ok(ended.then_some(()))
    })
}

#[test]
fn a_reader_that_comes_when_all_is_over_gets_everything() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let run = stage.daemon.shell_words(&format!(
            "run --rm {} /bin/sh -c 'seq 3000000; exit 7'",
            stage.image
        ))?;
        let script = format!(
            "{{ {run}; echo \"code $?\" >&2; }} | {{ read x <{}/go; sha256sum; }}",
            gate.directory.display()
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]);
        let pipeline = scene.start(command)?;
        // Nobody reads, and all the same the container ends and is removed.
        wait_until("the container ran", PATIENCE, || {
            Ok((!stage.daemon.ok(&["ps", "-aq"])?.text().is_empty()).then_some(()))
        })?;
        wait_until("the container is gone", PATIENCE, || {
            Ok(stage.daemon.ok(&["ps", "-aq"])?.text().is_empty().then_some(()))
        })?;
        ensure!(pipeline.ended().is_none(), "it has everything still to come");
        gate.open()?;
        let output = pipeline.wait(PATIENCE)?.success()?;
        let expected = digest(numbers(3_000_000).as_bytes());
        assert_eq!(
            output.text().split_whitespace().next(),
            expected.strip_prefix("sha256:")
        );
        assert_eq!(output.stderr, "code 7\n");
        stage.daemon.finish()
    })
}

#[test]
fn bytes_that_are_no_text_survive_a_stopped_client() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let script = gated("head -c 8000000 /dev/urandom >/shared/random; cat /shared/random; exit 3");
        let mount = gate.mount();
        let run = [
            "run",
            "--name",
            "noise",
            &mount,
            &stage.image,
            "/bin/sh",
            "-c",
            &script,
        ];
        // The harness reads text, and this is none.
        let copy = scene.path("copy");
        let words: Vec<String> = run.iter().map(|word| format!("'{word}'")).collect();
        let line = stage.daemon.shell_words(&words.join(" "))?;
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("exec {line} >{}", copy.display())]);
        let client = scene.start(command)?;
        wait_until("the container waits at the gate", PATIENCE, || {
            Ok(client.stderr().contains("begun").then_some(()))
        })?;
        client.signal(Signal::SIGSTOP)?;
        gate.open()?;
        wait_for_exit(&stage, "noise")?;
        client.signal(Signal::SIGCONT)?;
        client.wait(PATIENCE)?.code(3)?;
        let printed = std::fs::read(gate.directory.join("random"))?;
        assert_eq!(digest(&std::fs::read(copy)?), digest(&printed));
        stage.daemon.finish()
    })
}

#[test]
fn both_streams_of_a_stopped_client_come_whole_and_in_order() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let script = gated("seq 400000 & seq 400000 >&2; wait");
        let mount = gate.mount();
        let create = [
            "create",
            "--name",
            "both",
            &mount,
            &stage.image,
            "/bin/sh",
            "-c",
            &script,
        ];
        stage.daemon.ok(&create)?;
        // Twice: the second run's log follows the first one's in the same file.
        for _ in 0..2 {
            let client = stopped_client(scene, &stage, &gate, &["start", "-a", "both"])?;
            wait_for_exit(&stage, "both")?;
            client.signal(Signal::SIGCONT)?;
            let output = client.wait(PATIENCE)?.success()?;
            let expected = numbers(400_000);
            assert_eq!(
                digest(output.stdout.as_bytes()),
                digest(expected.as_bytes()),
                "stdout"
            );
            assert_eq!(
                digest(output.stderr.as_bytes()),
                digest(format!("begun\n{expected}").as_bytes()),
                "stderr"
            );
        }
        stage.daemon.finish()
    })
}

#[test]
fn a_client_of_a_terminal_that_goes_on_sees_the_present_again() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let script = gated("seq 500000; printf prompt; read x </shared/go; echo; echo more");
        let mount = gate.mount();
        let run = [
            "run",
            "-t",
            "--name",
            "screen",
            &mount,
            &stage.image,
            "/bin/sh",
            "-c",
            &script,
        ];
        let client = stopped_client(scene, &stage, &gate, &run)?;
        wait_until("all is printed", PATIENCE, || {
            let last = stage.daemon.ok(&["logs", "--tail", "1", "screen"])?;
            Ok((last.text() == "500000").then_some(()))
        })?;
        client.signal(Signal::SIGCONT)?;
        // The line has not ended, so it is not in the log; it is shown all the same.
        wait_until("the prompt is shown", PATIENCE, || {
            Ok(client.stdout().ends_with("prompt").then_some(()))
        })?;
        gate.open()?;
        let output = client.wait(PATIENCE)?.success()?;
        let expected = format!("begun\n{}prompt\nmore\n", numbers(500_000)).replace('\n', "\r\n");
        assert_eq!(digest(output.stdout.as_bytes()), digest(expected.as_bytes()));
        stage.daemon.finish()
    })
}

#[test]
fn an_attached_client_that_stops_again_and_again_misses_nothing() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let script = "read one; read two; seq 1000000";
        let run = [
            "run",
            "-d",
            "-i",
            "--name",
            "busy",
            &stage.image,
            "/bin/sh",
            "-c",
            script,
        ];
        stage.daemon.ok(&run)?;
        // Each lets the container go one step on, so both are attached when it begins.
        let word = scene.path("word");
        std::fs::write(&word, "go\n")?;
        let attach = || {
            let mut command = stage.daemon.command(&["attach", "busy"])?;
            command.stdin(std::fs::File::open(&word)?);
            scene.start(command)
        };
        let (client, watcher) = (attach()?, attach()?);
        wait_until("it has begun", PATIENCE, || {
            Ok(watcher.stdout().contains("1000\n").then_some(()))
        })?;
        let (mut stops, mut seen) = (0, 0);
        while client.ended().is_none() {
            client.signal(Signal::SIGSTOP)?;
            stops += 1;
            // Meanwhile the other one goes ahead, or both are at the end.
            wait_until("the other client goes on", PATIENCE, || {
                let length = watcher.stdout().len();
                let on = length > seen + 300_000 || watcher.ended().is_some();
                Ok(on.then(|| seen = length))
            })?;
            client.signal(Signal::SIGCONT)?;
            if watcher.ended().is_some() {
                break;
            }
        }
        ensure!(stops > 2, "it was stopped {stops} times only");
        let expected = digest(numbers(1_000_000).as_bytes());
        for client in [client, watcher] {
            let output = client.wait(PATIENCE)?.success()?;
            assert_eq!(digest(output.stdout.as_bytes()), expected);
        }
        stage.daemon.finish()
    })
}

#[test]
fn a_daemon_that_hangs_delays_no_container_and_costs_no_client_anything() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let mount = gate.mount();
        let script = gated("seq 600000; exit 8");
        let run = [
            "run",
            "--name",
            "hung",
            &mount,
            &stage.image,
            "/bin/sh",
            "-c",
            &script,
        ];
        let client = scene.start(stage.daemon.command(&run)?)?;
        wait_until("the container waits at the gate", PATIENCE, || {
            Ok(client.stderr().contains("begun").then_some(()))
        })?;
        let shim = stage.daemon.inspect("hung")?["State"]["ShimPid"]
            .as_i64()
            .unwrap_or_default();
        let daemon = stage.daemon.daemon_pid().unwrap_or_default();
        let daemon = nix::unistd::Pid::from_raw(daemon);
        nix::sys::signal::kill(daemon, Signal::SIGSTOP)?;
        gate.open()?;
        let shim = i32::try_from(shim)?;
        let left = wait_until("the container has ended and its shim has left", PATIENCE, || {
            Ok((!is_alive(shim)).then_some(()))
        });
        nix::sys::signal::kill(daemon, Signal::SIGCONT)?;
        left?;
        let output = client.wait(PATIENCE)?.code(8)?;
        assert_eq!(
            digest(output.stdout.as_bytes()),
            digest(numbers(600_000).as_bytes())
        );
        stage.daemon.finish()
    })
}

#[test]
fn a_client_whose_daemon_is_killed_says_so_and_another_can_follow() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let gate = Gate::new(scene)?;
        let mount = gate.mount();
        let script = "while ! [ -e /shared/open ]; do echo tick; sleep 0.1; done; echo after; exit 4";
        let run = [
            "run",
            "--name",
            "left",
            &mount,
            &stage.image,
            "/bin/sh",
            "-c",
            script,
        ];
        let ticks = |client: &Process| {
            wait_until("the client is attached", PATIENCE, || {
                Ok(client.stdout().contains("tick").then_some(()))
            })
        };
        let client = scene.start(stage.daemon.command(&run)?)?;
        ticks(&client)?;
        stage.daemon.kill()?;
        let output = client.wait(PATIENCE)?.code(125)?;
        let output = output.failure(&["the connection to the daemon was lost", "croze attach"])?;
        ensure!(output.stderr.lines().count() == 2, "{output}");
        stage.daemon.launch()?;
        let follower = scene.start(stage.daemon.command(&["attach", "left"])?)?;
        ticks(&follower)?;
        std::fs::write(gate.directory.join("open"), "")?;
        let output = follower.wait(PATIENCE)?.code(4)?;
        ensure!(output.stdout.ends_with("tick\nafter\n"), "{output}");
        stage.daemon.finish()
    })
}
