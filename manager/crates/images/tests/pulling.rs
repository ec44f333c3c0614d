//! Pulls from a registry made in memory, into a root of the test's own: what comes, what stays, and that nothing stays when something fails.
#![allow(clippy::unwrap_used, reason = "what fails in a test's helper fails the test")]

mod world;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use croze_images::{
    EmbeddedFile, EmbeddedImage, ImageUse, LayerOrigin, LayerState, Progress, PullPhase, RemoveOptions,
};
use croze_model::{Digest, ErrorKind};
use world::{DOCKER_MANIFEST, INDEX, Layer, MANIFEST, Reply, Stored, World, layer, open, platform};

#[tokio::test]
async fn a_second_image_fetches_and_stores_only_the_difference() {
    let world = World::new().await;
    let (base, top) = (
        layer(&[("etc/base", "base")]),
        layer(&[("etc/top", "top"), ("etc/.wh.base", "")]),
    );
    world.image("a/base", "1", std::slice::from_ref(&base));
    let (digest, manifest_size) = world.image_of(
        "a/top",
        "1",
        &[base.clone(), top.clone()],
        "linux",
        DOCKER_MANIFEST,
    );

    let first = world.pull("a/base:1").await.unwrap();
    assert_eq!(first.bytes_existing, 0);
    let (progress, state) = Progress::new();
    let reference = world.reference("a/top:1");
    let second = world
        .images
        .pull(&reference, &platform("linux/amd64"), &progress)
        .await
        .unwrap();
    let origins: Vec<LayerOrigin> = second.layers.iter().map(|layer| layer.origin).collect();
    assert_eq!(origins, [LayerOrigin::Existed, LayerOrigin::Downloaded]);
    assert_eq!(second.bytes_existing, base.blob.len() as u64);
    let config_size = fs::metadata(
        world
            .root
            .path()
            .join("content/blobs/sha256")
            .join(second.id.hex()),
    )
    .unwrap()
    .len();
    assert_eq!(
        second.bytes_downloaded,
        top.blob.len() as u64 + manifest_size as u64 + config_size
    );
    assert_eq!((world.asked(&base), world.asked(&top)), (1, 1));
    assert_eq!((second.digest, second.up_to_date), (digest, false));

    let state = state.borrow().clone();
    assert_eq!(state.phase, PullPhase::Done);
    let seen: Vec<_> = state
        .layers
        .iter()
        .map(|layer| (layer.state, layer.received))
        .collect();
    assert_eq!(
        seen,
        [(LayerState::Exists, 0), (LayerState::Done, top.blob.len() as u64)]
    );

    assert_eq!(
        fs::read_to_string(world.tree(&base).join("etc/base")).unwrap(),
        "base"
    );
    assert_eq!(
        fs::symlink_metadata(world.tree(&top).join("etc/base"))
            .unwrap()
            .rdev(),
        0
    );
    assert_eq!(
        world.stored(),
        Stored {
            blobs: 6,
            layers: 2,
            images: 2,
            tags: 2,
            pairs: 2,
            unfinished: 0
        }
    );
    assert!(world.pull("a/top:1").await.unwrap().up_to_date);

    // Another process finds the same.
    let before = world.images.list().await.unwrap();
    let (_, again) = open(world.root.path()).await;
    assert_eq!(again.list().await.unwrap(), before);
    assert_eq!(world.stored().layers, 2);
}

