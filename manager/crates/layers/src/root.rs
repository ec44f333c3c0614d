//! The target directory: names taken apart, and directories opened beneath it.
//!
//! A name is first reduced to a relative path of plain components ([`relative`]). If its directory part goes through symbolic links of the
//! layer, they are followed with the target as `/` ([`Root::canonical`]), which gives a path without links. Only such a path is then opened,
//! in one openat2(2) call that the kernel keeps beneath the target and that refuses every symbolic link; the last component is only ever
//! used with calls that do not follow links. So even a hostile archive that swaps directories for links between two entries reaches nothing
//! outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{LayerError, shown};

/// The longest name of an entry (`PATH_MAX`): nothing longer could be opened anyway.
const MAX_NAME: usize = 4096;
/// How deep a name may lie, in components: real trees have some dozens.
const MAX_DEPTH: usize = 512;
/// How many symbolic links may be followed for one name (as the kernel allows), and how many components that may take in all.
const MAX_LINKS: usize = 40;
const MAX_STEPS: usize = 2 * MAX_DEPTH;

/// Why a name is no place in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadName {
    /// It has more `..` than directories before them.
    Escape,
    /// It is too long or has a zero byte.
    Impossible,
    /// It lies too deep.
    Deep,
}

/// A name as a relative path without `.`, `..` and double slashes; empty for the root. A leading slash means the layer's root. `a/../b` is
/// `b`, whatever `a` is: other tools clean names before they look at the tree, and the tree must come out the same.
pub(crate) fn relative(name: &[u8]) -> Result<PathBuf, BadName> {
    if name.len() > MAX_NAME || name.contains(&0) {
        return Err(BadName::Impossible);
    }
    let mut components: Vec<&[u8]> = Vec::new();
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop().ok_or(BadName::Escape)?),
            plain => components.push(plain),
        }
    }
    if components.len() > MAX_DEPTH {
        return Err(BadName::Deep);
    }
    Ok(PathBuf::from(OsString::from_vec(components.join(&b'/'))))
}

/// The directory part (empty for the root) and the last component of a path that is not the root.
pub(crate) fn split(path: &Path) -> (&Path, &OsStr) {
    let bytes = path.as_os_str().as_bytes();
    match bytes.iter().rposition(|&b| b == b'/') {
        Some(slash) => (
            Path::new(OsStr::from_bytes(&bytes[..slash])),
            OsStr::from_bytes(&bytes[slash + 1..]),
        ),
        None => (Path::new(""), path.as_os_str()),
    }
}

/// Opens a directory beneath `root` without following any symbolic link; an empty path is the root itself.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Behind a seccomp filter that is older than openat2: component by component gives the same.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut at = rustix::fs::openat(root, ".", flags, Mode::empty())?;
            for component in path.components() {
                at = rustix::fs::openat(&at, component.as_os_str(), flags, Mode::empty())?;
            }
            Ok(at)
        }
        // The kernel asks to try again when something was renamed meanwhile; nobody else writes here, so once more is enough.
        Err(Errno::AGAIN) => rustix::fs::openat2(root, path, flags, Mode::empty(), resolve),
        other => other,
    }
}

