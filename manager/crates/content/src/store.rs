//! The store's directories, and finished blobs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use croze_model::{Digest, DigestWriter, ErrorKind as Kind, Result};
use croze_store::{Durable, NamesIn, create_private_dir};

use crate::error::ContentError;
use crate::ingest::Ingest;

/// A finished blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The content store under one root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContentStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    ingest: PathBuf,
    /// Names of ingests, unique within this process; other processes are kept out by the root's lock.
    next: AtomicU64,
}

impl ContentStore {
    /// Opens the store under `root` (the daemon's durable root), makes its directories and sweeps unfinished blobs. One that cannot be
    /// swept stays, with a warning: it hinders nothing.
    ///
    /// # Errors
    /// If a directory cannot be made or listed.
    pub fn open(root: &Path) -> Result<Self> {
        let blobs = root.join("content/blobs/sha256");
        let ingest = root.join("content/ingest");
        for dir in [&blobs, &ingest] {
            create_private_dir(dir).map_err(ContentError::directory(dir))?;
        }
        for entry in fs::read_dir(&ingest).map_err(ContentError::file("list", &ingest))? {
            let path = entry.map_err(ContentError::file("list", &ingest))?.path();
            if let Err(error) = croze_sys::tree::remove_path(&path) {
                tracing::warn!(path = %path.display(), %error, "an unfinished blob stays for now");
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                blobs,
                ingest,
                next: AtomicU64::new(0),
            }),
        })
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    /// The blob's size; `None` if it is not here.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ContentError::File {
                call: "stat",
                path,
                source,
            }
            .into()),
        }
    }

    /// The blob, open for reading.
    ///
    /// # Errors
    /// `NotFound` if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        Ok(self.open_file(digest)?)
    }

    /// The whole blob, with its digest checked. At most `limit` bytes are read.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` if it is damaged or longer than `limit`.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(digest)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(ContentError::file("read", &self.path(digest)))?;
        if bytes.len() as u64 > limit {
            return Err(ContentError::TooLong {
                digest: *digest,
                size: limit,
            }
            .into());
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ContentError::WrongDigest {
                expected: *digest,
                found,
            }
            .into());
        }
        Ok(bytes)
    }

    /// Reads the whole blob and checks its digest. A damaged one is removed.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` if it was damaged.
    pub fn verify(&self, digest: &Digest) -> Result<u64> {
        let mut file = self.open_file(digest)?;
        let mut hash = DigestWriter::new(io::sink());
        io::copy(&mut file, &mut hash).map_err(ContentError::file("read", &self.path(digest)))?;
        let (_, found, bytes) = hash.finish();
        if found != *digest {
            self.remove(digest)?;
            return Err(ContentError::WrongDigest {
                expected: *digest,
                found,
            }
            .into());
        }
        Ok(bytes)
    }

    /// Begins to write a blob of this digest and size.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn ingest(&self, expected: &Digest, size: u64) -> Result<Ingest> {
        let n = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .inner
            .ingest
            .join(format!("{}-{n}", croze_sys::tree::process_unique()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(ContentError::file("create", &temporary))?;
        Ok(Ingest::new(file, temporary, self.path(expected), *expected, size))
    }

    /// Stores a small blob; it is durable when this returns. One that is here already is read, and replaced if it is damaged.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        match self.read(&digest, bytes.len() as u64) {
            Ok(_) => return Ok(digest),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt) => {}
            Err(error) => return Err(error),
        }
        let mut ingest = self.ingest(&digest, bytes.len() as u64)?;
        ingest.append(bytes)?;
        ingest.finish()?;
        Ok(digest)
    }

    /// Removes a blob, durably; returns its size, or 0 if it was not here.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<u64> {
        let Some(size) = self.size(digest)? else {
            return Ok(0);
        };
        let path = self.path(digest);
        let names = NamesIn::open(&self.inner.blobs, Durable::Now)
            .map_err(ContentError::directory(&self.inner.blobs))?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            Err(source) => {
                return Err(ContentError::File {
                    call: "remove",
                    path,
                    source,
                }
                .into());
            }
        }
        names.sync().map_err(ContentError::directory(&self.inner.blobs))?;
        Ok(size)
    }

    /// Every finished blob. Files whose names are no digests are not ours and are left alone.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Blob>> {
        let dir = &self.inner.blobs;
        let mut blobs = Vec::new();
        for entry in fs::read_dir(dir).map_err(ContentError::file("list", dir))? {
            let entry = entry.map_err(ContentError::file("list", dir))?;
            let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            let metadata = entry
                .metadata()
                .map_err(ContentError::file("stat", &entry.path()))?;
            blobs.push(Blob {
                digest,
                size: metadata.len(),
            });
        }
        Ok(blobs)
    }

    fn open_file(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ContentError::Missing { digest: *digest },
            _ => ContentError::File {
                call: "open",
                path,
                source,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn entries(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_blob_is_found_under_its_digest() {
        let (dir, store) = store();
        let digest = store.put(b"croze").unwrap();
        assert_eq!(digest, Digest::of(b"croze"));
        assert_eq!(store.size(&digest).unwrap(), Some(5));
        assert_eq!(store.read(&digest, 5).unwrap(), b"croze");
        assert_eq!(store.verify(&digest).unwrap(), 5);
        assert_eq!(store.list().unwrap(), vec![Blob { digest, size: 5 }]);
        assert_eq!(store.read(&digest, 4).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(store.remove(&digest).unwrap(), 5);
        assert_eq!(store.remove(&digest).unwrap(), 0);
        assert_eq!(store.read(&digest, 5).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(entries(&dir.path().join("content/ingest")), 0);
    }

    #[test]
    fn what_is_not_as_promised_leaves_nothing() {
        let (dir, store) = store();
        let digest = Digest::of(b"croze");
        for (size, pieces, message) in [
            (5, vec![b"craze".as_slice()], "is damaged"),
            (5, vec![b"cro"], "is truncated: 3 of 5 bytes"),
            (4, vec![b"cro", b"ze"], "is longer than the 4 bytes"),
            (5, vec![], "is truncated: 0 of 5 bytes"),
        ] {
            let mut ingest = store.ingest(&digest, size).unwrap();
            let result = pieces
                .iter()
                .try_for_each(|piece| ingest.append(piece))
                .and_then(|()| ingest.finish());
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.what().contains(message), "{}", error.what());
            assert_eq!(store.list().unwrap(), vec![]);
            assert_eq!(entries(&dir.path().join("content/ingest")), 0);
        }
    }

    #[test]
    fn opening_sweeps_what_was_not_finished() {
        let (dir, store) = store();
        let mut ingest = store.ingest(&Digest::of(b"x"), 100).unwrap();
        ingest.append(b"half").unwrap();
        std::mem::forget(ingest);
        // Whatever else lies there is no reason not to start.
        fs::create_dir_all(dir.path().join("content/ingest/odd/thing")).unwrap();
        assert_eq!(entries(&dir.path().join("content/ingest")), 2);
        ContentStore::open(dir.path()).unwrap();
        assert_eq!(entries(&dir.path().join("content/ingest")), 0);
    }

    #[test]
    fn a_blob_damaged_on_disk_is_found_and_removed() {
        let (_dir, store) = store();
        let digest = store.put(b"croze").unwrap();
        fs::write(store.path(&digest), b"craze").unwrap();
        store.put(b"croze").unwrap();
        assert_eq!(
            store.read(&digest, 10).unwrap(),
            b"croze",
            "put again, it is whole again"
        );
        fs::write(store.path(&digest), b"craze").unwrap();
        assert_eq!(store.read(&digest, 10).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(store.verify(&digest).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(store.size(&digest).unwrap(), None);
    }
}
