//! What can go wrong with blobs.

use std::io;
use std::path::{Path, PathBuf};

use croze_model::{Digest, Error, ErrorKind};
use croze_store::StoreError;

/// A failure inside this crate; it leaves it as an [`Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// A file-system call failed.
    #[error("cannot {call} {}", path.display())]
    File {
        /// What was tried, as a verb.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be made or synced.
    #[error("cannot prepare {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The content is not what its digest promised.
    #[error("blob {expected} is damaged: its content has the digest {found}")]
    WrongDigest {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// There is more than the size promised.
    #[error("blob {digest} is longer than the {size} bytes that its descriptor says")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// The promised size.
        size: u64,
    },
    /// There is less than the size promised.
    #[error("blob {digest} is truncated: {found} of {size} bytes")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// The promised size.
        size: u64,
        /// What came.
        found: u64,
    },
    /// There is no such blob.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// Which.
        digest: Digest,
    },
}

impl ContentError {
    pub(crate) fn file(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { call, path, source }
    }

    pub(crate) fn directory(path: &Path) -> impl FnOnce(StoreError) -> Self {
        let path = path.to_owned();
        move |source| Self::Directory { path, source }
    }
}

impl From<ContentError> for Error {
    fn from(error: ContentError) -> Self {
        let what = error.to_string();
        match error {
            ContentError::File { path, source, .. } if croze_store::is_full(&source) => {
                Error::new(ErrorKind::ResourceExhausted, "store", what)
                    .because(source)
                    .hint(croze_store::full_disk_advice(&path))
            }
            ContentError::File { source, .. } => {
                Error::new(ErrorKind::Internal, "store", what).because(source)
            }
            ContentError::Directory { path, source } if source.is_full() => {
                Error::new(ErrorKind::ResourceExhausted, "store", what)
                    .because(source)
                    .hint(croze_store::full_disk_advice(&path))
            }
            ContentError::Directory { source, .. } => {
                Error::new(ErrorKind::Internal, "store", what).because(source)
            }
            ContentError::WrongDigest { .. }
            | ContentError::TooLong { .. }
            | ContentError::Truncated { .. } => Error::new(ErrorKind::Corrupt, "verify", what)
                .hint("the registry, or a proxy before it, serves damaged content: nothing of it was kept"),
            ContentError::Missing { .. } => {
                Error::new(ErrorKind::NotFound, "store", what).hint("pull the image again")
            }
        }
    }
}
