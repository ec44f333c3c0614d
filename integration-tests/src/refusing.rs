//! A port at which nobody listens, and that nobody else can get meanwhile.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// A bound socket that does not listen: connections to it are refused. The port is free again when this value goes.
#[derive(Debug)]
pub struct Refusing {
    address: String,
    _socket: OwnedFd,
}

impl Refusing {
    /// Takes a free port.
    ///
    /// # Errors
    /// No port can be had.
    pub fn new() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let bound = SocketAddr::try_from(getsockname(&socket)?).context("an internet address")?;
        Ok(Self {
            address: bound.to_string(),
            _socket: socket,
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
