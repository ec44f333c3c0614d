//! What a pull fetches and stores, which platform it takes, and which things it refuses to take for images.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Entry, Hostile, ImageLayout, LayerTar, Reply, Scene, digest};
use serde_json::{Value, json};

use crate::images::pull_numbers;
use crate::trees::on_stage;

/// Bytes that everything below a directory takes on the disk, each file counted once whatever its names (du(1)).
fn disk_usage(directory: &Path) -> Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(path) = pending.pop() {
        let metadata =
            fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        if seen.insert((metadata.dev(), metadata.ino())) {
            bytes += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(bytes)
}

/// Bytes that no compressor makes less of.
fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}

#[test]
fn a_common_base_is_fetched_and_stored_once() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let base = LayerTar::of([Entry::dir("./"), Entry::file("base", noise(4_000_000, 1))]);
        for (name, seed) in [("first", 2), ("second", 3)] {
            let own = LayerTar::of([Entry::file(name, noise(50_000, seed))]);
            let layout = ImageLayout::new(&[base.clone(), own], &json!({}))?.write(scene, name, "latest")?;
            registry.push(&layout, "latest", name)?;
        }
        let empty = disk_usage(daemon.root())?;
        let first = daemon.ok(&["pull", &registry.reference("first")])?;
        let [fetched, layers_fetched, present, layers_present] = pull_numbers(&first.stdout)?;
        ensure!(fetched > 4_000_000 && layers_fetched == 2, "{first}");
        assert_eq!((present, layers_present), (0, 0), "{first}");
        let one = disk_usage(daemon.root())?;
        // The blob is kept beside the tree.
        ensure!(one - empty > 8_000_000, "{empty} -> {one}");

        let second = daemon.ok(&["pull", &registry.reference("second")])?;
        let [fetched, layers_fetched, present, layers_present] = pull_numbers(&second.stdout)?;
        assert_eq!((layers_fetched, layers_present), (1, 1), "{second}");
        ensure!(fetched > 50_000 && fetched < 80_000, "{second}");
        ensure!(present > 4_000_000, "{second}");
        let both = disk_usage(daemon.root())?;
        ensure!(both - one < 400_000, "the second image took {} bytes", both - one);

        // What the first has alone goes with it, what both have stays.
        daemon.ok(&["rmi", &registry.reference("first")])?;
        let left = disk_usage(daemon.root())?;
        ensure!(left < both && left > 8_000_000, "{both} -> {left}");
        Ok(())
    })
}

/// An image for an architecture; the content tells them apart.
fn image_for(architecture: &str, variant: &str) -> Result<ImageLayout> {
    let tar = LayerTar::of([Entry::file("for", format!("{architecture}{variant}"))]);
    let mut image = ImageLayout::new(&[tar], &json!({ "Cmd": ["/for"] }))?;
    image.config["architecture"] = json!(architecture);
    if !variant.is_empty() {
        image.config["variant"] = json!(variant);
    }
    let config = serde_json::to_vec(&image.config)?;
    image.manifest["config"]["digest"] = json!(digest(&config));
    image.manifest["config"]["size"] = json!(config.len());
    Ok(image)
}

