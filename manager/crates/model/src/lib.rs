//! The nouns every part of the manager speaks.
//!
//! Purpose: one definition each of a digest, an image reference, a platform, a container's identifier and name, and of the
//! error that reaches every door, so that the crates above can talk to each other without knowing each other.
//!
//! ```text
//!   text from a user or a registry --parse--> Digest, Reference, Platform, ContainerId, ContainerName   (valid by type)
//!   crate's own thiserror enum     --into--->  Error { kind, stage, what, cause, hint }                  (one per wire)
//! ```
//!
//! Invariants: a value of one of these types is well formed; parsing is the only way to make one; parsing never panics and never
//! allocates more than its input. Nothing here touches the host: no file, socket or clock.
#![forbid(unsafe_code)]

mod credentials;
mod digest;
mod error;
mod id;
mod nearest;
mod platform;
mod port;
mod reference;
mod size;

pub use credentials::{Credentials, Secret};
pub use digest::{Digest, DigestError, DigestWriter};
pub use error::{Error, ErrorKind, Result, Stage};
pub use id::{ContainerId, ContainerName, IdError};
pub use nearest::nearest;
pub use platform::{Platform, PlatformError};
pub use port::{ExposedPorts, PortError, PortRange, Protocol, Publish};
pub use reference::{Reference, ReferenceError};
pub use size::{SizeError, parse_decimal, parse_size};
