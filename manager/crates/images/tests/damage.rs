//! What damage on the disk and hostile registries do to images, and what they must not do.
#![allow(clippy::unwrap_used, reason = "what fails in a test's helper fails the test")]

#[allow(dead_code, reason = "shared with the other suite, which needs more of it")]
mod world;

use std::fs;
use std::path::PathBuf;

use croze_images::{LayerOrigin, LayerState, Progress, RemoveOptions};
use croze_model::{Digest, ErrorKind};
use croze_registry::{Host, Registry};
use world::{
    INDEX, Layer, MANIFEST, Reply, Request, Server, Stored, World, layer, open, open_with, platform,
};

fn image_file(world: &World, id: &Digest) -> PathBuf {
    world
        .root
        .path()
        .join("images")
        .join(format!("{}.json", id.hex()))
}

#[tokio::test]
async fn nothing_is_cleaned_up_while_an_image_cannot_be_read() {
    for newer in [false, true] {
        let world = World::new().await;
        world.image("a/one", "1", &[layer(&[("f", "1")])]);
        world.image("a/two", "1", &[layer(&[("g", "2")])]);
        let one = world.pull("a/one:1").await.unwrap().id;
        world.pull("a/two:1").await.unwrap();
        let before = world.stored();
        let record = image_file(&world, &one);
        let text = fs::read_to_string(&record).unwrap();
        let damage = if newer {
            text.replace("\"version\":1", "\"version\":99")
        } else {
            text[..40].to_owned()
        };
        fs::write(&record, damage).unwrap();
        let (_, again) = open(world.root.path()).await;
        assert_eq!(again.collect().await.unwrap(), 0);
        assert!(world.pull("a/missing:1").await.is_err());
        assert_eq!(world.stored(), before, "newer: {newer}");
        // The other image can be used and removed meanwhile.
        assert_eq!(world.remove("a/two:1").await.unwrap().bytes_freed, 0);
        if newer {
            fs::write(&record, text).unwrap();
        } else {
            world.pull("a/one:1").await.unwrap();
            assert!(world.images.resolve(&one.short()).await.is_ok());
        }
        assert!(world.images.collect().await.unwrap() > 0);
        world.remove("a/one:1").await.unwrap();
        assert_eq!(world.stored().layers, 0);
    }
}

#[tokio::test]
async fn a_pull_heals_a_damaged_config_manifest_and_layer_record() {
    let world = World::new().await;
    let base = layer(&[("f", "1")]);
    let (manifest, _) = world.image("a/b", "1", std::slice::from_ref(&base));
    let id = world.pull("a/b:1").await.unwrap().id;
    for digest in [&id, &manifest] {
        let blob = world.root.path().join("content/blobs/sha256").join(digest.hex());
        let whole = fs::read(&blob).unwrap();
        // As long as before, and still JSON for the config: only its digest tells.
        let text = String::from_utf8(whole.clone())
            .unwrap()
            .replace("amd64", "arm64");
        let damaged = text.replacen("schemaVersion", "schemaversion", 1);
        assert!(damaged.len() == whole.len() && damaged.as_bytes() != whole);
        fs::write(&blob, damaged).unwrap();
        world.pull("a/b:1").await.unwrap();
        assert_eq!(fs::read(&blob).unwrap(), whole);
    }
    assert!(world.images.inspect(&id.short()).await.is_ok());

    let record = world.tree(&base).with_file_name("layer.json");
    fs::write(&record, "").unwrap();
    world.pull("a/b:1").await.unwrap();
    world.snapshots.prepare("container", &[base.diff_id]).unwrap();
}

#[tokio::test]
async fn a_damaged_blob_that_still_unpacks_is_fetched_again() {
    let world = World::new().await;
    let packed = layer(&[("f", "content")]);
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.blob[..]), &mut plain).unwrap();
    let plain = Layer {
        blob: plain,
        diff_id: packed.diff_id,
    };
    world.image("a/b", "1", std::slice::from_ref(&plain));
    world.pull("a/b:1").await.unwrap();
    let blobs = world.root.path().join("content/blobs/sha256");
    let blob = blobs.join(Digest::of(&plain.blob).hex());
    let mut damaged = plain.blob.clone();
    damaged[512] ^= 1;
    fs::write(&blob, damaged).unwrap();
    world.snapshots.remove_layer(&plain.diff_id).unwrap();
    let again = world.pull("a/b:1").await.unwrap();
    assert_eq!(again.layers[0].origin, LayerOrigin::Downloaded);
    assert_eq!(fs::read(&blob).unwrap(), plain.blob);

    // A damaged header of a gzip file gives the same tar, and yet it is not the blob of this digest.
    world.image("a/packed", "1", std::slice::from_ref(&packed));
    world.pull("a/packed:1").await.unwrap();
    let blob = blobs.join(Digest::of(&packed.blob).hex());
    let mut damaged = packed.blob.clone();
    damaged[4] ^= 1;
    fs::write(&blob, damaged).unwrap();
    world.snapshots.remove_layer(&packed.diff_id).unwrap();
    world.pull("a/packed:1").await.unwrap();
    assert_eq!(fs::read(&blob).unwrap(), packed.blob);
}

