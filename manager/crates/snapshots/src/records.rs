//! The records of committed layers, chains and active snapshots.

use std::path::PathBuf;

use croze_model::Digest;
use croze_store::Record;
use serde::{Deserialize, Serialize};

use crate::driver::Snapshotter;
use crate::quota::Quota;

/// A committed layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The diff id, or the chain id where the tree depends on the layers below.
    pub key: Digest,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of all regular files' contents.
    pub size: u64,
    /// Directories (relative, empty for the root) that exist in the tree but were not in the tar.
    #[serde(with = "paths")]
    pub implicit: Vec<PathBuf>,
    /// Whether the layer hides everything below it (an opaque root).
    pub opaque_root: bool,
}

impl Record for LayerRecord {
    const KIND: &'static str = "layer";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.key.hex()
    }
}

/// The layer on top of a chain that holds its implicit directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainRecord {
    /// The chain id.
    pub(crate) chain: Digest,
    /// The keys of the layers it was derived from: it goes when one of them goes.
    pub(crate) layers: Vec<Digest>,
}

impl Record for ChainRecord {
    const KIND: &'static str = "chain";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.chain.hex()
    }
}

/// An active snapshot: a writable directory over a chain of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The caller's name for it.
    pub id: String,
    /// The diff ids of the chain, base first.
    pub diff_ids: Vec<Digest>,
    /// The lower directories' layer keys, topmost first, each once.
    pub layers: Vec<Digest>,
    /// The chain whose implicit directories lie on top of the layers, if there are any.
    pub implicit: Option<Digest>,
    /// How it was made.
    #[serde(default, skip_serializing_if = "Snapshotter::is_overlay")]
    pub snapshotter: Snapshotter,
    /// Whether it is only looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub view: bool,
    /// What may be written into it, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

impl Record for SnapshotRecord {
    const KIND: &'static str = "snapshot";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// Paths as texts in which every byte that is not printable ASCII, and `%`, is written `%XX`: a tar may hold any bytes, JSON may not.
mod paths {
    use std::ffi::OsString;
    use std::fmt::Write as _;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::PathBuf;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| {
            let mut text = String::new();
            for &byte in path.as_os_str().as_bytes() {
                if byte.is_ascii_graphic() && byte != b'%' {
                    text.push(char::from(byte));
                } else {
                    // Writing to a String cannot fail.
                    let _infallible = write!(text, "%{byte:02X}");
                }
            }
            text
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| decode(text).ok_or_else(|| D::Error::custom(format!("malformed path {text:?}"))))
            .collect()
    }

    fn decode(text: &str) -> Option<PathBuf> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn paths_of_any_bytes_survive_their_record() {
        let record = LayerRecord {
            key: Digest::of(b"k"),
            diff_id: Digest::of(b"d"),
            size: 1,
            implicit: vec![
                PathBuf::new(),
                PathBuf::from("usr/lib"),
                PathBuf::from("100% \u{e4}"),
                PathBuf::from(OsString::from_vec(vec![b'a', 0xff, b'\n'])),
            ],
            opaque_root: false,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(
            text.contains("100%25%20%C3%A4") && text.contains("a%FF%0A"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<LayerRecord>(&text).unwrap(), record);
    }
}
