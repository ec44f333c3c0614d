//! Reading an archive: headers, extensions, and members' bytes.
//!
//! The fields of a 512-byte header are decoded by the `tar` crate; how headers follow each other is decided here, because extensions must be
//! bounded, taken apart by their lengths (see [`crate::pax`]) and their sizes believed before the next header is looked for.

mod holes;

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use tar::{EntryType, Header};

use crate::archive::holes::Holes;
use crate::error::LayerError;
use crate::pax::Extensions;
use crate::sparse::Map;

const BLOCK: u64 = 512;
/// The longest extension header that is read into memory.
const MAX_EXTENSION: u64 = 1 << 20;

/// One entry, with its extensions applied. Names are raw bytes.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Bytes of a regular file, holes and all; else 0.
    pub(crate) size: u64,
    /// Where the bytes that follow go, if there are holes between them.
    pub(crate) sparse: Option<Map>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is being read.
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes consumed so far, for messages.
    offset: u64,
    /// Bytes of the current member, and of its padding, not read yet.
    remaining: u64,
    padding: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end. The rest of the member before it is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut long_name = None;
        let mut long_link = None;
        let mut extensions: Option<Extensions> = None;
        loop {
            let extended = long_name.is_some() || long_link.is_some() || extensions.is_some();
            let Some(header) = self.next_header()? else {
                return if extended {
                    Err(self.damaged("an extension without its entry"))
                } else {
                    Ok(None)
                };
            };
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName if long_name.is_none() => long_name = Some(self.name(&header)?),
                EntryType::GNULongLink if long_link.is_none() => long_link = Some(self.name(&header)?),
                EntryType::XHeader if extensions.is_none() => {
                    let bytes = self.extension(&header)?;
                    let parsed = Extensions::parse(&bytes);
                    extensions = Some(parsed.ok_or_else(|| self.damaged("a malformed extended header"))?);
                }
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader => {
                    return Err(self.damaged("two extensions of the same kind for one entry"));
                }
                // Defaults for all following entries: docker ignores them too, so no layer depends on them.
                EntryType::XGlobalHeader => {
                    let size = header.entry_size().map_err(|_| self.damaged("an invalid size"))?;
                    self.member(size)?;
                }
                _ => {
                    return self
                        .entry(&header, long_name, long_link, extensions.unwrap_or_default())
                        .map(Some);
                }
            }
        }
    }

    /// Up to `limit` bytes of the current member, as they lie in the buffer; empty at its end.
    pub(crate) fn piece(&mut self) -> Result<&[u8], LayerError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf().map_err(read_error)?;
        if available.is_empty() {
            return Err(LayerError::Truncated);
        }
        let n = available
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&available[..n])
    }

    /// Marks `n` bytes of the last piece as read.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.remaining -= n as u64;
        self.offset += n as u64;
    }

    /// Reads what follows the archive's end, so that all of it is hashed.
    pub(crate) fn drain(mut self) -> Result<(), LayerError> {
        loop {
            let n = self.input.fill_buf().map_err(read_error)?.len();
            if n == 0 {
                return Ok(());
            }
            self.input.consume(n);
        }
    }

    fn damaged(&self, reason: &'static str) -> LayerError {
        LayerError::Damaged {
            reason,
            offset: self.offset,
        }
    }

    /// Skips the rest of the member and its padding. The end may come within the padding: some writers pad neither the last member nor the
    /// archive, and the layer's digest has its own word on whether something is missing.
    fn skip_member(&mut self) -> Result<(), LayerError> {
        if self.skip(self.remaining)? > 0 {
            return Err(LayerError::Truncated);
        }
        self.skip(self.padding)?;
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// Skips up to `rest` bytes; returns how many of them are not there.
    fn skip(&mut self, mut rest: u64) -> Result<u64, LayerError> {
        while rest > 0 {
            let available = self.input.fill_buf().map_err(read_error)?.len();
            if available == 0 {
                break;
            }
            let n = available.min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.input.consume(n);
            self.offset += n as u64;
            rest -= n as u64;
        }
        Ok(rest)
    }

    fn next_header(&mut self) -> Result<Option<Header>, LayerError> {
        self.skip_member()?;
        let mut header = Header::new_old();
        // Some writers leave the two zero blocks at the end away, or one of them.
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if is_zero(header.as_bytes()) {
            if self.block(header.as_mut_bytes())? && !is_zero(header.as_bytes()) {
                // Readers that end here and readers that go on would see different layers under one digest.
                return Err(self.damaged("something after a single zero block"));
            }
            return Ok(None);
        }
        let block = header.as_bytes();
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|&b| u32::from(b))
            .sum::<u32>()
            + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(self.damaged("a wrong header checksum"));
        }
        fill_blank_numbers(header.as_mut_bytes());
        self.offset += BLOCK;
        Ok(Some(header))
    }

    /// Reads a whole block; says whether there was one.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]).map_err(read_error)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(LayerError::Truncated),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// Announces a member of `size` bytes.
    fn member(&mut self, size: u64) -> Result<(), LayerError> {
        if size > i64::MAX as u64 {
            return Err(self.damaged("an invalid size"));
        }
        self.remaining = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        Ok(())
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = header.entry_size().map_err(|_| self.damaged("an invalid size"))?;
        if size > MAX_EXTENSION {
            return Err(self.damaged("an extended header of more than 1 MiB"));
        }
        self.member(size)?;
        let mut bytes = Vec::new();
        (&mut self.input)
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if (bytes.len() as u64) < size {
            return Err(LayerError::Truncated);
        }
        self.offset += size;
        self.remaining = 0;
        Ok(bytes)
    }

    /// A GNU long name: everything up to the first zero byte.
    fn name(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let mut bytes = self.extension(header)?;
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let sparse_name = extensions.sparse.as_mut().and_then(|records| records.name.take());
        let path = sparse_name
            .or(extensions.path)
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions.link.or(long_link);
        let link = link.unwrap_or_else(|| header.link_name_bytes().map(Cow::into_owned).unwrap_or_default());
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let field = |field| LayerError::Field {
            entry: shown(),
            field,
        };

        let mut kind = header.entry_type();
        // Before POSIX (type '\0' instead of '0') a directory was a file whose name ends in a slash. Only there: a member whose bytes we skipped
        // as a header and others as content would be an archive that each reader sees differently.
        if header.as_bytes()[156] == 0 && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        if extensions.oversized {
            return Err(field("extended attribute: it is larger than a file can have"));
        }
        let size = match extensions.size {
            Some(size) => size,
            None => header.entry_size().map_err(|_| field("size"))?,
        };
        let holes = self.holes(header, kind, extensions.sparse.take(), &path)?;
        if holes.is_some() {
            kind = EntryType::Regular;
        }
        // Links, devices and directories carry no bytes, whatever their size field says.
        let size = if matches!(kind, EntryType::Regular | EntryType::Continuous) {
            size
        } else {
            0
        };
        let owner = |extended: Option<u64>, plain: io::Result<u64>, name| {
            let id = match extended {
                Some(id) => id,
                None => plain.map_err(|_| field(name))?,
            };
            // The largest value means "do not change" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| field(name))
        };
        let uid = owner(extensions.uid, header.uid(), "owner")?;
        let gid = owner(extensions.gid, header.gid(), "group")?;
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            // A negative time in base-256 comes out as a very large number.
            None => (header.mtime().map_err(|_| field("time"))?.cast_signed(), 0),
        };
        let mode = header.mode().map_err(|_| field("mode"))?;
        let number = |n: io::Result<Option<u32>>| {
            n.map(Option::unwrap_or_default)
                .map_err(|_| field("device number"))
        };
        let device = match kind {
            EntryType::Char | EntryType::Block => {
                (number(header.device_major())?, number(header.device_minor())?)
            }
            _ => (0, 0),
        };
        self.member(size)?;
        let sparse = match holes {
            None => None,
            Some((mut map, place)) => {
                if place == Holes::InData {
                    map.parts = self.map_in_data()?;
                }
                if !map.is_sound(self.remaining) {
                    return Err(self.damaged("a sparse file whose map does not fit it"));
                }
                Some(map)
            }
        };
        let entry = Entry {
            path,
            link,
            kind,
            mode,
            uid,
            gid,
            mtime,
            device,
            size: sparse.as_ref().map_or(size, |map| map.size),
            sparse,
            xattrs: extensions.xattrs,
        };
        Ok(entry)
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&b| b == 0)
}

