//! `hooks`: each kind's place, its arguments, environment, timeout, and what its failure means.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, spec};
use serde_json::{Value, json};

use crate::case::Case;
use crate::stage::Stage;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::script("hooks.prestart", |stage| {
            told(stage, "prestart", &["creating", "created"], false)
        }),
        Case::script("hooks.createRuntime", |stage| {
            told(stage, "createRuntime", &["creating", "created"], false)
        }),
        Case::script("hooks.createContainer", |stage| {
            told(stage, "createContainer", &["creating", "created"], false)
        }),
        Case::script("hooks.startContainer", |stage| {
            told(stage, "startContainer", &["created"], true)
        }),
        Case::script("hooks.poststart", |stage| {
            told(stage, "poststart", &["running"], false)
        }),
        Case::script("hooks.poststop", |stage| {
            told(stage, "poststop", &["stopped"], false)
        }),
        Case::script("hooks.prestart that fails", |stage| fails(stage, "prestart")),
        Case::script("hooks.createRuntime that fails", |stage| {
            fails(stage, "createRuntime")
        }),
        Case::script("hooks.createContainer that fails", |stage| {
            fails(stage, "createContainer")
        }),
        Case::script("hooks.startContainer that fails", |stage| {
            fails(stage, "startContainer")
        }),
        Case::script("hooks.poststop that fails is no error", |stage| {
            let mut config = spec::docker_like(&["/bin/true"]);
            config["hooks"] = json!({ "poststop": [{ "path": "/bin/false" }] });
            stage.run(&config)?.success().map(drop)
        }),
        Case::script("hooks.args, env", |stage| {
            let directory = stage.directory("hook")?;
            let file = directory.join("seen");
            let line = format!(
                "echo \"$0 $1 $KEY ${{HOME-none}} ${{CARGO-none}}\" > {}",
                file.display()
            );
            let mut config = spec::docker_like(&["/bin/true"]);
            config["hooks"] = json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", line, "zero", "one"], "env": ["KEY=value"] }] });
            stage.run(&config)?.success()?;
            let seen = fs::read_to_string(&file)?;
            ensure!(seen.trim() == "zero one value none none", "{seen}");
            Ok(())
        }),
        Case::script("hooks.timeout", |stage| {
            let mut config = spec::docker_like(&["/bin/true"]);
            config["hooks"] =
                json!({ "prestart": [{ "path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1 }] });
            stage.run(&config)?.failure(&[]).map(drop)
        }),
        Case::script("hooks several in order", |stage| {
            let directory = stage.directory("hook")?;
            let file = directory.join("log");
            let hook = |word: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {word} >> {}", file.display())] });
            let mut config = spec::docker_like(&["/bin/true"]);
            config["hooks"] = json!({ "prestart": [hook("one"), hook("two")], "createRuntime": [hook("three")], "createContainer": [hook("four")], "poststop": [hook("five")] });
            stage.run(&config)?.success()?;
            let log = fs::read_to_string(&file)?;
            ensure!(
                log.split_whitespace().eq(["one", "two", "three", "four", "five"]),
                "{log}"
            );
            Ok(())
        }),
        Case::new("hooks.path missing")
            .set("/hooks", json!({ "prestart": [{ "path": "/no/such/hook" }] }))
            .refused(&["/no/such/hook"]),
        Case::new("hooks.path relative")
            .set("/hooks", json!({ "prestart": [{ "path": "hook" }] }))
            .refused(&["hook"]),
    ]
}

/// Runs a container with one hook that keeps what it is told, and looks at that. A hook inside of the container writes through a bind.
fn told(stage: &Stage<'_>, kind: &str, statuses: &[&str], inside: bool) -> Result<()> {
    let directory = stage.directory("hook")?;
    let file = directory.join("state.json");
    let mut config = spec::docker_like(&["/probe", "wait"]);
    config["annotations"] = json!({ "key": "value" });
    config["hooks"] = json!({ (kind): [{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", file.display())], "env": ["PATH=/usr/bin:/bin"] }] });
    if inside {
        spec::append(
            &mut config,
            "/mounts",
            json!({ "destination": directory, "type": "bind", "source": directory, "options": ["bind"] }),
        )?;
    }
    let bundle = stage.bundle(&config)?;
    let id = stage.next_id();
    run_through(stage, &bundle, &id)?;
    let state: Value = serde_json::from_slice(&fs::read(&file).context("the hook ran")?)?;
    ensure!(state["id"] == json!(id), "{state}");
    ensure!(
        statuses.iter().any(|status| state["status"] == *status),
        "{state}"
    );
    ensure!(
        state["bundle"]
            .as_str()
            .is_some_and(|path| Path::new(path) == bundle.directory()),
        "{state}"
    );
    ensure!(
        state["annotations"]["key"] == "value" && state["ociVersion"].is_string(),
        "{state}"
    );
    Ok(())
}

fn run_through(stage: &Stage<'_>, bundle: &Bundle, id: &str) -> Result<()> {
    stage.runtime.create_and_start(bundle, id)?;
    stage.call(&["kill", id, "KILL"])?;
    stage.runtime.wait_for_status(id, "stopped")?;
    stage.call(&["delete", id]).map(drop)
}

/// A hook that fails before the user's program keeps it from running, and nothing of the container is left.
fn fails(stage: &Stage<'_>, kind: &str) -> Result<()> {
    let directory = stage.directory("volume")?;
    let mut config = spec::docker_like(&["/bin/touch", "/volume/ran"]);
    spec::append(
        &mut config,
        "/mounts",
        json!({ "destination": "/volume", "type": "bind", "source": directory, "options": ["bind"] }),
    )?;
    config["hooks"] = json!({ (kind): [{ "path": "/bin/false" }] });
    stage.run(&config)?.failure(&[])?;
    ensure!(!directory.join("ran").exists(), "the program ran");
    Ok(())
}
