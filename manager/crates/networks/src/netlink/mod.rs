//! The kernel's netlink wire ([`croze_sys::netlink`]), spoken about interfaces ([`route`]), the packet filter ([`filter`]) and the connections
//! that it remembers ([`conntrack`]).
//!
//! Numbers are in the host's byte order in the route family, and big endian in most attributes of the packet filter. What is added here is
//! what every error says: what was being done.

pub(crate) mod conntrack;
pub(crate) mod filter;
pub(crate) mod route;

use std::os::fd::{AsFd, BorrowedFd};

use croze_sys::netlink;
pub(crate) use croze_sys::netlink::{APPEND, Attributes, CREATE, EXCLUSIVE, Family, Message, NESTED, Reply};

use crate::error::NetworkError;

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// A netlink socket of one family, in the network namespace of the thread that opened it; `what` is for errors.
#[derive(Debug)]
pub(crate) struct Socket(netlink::Socket);

impl Socket {
    /// A socket for requests.
    pub(crate) fn open(family: Family) -> Result<Self> {
        Self::open_in_groups(family, 0)
    }

    /// A socket that also hears these multicast groups (bit n-1 for group n); one that does waits without limit.
    pub(crate) fn open_in_groups(family: Family, groups: u32) -> Result<Self> {
        let opened = netlink::Socket::open_in_groups(family, groups);
        opened.map(Self).map_err(failed("open a netlink socket"))
    }

    /// The port by which the kernel names this socket.
    pub(crate) const fn port(&self) -> u32 {
        self.0.port()
    }

    /// For poll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, what: &str, message: Message) -> Result<()> {
        self.0.request(message).map_err(failed(what))
    }

    /// Sends requests that take effect together or not at all, framed by `begin` and `end`.
    pub(crate) fn transaction(
        &mut self,
        what: &str,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> Result<()> {
        self.0.transaction(begin, messages, end).map_err(failed(what))
    }

    /// Everything a dump lists.
    pub(crate) fn dump(&mut self, what: &str, message: &Message) -> Result<Vec<Reply>> {
        self.0.dump(message).map_err(failed(what))
    }

    /// What `wanted` makes of everything that a dump lists; the rest is not kept.
    pub(crate) fn dump_of<T>(
        &mut self,
        what: &str,
        message: &Message,
        wanted: impl Fn(Reply) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.0.dump_of(message, wanted).map_err(failed(what))
    }

    /// The messages of one datagram.
    pub(crate) fn receive(&self) -> croze_sys::Result<Vec<Reply>> {
        self.0.receive()
    }
}

fn failed(what: &str) -> impl Fn(croze_sys::Error) -> NetworkError {
    move |error| NetworkError::Kernel {
        what: what.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_by_their_names() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let loopback = route::link_index(&mut socket, "lo").unwrap();
        assert_eq!(loopback, Some(1));
        assert_eq!(route::link_index(&mut socket, "no-such-if").unwrap(), None);
    }
}
