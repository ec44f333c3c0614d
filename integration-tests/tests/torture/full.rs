//! File systems without a byte or an inode left: an error that says which one is full and how full, nothing half there, and once there is room
//! the next request succeeds without a restart.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Output, Scene, Tmpfs, runtime_under_test, wait_until};
use std::time::Duration;

use crate::check;
use crate::seed::{Seed, from_environment};
use crate::world::World;

/// Room for the small image and its blob, and for one of the large ones.
const ROOT: &str = "size=24m,nr_inodes=4000";
const RUN: &str = "size=4m,nr_inodes=600";

/// A world whose daemon keeps everything on two small file systems.
struct Small<'scene> {
    world: World<'scene>,
    root: Tmpfs,
    run: Tmpfs,
}

impl<'scene> Small<'scene> {
    fn set(scene: &'scene Scene) -> Result<Self> {
        let root = Tmpfs::mount(&scene.path("root"), ROOT)?;
        let run = Tmpfs::mount(&scene.path("run"), RUN)?;
        let daemon = Crozed::prepare(scene, &runtime_under_test()?, root.path(), run.path());
        let world = World::around(scene, &mut Seed::new(7), daemon)?;
        world.proxy.rest(Duration::ZERO);
        world.daemon.launch()?;
        world.daemon.ok(&["pull", &world.small])?;
        Ok(Self { world, root, run })
    }

    fn daemon(&self) -> &Crozed<'scene> {
        &self.world.daemon
    }

    /// The request fails and says that this file system is full, by its place and its figures.
    fn refused(&self, on: &Tmpfs, words: &[&str]) -> Result<Output> {
        let output = self.daemon().croze(words)?;
        let place = on.path().display().to_string();
        output.failure(&[&place, "full", "free"])
    }

    fn finish(self) -> Result<()> {
        for id in self.daemon().container_ids()? {
            self.daemon().ok(&["rm", "-f", &id])?;
        }
        check::whole(self.daemon())?;
        self.daemon().finish()
    }
}

#[test]
fn a_pull_onto_a_full_disk_leaves_nothing_and_succeeds_once_there_is_room() -> Result<()> {
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let before = check::names(&small.root.path().join("content/blobs/sha256"))?;
        // Nothing at all, or room for some of the layers.
        for spare in [0, 300 << 10, 900 << 10] {
            small.root.fill(spare)?;
            small.refused(&small.root, &["pull", &small.world.large[0]])?;
            check::whole(small.daemon())?;
            ensure!(check::names(&small.root.path().join("content/blobs/sha256"))? == before);
            small.root.free()?;
        }
        small.daemon().ok(&["pull", &small.world.large[0]])?;
        small
            .daemon()
            .ok(&["run", "--rm", &small.world.large[0], "/bin/true"])?;
        small.finish()
    })
}

/// Pulls with room for one piece more each time (a page, an inode), until there is enough of it: whatever is written or made, it is the one that finds
/// no room. Each failure says so with these words and leaves nothing, and the next pull, with room, succeeds. Returns how many failed. `make test`
/// takes some of the steps.
fn step_by_step(
    scene: &Scene,
    leave: impl Fn(&Tmpfs, u64) -> Result<()>,
    words: &str,
    stride: usize,
    at_least: usize,
) -> Result<usize> {
    let stride = match from_environment::<usize>("CROZE_TORTURE_KILLS")? {
        Some(_) => 1,
        None => stride,
    };
    let small = Small::set(scene)?;
    let (daemon, image) = (small.daemon(), &small.world.large[0]);
    let before = check::names(&small.root.path().join("content/blobs/sha256"))?;
    let mut failed = 0;
    for pieces in (0..).step_by(stride) {
        leave(&small.root, pieces)?;
        let output = daemon.croze(&["pull", image])?;
        if output.ended == croze_integration_tests::Ended::Code(0) {
            break;
        }
        output.failure(&[&small.root.path().display().to_string(), "full", words])?;
        check::whole(daemon).with_context(|| format!("with room for {pieces} pieces"))?;
        ensure!(check::names(&small.root.path().join("content/blobs/sha256"))? == before);
        small.root.free()?;
        daemon.ok(&["pull", image])?;
        daemon.ok(&["rmi", image])?;
        failed += 1;
    }
    ensure!(failed >= at_least / stride, "only {failed} pulls found no room");
    small.root.free()?;
    daemon.ok(&["run", "--rm", image, "/bin/true"])?;
    small.finish()?;
    Ok(failed)
}

#[test]
fn a_pull_fails_at_whatever_write_the_disk_is_full_and_the_next_one_succeeds() -> Result<()> {
    const PAGE: u64 = 4096;
    Scene::play(|scene| {
        let failed = step_by_step(scene, |root, pages| root.fill(pages * PAGE), " free", 60, 400)?;
        eprintln!("full: {failed} pulls found no room, each at a later write");
        Ok(())
    })
}

#[test]
fn a_pull_fails_at_whatever_file_no_inode_is_left_for_and_the_next_one_succeeds() -> Result<()> {
    let leave = |root: &Tmpfs, inodes: u64| root.fill_inodes(usize::try_from(inodes)?);
    Scene::play(|scene| {
        let failed = step_by_step(scene, leave, "inodes free", 8, 16)?;
        eprintln!("full: {failed} pulls found no inode, each at a later file");
        Ok(())
    })
}

