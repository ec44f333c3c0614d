//! Active snapshots: prepared, listed, measured, removed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use croze_model::{Digest, Result};
use croze_store::{Durable, Listing, NamesIn, Records};

use crate::chain::{self, Lower, MAX_LAYERS};
use crate::driver::Snapshotter;
use crate::error::SnapshotError;
use crate::layers::is_taken;
use crate::quota::Limit;
use crate::records::{ChainRecord, LayerRecord, SnapshotRecord};
use crate::store::{CHAIN_FILE, SNAPSHOT_FILE, Snapshots, TREE};
use crate::tree;

/// The longest id of a snapshot, in bytes.
const MAX_ID: usize = 128;

/// What a snapshot's writable directory uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

/// What a snapshot is made for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// To be written to, with this limit.
    Written(Limit),
    /// To be looked at.
    View,
}

impl Kind {
    fn limit(self) -> Limit {
        match self {
            Self::Written(limit) => limit,
            Self::View => Limit::default(),
        }
    }
}

impl Snapshots {
    /// Makes an active snapshot `id` over a stack of layers, base first. Its root directory has the owner and mode that the image's root
    /// has. It is durable when this returns.
    ///
    /// # Errors
    /// `AlreadyExists` if the id is taken, `NotFound` if a layer is not here, `Unsupported` for more layers than overlayfs stacks.
    pub fn prepare(&self, id: &str, diff_ids: &[Digest]) -> Result<SnapshotRecord> {
        self.prepare_when(id, diff_ids, Limit::default(), Durable::Now)
    }

    /// As [`Snapshots::prepare`], with a limit of what may be written into it, and durable when it is said. The limit of a copy is that of all its
    /// files.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`]; for a limit as [`Snapshots::can_limit`], and `InvalidArgument` if a copy takes more than it may.
    pub fn prepare_when(
        &self,
        id: &str,
        diff_ids: &[Digest],
        limit: Limit,
        durable: Durable,
    ) -> Result<SnapshotRecord> {
        self.make(id, diff_ids, Kind::Written(limit), durable)
    }

    /// Makes a snapshot `id` that is only looked at: it is mounted read-only, in as many places as one likes; one of as many layers as overlayfs takes
    /// in one place at a time, because its own directory is an upper layer then. It is durable when this returns.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`].
    pub fn view(&self, id: &str, diff_ids: &[Digest]) -> Result<SnapshotRecord> {
        self.make(id, diff_ids, Kind::View, Durable::Now)
    }

    fn make(&self, id: &str, diff_ids: &[Digest], kind: Kind, durable: Durable) -> Result<SnapshotRecord> {
        check_id(id)?;
        let snapshotter = self.snapshotter();
        let active = self.dir("active").join(id);
        if active.exists() {
            return Err(SnapshotError::Exists { id: id.to_owned() }.into());
        }
        // No layer may go between being found here and being named by the new record.
        let counts = self.lock();
        let layers = self.lowers_of(diff_ids, snapshotter)?;
        let _in_use = self.hold(counts, layers.iter().map(|layer| layer.key).collect());
        let lowers: Vec<Lower> = layers
            .iter()
            .map(|layer| Lower::new(self.layer_tree(&layer.key), layer))
            .collect();
        let (implicit, in_upper) = match snapshotter {
            Snapshotter::Overlay => self.implicit_layer(diff_ids, &layers, &lowers)?,
            Snapshotter::Copy => (None, BTreeMap::new()),
        };

        // Declared before the directory: that is gone when the project is free again.
        let project;
        let staging = self.staging()?;
        let new = staging.path().join(id);
        let upper = new.join("upper");
        self.create_tree(&upper)?;
        let work = new.join("work");
        fs::create_dir(&work).map_err(SnapshotError::file("create directory", &work))?;
        fs::set_permissions(&work, fs::Permissions::from_mode(0o700))
            .map_err(SnapshotError::file("change the mode of", &work))?;
        // While they are empty: what is made in them belongs to their project.
        project = self.assign(kind.limit(), &[&upper, &work])?;
        let record = SnapshotRecord {
            id: id.to_owned(),
            diff_ids: diff_ids.to_vec(),
            layers: layers.iter().map(|layer| layer.key).collect(),
            implicit,
            snapshotter,
            view: matches!(kind, Kind::View),
            quota: project.quota(),
        };
        if snapshotter == Snapshotter::Copy {
            self.fill(&upper, &layers)?;
            if let Some(quota) = &record.quota {
                self.check_room(id, quota)?;
            }
            if durable == Durable::Now {
                self.sync_tree(&upper)?;
            }
        } else {
            chain::build(&upper, &in_upper)?;
            if let Some(source) = chain::root_source(&lowers) {
                tree::copy_metadata(&source, &upper)?;
            }
        }
        Records::nested(staging.path(), SNAPSHOT_FILE)
            .save_when(&record, durable)
            .map_err(SnapshotError::record("write", format!("snapshot {id}")))?;
        self.name(&new, &record, durable)?;
        project.keep();
        Ok(record)
    }

