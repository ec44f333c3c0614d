//! Whole lives of containers: this crate, a real shim, a real OCI runtime, a busybox root file system.
//!
//! Needs root, `busybox` (static), and two programs: `CROZE_TEST_SHIM` and `CROZE_TEST_RUNTIME` (any OCI runtime). Run with
//! `cargo test -p croze-containers --test life -- --ignored`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail by panic"
)]

mod host;
mod running;
mod without_daemon;
