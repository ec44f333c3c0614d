//! Directory trees that someone else filled: removed and measured with a few descriptors and no recursion, however deep they are.
//!
//! Whoever may run `mkdir d && cd d` in a loop can make a tree of a hundred thousand levels. The usual way down (one open directory
//! and one stack frame per level) runs out of descriptors or of stack there, so:
//!
//! ```text
//!   remove:  top/a/b/c   -->   top/{a,b'}   b/c   -->   top/{b',c'}   -->   top   -->
//!            what lies two levels down is renamed to the top before its directory goes: two descriptors, whatever the depth
//!   measure: one descriptor; the way up is "..", and where it leads is checked against the directory it was left from
//! ```
//!
//! No symbolic link is ever followed, and nothing that is mounted inside a tree is entered: there the removal fails (`EBUSY`, `EXDEV`)
//! and the measuring leaves it out.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::path::open_same_mount;
use crate::quota::{self, Project};
use crate::{Errno, Error, Result};

/// The names that a directory inside a removed tree gets when it is moved to the top.
const MOVED: &str = ".removed-";

/// Removes `name` in the directory `parent`, whatever it is, with everything in it. That it is not there is no error.
///
/// It goes on after a failure, so that as much as possible is gone in the end.
///
/// # Errors
/// The first failure: of `unlinkat`, `openat2` (`EXDEV`, `EBUSY` for something that is mounted in there), `renameat`.
pub fn remove(parent: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let (parent, name) = (parent.as_fd(), name.as_ref());
    let Some(top) = unlink_or_open(parent, name)? else {
        return Ok(());
    };
    let mut moved = 0;
    loop {
        let pass = empty_once(&top, &mut moved)?;
        match pass.failed {
            None if pass.seen == 0 => break,
            Some(error) if pass.removed == 0 => return Err(error),
            _ => {}
        }
    }
    unlink(parent, name, AtFlags::REMOVEDIR)
}

/// As [`remove`], by path.
///
/// # Errors
/// As [`remove`]; those of opening the directory that `path` lies in.
pub fn remove_path(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new("unlinkat", Errno::INVAL));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove(parent, name),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::new("open", errno)),
    }
}

/// What one look at the top directory did.
#[derive(Default)]
struct Pass {
    seen: u64,
    /// Entries that are gone, or came up from below.
    removed: u64,
    failed: Option<Error>,
}

