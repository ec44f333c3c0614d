//! The content store: blobs by digest.
//!
//! ```text
//!   <root>/content/
//!     blobs/sha256/<64 hexadecimal digits>    one blob, exactly as a registry has it; never changed
//!     ingest/<process>-<number>               a blob that is being written; swept at open
//! ```
//!
//! Invariants:
//! - What lies under a digest's name has that digest: a blob is hashed while it is written, synced, and only then gets its name.
//! - A blob never grows past the size that its descriptor promised.
//! - An unfinished ingest leaves nothing: it is removed when it is dropped, or at the next open.
//!
//! Everything here blocks on the file system: async callers use it from blocking threads. The store deliberately does not know what
//! blobs mean, which of them are needed, or where they come from.
#![forbid(unsafe_code)]

mod error;
mod ingest;
mod store;

pub use ingest::Ingest;
pub use store::{Blob, ContentStore};
