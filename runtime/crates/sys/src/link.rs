//! Network links, as far as an `ioctl` reaches.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// Brings the link `name` up in the caller's network namespace.
///
/// # Errors
/// `ENODEV`: there is none of this name; `EPERM`.
pub fn bring_up(name: &str) -> Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .named("socket")?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::new("ioctl(SIOCSIFFLAGS)", Errno::NAMETOOLONG));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request takes an ifreq with a name and flags, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Error::check("ioctl(SIOCSIFFLAGS)", result.into()).map(drop)
}
