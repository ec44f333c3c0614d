//! docker's verbs, which podman speaks too: each judged by what it does to a container, not only by how it ends.
//!
//! The limits are read from the cgroups of version 1, as `cgroup_file` finds them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Ended, Output, Scene, Terminal, cgroup_file, is_alive, wait_until};
use serde_json::{Value, json};

/// How long an engine may take until what it was told shows.
const SOON: Duration = Duration::from_secs(30);

/// An engine with an image `small`, and the runtime under test.
pub(crate) trait Engine {
    fn scene(&self) -> &Scene;

    /// A command line of its client.
    fn command(&self, words: &[&str]) -> Command;

    /// The flags that every `run` has.
    fn flags(&self) -> Vec<String>;

    /// Which of both it is: they differ in places that have nothing to do with the runtime.
    fn is_docker(&self) -> bool;

    fn call(&self, words: &[&str]) -> Result<Output> {
        self.scene().run(self.command(words))
    }

    fn ok(&self, words: &[&str]) -> Result<Output> {
        self.call(words)?.success()
    }

    /// `run FLAGS small WORDS`.
    fn run(&self, flags: &[&str], words: &[&str]) -> Result<Output> {
        let own = self.flags();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        self.call(&[&["run"], &own[..], flags, &["small"], words].concat())
    }

    /// A container that stays, once it says that it is ready; its id.
    fn start(&self, name: &str, flags: &[&str], words: &[&str]) -> Result<String> {
        let id = self
            .run(&[&["-d", "--name", name], flags].concat(), words)?
            .success()?;
        self.printed(name, "ready")?;
        Ok(id.text().to_owned())
    }

    fn inspect(&self, name: &str) -> Result<Value> {
        let mut all = self.ok(&["inspect", "--type", "container", name])?.json()?;
        all.get_mut(0)
            .map(Value::take)
            .context("inspect shows a container")
    }

    fn printed(&self, name: &str, word: &str) -> Result<()> {
        wait_until(&format!("{name} printed {word:?}"), SOON, || {
            let output = self.call(&["logs", name])?;
            Ok((output.ended == Ended::Code(0) && output.stdout.contains(word)).then_some(()))
        })
    }

    /// A client's command line for a shell.
    fn shell_line(&self, words: &[&str]) -> String {
        shell_line(&self.command(words))
    }
}

