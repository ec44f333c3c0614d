//! The default network in network namespaces made for each test: one plays the host, one the outside. Needs root; touches nothing of the
//! real host's network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test whose world cannot be made has failed"
)]

mod changes;
mod connections;
mod life;
mod memory;
mod ownership;
mod world;
