//! A blob that is being written.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use croze_model::{Digest, DigestWriter, Result};
use croze_store::{Durable, NamesIn};

use crate::error::ContentError;

/// A blob that is being written and hashed. Dropped without [`Ingest::finish`], it is removed.
#[derive(Debug)]
pub struct Ingest {
    writer: DigestWriter<File>,
    temporary: Temporary,
    place: PathBuf,
    expected: Digest,
    size: u64,
}

impl Ingest {
    pub(crate) fn new(file: File, temporary: PathBuf, place: PathBuf, expected: Digest, size: u64) -> Self {
        let temporary = Temporary {
            path: temporary,
            armed: true,
        };
        Self {
            writer: DigestWriter::new(file),
            temporary,
            place,
            expected,
            size,
        }
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// `Corrupt` if the blob would grow past its promised size, `ResourceExhausted` if the disk is full.
    pub fn append(&mut self, piece: &[u8]) -> Result<()> {
        if self.writer.bytes() + piece.len() as u64 > self.size {
            return Err(ContentError::TooLong {
                digest: self.expected,
                size: self.size,
            }
            .into());
        }
        self.writer
            .write_all(piece)
            .map_err(ContentError::file("write", &self.temporary.path))?;
        Ok(())
    }

    /// Checks size and digest, and gives the blob its name; it is durable when this returns.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was promised: nothing of it stays.
    pub fn finish(self) -> Result<()> {
        let Self {
            writer,
            mut temporary,
            place,
            expected,
            size,
        } = self;
        let file = verified(writer, expected, size)?;
        file.sync_data()
            .map_err(ContentError::file("sync", &temporary.path))?;
        let parent = place.parent().unwrap_or(&place);
        let names = NamesIn::open(parent, Durable::Now).map_err(ContentError::directory(parent))?;
        fs::rename(&temporary.path, &place).map_err(ContentError::file("rename to", &place))?;
        temporary.armed = false;
        names.sync().map_err(ContentError::directory(parent))?;
        Ok(())
    }

    /// Checks size and digest of a blob that is not to be kept.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was promised.
    pub fn check(self) -> Result<()> {
        verified(self.writer, self.expected, self.size)?;
        Ok(())
    }
}

/// The file, if what was written to it is what was promised.
fn verified(writer: DigestWriter<File>, expected: Digest, size: u64) -> Result<File, ContentError> {
    let (file, found, bytes) = writer.finish();
    if bytes < size {
        return Err(ContentError::Truncated {
            digest: expected,
            size,
            found: bytes,
        });
    }
    if found != expected {
        return Err(ContentError::WrongDigest { expected, found });
    }
    Ok(file)
}

/// The file under its temporary name, removed when this is dropped while armed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    armed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next open sweeps it.
            tracing::warn!(path = %self.path.display(), %error, "an unfinished blob stays for now");
        }
    }
}
