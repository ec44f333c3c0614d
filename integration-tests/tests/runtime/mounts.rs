//! Mounts: every kind and option that managers generate, and paths that try to leave the root directory.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, cgroups_are_unified, spec};
use serde_json::{Value, json};

use crate::{is_croze, mount_line, run_json};

/// What is asked for, and words that the mount table's line must have, or must not have (with a `!` before them).
struct Case {
    name: &'static str,
    mount: Value,
    expected: &'static [&'static str],
}

/// Whether a line of the mount table has an option, in either of its two lists, or a word such as `shared:3`.
fn has_word(line: &str, wanted: &str) -> bool {
    line.split([' ', ','])
        .any(|word| word == wanted || word.starts_with(&format!("{wanted}:")))
}

fn cases(source: &str) -> Vec<Case> {
    let bind = |options: &[&str]| json!({ "destination": "/mnt/x", "type": "bind", "source": source, "options": options });
    let tmpfs = |options: &[&str]| json!({ "destination": "/mnt/x", "type": "tmpfs", "source": "tmpfs", "options": options });
    let case = |name, mount, expected| Case {
        name,
        mount,
        expected,
    };
    vec![
        case(
            "tmpfs",
            tmpfs(&["nosuid", "nodev", "mode=755", "size=1m"]),
            &["nosuid", "nodev", "size=1024k", "mode=755", "rw"],
        ),
        case("tmpfs-ro", tmpfs(&["ro", "noexec"]), &["ro", "noexec", "!nosuid"]),
        case("tmpfs-atime", tmpfs(&["noatime"]), &["noatime"]),
        case(
            "tmpfs-strictatime",
            tmpfs(&["strictatime"]),
            &["!relatime", "!noatime"],
        ),
        case("bind", bind(&["bind"]), &["rw", "!ro"]),
        case("bind-ro", bind(&["bind", "ro"]), &["ro"]),
        case(
            "bind-flags",
            bind(&["bind", "nosuid", "nodev", "noexec"]),
            &["nosuid", "nodev", "noexec", "rw"],
        ),
        case("rbind", bind(&["rbind", "rw"]), &["rw"]),
        case(
            "rbind-ro",
            bind(&["rbind", "ro", "rprivate"]),
            &["ro", "!shared", "!master"],
        ),
        case("shared", bind(&["bind", "shared"]), &["shared"]),
        case("rshared", bind(&["rbind", "rshared"]), &["shared"]),
        case("private", bind(&["bind", "private"]), &["!shared", "!master"]),
        case("unbindable", bind(&["bind", "unbindable"]), &["unbindable"]),
        case(
            "proc",
            json!({ "destination": "/mnt/x", "type": "proc", "source": "proc", "options": ["nosuid"] }),
            &["nosuid", "proc"],
        ),
        case(
            "sysfs",
            json!({ "destination": "/mnt/x", "type": "sysfs", "source": "sysfs", "options": ["ro"] }),
            &["sysfs", "ro"],
        ),
        case(
            "mqueue",
            json!({ "destination": "/mnt/x", "type": "mqueue", "source": "mqueue" }),
            &["mqueue"],
        ),
    ]
}

#[test]
fn mounts_have_the_type_and_the_options_asked_for() -> Result<()> {
    Scene::play(|scene| {
        let source = scene.new_directory("source")?;
        for Case {
            name,
            mount,
            expected,
        } in cases(&source.to_string_lossy())
        {
            let mut config = spec::docker_like(&["/probe"]);
            spec::append(&mut config, "/mounts", mount)?;
            let report = run_json(scene, name, &config)?;
            let line = mount_line(&report, "/mnt/x")?;
            for word in expected {
                let (wanted, there) = word.strip_prefix('!').map_or((*word, true), |word| (word, false));
                assert_eq!(has_word(line, wanted), there, "{name}: {word:?} in {line}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_mounts_that_engines_generate_are_all_there() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "all", &spec::docker_like(&["/probe"]))?;
        let table = [
            ("/proc", "proc"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/sys", "sysfs"),
            ("/dev/mqueue", "mqueue"),
            ("/dev/shm", "tmpfs"),
        ];
        for (point, kind) in table {
            let line = mount_line(&report, point)?;
            ensure!(line.contains(&format!(" - {kind} ")), "{point}: {line}");
        }
        let below_cgroup = report["mountinfo"].as_array().map(|lines| {
            lines
                .iter()
                .filter(|line| {
                    line.as_str()
                        .is_some_and(|line| line.contains(" /sys/fs/cgroup/"))
                })
                .count()
        });
        if cgroups_are_unified() {
            let line = mount_line(&report, "/sys/fs/cgroup")?;
            ensure!(line.contains(" - cgroup2 "), "{line}");
            return Ok(());
        }
        ensure!(
            below_cgroup > Some(3),
            "hierarchies are shown below /sys/fs/cgroup: {below_cgroup:?}"
        );
        Ok(())
    })
}

#[test]
fn no_mount_of_the_host_is_left_inside() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "clean", &spec::docker_like(&["/probe"]))?;
        let points: Vec<&str> = report["mountinfo"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|line| line.as_str()?.split(' ').nth(4))
            .collect();
        for point in &points {
            let known = *point == "/" || ["/proc", "/dev", "/sys"].iter().any(|top| point.starts_with(top));
            ensure!(known, "{point} is mounted inside: {points:?}");
        }
        Ok(())
    })
}

