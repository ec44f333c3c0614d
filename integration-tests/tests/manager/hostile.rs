//! Registries and images that lie: each is refused with a reason, nothing of it stays, and the daemon goes on.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Hostile, ImageLayout, LayerBuilder, Reply, Scene, digest};
use serde_json::json;

/// Bytes of all files below a directory.
fn size_below(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() {
            size_below(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(total)
}

/// An image whose only layer has a file that does not compress, so that what stays of it would be seen.
fn image() -> Result<ImageLayout> {
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..1_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    ImageLayout::new(
        &[LayerBuilder::new().file("noise", 0o644, &noise)?.finish()?],
        &json!({ "Cmd": ["/noise"] }),
    )
}

/// Pulls from a registry that serves this, and expects a refusal that has these words and leaves nothing.
fn refused(
    daemon: &Crozed<'_>,
    image: &ImageLayout,
    spoil: impl FnOnce(&mut HashMap<String, Reply>),
    words: &[&str],
) -> Result<()> {
    let registry = Hostile::serve("bad", image, spoil)?;
    let before = size_below(daemon.root())?;
    let reference = format!("{}/bad:latest", registry.address());
    let output = daemon.croze(&["pull", &reference])?.failure(words)?;
    assert_eq!(daemon.images()?, Vec::<String>::new(), "{output}");
    let grown = size_below(daemon.root())?.saturating_sub(before);
    ensure!(grown < 500_000, "{grown} bytes of it stay: {output}");
    Ok(())
}

#[test]
fn blobs_that_are_not_what_their_digest_says_are_refused() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let image = image()?;
        let layer = image.layers.first().context("a layer")?;
        let layer_path = format!("blobs/{}", digest(layer));

        let mut wrong = layer.clone();
        if let Some(byte) = wrong.last_mut() {
            *byte ^= 1;
        }
        let path = layer_path.clone();
        refused(
            &daemon,
            &image,
            |replies| {
                if let Some(reply) = replies.get_mut(&path) {
                    reply.body = wrong;
                }
            },
            &["digest"],
        )?;

        // The connection ends in the middle.
        let path = layer_path.clone();
        refused(
            &daemon,
            &image,
            |replies| {
                if let Some(reply) = replies.get_mut(&path) {
                    reply.claimed_length = Some(reply.body.len());
                    reply.body.truncate(reply.body.len() / 2);
                }
            },
            &[],
        )?;

        // It ends early and the header agrees with that.
        let path = layer_path.clone();
        refused(
            &daemon,
            &image,
            |replies| {
                if let Some(reply) = replies.get_mut(&path) {
                    reply.body.truncate(reply.body.len() / 2);
                }
            },
            &[],
        )?;

        // There is more than the manifest says.
        refused(
            &daemon,
            &image,
            |replies| {
                if let Some(reply) = replies.get_mut(&layer_path) {
                    reply.body.extend_from_slice(&[0; 4096]);
                }
            },
            &[],
        )?;
        daemon.finish()
    })
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let good = image()?;
        let lie = |diff_ids: serde_json::Value| -> Result<ImageLayout> {
            let mut image = good.clone();
            image.config["rootfs"]["diff_ids"] = diff_ids;
            let config = serde_json::to_vec(&image.config)?;
            image.manifest["config"]["digest"] = json!(digest(&config));
            image.manifest["config"]["size"] = json!(config.len());
            Ok(image)
        };
        refused(
            &daemon,
            &lie(json!([digest(b"something else")]))?,
            |_| (),
            &["config"],
        )?;
        refused(&daemon, &lie(json!([]))?, |_| (), &[])?;
        let twice = json!([
            good.config["rootfs"]["diff_ids"][0],
            good.config["rootfs"]["diff_ids"][0]
        ]);
        refused(&daemon, &lie(twice)?, |_| (), &[])?;
        daemon.finish()
    })
}

#[test]
fn manifests_that_are_none_are_refused() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let image = image()?;
        let table: [(&str, &[u8]); 5] = [
            ("text", b"this is no JSON"),
            ("empty", b""),
            ("list", b"[1, 2, 3]"),
            ("other", br#"{"schemaVersion": 1}"#),
            (
                "both",
                br#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#,
            ),
        ];
        for (name, body) in table {
            refused(
                &daemon,
                &image,
                |replies| {
                    if let Some(reply) = replies.get_mut("manifests/latest") {
                        reply.body = body.to_vec();
                    }
                },
                &[],
            )
            .with_context(|| name.to_owned())?;
        }
        // A manifest that claims sizes beyond reason.
        let mut huge = image;
        huge.manifest["layers"][0]["size"] = json!(-1);
        refused(&daemon, &huge, |_| (), &[])?;
        huge.manifest["layers"][0]["size"] = json!(u64::MAX);
        refused(&daemon, &huge, |_| (), &[])?;
        daemon.finish()
    })
}

/// Entries that try to leave the layer's directory.
#[test]
fn layers_that_climb_out_are_refused_or_contained() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let outside = scene.new_directory("outside")?;
        let deep = "../".repeat(12);
        let target = outside
            .join("escaped")
            .to_string_lossy()
            .trim_start_matches('/')
            .to_owned();
        let outside_text = outside.to_string_lossy().into_owned();
        let climbing = LayerBuilder::new()
            .file(&format!("{deep}{target}"), 0o644, b"escaped")?
            .finish()?;
        let image = ImageLayout::new(&[climbing], &json!({}))?;
        refused(&daemon, &image, |_| (), &[".."])?;
        ensure!(
            fs::read_dir(&outside)?.next().is_none(),
            "a file was made outside"
        );

        // Through a symlink of the same layer, and of a lower one.
        let link = LayerBuilder::new().symlink("link", &outside_text)?;
        let one = link.file("link/escaped", 0o644, b"escaped")?.finish()?;
        let lower = LayerBuilder::new().symlink("link", &outside_text)?.finish()?;
        let upper = LayerBuilder::new()
            .file("link/escaped", 0o644, b"escaped")?
            .finish()?;
        for (name, tars) in [("same", vec![one]), ("lower", vec![lower, upper])] {
            let registry = Hostile::serve(name, &ImageLayout::new(&tars, &json!({}))?, |_| ())?;
            // It may be refused, or the link replaced by a directory: outside stays empty either way.
            daemon.croze(&["pull", &format!("{}/{name}:latest", registry.address())])?;
            ensure!(
                fs::read_dir(&outside)?.next().is_none(),
                "{name}: a file was made outside"
            );
        }
        daemon.finish()
    })
}

#[test]
fn after_a_refusal_the_true_image_can_be_pulled() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let image = image()?;
        let path = format!("blobs/{}", digest(image.layers.first().context("a layer")?));
        refused(
            &daemon,
            &image,
            |replies| {
                if let Some(reply) = replies.get_mut(&path) {
                    reply.body.reverse();
                }
            },
            &["digest"],
        )?;
        let honest = Hostile::serve("good", &image, |_| ())?;
        daemon.ok(&["pull", &format!("{}/good:latest", honest.address())])?;
        daemon.finish()
    })
}
