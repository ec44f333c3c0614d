//! What a container changed, as a layer.

use std::io::Write;

use croze_layers::{Changes, Packed, pack};
use croze_model::Result;

use crate::active::Usage;
use crate::driver::Snapshotter;
use crate::error::SnapshotError;
use crate::store::Snapshots;

impl Snapshots {
    /// Writes what an active snapshot has and its layers have not as an uncompressed layer to `out`. The same changes give the same bytes, and
    /// the layer laid over the same image gives the same tree. A snapshot that is in use can be read; what changes meanwhile is in it or not.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id, `Unsupported` for what no layer can hold, `ResourceExhausted` or `Internal` if `out` takes no more.
    pub fn diff(&self, id: &str, out: impl Write) -> Result<Packed> {
        let record = self.load_snapshot(id)?;
        let upper = self.dir("active").join(id).join("upper");
        if record.snapshotter.is_overlay() {
            return Ok(pack(&upper, Changes::Upper, out)?);
        }
        // What it was is not kept: it would take as much space again for as long as the snapshot lives.
        let counts = self.lock();
        let layers = self.lowers_of(&record.diff_ids, Snapshotter::Copy)?;
        // Its image may be removed meanwhile, and the snapshot itself.
        let _in_use = self.hold(counts, layers.iter().map(|layer| layer.key).collect());
        let staging = self.staging()?;
        let before = staging.path().join("before/fs");
        self.create_tree(&before)?;
        self.fill(&before, &layers)?;
        Ok(pack(&upper, Changes::Since(&before), out)?)
    }

    /// What the tree of a committed layer uses.
    ///
    /// # Errors
    /// `NotFound` if it is not here.
    pub fn layer_usage(&self, key: &croze_model::Digest) -> Result<Usage> {
        if self.load_layer(key)?.is_none() {
            return Err(SnapshotError::MissingLayer { diff_id: *key }.into());
        }
        let tree = self.layer_tree(key);
        let used = croze_sys::tree::usage(&tree).map_err(SnapshotError::file("measure", &tree))?;
        Ok(Usage {
            bytes: used.bytes,
            inodes: used.inodes,
        })
    }
}
