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
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use croze_layers::LayerTree;
use croze_model::Result;
use croze_sys::mount::{AttributeChange, Attributes, Depth};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::chain;
use crate::error::SnapshotError;
use crate::mount::{Access, Plan, try_out};
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

    /// The reason why an overlay cannot be made here; what has another reason (a full disk) is none, and is told by whoever mounts.
    fn try_overlay(&self) -> std::result::Result<(), String> {
        let Ok(staging) = self.staging() else {
            return Ok(());
        };
        let base = staging.path();
        for name in ["layer", "upper", "work", "target"] {
            if std::fs::create_dir(base.join(name)).is_err() {
                return Ok(());
            }
        }
        let plan = Plan {
            id: "tried out".to_owned(),
            lowers: vec![base.join("layer")],
            base: base.to_owned(),
            target: base.join("target"),
            access: Access::ReadWrite,
            has_upper: true,
        };
        let Err(SnapshotError::Mount { source, .. }) = try_out(&plan) else {
            return Ok(());
        };
        match Errno::from_io_error(&source) {
            Some(Errno::NODEV) => Err("the kernel has none".to_owned()),
            Some(Errno::INVAL | Errno::NOTSUP) => Err(format!(
                "the file system of the root directory cannot be its upper layer ({source})"
            )),
            _ => Ok(()),
        }
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

/// Binds a copy's directory, with none of the attributes of the file system that it lies on: hardening of `/var` is not the container's, and an overlay
/// would not have them either. In a user namespace those that come from outside of it are locked: they stay.
pub(crate) fn mount_copy(id: &str, upper: &Path, target: &Path, access: Access) -> Result<(), SnapshotError> {
    let bound = match bind_detached(upper, target, access) {
        // No new mount API, no mount_setattr (before 5.12), or a filter that forbids them.
        Err((_, error)) if matches!(error.errno, Errno::NOSYS | Errno::PERM) => {
            bind_in_place(upper, target, access)
        }
        bound => bound,
    };
    bound.map_err(|(step, error)| SnapshotError::Mount {
        id: id.to_owned(),
        target: target.to_owned(),
        step,
        source: error.into(),
    })
}

/// What failed, and why.
type Refused = (&'static str, croze_sys::Error);

const BIND: &str = "bind its directory";
const ATTRIBUTES: &str = "give it mount attributes of its own";

/// What the mount of a copy has.
fn attributes(access: Access) -> Attributes {
    match access {
        Access::ReadWrite => Attributes::NONE,
        Access::ReadOnly => Attributes::READ_ONLY,
    }
}

/// Nobody sees the mount before its attributes are right.
fn bind_detached(upper: &Path, target: &Path, access: Access) -> std::result::Result<(), Refused> {
    let at = |step| move |error| (step, error);
    let (source, target) = (open(upper)?, open(target)?);
    let tree = croze_sys::mount::clone_at(&source, Depth::One).map_err(at(BIND))?;
    let change = |clear| AttributeChange {
        set: attributes(access),
        clear,
        ..AttributeChange::default()
    };
    let hardening = Attributes::NO_SUID
        .with(Attributes::NO_DEV)
        .with(Attributes::NO_EXEC);
    let set = |clear| croze_sys::mount::set_attributes(&tree, &change(clear), Depth::One);
    match set(hardening) {
        // Locked by who made the namespace, or a filter: that is seen by the call that clears nothing.
        Err(error) if error.errno == Errno::PERM => {
            set(Attributes::NONE).map_err(at(ATTRIBUTES))?;
            tracing::debug!(path = %upper.display(), "its file system's nosuid, nodev or noexec is locked, and stays");
        }
        other => other.map_err(at(ATTRIBUTES))?,
    }
    croze_sys::mount::attach(&tree, &target).map_err(at(BIND))
}

/// The same with `mount(2)`, which can only change what is attached.
fn bind_in_place(upper: &Path, target: &Path, access: Access) -> std::result::Result<(), Refused> {
    croze_sys::mount::bind_on(open(upper)?, open(target)?, Depth::One).map_err(|error| (BIND, error))?;
    let changed = open(target).and_then(|mounted| {
        let wanted = attributes(access);
        match croze_sys::mount::remount(&mounted, wanted) {
            Err(error) if error.errno == Errno::PERM => croze_sys::mount::attributes_of(&mounted)
                .and_then(|locked| croze_sys::mount::remount(&mounted, locked.with(wanted))),
            other => other,
        }
        .map_err(|error| (ATTRIBUTES, error))
    });
    changed.inspect_err(|_| {
        // Nobody may find it writable.
        croze_sys::mount::detach(target).ok();
    })
}

fn open(path: &Path) -> std::result::Result<OwnedFd, Refused> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| ("open what is mounted", croze_sys::Error::new("open", errno)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::mount::tests::isolated;

    #[test]
    fn a_copy_has_no_attributes_of_the_file_system_below_it() {
        isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("tmpfs"), dir.path(), Some("tmpfs"), hardened, None::<&str>).unwrap();
            let (upper, target) = (dir.path().join("upper"), dir.path().join("target"));
            fs::create_dir(&upper).unwrap();
            fs::create_dir(&target).unwrap();
            let seen = |path: &Path| croze_sys::mount::attributes_of(open(path).unwrap()).unwrap();
            let inherited = Attributes::NO_SUID
                .with(Attributes::NO_DEV)
                .with(Attributes::NO_EXEC);
            assert_eq!(seen(&upper), inherited);
            for access in [Access::ReadWrite, Access::ReadOnly] {
                let check = |way: &str| {
                    assert_eq!(seen(&target), attributes(access), "{way}, {access:?}");
                    croze_sys::mount::detach(&target).unwrap();
                };
                mount_copy("c", &upper, &target, access).unwrap();
                check("as it is mounted");
                bind_detached(&upper, &target, access).unwrap();
                check("detached");
                bind_in_place(&upper, &target, access).unwrap();
                check("in place");
            }
            assert_eq!(seen(&upper), inherited);
        });
    }

    /// Set in the process that is in the user namespace: where the hardened file system is.
    const LOCKED: &str = "CROZE_TEST_LOCKED";

    #[test]
    fn a_copy_keeps_what_is_locked_in_a_user_namespace() {
        if let Some(dir) = std::env::var_os(LOCKED) {
            return binds_where_attributes_are_locked(Path::new(&dir));
        }
        isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
            mount(Some("tmpfs"), dir.path(), Some("tmpfs"), hardened, None::<&str>).unwrap();
            for name in ["upper", "target"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            let possible = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "true"])
                .status();
            if !possible.is_ok_and(|status| status.success()) {
                eprintln!("skipped: a user namespace is needed");
                return;
            }
            let inside = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "--"])
                .arg(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "driver::tests::a_copy_keeps_what_is_locked_in_a_user_namespace",
                ])
                .env(LOCKED, dir.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&inside.stdout);
            assert!(inside.status.success() && said.contains("1 passed"), "{said}");
        });
    }

    fn binds_where_attributes_are_locked(dir: &Path) {
        let (upper, target) = (dir.join("upper"), dir.join("target"));
        let locked = croze_sys::mount::attributes_of(open(&upper).unwrap()).unwrap();
        assert!(locked.contains(Attributes::NO_SUID.with(Attributes::NO_DEV)));
        for bind in [
            bind_detached as fn(&Path, &Path, Access) -> std::result::Result<(), Refused>,
            bind_in_place,
        ] {
            for access in [Access::ReadWrite, Access::ReadOnly] {
                bind(&upper, &target, access).unwrap();
                let seen = croze_sys::mount::attributes_of(open(&target).unwrap()).unwrap();
                assert_eq!(seen, locked.with(attributes(access)), "{access:?}");
                croze_sys::mount::detach(&target).unwrap();
            }
        }
    }
}
