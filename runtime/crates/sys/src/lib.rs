//! System calls behind safe, owned types: the only crate with unsafe code.
//!
//! What the standard library, `nix` and `rustix` do not offer (or offer only as unsafe functions) is here, one small module per
//! subject. Descriptors are owned in every signature; every failure names its system call.
//!
//! | module | subject |
//! |---|---|
//! | [`clone`] | `clone3`, namespaces: new, joined, left |
//! | [`mount`] | `open_tree`, `move_mount`, `mount_setattr`, `fsopen` and the classic `mount(2)` |
//! | [`path`] | paths resolved below a directory descriptor (`openat2`, or a walk where it is missing) |
//! | [`pattern`] | regular expressions |
//! | [`mod@file`] | small files, read and written with few calls |
//! | [`files`] | how many files may be open |
//! | [`fd`] | close-on-exec, sealed copies, descriptor links |
//! | [`memfd`] | sealed memory files, the running program among them |
//! | [`exe`] | the running program's own file, exchanged for a copy |
//! | [`pidfd`] | processes by descriptor: open, signal, wait |
//! | [`process`] | credentials, `prctl`, `execve`, start time, boot id |
//! | [`caps`] | capability sets and their names |
//! | [`sched`] | scheduling policy, CPUs, I/O priority, memory nodes |
//! | [`signal`] | masks, dispositions, `signalfd` |
//! | [`socket`] | unix sockets and descriptors passed over them |
//! | [`tty`] | pseudo terminals |
//! | [`seccomp`] | loading a filter |
//! | [`keyring`] | session keyrings |
//! | [`link`] | bringing a network link up |
//! | [`netlink`] | rtnetlink: links and addresses |
//! | [`bpf`] | device programs of cgroup v2 |
//! | [`space`] | how full a file system is, in words |
//! | [`quota`] | limits for the files of a directory: project quotas of ext4 and xfs |
//! | [`tree`] | whole directory trees, removed and measured however deep they are |
//! | [`alloc`] | a memory allocator for programs that live some milliseconds |
//! | [`usage`] | what an ended child has used |
//!
//! The crate knows no container: it serves the runtime and the manager alike.

pub mod alloc;
pub mod bpf;
pub mod caps;
pub mod clone;
pub mod exe;
pub mod fd;
pub mod file;
pub mod files;
pub mod keyring;
pub mod link;
pub mod memfd;
pub mod mount;
pub mod netlink;
pub mod path;
pub mod pattern;
pub mod pidfd;
pub mod process;
pub mod quota;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod space;
pub mod tree;
pub mod tty;
pub mod usage;

mod error;

pub use error::{Errno, Error, Result};
