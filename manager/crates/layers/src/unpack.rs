//! One archive into one directory: what each kind of entry becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Seek as _, SeekFrom, Write as _};
use std::ops::Bound;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::EntryType;

use crate::archive::{Archive, Entry};
use crate::error::{LayerError, shown};
use crate::root::{self, BadName, Found, Root, behind_link, file_type, relative, split};
use crate::xattrs::{clear_xattrs, set_xattrs, set_xattrs_at};
use crate::{Limits, Parents, lower};

/// Names that begin so hide something below.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// A directory's entry of this name hides everything that lower layers have in it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so are AUFS' own bookkeeping.
const AUFS: &[u8] = b".wh..wh.";

/// The mode of directories that have no entry.
const IMPLICIT_MODE: u32 = 0o755;

/// The access control list that new entries of a directory inherit.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// What remembering a name takes besides its bytes, roughly.
const NAME_OVERHEAD: u64 = 96;

/// What a directory gets after everything in it is there.
#[derive(Debug, Default)]
pub(crate) struct Late {
    pub(crate) mtime: (i64, u32),
    /// Its default access control list.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A layer that is being unpacked.
pub(crate) struct Unpacker<'a> {
    pub(crate) root: Root,
    limits: Limits,
    parents: Parents<'a>,
    /// Directories that had an entry.
    pub(crate) explicit: BTreeMap<PathBuf, Late>,
    /// Directories that had none (yet), with the time of the entry that made them necessary: the same layer always gives the same tree.
    pub(crate) implicit: BTreeMap<PathBuf, (i64, u32)>,
    /// Paths to hide, the time of the whiteout's entry.
    pub(crate) whiteouts: BTreeMap<PathBuf, (i64, u32)>,
    /// Directories whose lower contents are hidden.
    pub(crate) opaque: BTreeMap<PathBuf, (i64, u32)>,
    /// Files that were copied from a lower layer so that something could be linked to them.
    pub(crate) copied: BTreeSet<PathBuf>,
    pub(crate) needs_parents: Option<String>,
    pub(crate) size: u64,
    entries: u64,
    /// Bytes that the names above take.
    names: u64,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(target: &Path, parents: Parents<'a>, limits: Limits) -> Result<Self, LayerError> {
        Ok(Self {
            root: Root::open(target)?,
            limits,
            parents,
            explicit: BTreeMap::new(),
            implicit: BTreeMap::new(),
            whiteouts: BTreeMap::new(),
            opaque: BTreeMap::new(),
            copied: BTreeSet::new(),
            needs_parents: None,
            size: 0,
            entries: 0,
            names: 0,
        })
    }

    /// Unpacks every entry; whiteouts and directories' times follow in [`Unpacker::finish`].
    pub(crate) fn run<R: BufRead>(&mut self, mut archive: Archive<R>) -> Result<(), LayerError> {
        while let Some(entry) = archive.next_entry()? {
            self.count_entry()?;
            self.entry(&entry, &mut archive)?;
        }
        archive.drain()
    }

