//! A directory in which files are replaced, held by its descriptor.
//!
//! Who uses `sudo` may have kept HOME: then root makes directories and files in a place that somebody else owns and may change at any moment. So a
//! path is walked once, a descriptor for each component, and what follows is about the last one: no link that appears meanwhile is followed.
//!
//! ```text
//!   /home/alice/.docker/config.json
//!         └ alice's ┘  └ a link of alice's ─▶ ../kept.json            alice's: root writes it, and it stays hers
//!                                          └▶ /etc/docker/daemon.json  root's: refused, she could not write it herself
//! ```
//!
//! Links that root made lead root wherever they lead; whoever is not root may follow any, since the kernel says what may be written.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Component, Path};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, readlinkat, renameat, unlinkat};
use rustix::io::Errno;

/// How many names for a new file are tried.
const ATTEMPTS: usize = 16;
/// How many symbolic links may lead to a file; the kernel follows no more.
const MAX_LINKS: usize = 40;
/// How long another one may keep a directory locked.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// User and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Whose an open file is.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    /// Gives it away, if we are root; others' files are theirs already.
    fn take(self, file: &File) -> io::Result<()> {
        if rustix::process::geteuid().is_root() {
            fchown(file, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }
}

/// Why root does not follow a symbolic link.
#[derive(Debug, thiserror::Error)]
#[error(
    "a symbolic link of user {planter} leads to what belongs to user {owner}; name the file itself in REGISTRY_AUTH_FILE if it is meant"
)]
struct Planted {
    planter: u32,
    owner: u32,
}

/// Where a path leads to: a directory, and the name of a file in it that is no link and need not be there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: Directory,
    pub(crate) name: OsString,
    /// The users whose links lead here, if we are root and they are not.
    planters: Vec<u32>,
}

impl Place {
    /// Walks a path; makes the directories that are not there. What root makes belongs to whom the directory above it belongs.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        let mut todo = Vec::new();
        let mut at = enter(path, &mut todo, None)?;
        let (mut links, mut planters) = (0, Vec::new());
        while let Some(name) = todo.pop() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat(&at.0, &name, flags, Mode::empty()) {
                Ok(found) => Some(File::from(found)),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(errno.into()),
            };
            match found {
                Some(link) if link.metadata()?.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    planters.extend(planter(&link)?);
                    let target = readlinkat(&link, "", Vec::new())?.into_bytes();
                    at = enter(Path::new(&OsString::from_vec(target)), &mut todo, Some(at))?;
                }
                _ if todo.is_empty() => {
                    return Ok(Self {
                        directory: Directory::open_at(&at.0, OsStr::new("."), OFlags::empty())?,
                        name,
                        planters,
                    });
                }
                Some(_) => at = Directory::open_at(&at.0, &name, OFlags::NOFOLLOW | OFlags::PATH)?,
                None => {
                    agree(&planters, at.owner()?)?;
                    at = at.make_here(&name)?;
                }
            }
        }
        Err(io::ErrorKind::IsADirectory.into())
    }

    /// Whether root may write here what will belong to this owner: whoever led us here could do so, too.
    pub(crate) fn is_for(&self, owner: Owner) -> io::Result<()> {
        agree(&self.planters, owner)
    }
}

/// Where a path begins: at the root, or at `here`. Its components are to be walked before what is to be walked already.
fn enter(path: &Path, todo: &mut Vec<OsString>, here: Option<Directory>) -> io::Result<Directory> {
    let components = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    todo.extend(components);
    match here {
        Some(here) if !path.is_absolute() => Ok(here),
        _ => {
            let start = if path.is_absolute() { "/" } else { "." };
            Directory::open_at(CWD, OsStr::new(start), OFlags::PATH)
        }
    }
}

/// Who has made a link, if that is to be asked.
fn planter(link: &File) -> io::Result<Option<u32>> {
    let us = rustix::process::geteuid();
    let maker = Owner::of(link)?.uid;
    Ok(Some(maker).filter(|maker| us.is_root() && *maker != us.as_raw()))
}

fn agree(planters: &[u32], owner: Owner) -> io::Result<()> {
    let other = planters.iter().find(|planter| **planter != owner.uid);
    other.map_or(Ok(()), |planter| {
        let (planter, owner) = (*planter, owner.uid);
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            Planted { planter, owner },
        ))
    })
}

