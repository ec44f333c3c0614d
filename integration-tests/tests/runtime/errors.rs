//! What goes wrong: each is a clear error with a code, and leaves nothing. That nothing is left is the scene's check.

use std::fs;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::is_croze;

/// Both ways to make a container fail alike, and no state stays.
fn refused(runtime: &Runtime<'_>, scene: &Scene, bundle: &Bundle, words: &[&str]) -> Result<()> {
    for verb in ["create", "run"] {
        let mut command = runtime.open_command(verb, bundle);
        command.arg(scene.id("refused"));
        scene
            .run(command)?
            .failure(words)
            .with_context(|| format!("{verb} of {}", bundle.directory().display()))?;
    }
    let listed = runtime.call(&["list", "-q"])?.success()?;
    assert_eq!(listed.text(), "", "nothing stays in the list");
    Ok(())
}

#[test]
fn a_malformed_config_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let whole = spec::docker_like(&["/bin/true"]).to_string();
        let half = whole.get(..whole.len() / 2).context("half of it")?;
        let table: [(&str, &str); 4] = [
            ("cut", half),
            ("text", "not json"),
            ("empty", ""),
            ("list", r#"["a", "list"]"#),
        ];
        for (name, text) in table {
            let bundle = Bundle::new(scene, name, &json!({}))?;
            bundle.write(text)?;
            let words: &[&str] = if is_croze(&runtime) { &["config.json"] } else { &[] };
            refused(&runtime, scene, &bundle, words)?;
        }
        Ok(())
    })
}

#[test]
fn a_config_that_contradicts_itself_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let edit = |pointer: &str, value: Value| {
            let mut config = spec::docker_like(&["/bin/true"]);
            if let Some(place) = config.pointer_mut(pointer) {
                *place = value;
            }
            config
        };
        let table = [
            ("no-arguments", edit("/process/args", json!([])), "args"),
            ("relative-cwd", edit("/process/cwd", json!("tmp")), "cwd"),
            ("no-rootfs", edit("/root/path", json!("nowhere")), "nowhere"),
            (
                "no-such-namespace",
                edit("/linux/namespaces/0/type", json!("imaginary")),
                "imaginary",
            ),
            (
                "lost-namespace",
                edit(
                    "/linux/namespaces/1",
                    json!({ "type": "network", "path": "/nowhere/net" }),
                ),
                "/nowhere/net",
            ),
            (
                "no-source",
                edit(
                    "/mounts/6",
                    json!({ "destination": "/x", "type": "bind", "source": "/nowhere/src", "options": ["bind"] }),
                ),
                "/nowhere/src",
            ),
            (
                "no-such-type",
                edit(
                    "/mounts/6",
                    json!({ "destination": "/x", "type": "nofs", "source": "x" }),
                ),
                "/x",
            ),
        ];
        for (name, config, word) in table {
            let bundle = Bundle::new(scene, name, &config)?;
            refused(&runtime, scene, &bundle, &[word])?;
        }
        Ok(())
    })
}

#[test]
fn a_bundle_without_config_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "bare", &json!({}))?;
        fs::remove_file(bundle.directory().join("config.json"))?;
        refused(&runtime, scene, &bundle, &["config.json"])
    })
}

#[test]
fn a_command_that_cannot_be_run_says_why() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let table: [(&str, &[&str], &str); 4] = [
            ("missing", &["/no/such/command"], "no such file or directory"),
            (
                "not-in-path",
                &["no-such-command"],
                "executable file not found in",
            ),
            ("plain", &["/etc/passwd"], "permission denied"),
            ("directory", &["/etc"], "permission denied"),
        ];
        for (name, arguments, words) in table {
            let bundle = Bundle::new(scene, name, &spec::docker_like(arguments))?;
            // A directory is reported in other words by some.
            let words: &[&str] = if name == "directory" { &["/etc"] } else { &[words] };
            refused(&runtime, scene, &bundle, words)?;
        }
        Ok(())
    })
}

