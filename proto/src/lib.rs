//! Every wire format of Croze, no logic.
//!
//! | module | package | spoken between | feature |
//! |---|---|---|---|
//! | [`v1`] | `croze.v1` | crozed and its clients, as gRPC | `api` |
//! | [`shim`] | `croze.shim.v1` | crozed and one croze-shim, length-prefixed messages on a unix socket | `shim` |
//!
//! The code is generated at build time from the files below `proto/`, which carry the documentation of every field.
//! No feature is on by default: the shim is a small static program and must not link a gRPC stack.
#![forbid(unsafe_code)]

#[cfg(feature = "api")]
mod secrets;

/// The public API, `croze.v1`: what the daemon offers to every client.
#[cfg(feature = "api")]
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/croze.v1.rs"));
}

/// The protocol between crozed and a shim, `croze.shim.v1`.
#[cfg(feature = "shim")]
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod shim {
    include!(concat!(env!("OUT_DIR"), "/croze.shim.v1.rs"));
}

/// Descriptors of the public API, encoded: what gRPC server reflection answers with.
#[cfg(feature = "api")]
pub const API_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/croze.v1.fds"));

/// The API's version: a number that grows with every incompatible change.
pub const API_VERSION: u32 = 1;

/// Metadata key under which an encoded `croze.v1.ErrorDetail` travels with a failed call.
pub const ERROR_DETAIL_KEY: &str = "croze-error-bin";
