//! Processes of a container: how they are made, from both sides.
//!
//! | module | side |
//! |---|---|
//! | [`protocol`] | both: the messages and their order |
//! | [`parent`] | the runtime: clone, maps, cgroup, limits, handshake |
//! | [`bootstrap`] | the stage between them that joins a user namespace |
//! | [`init`] | the container's first process, up to its command |
//! | [`join`] | a process added to a container, up to its command |
//! | [`last`] | what both do last: identity, filter, command |
//! | [`command`] | a command found and executed |
//! | [`program`] | why the kernel did not execute it |

pub mod bootstrap;
pub mod command;
pub mod init;
pub mod join;
pub mod last;
pub mod listener;
pub mod parent;
pub mod program;
pub mod protocol;
