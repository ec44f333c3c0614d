//! Archives byte by byte: every field is written as it is told, sensible or not, and the checksum fits in the end.

/// Bytes of a header, and what members are filled up to.
const BLOCK: usize = 512;

/// The header's fields that a case may want to spoil: where they begin and end.
pub(crate) const MODE: std::ops::Range<usize> = 100..108;
pub(crate) const UID: std::ops::Range<usize> = 108..116;
pub(crate) const GID: std::ops::Range<usize> = 116..124;
pub(crate) const SIZE: std::ops::Range<usize> = 124..136;
pub(crate) const MTIME: std::ops::Range<usize> = 136..148;
pub(crate) const CHECKSUM: std::ops::Range<usize> = 148..156;
pub(crate) const MAJOR: std::ops::Range<usize> = 329..337;
pub(crate) const PREFIX: std::ops::Range<usize> = 345..500;

/// An archive in the making.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tape(pub(crate) Vec<u8>);

/// A header of this type, name and link name, for a member of `size` bytes. Names that are too long are cut.
pub(crate) fn header(kind: u8, name: &[u8], link: &[u8], size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let n = bytes.len().min(range.len());
        block[range.start..range.start + n].copy_from_slice(&bytes[..n]);
    };
    put(0..100, name);
    put(157..257, link);
    put(MODE, if kind == b'5' { b"0000755" } else { b"0000644" });
    put(UID, b"0000000");
    put(GID, b"0000000");
    put(SIZE, format!("{size:011o}").as_bytes());
    put(MTIME, b"00000001750");
    put(257..265, b"ustar\x0000");
    put(MAJOR, b"0000000");
    put(337..345, b"0000000");
    block[156] = kind;
    block
}

/// Writes the checksum that the rest of the block has.
pub(crate) fn seal(block: &mut [u8]) {
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A number in base 256, as writers put it where octal digits do not do.
pub(crate) fn binary(field: &mut [u8], number: i128) {
    let bytes = number.to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
}

/// A record of an extended header, its length counted right.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..=20)
        .map(|digits| rest + digits)
        .find(|length| length.to_string().len() + rest == *length)
        .unwrap();
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

impl Tape {
    /// A member; `spoil` may change its header before it gets its checksum.
    pub(crate) fn spoilt(
        mut self,
        (kind, name, link): (u8, &[u8], &[u8]),
        data: &[u8],
        spoil: impl FnOnce(&mut [u8; BLOCK]),
    ) -> Self {
        let mut block = header(kind, name, link, data.len() as u64);
        spoil(&mut block);
        seal(&mut block);
        self.0.extend_from_slice(&block);
        self.bytes(data)
    }

    /// Bytes, filled up to a block.
    pub(crate) fn bytes(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn member(self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        self.spoilt((kind, name.as_bytes(), link.as_bytes()), data, |_| ())
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.member(b'0', name, "", data.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.member(b'5', name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.pax(&[(b"linkpath", target.as_bytes())])
            .member(b'2', name, "", b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.pax(&[(b"linkpath", target.as_bytes())])
            .member(b'1', name, "", b"")
    }

    pub(crate) fn fifo(self, name: &str) -> Self {
        self.member(b'6', name, "", b"")
    }

    /// A character or block device.
    pub(crate) fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        self.spoilt((kind, name.as_bytes(), b""), b"", |block| {
            block[MAJOR].copy_from_slice(format!("{major:07o}\0").as_bytes());
            block[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
        })
    }

    /// An extended header for what follows.
    pub(crate) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.member(b'x', "pax", "", &body)
    }

    /// An extended header that has this text, right or wrong.
    pub(crate) fn pax_text(self, text: &[u8]) -> Self {
        self.member(b'x', "pax", "", text)
    }

    /// A GNU long name (`L`) or long link name (`K`) for what follows.
    pub(crate) fn long(self, kind: u8, name: &[u8]) -> Self {
        self.member(kind, "././@LongLink", "", &[name, b"\0"].concat())
    }

    /// The archive with the two blocks that end it.
    pub(crate) fn end(self) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }
}
