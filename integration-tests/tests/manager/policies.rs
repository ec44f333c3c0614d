//! When an image is fetched (`--pull`), and what is shown of what it consists of.

use anyhow::{Context as _, Result, ensure};
use croze_integration_tests::{Entry, Fault, FaultyProxy, ImageLayout, LayerTar, Registry, Rule, Scene};
use serde_json::json;

use crate::trees::on_stage;

/// Pushes an image of these layers, each with a file of its name.
fn push(scene: &Scene, registry: &Registry<'_>, layers: &[&str], name: &str) -> Result<()> {
    let tars: Vec<Vec<u8>> = layers
        .iter()
        .map(|&layer| LayerTar::of([Entry::file(layer, layer.repeat(3000))]))
        .collect();
    let image = ImageLayout::new(&tars, &json!({ "Cmd": ["/a"] }))?;
    let layout = image.write(scene, &format!("layout-{}", name.replace(':', "-")), "latest")?;
    registry.push(&layout, "latest", name)?;
    std::fs::remove_dir_all(layout)?;
    Ok(())
}

#[test]
fn an_image_is_fetched_when_the_policy_says_so() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        push(scene, registry, &["a"], "app:1")?;
        let proxy = FaultyProxy::before(&registry.address())?;
        let image = proxy.reference("app:1");
        let id = || -> Result<String> {
            let shown = daemon.inspect(&image)?;
            Ok(shown["Id"].as_str().context("an id")?.to_owned())
        };
        let create = |policy: &str| daemon.croze(&["create", "--pull", policy, &image]);
        create("never")?.failure(&["app:1"])?;
        create("newer")?.success()?;
        let first = id()?;

        // What changed meanwhile is fetched by those who ask for it, and nothing else is.
        push(scene, registry, &["a", "b"], "app:1")?;
        for policy in ["never", "missing"] {
            proxy.obey(&[]);
            create(policy)?.success()?;
            assert_eq!(id()?, first, "{policy}");
            assert_eq!(proxy.answered(), [], "{policy}");
        }
        let output = create("newer")?.success()?;
        ensure!(output.stderr.contains(": fetched "), "{output}");
        let second = id()?;
        ensure!(second != first, "the newer one was fetched");
        proxy.obey(&[]);
        let output = create("newer")?.success()?;
        assert_eq!(proxy.bytes("/blobs/"), 0, "it is here");
        assert_eq!(output.stderr, "", "nothing is new");

        // One that is there and comes damaged is not the same as none.
        push(scene, registry, &["a", "b", "c"], "app:1")?;
        proxy.obey(&[Rule::always("/blobs/", Fault::Flip(20))]);
        create("newer")?.failure(&["digest"])?;
        assert_eq!(id()?, second);
        proxy.obey(&[]);

        // A registry that does not answer is no reason not to use what is here, unless it must be asked.
        proxy.obey(&[Rule::always("/", Fault::NoAnswer)]);
        let output = create("newer")?.success()?;
        ensure!(
            output
                .stderr
                .contains("warning: cannot see whether there is a newer"),
            "{output}"
        );
        create("always")?.failure(&["cannot reach registry"])?;
        assert_eq!(id()?, second);
        let ids = daemon.container_ids()?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        daemon.ok(&[&["rm"], &ids[..]].concat())?;
        Ok(())
    })
}

#[test]
fn what_images_consist_of_and_share_is_shown() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        push(scene, registry, &["a", "b"], "app:1")?;
        push(scene, registry, &["a", "c"], "app:2")?;
        let (one, two) = (registry.reference("app:1"), registry.reference("app:2"));
        daemon.ok(&["pull", &one])?;
        let alone = daemon.ok(&["image", "tree", &one])?.stdout;
        ensure!(!alone.contains("also in"), "{alone}");
        daemon.ok(&["pull", &two])?;
        let tree = daemon.ok(&["image", "tree", &one])?.stdout;
        let lines: Vec<&str> = tree.trim_end().lines().collect();
        let [head, base, top] = lines[..] else {
            anyhow::bail!("three lines: {tree}")
        };
        ensure!(
            head.starts_with(&one) && head.contains("in no other image"),
            "{tree}"
        );
        ensure!(
            base.starts_with("├──") && base.ends_with(&format!("also in {two}")),
            "{tree}"
        );
        ensure!(top.starts_with("└──") && !top.contains("also in"), "{tree}");
        let all = daemon.ok(&["image", "tree"])?.stdout;
        ensure!(all.contains(&one) && all.contains(&two), "{all}");
        daemon
            .croze(&["image", "tree", "nothing"])?
            .failure(&["no image \"nothing\""])?;

        // These images say nothing of how they were made: their layers are shown.
        let history = daemon.ok(&["history", "--human=false", "--format", "{{.ID}} {{.Size}}", &one])?;
        let lines: Vec<&str> = history.stdout.lines().collect();
        ensure!(lines.len() == 2, "{history}");
        ensure!(lines.iter().all(|line| line.ends_with(" 3000")), "{history}");
        ensure!(lines[1].starts_with("<missing>"), "{history}");
        let ids = daemon.ok(&["image", "history", "-q", "--no-trunc", &one])?;
        ensure!(ids.stdout.starts_with("sha256:"), "{ids}");
        let table = daemon.ok(&["history", &one])?;
        ensure!(table.stdout.starts_with("IMAGE"), "{table}");
        Ok(())
    })
}