#[tokio::test]
async fn images_are_found_by_every_name_they_have() {
    let world = World::new().await;
    let base = layer(&[("f", "1")]);
    let (one, size) = world.image("a/b", "one", std::slice::from_ref(&base));
    let (foreign, _) = world.image("a/b", "foreign", std::slice::from_ref(&base));
    let entry = |digest: Digest, os: &str| {
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{size},"platform":{{"os":"{os}","architecture":"amd64"}}}}"#
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        entry(foreign, "plan9"),
        entry(one, "linux")
    );
    let (digest, _) = world.document("a/b", "multi", INDEX, index.as_bytes());

    let pulled = world.pull("a/b:multi").await.unwrap();
    assert_eq!(pulled.digest, digest);
    let by_digest = format!("{}/a/b@{digest}", world.server.address);
    let id = pulled.id.to_string();
    for name in [
        &world.reference("a/b:multi").to_string(),
        &id,
        &id[7..],
        &id[7..19],
        &id[..20],
        &by_digest,
    ] {
        let image = world.images.resolve(name).await.unwrap();
        assert_eq!((image.id, image.manifest), (pulled.id, one), "{name}");
    }
    let image = world.images.resolve(&id).await.unwrap();
    assert_eq!(image.references, [world.reference("a/b:multi")]);
    assert_eq!(image.repo_digests[0].to_string(), by_digest);
    for name in ["a/b:none", "ff", &"f".repeat(12), "no such name"] {
        assert_eq!(
            world.images.resolve(name).await.unwrap_err().kind(),
            ErrorKind::NotFound,
            "{name}"
        );
    }
    let details = world.images.inspect(&id).await.unwrap();
    assert_eq!(
        details.config.config().as_ref().unwrap().cmd().as_ref().unwrap(),
        &["one"]
    );
    assert_eq!(details.raw["config"]["ArgsEscaped"], true);

    let error = world
        .images
        .pull(
            &world.reference("a/b:multi"),
            &platform("linux/arm64"),
            &Progress::ignored(),
        )
        .await;
    let error = error.unwrap_err();
    assert!(
        error
            .what()
            .ends_with("has no image for linux/arm64: it has plan9/amd64, linux/amd64"),
        "{}",
        error.what()
    );
}

#[tokio::test]
async fn whatever_fails_is_named_and_leaves_nothing() {
    let good = layer(&[("good", &"good".repeat(10_000))]);
    let other = layer(&[("other", "x")]);
    let path = |name: &str, layer: &Layer| format!("/v2/{name}/blobs/{}", Digest::of(&layer.blob));
    let damaged = {
        let mut bytes = good.blob.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        bytes
    };
    let world = World::new().await;
    let pair = [good.clone(), other.clone()];

    world.image("bad/digest", "latest", &pair);
    world.serve(path("bad/digest", &good), Reply::new(200, damaged));
    world.image("bad/short", "latest", &pair);
    world.serve(
        path("bad/short", &good),
        Reply::new(200, &good.blob[..good.blob.len() - 10]),
    );
    world.image("bad/missing", "latest", &pair);
    world.content.lock().unwrap().remove(&path("bad/missing", &good));
    world.image(
        "bad/escape",
        "latest",
        &[other.clone(), layer(&[("../../escape", "x")])],
    );
    let liar = Layer {
        diff_id: other.diff_id,
        ..good.clone()
    };
    world.image("bad/diff-id", "latest", &[liar]);
    world.image(
        "bad/link",
        "latest",
        &[other.clone(), layer(&[("h -> nowhere", "")])],
    );
    world.image_of("bad/os", "latest", &pair, "plan9", MANIFEST);
    let cut = Layer {
        blob: good.blob[..good.blob.len() - 10].to_vec(),
        ..good.clone()
    };
    world.image("bad/gzip", "latest", &[cut]);

    for (name, kind, message) in [
        (
            "bad/digest",
            ErrorKind::Corrupt,
            "is damaged: its content has the digest",
        ),
        ("bad/short", ErrorKind::Corrupt, "it is truncated or damaged"),
        ("bad/missing", ErrorKind::Corrupt, "has no blob"),
        (
            "bad/escape",
            ErrorKind::Corrupt,
            "entry \"../../escape\" leads out of the layer",
        ),
        ("bad/diff-id", ErrorKind::Corrupt, "but the image's config says"),
        (
            "bad/link",
            ErrorKind::Corrupt,
            "\"h\" is a hard link to \"nowhere\", which neither this layer nor one below has",
        ),
        (
            "bad/os",
            ErrorKind::NotFound,
            "is made for plan9/amd64, but linux/amd64 was asked for",
        ),
        ("bad/gzip", ErrorKind::Corrupt, "cannot decompress the layer"),
        (
            "bad/unknown",
            ErrorKind::NotFound,
            "has no image bad/unknown with tag latest",
        ),
    ] {
        let error = world.pull(name).await.unwrap_err();
        let line = error.one_line();
        assert!(line.contains(message), "{name}: {line}");
        assert_eq!(error.kind(), kind, "{name}: {line}");
        assert_eq!(world.stored(), Stored::default(), "{name}");
    }
    assert!(!world.root.path().parent().unwrap().join("escape").exists());
}

