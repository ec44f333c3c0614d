//! The store of images: opened, listed, resolved, inspected.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use croze_content::ContentStore;
use croze_model::{Digest, Reference, Result};
use croze_registry::Registry;
use croze_snapshots::Snapshots;
use croze_store::{Records, create_private_dir};
use tokio::sync::RwLock;

use crate::error::ImageError;
use crate::flight::{Flights, Slots};
use crate::image::{Image, ImageDetails};
use crate::near::near;
use crate::pins::Pins;
use crate::records::{ImageRecord, PairRecord, TagRecord};

/// The largest config that is read, in bytes.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// The shortest prefix of an id that is taken for one.
const MIN_PREFIX: usize = 3;

/// The images under one root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) content: ContentStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) registry: Registry,
    pub(crate) images: Records<ImageRecord>,
    pub(crate) tags: Records<TagRecord>,
    pub(crate) pairs: Records<PairRecord>,
    /// What running pulls need, by digest.
    pub(crate) pins: Pins,
    /// Written while something is removed; read while something is pinned or recorded. So a pull either pins a layer before a removal
    /// looks at it, or finds it gone.
    pub(crate) gate: Arc<RwLock<()>>,
    pub(crate) flights: Flights,
    pub(crate) slots: Slots,
}

impl Images {
    /// Opens the images under `root` (the daemon's durable root), which `registry` fetches, and removes layers and blobs that no image names. Blocks on the file
    /// system: to be called from a blocking thread, or before the runtime has other work.
    ///
    /// # Errors
    /// If a directory cannot be made or read.
    pub fn open(root: &Path, snapshots: Snapshots, registry: Registry) -> Result<Self> {
        let dir = |name: &str| -> Result<_> {
            let dir = root.join(name);
            create_private_dir(&dir).map_err(ImageError::record("create", dir.display().to_string()))?;
            Ok(dir)
        };
        let inner = Inner {
            content: ContentStore::open(root)?,
            snapshots,
            registry,
            images: Records::flat(dir("images")?),
            tags: Records::flat(dir("tags")?),
            pairs: Records::flat(dir("pairs")?),
            pins: Pins::default(),
            gate: Arc::default(),
            flights: Flights::default(),
            slots: Slots::default(),
        };
        match inner.finish_namings().and_then(|()| inner.collect()) {
            Ok(mut swept) => {
                swept.empty();
                if swept.bytes > 0 {
                    tracing::info!(bytes = swept.bytes, "what unfinished pulls left was removed");
                }
            }
            // The next collection tries again.
            Err(error) => {
                tracing::warn!(error = %error.one_line(), "what unfinished pulls left stays for now");
            }
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Every image, sorted by its first name, nameless ones last.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub async fn list(&self) -> Result<Vec<Image>> {
        self.blocking("the images", Inner::list).await
    }

    /// The image that `text` names: a reference, an id (`sha256:…` or a prefix of its digits, three at least), or `repository@digest`.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` if a prefix fits several images.
    pub async fn resolve(&self, text: &str) -> Result<Image> {
        let text = text.to_owned();
        self.blocking("the images", move |inner| inner.resolve(&text))
            .await
    }

    /// The names of images here that may have been meant by this one, which cannot be had. Empty if the records cannot be read.
    pub async fn near(&self, wanted: &Reference) -> Vec<String> {
        let wanted = wanted.clone();
        self.blocking("the images", move |inner| {
            let images = inner.list()?;
            Ok(near(&wanted, images.iter().flat_map(|image| &image.references)))
        })
        .await
        .unwrap_or_default()
    }

    /// The image that `text` names, with its config.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `Corrupt` if the config is damaged.
    pub async fn inspect(&self, text: &str) -> Result<ImageDetails> {
        let text = text.to_owned();
        self.blocking("the images", move |inner| {
            let image = inner.resolve(&text)?;
            let bytes = inner.content.read(&image.id, MAX_CONFIG)?;
            let malformed = |source| ImageError::Config {
                config: image.id,
                source,
            };
            let config = serde_json::from_slice(&bytes).map_err(malformed)?;
            let raw = serde_json::from_slice(&bytes).map_err(malformed)?;
            Ok(ImageDetails { image, config, raw })
        })
        .await
    }

    /// Bytes that each of an image's layers takes when unpacked, base first; 0 for one that is not here.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub async fn layer_sizes(&self, image: &Image) -> Result<Vec<u64>> {
        let diff_ids = image.diff_ids();
        let size = move |inner: &Inner, n| {
            let layer = inner
                .snapshots
                .top_layer(diff_ids.get(..=n).unwrap_or_default())?;
            Ok(layer.map_or(0, |layer| layer.size))
        };
        let count = image.layers.len();
        self.blocking("the layers", move |inner| {
            (0..count).map(|n| size(inner, n)).collect()
        })
        .await
    }

    /// Runs work that touches files on a blocking thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(_) => Err(ImageError::CutOff {
                what: what.to_owned(),
            }
            .into()),
        }
    }
}

