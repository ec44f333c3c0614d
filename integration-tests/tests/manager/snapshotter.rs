//! Containers without overlayfs: `snapshotter = "copy"`.

use anyhow::{Result, ensure};
use croze_integration_tests::{Crozed, ImageLayout, LayerBuilder, Registry, Scene};
use serde_json::json;

#[test]
fn a_container_lives_on_a_copy_of_its_image() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let small = ImageLayout::small_tar(scene)?;
        let more = LayerBuilder::new()
            .file("replaced", 0o644, b"two")?
            .file(".wh.hidden", 0, b"")?
            .finish()?;
        let base = LayerBuilder::new()
            .file("replaced", 0o644, b"one")?
            .file("hidden", 0o644, b"one")?
            .finish()?;
        let layout = ImageLayout::new(
            &[small, base, more],
            &json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] }),
        )?;
        let layout = layout.write(scene, "copied", "latest")?;
        registry.push(&layout, "latest", "copied:latest")?;
        let image = registry.reference("copied:latest");

        let daemon = Crozed::start_configured(scene, "snapshotter = \"copy\"\n")?;
        daemon.ok(&["pull", &image])?;
        let info = daemon.ok(&["info"])?.stdout;
        ensure!(info.contains("copy"), "{info}");
        let script = "read text </replaced; echo $text; test ! -e /hidden && echo x >/written";
        let output = daemon.ok(&["run", "--name", "once", &image, "/bin/sh", "-c", script])?;
        assert_eq!(output.stdout, "two\n");
        // What it wrote is there at its next start, and with another daemon too; no overlay is mounted.
        daemon.ok(&["run", "-d", "--name", "lives", &image, "/probe", "wait"])?;
        daemon.kill()?;
        daemon.launch()?;
        daemon.ok(&["exec", "lives", "/bin/sh", "-c", "echo y >/more"])?;
        let mounts = daemon
            .ok(&[
                "exec",
                "lives",
                "/bin/sh",
                "-c",
                "while read -r line; do echo $line; done </proc/self/mountinfo",
            ])?
            .stdout;
        ensure!(!mounts.contains(" - overlay "), "{mounts}");
        daemon.ok(&["stop", "-t", "1", "lives"])?;
        daemon.ok(&["start", "lives"])?;
        let more = daemon.ok(&[
            "exec",
            "lives",
            "/bin/sh",
            "-c",
            "read more </more; read text </replaced; echo $more $text",
        ])?;
        assert_eq!(more.stdout, "y two\n");
        daemon.ok(&["rm", "-f", "once", "lives"])?;
        daemon.ok(&["rmi", &image])?;
        daemon.finish()
    })
}
