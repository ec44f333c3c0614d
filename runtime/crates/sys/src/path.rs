//! Paths resolved below a directory that someone else controls.
//!
//! Whoever controls a container's root file system can put symbolic links, `..` and even renames in the way of a path.
//! Nothing here ever resolves to anything outside of the directory descriptor that is given: `openat2` does it in the kernel,
//! and where that is missing (Linux before 5.6, or a filter that answers `ENOSYS`) a walk does it, one component and one
//! `O_PATH` descriptor at a time.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// How a path may find its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The directory is `/`: absolute links and `..` stay inside, as after `chroot`. Links to magic places are refused.
    InRoot,
    /// As [`Scope::InRoot`], but no symbolic link is followed at all (`ELOOP`).
    NoSymlinks,
}

/// Opens `path` below `root`.
///
/// # Errors
/// Those of `openat2`; `ELOOP` for links where none are followed.
pub fn open_below(root: impl AsFd, path: &Path, flags: OFlags, scope: Scope) -> Result<OwnedFd> {
    let resolve = match scope {
        Scope::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        Scope::NoSymlinks => ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    };
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    // The kernel gives up with EAGAIN if anything on the system was renamed while it resolved "..": the answer is to ask
    // again, and in the end to walk.
    for _ in 0..32 {
        match rustix::fs::openat2(
            root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => break,
            result => return result.named("openat2"),
        }
    }
    walk(root.as_fd(), path, flags, scope)
}

/// Opens `path` below `directory` without following a link and without leaving the mount: for files of a procfs that nobody
/// shall have mounted something over.
///
/// # Errors
/// `EXDEV` if something is mounted on the way, `ELOOP` for a link, `EINVAL` for a path with more than names in it.
pub fn open_same_mount(directory: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    // "..": such a path was put together by somebody who did not look at what went into it.
    if path
        .components()
        .any(|component| !matches!(component, Component::Normal(_)))
    {
        return Err(Error::new("openat2", Errno::INVAL));
    }
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(
        directory.as_fd(),
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    ) {
        Err(Errno::NOSYS) => {}
        result => return result.named("openat2"),
    }
    let mount = crate::fd::mount_id(directory.as_fd())?;
    let found = walk(directory.as_fd(), path, flags, Scope::NoSymlinks)?;
    if crate::fd::mount_id(&found)? == mount {
        Ok(found)
    } else {
        Err(Error::new("openat", Errno::XDEV))
    }
}

/// What [`create_below`] makes at the end of a path where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory.
    Directory,
    /// An empty regular file.
    File,
}

/// Opens `path` below `root` as an `O_PATH` descriptor; what is missing on the way is created as directories (0755), its end
/// as `missing` says.
///
/// # Errors
/// Those of `openat2`, `mkdirat` and `openat`; `ELOOP` for more than 40 links.
pub fn create_below(root: impl AsFd, path: &Path, missing: Missing) -> Result<OwnedFd> {
    match open_below(root.as_fd(), path, OFlags::PATH, Scope::InRoot) {
        Err(error) if error.errno == Errno::NOENT => {}
        result => return result,
    }
    let mut pending = components(path);
    // Where the walk stands: resolved, existing, and free of links, relative to the root.
    let mut reached = PathBuf::from(".");
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            if reached.components().count() > 1 {
                reached.pop();
            }
            continue;
        }
        let directory = open_below(
            root.as_fd(),
            &reached,
            OFlags::PATH | OFlags::DIRECTORY,
            Scope::NoSymlinks,
        )?;
        let last = pending.is_empty();
        match rustix::fs::readlinkat(directory.as_fd(), &*name, Vec::new()) {
            Ok(link) => {
                links += 1;
                if links > 40 {
                    return Err(Error::new("openat2", Errno::LOOP));
                }
                let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
                if link.is_absolute() {
                    reached = PathBuf::from(".");
                }
                for component in components(&link).into_iter().rev() {
                    pending.push_front(component);
                }
                continue;
            }
            Err(Errno::INVAL) => {}
            Err(Errno::NOENT) if last && missing == Missing::File => make_file(directory.as_fd(), &name)?,
            Err(Errno::NOENT) => make_directory(directory.as_fd(), &name)?,
            Err(errno) => return Err(Error::new("readlinkat", errno)),
        }
        reached.push(&name);
    }
    open_below(root.as_fd(), &reached, OFlags::PATH, Scope::NoSymlinks)
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result.named("mkdirat"),
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))
        .named("openat(O_CREAT)")
        .map(drop)
}

/// The names in `path`, the root and `.` left out.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::new("..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The same as `openat2` with `RESOLVE_IN_ROOT`, by hand: a stack of descriptors from the root down to where the walk is.
fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlags, scope: Scope) -> Result<OwnedFd> {
    let wants_directory = path.as_os_str().as_bytes().ends_with(b"/");
    let mut pending = components(path);
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            stack.pop();
            continue;
        }
        let here = stack.last().map_or(root, AsFd::as_fd);
        let reference = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = rustix::fs::openat(here, &*name, reference, Mode::empty()).named("openat")?;
        let stat = rustix::fs::fstat(&next).named("fstat")?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let stays = pending.is_empty() && flags.contains(OFlags::NOFOLLOW);
        if !is_link || stays {
            stack.push(next);
            continue;
        }
        links += 1;
        if links > 40 || scope == Scope::NoSymlinks || crate::fd::is_on(&next, crate::fd::PROC_SUPER_MAGIC)? {
            return Err(Error::new("openat", Errno::LOOP));
        }
        let link = rustix::fs::readlinkat(&next, "", Vec::new()).named("readlinkat")?;
        let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
        if link.is_absolute() {
            stack.clear();
        }
        for component in components(&link).into_iter().rev() {
            pending.push_front(component);
        }
    }
    let end = stack.last().map_or(root, AsFd::as_fd);
    let flags = if wants_directory {
        flags | OFlags::DIRECTORY
    } else {
        flags
    };
    open_end(end, flags)
}

