//! The flags of `run`.

use std::fs;

use anyhow::{Result, ensure};
use croze_integration_tests::{Scene, Tmpfs, spec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::{Stage, strings};

#[test]
fn environment_directory_and_hostname_are_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let report = stage.report(&[
            "-e",
            "ONE=1",
            "-e",
            "FROM_IMAGE=no",
            "-w",
            "/tmp",
            "--hostname",
            "named",
        ])?;
        assert_eq!(report["environment"]["ONE"], "1");
        assert_eq!(report["environment"]["FROM_IMAGE"], "no");
        assert_eq!(report["environment"]["HOSTNAME"], "named");
        assert_eq!(report["cwd"], "/tmp");
        assert_eq!(report["hostname"], "named");
        // A bare name that is not set here takes the image's variable away.
        let report = stage.report(&["-e", "FROM_IMAGE", "-e", "HOSTNAME=x"])?;
        assert_eq!(report["environment"]["FROM_IMAGE"], json!(null));
        assert_eq!(report["environment"]["HOSTNAME"], "x");
        // A working directory that is not there is made.
        assert_eq!(stage.report(&["-w", "/new/place"])?["cwd"], "/new/place");
        stage.daemon.finish()
    })
}

#[test]
fn users_are_found_by_name_and_number() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (asked, uid, gid, groups) in [
            ("app", 1000, 1000, vec![2000]),
            ("1000", 1000, 1000, vec![2000]),
            ("app:extra", 1000, 2000, vec![]),
            ("1234:4321", 1234, 4321, vec![]),
            ("4711", 4711, 0, vec![]),
        ] {
            let report = stage.report(&["-u", asked])?;
            assert_eq!(report["uid"]["effective"], uid, "{asked}");
            assert_eq!(report["gid"]["effective"], gid, "{asked}");
            let others: Vec<u64> = report["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_u64)
                .filter(|group| *group != gid)
                .collect();
            assert_eq!(others, groups, "{asked}");
            assert_eq!(report["capabilities"]["effective"], json!([]), "{asked}");
        }
        assert_eq!(stage.report(&["-u", "app"])?["environment"]["HOME"], "/home/app");
        stage
            .run(&["-u", "nobody-here"], &["/bin/true"])?
            .failure(&["nobody-here"])?;
        stage.daemon.finish()
    })
}

#[test]
fn directories_and_files_are_bound() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let shared = scene.new_directory("shared")?;
        fs::write(shared.join("from-host"), "hello\n")?;
        let volume = format!("{}:/data", shared.display());
        let output = stage.run(
            &["-v", &volume],
            &["/bin/sh", "-c", "cat /data/from-host; echo back > /data/new"],
        )?;
        assert_eq!(output.success()?.text(), "hello");
        assert_eq!(fs::read_to_string(shared.join("new"))?, "back\n");

        let read_only = format!("{volume}:ro");
        let output = stage
            .run(&["-v", &read_only], &["/bin/sh", "-c", "echo x > /data/other"])?
            .code(1)?;
        ensure!(output.stderr.contains("Read-only file system"), "{output}");
        ensure!(!shared.join("other").exists(), "nothing was written");

        let file = format!("{}:/etc/one-file:ro", shared.join("from-host").display());
        assert_eq!(
            stage
                .run(&["-v", &file], &["/bin/cat", "/etc/one-file"])?
                .success()?
                .text(),
            "hello"
        );
        stage.daemon.finish()
    })
}

#[test]
fn read_only_directories_are_so_with_all_that_is_mounted_below() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let source = scene.new_directory("source")?;
        let below = Tmpfs::mount(&source.join("below"), "size=1m")?;
        let write = ["/bin/sh", "-c", "echo x > /data/below/written"];
        let words = format!("type=bind,source={},target=/data,readonly", source.display());
        for flags in [
            ["-v", &format!("{}:/data:ro", source.display())],
            ["--mount", &words],
            [
                "--mount",
                &format!("{words},bind-recursive=readonly,bind-propagation=rprivate"),
            ],
        ] {
            let output = stage.run(&flags, &write)?.code(1)?;
            ensure!(output.stderr.contains("Read-only file system"), "{output}");
            ensure!(!below.path().join("written").exists(), "{flags:?}");
        }
        stage
            .run(&["--mount", &format!("{words},bind-recursive=writable")], &write)?
            .success()?;
        ensure!(below.path().join("written").exists(), "asked for");
        stage.daemon.finish()
    })
}

