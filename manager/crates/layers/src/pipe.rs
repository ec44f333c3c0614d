//! The two threads of a layer: one reads and inflates, the other hashes and unpacks.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use croze_model::{Digest, DigestWriter};

use crate::archive::Archive;
use crate::compression::Decoder;
use crate::error::LayerError;
use crate::unpack::Unpacker;
use crate::{Limits, Parents, Unpacked};

/// How many bytes go from one thread to the other at once.
const PIECE: usize = 256 * 1024;
/// How many pieces may wait: enough to even out, little enough not to matter.
const WAITING: usize = 4;

/// Unpacks the layer that `source` holds, compressed or not, into the empty directory `target`. The source is read to its end.
///
/// Blocks; uses one more thread while it runs.
///
/// # Errors
/// [`LayerError`]. What was unpacked until then stays in `target`: its owner removes it.
pub fn unpack(
    source: impl Read + Send,
    target: &Path,
    parents: Parents<'_>,
    limits: Limits,
) -> Result<Unpacked, LayerError> {
    with_pieces(source, limits, |pieces| {
        let mut unpacker = Unpacker::new(target, parents, limits)?;
        unpacker.run(Archive::new(&mut *pieces))?;
        let (diff_id, archive_size) = pieces.digest()?;
        let (needs_parents, size) = (unpacker.needs_parents.clone(), unpacker.size);
        let (implicit, opaque_root) = unpacker.finish()?;
        Ok(Unpacked {
            diff_id,
            archive_size,
            size,
            implicit,
            opaque_root,
            needs_parents,
        })
    })
}

/// The digest and the length of the uncompressed bytes of `source`, which are not kept: the diff id of a layer that is unpacked already.
///
/// # Errors
/// [`LayerError`] if the source cannot be read or inflated, or is too large.
pub fn hash(source: impl Read + Send, limits: Limits) -> Result<(Digest, u64), LayerError> {
    with_pieces(source, limits, Pieces::digest)
}

fn with_pieces<T: Send>(
    source: impl Read + Send,
    limits: Limits,
    consume: impl FnOnce(&mut Pieces) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    let (full, incoming) = sync_channel(WAITING);
    let (empty, recycled) = channel();
    std::thread::scope(|scope| {
        let inflating = std::thread::Builder::new().name("inflate".to_owned());
        inflating
            .spawn_scoped(scope, move || inflate(source, limits.bytes, &full, &recycled))
            .map_err(|source| LayerError::Source { source })?;
        // Dropped when this returns: a consumer that fails ends the other thread too.
        let mut pieces = Pieces::new(incoming, empty);
        consume(&mut pieces)
    })
}

/// Reads, inflates and sends pieces until the end, an error, or the consumer is gone.
fn inflate(
    source: impl Read,
    limit: u64,
    full: &SyncSender<Result<Vec<u8>, LayerError>>,
    recycled: &Receiver<Vec<u8>>,
) {
    let mut total = 0u64;
    let mut next = |decoder: &mut Decoder<_>| -> Result<Vec<u8>, LayerError> {
        let mut piece = recycled.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut filled = 0;
        while filled < piece.len() {
            match decoder.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Source { source }),
            }
        }
        piece.truncate(filled);
        total += filled as u64;
        if total > limit {
            return Err(LayerError::TooLarge { limit, unit: "bytes" });
        }
        Ok(piece)
    };
    let mut decoder = match Decoder::new(source) {
        Ok(decoder) => decoder,
        Err(source) => {
            // Nobody listening any more means that nobody wants to know.
            drop(full.send(Err(LayerError::Source { source })));
            return;
        }
    };
    loop {
        let piece = next(&mut decoder);
        let last = piece.as_ref().map_or(true, Vec::is_empty);
        // An empty piece is the end: a channel that just closes would look the same after a panic.
        if full.send(piece).is_err() || last {
            return;
        }
    }
}

/// The consumer's end: a buffered reader that hashes what it receives.
struct Pieces {
    incoming: Receiver<Result<Vec<u8>, LayerError>>,
    empty: Sender<Vec<u8>>,
    hash: DigestWriter<io::Sink>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Pieces {
    fn new(incoming: Receiver<Result<Vec<u8>, LayerError>>, empty: Sender<Vec<u8>>) -> Self {
        Self {
            incoming,
            empty,
            hash: DigestWriter::new(io::sink()),
            current: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    fn advance(&mut self) -> Result<(), LayerError> {
        let stopped = || LayerError::Source {
            source: io::Error::other("the inflating thread stopped"),
        };
        let used = std::mem::take(&mut self.current);
        if !used.is_empty() {
            // The other thread may have ended: then nothing needs recycling.
            drop(self.empty.send(used));
        }
        self.current = self.incoming.recv().map_err(|_| stopped())??;
        self.at = 0;
        self.ended = self.current.is_empty();
        io::Write::write_all(&mut self.hash, &self.current).map_err(|source| LayerError::Source { source })
    }

    /// Reads to the end; the digest and number of all bytes.
    fn digest(&mut self) -> Result<(Digest, u64), LayerError> {
        while !self.ended {
            self.advance()?;
        }
        let hash = std::mem::replace(&mut self.hash, DigestWriter::new(io::sink()));
        let (_, digest, bytes) = hash.finish();
        Ok((digest, bytes))
    }
}

impl BufRead for &mut Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            self.advance().map_err(io::Error::other)?;
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for &mut Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
