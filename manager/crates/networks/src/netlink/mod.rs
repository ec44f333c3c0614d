//! The kernel's netlink wire: one message format for interfaces ([`route`]) and for the packet filter ([`filter`]).
//!
//! ```text
//!   message   = length u32 | kind u16 | flags u16 | sequence u32 | port u32 | header of the family | attribute*
//!   attribute = length u16 | kind u16 | value, padded to 4 bytes          (a value may be attributes again)
//! ```
//!
//! Numbers are in the host's byte order in the route family, and big endian in most attributes of the packet filter. Source: netlink(7),
//! rtnetlink(7), and the kernel's headers below `linux/`.
//!
//! Invariants: the kernel's silence is waited for no longer than [`ANSWER_LIMIT`], and a list that others change all the time is asked for again no
//! longer than that. What arrives is from the kernel, and is still read with every length checked; a list that ends with an error is none.

pub(crate) mod conntrack;
pub(crate) mod filter;
pub(crate) mod route;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::error::NetworkError;

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// How long the kernel may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Length of a message's header.
const HEADER: usize = 16;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// The object must not exist yet.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// The object is made if it does not exist.
pub(crate) const CREATE: u16 = 0x400;
/// New rules go behind the others.
pub(crate) const APPEND: u16 = 0x800;

const NOTHING: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The value of the attribute is attributes.
const NESTED: u16 = 0x8000;
/// A dump that was disturbed by changes.
const INTERRUPTED: u16 = 0x10;

/// A request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// Something is longer than its length can say: it cannot be sent.
    overlong: bool,
}

impl Message {
    /// A request of this kind; `header` is the family's own.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        let mut message = Self {
            bytes,
            overlong: false,
        };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Appends a number in the host's byte order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a big endian number.
    pub(crate) fn big_endian(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends text with its terminating zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute whose value is attributes.
    pub(crate) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        let mut message = fill(self);
        let length = message.length_of(message.bytes.len() - start);
        message.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        message.pad();
        message
    }

    /// Appends bytes that are no attribute: a header within an attribute.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = self.length_of(value.len() + 4);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    fn length_of(&mut self, length: usize) -> u16 {
        u16::try_from(length).unwrap_or_else(|_| {
            self.overlong = true;
            u16::MAX
        })
    }

    fn finish(mut self, sequence: u32, flags: u16) -> io::Result<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).ok().filter(|_| !self.overlong);
        let length = length
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is too long for one message"))?;
        let flags = flags | u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What it is.
    pub(crate) kind: u16,
    /// Port of the socket whose request caused it; 0: the kernel.
    pub(crate) port: u32,
    flags: u16,
    sequence: u32,
    /// The family's header and the attributes.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The attributes behind a family header of `header` bytes.
    pub(crate) fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes(self.body.get(header..).unwrap_or_default())
    }

    /// What an error message, or the end of a dump, says; `None`: all went well, or it is neither.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        (matches!(self.kind, ERROR | DONE) && code < 0).then(|| io::Error::from_raw_os_error(-code))
    }
}

/// Attributes, one after the other; ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// The attributes within the first attribute of this kind.
    pub(crate) fn within(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }

    /// Text without its terminating zero.
    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// A number in the host's byte order.
    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// A big endian number.
    pub(crate) fn big_endian(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let word = |at: usize| Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(word(0)?), word(2)? & 0x3fff);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A netlink socket of one family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
}

/// The families that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Interfaces, addresses, routes.
    Route,
    /// The packet filter.
    Filter,
}

impl Socket {
    /// A socket for requests.
    pub(crate) fn open(family: Family) -> Result<Self> {
        Self::open_in_groups(family, 0)
    }

    /// A socket that also hears these multicast groups (bit n-1 for group n); one that does waits without limit.
    pub(crate) fn open_in_groups(family: Family, groups: u32) -> Result<Self> {
        let failed = |source: rustix::io::Errno| NetworkError::Kernel {
            what: "open a netlink socket".into(),
            source: source.into(),
        };
        let protocol = match family {
            // NETLINK_ROUTE is protocol 0.
            Family::Route => None,
            Family::Filter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(failed)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed)?;
        let name = rustix::net::getsockname(&fd).map_err(failed)?;
        let port = SocketAddrNetlink::try_from(name).map_err(failed)?.pid();
        if groups == 0 {
            sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_LIMIT)).map_err(failed)?;
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
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// For poll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one request and waits for its acknowledgement; `what` is for the error.
    pub(crate) fn request(&mut self, what: &str, message: Message) -> Result<()> {
        let failed = failed(what);
        let sequence = self.next();
        let bytes = message.finish(sequence, ACK).map_err(&failed)?;
        self.send(&bytes).map_err(&failed)?;
        loop {
            for reply in self.receive().map_err(&failed)? {
                if reply.sequence == sequence && reply.kind == ERROR {
                    return reply.error().map_or(Ok(()), |error| Err(failed(error)));
                }
            }
        }
    }

