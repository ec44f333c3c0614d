//! crozed with the runtimes of others: what matters of a container's life, with runc and with crun.
//!
//! `RUNTIME=/usr/bin/crun make test` does all of the manager's suite so; this is the part that every run of the tests shows.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Ended, ImageLayout, Registry, Scene, Tmpfs, wait_until};
use serde_json::json;

/// A daemon with the runtime of this name, and a small image; `None` (and a word why) where that is not installed.
fn with_runtime(name: &str, act: impl FnOnce(&Scene, &Crozed<'_>, &str) -> Result<()>) -> Result<()> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found = places
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|path| path.is_file());
    let runtime =
        found.with_context(|| format!("{name} is not installed: `make setup-tests` installs it"))?;
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "small", "latest")?;
        registry.push(&layout, "latest", "small:latest")?;
        let image = registry.reference("small:latest");
        let daemon = Crozed::start_with_runtime(scene, &runtime)?;
        daemon.ok(&["pull", &image])?;
        act(scene, &daemon, &image)?;
        daemon.finish()
    })
}

/// A whole life: output, codes, a terminal, limits, exec, logs, stop, kill, and the daemon's death in between.
fn a_life(daemon: &Crozed<'_>, image: &str) -> Result<()> {
    let run = |flags: &[&str], words: &[&str]| {
        daemon.croze(&[&["run", "--rm", "--network", "none"], flags, &[image], words].concat())
    };
    assert_eq!(run(&[], &["/bin/echo", "hello"])?.success()?.text(), "hello");
    run(&[], &["/probe", "exit", "3"])?.code(3)?;
    run(&[], &["/no/such/command"])?.code(127)?;
    run(&[], &["/etc/passwd"])?.code(126)?;
    let tty = run(&["-t"], &["/probe", "tty"])?.success()?;
    ensure!(tty.stdout.contains("true"), "{tty}");
    let report = run(
        &[
            "-u",
            "app",
            "--cap-drop",
            "ALL",
            "--tmpfs",
            "/scratch",
            "--shm-size",
            "1m",
            "--ulimit",
            "nofile=64:64",
        ],
        &["/probe"],
    )?
    .success()?
    .json()?;
    assert_eq!(report["uid"]["effective"], 1000);
    assert_eq!(report["capabilities"]["bounding"], json!([]));
    assert_eq!(report["seccomp"], "2");
    assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([64, 64]));
    run(&["-m", "64m"], &["/probe", "alloc", "256m"])?.code(137)?;
    run(&["--init"], &["/bin/sh", "-c", "exit 9"])?.code(9)?;

    let named = |name: &'static str, flags: &[&str], words: &[&str]| {
        daemon.ok(&[
            &["run", "-d", "--network", "none", "--name", name],
            flags,
            &[image],
            words,
        ]
        .concat())
    };
    named("big", &["-m", "64m"], &["/probe", "alloc", "256m"])?;
    assert_eq!(daemon.ok(&["wait", "big"])?.text(), "137");
    assert_eq!(daemon.inspect("big")?["State"]["OOMKilled"], json!(true));

    named("lives", &[], &["/probe", "wait"])?;
    named("dies", &[], &["/probe", "stubborn"])?;
    printed(daemon, "lives", "ready")?;
    daemon.croze(&["exec", "lives", "/probe", "exit", "5"])?.code(5)?;
    let inside = daemon.ok(&["exec", "-e", "ADDED=1", "lives", "/probe"])?.json()?;
    assert_eq!(inside["environment"]["ADDED"], "1");
    daemon.kill()?;
    daemon.launch()?;
    assert_eq!(daemon.inspect("lives")?["State"]["Running"], json!(true));
    daemon.ok(&["exec", "lives", "/bin/true"])?;
    daemon.ok(&["stop", "lives"])?;
    printed(daemon, "lives", "got SIGTERM")?;
    daemon.ok(&["kill", "dies"])?;
    assert_eq!(daemon.ok(&["wait", "dies"])?.text(), "137");
    daemon.ok(&["rm", "big", "lives", "dies"])?;
    assert_eq!(daemon.ok(&["ps", "-aq"])?.text(), "");
    Ok(())
}

/// A read-only bind with a mount below it.
fn a_read_only_tree(scene: &Scene, daemon: &Crozed<'_>, image: &str) -> Result<()> {
    let source = scene.new_directory("source")?;
    let below = Tmpfs::mount(&source.join("below"), "size=1m")?;
    let volume = format!("{}:/data:ro", source.display());
    let write = ["/bin/sh", "-c", "echo x > /data/below/written"];
    let output = daemon
        .croze(
            &[
                &["run", "--rm", "--network", "none", "-v", &volume, image],
                &write[..],
            ]
            .concat(),
        )?
        .code(1)?;
    ensure!(output.stderr.contains("Read-only file system"), "{output}");
    ensure!(!below.path().join("written").exists(), "nothing was written");
    Ok(())
}

fn printed(daemon: &Crozed<'_>, name: &str, word: &str) -> Result<()> {
    let what = format!("{name} printed {word:?}");
    wait_until(&what, std::time::Duration::from_secs(15), || {
        let output = daemon.croze(&["logs", name])?;
        Ok((output.ended == Ended::Code(0) && output.stdout.contains(word)).then_some(()))
    })
}

#[test]
fn a_whole_life_with_runc() -> Result<()> {
    with_runtime("runc", |scene, daemon, image| {
        a_life(daemon, image)?;
        a_read_only_tree(scene, daemon, image)
    })
}

#[test]
fn a_whole_life_with_crun() -> Result<()> {
    with_runtime("crun", |scene, daemon, image| {
        a_life(daemon, image)?;
        a_read_only_tree(scene, daemon, image)
    })
}

#[test]
fn each_container_may_have_a_runtime_of_its_own() -> Result<()> {
    with_runtime("runc", |_, daemon, image| {
        let own = croze_integration_tests::bin("croze-rt")?;
        let own = own.to_string_lossy();
        let flags = [
            "run",
            "-d",
            "--name",
            "mine",
            "--network",
            "none",
            "--runtime",
            own.as_ref(),
        ];
        daemon.ok(&[&flags[..], &[image, "/probe", "wait"]].concat())?;
        assert_eq!(daemon.inspect("mine")?["HostConfig"]["Runtime"], json!(own));
        daemon.ok(&["exec", "mine", "/bin/true"])?;
        daemon.ok(&["rm", "-f", "mine"])?;
        daemon
            .croze(&[
                "run",
                "--runtime",
                "nope",
                "--network",
                "none",
                image,
                "/bin/true",
            ])?
            .code(125)?
            .failure(&["nope", "runc"])?;
        assert_eq!(daemon.ok(&["ps", "-aq"])?.text(), "");
        Ok(())
    })
}