#[test]
fn what_needs_room_says_so_and_what_gives_room_works_on_a_full_disk() -> Result<()> {
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let (daemon, image) = (small.daemon(), small.world.small.clone());
        daemon.ok(&["create", "--name", "waits", &image, "/probe", "wait"])?;
        daemon.ok(&["run", "-d", "--name", "runs", &image, "/probe", "wait"])?;
        daemon
            .croze(&["run", "--name", "over", &image, "/probe", "exit", "3"])?
            .code(3)?;
        small.root.fill(0)?;
        for words in [
            &["create", "--name", "new", image.as_str(), "/bin/true"][..],
            &["run", "-d", "--name", "new", image.as_str(), "/bin/true"],
            &["run", "--rm", "--name", "new", image.as_str(), "/bin/true"],
            &["start", "over"],
        ] {
            small.refused(&small.root, words)?;
        }
        // What can be told without writing is told, and what is removed gives room.
        daemon.ok(&["ps", "-a"])?;
        ensure!(daemon.inspect("over")?["State"]["Status"] == "exited");
        daemon.ok(&["exec", "runs", "/bin/true"])?;
        daemon.ok(&["rm", "-f", "runs"])?;
        check::whole(daemon)?;
        // Also for a daemon that starts now.
        small.root.fill(0)?;
        daemon.kill()?;
        daemon.launch()?;
        ensure!(check::containers(daemon)?.len() == 2, "both are found again");
        daemon.ok(&["rm", "over"])?;
        small.root.free()?;
        daemon.ok(&["run", "-d", "--name", "new", &image, "/probe", "wait"])?;
        daemon.ok(&["start", "waits"])?;
        check::whole(daemon)?;
        small.finish()
    })
}

#[test]
fn a_container_that_prints_to_a_full_disk_ends_with_its_own_code_and_a_count_of_what_is_missing() -> Result<()>
{
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let (daemon, image) = (small.daemon(), small.world.small.clone());
        let script = "/probe print 3000 2; exit 7";
        daemon.ok(&["run", "-d", "--name", "prints", &image, "/bin/sh", "-c", script])?;
        wait_until("it printed", Duration::from_secs(10), || {
            let log = daemon.ok(&["logs", "prints"])?.stdout;
            Ok(log.contains("line 5\n").then_some(()))
        })?;
        small.root.fill(0)?;
        small.run.fill(0)?;
        daemon.croze(&["wait", "prints"])?.success()?;
        let facts = daemon.inspect("prints")?;
        ensure!(facts["State"]["ExitCode"] == 7, "{facts}");
        // Nobody but the files says it to a daemon that comes later.
        daemon.kill()?;
        daemon.launch()?;
        let facts = daemon.inspect("prints")?;
        ensure!(facts["State"]["ExitCode"] == 7, "{facts}");
        small.run.free()?;
        small.root.free()?;
        let log = daemon.ok(&["logs", "prints"])?.stdout;
        ensure!(log.starts_with("line 1\nline 2\n"), "{log}");
        ensure!(!log.contains("line 3000\n"), "the disk was not full: {log}");
        daemon.ok(&["rm", "prints"])?;
        small.finish()
    })
}

#[test]
fn an_end_on_two_full_disks_while_the_daemon_is_away_is_not_lost() -> Result<()> {
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let (daemon, image) = (small.daemon(), small.world.small.clone());
        daemon.ok(&["run", "-d", "--name", "ends", &image, "/probe", "wait"])?;
        let pid = daemon.pid("ends")?;
        daemon.kill()?;
        small.root.fill(0)?;
        small.run.fill(0)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?;
        wait_until("its shim left", Duration::from_secs(20), || {
            let gone = !croze_integration_tests::is_alive(pid)
                && check::shims_below(&small.run.path().join("containers")).is_empty();
            Ok(gone.then_some(()))
        })?;
        small.run.free()?;
        daemon.launch()?;
        let state = &daemon.inspect("ends")?["State"];
        ensure!(state["Status"] == "exited" && state["ExitCode"] == 137, "{state}");
        small.root.free()?;
        daemon.ok(&["start", "ends"])?;
        small.finish()
    })
}

#[test]
fn without_inodes_the_error_counts_them() -> Result<()> {
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let (daemon, image) = (small.daemon(), small.world.small.clone());
        for spare in [0, 3, 8] {
            small.root.fill_inodes(spare)?;
            for words in [
                &["pull", small.world.large[0].as_str()][..],
                &["create", "--name", "new", image.as_str()],
            ] {
                let output = daemon.croze(words)?;
                let has_room = spare > 3 && output.ended == croze_integration_tests::Ended::Code(0);
                if has_room {
                    daemon.croze(&["rm", "new"])?;
                } else {
                    output.failure(&["inodes free", &small.root.path().display().to_string()])?;
                }
                check::whole(daemon)?;
            }
            small.root.free()?;
        }
        daemon.ok(&["pull", &small.world.large[0]])?;
        daemon.ok(&["run", "--rm", "--name", "new", &small.world.large[0], "/bin/true"])?;
        small.finish()
    })
}

#[test]
fn a_full_run_root_is_named_and_its_container_can_start_once_there_is_room() -> Result<()> {
    Scene::play(|scene| {
        let small = Small::set(scene)?;
        let (daemon, image) = (small.daemon(), small.world.small.clone());
        daemon.ok(&["create", "--name", "waits", &image, "/probe", "wait"])?;
        for fill_inodes in [false, true] {
            for spare in [0, 6] {
                if fill_inodes {
                    small.run.fill_inodes(spare)?;
                } else {
                    small.run.fill(u64::try_from(spare)? << 10)?;
                }
                small.refused(&small.run, &["run", "--rm", "--name", "new", &image, "/bin/true"])?;
                small.refused(&small.run, &["start", "waits"])?;
                small.run.free()?;
                check::whole(daemon)?;
            }
        }
        daemon.ok(&["start", "waits"])?;
        daemon.ok(&["run", "--rm", "--name", "new", &image, "/bin/true"])?;
        small.finish()
    })
}
