//! Images: pulled, listed, shared, removed.

use std::fs;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Hostile, ImageLayout, LayerBuilder, Registry, Reply, Scene, digest};
use serde_json::json;

use crate::Stage;

/// The numbers of the line `fetched … (B bytes, L layers), already here … (B bytes, L layers)`.
pub(crate) fn pull_numbers(output: &str) -> Result<[u64; 4]> {
    let line = output
        .lines()
        .find(|line| line.starts_with("fetched "))
        .context("a summary of the pull")?;
    let numbers: Vec<u64> = line
        .split(['(', ')', ','])
        .filter_map(|part| {
            part.trim()
                .strip_suffix(" bytes")
                .or_else(|| part.trim().strip_suffix(" layers"))
        })
        .filter_map(|number| number.parse().ok())
        .collect();
    <[u64; 4]>::try_from(numbers).map_err(|numbers| anyhow::anyhow!("four numbers in {line:?}: {numbers:?}"))
}

#[test]
fn a_second_pull_fetches_nothing() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let again = stage.daemon.ok(&["pull", &stage.image])?;
        ensure!(again.stdout.contains("Image is up to date"), "{again}");
        let [_, layers_fetched, _, layers_present] = pull_numbers(&again.stdout)?;
        assert_eq!((layers_fetched, layers_present), (0, 1), "{again}");
        stage.daemon.finish()
    })
}

#[test]
fn images_lists_and_rmi_removes() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let listed = stage.daemon.ok(&["images"])?;
        let repository = stage.registry.reference("small");
        ensure!(
            listed
                .stdout
                .lines()
                .any(|line| line.contains(&repository) && line.contains("latest")),
            "{listed}"
        );
        let ids = stage.daemon.images()?;
        ensure!(
            ids.len() == 1 && ids.iter().all(|id| id.starts_with("sha256:")),
            "{ids:?}"
        );
        let details = stage.daemon.inspect(&stage.image)?;
        assert_eq!(details["Id"], json!(ids[0]));
        assert_eq!(details["Config"]["Cmd"], json!(["/bin/sh"]));

        // An image in use stays.
        stage.daemon.ok(&["create", "--name", "user", &stage.image])?;
        stage.daemon.croze(&["rmi", &stage.image])?.failure(&["user"])?;
        stage.daemon.ok(&["rm", "user"])?;
        stage.daemon.ok(&["rmi", &stage.image])?;
        assert_eq!(stage.daemon.images()?, Vec::<String>::new());
        stage.daemon.croze(&["rmi", &stage.image])?.failure(&["small"])?;
        stage.daemon.finish()
    })
}

#[test]
fn an_image_is_pulled_by_digest() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let answer = stage.daemon.ok(&["pull", &stage.image])?;
        let digest = answer
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("Digest: "))
            .context("a digest")?;
        let by_digest = format!("{}@{digest}", stage.registry.reference("small"));
        stage.daemon.ok(&["pull", &by_digest])?;
        stage.daemon.ok(&["run", "--rm", &by_digest, "/bin/true"])?;
        stage.daemon.finish()
    })
}

#[test]
fn run_pulls_what_is_missing_unless_told_not_to() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.daemon.ok(&["rmi", &stage.image])?;
        stage
            .daemon
            .croze(&["run", "--rm", "--pull", "never", &stage.image, "/bin/true"])?
            .code(125)?;
        let output = stage
            .daemon
            .ok(&["run", "--rm", &stage.image, "/bin/echo", "pulled"])?;
        assert_eq!(output.text(), "pulled", "the pull's words are not on stdout");
        stage.daemon.finish()
    })
}