impl Pass {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.removed += 1;
                Some(value)
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

/// Removes the files of `top`, and of the directories in it; the directories in those come up to `top`.
fn empty_once(top: &OwnedFd, moved: &mut u64) -> Result<Pass> {
    let mut pass = Pass::default();
    for entry in entries(top)? {
        let name = entry?;
        pass.seen += 1;
        let child = match unlink_or_open(top, &name) {
            Ok(Some(child)) => child,
            other => {
                pass.note(other);
                continue;
            }
        };
        for entry in entries(&child)? {
            let below = entry?;
            match unlink(&child, &below, AtFlags::empty()) {
                Err(error) if is_directory(error.errno) => {
                    pass.note(remove_or_move(&child, &below, top, moved));
                }
                other => drop(pass.note(other)),
            }
        }
        pass.note(unlink(top, &name, AtFlags::REMOVEDIR));
    }
    Ok(pass)
}

/// Removes an empty directory; one that is not empty is moved to `top`.
///
/// Where the top hands its project down nothing of another one may be moved to it (`EXDEV`): it ceases to, if that was it.
fn remove_or_move(from: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> Result<()> {
    match unlink(from, name, AtFlags::REMOVEDIR) {
        Err(error) if matches!(error.errno, Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return other,
    }
    loop {
        *moved += 1;
        match rustix::fs::renameat(from, name, top, format!("{MOVED}{moved}")) {
            // The tree has such a name itself: the next one.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(Errno::XDEV) if inherits_no_more(top) => {}
            Err(errno) => return Err(Error::new("renameat", errno)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Whether a directory has given its project to what came into it until now.
fn inherits_no_more(dir: &OwnedFd) -> bool {
    quota::project_of(dir).is_ok_and(|project| {
        let inherit = false;
        project.inherit && quota::set_project(dir, Project { inherit, ..project }).is_ok()
    })
}

/// Removes what is no directory; opens what is one. `None` if nothing is left of it.
fn unlink_or_open(parent: impl AsFd, name: &OsStr) -> Result<Option<OwnedFd>> {
    match unlink(&parent, name, AtFlags::empty()) {
        Ok(()) => Ok(None),
        Err(error) if is_directory(error.errno) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_same_mount(parent, Path::new(name), flags) {
                // Not a directory after all: what could not be removed is a file that must not be.
                Err(again) if again.errno == Errno::NOTDIR => Err(error),
                other => other.map(Some),
            }
        }
        Err(error) => Err(error),
    }
}

/// That it is not there is what was wanted.
fn unlink(parent: impl AsFd, name: &OsStr, flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::new("unlinkat", errno)),
    }
}

/// Linux says `EISDIR` where a file was to be removed and it is a directory, POSIX says `EPERM`.
fn is_directory(errno: Errno) -> bool {
    matches!(errno, Errno::ISDIR | Errno::PERM)
}

/// The names in a directory, without `.` and `..`.
fn entries(dir: &OwnedFd) -> Result<impl Iterator<Item = Result<OsString>> + use<>> {
    let listed = Dir::read_from(dir).map_err(|errno| Error::new("openat", errno))?;
    Ok(listed.filter_map(|entry| match entry {
        Ok(entry) => {
            let name = entry.file_name().to_bytes();
            (name != b"." && name != b"..").then(|| Ok(OsStr::from_bytes(name).to_owned()))
        }
        Err(errno) => Some(Err(Error::new("getdents64", errno))),
    }))
}

/// What a tree takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Bytes on disk. A file with several links counts once.
    pub bytes: u64,
    /// Files, directories and everything else, the root of the tree among them.
    pub inodes: u64,
}

/// A directory on the way down, by what identifies it, and its subdirectories that are still to be measured.
struct Level {
    identity: (u64, u64),
    pending: Vec<OsString>,
}

/// Measures the tree at `root` while its owner may change it. What vanishes meanwhile is not counted; if a directory is moved away
/// while the walk is in it, the walk ends there and says what it has, because the way back is gone.
///
/// # Errors
/// If the root cannot be opened, or a directory cannot be read.
pub fn usage(root: &Path) -> Result<TreeUsage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| Error::new("open", errno))?;
    let stat = rustix::fs::fstat(&at).map_err(|errno| Error::new("fstat", errno))?;
    let mut walk = Walk {
        used: TreeUsage::default(),
        linked: HashSet::new(),
        device: stat.st_dev,
    };
    walk.count(&stat);
    let mut levels = vec![walk.level(&at)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            match rustix::fs::openat(&at, &name, flags, Mode::empty()) {
                Ok(child) => {
                    levels.push(walk.level(&child)?);
                    at = child;
                }
                // Gone, or something else by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(Error::new("openat", errno)),
            }
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last() {
            let up = rustix::fs::openat(&at, "..", flags, Mode::empty())
                .map_err(|errno| Error::new("openat", errno))?;
            if identity(&up)? != above.identity {
                break;
            }
            at = up;
        }
    }
    Ok(walk.used)
}

struct Walk {
    used: TreeUsage,
    /// Files with several links that were counted.
    linked: HashSet<(u64, u64)>,
    /// The file system of the root: others are not entered.
    device: u64,
}

impl Walk {
    fn count(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_dir && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.used.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.used.inodes += 1;
    }

    /// Counts what a directory holds.
    fn level(&mut self, dir: &OwnedFd) -> Result<Level> {
        let mut pending = Vec::new();
        for entry in entries(dir)? {
            let name = entry?;
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(Error::new("fstatat", errno)),
            };
            self.count(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_dev == self.device {
                pending.push(name);
            }
        }
        let identity = identity(dir)?;
        Ok(Level { identity, pending })
    }
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir).map_err(|errno| Error::new("fstat", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A name that no file of another process, or of an earlier process with the same pid, has: pids repeat, in containers and after a
/// boot even regularly.
#[must_use]
pub fn process_unique() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let mut random = [0u8; 8];
        let fallback = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| now.subsec_nanos()).into()
        };
        let number = read_random(&mut random).map_or_else(|_| fallback(), |()| u64::from_le_bytes(random));
        format!("{}-{number:016x}", std::process::id())
    })
}

fn read_random(buffer: &mut [u8]) -> io::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(buffer)
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
