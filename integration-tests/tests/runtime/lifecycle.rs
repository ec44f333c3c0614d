//! The life of a container: states, signals, exit codes, what is printed of it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Ended, Runtime, Scene, is_alive, spec, wait_until};
use serde_json::{Value, json};

/// Waits until the container has printed a line with this word.
fn wait_for_word(process: &croze_integration_tests::Process, word: &str) -> Result<String> {
    wait_until(
        &format!("the container printed {word:?}"),
        Duration::from_secs(10),
        || {
            let stdout = process.stdout();
            Ok(stdout.contains(word).then_some(stdout))
        },
    )
}

#[test]
fn a_container_goes_from_created_to_running_to_stopped() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/probe", "wait"]);
        config["annotations"] = json!({ "org.example.note": "kept" });
        let bundle = Bundle::new(scene, "life", &config)?;
        let id = scene.id("life");

        let process = runtime.create(&bundle, &id)?;
        let state = runtime.state(&id)?;
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], json!(id));
        assert_eq!(state["bundle"], json!(bundle.directory()));
        assert_eq!(state["annotations"]["org.example.note"], "kept");
        ensure!(
            state["ociVersion"]
                .as_str()
                .is_some_and(|version| version.starts_with("1.")),
            "{state}"
        );
        let pid = runtime.pid(&id)?;
        ensure!(is_alive(pid), "the process {pid} is there before start");
        assert_eq!(process.stdout(), "", "nothing of the user's runs before start");

        runtime.call(&["start", &id])?.success()?;
        wait_for_word(&process, "ready")?;
        assert_eq!(runtime.state(&id)?["status"], "running");
        assert_eq!(runtime.pid(&id)?, pid, "the process stays the same");

        runtime.call(&["kill", &id, "TERM"])?.success()?;
        runtime.wait_for_status(&id, "stopped")?;
        assert_eq!(runtime.state(&id)?["pid"], 0);
        runtime.call(&["delete", &id])?.success()?;
        runtime
            .call(&["state", &id])?
            .failure(&["does not exist"])
            .map(drop)
    })
}

#[test]
fn run_ends_with_the_processs_own_code() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let table: [(&str, &[&str], i32); 5] = [
            ("zero", &["/probe", "exit", "0"], 0),
            ("seven", &["/probe", "exit", "7"], 7),
            ("most", &["/probe", "exit", "255"], 255),
            ("shell", &["/bin/sh", "-c", "exit 42"], 42),
            ("signal", &["/probe", "raise", "9"], 137),
        ];
        for (name, arguments, code) in table {
            let mut config = spec::docker_like(arguments);
            // The first process of a pid namespace cannot kill itself, so it is given none.
            config["linux"]["namespaces"] =
                json!([{ "type": "mount" }, { "type": "network" }, { "type": "uts" }]);
            let bundle = Bundle::new(scene, name, &config)?;
            runtime.run(&bundle, &scene.id(name))?.code(code)?;
        }
        assert_eq!(
            runtime.call(&["list", "-q"])?.success()?.text(),
            "",
            "run deletes what it made"
        );
        Ok(())
    })
}

#[test]
fn a_foreground_run_passes_signals_on() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "forward", &spec::docker_like(&["/probe", "wait"]))?;
        let process = runtime.start_run(&bundle, &scene.id("forward"))?;
        wait_for_word(&process, "ready")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(process.pid()),
            nix::sys::signal::SIGTERM,
        )?;
        let output = process.wait(Duration::from_secs(10))?.success()?;
        ensure!(output.stdout.contains("got SIGTERM"), "{output}");
        Ok(())
    })
}

