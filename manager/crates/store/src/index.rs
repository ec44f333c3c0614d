//! The index: small typed trees in sled, derived from the files and replaceable at any time.
//!
//! ```text
//!   absent, clean ──open──▶ in use ──drop of the last handle──▶ clean
//!                             │
//!      unclean, other schema ─┼─▶ removed, empty, in use        every declared tree is filled
//!      damaged, panics, slow ─┤─▶ set aside, empty, in use      from its source again
//!                             │                                       ▲
//!                  full disk ─┴─▶ absent: reads are answered ─────────┘ by the first write for which there is room
//!                                 from the sources
//! ```
//!
//! Invariants:
//! - Nothing lives here alone unless losing it loses nothing: a [`Tree`] is declared with its source.
//! - `index.clean` exists only while no process has the index open; so a kill -9 or a power cut is seen at the next open. It holds
//!   the checksum of the content: sled opens a log that lost its tail without a word.
//! - Every call into sled is under `catch_unwind`; opening also has a deadline. A call that fails or panics makes the
//!   index be replaced, and is then tried once more. While not even an empty index can be made (a full disk), the daemon starts and
//!   answers all the same, so that something can be removed: only what would have to be written fails.
//! - Never flushed on the hot path; values are small (under 4 KiB); keys are big-endian so that ranges are in order.
//!
//! All calls block: async callers use blocking threads.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use croze_sys::space::Space;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::files::{Durable, NamesIn, set_aside, write_atomic};

/// The layout of all trees together: another number means that the index is built anew.
const SCHEMA: u32 = 1;
/// sled's default is 1 GiB.
const CACHE_BYTES: u64 = 6 * 1024 * 1024;
/// Opening reads a snapshot and the log's tail: a second is long, so this means that something is wrong.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
type Source = Arc<dyn Fn() -> Result<Rows, StoreError> + Send + Sync>;

/// The index of one root.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    clean_mark: PathBuf,
    state: RwLock<State>,
}

struct State {
    // None only while the index is being replaced, or after even that failed.
    db: Option<sled::Db>,
    // Whether what was on disk is used: then a tree's content is trusted when it is declared.
    trusted: bool,
    trees: HashMap<&'static str, Declared>,
}