/// Upper layers hide, replace and link what lower ones have.
#[test]
fn layers_are_stacked_with_their_whiteouts() -> Result<()> {
    Scene::play(|scene| {
        let rootfs = scene.new_directory("rootfs")?;
        croze_integration_tests::populate_rootfs(&rootfs)?;
        for directory in ["gone", "opaque", "kept"] {
            fs::create_dir(rootfs.join(directory))?;
            fs::write(rootfs.join(directory).join("old"), "old\n")?;
        }
        let base = LayerBuilder::new().directory(&rootfs)?.finish()?;
        let upper = LayerBuilder::new()
            .file(".wh.gone", 0o644, b"")?
            .file("opaque/.wh..wh..opq", 0o644, b"")?
            .file("opaque/new", 0o644, b"new\n")?
            .file("kept/.wh.old", 0o644, b"")?
            .file("kept/new", 0o600, b"new\n")?
            .symlink("link", "kept/new")?
            .finish()?;
        let third = LayerBuilder::new()
            .file("kept/new", 0o755, b"newest\n")?
            .finish()?;
        let layout = ImageLayout::new(&[base, upper, third], &json!({ "Env": ["PATH=/bin"] }))?;
        let layout = layout.write(scene, "layers", "latest")?;
        let registry = Registry::start(scene)?;
        registry.push(&layout, "latest", "layers:latest")?;
        let daemon = Crozed::start(scene)?;
        let script = "ls -d /gone; ls /opaque /kept; cat /link; stat -c %a /kept/new";
        let output = daemon.croze(&[
            "run",
            "--rm",
            &registry.reference("layers:latest"),
            "/bin/sh",
            "-c",
            script,
        ])?;
        let output = output.success()?;
        let expected = "/kept:\nnew\n\n/opaque:\nnew\nnewest\n755\n";
        assert_eq!(output.stdout, expected, "{output}");
        ensure!(output.stderr.contains("/gone: No such file"), "{output}");
        daemon.finish()
    })
}

#[test]
fn zstd_layers_and_schema_2_manifests_are_pulled() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let table: [(&str, &[&str], &str); 3] = [
            (
                "zstd",
                &["--dest-compress-format", "zstd", "--format", "oci"],
                "image.layer.v1.tar+zstd",
            ),
            (
                "schema2",
                &["--format", "v2s2"],
                "docker.distribution.manifest.v2+json",
            ),
            ("gzip", &["--format", "oci"], "image.layer.v1.tar+gzip"),
        ];
        for (name, flags, media_type) in table {
            // A layer of its own for each: skopeo would take what it has pushed before, compressed as it was.
            let rootfs = scene.new_directory(&format!("rootfs-{name}"))?;
            croze_integration_tests::populate_rootfs(&rootfs)?;
            fs::write(rootfs.join("which"), name)?;
            let tar = LayerBuilder::new().directory(&rootfs)?.finish()?;
            let layout = ImageLayout::uncompressed(&[tar], &json!({ "Env": ["PATH=/bin"] }))?;
            let layout = layout.write(scene, name, "latest")?;
            stage
                .registry
                .push_with(&layout, "latest", &format!("{name}:1"), flags)?;
            let manifest = stage.registry.manifest(name, "1")?;
            ensure!(
                manifest.contains(media_type),
                "what is served is what is meant: {manifest}"
            );
            let image = stage.registry.reference(&format!("{name}:1"));
            stage.daemon.ok(&["pull", &image])?;
            let output = stage.daemon.ok(&["run", "--rm", &image, "/bin/echo", name])?;
            assert_eq!(output.text(), name);
        }
        stage.daemon.finish()
    })
}

#[test]
fn an_index_leads_to_this_machines_platform() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let tar = ImageLayout::small_tar(scene)?;
        let layout = ImageLayout::new(&[tar], &json!({ "Env": ["PATH=/bin"] }))?;
        // An index with another platform's manifest before ours, served under the tag.
        let reply = |body: Vec<u8>| Reply {
            content_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            claimed_length: None,
            body,
        };
        let manifest = serde_json::to_vec(&layout.manifest)?;
        let entry = |architecture: &str, digest: String| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let other = digest(b"a manifest that nobody has");
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry("s390x", other), entry("amd64", digest(&manifest))],
        });
        let index = serde_json::to_vec(&index)?;
        let server = Hostile::serve("indexed", &layout, |replies| {
            replies.insert("manifests/latest".to_owned(), reply(index.clone()));
            replies.insert(format!("manifests/{}", digest(&index)), reply(index));
        })?;
        let image = format!("{}/indexed:latest", server.address());
        daemon.ok(&["pull", &image])?;
        assert_eq!(
            daemon.ok(&["run", "--rm", &image, "/bin/echo", "found"])?.text(),
            "found"
        );
        daemon
            .croze(&["pull", "--platform", "linux/mips", &image])?
            .failure(&["mips"])?;
        daemon.finish()
    })
}