    fn count_entry(&mut self) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::TooLarge {
                limit: self.limits.entries,
                unit: "entries",
            });
        }
        Ok(())
    }

    /// Counts what is to be remembered of a path: an archive compresses a thousand to one, memory does not.
    fn remember(&mut self, path: &Path, more: usize) -> Result<(), LayerError> {
        self.names += (path.as_os_str().len() + more) as u64 + NAME_OVERHEAD;
        if self.names > self.limits.names {
            return Err(LayerError::TooLarge {
                limit: self.limits.names,
                unit: "bytes of names",
            });
        }
        Ok(())
    }

    /// Where a name really lies: symbolic links in its directory part are followed within the layer.
    fn place(&mut self, path: &Path) -> Result<PathBuf, LayerError> {
        let (parent, name) = split(path);
        match self.root.canonical(parent)? {
            Some(parent) => Ok(parent.join(name)),
            None => Err(behind_link(path, parent)),
        }
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), LayerError> {
        let name = || String::from_utf8_lossy(&entry.path).into_owned();
        let path = relative(&entry.path).map_err(|bad| match bad {
            BadName::Escape => LayerError::Escape { entry: name() },
            BadName::Impossible => LayerError::Name { entry: name() },
            BadName::Deep => LayerError::Unsupported {
                entry: shown(Path::new(OsStr::from_bytes(
                    &entry.path[..entry.path.len().min(100)],
                ))),
                what: "in more than 512 directories".to_owned(),
            },
        })?;
        if path.as_os_str().is_empty() {
            return match entry.kind {
                EntryType::Directory => self.directory(&path, entry),
                _ => Err(LayerError::Name { entry: name() }),
            };
        }
        let path = self.place(&path)?;
        if self.whiteout(&path, entry)? {
            return Ok(());
        }
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => self.regular(&path, entry, archive),
            EntryType::Directory => self.directory(&path, entry),
            EntryType::Symlink => self.symlink(&path, entry),
            EntryType::Link => self.hard_link(&path, entry),
            // What overlayfs takes as a whiteout is one, so that it obeys the same rules.
            EntryType::Char if entry.device == (0, 0) => {
                self.remember(&path, 0)?;
                self.whiteouts.insert(path, entry.mtime);
                Ok(())
            }
            EntryType::Char => self.node(&path, entry, FileType::CharacterDevice),
            EntryType::Block => self.node(&path, entry, FileType::BlockDevice),
            EntryType::Fifo => self.node(&path, entry, FileType::Fifo),
            other => Err(LayerError::Unsupported {
                entry: name(),
                what: format!("of type {:?}", char::from(other.as_byte())),
            }),
        }
    }

    /// Notes a whiteout; says whether the entry was one (or AUFS' bookkeeping).
    fn whiteout(&mut self, path: &Path, entry: &Entry) -> Result<bool, LayerError> {
        let malformed = || LayerError::Whiteout { entry: shown(path) };
        let (parent, name) = split(path);
        for component in parent.components() {
            let component = component.as_os_str().as_bytes();
            if component.starts_with(AUFS) {
                return Ok(true);
            }
            if component.starts_with(WHITEOUT) {
                return Err(malformed());
            }
        }
        let name = name.as_bytes();
        if name == OPAQUE {
            self.remember(parent, 0)?;
            self.opaque.insert(parent.to_owned(), entry.mtime);
        } else if name.starts_with(AUFS) {
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(malformed());
            }
            self.remember(path, 0)?;
            self.whiteouts
                .insert(parent.join(OsStr::from_bytes(hidden)), entry.mtime);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The directory at `path`, made with everything above it if it is not there.
    pub(crate) fn parent(
        &mut self,
        path: &Path,
        for_entry: &Path,
        mtime: (i64, u32),
    ) -> Result<OwnedFd, LayerError> {
        match self.root.directory(path)? {
            Found::Here(fd) => {
                return fd
                    .try_clone_to_owned()
                    .map_err(LayerError::file("open directory", path));
            }
            Found::NoDirectory => return Err(behind_link(for_entry, path)),
            Found::Missing => {}
        }
        // Downwards and one by one: an archive may ask for many levels at once.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = self.root.fd().try_clone_to_owned();
        let mut at = root.map_err(LayerError::file("open directory", path))?;
        let mut reached = PathBuf::new();
        for component in path.components() {
            let name = component.as_os_str();
            reached.push(name);
            at = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    self.count_entry()?;
                    self.remember(&reached, 0)?;
                    rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700))
                        .map_err(LayerError::file("create directory", &reached))?;
                    let mode = Mode::from_raw_mode(IMPLICIT_MODE);
                    rustix::fs::chmodat(&at, name, mode, AtFlags::empty())
                        .map_err(LayerError::file("change the mode of", &reached))?;
                    self.implicit.insert(reached.clone(), mtime);
                    rustix::fs::openat(&at, name, flags, Mode::empty())
                        .map_err(LayerError::file("open directory", &reached))?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(behind_link(for_entry, &reached)),
                Err(errno) => return Err(LayerError::file("open directory", &reached)(errno)),
            };
        }
        Ok(at)
    }

    /// Forgets what was known of a path that is being replaced, and of everything in it.
    fn forget(&mut self, path: &Path) {
        forget_below(&mut self.explicit, path);
        forget_below(&mut self.implicit, path);
        let inside = |other: &&PathBuf| other.starts_with(path);
        // Paths are ordered by component, so what lies below one follows it directly.
        let below = (Bound::Included(path), Bound::Unbounded);
        let copied: Vec<PathBuf> = self
            .copied
            .range::<Path, _>(below)
            .take_while(inside)
            .cloned()
            .collect();
        for other in copied {
            self.copied.remove(&other);
        }
        // What replaces a directory hides all that lower layers have in it, and whiteouts in it have no place any more; that the path
        // itself is hidden in lower layers stays true.
        let own = self.whiteouts.remove(path);
        forget_below(&mut self.whiteouts, path);
        if let Some(mtime) = own {
            self.whiteouts.insert(path.to_owned(), mtime);
        }
        forget_below(&mut self.opaque, path);
    }

    /// Runs `make`, and once more after removing what is in the way: later entries replace earlier ones.
    fn replacing<T>(
        &mut self,
        path: &Path,
        call: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match make() {
            Err(Errno::EXIST) => {
                self.root.remove(path)?;
                self.forget(path);
                make().map_err(LayerError::file(call, path))
            }
            other => other.map_err(LayerError::file(call, path)),
        }
    }

    fn regular<R: BufRead>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let parent = self.parent(parent, path, entry.mtime)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.replacing(path, "create", || {
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let mut file = File::from(fd);
        self.size = self.size.saturating_add(entry.size);
        if self.size > self.limits.bytes {
            return Err(LayerError::TooLarge {
                limit: self.limits.bytes,
                unit: "bytes",
            });
        }
        match &entry.sparse {
            None => copy(archive, &mut file, u64::MAX, path)?,
            Some(map) => {
                for part in &map.parts {
                    file.seek(SeekFrom::Start(part.offset))
                        .map_err(LayerError::file("write", path))?;
                    copy(archive, &mut file, part.length, path)?;
                }
                file.set_len(map.size).map_err(LayerError::file("write", path))?;
            }
        }
        // The owner first: changing it clears the set-user-id bits and the capabilities.
        rustix::fs::fchown(
            &file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(LayerError::file("change the owner of", path))?;
        rustix::fs::fchmod(&file, mode(entry)).map_err(LayerError::file("change the mode of", path))?;
        set_xattrs(&file, &entry.xattrs).map_err(LayerError::file("set the extended attributes of", path))?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(LayerError::file("set the time of", path))
    }

    fn directory(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        let dir = if path.as_os_str().is_empty() {
            self.root
                .fd()
                .try_clone_to_owned()
                .map_err(LayerError::file("open directory", path))?
        } else {
            let (parent, name) = split(path);
            let parent = self.parent(parent, path, entry.mtime)?;
            let there = root::stat(parent.as_fd(), name).map_err(LayerError::file("stat", path))?;
            if there.is_none_or(|stat| file_type(&stat) != FileType::Directory) {
                self.replacing(path, "create directory", || {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))
                })?;
            }
            if there.is_some_and(|stat| file_type(&stat) != FileType::Directory) {
                // What was here a moment ago hid all that lower layers have here: that does not come back.
                self.remember(path, 0)?;
                self.opaque.insert(path.to_owned(), entry.mtime);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::empty())
                .map_err(LayerError::file("open directory", path))?
        };
        rustix::fs::fchown(
            &dir,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(LayerError::file("change the owner of", path))?;
        rustix::fs::fchmod(&dir, mode(entry)).map_err(LayerError::file("change the mode of", path))?;
        if self.explicit.contains_key(path) {
            clear_xattrs(&dir).map_err(LayerError::file("clear the extended attributes of", path))?;
        }
        let (late, now): (Vec<_>, Vec<_>) = entry
            .xattrs
            .iter()
            .cloned()
            .partition(|(name, _)| name == DEFAULT_ACL);
        set_xattrs(&dir, &now).map_err(LayerError::file("set the extended attributes of", path))?;
        self.remember(
            path,
            late.iter().map(|(name, value)| name.len() + value.len()).sum(),
        )?;
        self.implicit.remove(path);
        self.explicit.insert(
            path.to_owned(),
            Late {
                mtime: entry.mtime,
                xattrs: late,
            },
        );
        Ok(())
    }

    fn symlink(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        if entry.link.is_empty() {
            return Err(LayerError::Field {
                entry: shown(path),
                field: "link target",
            });
        }
        let (parent, name) = split(path);
        let parent = self.parent(parent, path, entry.mtime)?;
        let target = OsStr::from_bytes(&entry.link);
        self.replacing(path, "create the symbolic link", || {
            rustix::fs::symlinkat(target, &parent, name)
        })?;
        owner_and_times(&parent, name, path, entry)?;
        set_xattrs_at(&parent, name, &entry.xattrs)
            .map_err(LayerError::file("set the extended attributes of", path))
    }

    fn node(&mut self, path: &Path, entry: &Entry, kind: FileType) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let parent = self.parent(parent, path, entry.mtime)?;
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.replacing(path, "create the device", || {
            rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), device)
        })?;
        rustix::fs::chownat(
            &parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(LayerError::file("change the owner of", path))?;
        // Not a symbolic link: it was made above, and nobody else writes here.
        rustix::fs::chmodat(&parent, name, mode(entry), AtFlags::empty())
            .map_err(LayerError::file("change the mode of", path))?;
        set_xattrs_at(&parent, name, &entry.xattrs)
            .map_err(LayerError::file("set the extended attributes of", path))?;
        owner_and_times(&parent, name, path, entry)
    }

    fn hard_link(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        let target_name = || String::from_utf8_lossy(&entry.link).into_owned();
        let target = relative(&entry.link).map_err(|_| LayerError::LinkEscape {
            entry: shown(path),
            target: target_name(),
        })?;
        if target.as_os_str().is_empty() {
            return Err(LayerError::NoLinkTarget {
                entry: shown(path),
                target: target_name(),
            });
        }
        let target = self.place(&target)?;
        if target == path {
            return Ok(());
        }
        if target.starts_with(path) {
            // It would replace the directory that its target lies in.
            return Err(LayerError::NoLinkTarget {
                entry: shown(path),
                target: target_name(),
            });
        }
        if !self.has_file(&target, path)? {
            let found = match self.parents {
                Parents::Unknown => {
                    self.needs_parents.get_or_insert_with(|| shown(path));
                    return Ok(());
                }
                Parents::Known(trees) => lower::find(trees, &target)?,
            };
            let found = found.ok_or_else(|| LayerError::NoLinkTarget {
                entry: shown(path),
                target: target_name(),
            })?;
            let (above, name) = split(&target);
            let above = self.parent(above, path, entry.mtime)?;
            self.size += found.size();
            if self.size > self.limits.bytes {
                return Err(LayerError::TooLarge {
                    limit: self.limits.bytes,
                    unit: "bytes",
                });
            }
            lower::copy(&found, &above, name, &target)?;
            self.remember(&target, 0)?;
            self.copied.insert(target.clone());
        }
        let (parent, name) = split(path);
        let parent = self.parent(parent, path, entry.mtime)?;
        let (target_parent, target_base) = split(&target);
        let target_parent = root::open_beneath(self.root.fd(), target_parent)
            .map_err(LayerError::file("open the directory of the link target of", path))?;
        // The target's own mode and owner stay: a hard link's header must not change a file (CVE-2021-32760).
        self.replacing(path, "link", || {
            rustix::fs::linkat(&target_parent, target_base, &parent, name, AtFlags::empty())
        })
    }

    /// Whether this layer holds something that can be linked to.
    fn has_file(&mut self, target: &Path, entry: &Path) -> Result<bool, LayerError> {
        let (parent, name) = split(target);
        let parent = match self.root.directory(parent)? {
            Found::Here(fd) => fd,
            Found::Missing => return Ok(false),
            Found::NoDirectory => return Err(behind_link(entry, parent)),
        };
        let stat = root::stat(parent, name).map_err(LayerError::file("stat", target))?;
        match stat {
            Some(stat) if file_type(&stat) == FileType::Directory => Err(LayerError::NoLinkTarget {
                entry: shown(entry),
                target: shown(target),
            }),
            other => Ok(other.is_some()),
        }
    }
}

