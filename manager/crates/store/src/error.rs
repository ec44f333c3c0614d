//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

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

    /// Whether the disk or the quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::File { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

impl From<StoreError> for croze_model::Error {
    fn from(error: StoreError) -> Self {
        use croze_model::{Error, ErrorKind};
        let full = error.is_full();
        let (kind, what, hint) = match &error {
            StoreError::Locked { path, .. } => (
                ErrorKind::Conflict,
                format!("another daemon uses {}", path.parent().unwrap_or(path).display()),
                Some("stop it, or give this one another --root"),
            ),
            StoreError::File { .. } if full => (
                ErrorKind::ResourceExhausted,
                "cannot store a fact durably".to_owned(),
                Some("the file system is full: free some space and try again"),
            ),
            StoreError::File { .. } | StoreError::Encode { .. } => (
                ErrorKind::Internal,
                "cannot store or read a fact".to_owned(),
                None,
            ),
            StoreError::Corrupt { .. } => (ErrorKind::Corrupt, "a stored fact is damaged".to_owned(), None),
            StoreError::TooNew { .. } => (
                ErrorKind::Unsupported,
                "a stored fact was written by a newer version".to_owned(),
                Some("run the newer version again, or give this one another --root"),
            ),
            StoreError::Index { .. } => (
                ErrorKind::Internal,
                "the index failed and could not be replaced".to_owned(),
                None,
            ),
        };
        let converted = Error::new(kind, "store", what).because(error);
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}
