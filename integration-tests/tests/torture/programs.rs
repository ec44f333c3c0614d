//! The other programs die, or are told to end in the middle of something.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Scene, is_alive, runtime_under_test, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::check;
use crate::seed::Seed;
use crate::trap::Trap;
use crate::world::World;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_client_that_dies_between_create_and_start_leaves_what_dockers_leaves() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(31))?;
        let daemon = &world.daemon;
        let mut met = 0;
        for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
            for (flags, stays) in [(&["--rm"][..], false), (&[], true), (&["-d", "--rm"], false)] {
                let tail = ["--name", "box", world.small.as_str(), "/probe", "wait"];
                let words = [&["run"], flags, &tail].concat();
                let client = scene.start(daemon.command(&words)?)?;
                // Its directory appears: the record is durable a moment later, and only then is the client answered.
                let trap = Trap::arm(&[&daemon.root().join("containers")], 1, client.pid(), signal)?;
                client.wait(SOON)?;
                let sprung = trap.disarm();
                met += usize::from(sprung);
                let what = format!("{signal} {flags:?}");
                // A client that was quicker than the trap is not what this is about; on a busy host the signal may even come after the start.
                if sprung {
                    let expected = if stays { "created" } else { "absent" };
                    wait_until("it was as it should be", SOON, || {
                        let known = check::containers(daemon)?;
                        let facts = known.values().next();
                        let status = facts.map_or("absent", |f| f["State"]["Status"].as_str().unwrap_or("?"));
                        Ok((status == expected || status == "running").then_some(()))
                    })
                    .with_context(|| what.clone())?;
                }
                check::whole(daemon).context(what)?;
                for id in daemon.container_ids()? {
                    daemon.ok(&["rm", "-f", &id])?;
                }
            }
        }
        ensure!(met >= 6, "only {met} of 9 clients were met in time");
        daemon.finish()
    })
}

#[test]
fn a_dead_shim_costs_the_output_and_nothing_else() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(32))?;
        let daemon = &world.daemon;
        let restarts = [false, true];
        for (n, (tty, restart)) in ["", "-t"]
            .into_iter()
            .flat_map(|tty| restarts.map(|restart| (tty, restart)))
            .enumerate()
        {
            let name = format!("box{n}");
            let mut words = vec!["run", "-d", "--name", &name];
            words.extend(Some(tty).filter(|tty| !tty.is_empty()));
            words.extend([world.small.as_str(), "/probe", "wait"]);
            daemon.ok(&words)?;
            let facts = daemon.inspect(&name)?;
            let shim = facts["State"]["ShimPid"].as_i64().context("the shim's pid")?;
            kill(Pid::from_raw(i32::try_from(shim)?), Signal::SIGKILL)?;
            if restart {
                daemon.kill()?;
                daemon.launch()?;
            }
            let what = format!("tty {tty:?}, restart {restart}");
            daemon.ok(&["ps", "-a"])?;
            daemon.ok(&["stop", "-t", "1", &name]).context(what.clone())?;
            daemon.ok(&["start", &name]).context(what.clone())?;
            daemon.ok(&["rm", "-f", &name]).context(what.clone())?;
            check::whole(daemon).context(what)?;
        }
        daemon.finish()
    })
}

#[test]
fn a_daemon_told_to_end_in_the_middle_of_things_leaves_nothing_half_done() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(33))?;
        let daemon = &world.daemon;
        let passed = world.proxy.passed();
        let pull = scene.start(daemon.command(&["pull", &world.large[0]])?)?;
        wait_until("the pull is under way", SOON, || {
            Ok((world.proxy.passed() > passed + (200 << 10)).then_some(()))
        })?;
        daemon.stop()?;
        pull.wait(SOON)?;
        daemon.launch()?;
        check::whole(daemon)?;
        daemon.ok(&["pull", &world.large[0]])?;

        let run = scene.start(daemon.command(&[
            "run",
            "--name",
            "box",
            &world.small,
            "/bin/sh",
            "-c",
            "/probe print 200 20; exec /probe wait",
        ])?)?;
        wait_until("it printed", SOON, || {
            Ok(run.stdout().contains("line 3\n").then_some(()))
        })?;
        let pid = daemon.pid("box")?;
        daemon.stop()?;
        let told = run.wait(SOON)?;
        ensure!(
            told.clone().success().is_err(),
            "nobody knows how it will end: {told}"
        );
        ensure!(is_alive(pid), "containers go on");
        daemon.launch()?;
        ensure!(daemon.pid("box")? == pid);
        wait_until("all was printed", SOON, || {
            Ok(daemon
                .ok(&["logs", "box"])?
                .stdout
                .contains("line 200\n")
                .then_some(()))
        })?;
        daemon.ok(&["rm", "-f", "box"])?;
        check::whole(daemon)?;
        daemon.finish()
    })
}

#[test]
fn a_second_daemon_on_the_same_directories_is_refused_and_harms_nothing() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(34))?;
        let daemon = &world.daemon;
        daemon.ok(&["run", "-d", "--name", "box", &world.small, "/probe", "wait"])?;
        let pid = daemon.pid("box")?;
        let runtime = runtime_under_test()?;
        for (root, run) in [("root", "run"), ("root", "other-run"), ("other-root", "run")] {
            let second = Crozed::prepare(scene, &runtime, &scene.path(root), &scene.path(run))
                .on_socket("second.sock");
            let error = second.launch().err().context("it is refused")?;
            let words = format!("{error:#}");
            ensure!(words.contains("another daemon"), "{words}");
            ensure!(
                words.contains(&daemon.daemon_pid().context("crozed runs")?.to_string()),
                "{words}"
            );
            check::whole(daemon)?;
            ensure!(daemon.pid("box")? == pid);
        }
        daemon.ok(&["rm", "-f", "box"])?;
        daemon.finish()
    })
}