    /// Sends requests that take effect together or not at all, framed by `begin` and `end`.
    pub(crate) fn transaction(
        &mut self,
        what: &str,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> Result<()> {
        let failed = failed(what);
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.next();
        let mut bytes = begin.finish(first, 0).map_err(&failed)?;
        let mut acknowledged = first;
        for (n, message) in messages.into_iter().enumerate() {
            acknowledged = self.next();
            let flags = if n == last { ACK } else { 0 };
            bytes.extend(message.finish(acknowledged, flags).map_err(&failed)?);
        }
        let sequence = self.next();
        bytes.extend(end.finish(sequence, 0).map_err(&failed)?);
        self.send(&bytes).map_err(&failed)?;
        // Whatever went wrong is said before the last one is acknowledged, and nothing is acknowledged before all of it took effect.
        let mut first_error = None;
        loop {
            for reply in self.receive().map_err(&failed)? {
                if reply.kind != ERROR || reply.sequence < first {
                    continue;
                }
                first_error = first_error.or(reply.error());
                if reply.sequence == acknowledged || reply.sequence == first {
                    return first_error.map_or(Ok(()), |error| Err(failed(error)));
                }
            }
        }
    }

    /// Everything a dump lists. One that changes disturb is asked for again, though not for ever.
    pub(crate) fn dump(&mut self, what: &str, message: &Message) -> Result<Vec<Reply>> {
        let failed = failed(what);
        let since = Instant::now();
        'again: loop {
            if since.elapsed() > ANSWER_LIMIT {
                let words = "it is changed by others all the time";
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, words)));
            }
            let sequence = self.next();
            let bytes = message.clone().finish(sequence, DUMP).map_err(&failed)?;
            self.send(&bytes).map_err(&failed)?;
            let (mut found, mut disturbed) = (Vec::new(), false);
            loop {
                for reply in self.receive().map_err(&failed)? {
                    if reply.sequence != sequence {
                        continue;
                    }
                    disturbed |= reply.flags & INTERRUPTED != 0;
                    match reply.kind {
                        DONE if disturbed => continue 'again,
                        DONE => return reply.error().map_or(Ok(found), |error| Err(failed(error))),
                        ERROR => match reply.error() {
                            Some(error) if error.raw_os_error() == Some(EINTR) => continue 'again,
                            Some(error) => return Err(failed(error)),
                            None => {}
                        },
                        NOTHING => {}
                        _ => found.push(reply),
                    }
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// The messages of one datagram.
    pub(crate) fn receive(&self) -> io::Result<Vec<Reply>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let length = loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                result => break result?.0,
            }
        };
        Ok(parse(&buffer[..length]))
    }
}

const EINTR: i32 = 4;

fn failed(what: &str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel {
        what: what.to_owned(),
        source,
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(header) = bytes.get(..HEADER) {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        replies.push(Reply {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
            port: word(12),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let message = Message::new(16, CREATE, &[1, 2, 3])
            .text(3, "ab")
            .nested(18, |m| m.number(1, 7));
        let bytes = message.finish(9, ACK).unwrap();
        #[rustfmt::skip]
        let expected: Vec<u8> = [
            &40u32.to_ne_bytes()[..], &16u16.to_ne_bytes(), &(REQUEST | ACK | CREATE).to_ne_bytes(), &9u32.to_ne_bytes(), &[0; 4],
            &[1, 2, 3, 0],
            &7u16.to_ne_bytes(), &3u16.to_ne_bytes(), b"ab\0", &[0],
            &12u16.to_ne_bytes(), &(18 | NESTED).to_ne_bytes(), &8u16.to_ne_bytes(), &1u16.to_ne_bytes(), &7u32.to_ne_bytes(),
        ].concat();
        assert_eq!(bytes, expected);
        let reply = &parse(&bytes)[0];
        assert_eq!((reply.kind, reply.sequence), (16, 9));
        let attributes = reply.attributes(4);
        assert_eq!(attributes.text(3).unwrap(), "ab");
        assert_eq!(attributes.within(18).number(1), Some(7));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bytes = Message::new(16, 0, &[0; 4])
            .text(3, "abcdef")
            .finish(1, 0)
            .unwrap();
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_empty(), "{end}");
        }
        let reply = &parse(&bytes)[0];
        for end in 0..reply.body.len() {
            let cut = Attributes(reply.body.get(4..end).unwrap_or_default());
            assert_eq!(cut.find(3).is_some(), end >= 15, "{end}");
        }
        assert_eq!(
            Attributes(&[0, 0, 1, 0]).count(),
            0,
            "a length of 0 is no endless loop"
        );
    }

    #[test]
    fn what_is_too_long_is_refused_and_a_list_may_end_badly() {
        let fits = |length: usize| {
            let plain = Message::new(16, 0, &[0; 4]).attribute(3, &vec![0; length]);
            let nested = Message::new(16, 0, &[0; 4]).nested(3, |m| m.raw(&vec![0; length]));
            assert_eq!(plain.clone().finish(1, 0).is_ok(), nested.finish(1, 0).is_ok());
            plain.finish(1, 0).is_ok()
        };
        assert!(fits(65_528) && !fits(65_532));
        let done = |code: i32| {
            let bytes = Message::new(DONE, 0, &code.to_ne_bytes()).finish(1, 0).unwrap();
            parse(&bytes)[0].error().and_then(|error| error.raw_os_error())
        };
        assert_eq!((done(0), done(-5)), (None, Some(5)));
    }

    #[test]
    fn the_kernel_answers() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let loopback = route::link_index(&mut socket, "lo").unwrap();
        assert_eq!(loopback, Some(1));
        assert_eq!(route::link_index(&mut socket, "no-such-if").unwrap(), None);
    }
}
