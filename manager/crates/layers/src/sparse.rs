//! Sparse members: files of which only the parts between their holes are in the archive. GNU tar has written them in four ways.
//!
//! | form | the map is | the size is |
//! |---|---|---|
//! | old GNU (type `S`) | in the header, and in blocks behind it | in the header |
//! | PAX 0.0 | in records `GNU.sparse.offset` and `GNU.sparse.numbytes`, in turn | `GNU.sparse.size` |
//! | PAX 0.1 | in one record `GNU.sparse.map` | `GNU.sparse.size` |
//! | PAX 1.0 | before the data: decimal numbers, a line each, filled up to a block | `GNU.sparse.realsize` |
//!
//! Whatever the form, it comes to a [`Map`] whose parts lie in order, do not overlap, end within the size, and hold just the bytes that the
//! member has: a map of another kind is damage.

use tar::Header;

/// How many parts a file may have: some MiB of memory, and more holes than files have.
pub(crate) const MAX_PARTS: usize = 1 << 17;

/// Where the bytes of a sparse member go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// In the order of the archive.
    pub(crate) parts: Vec<Part>,
    /// Bytes of the whole file, holes and all.
    pub(crate) size: u64,
}

/// Bytes without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Map {
    /// Whether the parts can be of a file of this size, and are `stored` bytes together.
    pub(crate) fn is_sound(&self, stored: u64) -> bool {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for part in &self.parts {
            let Some(next) = part.offset.checked_add(part.length) else {
                return false;
            };
            if part.offset < end || next > self.size {
                return false;
            }
            end = next;
            // No overflow: parts that do not overlap are together no longer than the size.
            sum += part.length;
        }
        sum == stored && i64::try_from(self.size).is_ok()
    }
}

/// Offsets and lengths in turn; `None` if one is left over.
pub(crate) fn parts(numbers: &[u64]) -> Option<Vec<Part>> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(
        pairs
            .map(|pair| Part {
                offset: pair[0],
                length: pair[1],
            })
            .collect(),
    )
}

/// Where the map of a PAX member is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Here.
    Header(Vec<Part>),
    /// At the beginning of the member's bytes.
    Data,
}

/// What the records of an extended header say about holes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    numbers: Vec<u64>,
    has_map: bool,
    /// The file's name, where the header's own is made up.
    pub(crate) name: Option<Vec<u8>>,
}

impl Records {
    /// Takes a record `GNU.sparse.<key>`; `None` if it is malformed.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = Some(number(value)?),
            b"minor" => self.minor = Some(number(value)?),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"name" => self.name = Some(value.to_vec()),
            // In turn: an offset is followed by its length.
            b"offset" if self.numbers.len().is_multiple_of(2) => self.number(value)?,
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.number(value)?,
            b"offset" | b"numbytes" => return None,
            b"map" => {
                self.has_map = true;
                for text in value.split(|&b| b == b',') {
                    self.number(text)?;
                }
            }
            // How many there are is seen.
            _ => {}
        }
        Some(())
    }

    fn number(&mut self, text: &[u8]) -> Option<()> {
        self.has_map = true;
        self.numbers.push(number(text)?);
        (self.numbers.len() <= 2 * MAX_PARTS).then_some(())
    }

    /// The size and where the map is; `None` if this is none of the forms.
    pub(crate) fn read(self) -> Option<(u64, Place)> {
        let size = self.size?;
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Some((size, Place::Data)),
            (Some(0), Some(0 | 1)) | (None, None) if self.has_map || size == 0 => {
                Some((size, Place::Header(parts(&self.numbers)?)))
            }
            _ => None,
        }
    }
}

/// The parts in a header of type `S`, and whether a block with more follows. `None` if it is no GNU header or a number is none.
pub(crate) fn from_header(header: &Header, map: &mut Map) -> Option<bool> {
    let gnu = header.as_gnu()?;
    map.size = gnu.real_size().ok()?;
    for part in gnu.sparse.iter().take_while(|part| !part.is_empty()) {
        map.parts.push(Part {
            offset: part.offset().ok()?,
            length: part.length().ok()?,
        });
    }
    Some(gnu.is_extended())
}

/// The parts in a block that follows such a header.
pub(crate) fn from_block(block: &[u8; 512], map: &mut Map) -> Option<bool> {
    let mut extended = tar::GnuExtSparseHeader::new();
    extended.as_mut_bytes().copy_from_slice(block);
    for part in extended.sparse().iter().take_while(|part| !part.is_empty()) {
        map.parts.push(Part {
            offset: part.offset().ok()?,
            length: part.length().ok()?,
        });
    }
    (map.parts.len() <= MAX_PARTS).then(|| extended.is_extended())
}

/// A number as PAX records have it: decimal digits, and nothing else.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size: u64, numbers: &[u64]) -> Map {
        Map {
            parts: parts(numbers).unwrap(),
            size,
        }
    }

    #[test]
    fn a_map_fits_its_file_and_its_bytes() {
        for (size, numbers, stored, sound) in [
            (0, vec![], 0, true),
            (100, vec![], 0, true),
            (100, vec![0, 10, 90, 10, 100, 0], 20, true),
            (100, vec![0, 10, 90, 10], 19, false),
            (100, vec![90, 11], 11, false),
            (100, vec![10, 10, 5, 5], 15, false),
            (100, vec![10, 10, 15, 5], 15, false),
            (u64::MAX, vec![], 0, false),
            (100, vec![u64::MAX, 2], 2, false),
        ] {
            assert_eq!(map(size, &numbers).is_sound(stored), sound, "{size} {numbers:?}");
        }
        assert_eq!(parts(&[1]), None);
    }

    #[test]
    fn every_form_of_records_is_read() {
        let read = |records: &[(&str, &str)]| {
            let mut read = Records::default();
            for (key, value) in records {
                read.set(key.as_bytes(), value.as_bytes())?;
            }
            read.read()
        };
        let header = |numbers: &[u64]| Some((9, Place::Header(parts(numbers).unwrap())));
        let zero = [
            ("size", "9"),
            ("numblocks", "1"),
            ("offset", "1"),
            ("numbytes", "2"),
        ];
        assert_eq!(read(&zero), header(&[1, 2]));
        assert_eq!(read(&[("size", "9"), ("map", "1,2,4,5")]), header(&[1, 2, 4, 5]));
        let one = [("major", "1"), ("minor", "0"), ("realsize", "9")];
        assert_eq!(read(&one), Some((9, Place::Data)));
        for wrong in [
            vec![("map", "1,2")],
            vec![("size", "9"), ("map", "1,x")],
            vec![("size", "9"), ("map", "1")],
            vec![("size", "9"), ("numbytes", "1")],
            vec![("size", "9"), ("offset", "1"), ("offset", "2")],
            vec![("major", "2"), ("minor", "0"), ("size", "9")],
            vec![("major", "1"), ("size", "9")],
        ] {
            assert_eq!(read(&wrong), None, "{wrong:?}");
        }
    }
}
