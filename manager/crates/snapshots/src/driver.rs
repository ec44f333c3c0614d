//! How a snapshot's file system comes to be: by overlayfs, or as a copy where there is none.
//!
//! | | overlay | copy |
//! |---|---|---|
//! | preparing | two empty directories | every file of the image is copied |
//! | mounting | overlayfs: the layers, and the snapshot's directory on top | the snapshot's directory itself, bound |
//! | what it uses | what was written | everything |
//! | a difference | what the upper directory holds | each file compared with what the layers show |
//! | layers | 500 at most | any number |
//!
//! A snapshot keeps the way it was made: its record says which. Layers are the same for both, and so a store may hold snapshots of both kinds.
//! What either must do is said by the tests in `contract_tests.rs`, which both run.
//!
//! Layers themselves are kept in overlayfs' form, so the store's file system must take device files and `trusted` attributes also for copies; a
//! file system that takes neither (overlayfs itself) is refused when a layer with whiteouts is unpacked.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use croze_layers::LayerTree;
use croze_model::Result;
use nix::mount::{MsFlags, mount};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};
use serde::{Deserialize, Serialize};

use crate::chain;
use crate::error::SnapshotError;
use crate::mount::{Access, short_path};
use crate::records::LayerRecord;
use crate::store::Snapshots;
use crate::tree;

/// How snapshots are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Snapshotter {
    /// With overlayfs.
    #[default]
    Overlay,
    /// By copying every file.
    Copy,
}

impl Snapshotter {
    /// As the configuration writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        }
    }

    pub(crate) fn is_overlay(&self) -> bool {
        *self == Self::Overlay
    }
}

impl Snapshots {
    /// As [`Snapshots::open`], with this way to make snapshots; without one the best that this host can do, with a warning if that is not overlayfs.
    ///
    /// # Errors
    /// As [`Snapshots::open`].
    pub fn open_with(root: &Path, wanted: Option<Snapshotter>) -> Result<Self> {
        let store = Self::open_as(root, wanted.unwrap_or_default())?;
        if wanted.is_some() {
            return Ok(store);
        }
        let Err(reason) = store.try_overlay() else {
            return Ok(store);
        };
        tracing::warn!(
            root = %root.display(),
            reason,
            "overlayfs cannot be used here: every container gets a copy of its image, which takes time and space"
        );
        Ok(store.with(Snapshotter::Copy))
    }

    /// Makes an overlay that nobody sees, and gives it up again. The reason why it cannot be made; what has another reason (a full disk) is none, and
    /// is told by whoever mounts.
    fn try_overlay(&self) -> std::result::Result<(), String> {
        let Ok(staging) = self.staging() else {
            return Ok(());
        };
        let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
            Err(Errno::NODEV) => return Err("the kernel has none".to_owned()),
            // No new mount API, or a filter that forbids it: the old one is tried when something is mounted.
            Err(_) => return Ok(()),
            Ok(context) => context,
        };
        let refused = |errno: Errno| match errno {
            Errno::INVAL | Errno::NOTSUP | Errno::NODEV => Err(format!(
                "the file system of the root directory cannot be its upper layer ({errno})"
            )),
            _ => Ok(()),
        };
        let mut held = Vec::new();
        for (name, keys) in [
            // The second one is for kernels before 6.8.
            ("lower", &["lowerdir+", "lowerdir"][..]),
            ("upper", &["upperdir"]),
            ("work", &["workdir"]),
        ] {
            let path = staging.path().join(name);
            let made = std::fs::create_dir(&path).and_then(|()| short_path(&path));
            let Ok((path, file)) = made else {
                return Ok(());
            };
            held.extend(file);
            let mut tries = keys
                .iter()
                .map(|key| fsconfig_set_string(context.as_fd(), *key, &path));
            match tries.find(|result| *result != Err(Errno::INVAL)) {
                Some(Ok(())) => {}
                Some(Err(errno)) => return refused(errno),
                None => return refused(Errno::INVAL),
            }
        }
        fsconfig_create(context.as_fd()).or_else(refused)
    }

    /// Copies what the layers show into `upper`, and gives its root the image's metadata.
    pub(crate) fn fill(&self, upper: &Path, layers: &[LayerRecord]) -> Result<()> {
        let trees: Vec<(PathBuf, HashSet<PathBuf>)> = layers
            .iter()
            .map(|layer| {
                (
                    self.layer_tree(&layer.key),
                    layer.implicit.iter().cloned().collect(),
                )
            })
            .collect();
        let trees: Vec<LayerTree<'_>> = trees
            .iter()
            .map(|(path, implicit)| LayerTree { path, implicit })
            .collect();
        croze_layers::merge(&trees, upper)?;
        let lowers: Vec<chain::Lower> = layers
            .iter()
            .map(|layer| chain::Lower::new(self.layer_tree(&layer.key), layer))
            .collect();
        if let Some(source) = chain::root_source(&lowers) {
            tree::copy_metadata(&source, upper)?;
        }
        Ok(())
    }
}

/// Binds a copy's directory.
pub(crate) fn mount_copy(id: &str, upper: &Path, target: &Path, access: Access) -> Result<(), SnapshotError> {
    let failed = |step: &'static str| {
        move |errno: nix::Error| SnapshotError::Mount {
            id: id.to_owned(),
            target: target.to_owned(),
            step,
            source: errno.into(),
        }
    };
    let none = None::<&str>;
    mount(Some(upper), target, none, MsFlags::MS_BIND, none).map_err(failed("bind its directory"))?;
    if access == Access::ReadWrite {
        return Ok(());
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, target, none, flags, none).map_err(|errno| {
        // Nobody may find it writable.
        nix::mount::umount(target).ok();
        failed("forbid writing")(errno)
    })
}
