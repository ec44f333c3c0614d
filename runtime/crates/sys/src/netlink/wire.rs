//! Messages and attributes, as bytes.
//!
//! ```text
//!   message   = length u32 | kind u16 | flags u16 | sequence u32 | port u32 | header of the family | attribute*
//!   attribute = length u16 | kind u16 | value, padded to 4 bytes          (a value may be attributes again)
//! ```
//!
//! What is written is as long as its length says, or is not sent; what is read is read with every length checked.

use crate::{Errno, Error, Result};

/// Length of a message's header.
const HEADER: usize = 16;

const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
/// A dump that was disturbed by changes.
pub(super) const INTERRUPTED: u16 = 0x10;
/// The object must not exist yet.
pub const EXCLUSIVE: u16 = 0x200;
/// The object is made if it does not exist.
pub const CREATE: u16 = 0x400;
/// New rules go behind the others.
pub const APPEND: u16 = 0x800;

pub(super) const NOTHING: u16 = 1;
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// The value of the attribute is attributes.
pub const NESTED: u16 = 0x8000;

/// A request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    /// Something is longer than its length can say: it cannot be sent.
    overlong: bool,
}

impl Message {
    /// A request of this kind; `header` is the family's own.
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
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
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Appends a number in the host's byte order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a big endian number.
    #[must_use]
    pub fn big_endian(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends text with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute whose value is attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
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
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
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

    pub(super) fn finish(mut self, sequence: u32, flags: u16) -> Result<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).ok().filter(|_| !self.overlong);
        let length = length.ok_or(Error::new("netlink", Errno::MSGSIZE))?;
        let flags = flags | u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: u16,
    /// Port of the socket whose request caused it; 0: the kernel.
    pub port: u32,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// The family's header and the attributes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The attributes behind a family header of `header` bytes.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes(self.body.get(header..).unwrap_or_default())
    }

    /// What an error message, or the end of a dump, says; `None`: all went well, or it is neither.
    pub(super) fn error(&self) -> Option<Error> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        let errno = || Errno::from_raw_os_error(code.saturating_neg());
        (matches!(self.kind, ERROR | DONE) && code < 0).then(|| Error::new("netlink", errno()))
    }
}

/// Attributes, one after the other; ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// The attributes within the first attribute of this kind.
    #[must_use]
    pub fn within(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }

    /// Text without its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// A number in the host's byte order.
    #[must_use]
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// A big endian number.
    #[must_use]
    pub fn big_endian(self, kind: u16) -> Option<u32> {
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

/// The messages of one datagram.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Reply> {
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
        let bytes = message.finish(9, ACK).expect("it fits");
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
        assert_eq!(attributes.text(3).as_deref(), Some("ab"));
        assert_eq!(attributes.within(18).number(1), Some(7));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bytes = Message::new(16, 0, &[0; 4])
            .text(3, "abcdef")
            .finish(1, 0)
            .expect("it fits");
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
            let bytes = Message::new(DONE, 0, &code.to_ne_bytes())
                .finish(1, 0)
                .expect("it fits");
            parse(&bytes)[0].error().map(|error| error.errno.raw_os_error())
        };
        assert_eq!((done(0), done(-5)), (None, Some(5)));
    }
}