#[tokio::test]
async fn manifests_that_no_image_has_are_refused_before_anything_is_fetched() {
    let world = World::new().await;
    let base = layer(&[("f", "1")]);
    world.image("a/many", "1", &vec![base.clone(); 1001]);
    let error = world.pull("a/many:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.what().contains("1001 layers"), "{}", error.what());

    world.image("a/b", "1", std::slice::from_ref(&base));
    let served = world.content.lock().unwrap()["/v2/a/b/manifests/1"].body.clone();
    let manifest = String::from_utf8(served).unwrap();
    let size = format!("\"size\":{}", base.blob.len());
    for (name, manifest, message) in [
        (
            "a/large",
            manifest.replace(&size, "\"size\":10000000000000"),
            "10000000000000 bytes",
        ),
        (
            "a/secret",
            manifest.replace("tar+gzip", "tar+gzip+encrypted"),
            "is encrypted",
        ),
    ] {
        world.document(name, "1", MANIFEST, manifest.as_bytes());
        let error = world.pull(&format!("{name}:1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.one_line());
        assert!(error.what().contains(message), "{}", error.what());
    }
    assert_eq!((world.asked(&base), world.stored()), (0, Stored::default()));
}

#[tokio::test]
async fn a_digest_that_was_pulled_is_a_name_of_its_own() {
    let world = World::new().await;
    let (digest, size) = world.image("a/b", "1", &[layer(&[("f", "1")])]);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    world.document("a/b", "2", INDEX, index.as_bytes());
    let by_digest = format!("a/b@{digest}");
    world.pull("a/b:1").await.unwrap();
    let error = world.remove(&by_digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.one_line());
    world.pull(&by_digest).await.unwrap();
    world.pull("a/b:2").await.unwrap();
    let removed = world.remove(&by_digest).await.unwrap();
    assert_eq!(removed.untagged, [world.reference(&by_digest)]);
    assert_eq!(removed.deleted, []);
    assert_eq!(world.stored().tags, 2);

    world.pull(&by_digest).await.unwrap();
    world.remove("a/b:1").await.unwrap();
    world.remove("a/b:2").await.unwrap();
    assert_eq!(world.stored().images, 1, "the digest still names it");
    let removed = world.remove(&by_digest).await.unwrap();
    assert_eq!(removed.deleted.len(), 1);
    assert_eq!(world.stored(), Stored::default());
    let options = RemoveOptions { force: true };
    assert!(world.images.remove(&by_digest, options, &[]).await.is_err());
}

#[tokio::test]
async fn who_waits_for_another_registrys_download_does_not_share_its_failure() {
    let world = World::new().await;
    let base = layer(&[("f", "1")]);
    world.image("a/bad", "1", std::slice::from_ref(&base));
    world.image("a/good", "1", std::slice::from_ref(&base));
    let busy = Reply::new(503, "");
    world.serve(format!("/v2/a/bad/blobs/{}", Digest::of(&base.blob)), busy);
    let (progress, mut state) = Progress::new();
    let (images, reference) = (world.images.clone(), world.reference("a/bad:1"));
    let bad = tokio::spawn(async move { images.pull(&reference, &platform("linux/amd64"), &progress).await });
    state
        .wait_for(|state| state.layers.iter().any(|l| l.state == LayerState::Downloading))
        .await
        .unwrap();
    let good = world.pull("a/good:1").await.unwrap();
    assert_eq!(good.layers[0].origin, LayerOrigin::Downloaded);
    assert_eq!(bad.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(world.stored().images, 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_can_be_removed() {
    let world = World::new().await;
    for (name, content) in [("a/one", "1"), ("a/two", "2"), ("a/three", "3")] {
        world.image(name, "1", &[layer(&[("f", content)])]);
    }
    let one = world.pull("a/one:1").await.unwrap().id;
    let two = world.pull("a/two:1").await.unwrap().id;
    world.pull("a/three:1").await.unwrap();
    assert_eq!(world.images.unreadable().await.unwrap(), [] as [String; 0]);
    fs::write(image_file(&world, &one), "noise").unwrap();
    let newer = fs::read_to_string(image_file(&world, &two)).unwrap();
    fs::write(
        image_file(&world, &two),
        newer.replace("\"version\":1", "\"version\":99"),
    )
    .unwrap();
    for _ in 0..2 {
        let lines = world.images.unreadable().await.unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for id in [&one, &two] {
            let advice = format!("croze rmi {}", id.short());
            assert!(lines.iter().any(|line| line.ends_with(&advice)), "{lines:?}");
        }
    }
    // By its id, by its name.
    let short = one.short();
    let by_id = world.images.remove(&short, RemoveOptions::default(), &[]);
    assert_eq!(by_id.await.unwrap().deleted, [one]);
    assert_eq!(world.remove("a/two:1").await.unwrap().deleted, [two]);
    assert_eq!(world.images.unreadable().await.unwrap(), [] as [String; 0]);
    assert_eq!(world.stored().layers, 1, "only the third one's is left");

    let tags = world.root.path().join("tags");
    let tag = fs::read_dir(&tags).unwrap().next().unwrap().unwrap().path();
    fs::write(&tag, "noise").unwrap();
    assert_eq!(world.images.unreadable().await.unwrap().len(), 1);
    let removed = world.remove("a/three:1").await.unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0));
    assert_eq!(world.images.unreadable().await.unwrap(), [] as [String; 0]);
}

#[tokio::test]
async fn an_image_and_its_name_come_and_go_together_whatever_is_cut() {
    let world = World::new().await;
    world.image("a/b", "1", &[layer(&[("f", "old")])]);
    let old = world.pull("a/b:1").await.unwrap().id;
    let only_old = world.stored();
    let record = |kind: &str, needle: &str| {
        let entries = fs::read_dir(world.root.path().join(kind)).unwrap();
        let mut texts = entries.map(|entry| {
            let path = entry.unwrap().path();
            (path.clone(), fs::read_to_string(path).unwrap())
        });
        texts.find(|(_, text)| text.contains(needle)).unwrap()
    };
    let (tag_file, old_tag) = record("tags", "a/b");

    // The name moves to a new image; the old one stays without any.
    world.image("a/b", "1", &[layer(&[("f", "new"), ("g", "")])]);
    let new = world.pull("a/b:1").await.unwrap().id;
    let new_tag = fs::read_to_string(&tag_file).unwrap();
    let image = image_file(&world, &new);
    let whole = fs::read_to_string(&image).unwrap();
    assert!(!whole.contains("naming"), "{whole}");
    let waiting = |tag: &str| {
        let mut image: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let tag: serde_json::Value = serde_json::from_str(tag).unwrap();
        image["record"]["naming"] = tag["record"].clone();
        image.to_string()
    };

    // Cut after the name had moved, and after that name had moved on to the old one: it has a name, or had one.
    fs::write(&image, waiting(&new_tag)).unwrap();
    let (_, images) = open(world.root.path()).await;
    assert_eq!(
        images.list().await.unwrap().len(),
        2,
        "the old one stays, nameless"
    );
    assert_eq!(fs::read_to_string(&image).unwrap(), whole);

    // Cut before the name had moved: as if nobody had pulled.
    fs::write(&image, waiting(&new_tag)).unwrap();
    fs::write(&tag_file, &old_tag).unwrap();
    let (_, images) = open(world.root.path()).await;
    let left = images.list().await.unwrap();
    assert_eq!(left.iter().map(|image| image.id).collect::<Vec<_>>(), [old]);
    assert_eq!(left[0].references.len(), 1);
    assert_eq!(world.stored(), only_old);

    // Moved there and back by whole pulls: the nameless one stays.
    let again = world.pull("a/b:1").await.unwrap().id;
    assert_eq!(again, new);
    fs::write(&tag_file, &old_tag).unwrap();
    let (_, images) = open(world.root.path()).await;
    assert_eq!(images.list().await.unwrap().len(), 2);

    // A removal that was cut after its first file leaves nothing.
    for id in [old, new] {
        fs::remove_file(image_file(&world, &id)).unwrap();
    }
    let (_, images) = open(world.root.path()).await;
    assert!(images.list().await.unwrap().is_empty());
    assert_eq!(world.stored(), Stored::default());
}

/// The header of the first entry of an archive, with another type and the checksum that goes with it.
fn with_type(archive: &[u8], entry_type: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::from_byte_slice(&archive[..512]).clone();
    header.set_entry_type(entry_type);
    header.set_cksum();
    [&header.as_bytes()[..], &archive[512..]].concat()
}

#[tokio::test]
async fn damage_that_looks_like_something_unsupported_is_the_sources() {
    let world = World::new().await;
    let whole = {
        let compressed = layer(&[("f", "1")]);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(
            &mut flate2::read::GzDecoder::new(&compressed.blob[..]),
            &mut bytes,
        )
        .unwrap();
        Layer {
            blob: bytes,
            diff_id: compressed.diff_id,
        }
    };
    world.image("a/b", "1", std::slice::from_ref(&whole));
    let damaged = with_type(&whole.blob, tar::EntryType::new(b'X'));
    let path = format!("/v2/a/b/blobs/{}", Digest::of(&whole.blob));

    // A mirror's is replaced by what the registry has.
    let (content, wrong, at) = (world.content.clone(), damaged.clone(), path.clone());
    let mirror = Server::start(move |request: &Request| {
        if request.path == at {
            return Reply::new(200, wrong.clone());
        }
        content.lock().unwrap().get(&request.path).cloned().unwrap()
    })
    .await;
    let host = Host {
        mirrors: vec![mirror.address.to_string().parse().unwrap()],
        ..Host::default()
    };
    let hosts = [(world.server.address.to_string(), host)];
    let root = tempfile::tempdir().unwrap();
    let (_, images) = open_with(root.path(), Registry::new(hosts.into_iter().collect())).await;
    let pull = async |name: &str| {
        let reference = world.reference(name);
        images
            .pull(&reference, &platform("linux/amd64"), &Progress::ignored())
            .await
    };
    pull("a/b:1").await.unwrap();
    assert_eq!(world.asked(&whole), 1);
    assert!(mirror.requests().iter().any(|request| request.path == path));

    // The registry's own is told as what it is, and so is one that was damaged here.
    world.serve(path, Reply::new(200, damaged.clone()));
    let error = world.pull("a/b:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.one_line());
    let blobs = root.path().join("content/blobs/sha256");
    fs::write(blobs.join(Digest::of(&whole.blob).hex()), &damaged).unwrap();
    fs::remove_dir_all(root.path().join("snapshots/layers").join(whole.diff_id.hex())).unwrap();
    world.serve_blob("a/b", &whole.blob);
    pull("a/b:1").await.unwrap();
    assert_eq!(world.asked(&whole), 3);

    // What the digest promises and is unsupported is that, and no other source is asked for it.
    let unsupported = Layer {
        diff_id: Digest::of(&damaged),
        blob: damaged,
    };
    world.image("a/c", "1", std::slice::from_ref(&unsupported));
    let error = pull("a/c:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.one_line());
    assert_eq!(world.asked(&unsupported), 0);
}

#[tokio::test]
async fn what_this_host_fails_at_ends_a_download_that_nothing_comes_of() {
    let one = layer(&[("f", &"content".repeat(1000))]);
    let whole = Reply::new(200, one.blob.clone());
    let mute = Reply {
        mute: true,
        ..whole.clone()
    };
    let stalls = Reply {
        cut: Some(10),
        stalls: true,
        ..whole
    };
    for (what, reply) in [("no answer", mute), ("no more", stalls)] {
        let world = World::new().await;
        world.image("a/b", "1", std::slice::from_ref(&one));
        let path = format!("/v2/a/b/blobs/{}", Digest::of(&one.blob));
        world.serve(path, reply);
        let staging = world.root.path().join("snapshots/staging");
        fs::remove_dir(&staging).unwrap();
        fs::write(&staging, "no directory").unwrap();
        // A silent registry is waited for for a minute, four times.
        let pull = tokio::time::timeout(std::time::Duration::from_secs(40), world.pull("a/b:1"));
        let error = pull.await.expect(what).unwrap_err();
        assert!(
            error.one_line().contains("staging"),
            "{what}: {}",
            error.one_line()
        );
    }
}