#[test]
fn run_detached_returns_at_once() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "detached", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("detached");
        let pid_file = scene.path("pid");
        let mut command = runtime.open_command("run", &bundle);
        command.arg("--detach").arg("--pid-file").arg(&pid_file).arg(&id);
        let process = scene.start(command)?;
        process.wait(Duration::from_secs(20))?.success()?;
        wait_for_word(&process, "ready")?;
        assert_eq!(runtime.state(&id)?["status"], "running");
        let written = fs::read_to_string(&pid_file)?;
        assert_eq!(written, runtime.pid(&id)?.to_string(), "no newline, no more");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn signals_are_named_in_every_usual_way() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "signals", &spec::docker_like(&["/probe", "wait"]))?;
        for signal in ["TERM", "SIGTERM", "15", "INT", "SIGHUP"] {
            let id = scene.id(&format!("signal-{}", signal.to_lowercase()));
            let process = runtime.create_and_start(&bundle, &id)?;
            wait_for_word(&process, "ready")?;
            runtime.call(&["kill", &id, signal])?.success()?;
            runtime.wait_for_status(&id, "stopped")?;
            ensure!(
                process.stdout().contains("got SIG"),
                "{signal}: {}",
                process.stdout()
            );
            runtime.call(&["delete", &id])?.success()?;
        }
        Ok(())
    })
}

#[test]
fn killing_the_first_process_kills_all() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "family", &spec::docker_like(&["/probe", "children", "5"]))?;
        let id = scene.id("family");
        runtime.create_and_start(&bundle, &id)?;
        let members = wait_until("six processes run", Duration::from_secs(10), || {
            let members = croze_integration_tests::process_ids_in_cgroup("pids", &format!("/{id}"))?;
            Ok((members.len() == 6).then_some(members))
        })?;
        runtime.call(&["kill", &id, "KILL"])?.success()?;
        runtime.wait_for_status(&id, "stopped")?;
        wait_until("none of them is left", Duration::from_secs(5), || {
            Ok(members.iter().all(|pid| !is_alive(*pid)).then_some(()))
        })?;
        runtime.call(&["delete", &id])?.success().map(drop)
    })
}

#[test]
fn delete_refuses_a_running_container_unless_forced() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "running", &spec::docker_like(&["/probe", "stubborn"]))?;
        let id = scene.id("running");
        runtime.create_and_start(&bundle, &id)?;
        let pid = runtime.pid(&id)?;
        runtime.call(&["delete", &id])?.failure(&["running"])?;
        ensure!(is_alive(pid), "a refused delete does no harm");
        runtime.delete_by_force(&id)?;
        ensure!(!is_alive(pid), "a forced one does");
        runtime.call(&["delete", "--force", &id])?.success().map(drop)
    })
}

#[test]
fn a_created_container_can_be_deleted_without_force() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "unstarted", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("unstarted");
        runtime.create(&bundle, &id)?;
        runtime.call(&["kill", &id, "KILL"])?.success()?;
        runtime.wait_for_status(&id, "stopped")?;
        runtime.call(&["delete", &id])?.success().map(drop)
    })
}

#[test]
fn list_shows_what_there_is() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let listed = || -> Result<Vec<(String, String)>> {
            let answer = runtime.call(&["list", "--format", "json"])?.success()?.json()?;
            let entries = answer.as_array().cloned().unwrap_or_default();
            Ok(entries
                .iter()
                .map(|entry| {
                    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                    (text("id"), text("status"))
                })
                .collect())
        };
        assert_eq!(listed()?, []);
        let bundle = Bundle::new(scene, "listed", &spec::docker_like(&["/probe", "wait"]))?;
        let (one, two) = (scene.id("one"), scene.id("two"));
        runtime.create(&bundle, &one)?;
        runtime.create_and_start(&bundle, &two)?;
        let mut both = listed()?;
        both.sort();
        assert_eq!(
            both,
            [
                (one.clone(), "created".to_owned()),
                (two.clone(), "running".to_owned())
            ]
        );
        let table = runtime.call(&["list"])?.success()?;
        for word in ["ID", "PID", "STATUS", "BUNDLE", one.as_str(), two.as_str()] {
            ensure!(table.stdout.contains(word), "{word} in {table}");
        }
        runtime.delete_by_force(&one)?;
        runtime.delete_by_force(&two)
    })
}

