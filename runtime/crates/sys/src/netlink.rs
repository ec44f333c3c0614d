//! rtnetlink(7), as far as it takes to look at network links, move them and give them addresses.
//!
//! ```text
//!   message   = length u32 | kind u16 | flags u16 | sequence u32 | port u32 | header of the kind | attribute*
//!   attribute = length u16 | kind u16 | value, padded to 4 bytes
//! ```
//!
//! Numbers are in the host's byte order. What arrives is from the kernel, and is still read with every length checked.

use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Length of a message's header.
const HEADER: usize = 16;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// A dump that was disturbed by changes.
const INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The object must not exist yet.
pub const EXCLUSIVE: u16 = 0x200;
/// The object is made if it does not exist.
pub const CREATE: u16 = 0x400;

/// A request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this kind; `header` is the kind's own.
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Appends a number.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends text with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let flags = flags | u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The kind's header and the attributes.
    pub body: Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Reply {
    /// The attributes behind a header of `header` bytes.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes(self.body.get(header..).unwrap_or_default())
    }

    /// The result of an acknowledgement.
    fn result(&self) -> Result<()> {
        let code = self.body.get(..4).and_then(|bytes| bytes.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(Error::new(
                "netlink",
                Errno::from_raw_os_error(code.saturating_neg()),
            )),
            None => Err(Error::new("netlink", Errno::BADMSG)),
        }
    }
}

/// Attributes, one after the other; ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// Text without its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// A number.
    #[must_use]
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
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

/// A socket that speaks rtnetlink with the network namespace of the process that opened it, wherever that process goes later.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn open() -> Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .named("socket")?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).named("bind")?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn request(&mut self, message: Message) -> Result<()> {
        let sequence = self.send(message, ACK)?;
        loop {
            let replies = self.receive()?;
            let answer = replies
                .iter()
                .find(|reply| reply.sequence == sequence && reply.kind == ERROR);
            if let Some(answer) = answer {
                return answer.result();
            }
        }
    }

    /// Everything a dump lists. One that changes disturb is asked for again.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Reply>> {
        'again: loop {
            let sequence = self.send(message.clone(), DUMP)?;
            let (mut found, mut is_disturbed) = (Vec::new(), false);
            loop {
                for reply in self.receive()? {
                    if reply.sequence != sequence {
                        continue;
                    }
                    is_disturbed |= reply.flags & INTERRUPTED != 0;
                    match reply.kind {
                        DONE if is_disturbed => continue 'again,
                        DONE => return Ok(found),
                        ERROR => reply.result()?,
                        _ => found.push(reply),
                    }
                }
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<u32> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence, flags);
        loop {
            match rustix::net::send(&self.fd, &bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                result => return result.map(|_| self.sequence).named("sendto"),
            }
        }
    }

    /// The messages of one datagram.
    fn receive(&self) -> Result<Vec<Reply>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                result => {
                    let (length, _) = result.named("recvfrom")?;
                    return Ok(parse(&buffer[..length]));
                }
            }
        }
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
            body: body.to_vec(),
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
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
        let bytes = Message::new(16, CREATE, &[1, 2, 3])
            .text(3, "ab")
            .number(1, 7)
            .finish(9, ACK);
        let flags = REQUEST | ACK | CREATE;
        #[rustfmt::skip]
        let expected: Vec<u8> = [
            &36u32.to_ne_bytes()[..], &16u16.to_ne_bytes(), &flags.to_ne_bytes(), &9u32.to_ne_bytes(), &[0; 4],
            &[1, 2, 3, 0],
            &7u16.to_ne_bytes(), &3u16.to_ne_bytes(), b"ab\0", &[0],
            &8u16.to_ne_bytes(), &1u16.to_ne_bytes(), &7u32.to_ne_bytes(),
        ].concat();
        assert_eq!(bytes, expected);
        let reply = &parse(&bytes)[0];
        let attributes = reply.attributes(4);
        assert_eq!(attributes.text(3).as_deref(), Some("ab"));
        assert_eq!(attributes.number(1), Some(7));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bytes = Message::new(16, 0, &[0; 4]).text(3, "abcdef").finish(1, 0);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_empty(), "{end}");
        }
        assert_eq!(
            Attributes(&[0, 0, 1, 0]).count(),
            0,
            "a length of 0 is no endless loop"
        );
    }

    #[test]
    fn the_kernel_answers() {
        const GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let mut socket = Socket::open().expect("a socket");
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
