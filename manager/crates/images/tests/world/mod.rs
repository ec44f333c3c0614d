//! A registry made in memory, and a root to pull into.

#[path = "../../../registry/src/test_server.rs"]
mod test_server;

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use croze_images::{Images, Progress, PullOptions, Pulled, RemoveOptions};
use croze_model::{Digest, Reference, Result};
use croze_registry::Registry;
use croze_snapshots::Snapshots;
pub(crate) use test_server::{Reply, Request, Server};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What the registry has: answers by path.
pub(crate) type Content = Arc<Mutex<HashMap<String, Reply>>>;

/// A registry, and a root to pull into.
pub(crate) struct World {
    pub(crate) content: Content,
    pub(crate) server: Server,
    pub(crate) root: tempfile::TempDir,
    pub(crate) snapshots: Snapshots,
    pub(crate) images: Images,
}

/// A layer as the registry has it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
}

impl World {
    pub(crate) async fn new() -> Self {
        let content = Content::default();
        let served = content.clone();
        let server = Server::start(move |request: &Request| {
            served
                .lock()
                .unwrap()
                .get(&request.path)
                .cloned()
                .unwrap_or_else(|| Reply::new(404, "{}"))
        })
        .await;
        let root = tempfile::tempdir().unwrap();
        let (snapshots, images) = open(root.path()).await;
        Self {
            content,
            server,
            root,
            snapshots,
            images,
        }
    }

    pub(crate) fn serve(&self, path: String, reply: Reply) {
        self.content.lock().unwrap().insert(path, reply);
    }

    pub(crate) fn serve_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        self.serve(format!("/v2/{name}/blobs/{digest}"), Reply::new(200, bytes));
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    }

    /// Puts an image into the registry under `name:tag`; returns its manifest's digest and size.
    pub(crate) fn image(&self, name: &str, tag: &str, layers: &[Layer]) -> (Digest, usize) {
        self.image_of(name, tag, layers, "linux", MANIFEST)
    }

    pub(crate) fn image_of(
        &self,
        name: &str,
        tag: &str,
        layers: &[Layer],
        os: &str,
        media_type: &str,
    ) -> (Digest, usize) {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| format!("\"{}\"", layer.diff_id))
            .collect();
        // The tag is in the config, so that two images of the same layers have different ids.
        let config = format!(
            r#"{{"architecture":"amd64","os":"{os}","created":"2024-01-02T03:04:05Z","config":{{"Cmd":["{tag}"],"Env":null,"ArgsEscaped":true}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config = self.serve_blob(name, config.as_bytes());
        let layers: Vec<String> = layers
            .iter()
            .map(|layer| {
                let descriptor = self.serve_blob(name, &layer.blob);
                format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",{descriptor}}}"#)
            })
            .collect();
        let config_type = if media_type == DOCKER_MANIFEST {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"{config_type}",{config}}},"layers":[{}]}}"#,
            layers.join(",")
        );
        self.document(name, tag, media_type, manifest.as_bytes())
    }

    pub(crate) fn document(&self, name: &str, tag: &str, media_type: &str, bytes: &[u8]) -> (Digest, usize) {
        let digest = Digest::of(bytes);
        for identifier in [tag.to_owned(), digest.to_string()] {
            let reply = Reply::new(200, bytes).with("Content-Type", media_type);
            self.serve(format!("/v2/{name}/manifests/{identifier}"), reply);
        }
        (digest, bytes.len())
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.server.address).parse().unwrap()
    }

    pub(crate) async fn pull(&self, rest: &str) -> Result<Pulled> {
        self.images
            .pull(
                &self.reference(rest),
                &platform("linux/amd64"),
                &Progress::ignored(),
            )
            .await
    }

    pub(crate) async fn remove(&self, rest: &str) -> Result<croze_images::Removed> {
        self.images
            .remove(&self.reference(rest).to_string(), RemoveOptions::default(), &[])
            .await
    }

    /// What is stored: blobs, layers, records, unfinished things.
    pub(crate) fn stored(&self) -> Stored {
        let count = |path: &str| fs::read_dir(self.root.path().join(path)).unwrap().count();
        Stored {
            blobs: count("content/blobs/sha256"),
            layers: count("snapshots/layers"),
            images: count("images"),
            tags: count("tags"),
            pairs: count("pairs"),
            unfinished: count("content/ingest") + count("snapshots/staging"),
        }
    }

    /// How often a blob was asked for.
    pub(crate) fn asked(&self, layer: &Layer) -> usize {
        let path = format!("/blobs/{}", Digest::of(&layer.blob));
        self.server
            .requests()
            .iter()
            .filter(|request| request.path.ends_with(&path))
            .count()
    }

    pub(crate) fn tree(&self, layer: &Layer) -> PathBuf {
        self.root
            .path()
            .join("snapshots/layers")
            .join(layer.diff_id.hex())
            .join("fs")
    }
}

#[derive(Debug, PartialEq, Eq, Default, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) blobs: usize,
    pub(crate) layers: usize,
    pub(crate) images: usize,
    pub(crate) tags: usize,
    pub(crate) pairs: usize,
    pub(crate) unfinished: usize,
}

pub(crate) async fn open(root: &Path) -> (Snapshots, Images) {
    open_with(root, Registry::default()).await
}

pub(crate) async fn open_with(root: &Path, registry: Registry) -> (Snapshots, Images) {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || {
        let snapshots = Snapshots::open(&root).unwrap();
        let images = Images::open(&root, snapshots.clone(), registry).unwrap();
        (snapshots, images)
    })
    .await
    .unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer of files; a name with `->` is a hard link. Names are written as they are, sensible or not.
pub(crate) fn layer(files: &[(&str, &str)]) -> Layer {
    let mut bytes = Vec::new();
    for (name, content) in files {
        let (name, link) = name.split_once(" -> ").unwrap_or((name, ""));
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(if link.is_empty() {
            tar::EntryType::Regular
        } else {
            tar::EntryType::Link
        });
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    Layer {
        blob: gzip(&bytes),
        diff_id: Digest::of(&bytes),
    }
}

/// The images made here are for this platform, whatever the test runs on.
pub(crate) fn platform(text: &str) -> PullOptions {
    PullOptions {
        platform: Some(text.parse().unwrap()),
        ..PullOptions::default()
    }
}
