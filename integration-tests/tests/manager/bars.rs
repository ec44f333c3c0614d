//! What a pull draws on a terminal, wide and narrow: whatever ends it, nothing stays there half-drawn.

use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{
    Crozed, Entry, ImageLayout, LayerTar, Registry, Scene, SlowProxy, Terminal, digest,
};
use serde_json::json;

/// Two layers that no compressor makes small, so that a slow registry takes long over them.
fn layers() -> Vec<Vec<u8>> {
    let noise = |seed: u32| -> Vec<u8> {
        (0..40_000u32)
            .flat_map(|at| digest(&(at + seed).to_be_bytes()).into_bytes())
            .collect()
    };
    vec![
        LayerTar::of([Entry::file("one", noise(0))]),
        LayerTar::of([Entry::file("two", noise(1_000_000))]),
    ]
}

/// A terminal of so many columns in which the pull of a slow image draws both of its bars.
fn drawing<'scene>(
    scene: &'scene Scene,
    daemon: &Crozed<'_>,
    image: &str,
    columns: u16,
) -> Result<Terminal<'scene>> {
    let terminal = Terminal::open(scene, "sh")?;
    terminal.resize(columns, 30)?;
    let pull = daemon.shell_words(&format!("pull {image}"))?;
    let script = scene.path("pull.sh");
    std::fs::write(&script, format!("clear; {pull}; echo \"code $?\"\n"))?;
    terminal.type_line(&format!(". {}", script.display()))?;
    terminal.wait_for("both layers are drawn, on one line each", |screen| {
        screen.matches("fetching").count() == 2 && screen.trim_end().lines().count() == 2
    })?;
    Ok(terminal)
}

/// Nothing stands there but these words, and the prompt.
fn ensure_only(terminal: &Terminal<'_>, words: &str) -> Result<()> {
    terminal.wait_for("the bars are gone and the reason stands there", |screen| {
        screen.trim_start().starts_with("croze: ") && screen.contains(words) && !screen.contains("fetching")
    })
}

#[test]
fn a_pull_that_ends_early_leaves_the_terminal_clean() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::new(&layers(), &json!({}))?.write(scene, "slow", "latest")?;
        registry.push(&layout, "latest", "slow:latest")?;
        let proxy = SlowProxy::before(&registry.address(), Duration::from_millis(200))?;
        let image = proxy.reference("slow:latest");
        let daemon = Crozed::start(scene)?;
        for columns in [80, 40] {
            let terminal = drawing(scene, &daemon, &image, columns)?;
            terminal.press("C-c")?;
            ensure_only(&terminal, "interrupted")?;
            terminal.wait_for("its code is a signal's", |screen| screen.contains("code 130"))?;
        }
        for columns in [80, 40] {
            let terminal = drawing(scene, &daemon, &image, columns)?;
            daemon.kill()?;
            ensure_only(&terminal, "code 1")?;
            daemon.launch()?;
        }
        // `run` has reserved nothing for a container that there is none of yet.
        let cidfile = scene.path("cid");
        let run = daemon.shell_words(&format!("run --cidfile {} {image} /bin/true", cidfile.display()))?;
        let terminal = Terminal::open(scene, "sh")?;
        terminal.type_line(&run)?;
        terminal.wait_for("it is fetched", |screen| screen.contains("fetching"))?;
        terminal.press("C-c")?;
        terminal.wait_for("the pull has ended", |screen| screen.contains("interrupted"))?;
        ensure!(!cidfile.exists(), "an interrupted pull leaves an empty file");
        // And one that is let through says so.
        let terminal = drawing(scene, &daemon, &image, 40)?;
        proxy.rest(Duration::ZERO);
        terminal.wait_for("it is done", |screen| {
            screen.matches(" done").count() == 2 && screen.contains("code 0")
        })?;
        daemon.finish()
    })
}