/// A tree by its source, which is always known, and its handle, which there is only while the index is open.
struct Declared {
    source: Source,
    tree: Option<sled::Tree>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Opens `<root>/index`, or replaces it if it is unclean, damaged, of another schema or does not answer. Where not even an empty index
    /// can be made, it opens without one: see the module's documentation.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let dir = root.join("index");
        let clean_mark = root.join("index.clean");
        let checksum = take_clean_mark(&clean_mark);
        let there = dir.symlink_metadata().is_ok();
        let opened = match checksum {
            Some(expected) if there => match open_db(&dir, Some(expected)) {
                Ok(db) => Ok((db, true)),
                Err(error) => {
                    tracing::warn!(%error, "the index is set aside and built anew from the records");
                    replace_db(&dir).map(|db| (db, false))
                }
            },
            _ => {
                if there {
                    tracing::info!(index = %dir.display(), "the index was not closed; it is built anew from the records");
                    drop_unclean(&dir);
                }
                open_db(&dir, None)
                    .or_else(|_| replace_db(&dir))
                    .map(|db| (db, false))
            }
        };
        let (db, trusted) = match opened {
            Ok((db, trusted)) => (Some(db), trusted),
            Err(error) => {
                tracing::warn!(%error, "there is no index for now; the records are asked instead");
                (None, false)
            }
        };
        let state = State {
            db,
            trusted,
            trees: HashMap::new(),
        };
        Self {
            inner: Arc::new(Inner {
                dir,
                clean_mark,
                state: RwLock::new(state),
            }),
        }
    }

    /// Declares a tree and the source it can be filled from: all `(key, value)` pairs that the files imply.
    ///
    /// If the index on disk was not trusted, the tree is filled now. Declaring a tree again replaces its source.
    ///
    /// # Errors
    ///
    /// What the source returns.
    pub fn tree<K, V, F>(&self, name: &'static str, source: F) -> Result<Tree<K, V>, StoreError>
    where
        K: IndexKey,
        V: Serialize + DeserializeOwned,
        F: Fn() -> Result<Vec<(K, V)>, StoreError> + Send + Sync + 'static,
    {
        let source: Source = Arc::new(move || {
            source()?
                .into_iter()
                .map(|(k, v)| Ok((k.to_bytes(), encode(name, &v)?)))
                .collect()
        });
        let mut state = self.inner.write();
        state.trees.insert(name, Declared { source, tree: None });
        if state.db.is_some() {
            let refill = !state.trusted;
            match self.inner.open_tree(&mut state, name, refill) {
                Err(error @ StoreError::Index { .. }) => {
                    // What it was is in the log; without an index the source answers.
                    if let Err(failure) = self.inner.replace(&mut state, &error) {
                        tracing::warn!(error = %failure, "there is no index for now; the records are asked instead");
                    }
                }
                other => other?,
            }
        }
        drop(state);
        Ok(Tree {
            index: self.clone(),
            name,
            types: PhantomData,
        })
    }

    /// Runs `call` on the tree; when sled fails, the index is reopened or replaced, and the call is tried once more.
    fn with<T>(
        &self,
        name: &'static str,
        call: impl Fn(&sled::Tree) -> Result<T, sled::Error>,
    ) -> Result<T, StoreError> {
        let first = {
            let state = self.inner.read();
            self.inner.call(&state, name, &call)
        };
        let error = match first {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let mut state = self.inner.write();
        // Another thread may have mended it while this one waited for the lock.
        if let Ok(value) = self.inner.call(&state, name, &call) {
            return Ok(value);
        }
        self.inner.replace(&mut state, &error)?;
        self.inner.call(&state, name, &call)
    }

    /// Reads with `call`; while there is no index, `else_from` finds the answer among the rows of the source.
    fn read<T>(
        &self,
        name: &'static str,
        call: impl Fn(&sled::Tree) -> Result<T, sled::Error>,
        else_from: impl FnOnce(Rows) -> T,
    ) -> Result<T, StoreError> {
        match self.with(name, call) {
            Err(StoreError::Index { .. }) => {
                let source = {
                    let state = self.inner.read();
                    state.trees.get(name).map(|declared| Arc::clone(&declared.source))
                };
                let source =
                    source.ok_or_else(|| index_error(&self.inner.dir, "the tree is not declared"))?;
                Ok(else_from(source()?))
            }
            other => other,
        }
    }

    /// Replaces the index as if sled had failed.
    #[cfg(test)]
    pub(crate) fn distrust(&self) -> Result<(), StoreError> {
        let error = index_error(&self.inner.dir, "told by a test");
        self.inner.replace(&mut self.inner.write(), &error)
    }
}

impl Inner {
    // A panic while the lock was held cannot leave State half-changed in a way that `replace` does not mend.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn call<T>(
        &self,
        state: &State,
        name: &'static str,
        call: &impl Fn(&sled::Tree) -> Result<T, sled::Error>,
    ) -> Result<T, StoreError> {
        let declared = state
            .trees
            .get(name)
            .ok_or_else(|| index_error(&self.dir, "the tree is not declared"))?;
        let tree = declared
            .tree
            .as_ref()
            .ok_or_else(|| index_error(&self.dir, "it could not be made"))?;
        guarded(&self.dir, || call(tree))
    }

    /// Opens the tree of a declared name, and fills it if that is wanted.
    fn open_tree(&self, state: &mut State, name: &'static str, refill: bool) -> Result<(), StoreError> {
        let db = state
            .db
            .as_ref()
            .ok_or_else(|| index_error(&self.dir, "closed"))?;
        let tree = guarded(&self.dir, || db.open_tree(name))?;
        if let Some(declared) = state.trees.get_mut(name) {
            if refill {
                fill(&self.dir, &tree, &declared.source)?;
            }
            declared.tree = Some(tree);
        }
        Ok(())
    }

    /// Drops what is open, sets it aside, opens an empty index and fills every declared tree. When that fails there is no index, and the
    /// next call tries again.
    fn replace(&self, state: &mut State, why: &StoreError) -> Result<(), StoreError> {
        if state.db.is_some() {
            tracing::warn!(error = %why, "the index is replaced and filled from the records");
        }
        self.close(state);
        state.db = Some(replace_db(&self.dir)?);
        let names: Vec<&'static str> = state.trees.keys().copied().collect();
        for name in names {
            if let Err(error) = self.open_tree(state, name, true) {
                // One tree without content would be believed.
                self.close(state);
                return Err(error);
            }
        }
        Ok(())
    }

    fn close(&self, state: &mut State) {
        state.trusted = false;
        for declared in state.trees.values_mut() {
            declared.tree = None;
        }
        if let Some(db) = state.db.take() {
            // sled's flusher may panic on a file that it can no longer write.
            let _panicked = catch_unwind(AssertUnwindSafe(move || drop(db)));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self
            .state
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.trees.clear();
        let Some(db) = state.db.take() else { return };
        let checksum = guarded(&self.dir, || db.flush().and_then(|_| db.checksum()));
        let _panicked = catch_unwind(AssertUnwindSafe(move || drop(db)));
        let marked = checksum
            .and_then(|sum| write_atomic(&self.clean_mark, sum.to_string().as_bytes(), 0o600, Durable::Now));
        if let Err(error) = marked {
            tracing::warn!(%error, "the index stays unclean and will be built anew");
        }
    }
}

/// A typed view of one tree of the index.
pub struct Tree<K, V> {
    index: Index,
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self {
            index: self.index.clone(),
            name: self.name,
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tree").field(&self.name).finish()
    }
}

impl<K: IndexKey, V: Serialize + DeserializeOwned> Tree<K, V> {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`], as for every method here: the index failed and could not be replaced. What only reads then asks the source.
    pub fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        let key = key.to_bytes();
        let found = self.index.read(
            self.name,
            |t| Ok(t.get(&key)?.map(|value| value.to_vec())),
            |rows| {
                rows.into_iter()
                    .find_map(|(k, value)| (k == key).then_some(value))
            },
        )?;
        // A value of another shape comes from another version of the program: the file knows better.
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] or [`StoreError::Encode`].
    pub fn put(&self, key: &K, value: &V) -> Result<(), StoreError> {
        let (key, value) = (key.to_bytes(), encode(self.name, value)?);
        self.index.with(self.name, |t| t.insert(&key, value.as_slice()))?;
        Ok(())
    }

    /// Sets the value of `key` if it has none; otherwise returns the present one. Atomic between threads.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] or [`StoreError::Encode`].
    pub fn put_new(&self, key: &K, value: &V) -> Result<Option<V>, StoreError> {
        let (key, value) = (key.to_bytes(), encode(self.name, value)?);
        let swapped = self.index.with(self.name, |t| {
            t.compare_and_swap(&key, None as Option<&[u8]>, Some(value.as_slice()))
        })?;
        match swapped {
            Ok(()) => Ok(None),
            Err(present) => match present.current.map(|b| serde_json::from_slice(&b)) {
                Some(Ok(value)) => Ok(Some(value)),
                _ => Err(index_error(&self.index.inner.dir, "a value cannot be read")),
            },
        }
    }

    /// Removes `key`; says whether it was there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`].
    pub fn remove(&self, key: &K) -> Result<bool, StoreError> {
        let key = key.to_bytes();
        Ok(self.index.with(self.name, |t| t.remove(&key))?.is_some())
    }

    /// All pairs whose encoded key begins with `prefix`, in key order; empty for all.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`].
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<(K, V)>, StoreError> {
        let rows = self.index.read(
            self.name,
            |t| {
                t.scan_prefix(prefix)
                    .map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())))
                    .collect::<Result<Rows, _>>()
            },
            |mut rows| {
                rows.retain(|(k, _)| k.starts_with(prefix));
                rows.sort();
                rows
            },
        )?;
        Ok(rows
            .into_iter()
            .filter_map(|(k, v)| Some((K::from_bytes(&k)?, serde_json::from_slice(&v).ok()?)))
            .collect())
    }
}