#[tokio::test]
async fn the_same_layer_wanted_twice_at_once_is_fetched_once() {
    let world = World::new().await;
    let base = layer(&[("f", &"croze ".repeat(200_000))]);
    world.image("a/one", "1", std::slice::from_ref(&base));
    world.image("a/two", "1", &[base.clone(), base.clone()]);
    let (one, again, two) = tokio::join!(
        world.pull("a/one:1"),
        world.pull("a/one:1"),
        world.pull("a/two:1")
    );
    let (one, again, two) = (one.unwrap(), again.unwrap(), two.unwrap());
    assert_eq!(one.id, again.id);
    assert_eq!(world.asked(&base), 1);
    let fetched = [&one, &again, &two]
        .iter()
        .flat_map(|pulled| &pulled.layers)
        .filter(|layer| layer.origin == LayerOrigin::Downloaded)
        .count();
    assert_eq!(fetched, 1);
    assert_eq!(
        world.stored(),
        Stored {
            blobs: 5,
            layers: 1,
            images: 2,
            tags: 2,
            pairs: 1,
            unfinished: 0
        }
    );
}

#[tokio::test]
async fn a_pull_that_is_dropped_stops_and_leaves_nothing() {
    let world = World::new().await;
    let (base, slow) = (layer(&[("f", "1")]), layer(&[("g", &"croze ".repeat(1000))]));
    world.image("a/b", "1", &[base, slow.clone()]);
    let stalled = Reply {
        cut: Some(20),
        stalls: true,
        ..Reply::new(200, slow.blob.clone())
    };
    world.serve(format!("/v2/a/b/blobs/{}", Digest::of(&slow.blob)), stalled);

    let (progress, mut state) = Progress::new();
    let (images, reference) = (world.images.clone(), world.reference("a/b:1"));
    let pull =
        tokio::spawn(async move { images.pull(&reference, &platform("linux/amd64"), &progress).await });
    // The first layer is complete, the second hangs.
    state
        .wait_for(|state| {
            state
                .layers
                .iter()
                .map(|l| l.state)
                .eq([LayerState::Done, LayerState::Downloading])
        })
        .await
        .unwrap();
    assert_eq!(world.stored().layers, 1);
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    // The clean-up runs on its own: it ends when nothing is left.
    let clean = async {
        while world.stored() != Stored::default() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), clean)
        .await
        .unwrap_or_else(|_| panic!("{:?}", world.stored()));
}

