//! One OCI container: its spec, the plan made from it, its processes, its state and the operations on it.
//!
//! ```text
//! ops::create ─ spec::load ─ plan::Plan (pure) ─ state (id reserved) ─ cgroup ─ process::parent ──clone3──▶ process::init
//!                                                                          │        typed messages            │
//!                                                                          └────────── protocol ──────────────┘
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | `config.json`: loaded, filtered, validated |
//! | [`plan`] | the resolved decisions; a pure function of the spec and of facts read once |
//! | [`process`] | the parent's and init's halves of making a process, and the protocol between them |
//! | [`mounts`] | the root file system: mounts, devices, masks, all on file descriptors below the rootfs |
//! | [`namespaces`], [`security`], [`limits`], [`scheduling`], [`hooks`], [`console`] | the mechanisms that init's steps use |
//! | [`net_devices`], [`intel_rdt`] | what is given to the container from outside, while its first process waits |
//! | [`rootless`] | what is different for callers without root's rights |
//! | [`notify`] | readiness, passed on to a service manager |
//! | [`state`] | the record on disk, its transitions, its lock |
//! | [`ops`] | one file per verb: what the command line calls |
//!
//! The crate prints nothing and has no thread and no async runtime. It assumes that its process is single-threaded: it
//! clones itself, changes namespaces and moves between them.
#![forbid(unsafe_code)]

pub mod console;
pub mod error;
pub mod hooks;
pub mod intel_rdt;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
pub mod notify;
pub mod ops;
pub mod plan;
pub mod process;
pub mod rootless;
pub mod scheduling;
pub mod sealed;
pub mod security;
pub mod spec;
pub mod state;

pub use error::{Error, Result};
