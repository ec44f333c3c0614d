//! A pull that one client began, seen, watched and cancelled by others.

use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{
    Crozed, Fault, FaultyProxy, ImageLayout, LayerBuilder, Registry, Rule, Scene, digest, wait_until,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_pull_is_seen_watched_and_cancelled_by_other_clients() -> Result<()> {
    Scene::play(|scene| {
        let noise: Vec<u8> = (0..20_000u32)
            .flat_map(|at| digest(&at.to_be_bytes()).into_bytes())
            .collect();
        let layer = LayerBuilder::new().file("noise", 0o644, &noise)?.finish()?;
        let image = ImageLayout::new(&[layer], &json!({}))?.write(scene, "image", "latest")?;
        let registry = Registry::start(scene)?;
        registry.push(&image, "latest", "app:1")?;
        let proxy = FaultyProxy::before(&registry.address())?;
        let daemon = Crozed::start(scene)?;
        let reference = proxy.reference("app:1");
        let drip = Rule::always("/blobs/", Fault::Drip(8192, Duration::from_millis(600)));
        proxy.obey(&[drip]);

        let id = || -> Result<Option<String>> {
            let listed = daemon.ok(&["operation", "ls", "--format", "{{.ID}} {{.Kind}} {{.Subject}}"])?;
            let line = listed.stdout.trim().to_owned();
            let id = line.strip_suffix(&format!(" pull {reference}"));
            ensure!(line.is_empty() || id.is_some(), "{listed}");
            Ok(id.map(str::to_owned))
        };
        let pull = scene.start(daemon.command(&["pull", &reference])?)?;
        let first = wait_until("the pull was listed", PATIENCE, id)?;
        let watching = scene.start(daemon.command(&["operation", "watch", &first])?)?;
        wait_until("both see the layer come", PATIENCE, || {
            let seen = |text: String| text.contains("fetching");
            Ok((seen(pull.stderr()) && seen(watching.stderr())).then_some(()))
        })?;
        let cancelled = daemon.ok(&["operation", "cancel", &first])?;
        assert_eq!(cancelled.text(), first);
        pull.wait(PATIENCE)?.failure(&["cancelled by another client"])?;
        watching.wait(PATIENCE)?.failure(&["cancelled"])?;
        assert_eq!(daemon.images()?, Vec::<String>::new());
        let again = daemon.croze(&["operation", "cancel", &first])?;
        again.failure(&["no operation", "operation ls"])?;

        // One that comes to its end is watched to its end, and its watcher's end is nothing to it.
        let pull = scene.start(daemon.command(&["pull", &reference])?)?;
        let second = wait_until("the pull was listed", PATIENCE, id)?;
        ensure!(second != first, "an id is given once");
        let gone = scene.start(daemon.command(&["operation", "watch", &second])?)?;
        let watching = scene.start(daemon.command(&["operation", "watch", &second])?)?;
        wait_until("both watch", PATIENCE, || {
            let seen = |text: String| text.contains("fetching");
            Ok((seen(gone.stderr()) && seen(watching.stderr())).then_some(()))
        })?;
        gone.signal(nix::sys::signal::Signal::SIGKILL)?;
        proxy.obey(&[]);
        pull.wait(PATIENCE)?.success()?;
        let watched = watching.wait(PATIENCE)?.success()?;
        ensure!(watched.stderr.contains("done"), "{watched}");
        assert_eq!(daemon.ok(&["operation", "ls", "-q"])?.stdout, "");
        gone.wait(PATIENCE)?;
        daemon.finish()
    })
}
