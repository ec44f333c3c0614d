//! The shim itself: what it takes of the host, and what its container's streams do to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Process, Scene, wait_until};
use nix::sys::signal::Signal;

use crate::Stage;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1024;

fn shim_pid(daemon: &Crozed<'_>, name: &str) -> Result<i32> {
    let pid = daemon.inspect(name)?["State"]["ShimPid"]
        .as_i64()
        .context("the shim's pid")?;
    Ok(i32::try_from(pid)?)
}

/// The most memory that a process has had, in KiB.
fn peak_memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("the peak")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_shim_is_small_private_and_in_a_cgroup_of_its_own() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let script = "head -c 30000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 1000";
        let run = [
            "run",
            "-d",
            "--name",
            "printer",
            &stage.image,
            "/bin/sh",
            "-c",
            script,
        ];
        stage.daemon.ok(&run)?;
        wait_until("all is printed", PATIENCE, || {
            let last = stage.daemon.ok(&["logs", "--tail", "1", "printer"])?;
            Ok((last.text() == "done").then_some(()))
        })?;
        let shim = shim_pid(&stage.daemon, "printer")?;
        let peak = peak_memory(shim)?;
        ensure!(peak < 4 * MIB, "the shim has had {peak} KiB");

        let id = stage.daemon.inspect("printer")?["Id"]
            .as_str()
            .context("an id")?
            .to_owned();
        let membership = fs::read_to_string(format!("/proc/{shim}/cgroup"))?;
        ensure!(
            membership
                .lines()
                .any(|line| line.ends_with(&format!("/croze-shim/{id}"))),
            "{membership}"
        );
        let container = stage.daemon.pid("printer")?;
        let container = fs::read_to_string(format!("/proc/{container}/cgroup"))?;
        ensure!(!container.contains("croze-shim"), "{container}");
        let socket = fs::read_link(format!("/proc/{shim}/cwd"))?.join("shim.sock");
        assert_eq!(fs::metadata(socket)?.permissions().mode() & 0o777, 0o600);
        stage.daemon.finish()
    })
}

#[test]
fn a_run_root_far_down_is_no_obstacle() -> Result<()> {
    Scene::play(|scene| {
        // A socket's path has 107 bytes at most.
        let deep = scene.path(&"d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep)?;
        let stage = Stage::around(scene, Crozed::start_with_run_root(scene, deep.join("run"))?)?;
        let line = stage.daemon.shell_words(&format!(
            "run --name deep -i -d {} /bin/sh -c 'read x; echo got $x; exec sleep 1000'",
            stage.image
        ))?;
        scene.call(&["sh", "-c", &line])?.success()?;
        let attach = stage.daemon.shell_words("attach deep")?;
        let client = scene.start({
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &format!("echo words | {attach}")]);
            command
        })?;
        wait_until("the container answers", PATIENCE, || {
            Ok(client.stdout().contains("got words").then_some(()))
        })?;
        stage
            .daemon
            .ok(&["exec", "-t", "deep", "/bin/sh", "-c", "test -t 1"])?;
        stage.daemon.kill()?;
        stage.daemon.launch()?;
        stage.daemon.ok(&["kill", "deep"])?;
        client.wait(PATIENCE)?;
        stage.daemon.finish()
    })
}

/// How far a program has read its standard input.
fn input_position(process: &Process) -> Result<u64> {
    let facts = fs::read_to_string(format!("/proc/{}/fdinfo/0", process.pid()))?;
    let line = facts
        .lines()
        .find_map(|line| line.strip_prefix("pos:"))
        .context("a position")?;
    Ok(line.trim().parse()?)
}

#[test]
fn input_that_nobody_reads_waits_outside() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let input = scene.path("input");
        fs::File::create(&input)?.set_len(400 << 20)?;
        let mut command = stage.daemon.command(&[
            "run",
            "-i",
            "--name",
            "deaf",
            &stage.image,
            "/bin/sh",
            "-c",
            "echo ready; sleep 1000",
        ])?;
        command.stdin(fs::File::open(&input)?);
        let client = scene.start(command)?;
        wait_until("the container runs", PATIENCE, || {
            Ok(client.stdout().contains("ready").then_some(()))
        })?;
        // It has come to a halt when nothing was read for some rounds.
        let (mut last, mut rounds) = (0, 0);
        wait_until("the input waits", PATIENCE, || {
            let position = input_position(&client)?;
            rounds = if position == last { rounds + 1 } else { 0 };
            last = position;
            Ok((position > 0 && rounds > 30).then_some(()))
        })?;
        ensure!(last < 16 << 20, "{last} bytes were taken");
        let shim = peak_memory(shim_pid(&stage.daemon, "deaf")?)?;
        ensure!(shim < 6 * MIB, "the shim has had {shim} KiB");
        let daemon = peak_memory(stage.daemon.daemon_pid().context("the daemon runs")?)?;
        ensure!(daemon < 200 * MIB, "the daemon has had {daemon} KiB");
        stage.daemon.ok(&["kill", "deaf"])?;
        client.wait(PATIENCE)?.code(137)?;
        stage.daemon.finish()
    })
}

