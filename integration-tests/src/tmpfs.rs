//! A small file system of a test's own, to be filled to the brim.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the file is that fills it.
const FILLER: &str = ".filler";
/// Smaller and smaller pieces, until not one byte more goes in.
const PIECES: [usize; 4] = [1 << 20, 64 << 10, 4 << 10, 1];

/// A mounted tmpfs below the test's directory; it is unmounted with this value.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one at a new directory. `options` are those of tmpfs(5): `size=8m`, `nr_inodes=300`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(path: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let options = format!("mode=0755,{options}");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mounting a tmpfs ({options}) at {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it until not one more byte goes in, but for `spare` bytes.
    ///
    /// # Errors
    /// Writing fails for another reason.
    pub fn fill(&self, spare: u64) -> Result<()> {
        let path = self.path.join(FILLER);
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        for size in PIECES {
            let piece = vec![0_u8; size];
            loop {
                match file.write(&piece) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(spare))?;
        Ok(())
    }

    /// Takes every inode but `spare`.
    ///
    /// # Errors
    /// Making files fails for another reason than that there are no inodes.
    pub fn fill_inodes(&self, spare: usize) -> Result<()> {
        let directory = self.path.join(".inodes");
        fs::create_dir_all(&directory)?;
        let mut made = Vec::new();
        loop {
            let path = directory.join(made.len().to_string());
            match File::create_new(&path) {
                Ok(_) => made.push(path),
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        for path in made.iter().rev().take(spare) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Frees what was filled.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn free(&self) -> Result<()> {
        for path in [self.path.join(FILLER), self.path.join(".inodes")] {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path)?,
                Ok(_) => fs::remove_file(&path)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What is still mounted in it is found when the scene is struck.
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
    }
}