/// Writes up to `limit` bytes of the current member.
fn copy<R: BufRead>(
    archive: &mut Archive<R>,
    file: &mut File,
    limit: u64,
    path: &Path,
) -> Result<(), LayerError> {
    let mut rest = limit;
    while rest > 0 {
        let piece = archive.piece()?;
        if piece.is_empty() {
            break;
        }
        let piece = &piece[..piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX))];
        let n = file.write(piece).map_err(LayerError::file("write", path))?;
        archive.consume(n);
        rest -= n as u64;
    }
    Ok(())
}

/// Removes `path` and everything below it.
fn forget_below<T>(map: &mut BTreeMap<PathBuf, T>, path: &Path) {
    let below = (Bound::Included(path), Bound::Unbounded);
    let paths: Vec<PathBuf> = map
        .range::<Path, _>(below)
        .map(|(other, _)| other)
        .take_while(|other| other.starts_with(path))
        .cloned()
        .collect();
    for other in paths {
        map.remove(&other);
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o7777)
}

pub(crate) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner_and_times(parent: &OwnedFd, name: &OsStr, path: &Path, entry: &Entry) -> Result<(), LayerError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    if entry.kind == EntryType::Symlink {
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(LayerError::file("change the owner of", path))?;
    }
    rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(LayerError::file("set the time of", path))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
