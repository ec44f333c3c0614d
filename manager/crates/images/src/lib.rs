//! Images: pulled from a registry, unpacked, listed, inspected, removed.
//!
//! ```text
//!   reference --resolve--> manifest --> config (diff ids) + layers
//!                                          |
//!       one flight per layer, several in parallel:
//!       socket -> sha256 + blob file -> inflate -> sha256 (diff id) -> directory
//!                                          |
//!   records, written last and in this order:  pair (blob -> diff id), layer, image and tag (see `naming`)
//!
//!   <root>/images/<config digest>.json        an image: manifest, layers, sizes ................ [`ImageRecord`]
//!   <root>/tags/<reference>.json              a name: reference -> image ........................ [`TagRecord`]
//!   <root>/pairs/<blob digest>.json           what this machine verified: blob -> diff id ....... [`PairRecord`]
//! ```
//!
//! Invariants:
//! - A record exists only after everything it names is durable; removal goes the other way round.
//! - A download is skipped only if this machine has itself verified the pair blob digest -> diff id.
//! - After a failed or cancelled pull nothing stays that no image names; what is in flight is pinned against removal.
//! - What cannot be read is not what does not exist: while an image's record is unreadable, nothing is removed on its account or any other's.
//! - The same layer wanted by two pulls at once is downloaded once.
//! - No file is touched on an async worker thread.
//!
//! What this crate does not do (yet): push, import and export of archives. It knows no container: who removes an image says which
//! images are in use.
#![forbid(unsafe_code)]

mod damaged;
mod embedded;
mod error;
mod flight;
mod image;
mod layer;
mod naming;
mod near;
mod pins;
mod progress;
mod pull;
mod records;
mod remove;
mod store;
mod tag;

pub use embedded::{EmbeddedFile, EmbeddedImage};
pub use image::{Image, ImageDetails};
pub use progress::{LayerProgress, LayerState, Progress, PullPhase, PullState};
pub use pull::{LayerOrigin, PullOptions, Pulled, PulledLayer};
pub use records::{ImageLayer, ImageRecord, PairRecord, TagRecord};
pub use remove::{ImageUse, RemoveOptions, Removed};
pub use store::Images;