impl Inner {
    pub(crate) fn image_records(&self) -> Result<Vec<ImageRecord>, ImageError> {
        self.images.list().map_err(ImageError::record("list", "images"))
    }

    pub(crate) fn tag_records(&self) -> Result<Vec<TagRecord>, ImageError> {
        self.tags.list().map_err(ImageError::record("list", "tags"))
    }

    pub(crate) fn list(&self) -> Result<Vec<Image>> {
        let mut tags: BTreeMap<Digest, Vec<TagRecord>> = BTreeMap::new();
        for tag in self.tag_records()? {
            tags.entry(tag.image).or_default().push(tag);
        }
        let records = self.image_records()?.into_iter();
        let mut images: Vec<Image> = records
            .map(|record| view(&record, tags.remove(&record.config).unwrap_or_default()))
            .collect();
        images.sort_by(|a, b| {
            let key = |image: &Image| {
                (
                    image.references.is_empty(),
                    image.references.first().cloned(),
                    image.id,
                )
            };
            key(a).cmp(&key(b))
        });
        Ok(images)
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<Image> {
        let images = self.list()?;
        let reference = text.parse::<Reference>().ok();
        let meant = || match &reference {
            Some(reference) => near(reference, images.iter().flat_map(|image| &image.references)),
            None => Vec::new(),
        };
        let unknown = |near| ImageError::Unknown {
            name: text.to_owned(),
            near,
        };
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = Digest::from_hex(digits) {
            return images
                .into_iter()
                .find(|image| image.id == id)
                .ok_or_else(|| unknown(Vec::new()).into());
        }
        if let Some(reference) = &reference
            && let Some(image) = images.iter().find(|image| is_named(image, reference))
        {
            return Ok(image.clone());
        }
        let hexadecimal = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() < MIN_PREFIX || !hexadecimal {
            return Err(unknown(meant()).into());
        }
        let mut fitting = images.iter().filter(|image| image.id.hex().starts_with(digits));
        let Some(first) = fitting.next() else {
            return Err(unknown(meant()).into());
        };
        let others: Vec<String> = fitting.map(|image| image.id.short()).collect();
        if others.is_empty() {
            return Ok(first.clone());
        }
        let candidates = [vec![first.id.short()], others].concat().join(", ");
        Err(ImageError::Ambiguous {
            name: text.to_owned(),
            candidates,
        }
        .into())
    }
}

fn is_named(image: &Image, reference: &Reference) -> bool {
    match reference.digest() {
        None => image.references.contains(reference),
        Some(digest) => {
            let here = |name: &&Reference| name.repository() == reference.repository();
            image
                .repo_digests
                .iter()
                .filter(here)
                .any(|name| name.digest() == Some(digest) || image.manifest == *digest)
        }
    }
}

/// An image with what its tags say. A reference with a digest is no tag: it can never move.
fn view(record: &ImageRecord, tags: Vec<TagRecord>) -> Image {
    let mut references = Vec::new();
    let mut repo_digests = Vec::new();
    for tag in tags {
        let resolved = tag.resolved.or(tag.reference.digest().copied());
        if let Some(digest) = resolved
            && let Ok(name) = format!("{}@{digest}", tag.reference.repository()).parse()
        {
            repo_digests.push(name);
        }
        if tag.reference.digest().is_none() {
            references.push(tag.reference);
        }
    }
    references.sort();
    repo_digests.sort();
    repo_digests.dedup();
    Image {
        id: record.config,
        manifest: record.manifest,
        references,
        repo_digests,
        layers: record.layers.clone(),
        size: record.size,
        created: record.created.clone(),
        architecture: record.architecture.clone(),
        os: record.os.clone(),
        variant: record.variant.clone(),
    }
}
