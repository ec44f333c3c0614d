//! Others and we: Debian's dockerd, containerd and podman drive the runtime, crozed drives their runtimes, and containers of docker and croze are compared.

#![forbid(unsafe_code)]

mod compare;
mod containerd;
mod docker;
mod logs;
mod output;
mod podman;
mod runtimes;
mod verbs;
