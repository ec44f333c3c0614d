//! Where the maps of sparse members are read: from the header, from blocks behind it, from extended records, from the member itself. What
//! they mean: [`crate::sparse`].

use std::io::BufRead;

use tar::{EntryType, Header};

use super::{Archive, BLOCK};
use crate::error::LayerError;
use crate::sparse::{self, MAX_PARTS, Map, Part, Place, Records};

/// Where the map of a sparse member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    /// It is read.
    Known,
    /// Before the member's bytes.
    InData,
}

impl<R: BufRead> Archive<R> {
    /// The map of a sparse member, as far as it is before the member; `None` if the member is not sparse.
    pub(super) fn holes(
        &mut self,
        header: &Header,
        kind: EntryType,
        records: Option<Records>,
        path: &[u8],
    ) -> Result<Option<(Map, Holes)>, LayerError> {
        if kind == EntryType::GNUSparse {
            let mut map = Map::default();
            let mut more = sparse::from_header(header, &mut map);
            while more == Some(true) {
                let mut block = [0; BLOCK as usize];
                if !self.block(&mut block)? {
                    return Err(LayerError::Truncated);
                }
                self.offset += BLOCK;
                more = sparse::from_block(&block, &mut map);
            }
            return match more {
                Some(_) => Ok(Some((map, Holes::Known))),
                None => Err(self.damaged("a malformed map of a sparse file")),
            };
        }
        let Some(records) = records else {
            return Ok(None);
        };
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(self.damaged("holes in something that is no file"));
        }
        match records.read() {
            Some((size, Place::Header(parts))) => Ok(Some((Map { parts, size }, Holes::Known))),
            Some((size, Place::Data)) => {
                let parts = Vec::new();
                Ok(Some((Map { parts, size }, Holes::InData)))
            }
            None => Err(LayerError::Unsupported {
                entry: String::from_utf8_lossy(path).into_owned(),
                what: "a sparse file of an unknown form".to_owned(),
            }),
        }
    }

    /// The map at the beginning of the member: how many parts, then offset and length of each, a line each, filled up to a block.
    pub(super) fn map_in_data(&mut self) -> Result<Vec<Part>, LayerError> {
        let mut read = 0;
        let count = self.line(&mut read)?;
        if count > MAX_PARTS as u64 {
            return Err(self.damaged("a sparse file of more than 131072 parts"));
        }
        let mut numbers = Vec::new();
        for _ in 0..2 * count {
            numbers.push(self.line(&mut read)?);
        }
        for _ in 0..(BLOCK - read % BLOCK) % BLOCK {
            self.byte()?;
        }
        Ok(sparse::parts(&numbers).unwrap_or_default())
    }

    /// A line of the member with one decimal number; counts its bytes.
    fn line(&mut self, read: &mut u64) -> Result<u64, LayerError> {
        let mut value: Option<u64> = None;
        loop {
            let byte = self.byte()?;
            *read += 1;
            let next = match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', value) => value
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(u64::from(byte - b'0'))),
                _ => None,
            };
            value = Some(next.ok_or_else(|| self.damaged("a malformed map of a sparse file"))?);
        }
    }

    /// The member's next byte, which must be there.
    fn byte(&mut self) -> Result<u8, LayerError> {
        let byte = self.piece()?.first().copied();
        let byte = byte.ok_or_else(|| self.damaged("a sparse file whose map does not end"))?;
        self.consume(1);
        Ok(byte)
    }
}