#[test]
fn the_version_names_the_program_the_commit_and_the_spec() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let output = runtime.call(&["--version"])?.success()?;
        let lines: Vec<&str> = output.stdout.lines().collect();
        let first = lines.first().context("a line")?;
        ensure!(first.contains(" version "), "{first}");
        ensure!(lines.iter().any(|line| line.starts_with("spec: 1.")), "{lines:?}");
        Ok(())
    })
}

#[test]
fn the_spec_it_writes_can_be_run() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "spec", &json!({}))?;
        fs::remove_file(bundle.directory().join("config.json"))?;
        let path = bundle.directory().to_string_lossy().into_owned();
        runtime.call(&["spec", "--bundle", &path])?.success()?;
        let written = bundle.directory().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&written)?)?;
        assert_eq!(config["process"]["terminal"], true);
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/probe"]);
        bundle.write(&config.to_string())?;
        let report = runtime.run(&bundle, &scene.id("spec"))?.success()?.json()?;
        assert_eq!(report["pid"], 1);
        runtime
            .call(&["spec", "--bundle", &path])?
            .failure(&["config.json"])
            .map(drop)
    })
}

#[test]
fn a_process_that_ends_at_once_is_no_problem() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "short", &spec::minimal(&["/bin/true"]))?;
        for round in 0..20 {
            let output = runtime.run(&bundle, &scene.id(&format!("short-{round}")))?;
            assert_eq!(output.ended, Ended::Code(0), "round {round}: {output}");
        }
        Ok(())
    })
}

#[test]
fn a_paused_container_stands_still() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(
            scene,
            "paused",
            &spec::docker_like(&["/probe", "print", "100000", "5"]),
        )?;
        let id = scene.id("paused");
        let process = runtime.create_and_start(&bundle, &id)?;
        wait_for_word(&process, "line 3\n")?;
        runtime.call(&["pause", &id])?.success()?;
        assert_eq!(runtime.state(&id)?["status"], "paused");
        let before = process.stdout();
        // A state that takes several of the container's intervals to ask for.
        for _ in 0..5 {
            runtime.state(&id)?;
        }
        assert_eq!(process.stdout(), before, "it prints while it is paused");
        runtime.call(&["exec", &id, "/bin/true"])?.failure(&["paused"])?;
        runtime.call(&["resume", &id])?.success()?;
        assert_eq!(runtime.state(&id)?["status"], "running");
        wait_until("it prints again", Duration::from_secs(5), || {
            Ok((process.stdout() != before).then_some(()))
        })?;
        runtime.delete_by_force(&id)
    })
}

#[test]
fn a_paused_container_can_be_deleted_by_force() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "frozen", &spec::docker_like(&["/probe", "children", "2"]))?;
        let id = scene.id("frozen");
        runtime.create_and_start(&bundle, &id)?;
        runtime.call(&["pause", &id])?.success()?;
        runtime.delete_by_force(&id)?;
        runtime
            .call(&["state", &id])?
            .failure(&["does not exist"])
            .map(drop)
    })
}

#[test]
fn ps_lists_the_processes() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "listed", &spec::docker_like(&["/probe", "children", "2"]))?;
        let id = scene.id("listed");
        let process = runtime.create_and_start(&bundle, &id)?;
        wait_for_word(&process, "ready")?;
        let answer = runtime
            .call(&["ps", "--format", "json", &id])?
            .success()?
            .json()?;
        let pids = answer.as_array().context("a list")?;
        assert_eq!(pids.len(), 3, "{answer}");
        ensure!(pids.contains(&json!(runtime.pid(&id)?)), "{answer}");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn features_are_machine_readable() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let answer = runtime.call(&["features"])?.success()?.json()?;
        ensure!(
            answer["ociVersionMin"].is_string() && answer["ociVersionMax"].is_string(),
            "{answer}"
        );
        let options = answer["mountOptions"].as_array().context("mount options")?;
        ensure!(
            options.contains(&json!("rro")) && options.contains(&json!("nosuid")),
            "{answer}"
        );
        Ok(())
    })
}
