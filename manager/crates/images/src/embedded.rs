//! Images made here, from bytes that the daemon carries.

use std::collections::BTreeSet;
use std::io;

use croze_model::{Digest, Platform, Reference, Result};
use serde_json::json;

use crate::error::ImageError;
use crate::layer::Stored;
use crate::records::{ImageLayer, ImageRecord, TagRecord};
use crate::store::{Images, Inner};

/// The longest path of a tar header without extensions, in bytes.
const MAX_PATH: usize = 100;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// One file of an embedded image.
#[derive(Debug, Clone)]
pub struct EmbeddedFile {
    /// Where it lies, without the leading slash; 100 bytes at most.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub content: Vec<u8>,
}

/// An image to be made of a few files.
#[derive(Debug, Clone)]
pub struct EmbeddedImage {
    /// Its name.
    pub reference: Reference,
    /// Its files; the directories above them are made.
    pub files: Vec<EmbeddedFile>,
    /// What runs by default.
    pub entrypoint: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Ports that a container of it serves, as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels, such as a note that something is missing.
    pub labels: Vec<(String, String)>,
    /// When it was made, RFC 3339; part of what decides the image's id.
    pub created: Option<String>,
}

impl Images {
    /// Installs an image made of these files. The same input gives the same digests everywhere; installing it again does nothing. Returns
    /// the image id.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is no relative path of plain names; else if it cannot be written.
    pub async fn import_embedded(&self, image: EmbeddedImage) -> Result<Digest> {
        let guard = self.inner.gate.clone().read_owned().await;
        self.blocking("the embedded image", move |inner| {
            let _guard = guard;
            inner.import(&image)
        })
        .await
    }
}

impl Inner {
    fn import(&self, image: &EmbeddedImage) -> Result<Digest> {
        let platform = Platform::host();
        let tar = archive(&image.files)?;
        // The layer is not compressed: its blob is its tar.
        let layer = ImageLayer {
            diff_id: Digest::of(&tar),
            blob: Digest::of(&tar),
            media_type: LAYER_TYPE.to_owned(),
            blob_size: tar.len() as u64,
        };
        let mut config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {
                "Entrypoint": image.entrypoint,
                "Env": image.env,
                "Labels": image.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "WorkingDir": "/",
                "ExposedPorts": image.exposed_ports.iter().map(|port| (port.clone(), json!({}))).collect::<serde_json::Map<_, _>>(),
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "history": [{ "created_by": "made by crozed" }],
        });
        if let Some(created) = &image.created {
            config["created"] = json!(created);
            config["history"][0]["created"] = json!(created);
        }
        let config = config.to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": Digest::of(config.as_bytes()), "size": config.len() },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": layer.blob, "size": layer.blob_size }],
        })
        .to_string();
        let digests = [config.as_bytes(), manifest.as_bytes()].map(Digest::of);
        let _pinned = self.pins.pin([digests.as_slice(), &[layer.blob]].concat());

        self.content.put(&tar)?;
        if self.snapshots.layer(&layer.diff_id)?.is_none() {
            let stored = self.store_blob(&layer)?;
            debug_assert_eq!(stored, Stored::Unpacked);
        }
        self.content.put(config.as_bytes())?;
        self.content.put(manifest.as_bytes())?;
        let size = self
            .snapshots
            .layer(&layer.diff_id)?
            .map_or(0, |layer| layer.size);
        let record = ImageRecord {
            config: digests[0],
            manifest: digests[1],
            layers: vec![layer],
            size,
            created: image.created.clone(),
            architecture: platform.architecture,
            os: platform.os,
            variant: None,
            naming: None,
        };
        let tag = TagRecord {
            reference: image.reference.clone(),
            image: digests[0],
            resolved: None,
        };
        self.save(&record, &tag)?;
        Ok(digests[0])
    }
}

/// A tar of the files in the order of their paths, directories before what is in them.
fn archive(files: &[EmbeddedFile]) -> Result<Vec<u8>, ImageError> {
    let mut directories = BTreeSet::new();
    for file in files {
        let plain = |name: &str| !name.is_empty() && name != "." && name != "..";
        if file.path.len() > MAX_PATH || !file.path.split('/').all(plain) {
            return Err(ImageError::EmbeddedPath {
                path: file.path.clone(),
            });
        }
        let ends = file.path.match_indices('/').map(|(at, _)| &file.path[..=at]);
        directories.extend(ends.map(str::to_owned));
    }
    let mut sorted: Vec<&EmbeddedFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |path: &str, kind, mode, content: &[u8]| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, content)
    };
    let unfit = |path: &str| {
        let path = path.to_owned();
        move |_| ImageError::EmbeddedPath { path }
    };
    append("./", tar::EntryType::Directory, 0o755, &[]).map_err(unfit("./"))?;
    for directory in &directories {
        append(directory, tar::EntryType::Directory, 0o755, &[]).map_err(unfit(directory))?;
    }
    for file in sorted {
        append(
            &file.path,
            tar::EntryType::Regular,
            file.mode & 0o7777,
            &file.content,
        )
        .map_err(unfit(&file.path))?;
    }
    builder.into_inner().map_err(unfit("the end"))
}
