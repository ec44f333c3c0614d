//! A tree of files, looked at so that two of them can be compared: everything that an image says about a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::image::digest;

/// What is known of one file.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Bytes of a regular file, and their digest; else nothing.
    pub content: Option<(u64, String)>,
    /// Where a symbolic link leads.
    pub target: Option<PathBuf>,
    /// A device's number.
    pub device: u64,
    /// Extended attributes, but overlayfs' own and labels of security modules.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name, in order, of the file's hard links in this tree.
    pub same_as: Option<PathBuf>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:o} {}:{} {}.{:09}",
            self.mode, self.owner.0, self.owner.1, self.mtime.0, self.mtime.1
        )?;
        if let Some((size, digest)) = &self.content {
            write!(f, " {size} bytes {}", &digest[..19])?;
        }
        if let Some(target) = &self.target {
            write!(f, " -> {target:?}")?;
        }
        if self.device != 0 {
            write!(f, " device {:x}", self.device)?;
        }
        if let Some(first) = &self.same_as {
            write!(f, " same as {first:?}")?;
        }
        write!(f, " {:?}", self.xattrs)
    }
}

/// Every file of a tree by its path in it; the root has an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

impl Tree {
    /// Looks at everything below `root` that is on the same file system, and at `root` itself. No symbolic link is followed.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn survey(root: &Path) -> Result<Self> {
        // A path such as /proc/1/root is a link to where the tree is.
        let root = root.join(".");
        let mut tree = BTreeMap::new();
        let mut links: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        let device = fs::symlink_metadata(&root)
            .with_context(|| format!("looking at {}", root.display()))?
            .dev();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let at = root.join(&path);
            let metadata =
                fs::symlink_metadata(&at).with_context(|| format!("looking at {}", at.display()))?;
            if metadata.dev() != device {
                continue;
            }
            if metadata.is_dir() {
                for entry in fs::read_dir(&at)? {
                    pending.push(path.join(entry?.file_name()));
                }
            } else {
                links.entry(metadata.ino()).or_default().push(path.clone());
            }
            let node = node(&at, &metadata).with_context(|| format!("looking at {}", at.display()))?;
            tree.insert(path, node);
        }
        for mut names in links.into_values().filter(|names| names.len() > 1) {
            names.sort();
            for name in &names {
                if let Some(node) = tree.get_mut(name) {
                    node.same_as = names.first().cloned();
                }
            }
        }
        Ok(Self(tree))
    }

    /// Takes a path and all below it away.
    pub fn forget(&mut self, path: &str) {
        self.0.retain(|other, _| !other.starts_with(path));
    }

    /// What differs from another tree, a line each; empty if nothing does.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut paths: Vec<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        paths
            .into_iter()
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| format!("{path:?}: {:?} | {:?}", self.0.get(path), other.0.get(path)))
            .collect()
    }
}

fn node(path: &Path, metadata: &fs::Metadata) -> Result<Node> {
    let content = if metadata.is_file() {
        Some((metadata.len(), digest(&fs::read(path)?)))
    } else {
        None
    };
    let target = if metadata.is_symlink() {
        Some(fs::read_link(path)?)
    } else {
        None
    };
    Ok(Node {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        target,
        device: metadata.rdev(),
        xattrs: xattrs(path)?,
        same_as: None,
    })
}

fn xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 65536];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = BTreeMap::new();
    let names = names[..length].split(|&byte| byte == 0);
    for name in names.filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 65536];
        let size = lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(size);
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(found)
}
