//! The directories of the snapshot store, and its recovery.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use croze_model::{Digest, Result};
use croze_store::{Durable, NamesIn, Records, create_private_dir};
use croze_sys::tree::process_unique;

use crate::driver::Snapshotter;
use crate::error::SnapshotError;
use crate::group::Group;
use crate::quota::Projects;
use crate::records::{ChainRecord, LayerRecord, SnapshotRecord};
use crate::tree;

pub(crate) const TREE: &str = "fs";
pub(crate) const LAYER_FILE: &str = "layer.json";
pub(crate) const CHAIN_FILE: &str = "chain.json";
pub(crate) const SNAPSHOT_FILE: &str = "snapshot.json";

/// The snapshot store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Names of staging directories, unique within this process; other processes are kept out by the root's lock.
    next: AtomicU64,
    /// Layers that a snapshot is being made from, and by how many. Locked while layers are chosen and while one is removed: a layer
    /// cannot vanish under a new snapshot, and yet nobody waits for the snapshot to be made.
    in_use: Mutex<HashMap<Digest, usize>>,
    syncs: Group,
    /// Whether new snapshots are made with overlayfs.
    snapshotter: AtomicBool,
    projects: Projects,
}

/// Layers that cannot be removed as long as this lives.
#[derive(Debug)]
pub(crate) struct InUse<'a> {
    store: &'a Snapshots,
    keys: Vec<Digest>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut counts = self.store.lock();
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