/// Opens what the walk has reached with the flags that were asked for.
fn open_end(end: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    if flags.contains(OFlags::PATH) {
        let stat = rustix::fs::fstat(end).named("fstat")?;
        if flags.contains(OFlags::DIRECTORY) && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::new("openat", Errno::NOTDIR));
        }
        return rustix::io::fcntl_dupfd_cloexec(end, 3).named("fcntl(F_DUPFD_CLOEXEC)");
    }
    crate::fd::reopen(end, flags - OFlags::NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A directory of its own for each test, removed with it.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("croze-sys-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("root/etc")).expect("made");
            fs::create_dir_all(path.join("outside")).expect("made");
            fs::write(path.join("root/etc/passwd"), "inside").expect("written");
            fs::write(path.join("outside/secret"), "outside").expect("written");
            symlink("/etc", path.join("root/absolute")).expect("linked");
            symlink("../../outside", path.join("root/etc/up")).expect("linked");
            symlink("/new/place", path.join("root/dangling")).expect("linked");
            symlink("loop", path.join("root/loop")).expect("linked");
            Self(path)
        }

        fn root(&self) -> OwnedFd {
            crate::fd::open_path(&self.0.join("root")).expect("opened")
        }

        fn relative(&self, fd: &OwnedFd) -> PathBuf {
            let path = crate::fd::path_of(fd).expect("a /proc");
            path.strip_prefix(self.0.canonicalize().expect("exists").join("root"))
                .expect("inside")
                .to_owned()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("removed");
        }
    }

    type Opener = fn(BorrowedFd<'_>, &Path) -> Result<OwnedFd>;

    const OPENERS: [Opener; 2] = [
        |root, path| open_below(root, path, OFlags::PATH, Scope::InRoot),
        |root, path| walk(root, path, OFlags::PATH, Scope::InRoot),
    ];

    #[test]
    fn the_kernel_and_the_walk_agree_and_stay_inside() {
        let tree = Tree::new("inside");
        let root = tree.root();
        let cases: [(&str, Result<&str, Errno>); 8] = [
            ("etc/passwd", Ok("etc/passwd")),
            ("/etc/passwd", Ok("etc/passwd")),
            ("absolute/passwd", Ok("etc/passwd")),
            ("../../../etc", Ok("etc")),
            ("etc/up/secret", Err(Errno::NOENT)),
            ("dangling", Err(Errno::NOENT)),
            ("loop", Err(Errno::LOOP)),
            (".", Ok("")),
        ];
        for opener in OPENERS {
            for (path, expected) in cases {
                let found = opener(root.as_fd(), Path::new(path)).map(|fd| tree.relative(&fd));
                assert_eq!(
                    found.map_err(|error| error.errno),
                    expected.map(PathBuf::from),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn links_are_refused_where_none_are_wanted() {
        let tree = Tree::new("nolinks");
        let (root, path) = (tree.root(), Path::new("absolute/passwd"));
        let kernel = open_below(&root, path, OFlags::PATH, Scope::NoSymlinks);
        let walked = walk(root.as_fd(), path, OFlags::PATH, Scope::NoSymlinks);
        for refused in [kernel, walked] {
            assert_eq!(refused.expect_err("a link").errno, Errno::LOOP);
        }
    }

    #[test]
    fn a_path_on_one_mount_is_made_of_names_only() {
        let tree = Tree::new("names");
        let root = tree.root();
        let open = |path: &str| {
            open_same_mount(&root, Path::new(path), OFlags::RDONLY)
                .map(drop)
                .map_err(|error| error.errno)
        };
        assert_eq!(open("etc/passwd"), Ok(()));
        assert_eq!(open("etc/../etc/passwd"), Err(Errno::INVAL));
        assert_eq!(open("/etc/passwd"), Err(Errno::INVAL));
        assert_eq!(open("absolute/passwd"), Err(Errno::LOOP));
    }

    #[test]
    fn what_is_missing_is_made_inside_even_behind_links() {
        let tree = Tree::new("create");
        let root = tree.root();
        let cases = [
            ("a/b/c", Missing::Directory, "a/b/c"),
            ("a/file", Missing::File, "a/file"),
            ("dangling/x", Missing::Directory, "new/place/x"),
            ("absolute/made", Missing::File, "etc/made"),
            ("etc/up/made", Missing::Directory, "outside/made"),
            ("../../../escape", Missing::Directory, "escape"),
        ];
        for (path, missing, expected) in cases {
            let made = create_below(&root, Path::new(path), missing).expect(path);
            assert_eq!(tree.relative(&made), Path::new(expected), "{path}");
            let is_file = tree
                .0
                .join("root")
                .join(expected)
                .metadata()
                .expect("exists")
                .is_file();
            assert_eq!(is_file, missing == Missing::File, "{path}");
        }
        assert!(!tree.0.join("outside/made").exists());
        assert!(!tree.0.join("escape").exists());
    }
}