/// Serves an index of these images as `many:latest`.
fn serve_index(images: &[(&str, &str, ImageLayout)]) -> Result<Hostile> {
    let (_, _, first) = images.first().context("an image")?;
    let reply = |content_type: &str, body: Vec<u8>| Reply {
        content_type: content_type.to_owned(),
        claimed_length: None,
        body,
    };
    let mut replies: HashMap<String, Reply> = HashMap::new();
    let mut entries = Vec::new();
    for (architecture, variant, image) in images {
        let manifest = serde_json::to_vec(&image.manifest)?;
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        entries.push(json!({
            "mediaType": media_type, "digest": digest(&manifest), "size": manifest.len(), "platform": platform,
        }));
        for blob in image.blobs()? {
            replies.insert(
                format!("blobs/{}", digest(&blob)),
                reply("application/octet-stream", blob),
            );
        }
        replies.insert(
            format!("manifests/{}", digest(&manifest)),
            reply(media_type, manifest),
        );
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
    let index = serde_json::to_vec(&index)?;
    replies.insert(
        format!("manifests/{}", digest(&index)),
        reply(media_type, index.clone()),
    );
    replies.insert("manifests/latest".to_owned(), reply(media_type, index));
    Hostile::serve("many", first, |served| served.extend(replies))
}

fn architecture(daemon: &Crozed<'_>, image: &str) -> Result<String> {
    let details = daemon.inspect(image)?;
    Ok(details["Architecture"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn an_index_is_searched_in_dockers_order() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let all = [("386", ""), ("arm", "v6"), ("amd64", ""), ("arm", "v7")];
        let images = all
            .iter()
            .map(|&(architecture, variant)| Ok((architecture, variant, image_for(architecture, variant)?)))
            .collect::<Result<Vec<_>>>()?;
        let server = serve_index(&images)?;
        let image = format!("{}/many:latest", server.address());
        daemon.ok(&["pull", &image])?;
        assert_eq!(architecture(&daemon, &image)?, "amd64");
        // A 64-bit ARM processor runs what there is for 32 bits, the newest of it.
        for (platform, expected) in [
            ("linux/arm64", "armv7"),
            ("linux/arm/v6", "armv6"),
            ("linux/386", "386"),
        ] {
            let output = daemon.ok(&["pull", "--platform", platform, &image])?;
            ensure!(!output.stderr.contains("does not match"), "{output}");
            let details = daemon.inspect(&image)?;
            let layer = &images
                .iter()
                .find(|(architecture, variant, _)| format!("{architecture}{variant}") == expected)
                .context("the image")?
                .2;
            assert_eq!(
                details["RootFS"]["Layers"], layer.config["rootfs"]["diff_ids"],
                "{platform}"
            );
        }
        daemon
            .croze(&["pull", "--platform", "linux/s390x", &image])?
            .failure(&[
                "linux/s390x",
                "linux/386, linux/arm/v6, linux/amd64, linux/arm/v7",
            ])?;

        // Only by its own name is another machine's image asked for; then nobody is warned.
        daemon.ok(&["pull", &image])?;
        let output = daemon.ok(&["create", "--platform", "linux/arm/v7", &image])?;
        ensure!(!output.stderr.contains("does not match"), "{output}");
        assert_eq!(architecture(&daemon, &image)?, "arm");
        daemon.finish()
    })
}

#[test]
fn an_image_for_another_machine_is_taken_with_a_warning() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let server = Hostile::serve("other", &image_for("s390x", "")?, |_| ())?;
        let image = format!("{}/other:latest", server.address());
        let warning =
            "The requested image's platform (linux/s390x) does not match the detected host platform (linux/";
        let output = daemon.ok(&["pull", &image])?;
        ensure!(output.stderr.contains(warning), "{output}");
        let output = daemon.ok(&["create", "--name", "other", &image])?;
        ensure!(output.stderr.contains(warning), "{output}");
        let output = daemon.ok(&["pull", "--platform", "linux/s390x", &image])?;
        ensure!(!output.stderr.contains("does not match"), "{output}");
        daemon
            .croze(&["pull", "--platform", "linux/amd64", &image])?
            .failure(&["linux/s390x", "linux/amd64"])?;
        daemon
            .croze(&["create", "--platform", "linux/amd64", "--pull", "never", &image])?
            .failure(&["wanted linux/amd64, actual linux/s390x"])?;
        daemon.finish()
    })
}

#[test]
fn what_is_no_image_is_refused_with_words() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let good = image_for("amd64", "")?;
        let artifact = |media_type: &str| -> Result<ImageLayout> {
            let mut image = good.clone();
            image.config = json!({});
            let config = serde_json::to_vec(&image.config)?;
            image.manifest["config"] =
                json!({ "mediaType": media_type, "digest": digest(&config), "size": config.len() });
            Ok(image)
        };
        for media_type in [
            "application/vnd.oci.empty.v1+json",
            "application/vnd.cncf.helm.config.v1+json",
        ] {
            let server = Hostile::serve("artifact", &artifact(media_type)?, |_| ())?;
            daemon
                .croze(&["pull", &format!("{}/artifact:latest", server.address())])?
                .failure(&["not an image that can be run", media_type])?;
        }
        let old: Value = json!({
            "schemaVersion": 1, "name": "old", "tag": "latest", "architecture": "amd64",
            "fsLayers": [{ "blobSum": digest(b"layer") }], "history": [{ "v1Compatibility": "{}" }], "signatures": [],
        });
        for media_type in [
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "application/vnd.docker.distribution.manifest.v1+json",
            "application/json",
        ] {
            let body = serde_json::to_vec(&old)?;
            let server = Hostile::serve("old", &good, |replies| {
                if let Some(reply) = replies.get_mut("manifests/latest") {
                    reply.content_type = media_type.to_owned();
                    reply.body = body;
                }
            })?;
            daemon
                .croze(&["pull", &format!("{}/old:latest", server.address())])?
                .failure(&["schema version 1"])?;
        }
        assert_eq!(daemon.images()?, Vec::<String>::new());
        daemon.finish()
    })
}
