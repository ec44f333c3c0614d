//! A newcomer's mistakes: what was meant is guessed where it can be, and what is not there yet is said. docs/first-contact.md has them all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Scene, bin, runtime_under_test};

use crate::Stage;

#[test]
fn a_name_that_is_almost_right_is_guessed() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let daemon = &stage.daemon;
        daemon.ok(&["create", "--name", "web", &stage.image, "/probe", "wait"])?;
        for words in [
            &["stop", "wbe"][..],
            &["logs", "webb"],
            &["exec", "wep", "true"],
            &["run", "--network", "container:wbe", &stage.image, "true"],
        ] {
            daemon.croze(words)?.failure(&["did you mean web?"])?;
        }
        let far = daemon.croze(&["stop", "database"])?.failure(&["database"])?;
        ensure!(!far.stderr.contains("did you mean"), "{far}");
        let (misspelled, other_tag) = (
            stage.registry.reference("smal:latest"),
            stage.registry.reference("small:old"),
        );
        let meant = format!("did you mean {}?", stage.image);
        for wanted in [&misspelled, &other_tag] {
            daemon.croze(&["rmi", wanted])?.failure(&[&meant])?;
            daemon
                .croze(&["run", "--pull", "never", wanted, "true"])?
                .code(125)?
                .failure(&[&meant])?;
            // The registry has none of that name either: what is here is told beside what it says.
            let here = format!("there is {} on this machine", stage.image);
            daemon
                .croze(&["run", wanted, "true"])?
                .code(125)?
                .failure(&["check the spelling", &here])?;
        }
        daemon.ok(&["rm", "web"])?;
        daemon.finish()
    })
}

/// A file, what `run` ends with when it is the command, and what is said.
const FILES: [(&str, &[u8], i32, &str); 6] = [
    (
        "bash",
        b"#!/bin/bash\necho hello\n",
        127,
        "its interpreter \"/bin/bash\" is not there",
    ),
    (
        "crlf",
        b"#!/bin/sh\r\necho hello\r\n",
        127,
        "its first line ends in CR LF",
    ),
    (
        "bare",
        b"echo hello\n",
        126,
        "neither a program nor a script that begins with #!",
    ),
    ("empty", b"", 126, "it is empty"),
    (
        "marked",
        b"\xef\xbb\xbf#!/bin/sh\necho hello\n",
        126,
        "a byte order mark stands before its #!",
    ),
    ("foreign", b"", 126, "it is built for s390x"),
];

#[test]
fn a_file_that_cannot_be_executed_says_why() -> Result<()> {
    if runtime_under_test()? != bin("croze-rt")? {
        eprintln!("not judged: only croze-rt looks into the file");
        return Ok(());
    }
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let files = scene.new_directory("files")?;
        for (name, content, ..) in FILES {
            let path = files.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        // This machine's own probe, said to be another machine's (elf(5): e_machine).
        let mut foreign = fs::read(bin("croze-probe")?)?;
        foreign[18..20].copy_from_slice(&22_u16.to_le_bytes());
        fs::write(files.join("foreign"), foreign)?;
        let volume = format!("{}:/files:ro", files.to_str().context("a path of text")?);
        stage.start("web", &["-v", &volume], &["/probe", "wait"], "ready")?;
        for (name, _, code, said) in FILES {
            let command = format!("/files/{name}");
            stage
                .run(&["-v", &volume], &[&command])?
                .code(code)?
                .failure(&[&command, said, "hint:"])?;
            stage
                .daemon
                .croze(&["exec", "web", &command])?
                .code(code)?
                .failure(&[&command, said])?;
        }
        // docker's rule is that flags end at the image; who forgets it is told so.
        stage
            .run(&[], &["-it", "sh"])?
            .code(127)?
            .failure(&["options stand before the image"])?;
        stage
            .run(&[], &["/bin"])?
            .code(126)?
            .failure(&["permission denied: it is a directory"])?;
        // A filter that ends whoever opens a file costs the reason, not the message.
        let profile = scene.path("no-open.json");
        fs::write(
            &profile,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["open", "openat", "openat2"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        )?;
        let filter = format!("seccomp={}", profile.display());
        let output = stage
            .run(&["-v", &volume, "--security-opt", &filter], &["/files/bash"])?
            .code(127)?
            .failure(&["no such file or directory"])?;
        ensure!(!output.stderr.contains("its interpreter \""), "{output}");
        stage.daemon.ok(&["rm", "-f", "web"])?;
        stage.daemon.finish()
    })
}

#[test]
fn stop_takes_a_signal_and_rm_volumes() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let daemon = &stage.daemon;
        stage.start("web", &[], &["/probe", "wait"], "ready")?;
        daemon
            .croze(&["stop", "--signal", "NOPE", "web"])?
            .code(1)?
            .failure(&["NOPE"])?;
        daemon.ok(&["stop", "-s", "HUP", "-t", "30", "web"])?;
        let log = daemon.ok(&["logs", "web"])?.stdout;
        ensure!(log.contains("got SIGHUP"), "{log}");
        ensure!(
            daemon.inspect("web")?["State"]["ExitCode"] == 0,
            "it ended by itself"
        );
        daemon.ok(&["rm", "-v", "web"])?;
        daemon.finish()
    })
}

#[test]
fn what_is_not_there_yet_is_said_and_nothing_is_made() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for flags in [
            &["--health-cmd", "true"][..],
            &["--log-driver", "none"],
            &["--log-opt=max-size=1m"],
            &["--link", "db"],
            &["--gpus", "all"],
            &["--restart", "always"],
            &["--volumes-from", "db"],
            &["-v", "data:/data"],
        ] {
            stage
                .run(flags, &["true"])?
                .code(125)?
                .failure(&["yet"])
                .with_context(|| format!("{flags:?}"))?;
        }
        ensure!(stage.daemon.ok(&["ps", "-aq"])?.text().is_empty());
        // What these ask for is the case.
        stage.run(&["--no-healthcheck", "-q"], &["true"])?.success()?;
        stage.daemon.finish()
    })
}
