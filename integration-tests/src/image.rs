//! OCI image layouts made from files in memory: small images for small tests, and broken ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::scene::Scene;

/// `sha256:…` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// One layer's tar, built entry by entry.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for LayerBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("LayerBuilder").finish_non_exhaustive()
    }
}

impl Default for LayerBuilder {
    fn default() -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.mode(tar::HeaderMode::Deterministic);
        tar.follow_symlinks(false);
        Self { tar }
    }
}

impl LayerBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole directory of the host.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn directory(mut self, host: &Path) -> Result<Self> {
        self.tar
            .append_dir_all(".", host)
            .with_context(|| format!("packing {}", host.display()))?;
        Ok(self)
    }

    /// Adds a file. The path is written as it is given, `../` and all.
    ///
    /// # Errors
    /// The path is longer than a tar header's name.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        let mut header = tar::Header::new_ustar();
        let name = &mut header.as_old_mut().name;
        let slot = name
            .get_mut(..path.len())
            .context("the path fits into a header")?;
        slot.copy_from_slice(path.as_bytes());
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.append(&header, content)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// A path is longer than a tar header's name.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// The uncompressed tar.
    ///
    /// # Errors
    /// Never with a tar in memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

/// gzip at its fastest: what is tested is not the ratio.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// The parts of one image, ready to be served or written.
#[derive(Clone, Debug)]
pub struct ImageLayout {
    /// The compressed layers.
    pub layers: Vec<Vec<u8>>,
    /// The image's config.
    pub config: Value,
    /// The manifest; a test may change it before it is served.
    pub manifest: Value,
}

impl ImageLayout {
    /// An image of these uncompressed tars, which it compresses. `config` is the inner object: `Cmd`, `Env`, `User` …
    ///
    /// # Errors
    /// Compression fails.
    pub fn new(tars: &[Vec<u8>], config: &Value) -> Result<Self> {
        let layers = tars.iter().map(|tar| gzip(tar)).collect::<Result<Vec<_>>>()?;
        Self::assemble(
            tars,
            layers,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            config,
        )
    }

    /// The same with layers that are not compressed: who pushes it compresses as it is told to.
    ///
    /// # Errors
    /// Never: the values are JSON already.
    pub fn uncompressed(tars: &[Vec<u8>], config: &Value) -> Result<Self> {
        Self::assemble(
            tars,
            tars.to_vec(),
            "application/vnd.oci.image.layer.v1.tar",
            config,
        )
    }

    fn assemble(tars: &[Vec<u8>], layers: Vec<Vec<u8>>, media_type: &str, config: &Value) -> Result<Self> {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": tars.iter().map(|tar| digest(tar)).collect::<Vec<_>>() },
        });
        let config_bytes = serde_json::to_vec(&config)?;
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| json!({ "mediaType": media_type, "digest": digest(layer), "size": layer.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config_bytes),
                "size": config_bytes.len(),
            },
            "layers": descriptors,
        });
        Ok(Self {
            layers,
            config,
            manifest,
        })
    }

    /// The image that most tests use: busybox and the probe, `sh` as its command.
    ///
    /// # Errors
    /// A program is missing, or the disk fails.
    pub fn small(scene: &Scene) -> Result<Self> {
        Self::new(
            &[Self::small_tar(scene)?],
            &json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"] }),
        )
    }

    /// The only layer of [`ImageLayout::small`].
    ///
    /// # Errors
    /// A program is missing, or the disk fails.
    pub fn small_tar(scene: &Scene) -> Result<Vec<u8>> {
        let rootfs = scene.path("small-rootfs");
        crate::bundle::populate_rootfs(&rootfs)?;
        let tar = LayerBuilder::new().directory(&rootfs)?.finish()?;
        fs::remove_dir_all(&rootfs)?;
        Ok(tar)
    }

    /// Every blob with its digest: layers, then the config, then the manifest.
    ///
    /// # Errors
    /// Never: the values are JSON already.
    pub fn blobs(&self) -> Result<Vec<Vec<u8>>> {
        let mut blobs = self.layers.clone();
        blobs.push(serde_json::to_vec(&self.config)?);
        blobs.push(serde_json::to_vec(&self.manifest)?);
        Ok(blobs)
    }

    /// Writes an OCI layout with one tag into a new directory.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&self, scene: &Scene, name: &str, tag: &str) -> Result<PathBuf> {
        let directory = scene.new_directory(name)?;
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for blob in self.blobs()? {
            fs::write(blobs.join(digest(&blob).trim_start_matches("sha256:")), &blob)?;
        }
        let manifest = serde_json::to_vec(&self.manifest)?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest),
                "size": manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": tag },
            }],
        });
        fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(directory)
    }
}