#[test]
fn several_clients_share_an_input_that_ends_with_the_process_alone() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let script = "for n in 1 2 3; do read x; echo \"$n: $x\"; done; exit 6";
        let run = [
            "run",
            "-d",
            "-i",
            "--name",
            "shared",
            &stage.image,
            "/bin/sh",
            "-c",
            script,
        ];
        stage.daemon.ok(&run)?;
        let mut clients = Vec::new();
        for number in 1..=3 {
            let word = scene.path(&format!("word-{number}"));
            fs::write(&word, format!("word {number}\n"))?;
            let mut command = stage.daemon.command(&["attach", "shared"])?;
            command.stdin(fs::File::open(&word)?);
            let client = scene.start(command)?;
            // The end of one client's input is not the end of the container's.
            wait_until("the line was read", PATIENCE, || {
                Ok(client
                    .stdout()
                    .contains(&format!("{number}: word {number}\n"))
                    .then_some(()))
            })?;
            clients.push(client);
        }
        for client in &clients {
            client.wait(PATIENCE)?.code(6)?;
        }
        assert_eq!(
            clients[0].stdout(),
            "1: word 1\n2: word 2\n3: word 3\n",
            "everybody sees everything"
        );
        stage.daemon.finish()
    })
}

#[test]
fn a_client_that_was_behind_when_the_disk_was_full_is_told_so() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let shared = scene.new_directory("shared")?;
        nix::unistd::mkfifo(&shared.join("go"), nix::sys::stat::Mode::S_IRWXU)?;
        let mount = format!("-v={}:/shared", shared.display());
        let script = "echo begun; read x </shared/go; seq 800000; exit 5";
        let create = ["create", "--name", "full", &mount, &stage.image];
        stage
            .daemon
            .ok(&[&create[..], &["/bin/sh", "-c", script]].concat())?;
        let small = scene.new_directory("small-disk")?;
        scene
            .call(&[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=2m",
                "tmpfs",
                &small.to_string_lossy(),
            ])?
            .success()?;
        let log = stage.daemon.inspect("full")?["LogPath"]
            .as_str()
            .context("the log")?
            .to_owned();
        std::os::unix::fs::symlink(small.join("log"), &log)?;
        let client = scene.start(stage.daemon.command(&["start", "-a", "full"])?)?;
        wait_until("it has begun", PATIENCE, || {
            Ok(client.stdout().contains("begun").then_some(()))
        })?;
        client.signal(Signal::SIGSTOP)?;
        fs::write(shared.join("go"), "go\n")?;
        wait_until("the container has ended", PATIENCE, || {
            Ok((stage.daemon.inspect("full")?["State"]["Status"] == "exited").then_some(()))
        })?;
        client.signal(Signal::SIGCONT)?;
        let output = client.wait(PATIENCE)?.code(5)?;
        ensure!(
            output.stderr.contains("lines of output are missing"),
            "{}",
            output.stderr
        );
        let facts = stage.daemon.inspect("full")?;
        let dropped = facts["State"]["LogLinesDropped"].as_u64().context("a count")?;
        ensure!(dropped > 100_000, "{dropped} lines");
        // What came is in order and came once; lines at the edges of what is missing may be cut.
        let numbers: Vec<u64> = output
            .stdout
            .lines()
            .skip(1)
            .map(|l| l.parse().unwrap_or(0))
            .collect();
        let steps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        ensure!(
            numbers.len() > 20_000 && steps < 50 && numbers[0] == 1,
            "{} lines, {steps} steps",
            numbers.len()
        );
        stage.daemon.finish()?;
        scene.call(&["umount", &small.to_string_lossy()])?.success()?;
        Ok(())
    })
}