/// A key whose bytes sort as the keys do.
pub trait IndexKey: Sized {
    /// The encoded key.
    fn to_bytes(&self) -> Vec<u8>;
    /// The key again, if these are its bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl IndexKey for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl IndexKey for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

fn encode<V: Serialize>(tree: &str, value: &V) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode {
        kind: tree.into(),
        source,
    })
}

fn index_error(dir: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Index {
        path: dir.into(),
        reason: reason.into(),
    }
}

/// Calls into sled; its error or panic becomes an error.
fn guarded<T>(dir: &Path, call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(index_error(dir, error.to_string())),
        Err(panic) => Err(index_error(dir, format!("panic: {}", panic_text(&*panic)))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

/// Removes the mark and returns the checksum in it; durable, so that a later crash is seen. A mark that cannot be removed counts as none: what
/// it says would still be there after a crash.
fn take_clean_mark(mark: &Path) -> Option<u32> {
    let checksum = fs::read_to_string(mark)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if mark.symlink_metadata().is_err() {
        return None;
    }
    let removed = fs::remove_file(mark)
        .map_err(StoreError::file("remove", mark))
        .or_else(|_| set_aside(mark).map(drop))
        .and_then(|()| NamesIn::open(mark.parent().unwrap_or(Path::new(".")), Durable::Now)?.sync());
    match removed {
        Ok(()) => checksum,
        Err(error) => {
            tracing::warn!(%error, "the index's mark is not believed");
            None
        }
    }
}

/// Makes room for a new index where one was not closed: what is in it proves nothing, so it is not kept.
fn drop_unclean(dir: &Path) {
    if let Err(error) = croze_sys::tree::remove_path(dir) {
        tracing::warn!(path = %dir.display(), %error, "the old index cannot be removed");
    }
}

/// Opens sled on a thread of its own, so that one that hangs can be given up.
fn open_db(dir: &Path, expected_checksum: Option<u32>) -> Result<sled::Db, StoreError> {
    let (send, receive) = mpsc::sync_channel(1);
    let path = dir.to_path_buf();
    let opener = std::thread::Builder::new().name("index-open".into());
    opener
        .spawn(move || {
            let opened = guarded(&path, || open_checked(&path, expected_checksum));
            // If the deadline is over nobody listens; the database is then closed here.
            drop(send.send(opened));
        })
        .map_err(StoreError::file("start a thread to open", dir))?;
    receive
        .recv_timeout(OPEN_DEADLINE)
        .unwrap_or_else(|_| Err(index_error(dir, format!("not open after {OPEN_DEADLINE:?}"))))
}

/// Opens what should have this checksum, or else what should be empty.
fn open_checked(dir: &Path, expected_checksum: Option<u32>) -> Result<sled::Db, sled::Error> {
    let db = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::LowSpace)
        // Its flusher would sync twice a second, on an idle daemon too; what matters is flushed when the index is closed.
        .flush_every_ms(None)
        .open()?;
    let Some(expected) = expected_checksum else {
        db.insert(b"schema", &SCHEMA.to_be_bytes())?;
        return Ok(db);
    };
    if db.get(b"schema")?.as_deref() != Some(&SCHEMA.to_be_bytes()) {
        return Err(sled::Error::Unsupported(format!("the schema is not {SCHEMA}")));
    }
    if db.checksum()? != expected {
        return Err(sled::Error::ReportableBug(
            "the content is not what was closed".into(),
        ));
    }
    Ok(db)
}

/// Sets the directory aside (keeping only the newest such directory, for a look at it) and opens an empty one. On a full disk it is removed:
/// that it is full is all there would be to see, and it takes room.
fn replace_db(dir: &Path) -> Result<sled::Db, StoreError> {
    if Space::of(dir).is_some_and(|space| space.is_full()) {
        drop_unclean(dir);
    }
    if dir.symlink_metadata().is_ok() {
        remove_older_asides(dir);
        set_aside(dir)?;
    }
    open_db(dir, None)
}

fn remove_older_asides(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("index.corrupt-")
            && let Err(error) = croze_sys::tree::remove_path(&entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "an old damaged index stays");
        }
    }
}

fn fill(dir: &Path, tree: &sled::Tree, source: &Source) -> Result<(), StoreError> {
    let rows = source()?;
    guarded(dir, || {
        tree.clear()?;
        for (key, value) in rows {
            tree.insert(key, value)?;
        }
        Ok(())
    })
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
