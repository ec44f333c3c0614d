//! One layer: what is here of it, and how it gets from the network or the blob into its directory. Everything here blocks.

use std::io::{self, Read, Write as _};
use std::path::Path;

use bytes::Bytes;
use croze_content::Ingest;
use croze_layers::{LayerError, Limits, Parents, Unpacked};
use croze_model::{Digest, DigestWriter, Error, ErrorKind, Result};
use croze_snapshots::{LayerRecord, StagedLayer, chain_id};
use tokio::sync::mpsc;

use crate::error::ImageError;
use crate::records::{ImageLayer, PairRecord};
use crate::store::Inner;

/// How many bytes of a download are still taken after its content turned out to be no layer.
const MAX_DRAINED: u64 = 64 << 20;

/// How much of a layer is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Everything: the pair was verified here, and the tree is here.
    Complete,
    /// The blob; the tree must be made, or the pair verified.
    BlobOnly,
    /// Nothing that helps.
    Nothing,
}

/// Why a layer is not here.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) blame: Blame,
}

/// What a failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// This host failed: no source would have done better.
    Host,
    /// The content is what its digest says, and cannot be used: every source has the same.
    Content,
    /// The source sent something else, or may have: its bytes were not all looked at.
    Source,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            blame: Blame::Host,
        }
    }
}

impl Failed {
    /// A blob that is not what was promised is the source's; one that cannot be written is not.
    fn of_ingest(error: Error) -> Self {
        let blame = match error.kind() {
            ErrorKind::Corrupt => Blame::Source,
            _ => Blame::Host,
        };
        Self { error, blame }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is in its directory.
    Unpacked,
    /// The blob is verified and kept, but its tree needs the layers below.
    NeedsParents,
}

impl Inner {
    /// How much of a layer is here. `diff_ids` are those of the image up to and including this layer.
    pub(crate) fn stand(&self, layer: &ImageLayer, diff_ids: &[Digest]) -> Result<Stand> {
        let pair = self.pair(layer)?;
        if pair.is_some() && self.snapshots.top_layer(diff_ids)?.is_some() {
            return Ok(Stand::Complete);
        }
        let blob = self.content.size(&layer.blob)?;
        Ok(if blob == Some(layer.blob_size) {
            Stand::BlobOnly
        } else {
            Stand::Nothing
        })
    }

    /// The verified pair of this blob.
    fn pair(&self, layer: &ImageLayer) -> Result<Option<PairRecord>> {
        let pair = self
            .pairs
            .load(&layer.blob.hex())
            .map_err(ImageError::record("read", format!("blob {}", layer.blob)))?;
        match pair {
            Some(pair) if pair.diff_id != layer.diff_id => Err(ImageError::DiffId {
                blob: layer.blob,
                expected: layer.diff_id,
                found: pair.diff_id,
            }
            .into()),
            other => Ok(other),
        }
    }

