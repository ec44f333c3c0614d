//! Committed layers: staged, made durable, renamed into place, removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use croze_model::{Digest, Result};
use croze_store::{Durable, NamesIn, Record as _, Records, Unreadable};

use crate::driver::Snapshotter;
use crate::error::SnapshotError;
use crate::records::LayerRecord;
use crate::store::{Grave, LAYER_FILE, Snapshots, Staging, TREE};

/// A directory that a layer is being unpacked into. Dropped without a commit, it is removed.
#[derive(Debug)]
pub struct StagedLayer {
    staging: Staging,
}

impl StagedLayer {
    /// The directory to unpack into: empty, mode 0755.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.staging.path().join("new").join(TREE)
    }
}

impl Snapshots {
    /// The record of the layer with this key (a diff id, or a chain id).
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn layer(&self, key: &Digest) -> Result<Option<LayerRecord>> {
        Ok(self.load_layer(key)?)
    }

    /// The record of the topmost layer of a stack of diff ids, base first: under its chain id if its tree depends on the layers below,
    /// else under its diff id. `None` if it is not here, or if the stack is empty.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn top_layer(&self, diff_ids: &[Digest]) -> Result<Option<LayerRecord>> {
        Ok(self.find_top(diff_ids)?)
    }

    /// Every committed layer.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn layers(&self) -> Result<Vec<LayerRecord>> {
        Ok(self
            .layer_records()
            .list()
            .map_err(SnapshotError::record("list", "layers"))?)
    }

    /// Where a layer is whose record cannot be read, and why. Its tree may be in use.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn unreadable_layers(&self) -> Result<Vec<(PathBuf, String)>> {
        let listing = self
            .layer_records()
            .survey()
            .map_err(SnapshotError::record("list", "layers"))?;
        Ok(named(listing.unreadable))
    }

    /// Where a snapshot is whose record cannot be read, and why.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn unreadable_snapshots(&self) -> Result<Vec<(PathBuf, String)>> {
        Ok(named(self.survey_active()?.unreadable))
    }

    /// A new staging directory for a layer.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn stage_layer(&self) -> Result<StagedLayer> {
        let staging = self.staging()?;
        let layer = StagedLayer { staging };
        self.create_tree(&layer.tree())?;
        Ok(layer)
    }

    /// Makes a staged layer durable and puts it, with its record, in its place in one step. If the same layer is there already, that one
    /// stays; if it has lost its record, it gets the new one.
    ///
    /// # Errors
    /// If it cannot be written; the staged directory is then removed.
    pub fn commit_layer(&self, staged: StagedLayer, record: &LayerRecord) -> Result<()> {
        let StagedLayer { staging } = staged;
        let (new, named) = (staging.path().join("new"), staging.path().join(record.key()));
        fs::rename(&new, &named).map_err(SnapshotError::file("rename", &new))?;
        Records::nested(staging.path(), LAYER_FILE)
            .save(record)
            .map_err(SnapshotError::record("write", format!("layer {}", record.key)))?;
        self.sync_tree(&named)?;
        self.place(&named, &self.layer_dir(&record.key), LAYER_FILE)?;
        Ok(())
    }

    /// Removes a layer, and what was derived from it. Returns the bytes of its files.
    ///
    /// # Errors
    /// `Conflict` if an active snapshot uses it, or one does whose record cannot be read; `Internal` if it cannot be removed.
    pub fn remove_layer(&self, key: &Digest) -> Result<u64> {
        let mut buried = self.bury_layers(&[*key])?;
        buried.empty();
        match buried.refused.pop() {
            Some(error) => Err(error.into()),
            None => Ok(buried.bytes),
        }
    }

    /// Takes the names of layers away, and of what was derived from them; those that are used stay. Who prepares a snapshot meanwhile waits for
    /// no more than a few renames: the trees themselves are removed by [`BuriedLayers::empty`].
    ///
    /// # Errors
    /// `Internal` if records cannot be read or a name cannot be taken away.
    pub fn bury_layers(&self, keys: &[Digest]) -> Result<BuriedLayers> {
        let mut buried = BuriedLayers::default();
        let in_use = self.lock();
        let active = self.survey_active()?;
        let chains = self
            .chain_records()
            .list()
            .map_err(SnapshotError::record("list", "chains"))?;
        for key in keys {
            if let Some(unknown) = active.unreadable.first() {
                buried.refused.push(SnapshotError::UnknownUse {
                    key: *key,
                    path: unknown.path.clone(),
                    reason: unknown.reason.clone(),
                });
                continue;
            }
            let user = active
                .records
                .iter()
                .find(|snapshot| snapshot.layers.contains(key))
                .map(|snapshot| snapshot.id.clone())
                .or_else(|| in_use.contains_key(key).then(|| "that is being made".to_owned()));
            if let Some(id) = user {
                buried.refused.push(SnapshotError::LayerInUse { key: *key, id });
                continue;
            }
            let Some(record) = self.load_layer(key)? else {
                continue;
            };
            // A chain whose record is lost stays: its place is known by its id, and what it says stays true.
            for chain in chains.iter().filter(|chain| chain.layers.contains(key)) {
                buried
                    .graves
                    .extend(self.bury(&self.chain_dir(&chain.chain), Durable::Now)?);
            }
            buried
                .graves
                .extend(self.bury(&self.layer_dir(key), Durable::Now)?);
            buried.bytes += record.size;
        }
        Ok(buried)
    }

    /// The directories of a stack of diff ids, topmost first, as a reader without overlayfs needs them.
    ///
    /// # Errors
    /// `NotFound` if a layer is missing.
    pub fn trees(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>> {
        let lowers = self.lowers(diff_ids)?;
        Ok(lowers.iter().map(|layer| self.layer_tree(&layer.key)).collect())
    }

    pub(crate) fn load_layer(&self, key: &Digest) -> Result<Option<LayerRecord>, SnapshotError> {
        self.layer_records()
            .load(&key.hex())
            .map_err(SnapshotError::record("read", format!("layer {key}")))
    }

    pub(crate) fn find_top(&self, diff_ids: &[Digest]) -> Result<Option<LayerRecord>, SnapshotError> {
        let Some(diff_id) = diff_ids.last() else {
            return Ok(None);
        };
        if let Some(layer) = self.load_layer(diff_id)? {
            return Ok(Some(layer));
        }
        match crate::chain_id(diff_ids) {
            Some(chain) if chain != *diff_id => self.load_layer(&chain),
            _ => Ok(None),
        }
    }

    /// The layers of a chain, topmost first, as overlayfs is to stack them.
    pub(crate) fn lowers(&self, diff_ids: &[Digest]) -> Result<Vec<LayerRecord>, SnapshotError> {
        self.lowers_of(diff_ids, Snapshotter::Overlay)
    }

    /// As many as the way allows in which they are used.
    pub(crate) fn lowers_of(
        &self,
        diff_ids: &[Digest],
        snapshotter: Snapshotter,
    ) -> Result<Vec<LayerRecord>, SnapshotError> {
        let mut records = Vec::with_capacity(diff_ids.len());
        for (index, diff_id) in diff_ids.iter().enumerate() {
            let layer = self.find_top(&diff_ids[..=index])?;
            records.push(layer.ok_or(SnapshotError::MissingLayer { diff_id: *diff_id })?);
        }
        let stack = crate::chain::lowers(records);
        if snapshotter.is_overlay() {
            crate::chain::check_count(stack.len())?;
        }
        Ok(stack)
    }

    /// Moves a finished directory to its place, durably. One that is there already, with its record in `file`, stays. One whose record is lost
    /// gets the new record: directories come here whole and in one step, so its tree is whole, and it may be in use.
    pub(crate) fn place(&self, from: &Path, to: &Path, file: &str) -> Result<(), SnapshotError> {
        let parent = to.parent().unwrap_or(to);
        let open = |dir: &Path| {
            NamesIn::open(dir, Durable::Now)
                .map_err(SnapshotError::record("write", dir.display().to_string()))
        };
        let names = open(parent)?;
        match fs::rename(from, to) {
            Ok(()) => {
                return names
                    .sync()
                    .map_err(SnapshotError::record("write", parent.display().to_string()));
            }
            Err(e) if is_taken(&e) && to.is_dir() => {}
            Err(source) => {
                return Err(SnapshotError::File {
                    call: "rename to",
                    path: to.to_owned(),
                    source,
                });
            }
        }
        let record = to.join(file);
        if record.exists() {
            return Ok(());
        }
        tracing::warn!(path = %to.display(), "a tree gets its lost record back");
        let names = open(to)?;
        fs::rename(from.join(file), &record).map_err(SnapshotError::file("rename to", &record))?;
        names
            .sync()
            .map_err(SnapshotError::record("write", to.display().to_string()))
    }
}

/// Layers whose names are gone and whose trees are not, yet.
#[derive(Debug, Default)]
#[must_use]
pub struct BuriedLayers {
    /// Bytes of their files.
    pub bytes: u64,
    graves: Vec<Grave>,
    /// Why others stayed.
    refused: Vec<SnapshotError>,
}

impl BuriedLayers {
    /// Gives the space back, which may take long.
    pub fn empty(&mut self) {
        self.graves.drain(..).for_each(Grave::empty);
    }
}

fn named(unreadable: Vec<Unreadable>) -> Vec<(PathBuf, String)> {
    unreadable
        .into_iter()
        .map(|lost| (lost.path, lost.reason))
        .collect()
}

/// Whether a directory could not be renamed because one with something in it has the name.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}
