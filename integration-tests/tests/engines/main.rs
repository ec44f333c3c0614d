//! Other engines drive the runtime: Debian's dockerd and podman run, exec into and remove containers with it.

#![forbid(unsafe_code)]

mod compare;
mod docker;
mod logs;
mod podman;