/// `None` if there is nothing of this name.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The target directory, with the directory that was opened last: archives go through a tree directory by directory.
pub(crate) struct Root {
    fd: OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

/// A directory beneath the root.
pub(crate) enum Found<'a> {
    Here(BorrowedFd<'a>),
    /// It, or one above it, is not there.
    Missing,
    /// It, or one above it, is a symbolic link or no directory.
    NoDirectory,
}

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| LayerError::Target {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { fd, last: None })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory at `path`.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<Found<'_>, LayerError> {
        if path.as_os_str().is_empty() {
            return Ok(Found::Here(self.fd.as_fd()));
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            match open_beneath(self.fd.as_fd(), path) {
                Ok(fd) => self.last = Some((path.to_owned(), fd)),
                Err(Errno::NOENT) => return Ok(Found::Missing),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::NoDirectory),
                Err(errno) => return Err(LayerError::file("open directory", path)(errno)),
            }
        }
        Ok(match &self.last {
            Some((_, fd)) => Found::Here(fd.as_fd()),
            None => Found::Missing,
        })
    }

    /// The path without symbolic links that `path` means in this tree, the last component included. What does not exist is taken as it is
    /// named. `None` if there are too many links.
    pub(crate) fn canonical(&mut self, path: &Path) -> Result<Option<PathBuf>, LayerError> {
        // The usual case: nothing on the way is a link.
        match self.directory(path)? {
            Found::Here(_) | Found::Missing => return Ok(Some(path.to_owned())),
            Found::NoDirectory => {}
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut pending: VecDeque<OsString> = components(path.as_os_str());
        let mut reached: Vec<OsString> = Vec::new();
        // The directory that `reached` names; none if it does not exist, or is no directory.
        let mut at = Some(self.fd.try_clone().map_err(LayerError::file("look up", path))?);
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = pending.pop_front() {
            steps += 1;
            if steps > MAX_STEPS || reached.len() > MAX_DEPTH {
                return Ok(None);
            }
            if name == ".." {
                // Above the root is the root.
                reached.pop();
                at = self
                    .open_if_there(&reached)
                    .map_err(LayerError::file("look up", path))?;
                continue;
            }
            let found = match &at {
                Some(at) => stat(at.as_fd(), &name).map_err(LayerError::file("look up", path))?,
                None => None,
            };
            match (&at, found.as_ref().map(file_type)) {
                (Some(dir), Some(FileType::Directory)) => {
                    at = Some(
                        rustix::fs::openat(dir, &name, flags, Mode::empty())
                            .map_err(LayerError::file("look up", path))?,
                    );
                    reached.push(name);
                }
                (Some(dir), Some(FileType::Symlink)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(None);
                    }
                    let target = rustix::fs::readlinkat(dir, &name, Vec::new())
                        .map_err(LayerError::file("look up", path))?;
                    if target.as_bytes().starts_with(b"/") {
                        reached.clear();
                        at = Some(self.fd.try_clone().map_err(LayerError::file("look up", path))?);
                    }
                    for component in components(OsStr::from_bytes(target.as_bytes())).into_iter().rev() {
                        pending.push_front(component);
                    }
                }
                _ => {
                    at = None;
                    reached.push(name);
                }
            }
        }
        Ok(Some(reached.iter().collect()))
    }

    fn open_if_there(&self, components: &[OsString]) -> Result<Option<OwnedFd>, Errno> {
        let path: PathBuf = components.iter().collect();
        match open_beneath(self.fd.as_fd(), &path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes whatever is at `path`, a whole tree if it is a directory.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let parent = match self.directory(parent)? {
            Found::Here(fd) => fd
                .try_clone_to_owned()
                .map_err(LayerError::file("open directory", parent))?,
            Found::Missing | Found::NoDirectory => return Ok(()),
        };
        // The directory opened last may be what is removed, or lie in it.
        if self.last.as_ref().is_some_and(|(last, _)| last.starts_with(path)) {
            self.last = None;
        }
        croze_sys::tree::remove(&parent, name).map_err(LayerError::file("replace", path))
    }
}

/// The components of a path that still has to be resolved: `..` among them, `.` and empty ones not.
fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|&b| b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(|component| OsStr::from_bytes(component).to_owned())
        .collect()
}

/// The error for a directory part that is a link or a file.
pub(crate) fn behind_link(entry: &Path, parent: &Path) -> LayerError {
    LayerError::BehindLink {
        entry: shown(entry),
        parent: shown(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_paths_or_are_refused() {
        for (name, expected) in [
            ("a/b", Ok("a/b")),
            ("./a//b/", Ok("a/b")),
            ("/etc/passwd", Ok("etc/passwd")),
            ("///", Ok("")),
            (".", Ok("")),
            ("", Ok("")),
            ("..a/...", Ok("..a/...")),
            ("../x", Err(BadName::Escape)),
            ("a/../../x", Err(BadName::Escape)),
            ("/..", Err(BadName::Escape)),
            ("a/..", Ok("")),
            ("a/b/../c", Ok("a/c")),
            ("a\0b", Err(BadName::Impossible)),
        ] {
            assert_eq!(relative(name.as_bytes()), expected.map(PathBuf::from), "{name:?}");
        }
        assert_eq!(relative(&vec![b'a'; MAX_NAME + 1]), Err(BadName::Impossible));
        assert_eq!(
            relative("a/".repeat(MAX_DEPTH + 1).as_bytes()),
            Err(BadName::Deep)
        );
    }

    #[test]
    fn links_are_resolved_with_the_target_as_the_root() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib/x86")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (link, target) in [
            ("lib", "usr/lib"),
            ("abs", "/usr"),
            ("up", "../../../usr"),
            ("usr/back", "../lib/x86/.."),
            ("dangling", "no/where"),
            ("loop", "loop"),
            ("wide", "lib/../lib/../lib/../lib"),
        ] {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let mut root = Root::open(dir.path()).unwrap();
        for (path, expected) in [
            ("usr/lib", Some("usr/lib")),
            ("lib/x86", Some("usr/lib/x86")),
            ("lib/new/er", Some("usr/lib/new/er")),
            ("abs/lib", Some("usr/lib")),
            ("up/lib", Some("usr/lib")),
            ("up/back/x86", Some("usr/lib/x86")),
            ("dangling/x", Some("no/where/x")),
            ("wide/x86", Some("usr/lib/x86")),
            ("file/x", Some("file/x")),
            ("loop/x", None),
        ] {
            let found = root.canonical(Path::new(path)).unwrap();
            assert_eq!(found, expected.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn a_deep_tree_is_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        let target = dir.path().join("target");
        let deep = target.join("x").join("d/".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, target.join("x/link")).unwrap();
        let mut root = Root::open(&target).unwrap();
        root.remove(Path::new("x")).unwrap();
        root.remove(Path::new("x")).unwrap();
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}
