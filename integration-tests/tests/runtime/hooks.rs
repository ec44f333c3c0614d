//! Hooks: their order, what they are told, and what their failure means.

use std::fs;

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, is_alive, spec};
use serde_json::{Value, json};

use crate::is_croze;

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A spec whose hooks each append their name to `log`, a file that the container sees at the same path.
fn with_hooks(directory: &str, arguments: &[&str]) -> Result<Value> {
    let mut config = spec::docker_like(arguments);
    let mount = json!({ "destination": directory, "type": "bind", "source": directory, "options": ["bind"] });
    spec::append(&mut config, "/mounts", mount)?;
    config["hooks"] = json!({});
    for kind in KINDS {
        let script = format!("cat > {directory}/{kind}.json; echo {kind} >> {directory}/log");
        config["hooks"][kind] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }]);
    }
    Ok(config)
}

#[test]
fn hooks_run_in_order_and_learn_the_state() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            // runc 1.1 runs poststart before the user's process starts.
            return Ok(());
        }
        let directory = scene.new_directory("hooks")?;
        let config = with_hooks(&directory.to_string_lossy(), &["/probe", "wait"])?;
        let bundle = Bundle::new(scene, "order", &config)?;
        let id = scene.id("order");
        let log = || -> Vec<String> {
            fs::read_to_string(directory.join("log"))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect()
        };
        runtime.create(&bundle, &id)?;
        assert_eq!(log(), ["prestart", "createRuntime", "createContainer"]);
        runtime.call(&["start", &id])?.success()?;
        assert_eq!(
            log(),
            [
                "prestart",
                "createRuntime",
                "createContainer",
                "startContainer",
                "poststart"
            ]
        );
        runtime.delete_by_force(&id)?;
        assert_eq!(log(), KINDS);

        let bundle_path = bundle.directory().to_string_lossy().into_owned();
        for (kind, status) in [
            ("prestart", "created"),
            ("createRuntime", "creating"),
            ("createContainer", "creating"),
            ("startContainer", "created"),
            ("poststart", "running"),
            ("poststop", "stopped"),
        ] {
            let state: Value = serde_json::from_slice(&fs::read(directory.join(format!("{kind}.json")))?)?;
            assert_eq!(state["id"], json!(id), "{kind}");
            assert_eq!(state["bundle"], json!(bundle_path), "{kind}");
            assert_eq!(state["status"], status, "{kind}: {state}");
        }
        Ok(())
    })
}

#[test]
fn a_hook_that_fails_undoes_the_create() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let mut config = spec::docker_like(&["/probe", "wait"]);
            let script = "cat > /dev/null; echo reason >&2; exit 3";
            config["hooks"] = json!({ kind: [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
            let bundle = Bundle::new(scene, kind, &config)?;
            let id = scene.id(&kind.to_lowercase());
            let mut command = runtime.open_command("create", &bundle);
            command.arg(&id);
            scene.run(command)?.failure(&["hook"])?;
            runtime.call(&["state", &id])?.failure(&["does not exist"])?;
        }
        Ok(())
    })
}

#[test]
fn a_hook_that_takes_too_long_is_ended() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let pid_file = scene.path("hook-pid");
        let mut config = spec::docker_like(&["/bin/true"]);
        let script = format!("echo $$ > {}; exec sleep 600", pid_file.display());
        config["hooks"] =
            json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1 }] });
        let bundle = Bundle::new(scene, "slow", &config)?;
        runtime.run(&bundle, &scene.id("slow"))?.failure(&["hook"])?;
        let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
        ensure!(!is_alive(pid), "the hook {pid} still runs");
        Ok(())
    })
}