/// Writes a zero into numeric fields that are blank: old and hand-made archives leave them so, and every other reader takes them as 0.
fn fill_blank_numbers(block: &mut [u8; BLOCK as usize]) {
    // Mode, owner, group, size, time; device numbers.
    for field in [
        100..108,
        108..116,
        116..124,
        124..136,
        136..148,
        329..337,
        337..345,
    ] {
        let bytes = &mut block[field];
        if bytes.iter().all(|b| matches!(b, 0 | b' ')) {
            bytes[0] = b'0';
        }
    }
}

/// Errors of the source come from here; [`crate::pipe`] puts a [`LayerError`] into an [`io::Error`] where it has one.
fn read_error(error: io::Error) -> LayerError {
    match error.downcast::<LayerError>() {
        Ok(inner) => inner,
        Err(source) => LayerError::Source { source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_cksum();
        header
    }

    fn archive(members: &[(Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, data) in members {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, LayerError> {
        let mut archive = Archive::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut data = Vec::new();
            loop {
                let piece = archive.piece()?;
                if piece.is_empty() {
                    break;
                }
                let n = piece.len();
                data.extend_from_slice(piece);
                archive.consume(n);
            }
            found.push((String::from_utf8_lossy(&entry.path).into_owned(), data));
        }
        Ok(found)
    }

    #[test]
    fn members_and_extensions_are_read() {
        let long = "d/".repeat(100) + "x";
        let pax = b"21 path=from the pax\n".as_slice();
        let bytes = archive(&[
            (header("a", EntryType::Regular, 3), b"abc"),
            (
                header("././@LongLink", EntryType::GNULongName, 202),
                format!("{long}\0").as_bytes(),
            ),
            (header("short", EntryType::Regular, 0), b""),
            (header("global", EntryType::XGlobalHeader, 9), b"9 path=g\n"),
            (header("pax", EntryType::XHeader, 21), pax),
            (header("short", EntryType::Regular, 600), &[b'z'; 600]),
        ]);
        let found = read(&bytes).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", &long, "from the pax"]);
        assert_eq!(
            (found[0].1.len(), found[1].1.len(), found[2].1.len()),
            (3, 0, 600)
        );
    }

    #[test]
    fn archives_that_readers_would_see_differently_are_not_read_two_ways() {
        let one = archive(&[(header("a", EntryType::Regular, 0), b"")]);
        let two = archive(&[(header("b", EntryType::Regular, 0), b"")]);
        let joined = [&one[..1024], &two[..]].concat();
        assert!(matches!(read(&joined), Err(LayerError::Damaged { .. })));
        assert_eq!(
            read(&one[..1024]).unwrap().len(),
            1,
            "one zero block at the very end"
        );

        // A file by its type keeps its bytes, whatever its name looks like; before POSIX such a name was a directory's.
        let found = read(&archive(&[(header("d/", EntryType::Regular, 3), b"abc")])).unwrap();
        assert_eq!(found, [("d/".to_owned(), b"abc".to_vec())]);
        let mut old = header("d/", EntryType::Regular, 0);
        old.as_mut_bytes()[156] = 0;
        old.set_cksum();
        let bytes = archive(&[(old, b"")]);
        let entry = Archive::new(&bytes[..]).next_entry().unwrap().unwrap();
        assert_eq!(entry.kind, EntryType::Directory);
    }

    #[test]
    fn an_archive_cut_in_a_header_or_a_member_is_truncated() {
        let bytes = archive(&[(header("a", EntryType::Regular, 600), &[1; 600])]);
        for cut in [1, 511, 513, 1000, 1111] {
            assert!(matches!(read(&bytes[..cut]), Err(LayerError::Truncated)), "{cut}");
        }
        // Some writers leave the padding and the final blocks away.
        for cut in [1112, 1113, 1535, 1536, 2048] {
            assert_eq!(read(&bytes[..cut]).unwrap().len(), 1, "{cut}");
        }
    }

    #[test]
    fn blank_numbers_are_zero() {
        let mut blank = header("a", EntryType::Char, 0);
        for (n, field) in [
            100..108,
            108..116,
            116..124,
            124..136,
            136..148,
            329..337,
            337..345,
        ]
        .into_iter()
        .enumerate()
        {
            blank.as_mut_bytes()[field].fill([0, b' '][n % 2]);
        }
        blank.set_cksum();
        let bytes = archive(&[(blank, b"")]);
        let entry = Archive::new(&bytes[..]).next_entry().unwrap().unwrap();
        assert_eq!((entry.mode, entry.uid, entry.gid, entry.size), (0, 0, 0, 0));
        assert_eq!((entry.mtime, entry.device), ((0, 0), (0, 0)));
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let mut wrong_sum = archive(&[
            (header("a", EntryType::Regular, 0), b""),
            (header("b", EntryType::Regular, 0), b""),
        ]);
        wrong_sum[512] = b'X';
        let huge = archive(&[(header("p", EntryType::XHeader, (1 << 20) + 1), b"")]);
        let twice = archive(&[
            (header("p", EntryType::XHeader, 9), b"9 path=g\n"),
            (header("p", EntryType::XHeader, 9), b"9 path=g\n"),
            (header("b", EntryType::Regular, 0), b""),
        ]);
        let orphan = archive(&[(header("p", EntryType::XHeader, 9), b"9 path=g\n")]);
        for (bytes, place) in [(wrong_sum, 512), (huge, 512), (twice, 1536), (orphan, 1024)] {
            match read(&bytes) {
                Err(LayerError::Damaged { offset, .. }) => assert_eq!(offset, place),
                other => panic!("expected damage, got {other:?}"),
            }
        }
    }

    #[test]
    fn owners_that_do_not_fit_are_refused() {
        for value in ["4294967295", "4294967296", "18446744073709551615"] {
            let record = format!("uid={value}\n");
            let record = format!("{} {record}", record.len() + 3);
            let bytes = archive(&[
                (
                    header("p", EntryType::XHeader, record.len() as u64),
                    record.as_bytes(),
                ),
                (header("b", EntryType::Regular, 0), b""),
            ]);
            assert!(
                matches!(read(&bytes), Err(LayerError::Field { field: "owner", .. })),
                "{value}"
            );
        }
    }
}