#[tokio::test]
async fn a_registry_that_is_stuck_holds_up_no_other() {
    let world = World::new().await;
    let stuck: Vec<Layer> = (0..4)
        .map(|n| layer(&[(&format!("f{n}"), &"croze ".repeat(1000))]))
        .collect();
    world.image("a/stuck", "1", &stuck);
    for layer in &stuck {
        let reply = Reply {
            cut: Some(20),
            stalls: true,
            ..Reply::new(200, layer.blob.clone())
        };
        world.serve(format!("/v2/a/stuck/blobs/{}", Digest::of(&layer.blob)), reply);
    }
    world.image("a/healthy", "1", &[layer(&[("g", "1")])]);
    let (progress, mut state) = Progress::new();
    let (images, reference) = (world.images.clone(), world.reference("a/stuck:1"));
    let pull =
        tokio::spawn(async move { images.pull(&reference, &platform("linux/amd64"), &progress).await });
    let all_fetch = |state: &croze_images::PullState| {
        state.layers.len() == 4 && state.layers.iter().all(|l| l.state == LayerState::Downloading)
    };
    state.wait_for(all_fetch).await.unwrap();
    // The same server under its other name is another registry.
    let other = format!("localhost:{}/a/healthy:1", world.server.address.port());
    let (progress, _state) = Progress::new();
    let (reference, platform) = (other.parse().unwrap(), platform("linux/amd64"));
    let healthy = world.images.pull(&reference, &platform, &progress);
    tokio::time::timeout(std::time::Duration::from_secs(20), healthy)
        .await
        .expect("a healthy registry waits for one that is stuck")
        .unwrap();
    pull.abort();
}