    /// Stores a layer from the pieces that arrive: blob and tree in one pass.
    pub(crate) fn store_arriving(
        &self,
        layer: &ImageLayer,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, Failed> {
        let ingest = self.content.ingest(&layer.blob, layer.blob_size)?;
        let mut arriving = Arriving {
            pieces,
            ingest,
            current: Bytes::new(),
            failure: None,
        };
        let unpacked = self.unpack(layer, &mut arriving, Parents::Unknown);
        if let Some(failure) = arriving.failure.take() {
            return Err(Failed::of_ingest(failure));
        }
        match unpacked {
            Ok((staged, unpacked)) => {
                arriving.ingest.finish().map_err(Failed::of_ingest)?;
                self.place(layer, staged, &unpacked, layer.diff_id)
            }
            Err(failed) if failed.blame == Blame::Host => Err(failed),
            // Damaged content makes an inflater or parser stumble first, over whatever it takes it for: what was promised is the better
            // word for it.
            Err(Failed { error, blame }) => Err(if !arriving.drain()? {
                Failed { error, blame }
            } else if let Err(damaged) = arriving.ingest.check() {
                Failed::of_ingest(damaged)
            } else {
                let blame = Blame::Content;
                Failed { error, blame }
            }),
        }
    }

    /// Stores a layer whose blob is here. A damaged blob is removed, and the error says `Corrupt`.
    pub(crate) fn store_blob(&self, layer: &ImageLayer) -> Result<Stored> {
        self.store_verified(layer, Parents::Unknown, layer.diff_id)
    }

    /// Unpacks the blob, hashing it on the way, and commits tree and pair. Whatever the content seems to be wrong with, the blob is looked
    /// at: one that is damaged may still inflate.
    fn store_verified(&self, layer: &ImageLayer, parents: Parents<'_>, key: Digest) -> Result<Stored> {
        let mut blob = Hashing {
            source: self.content.open_blob(&layer.blob)?,
            hash: DigestWriter::new(io::sink()),
        };
        let stored = self
            .unpack(layer, &mut blob, parents)
            .and_then(|(staged, unpacked)| {
                blob.check(layer).map_err(|error| Failed {
                    error: error.into(),
                    blame: Blame::Source,
                })?;
                self.place(layer, staged, &unpacked, key)
            });
        stored.map_err(|Failed { error, blame }| match blame {
            Blame::Source => self.content.verify(&layer.blob).err().unwrap_or(error),
            Blame::Host | Blame::Content => error,
        })
    }

    /// Makes the tree of a layer that depends on the layers below, from its blob. `diff_ids` are those up to and including this layer.
    pub(crate) fn store_over_parents(&self, layer: &ImageLayer, diff_ids: &[Digest]) -> Result<()> {
        let Some((_, below)) = diff_ids.split_last() else {
            return Ok(());
        };
        if self.snapshots.top_layer(diff_ids)?.is_some() {
            return Ok(());
        }
        let trees = self.snapshots.trees(below)?;
        let key = chain_id(diff_ids).unwrap_or(layer.diff_id);
        self.store_verified(layer, Parents::Known(&trees), key)?;
        Ok(())
    }

    /// Unpacks into a staged directory, or only hashes if the tree is here already.
    fn unpack(
        &self,
        layer: &ImageLayer,
        source: impl Read + Send,
        parents: Parents<'_>,
    ) -> Result<(Option<StagedLayer>, Unpacked), Failed> {
        if self.snapshots.layer(&layer.diff_id)?.is_some() {
            let (diff_id, archive_size) =
                croze_layers::hash(source, Limits::default()).map_err(named(layer, None))?;
            let unpacked = Unpacked {
                diff_id,
                archive_size,
                size: 0,
                implicit: Vec::new(),
                opaque_root: false,
                needs_parents: None,
            };
            return Ok((None, unpacked));
        }
        let staged = self.snapshots.stage_layer()?;
        let tree = staged.tree();
        let unpacked = croze_layers::unpack(source, &tree, parents, Limits::default())
            .map_err(named(layer, Some(&tree)))?;
        Ok((Some(staged), unpacked))
    }

    /// Checks the diff id, then commits tree and pair.
    fn place(
        &self,
        layer: &ImageLayer,
        staged: Option<StagedLayer>,
        unpacked: &Unpacked,
        key: Digest,
    ) -> Result<Stored, Failed> {
        if unpacked.diff_id != layer.diff_id {
            let error = ImageError::DiffId {
                blob: layer.blob,
                expected: layer.diff_id,
                found: unpacked.diff_id,
            };
            return Err(Failed {
                error: error.into(),
                blame: Blame::Content,
            });
        }
        let stored = if unpacked.needs_parents.is_some() {
            Stored::NeedsParents
        } else {
            Stored::Unpacked
        };
        if let (Some(staged), Stored::Unpacked) = (staged, stored) {
            let record = LayerRecord {
                key,
                diff_id: layer.diff_id,
                size: unpacked.size,
                implicit: unpacked.implicit.clone(),
                opaque_root: unpacked.opaque_root,
            };
            self.snapshots.commit_layer(staged, &record)?;
        }
        self.pairs
            .save(&PairRecord {
                blob: layer.blob,
                diff_id: layer.diff_id,
            })
            .map_err(ImageError::record("write", format!("blob {}", layer.blob)))
            .map_err(Error::from)?;
        Ok(stored)
    }
}

/// A layer's error with the layer it happened in, and where the disk is full on which its tree was made: which one, while what was unpacked is
/// still there.
fn named(layer: &ImageLayer, tree: Option<&Path>) -> impl FnOnce(LayerError) -> Failed {
    let what = format!("cannot unpack layer {}", layer.blob);
    move |error| {
        let blame = if error.is_the_hosts() {
            Blame::Host
        } else {
            Blame::Source
        };
        let is_full = matches!(&error, LayerError::File { source, .. } | LayerError::Target { source, .. }
            if croze_store::is_full(source));
        let inner = Error::from(error);
        let outer = Error::new(inner.kind(), inner.stage(), what);
        let full_disk = tree.filter(|_| is_full).map(croze_store::full_disk_advice);
        let outer = match full_disk.or_else(|| inner.advice().map(str::to_owned)) {
            Some(advice) => outer.hint(advice),
            None => outer,
        };
        let error = outer.because(inner);
        Failed { error, blame }
    }
}

/// A blob that is hashed while it is read.
struct Hashing<R> {
    source: R,
    hash: DigestWriter<io::Sink>,
}

impl<R: Read> Hashing<R> {
    /// Reads what is left, and checks the digest of all.
    fn check(mut self, layer: &ImageLayer) -> Result<(), ImageError> {
        let failed = |source| ImageError::ReadBlob {
            blob: layer.blob,
            source,
        };
        io::copy(&mut self, &mut io::sink()).map_err(failed)?;
        let (_, found, _) = self.hash.finish();
        if found == layer.blob {
            Ok(())
        } else {
            Err(ImageError::BlobDigest {
                blob: layer.blob,
                found,
            })
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.hash.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// The bytes of a download as a reader: each piece is written to the blob and hashed before anything else sees it.
struct Arriving {
    pieces: mpsc::Receiver<Bytes>,
    ingest: Ingest,
    current: Bytes,
    /// Why the blob could not be written.
    failure: Option<Error>,
}

impl Arriving {
    /// Takes the rest without giving it to anybody, so that the digest covers all. Says whether it came to the end: for a better word in
    /// an error nobody fills the disk.
    fn drain(&mut self) -> Result<bool> {
        let mut drained = 0;
        while let Some(piece) = self.pieces.blocking_recv() {
            drained += piece.len() as u64;
            if drained > MAX_DRAINED {
                return Ok(false);
            }
            self.ingest.append(&piece)?;
        }
        Ok(true)
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(piece) = self.pieces.blocking_recv() else {
                return Ok(0);
            };
            if let Err(error) = self.ingest.append(&piece) {
                let text = error.to_string();
                self.failure = Some(error);
                return Err(io::Error::other(text));
            }
            self.current = piece;
        }
        let n = self.current.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