impl Snapshots {
    /// Opens the store under `root` (the daemon's durable root), makes its directories and sweeps what an earlier process left unfinished.
    /// What cannot be swept stays, with a warning, until the next time: it hinders nothing.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_as(root, Snapshotter::Overlay)
    }

    pub(crate) fn open_as(root: &Path, snapshotter: Snapshotter) -> Result<Self> {
        let root = root.join("snapshots");
        let store = Self {
            inner: Arc::new(Inner {
                root,
                next: AtomicU64::new(0),
                in_use: Mutex::default(),
                syncs: Group::default(),
                snapshotter: AtomicBool::new(snapshotter.is_overlay()),
                projects: Projects::default(),
            }),
        };
        for name in ["layers", "chains", "active", "staging", "empty"] {
            let dir = store.dir(name);
            create_private_dir(&dir).map_err(SnapshotError::record("create", dir.display().to_string()))?;
        }
        if let Err(error) = store.sweep() {
            tracing::warn!(%error, "what an earlier process left unfinished stays for now");
        }
        Ok(store)
    }

    /// Removes staged directories of a dead process, and trees without their record that no snapshot stands on. A lost record does not make
    /// a tree useless: a container may run on it, and the next pull gives it its record back.
    fn sweep(&self) -> Result<(), SnapshotError> {
        for entry in list(&self.dir("staging"))? {
            if let Err(error) = remove_tree(&entry) {
                tracing::warn!(path = %entry.display(), %error, "a leftover stays for now");
            }
        }
        let active = self.survey_active()?;
        self.inner.projects.begin(&active.records);
        for unreadable in &active.unreadable {
            // It holds what a container wrote: it is never removed without being asked for.
            tracing::warn!(path = %unreadable.path.display(), reason = unreadable.reason, "a snapshot is left alone");
        }
        if !active.unreadable.is_empty() {
            return Ok(());
        }
        let layers = active.records.iter().flat_map(|snapshot| &snapshot.layers);
        let chains = active
            .records
            .iter()
            .filter_map(|snapshot| snapshot.implicit.as_ref());
        for (dir, file, used) in [
            (
                "layers",
                LAYER_FILE,
                layers.map(Digest::hex).collect::<HashSet<_>>(),
            ),
            ("chains", CHAIN_FILE, chains.map(Digest::hex).collect()),
        ] {
            for entry in list(&self.dir(dir))? {
                let is_used = entry
                    .file_name()
                    .is_some_and(|name| used.contains(&*name.to_string_lossy()));
                if is_used || entry.join(file).exists() {
                    continue;
                }
                tracing::warn!(path = %entry.display(), "a tree without its record is removed");
                if let Err(error) = self.discard(&entry, Durable::Now) {
                    tracing::warn!(path = %entry.display(), %error, "it stays for now");
                }
            }
        }
        Ok(())
    }

    /// How new snapshots are made here.
    #[must_use]
    pub fn snapshotter(&self) -> Snapshotter {
        if self.inner.snapshotter.load(Ordering::Relaxed) {
            Snapshotter::Overlay
        } else {
            Snapshotter::Copy
        }
    }

    /// The same store, in which snapshots are made in another way from now on.
    pub(crate) fn with(self, snapshotter: Snapshotter) -> Self {
        self.inner
            .snapshotter
            .store(snapshotter.is_overlay(), Ordering::Relaxed);
        self
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // Nothing panics between two changes of it.
        self.inner.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The projects of snapshots with a limit.
    pub(crate) fn projects(&self) -> &Projects {
        &self.inner.projects
    }

    /// Makes a tree in this store durable. Several who want it at once share one sync of the whole file system.
    pub(crate) fn sync_tree(&self, tree: &Path) -> Result<(), SnapshotError> {
        self.inner.syncs.run(|| tree::sync_file_system(tree))
    }

    /// Keeps these layers from being removed. `counts` is the locked map, so that they are still the ones that were chosen.
    pub(crate) fn hold(
        &self,
        mut counts: MutexGuard<'_, HashMap<Digest, usize>>,
        keys: Vec<Digest>,
    ) -> InUse<'_> {
        for key in &keys {
            *counts.entry(*key).or_default() += 1;
        }
        InUse { store: self, keys }
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    pub(crate) fn layer_dir(&self, key: &Digest) -> PathBuf {
        self.dir("layers").join(key.hex())
    }

    pub(crate) fn layer_tree(&self, key: &Digest) -> PathBuf {
        self.layer_dir(key).join(TREE)
    }

    pub(crate) fn chain_dir(&self, chain: &Digest) -> PathBuf {
        self.dir("chains").join(chain.hex())
    }

    pub(crate) fn layer_records(&self) -> Records<LayerRecord> {
        Records::nested(self.dir("layers"), LAYER_FILE)
    }

    pub(crate) fn chain_records(&self) -> Records<ChainRecord> {
        Records::nested(self.dir("chains"), CHAIN_FILE)
    }

    pub(crate) fn snapshot_records(&self) -> Records<SnapshotRecord> {
        Records::nested(self.dir("active"), SNAPSHOT_FILE)
    }

    /// A new empty staging directory.
    pub(crate) fn staging(&self) -> Result<Staging, SnapshotError> {
        let path = self.staging_path();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(SnapshotError::file("create directory", &path))?;
        Ok(Staging { path })
    }

    fn staging_path(&self) -> PathBuf {
        let n = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.dir("staging").join(format!("{}-{n}", process_unique()))
    }

    /// Makes a tree's root directory and its parent. Mode 0755: it may be shown as the root of a container.
    pub(crate) fn create_tree(&self, tree: &Path) -> Result<(), SnapshotError> {
        if let Some(parent) = tree.parent() {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(parent)
                .map_err(SnapshotError::file("create directory", parent))?;
        }
        fs::create_dir(tree).map_err(SnapshotError::file("create directory", tree))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tree, mode).map_err(SnapshotError::file("change the mode of", tree))
    }

    /// Removes a directory so that it vanishes at once, with its record, and only when that is as durable as is said, is emptied. What cannot be emptied
    /// stays in the staging directory for the next sweep: by its name it is gone.
    pub(crate) fn discard(&self, path: &Path, durable: Durable) -> Result<(), SnapshotError> {
        if let Some(grave) = self.bury(path, durable)? {
            grave.empty();
        }
        Ok(())
    }

    /// The first half of [`Snapshots::discard`], which takes no time: its name is gone, and what it held is to be emptied by the caller. `None`
    /// if it was not there.
    pub(crate) fn bury(&self, path: &Path, durable: Durable) -> Result<Option<Grave>, SnapshotError> {
        let grave = self.staging_path();
        let parent = path.parent().unwrap_or(path);
        let failed = |error| SnapshotError::record("remove", path.display().to_string())(error);
        let names = NamesIn::open(parent, durable).map_err(failed)?;
        match fs::rename(path, &grave) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(SnapshotError::File {
                    call: "remove",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        names.sync().map_err(failed)?;
        Ok(Some(Grave { path: grave }))
    }
}

/// What was removed and still takes space. The next start empties what nobody did.
#[derive(Debug)]
#[must_use]
pub(crate) struct Grave {
    path: PathBuf,
}

impl Grave {
    /// Gives the space back; what cannot be given back is logged.
    pub(crate) fn empty(self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what was removed still takes space for now");
        }
    }
}

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            // The next start sweeps it.
            tracing::warn!(path = %self.path.display(), %error, "a staging directory stays for now");
        }
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let entries = fs::read_dir(dir).map_err(SnapshotError::file("list", dir))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(SnapshotError::file("list", dir))
        })
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), SnapshotError> {
    croze_sys::tree::remove_path(path).map_err(SnapshotError::file("remove", path))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
