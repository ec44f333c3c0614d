//! Snapshots: layers stacked with overlayfs, or copied over each other where there is none.
//!
//! ```text
//!   <root>/snapshots/
//!     layers/<key>/layer.json      a committed layer's record: diff id, sizes, implicit directories ... [`LayerRecord`]
//!     layers/<key>/fs/             its tree, in overlayfs' form; never changed after the commit
//!     chains/<chain id>/fs/        implicit directories of a chain with the metadata they really have
//!     active/<id>/snapshot.json    an active snapshot's record ........................................ [`SnapshotRecord`]
//!     active/<id>/upper, work      what a container writes; a copy has all of its files in upper
//!     empty/                       the lower layer of images that have none
//!     staging/                     what is being made or removed; swept at open
//! ```
//!
//! A layer's key is its diff id, except where the tree depends on the layers below it (a hard link to a file that only a lower layer
//! has): then it is the chain id. Exactly one of the two exists, because a layer either unpacks without its parents or never does.
//!
//! Invariants:
//! - A tree is durable before its record is written, and a record is gone before its tree is removed.
//! - No layer is removed while a snapshot stands on it, or while a snapshot's record cannot be read; a tree that lost its record keeps its place
//!   as long as one stands on it, and gets a new record from the next commit of the same layer.
//! - Removing and measuring take a few descriptors and no recursion, however deep a container made its tree; a leftover that cannot be removed
//!   hinders no start.
//! - A snapshot is made by overlayfs or, where there is none, as a copy ([`Snapshotter`]); nobody else has to know which.
//! - What is written into a snapshot can be limited where its file system has project quotas; the kernel counts ([`Limit`]).
//! - A chain is mounted with each layer once: the topmost occurrence (overlayfs refuses the same lower directory twice).
//! - Where a directory's topmost occurrence in a chain was not in that layer's tar, its metadata comes from the layer below that had it.
//!
//! Everything here blocks on the file system: async callers use it from blocking threads. This crate deliberately does not download,
//! unpack or know images, and it does not know containers: an active snapshot's id is a text of the caller. Only [`Snapshots::diff`] makes an archive.
#![forbid(unsafe_code)]

mod active;
mod chain;
#[cfg(test)]
mod contract_tests;
mod diff;
mod driver;
mod error;
mod group;
mod layers;
mod mount;
mod quota;
mod records;
mod tree;

pub use active::Usage;
pub use chain::{chain_id, chain_ids};
pub use driver::Snapshotter;
pub use layers::{BuriedLayers, StagedLayer};
pub use mount::Access;
pub use quota::{Limit, Quota};
pub use records::{LayerRecord, SnapshotRecord};

pub use store::Snapshots;

mod store;
