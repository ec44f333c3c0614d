//! netlink(7): the kernel's interfaces and its packet filter.
//!
//! A [`Message`] is a request under construction, a [`Socket`] sends it, and what comes back is [`Reply`]s with [`Attributes`]. What the messages
//! mean is for those to know who send them: rtnetlink(7), and the kernel's headers below `linux/`.
//!
//! Invariants: the kernel's silence is waited for no longer than [`ANSWER_LIMIT`], and a list that others change all the time is asked for again no
//! longer than that. A list that ends with an error is none.

mod wire;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Named;
use crate::{Errno, Error, Result};
use wire::{ACK, DONE, DUMP, ERROR, INTERRUPTED, NOTHING, parse};
pub use wire::{APPEND, Attributes, CREATE, EXCLUSIVE, Message, NESTED, Reply};

/// How long the kernel may take to answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A netlink socket of one family. It speaks with the network namespace of the thread that opened it, wherever that goes later.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
}

/// The families that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Interfaces, addresses, routes.
    Route,
    /// The packet filter.
    Filter,
}

impl Socket {
    /// A socket for requests.
    ///
    /// # Errors
    /// No descriptors left, or a kernel without this family.
    pub fn open(family: Family) -> Result<Self> {
        Self::open_in_groups(family, 0)
    }

    /// A socket that also hears these multicast groups (bit n-1 for group n); one that does waits without limit.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open_in_groups(family: Family, groups: u32) -> Result<Self> {
        let protocol = match family {
            // NETLINK_ROUTE is protocol 0.
            Family::Route => None,
            Family::Filter => Some(NETFILTER),
        };
        let (netlink, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let fd = rustix::net::socket_with(netlink, SocketType::RAW, flags, protocol).named("socket")?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).named("bind")?;
        let name = rustix::net::getsockname(&fd).named("getsockname")?;
        let port = SocketAddrNetlink::try_from(name).named("getsockname")?.pid();
        if groups == 0 {
            sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_LIMIT)).named("setsockopt")?;
        }
        // A hint for large batches; the kernel caps it.
        let _capped = sockopt::set_socket_send_buffer_size(&fd, 1 << 20);
        let _capped = sockopt::set_socket_recv_buffer_size(&fd, 1 << 20);
        Ok(Self {
            fd,
            port,
            sequence: 0,
        })
    }

    /// The port by which the kernel names this socket.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// What the kernel refuses; `ETIMEDOUT`.
    pub fn request(&mut self, message: Message) -> Result<()> {
        let sequence = self.next();
        self.send(&message.finish(sequence, ACK)?)?;
        loop {
            for reply in self.receive()? {
                if reply.sequence == sequence && reply.kind == ERROR {
                    return reply.error().map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends requests that take effect together or not at all, framed by `begin` and `end`.
    ///
    /// # Errors
    /// The first that the kernel refuses; `ETIMEDOUT`.
    pub fn transaction(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> Result<()> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.next();
        let mut bytes = begin.finish(first, 0)?;
        let mut acknowledged = first;
        for (n, message) in messages.into_iter().enumerate() {
            acknowledged = self.next();
            let flags = if n == last { ACK } else { 0 };
            bytes.extend(message.finish(acknowledged, flags)?);
        }
        let sequence = self.next();
        bytes.extend(end.finish(sequence, 0)?);
        self.send(&bytes)?;
        // Whatever went wrong is said before the last one is acknowledged, and nothing is acknowledged before all of it took effect.
        let mut first_error = None;
        loop {
            for reply in self.receive()? {
                if reply.kind != ERROR || reply.sequence < first {
                    continue;
                }
                first_error = first_error.or(reply.error());
                if reply.sequence == acknowledged || reply.sequence == first {
                    return first_error.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Everything a dump lists. One that changes disturb is asked for again, though not for ever.
    ///
    /// # Errors
    /// What the kernel refuses; `ETIMEDOUT`: it does not answer, or others change the list all the time.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Reply>> {
        self.dump_of(message, Some)
    }

    /// What `wanted` makes of everything that a dump lists: of a list of millions, what is not wanted is not kept for a moment.
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub fn dump_of<T>(&mut self, message: &Message, wanted: impl Fn(Reply) -> Option<T>) -> Result<Vec<T>> {
        let since = Instant::now();
        'again: loop {
            if since.elapsed() > ANSWER_LIMIT {
                return Err(Error::new(
                    "a netlink dump that others disturb all the time",
                    Errno::TIMEDOUT,
                ));
            }
            let sequence = self.next();
            self.send(&message.clone().finish(sequence, DUMP)?)?;
            let (mut found, mut disturbed) = (Vec::new(), false);
            loop {
                for reply in self.receive()? {
                    if reply.sequence != sequence {
                        continue;
                    }
                    disturbed |= reply.flags & INTERRUPTED != 0;
                    match (reply.kind, reply.error()) {
                        (DONE, _) if disturbed => continue 'again,
                        (DONE, None) => return Ok(found),
                        (ERROR, Some(error)) if error.errno == Errno::INTR => continue 'again,
                        (DONE | ERROR, Some(error)) => return Err(error),
                        (ERROR | NOTHING, _) => {}
                        _ => found.extend(wanted(reply)),
                    }
                }
            }
        }
    }

    /// The messages of one datagram.
    ///
    /// # Errors
    /// `ETIMEDOUT`; `ENOBUFS`: some were lost.
    pub fn receive(&self) -> Result<Vec<Reply>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Error::new("recv", Errno::TIMEDOUT)),
                result => {
                    let (length, _) = result.named("recv")?;
                    return Ok(parse(&buffer[..length]));
                }
            }
        }
    }

    const fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                result => return result.map(drop).named("send"),
            }
        }
    }
}

impl AsFd for Socket {
    /// For `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        const GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let mut socket = Socket::open(Family::Route).expect("a socket");
        let links = socket
            .dump(&Message::new(GETLINK, 0, &[0; 16]))
            .expect("answered");
        let names: Vec<_> = links
            .iter()
            .map(|link| link.attributes(16).text(IFLA_IFNAME))
            .collect();
        assert!(names.contains(&Some("lo".to_owned())), "{names:?}");
        // There is no link of number 0.
        let refused = socket.request(Message::new(GETLINK, 0, &[0; 16]));
        assert!(refused.is_err());
    }
}