/// A command as a line for a shell, its environment included.
pub(crate) fn shell_line(command: &Command) -> String {
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
    let environment = command.get_envs().filter_map(|(name, value)| {
        let value = quoted(value?);
        Some(format!("{}={value}", name.to_string_lossy()))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted);
    let line: Vec<String> = environment.chain(words).collect();
    line.join(" ")
}

/// The container's own idea of its first process.
fn pid(engine: &dyn Engine, name: &str) -> Result<i32> {
    let pid = engine.inspect(name)?["State"]["Pid"]
        .as_i64()
        .context("it has a pid")?;
    Ok(i32::try_from(pid)?)
}

/// exec: code, output, standard input, environment, user, directory, a terminal, in the background; and it counts as the container's.
pub(crate) fn added_processes(engine: &dyn Engine) -> Result<()> {
    let id = engine.start("host", &["--hostname", "inside"], &["/probe", "wait"])?;
    engine.call(&["exec", "host", "/probe", "exit", "7"])?.code(7)?;
    engine
        .call(&["exec", "host", "/probe", "raise", "9"])?
        .code(128 + 9)?;
    // docker 20.10 answers 126 to both, whatever the runtime is.
    let missing = engine.call(&["exec", "host", "/no/such/command"])?;
    ensure!(
        [Ended::Code(126), Ended::Code(127)].contains(&missing.ended)
            && (missing.stdout.clone() + &missing.stderr).contains("no such file or directory"),
        "{missing}"
    );
    engine.call(&["exec", "host", "/etc/passwd"])?.code(126)?;
    let flags = ["-e", "ADDED=1", "-u", "app", "-w", "/tmp"];
    let report = engine
        .ok(&[&["exec"], &flags[..], &["host", "/probe"]].concat())?
        .json()?;
    assert_eq!(report["environment"]["ADDED"], "1");
    assert_eq!(report["uid"]["effective"], 1000);
    assert_eq!(report["cwd"], "/tmp");
    assert_eq!(report["hostname"], "inside");
    assert_eq!(report["capabilities"]["effective"], json!([]));
    assert_eq!(report["seccomp"], "2", "an added process is filtered too");

    let terminal = engine.ok(&["exec", "-t", "host", "/probe", "tty"])?.json()?;
    assert_eq!(terminal["stdout"], true, "{terminal}");
    let plain = engine.ok(&["exec", "host", "/probe", "tty"])?.json()?;
    assert_eq!(plain["stdout"], false, "{plain}");

    let line = engine.shell_line(&["exec", "-i", "host", "cat"]);
    let piped = format!("printf 'through %s' stdin | {line}");
    let piped = engine.scene().call(&["sh", "-c", &piped])?.success()?;
    assert_eq!(piped.stdout, "through stdin");

    engine.ok(&["exec", "-d", "host", "/probe", "stubborn"])?;
    wait_until("the process in the background is there", SOON, || {
        let inside = cgroup_file("pids", &id, "cgroup.procs")?;
        Ok((inside.lines().count() == 2).then_some(()))
    })?;
    let top = engine.ok(&["top", "host"])?;
    assert_eq!(
        top.stdout.lines().count(),
        3,
        "a heading and two processes: {top}"
    );
    engine.ok(&["rm", "-f", "host"]).map(drop)
}

/// A shell in a terminal: its size, a change of it, an interrupt, leaving it and coming back, its code.
pub(crate) fn a_terminal(engine: &dyn Engine) -> Result<()> {
    let own = engine.flags();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let flags = ["-it", "--name", "shell", "--hostname", "inside"];
    let line = engine.shell_line(&[&["run"], &own[..], &flags, &["small", "/bin/sh"]].concat());
    let terminal = Terminal::open(engine.scene(), &line)?;
    terminal.type_line("test -t 0 && echo $((40 + 2)) $(hostname) $$")?;
    terminal.wait_for_line("42 inside 1")?;
    terminal.resize(90, 25)?;
    // The engines are told of the change and pass it on a little later.
    terminal.type_line("until test \"$(stty size)\" = '25 90'; do true; done; echo resized $((6 * 7))")?;
    terminal.wait_for_line("resized 42")?;
    terminal.type_line("sh -c 'echo begun; exec sleep 1000'; echo interrupted")?;
    terminal.wait_for_line("begun")?;
    terminal.press("C-c")?;
    terminal.type_line("echo still $((6 * 7))")?;
    terminal.wait_for_line("still 42")?;
    terminal.press("C-p")?;
    terminal.press("C-q")?;
    terminal.wait_for_end(0)?;
    drop(terminal);
    assert_eq!(engine.inspect("shell")?["State"]["Running"], true);

    let added = Terminal::open(
        engine.scene(),
        &engine.shell_line(&["exec", "-it", "shell", "/bin/sh"]),
    )?;
    added.type_line("test -t 1 && echo added $((6 * 7)); exit 3")?;
    added.wait_for_line("added 42")?;
    added.wait_for_end(3)?;
    drop(added);
    let again = Terminal::open(engine.scene(), &engine.shell_line(&["attach", "shell"]))?;
    again.type_line("echo again $((6 * 7))")?;
    again.wait_for_line("again 42")?;
    again.type_line("exit 5")?;
    // podman 4.3 says that attaching worked.
    again.wait_for_end(if engine.is_docker() { 5 } else { 0 })?;
    assert_eq!(engine.inspect("shell")?["State"]["ExitCode"], 5);
    engine.ok(&["rm", "shell"]).map(drop)
}

/// Limits, how they hold, and `update`.
pub(crate) fn limits(engine: &dyn Engine) -> Result<()> {
    let flags = ["-m", "64m", "--memory-swap", "64m", "--pids-limit", "20"];
    let flags = [
        &flags[..],
        &["--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0"],
    ]
    .concat();
    let id = engine.start("limited", &flags, &["/probe", "stubborn"])?;
    let file = |controller: &str, file: &str| cgroup_file(controller, &id, file);
    for (controller, name, want) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("pids", "pids.max", "20"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.shares", "512"),
        ("cpuset", "cpuset.cpus", "0"),
    ] {
        assert_eq!(file(controller, name)?, want, "{name}");
    }
    let inside = |words: &[&str]| engine.call(&[&["exec", "limited"], words].concat());
    let bomb = inside(&["/probe", "forkbomb"])?.success()?;
    ensure!(
        !bomb.stdout.contains("refused no"),
        "the limit of processes holds: {bomb}"
    );
    inside(&["/probe", "alloc", "40m"])?.success()?;
    inside(&["/probe", "alloc", "90m"])?.code(128 + 9)?;

    let mut update = vec!["update", "-m", "128m", "--memory-swap", "160m"];
    update.extend(["--cpus", "0.8", "--cpu-shares", "256"]);
    // podman 4.3 cannot.
    if engine.is_docker() {
        update.extend(["--pids-limit", "30"]);
    }
    update.push("limited");
    engine.ok(&update)?;
    for (controller, name, want) in [
        ("memory", "memory.limit_in_bytes", "134217728"),
        ("memory", "memory.memsw.limit_in_bytes", "167772160"),
        ("pids", "pids.max", if engine.is_docker() { "30" } else { "20" }),
        ("cpu", "cpu.cfs_quota_us", "80000"),
        ("cpu", "cpu.shares", "256"),
        ("cpuset", "cpuset.cpus", "0"),
    ] {
        assert_eq!(file(controller, name)?, want, "{name} after update");
    }
    inside(&["/probe", "alloc", "90m"])?.success()?;
    engine.ok(&["rm", "-f", "limited"])?;

    engine
        .run(&["--name", "big", "-m", "64m"], &["/probe", "alloc", "256m"])?
        .code(137)?;
    if engine.is_docker() {
        // podman's monitor does not see it in cgroups of version 1, whatever the runtime is.
        assert_eq!(engine.inspect("big")?["State"]["OOMKilled"], true);
    }
    engine.ok(&["rm", "big"]).map(drop)
}

/// What `stats` says of memory, processes and CPU time.
pub(crate) fn figures(engine: &dyn Engine) -> Result<()> {
    engine.start("idle", &["-m", "64m"], &["/probe", "children", "2"])?;
    engine
        .run(&["-d", "--name", "busy"], &["/probe", "spin", "1000"])?
        .success()?;
    let of = |name: &str, format: &str| -> Result<String> {
        let output = engine.ok(&["stats", "--no-stream", "--format", format, name])?;
        Ok(output.text().to_owned())
    };
    assert_eq!(of("idle", "{{.PIDs}}")?, "3");
    let memory = of("idle", "{{.MemUsage}}")?;
    let (used, limit) = memory.split_once(" / ").context("usage and limit")?;
    ensure!(
        !used.starts_with("0B") && used.chars().next().is_some_and(|c| c.is_ascii_digit()),
        "memory is used: {memory}"
    );
    ensure!(
        ["64MiB", "67.11MB"].contains(&limit),
        "the limit is known: {memory}"
    );
    let share = of("busy", "{{.CPUPerc}}")?;
    let percent: f64 = share.trim_end_matches('%').parse()?;
    ensure!(percent > 1.0, "the CPU is used: {share}");
    engine.ok(&["rm", "-f", "idle", "busy"]).map(drop)
}

/// A paused container does nothing; afterwards it goes on.
pub(crate) fn pausing(engine: &dyn Engine) -> Result<()> {
    let id = engine.start(
        "paused",
        &[],
        &["/bin/sh", "-c", "echo ready; exec /probe spin 1000"],
    )?;
    let frozen = || cgroup_file("freezer", &id, "freezer.state");
    let used = || -> Result<u64> { Ok(cgroup_file("cpuacct", &id, "cpuacct.usage")?.parse()?) };
    engine.ok(&["pause", "paused"])?;
    assert_eq!(frozen()?, "FROZEN");
    assert_eq!(engine.inspect("paused")?["State"]["Paused"], true);
    let before = used()?;
    engine.call(&["exec", "paused", "/bin/true"])?.failure(&[])?;
    assert_eq!(used()?, before, "no time is spent meanwhile");
    engine.ok(&["unpause", "paused"])?;
    assert_eq!(frozen()?, "THAWED");
    wait_until("it goes on", SOON, || Ok((used()? > before).then_some(())))?;
    engine.ok(&["exec", "paused", "/bin/true"])?;
    // A paused container can be ended too.
    engine.ok(&["pause", "paused"])?;
    engine.ok(&["rm", "-f", "paused"]).map(drop)
}

/// Signals by name, the one that ends, a stop that has to insist, and all descendants of a container that ends.
pub(crate) fn signals(engine: &dyn Engine) -> Result<()> {
    engine.start("told", &[], &["/probe", "wait"])?;
    engine.ok(&["kill", "--signal", "HUP", "told"])?;
    engine.printed("told", "got SIGHUP")?;
    assert_eq!(engine.ok(&["wait", "told"])?.text(), "0");

    engine.start("asked", &[], &["/probe", "wait"])?;
    engine.ok(&["stop", "asked"])?;
    engine.printed("asked", "got SIGTERM")?;

    let id = engine.start("family", &[], &["/probe", "children", "3"])?;
    let members: Vec<i32> = cgroup_file("pids", &id, "cgroup.procs")?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert_eq!(members.len(), 4);
    engine.ok(&["kill", "family"])?;
    assert_eq!(engine.ok(&["wait", "family"])?.text(), "137");
    wait_until("all are gone", SOON, || {
        Ok((!members.iter().any(|&pid| is_alive(pid))).then_some(()))
    })?;

    engine.start("deaf", &[], &["/probe", "stubborn"])?;
    engine.ok(&["stop", "-t", "1", "deaf"])?;
    assert_eq!(engine.ok(&["wait", "deaf"])?.text(), "137");

    // The same container once more, with a new first process.
    engine.ok(&["start", "asked"])?;
    let first = pid(engine, "asked")?;
    engine.ok(&["restart", "asked"])?;
    let second = pid(engine, "asked")?;
    ensure!(
        first != second && is_alive(second),
        "{first} ended, {second} runs"
    );
    engine
        .ok(&["rm", "-f", "told", "asked", "family", "deaf"])
        .map(drop)
}

/// An init that passes signals on, reaps what is orphaned, and ends with the command's code.
pub(crate) fn an_init(engine: &dyn Engine, flags: &[&str]) -> Result<()> {
    engine
        .run(
            &[flags, &["--rm"]].concat(),
            &["/bin/sh", "-c", "test $$ != 1 && exit 9"],
        )?
        .code(9)?;
    engine.start("with-init", flags, &["/probe", "wait"])?;
    let orphan = "(sh -c 'echo $$ > /tmp/orphan' &); until test -s /tmp/orphan; do true; done; \
                  while test -e /proc/$(cat /tmp/orphan); do true; done";
    engine.ok(&["exec", "with-init", "sh", "-c", orphan])?;
    let first = std::fs::read_to_string(format!("/proc/{}/comm", pid(engine, "with-init")?))?;
    ensure!(!first.contains("probe"), "the first process is the init: {first}");
    engine.ok(&["stop", "with-init"])?;
    engine.printed("with-init", "got SIGTERM")?;
    engine.ok(&["rm", "with-init"]).map(drop)
}

/// A root that cannot be written to, with a place that can.
pub(crate) fn a_read_only_root(engine: &dyn Engine) -> Result<()> {
    let flags = ["--rm", "--read-only", "--tmpfs", "/scratch"];
    let answer = engine
        .run(&flags, &["/probe", "attempt", "write:/"])?
        .success()?
        .json()?;
    assert_eq!(answer, json!({ "write:/": "EROFS" }));
    engine
        .run(
            &flags,
            &[
                "/bin/sh",
                "-c",
                "echo x > /scratch/x && ! echo x > /bin/x && cat /scratch/x",
            ],
        )?
        .success()?;
    let volume = engine.scene().new_directory("read-only-volume")?;
    let bind = format!("{}:/data:ro", volume.display());
    engine
        .run(
            &["--rm", "-v", &bind],
            &["/bin/sh", "-c", "echo x > /data/x || exit 4"],
        )?
        .code(4)?;
    Ok(())
}