#[test]
fn mounts_travel_between_the_host_and_a_container() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let source = Tmpfs::mount(&scene.path("source"), "size=1m")?;
        let travels = |kind| mount(None::<&str>, source.path(), None::<&str>, kind, None::<&str>);
        let shared = format!("{}:/data:rshared", source.path().display());
        let slave = format!("{}:/data:rslave", source.path().display());
        travels(MsFlags::MS_PRIVATE)?;
        for (volume, words) in [
            (&shared, "not a shared mount"),
            (&slave, "not a shared or slave mount"),
        ] {
            stage
                .run(&["-v", volume], &["/bin/true"])?
                .code(125)?
                .failure(&[words])?;
        }
        travels(MsFlags::MS_SHARED)?;
        for (name, volume) in [("out", &shared), ("in", &slave)] {
            let flags = ["--privileged", "-v", volume];
            stage.start(name, &flags, &["/probe", "wait"], "ready")?;
        }
        let outside = source.path().join("from-inside");
        stage.daemon.ok(&[
            "exec",
            "out",
            "/bin/sh",
            "-c",
            "mkdir /data/from-inside && mount -t tmpfs none /data/from-inside",
        ])?;
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(
            table.contains(&format!(" {} ", outside.display())),
            "not on the host:\n{table}"
        );
        for name in ["out", "in"] {
            let table = stage.daemon.ok(&["exec", name, "/bin/cat", "/proc/mounts"])?;
            ensure!(table.stdout.contains(" /data/from-inside "), "{name}: {table}");
        }
        umount2(&outside, MntFlags::MNT_DETACH)?;
        stage.daemon.ok(&["rm", "-f", "out", "in"])?;
        stage.daemon.finish()
    })
}

#[test]
fn an_exec_has_its_containers_chance_when_memory_runs_out() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("web", &["--oom-score-adj", "500"], &["/probe", "wait"], "ready")?;
        let score = stage
            .daemon
            .ok(&["exec", "web", "/bin/cat", "/proc/self/oom_score_adj"])?;
        assert_eq!(score.text(), "500");
        stage.daemon.ok(&["rm", "-f", "web"])?;
        stage.daemon.finish()
    })
}

#[test]
fn the_entrypoint_can_be_replaced() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let output = stage
            .run(&["--entrypoint", "/bin/echo"], &["an", "argument"])?
            .success()?;
        assert_eq!(output.text(), "an argument");
        stage.daemon.finish()
    })
}

#[test]
fn a_read_only_container_cannot_be_written_to() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let answer = stage
            .run(&["--read-only"], &["/probe", "attempt", "write:/"])?
            .success()?
            .json()?;
        assert_eq!(answer["write:/"], "EROFS");
        let answer = stage
            .run(&[], &["/probe", "attempt", "write:/"])?
            .success()?
            .json()?;
        assert_eq!(answer["write:/"], "ok");
        stage.daemon.finish()
    })
}

#[test]
fn capabilities_are_added_and_dropped() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let report = stage.report(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"])?;
        assert_eq!(strings(&report["capabilities"]["effective"])?, ["CAP_NET_ADMIN"]);
        let report = stage.report(&["--cap-drop", "MKNOD"])?;
        let held = strings(&report["capabilities"]["effective"])?;
        ensure!(
            !held.contains(&"CAP_MKNOD") && held.len() == spec::DOCKER_CAPABILITIES.len() - 1,
            "{held:?}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn containers_do_not_see_each_others_writes() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage
            .run(&[], &["/bin/sh", "-c", "echo x > /mark; rm /etc/group"])?
            .success()?;
        let output = stage
            .run(&[], &["/bin/sh", "-c", "ls /mark; cat /etc/group"])?
            .success()?;
        ensure!(
            output.stderr.contains("/mark") && output.stdout.contains("extra"),
            "{output}"
        );
        stage.daemon.finish()
    })
}