#[test]
fn a_file_is_bound_and_its_mount_point_made() -> Result<()> {
    Scene::play(|scene| {
        let source = scene.path("file");
        fs::write(&source, "content\n")?;
        let mut config = spec::docker_like(&["/bin/cat", "/a/new/place"]);
        let mount = json!({ "destination": "/a/new/place", "type": "bind", "source": source, "options": ["bind", "ro"] });
        spec::append(&mut config, "/mounts", mount)?;
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "file-bind", &config)?;
        let output = runtime.run(&bundle, &scene.id("file"))?.success()?;
        assert_eq!(output.text(), "content");
        Ok(())
    })
}

#[test]
fn a_recursive_bind_shows_what_is_mounted_below() -> Result<()> {
    Scene::play(|scene| {
        let source = scene.new_directory("tree")?;
        fs::create_dir(source.join("below"))?;
        let mount = |target: &std::path::Path| {
            scene
                .call(&["mount", "-t", "tmpfs", "tmpfs", &target.to_string_lossy()])?
                .success()
        };
        mount(&source.join("below"))?;
        fs::write(source.join("below/mark"), "deep\n")?;
        for (options, shown) in [(json!(["rbind"]), true), (json!(["bind"]), false)] {
            let mut config = spec::docker_like(&["/bin/ls", "/mnt/x/below"]);
            let mount =
                json!({ "destination": "/mnt/x", "type": "bind", "source": source, "options": options });
            spec::append(&mut config, "/mounts", mount)?;
            let runtime = Runtime::new(scene)?;
            let name = if shown { "deep" } else { "flat" };
            let bundle = Bundle::new(scene, name, &config)?;
            let output = runtime.run(&bundle, &scene.id(name))?.success()?;
            assert_eq!(output.text() == "mark", shown, "{options}");
        }
        scene
            .call(&["umount", &source.join("below").to_string_lossy()])?
            .success()
            .map(drop)
    })
}

#[test]
fn a_read_only_root_refuses_writes() -> Result<()> {
    Scene::play(|scene| {
        for (readonly, expected) in [(true, "EROFS"), (false, "ok")] {
            let mut config = spec::docker_like(&["/probe", "attempt", "write:/"]);
            config["root"]["readonly"] = json!(readonly);
            let answer = run_json(scene, &format!("readonly-{readonly}"), &config)?;
            assert_eq!(answer["write:/"], expected);
        }
        Ok(())
    })
}

#[test]
fn masked_and_read_only_paths_hold() -> Result<()> {
    Scene::play(|scene| {
        let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; ls /secret | wc -l; \
                      echo x > /proc/sys/kernel/domainname && echo open; \
                      echo x > /data/file && echo open; cat /data/kept";
        let mut config = spec::docker_like(&["/bin/sh", "-c", script]);
        spec::append(&mut config, "/linux/maskedPaths", json!("/secret"))?;
        spec::append(&mut config, "/linux/maskedPaths", json!("/not/there"))?;
        spec::append(&mut config, "/linux/readonlyPaths", json!("/data"))?;
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "masks", &config)?;
        fs::create_dir(bundle.rootfs("secret"))?;
        fs::write(bundle.rootfs("secret/key"), "hidden")?;
        fs::create_dir(bundle.rootfs("data"))?;
        fs::write(bundle.rootfs("data/kept"), "readable\n")?;
        let output = runtime.run(&bundle, &scene.id("masks"))?.success()?;
        let lines: Vec<&str> = output.stdout.lines().map(str::trim).collect();
        assert_eq!(lines, ["0", "0", "0", "readable"], "{output}");
        Ok(())
    })
}

#[test]
fn the_root_directory_propagates_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let ours = is_croze(&Runtime::new(scene)?);
        for (propagation, word) in [("shared", "shared"), ("private", "!shared"), ("slave", "!shared")] {
            if propagation == "shared" && !ours {
                // runc 1.1 changes the root's propagation before the root's own mount is made.
                continue;
            }
            let mut config = spec::docker_like(&["/probe"]);
            config["linux"]["rootfsPropagation"] = json!(propagation);
            let report = run_json(scene, &format!("root-{propagation}"), &config)?;
            let line = mount_line(&report, "/")?;
            let (wanted, there) = word.strip_prefix('!').map_or((word, true), |word| (word, false));
            assert_eq!(has_word(line, wanted), there, "{propagation}: {line}");
        }
        Ok(())
    })
}

#[test]
fn a_mount_destination_that_is_a_symlink_stays_inside() -> Result<()> {
    Scene::play(|scene| {
        let outside = scene.new_directory("outside")?;
        let mut config = spec::docker_like(&["/bin/true"]);
        let mount = json!({ "destination": "/trap/made", "type": "tmpfs", "source": "tmpfs" });
        spec::append(&mut config, "/mounts", mount)?;
        let runtime = Runtime::new(scene)?;
        for (name, target) in [
            ("absolute", outside.clone()),
            ("climbing", "../../outside".into()),
        ] {
            let bundle = Bundle::new(scene, name, &config)?;
            symlink(&target, bundle.rootfs("trap"))?;
            // Whether it is resolved inside or refused: nothing is made outside.
            runtime.run(&bundle, &scene.id(name))?;
            assert_eq!(fs::read_dir(&outside)?.count(), 0, "{name}");
        }
        Ok(())
    })
}

#[test]
fn proc_is_not_mounted_on_a_symlink() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "proc-link", &spec::docker_like(&["/bin/true"]))?;
        fs::remove_dir(bundle.rootfs("proc"))?;
        fs::create_dir(bundle.rootfs("elsewhere"))?;
        symlink("elsewhere", bundle.rootfs("proc"))?;
        runtime
            .run(&bundle, &scene.id("proc-link"))?
            .failure(&["proc"])
            .map(drop)
    })
}