    /// Gives a new snapshot its name, and puts its limits in force. Undo, of what failed itself: it is removed.
    fn name(&self, new: &Path, record: &SnapshotRecord, durable: Durable) -> Result<(), SnapshotError> {
        let id = &record.id;
        let parent = self.dir("active");
        let active = parent.join(id);
        let unnamed = |error| SnapshotError::record("write", parent.display().to_string())(error);
        let names = NamesIn::open(&parent, durable).map_err(unnamed)?;
        match fs::rename(new, &active) {
            Ok(()) => {}
            Err(e) if is_taken(&e) => return Err(SnapshotError::Exists { id: id.clone() }),
            Err(e) => return Err(SnapshotError::file("rename to", &active)(e)),
        }
        let named = names.sync().map_err(unnamed).and_then(|()| self.enforce(record));
        named.inspect_err(|_| {
            // Nobody is told of it, so nobody would take it back.
            self.lift(record);
            let taken_back = self.discard(&active, Durable::Soon);
            taken_back
                .unwrap_or_else(|error| tracing::warn!(id, %error, "a snapshot that failed stays for now"));
        })
    }

    /// The record of an active snapshot.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id.
    pub fn snapshot(&self, id: &str) -> Result<SnapshotRecord> {
        Ok(self.load_snapshot(id)?)
    }

    /// Every active snapshot whose record can be read.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<SnapshotRecord>> {
        Ok(self.survey_active()?.records)
    }

    /// What the snapshot's writable directory uses.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id.
    pub fn usage(&self, id: &str) -> Result<Usage> {
        self.load_snapshot(id)?;
        let upper = self.dir("active").join(id).join("upper");
        let used = croze_sys::tree::usage(&upper).map_err(SnapshotError::file("measure", &upper))?;
        Ok(Usage {
            bytes: used.bytes,
            inodes: used.inodes,
        })
    }

    /// Removes a snapshot and what was written into it. One that is not there is no error, so that an undo may run twice.
    ///
    /// # Errors
    /// If the directory cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.remove_when(id, Durable::Now)
    }

    /// As [`Snapshots::remove`], durable when it is said.
    ///
    /// # Errors
    /// As [`Snapshots::remove`].
    pub fn remove_when(&self, id: &str, durable: Durable) -> Result<()> {
        check_id(id)?;
        let limited = self.quota_of(id);
        if let Some(record) = &limited {
            self.lift(record);
        }
        self.discard(&self.dir("active").join(id), durable)?;
        if let Some(record) = &limited {
            self.forget_project(record);
        }
        Ok(())
    }

    pub(crate) fn load_snapshot(&self, id: &str) -> Result<SnapshotRecord, SnapshotError> {
        check_id(id)?;
        self.snapshot_records()
            .load(id)
            .map_err(SnapshotError::record("read", format!("snapshot {id}")))?
            .ok_or_else(|| SnapshotError::Missing { id: id.to_owned() })
    }

    /// The active snapshots, and those of which nobody knows what they stand on.
    pub(crate) fn survey_active(&self) -> Result<Listing<SnapshotRecord>, SnapshotError> {
        self.snapshot_records()
            .survey()
            .map_err(SnapshotError::record("list", "snapshots"))
    }

    /// The chain id if the chain needs a layer of implicit directories on top; it is made if it is not there. Where overlayfs takes no layer more,
    /// those directories, for the snapshot's own directory. The layers are held by the caller, but nothing is locked: this may take long, and two who make the same chain at once make the same.
    fn implicit_layer(
        &self,
        diff_ids: &[Digest],
        layers: &[LayerRecord],
        lowers: &[Lower],
    ) -> Result<(Option<Digest>, BTreeMap<PathBuf, PathBuf>), SnapshotError> {
        let nothing = BTreeMap::new;
        let Some(chain) = crate::chain_id(diff_ids) else {
            return Ok((None, nothing()));
        };
        let place = self.chain_dir(&chain);
        if place.join(CHAIN_FILE).is_file() {
            return Ok((Some(chain), nothing()));
        }
        let directories = chain::implicit_directories(lowers);
        if directories.is_empty() || layers.len() == MAX_LAYERS {
            return Ok((None, directories));
        }
        let staging = self.staging()?;
        let new = staging.path().join(chain.hex());
        let tree = new.join(TREE);
        self.create_tree(&tree)?;
        chain::build(&tree, &directories)?;
        let record = ChainRecord {
            chain,
            layers: layers.iter().map(|layer| layer.key).collect(),
        };
        Records::nested(staging.path(), CHAIN_FILE)
            .save(&record)
            .map_err(SnapshotError::record("write", format!("chain {chain}")))?;
        self.sync_tree(&new)?;
        self.place(&new, &place, CHAIN_FILE)?;
        Ok((Some(chain), nothing()))
    }
}

/// Ids become file names as they are, so that a path names its snapshot to a reader.
fn check_id(id: &str) -> Result<(), SnapshotError> {
    let usable = (1..=MAX_ID).contains(&id.len())
        && !id.starts_with('.')
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if usable {
        Ok(())
    } else {
        Err(SnapshotError::BadId { id: id.to_owned() })
    }
}
