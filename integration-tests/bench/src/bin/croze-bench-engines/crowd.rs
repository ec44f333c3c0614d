//! Ten images with a common base: two layers of the large image and a small one of their own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use croze_integration_tests::{Registry, Scene};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::content::{Kind, Random, fill};
use crate::puller::Source;

/// How many.
pub(crate) const COUNT: usize = 10;
/// The large image's layers that they have in common.
const BASE: [usize; 2] = [0, 4];
/// Bytes of each one's own file.
const OWN: usize = 1_000_000;
const NAME: &str = "bench/crowd";

/// Makes and pushes them.
pub(crate) fn push(scene: &Scene, registry: &Registry<'_>, large: &Path) -> Result<Vec<Source>> {
    let layout = scene.new_directory("crowd")?;
    let crowd = Crowd::new(large, layout)?;
    (0..COUNT)
        .map(|n| {
            let tag = format!("n{n}");
            crowd.write(n, &tag)?;
            registry.push(&crowd.layout, &tag, &format!("{NAME}:{tag}"))?;
            let manifest = registry.manifest(NAME, &tag)?;
            Source::new(
                registry.reference(&format!("{NAME}:{tag}")),
                &registry.address(),
                NAME,
                &manifest,
            )
        })
        .collect()
}

struct Crowd {
    layout: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<Value>,
    config: Value,
}

impl Crowd {
    fn new(large: &Path, layout: PathBuf) -> Result<Self> {
        let read = |path: PathBuf| -> Result<Value> {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        let blob = |descriptor: &Value| -> Result<PathBuf> {
            let digest = descriptor["digest"].as_str().context("a digest")?;
            Ok(large.join("blobs").join(digest.replace(':', "/")))
        };
        let manifest = read(blob(&read(large.join("index.json"))?["manifests"][0])?)?;
        let config = read(blob(&manifest["config"])?)?;
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        for n in BASE {
            let from = blob(&manifest["layers"][n])?;
            let name = from.file_name().context("a blob has a name")?;
            std::os::unix::fs::symlink(&from, layout.join("blobs/sha256").join(name))?;
        }
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self {
            layers: BASE.iter().map(|n| manifest["layers"][*n].clone()).collect(),
            diff_ids: BASE
                .iter()
                .map(|n| config["rootfs"]["diff_ids"][*n].clone())
                .collect(),
            layout,
            config,
        })
    }

    /// Writes one of them; the index names it alone.
    fn write(&self, n: usize, tag: &str) -> Result<()> {
        let mut content = Vec::new();
        fill(
            &mut content,
            &mut Random::new(1000 + n as u64),
            Kind::Program,
            OWN,
        );
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, "own", content.as_slice())?;
        let tar = tar.into_inner()?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
        gzip.write_all(&tar)?;
        let mut layer = self.put(&gzip.finish()?)?;
        layer["mediaType"] = self.layers[0]["mediaType"].clone();
        let own_id = json!(format!("sha256:{}", hex::encode(Sha256::digest(&tar))));
        let mut config = self.config.clone();
        config["rootfs"]["diff_ids"] = with(&self.diff_ids, own_id);
        let mut config = self.put(&serde_json::to_vec(&config)?)?;
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let mut manifest = self.put(&serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": with(&self.layers, layer),
        }))?)?;
        manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        Ok(fs::write(
            self.layout.join("index.json"),
            serde_json::to_vec(&index)?,
        )?)
    }

    fn put(&self, bytes: &[u8]) -> Result<Value> {
        let name = hex::encode(Sha256::digest(bytes));
        fs::write(self.layout.join("blobs/sha256").join(&name), bytes)?;
        Ok(json!({ "digest": format!("sha256:{name}"), "size": bytes.len() }))
    }
}

fn with(base: &[Value], own: Value) -> Value {
    base.iter().cloned().chain([own]).collect()
}
