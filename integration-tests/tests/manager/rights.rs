//! What is asked for more rarely: an init, memory file systems, devices, a privileged container, namespaces of others, and what is refused.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{ImageLayout, Scene, wait_until};
use serde_json::json;

use crate::{Stage, strings};

#[test]
fn an_init_reaps_forwards_and_ends_as_its_command_does() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
            stage.run(&["--init"], &["/bin/sh", "-c", script])?.code(code)?;
        }
        let report = stage.report(&["--init"])?;
        assert_eq!(report["ppid"], 1);
        ensure!(report["pid"] != 1, "{}", report["pid"]);
        stage.run(&["--init"], &["/no/such/command"])?.code(127)?;
        stage.run(&["--init"], &["/etc/passwd"])?.code(126)?;
        // Orphans come to the init and are reaped: nothing stays a zombie.
        let script = "/bin/sh -c '/bin/true & /bin/true &'; \
            while ps | grep -q 'Z  *\\[true\\]'; do :; done; echo none left";
        ensure!(
            stage
                .run(&["--init"], &["/bin/sh", "-c", script])?
                .success()?
                .text()
                == "none left",
            "a zombie stays"
        );
        stage.start("told", &["--init"], &["/probe", "wait"], "ready")?;
        stage.daemon.ok(&["stop", "told"])?;
        let facts = stage.daemon.inspect("told")?;
        assert_eq!(facts["State"]["ExitCode"], 0, "the signal came to the command");
        assert_eq!(facts["HostConfig"]["Init"], true);
        // So do those that most programs never meet.
        let script = "trap 'exit 9' ABRT; trap 'exit 8' TRAP; echo ready; sleep 1000 & wait";
        for (signal, code) in [("ABRT", "9"), ("TRAP", "8")] {
            stage.start(signal, &["--init"], &["/bin/sh", "-c", script], "ready")?;
            stage.daemon.ok(&["kill", "-s", signal, signal])?;
            assert_eq!(stage.daemon.ok(&["wait", signal])?.text(), code, "{signal}");
        }
        let tty = stage.run(
            &["--init", "-t"],
            &["/bin/sh", "-c", "read x < /dev/tty & stty size; echo $?"],
        )?;
        ensure!(
            tty.stdout.contains('0'),
            "the terminal's foreground is the command's: {tty}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn memory_file_systems_and_shared_memory_have_their_sizes() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let flags = [
            "--tmpfs",
            "/a:size=64k",
            "--mount",
            "type=tmpfs,target=/b/c,tmpfs-size=128k,tmpfs-mode=700",
        ];
        let output = stage.run(
            &[&flags[..], &["--shm-size", "1m"]].concat(),
            &[
                "/bin/sh",
                "-c",
                "stat -f -c '%b %s' /a /b/c /dev/shm; stat -c %a /b/c",
            ],
        )?;
        let text = output.success()?.text().to_owned();
        let mut sizes = Vec::new();
        for line in text.lines().take(3) {
            let (blocks, size) = line.split_once(' ').with_context(|| text.clone())?;
            sizes.push(blocks.parse::<u64>()? * size.parse::<u64>()?);
        }
        assert_eq!(sizes, [64 << 10, 128 << 10, 1 << 20], "{text}");
        ensure!(text.ends_with("700"), "{text}");
        stage.daemon.finish()
    })
}

#[test]
fn a_privileged_container_and_a_device() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let calls = ["/probe", "attempt", "mount", "open:/dev/kmsg"];
        let plain = stage.run(&[], &calls)?.success()?.json()?;
        assert_eq!(
            (&plain["mount"], &plain["open:/dev/kmsg"]),
            (&json!("EPERM"), &json!("ENOENT"))
        );
        let every = stage.run(&["--privileged"], &calls)?.success()?.json()?;
        assert_eq!(
            (&every["mount"], &every["open:/dev/kmsg"]),
            (&json!("ok"), &json!("ok"))
        );
        let one = stage
            .run(&["--device", "/dev/kmsg", "--cap-add", "SYSLOG"], &calls)?
            .success()?
            .json()?;
        assert_eq!(
            (&one["mount"], &one["open:/dev/kmsg"]),
            (&json!("EPERM"), &json!("ok"))
        );

        stage.start("plain", &[], &["/probe", "wait"], "ready")?;
        let inside = stage
            .daemon
            .ok(&["exec", "--privileged", "plain", "/probe"])?
            .json()?;
        ensure!(
            strings(&inside["capabilities"]["effective"])?.contains(&"CAP_SYS_ADMIN"),
            "{inside}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn processes_of_another_container_are_joined() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.start("first", &[], &["/probe", "wait"], "ready")?;
        let report = stage.report(&["--pid", "container:first"])?;
        ensure!(report["pid"].as_u64() > Some(1), "{}", report["pid"]);
        let other = stage.daemon.ok(&["exec", "first", "/probe"])?.json()?;
        assert_eq!(report["namespaces"]["pid"], other["namespaces"]["pid"]);
        // One that ends alone takes only its own processes with it.
        stage.start(
            "second",
            &["--pid", "container:first"],
            &["/probe", "children", "3"],
            "ready",
        )?;
        stage.daemon.ok(&["rm", "-f", "second"])?;
        assert_eq!(stage.daemon.inspect("first")?["State"]["Running"], true);
        let left = wait_until(
            "second's processes were gone",
            std::time::Duration::from_secs(10),
            || {
                let shown = stage.daemon.ok(&["exec", "first", "/bin/ps"])?;
                Ok((!shown.stdout.contains("children")).then_some(()))
            },
        );
        left?;
        stage.daemon.ok(&["stop", "first"])?;
        stage
            .run(&["--pid", "container:first"], &["/bin/true"])?
            .code(125)?
            .failure(&["first", "must run"])?;
        stage.daemon.finish()
    })
}

