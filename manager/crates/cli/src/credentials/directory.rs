//! A directory in which files are replaced, held by its descriptor.
//!
//! Who uses `sudo` may have kept HOME: then root makes directories and files in a place that somebody else owns and may change at any moment. So a
//! path is resolved once. What follows is about the descriptor, and no link that appears meanwhile is followed.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// How many names for a new file are tried.
const ATTEMPTS: usize = 16;

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

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    /// Opens a directory; makes it, and those above it, if it is not there. What root makes belongs to whom the directory above it belongs.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        let opened = Self::open_at(CWD, path.as_os_str(), OFlags::empty());
        match (&opened, path.file_name()) {
            (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
                Self::make(above(path))?.make_here(name)
            }
            _ => opened,
        }
    }

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

    /// Keeps others who ask for this out until the directory is dropped. Where a file system cannot lock, nobody is kept out.
    pub(crate) fn lock(&self) {
        let _unlocked = self.0.lock();
    }

    /// Opens the file of this name to read it; `None` if there is none.
    ///
    /// # Errors
    /// Also for a symbolic link.
    pub(crate) fn open(&self, name: &OsStr) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
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

/// The directory of a path.
pub(crate) fn above(path: &Path) -> &Path {
    path.parent()
        .filter(|directory| !directory.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

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
        let above = Directory::make(&home).unwrap();
        let directory = Directory::make(&home.join("config")).unwrap();
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
}
