//! A client of OCI distribution registries: resolve a reference, fetch blobs.
//!
//! ```text
//!   reference -> sources: mirrors, then the registry; the next one where one fails
//!             -> endpoint -> GET manifests/<tag or digest>
//!                              index or list -> choose the platform -> GET manifests/<digest>, again if that is an index
//!                              manifest       <------------------------'
//!   descriptor -> GET blobs/<digest> -> pieces; a broken connection goes on with Range, at the next source if need be
//! ```
//!
//! It is a thin client of its own on top of an HTTP client, because the parts that matter here are the ones that general clients leave
//! out: bounds on everything that is read, resumption, redirects without credentials, and errors that say which registry, repository and
//! address failed and what to do.
//!
//! Invariants:
//! - Nothing from a registry is trusted: a manifest's digest is checked against the reference, the index that named it and the registry's own
//!   header; a document that is a manifest and an index at once is refused (CVE-2021-41190); sizes are bounded before bytes are read.
//! - Credentials and tokens go to the registry and its token server only: never along a redirect to another one. URLs in descriptors
//!   ("foreign layers") are never fetched (CVE-2020-15157): such a blob is asked for at the registry like any other.
//! - Nobody's tokens are used for somebody else's requests, and no message shows a secret.
//! - Registries on loopback addresses, and those that are configured so, are spoken to in plain HTTP, all others in HTTPS. HTTPS never
//!   becomes HTTP because it failed.
//!
//! What it deliberately does not do (yet): push. Blobs' digests are checked by who stores them; who keeps credentials is the client.
#![forbid(unsafe_code)]

mod answer;
mod auth;
mod authorize;
mod blob;
mod client;
mod descent;
mod endpoint;
mod error;
mod flow;
mod hosts;
mod manifest;
mod pace;
mod resting;
mod retry;
mod sources;
#[cfg(test)]
mod test_server;
mod times;
mod transport;

pub use authorize::LoggedIn;
pub use blob::BlobStream;
pub use client::Registry;
pub use error::{RegistryError, Told};
pub use hosts::{ClientCertificate, Host, Hosts};
pub use manifest::{Resolved, parse_digest};
pub use pace::Rate;
pub use sources::{Mirror, MirrorError};

/// The largest manifest or index that is read, in bytes (the distribution specification's recommendation).
pub const MAX_MANIFEST: u64 = 4 << 20;