#[test]
fn what_contradicts_itself_or_cannot_be_is_refused_with_125() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let table: &[(&[&str], &[&str])] = &[
            (&["-m", "5m"], &["6 MiB"]),
            (&["-m", "64m", "--memory-swap", "32m"], &["--memory-swap"]),
            (
                &["-m", "64m", "--memory-reservation", "65m"],
                &["--memory-reservation"],
            ),
            (
                &["--cpus", "0.5", "--cpu-quota", "5000"],
                &["--cpus", "--cpu-quota"],
            ),
            (&["--cpuset-cpus", "4000"], &["available"]),
            (&["--oom-score-adj", "1001"], &["1000"]),
            (&["--ulimit", "files=1"], &["files"]),
            (&["--tmpfs", "/t:bogus"], &["bogus"]),
            (&["--tmpfs", "/t", "--tmpfs", "/t/"], &["same target"]),
            (
                &["--mount", "type=bind,source=/no/such/place,target=/t"],
                &["/no/such/place"],
            ),
            (&["--device", "/dev/no-such-device"], &["/dev/no-such-device"]),
            (
                &["--uts", "host", "--hostname", "x"],
                &["--hostname", "--uts host"],
            ),
            (&["--ipc", "container:x"], &["ipc"]),
            (&["--pid", "container:nobody"], &["nobody"]),
            (&["--userns", "auto"], &["userns"]),
            (&["--sysctl", "kernel.panic=1"], &["kernel.panic"]),
            (
                &["--network", "host", "--sysctl", "net.core.somaxconn=9"],
                &["--network host"],
            ),
            (&["--security-opt", "bogus"], &["no-new-privileges"]),
            (&["--security-opt", "seccomp=/no/such/file"], &["/no/such/file"]),
            (&["--security-opt", "label=type:x"], &["SELinux"]),
            (&["--group-add", "nogroup-here"], &["nogroup-here"]),
            (&["--volumes-from", "x"], &["volumes"]),
            (&["--restart", "always"], &["--restart"]),
            (&["--runtime", "nope"], &["nope", "there are"]),
            (
                &["--network", "none", "--add-host", "a:host-gateway"],
                &["host-gateway"],
            ),
            (&["--add-host", "a:gateway"], &["IP address or host-gateway"]),
            (&["--dns", "one"], &["IP address"]),
        ];
        for (flags, words) in table {
            stage.run(flags, &["/bin/true"])?.code(125)?.failure(words)?;
        }
        assert_eq!(
            stage.daemon.ok(&["ps", "-aq"])?.text(),
            "",
            "nothing is left of them"
        );
        stage.daemon.finish()
    })
}

#[test]
fn an_id_file_names_the_container_and_is_never_replaced() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let file = scene.path("cid");
        let name = file.to_string_lossy().into_owned();
        stage.daemon.ok(&["create", "--cidfile", &name, &stage.image])?;
        let id = std::fs::read_to_string(&file)?;
        assert_eq!(stage.daemon.container_ids()?, [id.as_str()]);
        stage
            .run(&["--cidfile", &name], &["/bin/true"])?
            .code(125)?
            .failure(&["container ID file found"])?;
        assert_eq!(std::fs::read_to_string(&file)?, id);
        std::fs::remove_file(&file)?;
        stage
            .run(&["--cidfile", &name, "-m", "1"], &["/bin/true"])?
            .code(125)?;
        ensure!(!file.exists(), "without a container there is no file");
        stage.daemon.finish()
    })
}

#[test]
fn a_profile_from_a_file_filters() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let file = scene.path("profile.json");
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] }],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "includes": {}, "excludes": {} },
                { "names": ["chroot"], "action": "SCMP_ACT_ERRNO", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            ],
        });
        std::fs::write(&file, profile.to_string())?;
        let option = format!("seccomp={}", file.display());
        let calls = ["/probe", "attempt", "mkdir", "chroot"];
        let answer = stage
            .run(&["--security-opt", &option], &calls)?
            .success()?
            .json()?;
        assert_eq!(answer, json!({ "mkdir": "EPERM", "chroot": "ok" }));
        stage.daemon.finish()
    })
}

#[test]
fn an_images_volume_is_part_of_the_container_and_inspect_says_so() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let config = json!({ "Cmd": ["/bin/true"], "Volumes": { "/data": {} } });
        let layout =
            ImageLayout::new(&[ImageLayout::small_tar(scene)?], &config)?.write(scene, "vol", "latest")?;
        stage.registry.push(&layout, "latest", "vol:latest")?;
        let image = stage.registry.reference("vol:latest");
        stage.daemon.ok(&["run", "--name", "vol", &image])?;
        let facts = stage.daemon.inspect("vol")?;
        assert_eq!(facts["Config"]["Volumes"], json!({ "/data": {} }));
        let note = facts["Notes"][0].as_str().context("a note")?;
        ensure!(
            note.contains("/data") && note.contains("writable layer"),
            "{note}"
        );
        stage.daemon.finish()
    })
}
