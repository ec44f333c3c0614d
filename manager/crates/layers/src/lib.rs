//! Layers: tar archives turned into directories, in the form that overlayfs wants.
//!
//! ```text
//!   source (compressed bytes)                                            thread 1
//!      -> inflate: gzip, zstd or nothing, by the first bytes ............ [compression]
//!      -> a few recycled 256 KiB pieces
//!   -> sha256: the diff id                                               thread 2
//!      -> entries: headers, PAX and GNU extensions, holes ............... [archive], [pax], [sparse]
//!      -> *at() calls beneath the target's descriptor ................... [unpack], [root]
//!      -> at the end: whiteouts, then directories' times ................ [finish]
//! ```
//!
//! The other way: [`pack()`] writes what a container changed as an archive, and [`merge()`] lays layers over each other where there is no overlayfs.
//!
//! Invariants:
//! - No entry leaves the target: a name that leads out is refused. Symbolic links in the directory part are followed as if the target were `/`
//!   (as docker and containerd do), by a walk that keeps `..` and absolute links inside; what comes out is a path without links, and only such
//!   a path is opened, beneath the target's descriptor and with links forbidden.
//! - Memory is bounded: a few pieces, the decompressor's window (up to 128 MiB for zstd), one extension header (1 MiB at most), and the names
//!   of directories and whiteouts, up to [`Limits::names`].
//! - Directories that have no entry count as entries, and none lies deeper than 512.
//! - The whole stream is hashed, the padding after the archive's end too.
//! - Whiteouts hide lower layers only, wherever they stand in the archive: they become character devices 0:0 and opaque directories after
//!   everything else is there, and give way to what the layer itself holds.
//! - What overlayfs keeps for itself (`trusted.*`, `user.overlay.*`) is never taken from an archive.
//!
//! What this crate deliberately does not do: it does not sync (the committer does, once for the whole tree), it neither knows digests that
//! are expected nor where the bytes come from.
#![forbid(unsafe_code)]

mod archive;
mod compression;
mod error;
mod finish;
#[cfg(test)]
mod fuzz_tests;
mod lower;
mod merge;
mod pack;
mod pax;
mod pipe;
mod root;
mod sparse;
#[cfg(test)]
mod test_archive;
mod unpack;
mod xattrs;

pub use error::LayerError;
pub use merge::{LayerTree, merge};
pub use pack::{Changes, Packed, pack};
pub use pipe::{hash, unpack};

use std::path::PathBuf;

use croze_model::Digest;

/// How much an archive may hold. The bounds are far above real images and far below what stops a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Entries, and directories that have none but are needed.
    pub entries: u64,
    /// Bytes of memory for what must be remembered to the archive's end: names of directories and whiteouts.
    pub names: u64,
}

impl Default for Limits {
    /// 256 GiB, 8 million entries, and 256 MiB of names.
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 8_000_000,
            names: 256 << 20,
        }
    }
}

/// Whether the layers below are at hand while a layer is unpacked.
#[derive(Debug, Clone, Copy)]
pub enum Parents<'a> {
    /// They are not: an entry that needs them is reported in [`Unpacked::needs_parents`] and left out.
    Unknown,
    /// These are their trees, topmost first.
    Known(&'a [PathBuf]),
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub archive_size: u64,
    /// Bytes of all regular files' contents.
    pub size: u64,
    /// Directories (relative, empty for the root) that had to be made but have no entry.
    pub implicit: Vec<PathBuf>,
    /// Whether the layer hides everything below it.
    pub opaque_root: bool,
    /// The first entry that is a hard link to something only a lower layer has. The tree is then incomplete.
    pub needs_parents: Option<String>,
}
