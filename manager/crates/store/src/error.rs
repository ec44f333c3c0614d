//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use croze_sys::space::Space;
use thiserror::Error;

/// A failure of the store, with the file or tree that it happened on.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file-system call failed.
    #[error("{call} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: `write`, `rename`, `sync`.
        call: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not a record of the expected kind.
    #[error("{} is not a readable {kind} record: {reason}", path.display())]
    Corrupt {
        /// The record's kind.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// The record was written by a newer version of the program.
    #[error("{} has version {found}, this program reads {kind} records up to version {supported}", path.display())]
    TooNew {
        /// The record's kind.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// A value could not be put into its file or tree.
    #[error("cannot encode a {kind}: {source}")]
    Encode {
        /// The record kind or the tree.
        kind: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// Another process has the root.
    #[error("{} is held by process {holder}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The pid in it, as text (it may be unreadable).
        holder: String,
    },
    /// The index failed, and so did its replacement.
    #[error("index {}: {reason}", path.display())]
    Index {
        /// The directory of the index.
        path: PathBuf,
        /// What sled said.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn file(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::File { call, path, source }
    }

    /// Whether the disk or the quota is full. sled does not always say why it failed, so for the index the file system is asked.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::File { source, .. } => is_full(source),
            StoreError::Index { path, .. } => Space::of(path).is_some_and(|space| space.is_full()),
            _ => false,
        }
    }

    /// What to do about it, where that is known: for a full disk, which one it is and how full.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            StoreError::Locked { .. } => Some("stop it, or give this one another --root".to_owned()),
            StoreError::File { path, .. } | StoreError::Index { path, .. } if self.is_full() => {
                Some(Space::advice(path))
            }
            StoreError::TooNew { .. } => {
                Some("run the newer version again, or remove what it says (croze info names it)".to_owned())
            }
            _ => None,
        }
    }
}

/// Whether a call failed because the disk or the quota is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What to tell a user whose request met a full disk at `path`: which file system that is, and how full it is.
#[must_use]
pub fn full_disk_advice(path: &Path) -> String {
    Space::advice(path)
}

/// The same for a failure that names no path, such as a program's: the first of these whose file system is full, if there is one.
#[must_use]
pub fn full_disk_among(paths: &[&Path]) -> Option<String> {
    let full = paths
        .iter()
        .find(|path| Space::of(path).is_some_and(|space| space.is_full()));
    full.map(|path| Space::advice(path))
}

impl From<StoreError> for croze_model::Error {
    fn from(error: StoreError) -> Self {
        use croze_model::{Error, ErrorKind};
        let full = error.is_full();
        let (kind, what) = match &error {
            StoreError::Locked { path, .. } => (
                ErrorKind::Conflict,
                format!("another daemon uses {}", path.parent().unwrap_or(path).display()),
            ),
            _ if full => (
                ErrorKind::ResourceExhausted,
                "cannot store a fact durably".to_owned(),
            ),
            StoreError::File { .. } | StoreError::Encode { .. } => {
                (ErrorKind::Internal, "cannot store or read a fact".to_owned())
            }
            StoreError::Corrupt { .. } => (ErrorKind::Corrupt, "a stored fact is damaged".to_owned()),
            StoreError::TooNew { .. } => (
                ErrorKind::Unsupported,
                "a stored fact was written by a newer version".to_owned(),
            ),
            StoreError::Index { .. } => (
                ErrorKind::Internal,
                "the index failed and could not be replaced".to_owned(),
            ),
        };
        let advice = error.advice();
        let converted = Error::new(kind, "store", what).because(error);
        match advice {
            Some(advice) => converted.hint(advice),
            None => converted,
        }
    }
}
