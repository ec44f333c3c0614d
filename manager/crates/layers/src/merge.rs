//! Trees in overlayfs' form laid over each other into one plain tree: what overlayfs would show, where there is no overlayfs.
//!
//! From the base up, each tree is copied over what is there: a whiteout removes, an opaque directory is emptied first, a directory gets the
//! metadata of the topmost tree that has an entry for it. Owners, modes and times of directories come last, when nothing is put into them any
//! more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};

use crate::error::LayerError;
use crate::lower::{self, is_opaque_fd, is_whiteout};
use crate::pack::{list, open_directory};
use crate::root::{self, file_type};
use crate::unpack::times;
use crate::xattrs::{read_xattrs, set_xattrs};

/// A layer's tree, and which of its directories had no entry in the archive.
#[derive(Debug, Clone, Copy)]
pub struct LayerTree<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Directories, relative; their metadata comes from the trees below if those have them.
    pub implicit: &'a HashSet<PathBuf>,
}

/// Copies what the trees (topmost first) show together into the empty directory `target`, whose own metadata stays.
///
/// # Errors
/// [`LayerError`]: what was copied until then stays, its owner removes it.
pub fn merge(trees: &[LayerTree<'_>], target: &Path) -> Result<(), LayerError> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| LayerError::Target {
            path: path.to_owned(),
            source: errno.into(),
        })
    };
    let mut merged = Merged {
        root: open(target)?,
        directories: BTreeMap::new(),
    };
    for tree in trees.iter().rev() {
        let from = open(tree.path)?;
        let to = open(target)?;
        merged.lay(tree, &from, &to, Path::new(""), &mut HashMap::new())?;
    }
    merged.finish()
}

/// What a directory gets in the end.
struct Late {
    stat: Stat,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Merged {
    root: OwnedFd,
    directories: BTreeMap<PathBuf, Late>,
}

impl Merged {
    /// Lays one directory of a tree over what is there. Trees of layers are 512 levels deep at most.
    fn lay(
        &mut self,
        tree: &LayerTree<'_>,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        links: &mut HashMap<u64, PathBuf>,
    ) -> Result<(), LayerError> {
        for name in list(from, path)? {
            let at = path.join(&name);
            let Some(stat) = root::stat(from.as_fd(), &name).map_err(LayerError::file("stat", &at))? else {
                continue;
            };
            if is_whiteout(&stat) {
                self.remove(to, &name, &at)?;
            } else if file_type(&stat) == FileType::Directory {
                let Some(inside) = open_directory(from, &name, &at)? else {
                    continue;
                };
                let below = self.directory(tree, &inside, to, &name, &at, stat)?;
                self.lay(tree, &inside, &below, &at, links)?;
            } else {
                self.remove(to, &name, &at)?;
                self.copy((from, to), &name, &at, stat, links)?;
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        tree: &LayerTree<'_>,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        at: &Path,
        stat: Stat,
    ) -> Result<OwnedFd, LayerError> {
        let there = root::stat(to.as_fd(), name).map_err(LayerError::file("stat", at))?;
        let mut is_there = there.is_some_and(|there| file_type(&there) == FileType::Directory);
        if is_opaque_fd(from).map_err(LayerError::file("read the mark of", at))?
            || (there.is_some() && !is_there)
        {
            self.remove(to, name, at)?;
            is_there = false;
        }
        if !is_there {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
                .map_err(LayerError::file("create directory", at))?;
        }
        if !is_there || !tree.implicit.contains(at) {
            let xattrs = read_xattrs(from).map_err(LayerError::file("read the attributes of", at))?;
            self.directories.insert(at.to_owned(), Late { stat, xattrs });
        }
        open_directory(to, name, at)?.ok_or_else(|| root::behind_link(at, at))
    }

    fn copy(
        &self,
        (from, to): (&OwnedFd, &OwnedFd),
        name: &OsStr,
        at: &Path,
        stat: Stat,
        links: &mut HashMap<u64, PathBuf>,
    ) -> Result<(), LayerError> {
        if stat.st_nlink > 1 {
            if let Some(first) = links.get(&stat.st_ino) {
                let (parent, first_name) = root::split(first);
                let parent = root::open_beneath(self.root.as_fd(), parent)
                    .map_err(LayerError::file("open the directory of the link target of", at))?;
                return rustix::fs::linkat(&parent, first_name, to, name, AtFlags::empty())
                    .map_err(LayerError::file("link", at));
            }
            links.insert(stat.st_ino, at.to_owned());
        }
        let parent = from.try_clone().map_err(LayerError::file("open", at))?;
        lower::copy(&lower::Lower::new(parent, stat), to, name, at)
    }

    fn remove(&mut self, to: &OwnedFd, name: &OsStr, at: &Path) -> Result<(), LayerError> {
        let below: Vec<PathBuf> = self
            .directories
            .range::<Path, _>((std::ops::Bound::Included(at), std::ops::Bound::Unbounded))
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(at))
            .cloned()
            .collect();
        for path in below {
            self.directories.remove(&path);
        }
        croze_sys::tree::remove(to, name).map_err(LayerError::file("replace", at))
    }

    fn finish(self) -> Result<(), LayerError> {
        // What lies below comes first: a directory that lost its mode could not be entered by who is not root.
        for (path, late) in self.directories.iter().rev() {
            let dir = root::open_beneath(self.root.as_fd(), path)
                .map_err(LayerError::file("open directory", path))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(&dir, ".", flags, Mode::empty())
                .map_err(LayerError::file("open directory", path))?;
            rustix::fs::fchown(
                &dir,
                Some(Uid::from_raw(late.stat.st_uid)),
                Some(Gid::from_raw(late.stat.st_gid)),
            )
            .map_err(LayerError::file("change the owner of", path))?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(late.stat.st_mode & 0o7777))
                .map_err(LayerError::file("change the mode of", path))?;
            set_xattrs(&dir, &late.xattrs)
                .map_err(LayerError::file("set the extended attributes of", path))?;
            let mtime = (
                late.stat.st_mtime,
                u32::try_from(late.stat.st_mtime_nsec).unwrap_or(0),
            );
            rustix::fs::futimens(&dir, &times(mtime)).map_err(LayerError::file("set the time of", path))?;
        }
        Ok(())
    }
}