/// Opens a file to read it; `None` if there is none.
///
/// # Errors
/// Also for what is no file: to open or read a pipe may take for ever, and a device never ends.
pub(crate) fn open_file(at: impl AsFd, path: &Path, more: OFlags) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
    let file = match openat(at, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    Ok(Some(file))
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    fn open_at(at: impl AsFd, path: &OsStr, more: OFlags) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
        Ok(Self(File::from(openat(at, path, flags, Mode::empty())?)))
    }

    fn make_here(&self, name: &OsStr) -> io::Result<Self> {
        let made = mkdirat(&self.0, name, Mode::RWXU);
        if let Err(errno) = made
            && errno != Errno::EXIST
        {
            return Err(errno.into());
        }
        let directory = Self::open_at(&self.0, name, OFlags::NOFOLLOW)?;
        // One that was put into its place is ours still, but is not the empty one that we made.
        if made.is_ok() && directory.is_empty()? {
            self.owner()?.take(&directory.0)?;
        }
        Ok(directory)
    }

    fn is_empty(&self) -> io::Result<bool> {
        for entry in Dir::read_from(&self.0)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> io::Result<Owner> {
        Owner::of(&self.0)
    }

    /// Keeps others who ask for this out until the directory is dropped. Where a file system cannot lock, nobody is kept out. `wait` is called if
    /// somebody has it.
    ///
    /// # Errors
    /// Somebody else keeps it: whoever may read the directory can.
    pub(crate) fn lock(&self, wait: impl FnOnce()) -> io::Result<()> {
        self.lock_within(LOCK_TIMEOUT, wait)
    }

    fn lock_within(&self, limit: Duration, wait: impl FnOnce()) -> io::Result<()> {
        if !matches!(self.0.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
            return Ok(());
        }
        wait();
        let (locked, told) = mpsc::channel();
        let same = self.0.try_clone()?;
        // A lock belongs to the open file, not to the thread; one that is never had ends with this program.
        std::thread::Builder::new().spawn(move || locked.send(same.lock()))?;
        match told.recv_timeout(limit) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("another program keeps it locked for {} s", limit.as_secs()),
            )),
        }
    }

    /// Opens the file of this name to read it; `None` if there is none.
    ///
    /// # Errors
    /// Also for a symbolic link, and for what is no file: reading from a pipe might never end, and a device would be replaced.
    pub(crate) fn open(&self, name: &OsStr) -> io::Result<Option<File>> {
        open_file(&self.0, Path::new(name), OFlags::NOFOLLOW)
    }

    /// Puts a new file with this text into the place of `name`, for its owner only. Others may be allowed to write here, too: the new file has a name
    /// that nobody can foresee, is never one that is there already, and is private from the beginning.
    pub(crate) fn replace(&self, name: &OsStr, owner: Owner, text: &str) -> io::Result<()> {
        let (new, mut file) = self.new_file()?;
        let mut write = || {
            owner.take(&file)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(renameat(&self.0, new.as_str(), &self.0, name)?)
        };
        write().inspect_err(|_| {
            let _gone = unlinkat(&self.0, new.as_str(), AtFlags::empty());
        })
    }

    fn new_file(&self) -> io::Result<(String, File)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = Errno::EXIST;
        for _ in 0..ATTEMPTS {
            let name = format!(".croze-login-{:016x}", RandomState::new().build_hasher().finish());
            match openat(&self.0, name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok((name, file.into())),
                Err(errno) => last = errno,
            }
            if last != Errno::EXIST {
                break;
            }
        }
        Err(last.into())
    }

    /// Makes what was replaced here last.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    fn owner_of(path: &Path) -> Owner {
        Owner::of(&File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_link_that_takes_the_place_of_a_directory_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (home, outside) = (dir.path().join("home"), dir.path().join("outside"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&outside).unwrap();
        let owner = Owner::of(&File::open(&outside).unwrap()).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&home, Some(4711), Some(4711)).unwrap();
        }
        let above = Place::find(&home.join("auth.json")).unwrap().directory;
        let directory = Place::find(&home.join("config/auth.json")).unwrap().directory;
        assert_eq!(directory.owner().unwrap(), above.owner().unwrap());

        // While it is open: what is written goes where it was opened.
        fs::rename(home.join("config"), home.join("moved")).unwrap();
        symlink(&outside, home.join("config")).unwrap();
        let name = OsStr::new("auth.json");
        directory
            .replace(name, directory.owner().unwrap(), "text")
            .unwrap();
        assert_eq!(fs::read_to_string(home.join("moved/auth.json")).unwrap(), "text");

        // Between the making and the opening.
        assert!(above.make_here(OsStr::new("config")).is_err());
        assert_eq!(Owner::of(&File::open(&outside).unwrap()).unwrap(), owner);

        // In the place of the file.
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(outside.join("secret"), home.join("moved/link")).unwrap();
        assert!(directory.open(OsStr::new("link")).is_err());
        directory
            .replace(OsStr::new("link"), directory.owner().unwrap(), "text")
            .unwrap();
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn root_follows_no_link_of_others_to_what_is_not_theirs() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        const ALICE: u32 = 4711;
        let dir = tempfile::tempdir().unwrap();
        let (home, etc) = (dir.path().join("home"), dir.path().join("etc"));
        for path in [&home, &etc, &home.join("hers")] {
            fs::create_dir(path).unwrap();
        }
        for path in [
            &home.join("kept.json"),
            &etc.join("roots.json"),
            &etc.join("hers.json"),
        ] {
            fs::write(path, "{}").unwrap();
        }
        for path in ["home", "home/hers", "home/kept.json", "etc/hers.json"] {
            chown(dir.path().join(path), Some(ALICE), Some(ALICE)).unwrap();
        }
        let link = |name: &str, target: &str, owner: u32| {
            symlink(target, home.join(name)).unwrap();
            lchown(home.join(name), Some(owner), Some(owner)).unwrap();
        };
        link("to-hers", "kept.json", ALICE);
        link("to-new", "../home/hers/../new.json", ALICE);
        link("to-her-file", "../etc/hers.json", ALICE);
        link("to-roots", "../etc/roots.json", ALICE);
        link("to-roots-new", "../etc/new.json", ALICE);
        link("to-directory", "../etc", ALICE);
        link("to-link", "by-root", ALICE);
        link("by-root", "../etc/roots.json", 0);
        link("around", "around", ALICE);
        for (path, refused) in [
            ("kept.json", None),
            ("new/config.json", None),
            ("to-hers", None),
            ("to-new", None),
            ("to-her-file", None),
            ("by-root", None),
            (
                "to-roots",
                Some("a symbolic link of user 4711 leads to what belongs to user 0"),
            ),
            ("to-roots-new", Some("user 4711")),
            ("to-directory/roots.json", Some("user 4711")),
            ("to-directory/made/auth.json", Some("user 4711")),
            ("to-link", Some("user 4711")),
            ("around", Some("symbolic link")),
        ] {
            let allowed = Place::find(&home.join(path)).and_then(|place| {
                let file = place.directory.open(&place.name)?;
                let owner = file.as_ref().map_or_else(|| place.directory.owner(), Owner::of)?;
                place.is_for(owner)
            });
            match (allowed, refused) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{path}: {error}"),
                (allowed, _) => panic!("{path}: {allowed:?}"),
            }
        }
        assert!(!etc.join("made").exists(), "nothing is made there either");
        assert_eq!(owner_of(&home.join("new")).uid, ALICE);
    }

    #[test]
    fn what_is_no_file_is_refused_and_a_lock_is_waited_for_no_longer_than_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(&dir.path().join("pipe")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = place.directory.open(&place.name).unwrap_err();
        assert_eq!(error.to_string(), "it is no regular file");

        let other = File::open(dir.path()).unwrap();
        other.lock().unwrap();
        let mut waited = false;
        let error = place
            .directory
            .lock_within(Duration::from_millis(50), || waited = true)
            .unwrap_err();
        assert!(waited && error.kind() == io::ErrorKind::TimedOut, "{error}");
        // Who has given up leaves no lock behind.
        drop(place);
        let place = Place::find(&dir.path().join("auth.json")).unwrap();
        place
            .directory
            .lock(|| drop(other))
            .unwrap_or_else(|error| panic!("{error}"));
    }
}
