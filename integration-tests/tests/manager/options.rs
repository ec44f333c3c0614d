//! The flags of `run`.

use std::fs;

use anyhow::{Result, ensure};
use croze_integration_tests::{Scene, spec};
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
