//! Our log of a program beside docker's of the same one.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Dockerd, ImageLayout, Registry, Scene};
use serde_json::Value;

/// Everything that is written in a special way, and lines around the length at which a line is cut.
const SCRIPT: &str = r#"
printf 'plain\n\n \t \r\n'
printf '<a href="x">&amp;</a> \\ /\n'
printf '\000\001\007\010\013\014\033[0m\037\177\n'
printf 'bad \377\376 \342\202\n cut \360\237\230\n\300\200 \355\240\200\n'
printf '\342\200\247\342\200\250\342\200\251\342\200\252 \303\244\342\202\254\360\237\230\200 \357\277\275\n'
line() { head -c "$1" /dev/zero | tr '\0' "$2"; printf '\n'; }
line 16382 a; line 16383 b; line 16384 c; line 16385 d; line 40000 e; line 32768 f
printf 'no newline at the end'
"#;

/// The log without what differs from one run to the next.
fn without_times(log: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(log)?;
    let lines = text.lines().map(|line| {
        let (rest, time) = line.rsplit_once("\"time\":\"").context("an entry has a time")?;
        ensure!(time.ends_with("Z\"}") && time.contains('T'), "{line}");
        Ok(rest.to_owned())
    });
    lines.collect()
}

#[test]
fn a_log_is_byte_for_byte_as_docker_writes_it() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "small", "latest")?;
        registry.push(&layout, "latest", "small:latest")?;
        let image = registry.reference("small:latest");
        let croze = Crozed::start(scene)?;
        croze.ok(&["pull", &image])?;
        let docker = Dockerd::start(scene)?;
        for (stream, script) in [
            ("stdout", SCRIPT.to_owned()),
            ("stderr", format!("exec >&2; {SCRIPT}")),
        ] {
            let name = scene.id(stream);
            let run = [
                "run",
                "--network",
                "none",
                "--log-driver",
                "json-file",
                "--name",
                &name,
            ];
            docker
                .docker(&[&run[..], &["small", "/bin/sh", "-c", &script]].concat())?
                .success()?;
            let inspected = docker.docker(&["inspect", &name])?.success()?.json()?;
            let theirs = inspected[0]["LogPath"]
                .as_str()
                .context("docker's log")?
                .to_owned();
            croze.ok(&["run", "--name", stream, &image, "/bin/sh", "-c", &script])?;
            let ours = croze.inspect(stream)?;
            let ours = ours["LogPath"]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("our log: {}", Value::to_string(&ours)))?;
            let (ours, theirs) = (
                without_times(Path::new(&ours))?,
                without_times(Path::new(&theirs))?,
            );
            for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours, theirs, "{stream}, line {number}");
            }
            assert_eq!(ours.len(), theirs.len());
            docker.docker(&["rm", &name])?.success()?;
        }
        croze.finish()
    })
}
