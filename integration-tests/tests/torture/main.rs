//! What nobody wishes for, done on purpose: the daemon killed at any moment, its disks full, its files damaged.
//!
//! ```text
//! random    kill -9 at random moments between requests of every kind; a model remembers what was acknowledged
//! windows   kill -9 at chosen moments, so that each step of create, start, stop, rm and pull is cut at least once
//! programs  the other programs die: shim, runtime, CLI; two daemons; SIGTERM in the middle of something
//! full      file systems without a byte or an inode left
//! damage    the index and the records damaged in every way
//! ```
//!
//! After each blow [`check::whole`] must hold. `make test` runs a short slice, `make torture` all of it; `CROZE_TORTURE_SEED` repeats a run.

#![forbid(unsafe_code)]

mod check;
mod damage;
mod full;
mod programs;
mod random;
mod trap;
mod windows;
mod world;

use croze_integration_tests::seed;
