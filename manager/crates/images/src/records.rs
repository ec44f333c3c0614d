//! The records: one small versioned file per image, tag and verified pair.

use croze_model::{Digest, Reference};
use croze_store::Record;
use serde::{Deserialize, Serialize};

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The digest of the blob as the registry has it.
    pub blob: Digest,
    /// The blob's media type.
    pub media_type: String,
    /// Bytes of the blob.
    pub blob_size: u64,
}

/// An image. Key: the digest of its config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of the config: the image id.
    pub config: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The layers, base first.
    pub layers: Vec<ImageLayer>,
    /// Bytes of all layers when unpacked.
    pub size: u64,
    /// When the image says it was made, RFC 3339.
    pub created: Option<String>,
    /// The architecture it is for.
    pub architecture: String,
    /// The operating system it is for.
    pub os: String,
    /// The variant of the architecture, if the image says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The name that it is about to take over from another image; see `naming.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<TagRecord>,
}

impl Record for ImageRecord {
    const KIND: &'static str = "image";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.config.hex()
    }
}

/// A name of an image. Key: the reference, fully qualified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The reference as it was pulled: with a tag, or with a digest only.
    pub reference: Reference,
    /// The image's config digest.
    pub image: Digest,
    /// What the registry's name resolved to: the digest of an index or of the manifest itself. `None` for images made here.
    pub resolved: Option<Digest>,
}

impl Record for TagRecord {
    const KIND: &'static str = "tag";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.reference.to_string()
    }
}

/// What this machine has verified itself: this blob decompresses to that tar. Key: the blob's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRecord {
    /// The digest of the blob.
    pub blob: Digest,
    /// The digest of the tar in it.
    pub diff_id: Digest,
}

impl Record for PairRecord {
    const KIND: &'static str = "blob-diff-id-pair";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.blob.hex()
    }
}
