//! Commands and their flags: create, run, start, state, kill, delete, list, ps, pause, resume, events, features, spec; global flags.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{is_alive, spec, wait_until};
use serde_json::{Value, json};

use crate::case::Case;
use crate::console::Receiver;
use crate::stage::Stage;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = global();
    cases.extend(create_and_run());
    cases.extend(runs());
    cases.extend(life());
    cases.extend(ends());
    cases.extend(listings());
    cases.extend(documents());
    cases
}

fn global() -> Vec<Case> {
    vec![
        Case::script("--version", |stage| {
            let text = stage.runtime.call(&["--version"])?.success()?.stdout;
            ensure!(
                text.lines().next().is_some_and(|line| line.contains(" version ")),
                "{text}"
            );
            ensure!(text.contains("commit: ") && text.contains("spec: "), "{text}");
            Ok(())
        }),
        Case::script("--help", |stage| stage.call(&["--help"]).map(drop)),
        Case::script("--root", |stage| {
            let id = stage.waiting()?;
            ensure!(
                stage.runtime.root().join(&id).exists(),
                "the state is below --root"
            );
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("--log, --log-format json", |stage| {
            let log = stage.scene.path("log.json");
            let name = log.display().to_string();
            stage
                .runtime
                .call(&["--log", &name, "--log-format", "json", "start", "nobody"])?
                .failure(&["does not exist"])?;
            let text = fs::read_to_string(&log)?;
            let last: Value = serde_json::from_str(text.lines().last().context("a line")?)?;
            ensure!(
                last["level"] == "error" && last["msg"].is_string() && last["time"].is_string(),
                "{last}"
            );
            Ok(())
        }),
        Case::script("--log, --log-format text", |stage| {
            let log = stage.scene.path("log.txt");
            let name = log.display().to_string();
            stage
                .runtime
                .call(&["--log", &name, "--log-format", "text", "start", "nobody"])?
                .failure(&[])?;
            ensure!(
                fs::read_to_string(&log)?.contains("does not exist"),
                "the log names the reason"
            );
            Ok(())
        }),
        Case::script("--log of a wrong command line", |stage| {
            let log = stage.scene.path("log.json");
            let name = log.display().to_string();
            stage
                .runtime
                .call(&["--log", &name, "--log-format", "json", "state", "--dream"])?
                .failure(&[])?;
            let text = fs::read_to_string(&log)?;
            let last: Value = serde_json::from_str(text.lines().last().context("a line")?)?;
            ensure!(
                last["level"] == "error" && last["msg"].as_str().is_some_and(|text| text.contains("dream")),
                "{last}"
            );
            Ok(())
        }),
        Case::script("--log-format json without a log", |stage| {
            let output = stage
                .runtime
                .call(&["--log-format", "json", "start", "nobody"])?
                .failure(&["does not exist"])?;
            let line: Value = serde_json::from_str(output.stderr.lines().last().context("a line")?)?;
            ensure!(line["level"] == "error", "{line}");
            Ok(())
        }),
        Case::script("a flag that is given twice", |stage| {
            let other = stage.directory("other")?.display().to_string();
            let id = stage.waiting()?;
            let root = stage.runtime.root().display().to_string();
            let mut command = std::process::Command::new(stage.runtime.program());
            command.args(["--root", &other, "--root", &root, "state", &id]);
            stage.scene.run(command)?.success()?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("--debug", |stage| {
            let log = stage.scene.path("log.txt").display().to_string();
            stage.call(&["--debug", "--log", &log, "list"]).map(drop)
        }),
        Case::script("unknown command", |stage| {
            stage.runtime.call(&["dream"])?.failure(&[]).map(drop)
        }),
        Case::script("unknown flag", |stage| {
            stage.runtime.call(&["list", "--dream"])?.failure(&[]).map(drop)
        }),
    ]
}

fn create_and_run() -> Vec<Case> {
    vec![
        Case::script("create --bundle", |stage| {
            let id = stage.start(&spec::docker_like(&["/probe", "wait"]))?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("create in the bundle's directory", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "wait"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.command(&["create", &id]);
            command.current_dir(bundle.directory());
            stage.scene.run(command)?.success()?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("create --pid-file", |stage| {
            let file = stage.scene.path("pid");
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "wait"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.open_command("create", &bundle);
            command.arg("--pid-file").arg(&file).arg(&id);
            stage.scene.run(command)?.success()?;
            let written: i32 = fs::read_to_string(&file)?.trim().parse()?;
            ensure!(written == stage.runtime.pid(&id)?, "{written}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("create --pidfd-socket", |stage| {
            let receiver = Receiver::new(stage, "pidfd.sock")?;
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "wait"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.open_command("create", &bundle);
            command.args(["--pidfd-socket", &receiver.path(), &id]);
            stage.scene.run(command)?.success()?;
            let (_, descriptor) = receiver.receive()?;
            rustix::process::pidfd_send_signal(&descriptor, rustix::process::Signal::KILL)?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            stage.call(&["delete", &id]).map(drop)
        }),
        Case::script("run --no-pivot", |stage| with_flags(stage, &["--no-pivot"])),
        Case::script("run --no-new-keyring", |stage| {
            with_flags(stage, &["--no-new-keyring"])
        }),
        Case::script("run --no-subreaper", |stage| {
            with_flags(stage, &["--no-subreaper"])
        }),
        Case::script("run --preserve-fds", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/probe"]))?;
            let script = format!(
                "exec 3</etc/passwd 4</etc/group 9</etc/hostname; exec {} --root {} run --preserve-fds 2 --bundle {} {}",
                stage.runtime.program().display(),
                stage.runtime.root().display(),
                bundle.directory().display(),
                stage.next_id(),
            );
            let report = stage.scene.call(&["sh", "-c", &script])?.success()?.json()?;
            let numbers: Vec<&String> = report["fds"]
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys())
                .collect();
            ensure!(numbers == ["0", "1", "2", "3", "4"], "{numbers:?}");
            Ok(())
        }),
    ]
}

fn runs() -> Vec<Case> {
    vec![
        Case::script("run --detach", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "wait"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.open_command("run", &bundle);
            command.args(["--detach", &id]);
            stage.scene.run(command)?.success()?;
            ensure!(stage.runtime.state(&id)?["status"] == "running", "it runs");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("run --keep", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.open_command("run", &bundle);
            command.args(["--keep", &id]);
            stage.scene.run(command)?.success()?;
            ensure!(
                stage.runtime.state(&id)?["status"] == "stopped",
                "it is still there"
            );
            stage.call(&["delete", &id]).map(drop)
        }),
        Case::new("run ends with the process' code")
            .args(&["/probe", "exit", "7"])
            .ends(7),
        Case::new("run ends with 128 + the signal")
            .args(&["/bin/sh", "-c", "/probe raise 15; exit $?"])
            .ends(143),
        Case::script("create of an id that is taken", |stage| {
            let id = stage.waiting()?;
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            stage.runtime.run(&bundle, &id)?.failure(&["exist"])?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("create of an id that is no name", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            for id in ["../up", "a/b", ".", ""] {
                stage.runtime.run(&bundle, id)?.failure(&[])?;
            }
            Ok(())
        }),
    ]
}

fn with_flags(stage: &Stage<'_>, flags: &[&str]) -> Result<()> {
    let report = stage
        .run_with(&spec::docker_like(&["/probe"]), flags)?
        .success()?
        .json()?;
    ensure!(report["pid"] == 1 && report["hostname"] == "inside", "{report}");
    Ok(())
}

fn life() -> Vec<Case> {
    vec![
        Case::script("state", |stage| {
            let id = stage.waiting()?;
            let state = stage.runtime.state(&id)?;
            for key in ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created"] {
                ensure!(!state[key].is_null(), "{key} in {state}");
            }
            ensure!(is_alive(stage.runtime.pid(&id)?), "{state}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("state: created, running, stopped with pid 0", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "wait"]))?;
            let id = stage.next_id();
            stage.runtime.create(&bundle, &id)?;
            ensure!(stage.runtime.state(&id)?["status"] == "created", "created");
            stage.call(&["start", &id])?;
            ensure!(stage.runtime.state(&id)?["status"] == "running", "running");
            stage.runtime.call(&["start", &id])?.failure(&[])?;
            stage.call(&["kill", &id, "KILL"])?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            ensure!(stage.runtime.state(&id)?["pid"] == 0, "no pid");
            stage.call(&["delete", &id])?;
            stage
                .runtime
                .call(&["state", &id])?
                .failure(&["does not exist"])
                .map(drop)
        }),
        Case::script("kill by SIGname, name and number", |stage| {
            for signal in ["SIGTERM", "TERM", "15", "term"] {
                let id = stage.waiting()?;
                stage.call(&["kill", &id, signal])?;
                stage.runtime.wait_for_status(&id, "stopped")?;
                stage.call(&["delete", &id])?;
            }
            Ok(())
        }),
        Case::script("kill without a signal", |stage| {
            let id = stage.waiting()?;
            stage.call(&["kill", &id])?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            stage.call(&["delete", &id]).map(drop)
        }),
        Case::script("kill --all", |stage| {
            let mut config = spec::docker_like(&["/probe", "children", "2"]);
            // Without a pid namespace nothing else ends them.
            config["linux"]["namespaces"] =
                json!([{ "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "network" }]);
            let id = stage.start(&config)?;
            stage.call(&["kill", "--all", &id, "KILL"])?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            stage.call(&["delete", &id]).map(drop)
        }),
        Case::script("kill of an unknown signal", |stage| {
            let id = stage.waiting()?;
            stage.runtime.call(&["kill", &id, "DREAM"])?.failure(&[])?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("kill of a stopped container", |stage| {
            let id = stage.waiting()?;
            stage.call(&["kill", &id, "KILL"])?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            stage
                .runtime
                .call(&["kill", &id, "TERM"])?
                .failure(&["container not running"])?;
            stage.call(&["delete", &id]).map(drop)
        }),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        Case::script("delete of a running container", |stage| {
            let id = stage.waiting()?;
            stage.runtime.call(&["delete", &id])?.failure(&[])?;
            ensure!(stage.runtime.state(&id)?["status"] == "running", "it still runs");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("delete --force", |stage| {
            let id = stage.waiting()?;
            let pid = stage.runtime.pid(&id)?;
            stage.runtime.delete_by_force(&id)?;
            wait_until("it is gone", Duration::from_secs(5), || {
                Ok((!is_alive(pid)).then_some(()))
            })
        }),
        Case::script("delete --force of an unknown id", |stage| {
            stage.runtime.delete_by_force("nobody")
        }),
        Case::script("delete of an unknown id", |stage| {
            stage
                .runtime
                .call(&["delete", "nobody"])?
                .failure(&["does not exist"])
                .map(drop)
        }),
        Case::script("delete of a created container", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            let id = stage.next_id();
            stage.runtime.create(&bundle, &id)?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("pause, resume", |stage| {
            let id = stage.waiting()?;
            stage.call(&["pause", &id])?;
            ensure!(stage.runtime.state(&id)?["status"] == "paused", "paused");
            stage.call(&["resume", &id])?;
            ensure!(stage.runtime.state(&id)?["status"] == "running", "running");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("delete --force of a paused container", |stage| {
            let id = stage.waiting()?;
            stage.call(&["pause", &id])?;
            stage.runtime.delete_by_force(&id)
        }),
    ]
}

fn listings() -> Vec<Case> {
    vec![
        Case::script("list", |stage| {
            let id = stage.waiting()?;
            let table = stage.call(&["list"])?.stdout;
            ensure!(
                table
                    .lines()
                    .next()
                    .is_some_and(|head| head.starts_with("ID") || head.starts_with("NAME")),
                "{table}"
            );
            ensure!(table.contains(&id) && table.contains("running"), "{table}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("list --quiet", |stage| {
            let id = stage.waiting()?;
            ensure!(stage.call(&["list", "-q"])?.text() == id, "the id alone");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("list --format json", |stage| {
            let id = stage.waiting()?;
            let list = stage.call(&["list", "--format", "json"])?.json()?;
            ensure!(
                list[0]["id"] == json!(id) && list[0]["status"] == "running",
                "{list}"
            );
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("ps", |stage| {
            let id = stage.waiting()?;
            let pid = stage.runtime.pid(&id)?.to_string();
            let table = stage.call(&["ps", &id])?.stdout;
            ensure!(table.contains("PID") && table.contains(&pid), "{table}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("ps --format json", |stage| {
            let id = stage.waiting()?;
            let list = stage.call(&["ps", "--format", "json", &id])?.json()?;
            ensure!(list == json!([stage.runtime.pid(&id)?]), "{list}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("ps with arguments of its own", |stage| {
            let id = stage.waiting()?;
            let table = stage.call(&["ps", &id, "-o", "pid,comm"])?.stdout;
            ensure!(table.lines().count() == 2, "{table}");
            // A flag that we have too, but not without a value.
            let table = stage.call(&["ps", &id, "-f"])?.stdout;
            ensure!(table.starts_with("UID") && table.lines().count() == 2, "{table}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("events --stats", |stage| {
            let id = stage.waiting()?;
            let event = stage.call(&["events", "--stats", &id])?.json()?;
            ensure!(event["type"] == "stats" && event["id"] == json!(id), "{event}");
            for pointer in [
                "/data/cpu/usage/total",
                "/data/memory/usage/usage",
                "/data/pids/current",
            ] {
                ensure!(
                    event.pointer(pointer).is_some_and(Value::is_u64),
                    "{pointer} in {event}"
                );
            }
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("events --interval", |stage| {
            let id = stage.waiting()?;
            let events = stage
                .scene
                .start(stage.runtime.command(&["events", "--interval", "100ms", &id]))?;
            wait_until("two events came", Duration::from_secs(20), || {
                Ok((events.stdout().lines().count() >= 2).then_some(()))
            })?;
            stage.runtime.delete_by_force(&id)?;
            events.wait(Duration::from_secs(20)).map(drop)
        }),
    ]
}

fn documents() -> Vec<Case> {
    vec![
        Case::script("features", |stage| {
            let features = stage
                .scene
                .call(&[stage.runtime.program().as_os_str(), "features".as_ref()])?
                .success()?
                .json()?;
            ensure!(
                features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(),
                "{features}"
            );
            let options = features["mountOptions"].as_array().context("mountOptions")?;
            ensure!(options.contains(&json!("rro")), "{features}");
            ensure!(
                features["linux"]["mountExtensions"]["idmap"]["enabled"] == true,
                "{features}"
            );
            Ok(())
        }),
        Case::script("spec", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            fs::remove_file(bundle.directory().join("config.json"))?;
            let mut command = stage.runtime.command(&["spec"]);
            command.current_dir(bundle.directory());
            stage.scene.run(command)?.success()?;
            let mut written: Value =
                serde_json::from_slice(&fs::read(bundle.directory().join("config.json"))?)?;
            written["process"]["terminal"] = json!(false);
            written["process"]["args"] = json!(["/probe"]);
            bundle.write(&written.to_string())?;
            let report = stage.runtime.run(&bundle, &stage.next_id())?.success()?.json()?;
            ensure!(report["pid"] == 1, "{report}");
            Ok(())
        }),
        Case::script("spec --bundle", |stage| {
            let directory = stage.directory("fresh")?;
            stage.call(&["spec", "--bundle", &directory.display().to_string()])?;
            ensure!(directory.join("config.json").exists(), "it is written there");
            Ok(())
        }),
        Case::script("spec --rootless", |stage| {
            let directory = stage.directory("fresh")?;
            stage.call(&["spec", "--rootless", "--bundle", &directory.display().to_string()])?;
            let written: Value = serde_json::from_slice(&fs::read(directory.join("config.json"))?)?;
            ensure!(written["linux"]["uidMappings"][0]["size"] == 1, "{written}");
            ensure!(
                written["linux"]["namespaces"]
                    .as_array()
                    .is_some_and(|all| all.contains(&json!({ "type": "user" }))),
                "{written}"
            );
            Ok(())
        }),
        Case::script("spec where one is already", |stage| {
            let directory = stage.directory("fresh")?;
            fs::write(directory.join("config.json"), "kept")?;
            stage
                .runtime
                .call(&["spec", "--bundle", &directory.display().to_string()])?
                .failure(&[])?;
            ensure!(
                fs::read_to_string(directory.join("config.json"))? == "kept",
                "it is untouched"
            );
            Ok(())
        }),
    ]
}
