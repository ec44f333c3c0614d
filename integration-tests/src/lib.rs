//! The test harness: everything a suite needs to judge Croze's programs from outside.
//!
//! ```text
//! Scene        one test's place on the host: a directory, a name, every process it starts; cleaned up, then compared
//!  ├─ Bundle       an OCI bundle: a root directory with busybox and the probe, and a config.json to edit
//!  ├─ Runtime      croze-rt, or what $RUNTIME names, with a state directory of its own
//!  ├─ Registry     Debian's docker-registry on a free loopback port
//!  ├─ Authority    certificates by openssl, for registries in TLS
//!  ├─ TokenServer  hands out signed tokens for a registry that wants them
//!  ├─ Hostile      a registry that serves exactly the bytes a test wants
//!  ├─ SlowProxy    a slow network before a registry
//!  ├─ FaultyProxy  a broken network before a registry
//!  ├─ Refusing     a port at which nobody listens
//!  ├─ Tmpfs        a small file system, to be filled
//!  ├─ ImageLayout  an OCI image layout made from directories, pushed by skopeo
//!  ├─ Crozed       the daemon under directories of its own, and the CLI that talks to it
//!  ├─ seed         choices that look random and can be drawn again
//!  ├─ Terminal     a tmux session, for what needs a real terminal
//!  └─ Dockerd, Containerd, Podman   other engines that call the runtime
//! ```
//!
//! Invariants:
//! - [`Scene::play`] compares the host before and after: processes that descend from the test, mounts, cgroups and
//!   interfaces. What is left is removed, and the test fails for it.
//! - Nothing waits on time: every wait names a condition and has a deadline.
//! - The test process is a subreaper and reaps at once, so that "the process is gone" is never a zombie's lie.
//!
//! It needs root, and the programs in `bin/` (`make build`).

#![forbid(unsafe_code)]

mod authority;
mod bundle;
mod containerd;
mod crozed;
mod debian;
mod faulty;
mod host;
mod hostile;
mod image;
mod layer_tar;
mod namespace;
mod output;
mod peers;
mod programs;
mod reaper;
mod refusing;
mod registry;
mod runtime;
mod scene;
pub mod seed;
mod server;
mod slow;
pub mod spec;
mod terminal;
mod tmpfs;
mod token_server;
mod tree;
mod wait;

pub use authority::{Authority, Certificate};
pub use bundle::{Bundle, populate_rootfs};
pub use containerd::Containerd;
pub use crozed::Crozed;
pub use debian::Debian;
pub use faulty::{Answered, Fault, FaultyProxy, Rule};
pub use host::{cgroup_directories, cgroup_file, cgroups_are_unified, is_alive, process_ids_in_cgroup};
pub use hostile::{Hostile, Reply};
pub use image::{ImageLayout, LayerBuilder, digest};
pub use layer_tar::{Entry, LayerTar};
pub use namespace::NetworkNamespace;
pub use output::{Ended, Output};
pub use peers::{Dockerd, Network, Podman};
pub use programs::{bin, busybox, runtime_under_test};
pub use reaper::Process;
pub use refusing::Refusing;
pub use registry::{Registry, RegistryOptions};
pub use runtime::Runtime;
pub use scene::Scene;
pub use slow::SlowProxy;
pub use terminal::Terminal;
pub use tmpfs::Tmpfs;
pub use token_server::TokenServer;
pub use tree::{Node, Tree};
pub use wait::{rest, wait_until};