#[test]
fn an_id_that_is_taken_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "first", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("taken");
        runtime.create(&bundle, &id)?;
        let pid = runtime.pid(&id)?;
        let mut command = runtime.open_command("create", &bundle);
        command.arg(&id);
        scene.run(command)?.failure(&["exist"])?;
        assert_eq!(runtime.pid(&id)?, pid, "the first one is not touched");
        assert_eq!(runtime.state(&id)?["status"], "created");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn an_id_that_is_no_name_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "names", &spec::docker_like(&["/bin/true"]))?;
        for id in ["../up", "a/b", "..", "", "a b", "ä"] {
            let mut command = runtime.open_command("run", &bundle);
            command.arg(id);
            scene
                .run(command)?
                .failure(&["id"])
                .with_context(|| format!("{id:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn an_unknown_id_is_refused_by_every_verb() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let id = scene.id("unknown");
        for words in [
            vec!["state", &id],
            vec!["start", &id],
            vec!["kill", &id, "KILL"],
            vec!["delete", &id],
            vec!["exec", &id, "true"],
        ] {
            runtime.call(&words)?.failure(&["does not exist"])?;
        }
        runtime.call(&["delete", "--force", &id])?.success().map(drop)
    })
}

#[test]
fn verbs_in_the_wrong_state_are_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "states", &spec::docker_like(&["/probe", "exit", "0"]))?;
        let id = scene.id("states");
        runtime.create_and_start(&bundle, &id)?;
        runtime.wait_for_status(&id, "stopped")?;
        runtime.call(&["start", &id])?.failure(&["stopped"])?;
        runtime
            .call(&["kill", &id, "TERM"])?
            .failure(&["container not running"])?;
        runtime.call(&["exec", &id, "/bin/true"])?.failure(&["stopped"])?;
        runtime.call(&["delete", &id])?.success().map(drop)
    })
}

#[test]
fn a_signal_that_does_not_exist_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "signal", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("signal");
        runtime.create_and_start(&bundle, &id)?;
        for signal in ["SIGNOTHING", "-5", "abc"] {
            runtime.call(&["kill", &id, signal])?.failure(&[])?;
        }
        assert_eq!(runtime.state(&id)?["status"], "running");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn a_fatal_error_goes_to_the_log_as_json() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let log = scene.path("log.json");
        let id = scene.id("logged");
        let words = [
            "--log",
            &log.to_string_lossy(),
            "--log-format",
            "json",
            "state",
            &id,
        ];
        runtime.call(&words)?.failure(&["does not exist"])?;
        let text = fs::read_to_string(&log)?;
        let last: Value = serde_json::from_str(text.lines().last().context("a line")?)?;
        assert_eq!(last["level"], "error");
        ensure!(
            last["msg"]
                .as_str()
                .is_some_and(|text| text.contains("does not exist")),
            "{last}"
        );
        ensure!(
            last["time"].as_str().is_some_and(|time| time.contains('T')),
            "{last}"
        );
        Ok(())
    })
}

#[test]
fn the_exit_code_of_an_error_is_one() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        runtime.call(&["state", &scene.id("nobody")])?.code(1)?;
        let bundle = Bundle::new(scene, "code", &spec::docker_like(&["/no/such/command"]))?;
        runtime.run(&bundle, &scene.id("code"))?.code(1).map(drop)
    })
}

/// What a kernel lacks is said by the field's name, not by a mount that fails.
#[test]
fn labels_of_security_modules_that_are_not_there_are_refused_by_name() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let filesystems = fs::read_to_string("/proc/filesystems")?;
        let has_apparmor = std::path::Path::new("/sys/module/apparmor").exists();
        if !is_croze(&runtime) || filesystems.contains("selinuxfs") || has_apparmor {
            return Ok(());
        }
        for (pointer, value, words) in [
            (
                "/process/selinuxLabel",
                "u:r:t:s0",
                ["process.selinuxLabel", "SELinux"],
            ),
            (
                "/process/apparmorProfile",
                "nosuch",
                ["process.apparmorProfile", "security module"],
            ),
        ] {
            let mut config = spec::docker_like(&["/probe"]);
            let (parent, key) = pointer.rsplit_once('/').context("a pointer")?;
            config.pointer_mut(parent).context("there")?[key] = json!(value);
            let name = key.to_lowercase();
            let bundle = Bundle::new(scene, &name, &config)?;
            runtime.run(&bundle, &scene.id(&name))?.failure(&words)?;
        }
        Ok(())
    })
}