#[tokio::test]
async fn removal_frees_what_nobody_else_names() {
    let world = World::new().await;
    let (base, top) = (layer(&[("f", "1234567890")]), layer(&[("g", "12345")]));
    world.image("a/base", "1", std::slice::from_ref(&base));
    world.image("a/top", "1", &[base.clone(), top.clone()]);
    world.pull("a/base:1").await.unwrap();
    let id = world.pull("a/top:1").await.unwrap().id;
    world
        .snapshots
        .prepare("container", &[base.diff_id, top.diff_id])
        .unwrap();

    let user = ImageUse {
        image: id,
        container: "web".to_owned(),
        running: false,
    };
    let name = world.reference("a/top:1").to_string();
    let refused = world
        .images
        .remove(&name, RemoveOptions::default(), std::slice::from_ref(&user))
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    // By force the image goes, but not the layers under the container.
    let removed = world
        .images
        .remove(&name, RemoveOptions { force: true }, &[user])
        .await
        .unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 1));
    assert_eq!(world.stored().layers, 2);
    world.snapshots.remove("container").unwrap();
    assert_eq!(world.images.collect().await.unwrap(), 5, "the top layer's file");
    assert_eq!(
        world.stored(),
        Stored {
            blobs: 3,
            layers: 1,
            images: 1,
            tags: 1,
            pairs: 1,
            unfinished: 0
        }
    );

    let removed = world.remove("a/base:1").await.unwrap();
    assert!(removed.bytes_freed > 10 + base.blob.len() as u64);
    assert_eq!(world.stored(), Stored::default());
    assert_eq!(
        world.remove("a/base:1").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_tag_that_moves_leaves_its_old_image_nameless() {
    let world = World::new().await;
    world.image("a/b", "latest", &[layer(&[("f", "old")])]);
    let old = world.pull("a/b").await.unwrap();
    world.image("a/b", "latest", &[layer(&[("f", "new")])]);
    let new = world.pull("a/b").await.unwrap();
    assert!(!new.up_to_date);
    let ids: Vec<Digest> = world
        .images
        .list()
        .await
        .unwrap()
        .iter()
        .map(|image| image.id)
        .collect();
    assert_eq!(ids, [new.id, old.id]);
    assert_eq!(
        world.images.resolve(&old.id.short()).await.unwrap().references,
        []
    );
    world
        .images
        .remove(&old.id.short(), RemoveOptions::default(), &[])
        .await
        .unwrap();
    assert_eq!(
        world.stored(),
        Stored {
            blobs: 3,
            layers: 1,
            images: 1,
            tags: 1,
            pairs: 1,
            unfinished: 0
        }
    );
}

#[tokio::test]
async fn a_layer_that_links_into_a_lower_one_is_kept_under_its_chain() {
    let world = World::new().await;
    let base = layer(&[("f", "shared")]);
    let links = layer(&[("h -> f", "")]);
    world.image("a/b", "1", &[base.clone(), links.clone()]);
    world.pull("a/b:1").await.unwrap();
    let chain = [base.diff_id, links.diff_id];
    let top = world.snapshots.top_layer(&chain).unwrap().unwrap();
    assert_eq!(Some(top.key), croze_snapshots::chain_id(&chain));
    let tree = &world.snapshots.trees(&chain).unwrap()[0];
    let metadata = fs::metadata(tree.join("h")).unwrap();
    assert_eq!(
        (metadata.ino(), metadata.nlink()),
        (fs::metadata(tree.join("f")).unwrap().ino(), 2)
    );
    // It is found again, and goes with its image.
    assert!(world.pull("a/b:1").await.unwrap().up_to_date);
    assert_eq!(world.asked(&links), 1);
    world.remove("a/b:1").await.unwrap();
    assert_eq!(world.stored(), Stored::default());
}

#[tokio::test]
async fn a_lost_layer_is_made_again_from_its_blob_and_a_damaged_blob_is_fetched_again() {
    let world = World::new().await;
    let base = layer(&[("f", "1")]);
    world.image("a/b", "1", std::slice::from_ref(&base));
    world.pull("a/b:1").await.unwrap();
    world.snapshots.remove_layer(&base.diff_id).unwrap();
    let again = world.pull("a/b:1").await.unwrap();
    assert_eq!(
        (again.layers[0].origin, world.asked(&base)),
        (LayerOrigin::Existed, 1)
    );
    assert!(world.tree(&base).join("f").is_file());

    world.snapshots.remove_layer(&base.diff_id).unwrap();
    let blob = world
        .root
        .path()
        .join("content/blobs/sha256")
        .join(Digest::of(&base.blob).hex());
    fs::write(&blob, vec![0x1f; base.blob.len()]).unwrap();
    let again = world.pull("a/b:1").await.unwrap();
    assert_eq!(
        (again.layers[0].origin, world.asked(&base)),
        (LayerOrigin::Downloaded, 2)
    );
    assert!(world.tree(&base).join("f").is_file());
    assert_eq!(fs::read(&blob).unwrap(), base.blob);
}

#[tokio::test]
async fn embedded_images_are_the_same_everywhere_and_installed_once() {
    let image = |paths: &[&str]| EmbeddedImage {
        reference: "croze/hello".parse().unwrap(),
        files: paths
            .iter()
            .map(|path| EmbeddedFile {
                path: (*path).to_owned(),
                mode: 0o755,
                content: b"#!".to_vec(),
            })
            .collect(),
        entrypoint: vec!["/bin/hello".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        exposed_ports: vec!["80/tcp".to_owned()],
        labels: vec![("note".to_owned(), "x".to_owned())],
        created: None,
    };
    let world = World::new().await;
    let id = world
        .images
        .import_embedded(image(&["bin/hello", "etc/a/b"]))
        .await
        .unwrap();
    assert_eq!(
        world
            .images
            .import_embedded(image(&["etc/a/b", "bin/hello"]))
            .await
            .unwrap(),
        id
    );
    assert_eq!(
        World::new()
            .await
            .images
            .import_embedded(image(&["bin/hello", "etc/a/b"]))
            .await
            .unwrap(),
        id
    );
    assert_eq!(
        world.stored(),
        Stored {
            blobs: 3,
            layers: 1,
            images: 1,
            tags: 1,
            pairs: 1,
            unfinished: 0
        }
    );
    let details = world.images.inspect("croze/hello").await.unwrap();
    let config = details.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_ref().unwrap(), &["/bin/hello"]);
    assert_eq!(config.labels().as_ref().unwrap()["note"], "x");
    let tree = &world.snapshots.trees(&details.image.diff_ids()).unwrap()[0];
    assert_eq!(
        fs::metadata(tree.join("bin/hello")).unwrap().mode() & 0o7777,
        0o755
    );
    assert_eq!(fs::metadata(tree).unwrap().mtime(), 0);
    for path in ["../x", "/x", "a//b", ""] {
        let error = world.images.import_embedded(image(&[path])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{path}");
    }
}
