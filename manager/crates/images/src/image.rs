//! What callers see of an image.

use croze_model::{Digest, Platform, Reference};
use oci_spec::image::ImageConfiguration;

use crate::records::ImageLayer;

/// An image and the names it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image id: the digest of its config.
    pub id: Digest,
    /// The digest of the manifest it was made from, for the chosen platform.
    pub manifest: Digest,
    /// The names, sorted. Empty for an image whose last tag has moved on.
    pub references: Vec<Reference>,
    /// `repository@digest` for everything that was pulled, with the digest that the registry's tag resolved to (an index's, often).
    pub repo_digests: Vec<Reference>,
    /// The layers, base first.
    pub layers: Vec<ImageLayer>,
    /// Bytes of all layers when unpacked (a layer that other images share counts in each of them).
    pub size: u64,
    /// When the image says it was made, RFC 3339.
    pub created: Option<String>,
    /// The architecture it is for, in Go's words.
    pub architecture: String,
    /// The operating system it is for.
    pub os: String,
    /// The variant of the architecture, if the image says one.
    pub variant: Option<String>,
}

impl Image {
    /// What it is made for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// The diff ids, base first: the chain that [`croze_snapshots::Snapshots::prepare`] takes.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }
}

/// An image with its config.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The image.
    pub image: Image,
    /// The config, typed.
    pub config: ImageConfiguration,
    /// The config exactly as it was pulled, with the fields that the typed form does not know.
    pub raw: serde_json::Value,
}
