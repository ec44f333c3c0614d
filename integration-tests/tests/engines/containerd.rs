//! containerd, by `ctr`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{
    Containerd, Output, Process, Scene, Terminal, cgroup_file, is_alive, spec, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::verbs::shell_line;

const SOON: Duration = Duration::from_secs(30);
const IMAGE: &str = "docker.io/library/small:latest";

/// The name under which the import stores the image depends on containerd's version.
fn image(engine: &Containerd<'_>) -> Result<String> {
    let names = engine.ctr(&["images", "list", "--quiet"])?.success()?;
    let name = names.stdout.lines().find(|name| name.ends_with("small:latest"));
    Ok(name.unwrap_or(IMAGE).to_owned())
}

/// `ctr run FLAGS image ID WORDS`.
fn words(engine: &Containerd<'_>, id: &str, flags: &[&str], words: &[&str]) -> Result<Vec<String>> {
    let image = image(engine)?;
    let mut line = engine.run_words(id);
    line.extend(flags.iter().chain(&[image.as_str(), id]).map(|&w| w.to_owned()));
    line.extend(words.iter().map(|&w| w.to_owned()));
    Ok(line)
}

fn run(engine: &Containerd<'_>, id: &str, flags: &[&str], command: &[&str]) -> Result<Output> {
    let line = words(engine, id, flags, command)?;
    engine.ctr(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A container in the foreground of a process of its own, once it says that it is ready.
fn start(
    scene: &Scene,
    engine: &Containerd<'_>,
    id: &str,
    flags: &[&str],
    command: &[&str],
) -> Result<Process> {
    let line = words(engine, id, flags, command)?;
    let process = scene.start(engine.command(&line.iter().map(String::as_str).collect::<Vec<_>>()))?;
    wait_until(&format!("{id} was ready"), SOON, || {
        ensure!(process.ended().is_none(), "it ended: {}", process.stderr());
        Ok(process.stdout().contains("ready").then_some(()))
    })?;
    Ok(process)
}

fn exec(engine: &Containerd<'_>, id: &str, flags: &[&str], command: &[&str]) -> Result<Output> {
    engine.ctr(&[&["tasks", "exec", "--exec-id", "added"], flags, &[id], command].concat())
}

/// What `tasks list` says of a container.
fn status(engine: &Containerd<'_>, id: &str) -> Result<String> {
    let list = engine.ctr(&["tasks", "list"])?.success()?;
    let line = list
        .stdout
        .lines()
        .find(|line| line.split_whitespace().next() == Some(id));
    let status = line.and_then(|line| line.split_whitespace().nth(2));
    Ok(status.context("the task is listed")?.to_owned())
}

#[test]
fn containerd_runs_execs_into_and_removes_a_container() -> Result<()> {
    Scene::play(|scene| {
        let engine = Containerd::start(scene)?;
        let report = run(&engine, "once", &["--rm", "--seccomp"], &["/probe"])?
            .success()?
            .json()?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["seccomp"], "2");
        assert_eq!(report["no_new_privs"], true);
        let mut names: Vec<&str> = report["capabilities"]["effective"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        names.sort_unstable();
        assert_eq!(names, spec::DOCKER_CAPABILITIES);
        run(&engine, "code", &["--rm"], &["/probe", "exit", "3"])?.code(3)?;
        run(&engine, "missing", &["--rm"], &["/no/such/command"])?.failure(&["/no/such/command"])?;
        run(&engine, "data", &["--rm"], &["/etc/passwd"])?.failure(&["permission denied"])?;

        let host = start(
            scene,
            &engine,
            "host",
            &["--rm", "--env", "GIVEN=1"],
            &["/probe", "wait"],
        )?;
        exec(&engine, "host", &[], &["/probe", "exit", "7"])?.code(7)?;
        let inside = exec(&engine, "host", &["--cwd", "/tmp", "--user", "1000"], &["/probe"])?
            .success()?
            .json()?;
        assert_eq!(inside["environment"]["GIVEN"], "1");
        assert_eq!(inside["cwd"], "/tmp");
        assert_eq!(inside["uid"]["effective"], 1000);
        exec(&engine, "host", &[], &["/no/such/command"])?.failure(&["/no/such/command"])?;
        engine.ctr(&["tasks", "kill", "host"])?.success()?;
        let ended = host.wait(SOON)?.success()?;
        ensure!(ended.stdout.contains("got SIGTERM"), "{ended}");
        assert_eq!(
            engine.ctr(&["containers", "list", "--quiet"])?.success()?.text(),
            ""
        );
        Ok(())
    })
}

#[test]
fn containerd_gives_a_terminal() -> Result<()> {
    Scene::play(|scene| {
        let engine = Containerd::start(scene)?;
        let line = words(&engine, "shell", &["--rm", "--tty"], &["/bin/sh"])?;
        let line = shell_line(&engine.command(&line.iter().map(String::as_str).collect::<Vec<_>>()));
        let terminal = Terminal::open(scene, &line)?;
        terminal.type_line("test -t 0 && echo $((40 + 2)) $$")?;
        terminal.wait_for_line("42 1")?;
        terminal.resize(90, 25)?;
        terminal
            .type_line("until test \"$(stty size)\" = '25 90'; do true; done; echo resized $((6 * 7))")?;
        terminal.wait_for_line("resized 42")?;
        let added = ["tasks", "exec", "--exec-id", "added", "--tty", "shell", "/bin/sh"];
        let added = Terminal::open(scene, &shell_line(&engine.command(&added)))?;
        added.type_line("test -t 1 && echo added $((6 * 7)); exit 3")?;
        added.wait_for_line("added 42")?;
        added.wait_for_end(3)?;
        terminal.type_line("sh -c 'echo begun; exec sleep 1000'; echo interrupted")?;
        terminal.wait_for_line("begun")?;
        terminal.press("C-c")?;
        terminal.type_line("echo still $((6 * 7)); exit 5")?;
        terminal.wait_for_line("still 42")?;
        terminal.wait_for_end(5)
    })
}

#[test]
fn containerd_limits_counts_pauses_and_kills() -> Result<()> {
    Scene::play(|scene| {
        let engine = Containerd::start(scene)?;
        let flags = [
            "--rm",
            "--memory-limit",
            "67108864",
            "--cpu-quota",
            "50000",
            "--cpu-period",
            "100000",
        ];
        let family = start(scene, &engine, "family", &flags, &["/probe", "children", "2"])?;
        let path = scene.cgroup("family");
        let file = |controller: &str, file: &str| cgroup_file(controller, &path, file);
        assert_eq!(file("memory", "memory.limit_in_bytes")?, "67108864");
        assert_eq!(file("cpu", "cpu.cfs_quota_us")?, "50000");
        exec(&engine, "family", &[], &["/probe", "alloc", "256m"])?.code(137)?;

        let metrics = engine
            .ctr(&["tasks", "metrics", "--format", "json", "family"])?
            .success()?
            .json()?;
        let memory = metrics.pointer("/memory/usage/usage").and_then(Value::as_u64);
        ensure!(memory.is_some_and(|bytes| bytes > 0), "{metrics}");
        assert_eq!(metrics.pointer("/memory/usage/limit"), Some(&json!(67_108_864)));
        assert_eq!(metrics.pointer("/pids/current"), Some(&json!(3)));
        let processes = engine.ctr(&["tasks", "ps", "family"])?.success()?;
        let members: Vec<i32> = processes
            .stdout
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(members.len(), 3, "{processes}");

        engine.ctr(&["tasks", "pause", "family"])?.success()?;
        assert_eq!(status(&engine, "family")?, "PAUSED");
        assert_eq!(file("freezer", "freezer.state")?, "FROZEN");
        engine.ctr(&["tasks", "resume", "family"])?.success()?;
        assert_eq!(status(&engine, "family")?, "RUNNING");
        assert_eq!(file("freezer", "freezer.state")?, "THAWED");

        engine
            .ctr(&["tasks", "kill", "--signal", "KILL", "family"])?
            .success()?;
        family.wait(SOON)?.code(137)?;
        wait_until("all are gone", SOON, || {
            Ok((!members.iter().any(|&pid| is_alive(pid))).then_some(()))
        })
    })
}

#[test]
fn containerd_makes_read_only_roots_and_user_namespaces() -> Result<()> {
    Scene::play(|scene| {
        let engine = Containerd::start(scene)?;
        let answer = run(
            &engine,
            "read-only",
            &["--rm", "--read-only"],
            &["/probe", "attempt", "write:/"],
        )?;
        assert_eq!(answer.success()?.json()?, json!({ "write:/": "EROFS" }));

        let flags = ["--rm", "--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"];
        let mapped = start(scene, &engine, "mapped", &flags, &["/probe", "wait"])?;
        let listed = engine.ctr(&["tasks", "list"])?.success()?;
        let pid = listed
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("mapped")?.split_whitespace().next())
            .context("the task is listed")?;
        let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", "200000", "65536"]
        );
        let report = exec(&engine, "mapped", &[], &["/probe"])?.success()?.json()?;
        assert_eq!(report["uid"]["effective"], 0);
        engine.ctr(&["tasks", "kill", "mapped"])?.success()?;
        mapped.wait(SOON)?.success().map(drop)
    })
}

/// `tasks start` of a container that was only created, and a container that outlives the daemon.
#[test]
fn containers_outlive_containerd() -> Result<()> {
    Scene::play(|scene| {
        let mut engine = Containerd::start(scene)?;
        let flags = ["--detach"];
        run(&engine, "kept", &flags, &["/probe", "stubborn"])?.success()?;
        assert_eq!(status(&engine, "kept")?, "RUNNING");
        engine.restart(Signal::SIGKILL)?;
        assert_eq!(status(&engine, "kept")?, "RUNNING");
        exec(&engine, "kept", &[], &["/probe", "exit", "4"])?.code(4)?;
        engine.restart(Signal::SIGTERM)?;
        engine
            .ctr(&["tasks", "kill", "--signal", "KILL", "kept"])?
            .success()?;
        wait_until("the end is known", SOON, || {
            Ok((status(&engine, "kept")? == "STOPPED").then_some(()))
        })?;
        let removed = engine.ctr(&["tasks", "delete", "kept"])?;
        ensure!(removed.stderr.contains("137"), "{removed}");
        engine.ctr(&["containers", "delete", "kept"])?.success()?;
        Ok(())
    })
}
