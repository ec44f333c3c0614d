//! The end of unpacking: whiteouts in overlayfs' form, then what must be set last on directories.
//!
//! A whiteout hides what lower layers have, and nothing of its own layer, wherever it stands in the archive:
//!
//! | in the layer | `.wh.x` becomes |
//! |---|---|
//! | no `x` | a character device 0:0 named `x` |
//! | a directory `x` | `x` opaque: what lower layers have in it is hidden |
//! | anything else named `x` | nothing: it hides what is below by itself |
//! | any, in a directory that is opaque | nothing: all below is hidden already, and a device there would be seen |
//! | any, below a file or link of the layer | nothing: that hides all below by itself |
//!
//! overlayfs filters whiteouts out of a listing where it merges directories, and shows them in one that a single layer has. So a directory
//! with whiteouts gets an empty `trusted.overlay.origin`: one that was merged once and may still hold whiteouts is listed as if it were merged
//! (Linux 4.15, fs/overlayfs/inode.c). Whether a layer below has that directory is then the same: the tree stays good for every chain.
//!
//! `.wh..wh..opq` makes its directory opaque. overlayfs does not look at the root's own mark, so that is told to the caller instead.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};

use crate::error::LayerError;
use crate::root::{self, Found, file_type, split};
use crate::unpack::{Unpacker, times};
use crate::xattrs::set_xattrs;

