//! Records as files, and sled as their derived index.
//!
//! ```text
//!   <root>/
//!     crozed.lock               one daemon per root: flock, with the holder's pid inside ........ [`Lock`]
//!     <anything>/<key>.json     one versioned record per entity, replaced atomically ............ [`Records`]
//!     index/                    sled: derived from the records, never the only copy of a fact ... [`Index`]
//!     index.clean               exists only while nobody has the index open and it was closed well
//!     index.corrupt-<time>/     an index that could not be opened, set aside
//! ```
//!
//! Truth is the files. A request is acknowledged when its file is durable, and the index is updated after the
//! file. So an index that was not closed well, is damaged, panics or refuses to write is thrown away and filled
//! again from the files: every [`Tree`] is declared together with the source that can refill it.
//!
//! What this crate deliberately does not do: it knows no container and no image, it does not cache records, and it is
//! synchronous; async callers use it from blocking threads.
#![forbid(unsafe_code)]

mod error;
mod files;
mod index;
mod lock;
mod names;
mod record;

pub use error::{StoreError, full_disk_advice, full_disk_among, is_full};
pub use files::{Durable, NamesIn, create_private_dir, create_private_dir_when, write_atomic};
pub use index::{Index, IndexKey, Tree};
pub use lock::Lock;
pub use names::{NameTaken, Names};
pub use record::{Listing, Record, Records, Unreadable};

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The durable state under one root directory, owned by one process.
///
/// Cheap to clone; the last clone that goes closes the index and marks it clean.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<PathBuf>,
    // Declared before the lock: fields drop in order, and the index must be closed while the root is still ours.
    index: Index,
    _lock: Arc<Lock>,
}

impl Store {
    /// Takes the root for this process (creating it with mode 0711), and opens or rebuilds the index.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process holds the root, [`StoreError::File`] if the root cannot be used. A bad index
    /// is never an error: it is replaced by an empty one, and each [`Tree`] fills itself when it is declared.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        files::create_dir_mode(root, 0o711, Durable::Now)?;
        let lock = Lock::acquire(&root.join("crozed.lock"))?;
        let index = Index::open(root);
        Ok(Self {
            root: Arc::new(root.to_path_buf()),
            index,
            _lock: Arc::new(lock),
        })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The index of this root.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }
}
