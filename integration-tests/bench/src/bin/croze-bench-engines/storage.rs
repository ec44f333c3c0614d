//! Where an engine stores: a file system made for it, which is empty at first and goes with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use croze_integration_tests::Scene;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Ample for the large image, its blobs and what an engine keeps besides.
const SIZE: u64 = 6 << 30;

/// On what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// tmpfs: nothing waits for a disk.
    Memory,
    /// A fresh ext4 on a file of the disk. Fresh, because ext4 slows down after much was deleted from it.
    Disk,
}

/// A mounted file system; it is unmounted when this goes.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    image: Option<PathBuf>,
}

impl Mounted {
    pub(crate) fn new(scene: &Scene, name: &str, storage: Storage) -> Result<Self> {
        let path = scene.new_directory(name)?;
        let mut mounted = Self {
            path: path.clone(),
            image: None,
        };
        match storage {
            Storage::Memory => {
                let options = format!("size={SIZE},mode=0711");
                mount(
                    Some("tmpfs"),
                    &path,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some(options.as_str()),
                )
                .context("mounting a tmpfs")?;
            }
            Storage::Disk => {
                let image = scene.path(&format!("{name}.ext4"));
                mounted.image = Some(image.clone());
                File::create(&image)?.set_len(SIZE)?;
                let words = [image.as_os_str(), path.as_os_str()];
                scene
                    .call(&["mkfs.ext4".as_ref(), "-q".as_ref(), words[0]])?
                    .success()?;
                scene
                    .call(&[
                        "mount".as_ref(),
                        "-o".as_ref(),
                        "loop".as_ref(),
                        words[0],
                        words[1],
                    ])?
                    .success()?;
            }
        }
        Ok(mounted)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in use, the file system's own included.
    pub(crate) fn used(&self) -> Result<u64> {
        let facts = rustix::fs::statvfs(&self.path)?;
        Ok((facts.f_blocks - facts.f_bfree) * facts.f_frsize)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What stays mounted is found when the scene is struck.
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
        fs::remove_dir(&self.path).ok();
        if let Some(image) = &self.image {
            fs::remove_file(image).ok();
        }
    }
}