impl Unpacker<'_> {
    /// Applies whiteouts and directories' times. Returns the implicit directories and whether the root is opaque.
    pub(crate) fn finish(mut self) -> Result<(Vec<PathBuf>, bool), LayerError> {
        if !self.explicit.contains_key(Path::new("")) {
            let earliest = self.implicit.values().copied().min().unwrap_or_default();
            self.implicit.insert(PathBuf::new(), earliest);
        }
        self.hidden_copies()?;
        self.parents_of_whiteouts()?;
        let opaque = self.opaque_directories()?;
        for path in &opaque {
            self.mark_opaque(path)?;
        }
        for (path, mtime) in std::mem::take(&mut self.whiteouts) {
            let hidden = path.ancestors().skip(1).any(|above| opaque.contains(above));
            if !hidden {
                self.hide(&path, mtime)?;
            }
        }
        self.directories()?;
        Ok((
            self.implicit.into_keys().collect(),
            opaque.contains(Path::new("")),
        ))
    }

    /// Takes away what is here only because something was linked to it and whose own name is hidden, with the directories that were made for
    /// it alone.
    fn hidden_copies(&mut self) -> Result<(), LayerError> {
        let is_hidden = |path: &&PathBuf| {
            let mut above = path.ancestors();
            self.whiteouts.contains_key(path.as_path())
                || above
                    .by_ref()
                    .skip(1)
                    .any(|dir| self.opaque.contains_key(dir) || self.whiteouts.contains_key(dir))
        };
        let hidden: Vec<PathBuf> = self.copied.iter().filter(is_hidden).cloned().collect();
        for path in hidden {
            self.root.remove(&path)?;
            self.copied.remove(&path);
            for dir in path.ancestors().skip(1) {
                if !self.implicit.contains_key(dir) || dir.as_os_str().is_empty() || !self.is_empty(dir)? {
                    break;
                }
                self.root.remove(dir)?;
                self.implicit.remove(dir);
            }
        }
        Ok(())
    }

    fn is_empty(&self, path: &Path) -> Result<bool, LayerError> {
        let failed = || LayerError::file("list", path);
        let entries = rustix::fs::Dir::read_from(self.open_directory(path)?).map_err(failed())?;
        for entry in entries {
            let entry = entry.map_err(failed())?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the directories that whiteouts lie in, before it is asked what is there: in `.wh.a` with `a/.wh.b` the second says that the layer
    /// has a directory `a`, so the first makes that one opaque.
    fn parents_of_whiteouts(&mut self) -> Result<(), LayerError> {
        let whiteouts: Vec<_> = self
            .whiteouts
            .iter()
            .map(|(path, mtime)| (path.clone(), *mtime))
            .collect();
        for (path, mtime) in whiteouts {
            match self.parent(split(&path).0, &path, mtime) {
                Ok(_) => {}
                // A file or link of this layer is in the way: it hides all that lies there below, the whiteout has nothing to do.
                Err(LayerError::BehindLink { .. }) => drop(self.whiteouts.remove(&path)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Every directory of this layer that hides what is below.
    fn opaque_directories(&mut self) -> Result<BTreeSet<PathBuf>, LayerError> {
        let mut opaque = BTreeSet::new();
        for (path, mtime) in std::mem::take(&mut self.opaque) {
            match self.kind(&path)? {
                Some(FileType::Directory) => {}
                // A file of that name hides everything by itself.
                Some(_) => continue,
                None => match self.parent(&path, &path, mtime) {
                    Ok(_) => {}
                    Err(LayerError::BehindLink { .. }) => continue,
                    Err(error) => return Err(error),
                },
            }
            opaque.insert(path);
        }
        let whiteouts: Vec<PathBuf> = self.whiteouts.keys().cloned().collect();
        for path in whiteouts {
            match self.kind(&path)? {
                Some(FileType::Directory) => {
                    // The lower directory is gone and this is a new one: its metadata is not to be looked for below.
                    if let Some(mtime) = self.implicit.remove(&path) {
                        self.explicit.entry(path.clone()).or_default().mtime = mtime;
                    }
                    self.whiteouts.remove(&path);
                    opaque.insert(path);
                }
                Some(_) => drop(self.whiteouts.remove(&path)),
                None => {}
            }
        }
        Ok(opaque)
    }

    /// What is at `path` in this layer; `None` if nothing is, or nothing can be.
    fn kind(&mut self, path: &Path) -> Result<Option<FileType>, LayerError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(FileType::Directory));
        }
        let (parent, name) = split(path);
        match self.root.directory(parent)? {
            Found::Here(fd) => {
                let stat = root::stat(fd, name).map_err(LayerError::file("stat", path))?;
                Ok(stat.as_ref().map(file_type))
            }
            Found::Missing | Found::NoDirectory => Ok(None),
        }
    }

    fn mark_opaque(&mut self, path: &Path) -> Result<(), LayerError> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let dir = self.open_directory(path)?;
        rustix::fs::fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(LayerError::file("make opaque", path))
    }

    fn hide(&mut self, path: &Path, mtime: (i64, u32)) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let parent = self.parent(parent, path, mtime)?;
        rustix::fs::mknodat(
            &parent,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .map_err(LayerError::file("make the whiteout of", path))?;
        rustix::fs::utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(LayerError::file("set the time of the whiteout of", path))?;
        let (above, _) = split(path);
        if above.as_os_str().is_empty() {
            // The root is always taken for a merged directory.
            return Ok(());
        }
        let dir = self.open_directory(above)?;
        rustix::fs::fsetxattr(&dir, "trusted.overlay.origin", b"", XattrFlags::empty())
            .map_err(LayerError::file("mark the whiteouts in", above))
    }

    /// Times, and attributes that new entries would inherit (default access control lists): set when nothing comes any more.
    fn directories(&mut self) -> Result<(), LayerError> {
        let explicit = std::mem::take(&mut self.explicit);
        for (path, late) in &explicit {
            let dir = self.open_directory(path)?;
            set_xattrs(&dir, &late.xattrs)
                .map_err(LayerError::file("set the extended attributes of", path))?;
            rustix::fs::futimens(&dir, &times(late.mtime))
                .map_err(LayerError::file("set the time of", path))?;
        }
        for (path, mtime) in &self.implicit.clone() {
            let dir = self.open_directory(path)?;
            rustix::fs::futimens(&dir, &times(*mtime)).map_err(LayerError::file("set the time of", path))?;
        }
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> Result<std::os::fd::OwnedFd, LayerError> {
        let dir =
            root::open_beneath(self.root.fd(), path).map_err(LayerError::file("open directory", path))?;
        // An O_PATH descriptor takes no attributes and times.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(dir.as_fd(), ".", flags, Mode::empty())
            .map_err(LayerError::file("open directory", path))
    }
}
