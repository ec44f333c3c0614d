//! The directory of all containers of one `--root`.

use super::id::Id;
use super::lock::Locked;
use super::record::{RECORD_VERSION, Record};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the fifo that init waits on, in a container's directory.
pub const EXEC_FIFO: &str = "exec.fifo";
/// The name of the record.
pub(super) const STATE: &str = "state.json";
/// The name of the kept spec.
pub(super) const CONFIG: &str = "config.json";

/// What can go wrong with the containers' directory. The wording of the first two is what callers look for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id is taken.
    #[error("container with given ID already exists: {id:?}")]
    Exists {
        /// The id.
        id: String,
    },
    /// There is no such container.
    #[error("container {id:?} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// Somebody else works on it, and does not come to an end.
    #[error(
        "container {id:?} is in use by another call of the runtime, for {} s now: see which one with `ps`, and end it",
        after.as_secs()
    )]
    Busy {
        /// The id.
        id: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The root directory may not be used.
    #[error("{path:?} cannot be the runtime's root directory; choose another one with --root")]
    Root {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A record is no valid record.
    #[error("cannot understand the record {path:?}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A record was written by another version.
    #[error("the record {path:?} has version {found}, this runtime knows version {RECORD_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// All containers of one root directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One container's directory; it may go at any time while its lock is not held.
#[derive(Debug)]
pub struct Entry {
    id: Id,
    path: PathBuf,
    directory: OwnedFd,
}

impl Store {
    /// The store at `root`, which need not exist yet.
    ///
    /// # Errors
    /// If `root` is `/`.
    pub fn new(root: &Path) -> Result<Self, StoreError> {
        if root == Path::new("/") {
            return Err(StoreError::Root {
                path: root.to_owned(),
            });
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes an id: its directory is made (which fails if another one has it) and locked. Without a saved
    /// record it reads as `creating`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the id is taken, else what went wrong with the directory.
    pub fn reserve(&self, id: &Id) -> Result<Locked, StoreError> {
        let path = self.root.join(id.as_str());
        loop {
            match fs::DirBuilder::new().mode(0o711).create(&path) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::Exists { id: id.to_string() });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.make_root()?,
                Err(source) => {
                    return Err(StoreError::Io {
                        action: "make",
                        path,
                        source,
                    });
                }
            }
        }
        Locked::take(self.open(id, path)?)
    }

    /// Looks a container up.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none of that id.
    pub fn find(&self, id: &Id) -> Result<Entry, StoreError> {
        self.open(id, self.root.join(id.as_str()))
    }

    /// The ids of all containers, sorted. A root that does not exist has none.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Id>, StoreError> {
        let fail = |source| StoreError::Io {
            action: "list",
            path: self.root.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // Foreign names are no containers.
            if let Some(id) = entry
                .file_name()
                .to_str()
                .filter(|_| directory)
                .and_then(|n| Id::parse(n).ok())
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn make_root(&self) -> Result<(), StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            // Sticky, so that nobody's tidying of a user's run directory takes it away (the XDG base directory specification).
            .mode(0o1700)
            .create(&self.root)
            .map_err(|source| StoreError::Io {
                action: "make",
                path: self.root.clone(),
                source,
            })
    }

    fn open(&self, id: &Id, path: PathBuf) -> Result<Entry, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => Ok(Entry {
                id: id.clone(),
                path,
                directory,
            }),
            Err(Errno::NOENT) => Err(StoreError::NotFound { id: id.to_string() }),
            Err(errno) => Err(StoreError::Io {
                action: "open",
                path,
                source: errno.into(),
            }),
        }
    }
}

impl Entry {
    /// The container's id.
    #[must_use]
    pub const fn id(&self) -> &Id {
        &self.id
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the container's lock.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it was deleted meanwhile.
    pub fn lock(self) -> Result<Locked, StoreError> {
        Locked::take(self)
    }

    /// Waits for the container's lock, but not longer than that; `on_busy` is called if somebody else holds it.
    ///
    /// # Errors
    /// As [`Entry::lock`]; [`StoreError::Busy`] when the time is over.
    pub fn lock_within(self, within: Duration, on_busy: impl FnOnce(&Self)) -> Result<Locked, StoreError> {
        Locked::take_within(self, within, on_busy)
    }

    /// Reads the record; `None` if none was saved yet. Needs no lock: a record is replaced in one step.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(&self) -> Result<Option<Record>, StoreError> {
        let path = self.path.join(STATE);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed {
            path: path.clone(),
            source,
        })?;
        if record.version == RECORD_VERSION {
            Ok(Some(record))
        } else {
            Err(StoreError::Version {
                path,
                found: record.version,
            })
        }
    }

    /// The spec as it was given to `create`; `None` if it was not kept yet.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_config(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.path.join(CONFIG))
    }

    /// Whether the start fifo is there: it goes when the container is started.
    #[must_use]
    pub fn has_fifo(&self) -> bool {
        self.path.join(EXEC_FIFO).exists()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether the path still names the directory that was opened.
    pub(super) fn is_current(&self) -> bool {
        let opened = rustix::fs::fstat(&self.directory);
        let named = fs::symlink_metadata(&self.path);
        matches!((opened, named), (Ok(a), Ok(b)) if a.st_ino == b.ino() && a.st_dev == b.dev())
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match croze_sys::file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Replaces a file in one step: a reader sees the old one or the new one. Not synced: see the module `state`.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = directory.join(format!(".{name}.new"));
    let path = directory.join(name);
    croze_sys::file::create(&temporary, bytes, Mode::from_raw_mode(0o600))
        .and_then(|()| swap_in(&temporary, &path))
        .map_err(|source| StoreError::Io {
            action: "write",
            path,
            source,
        })
}

/// Gives `path` the file `temporary`, in one step.
///
/// Where there is a file already the two change places (`RENAME_EXCHANGE`, Linux 3.15) and the old one goes: a plain rename over a file makes ext4
/// write the new one's data at once (`auto_da_alloc`), and its removal soon after then waits for the disk, a fifth of a whole `run`.
fn swap_in(temporary: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => fs::remove_file(temporary),
        // There is none yet, or the file system does not know how to exchange.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(temporary, path),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use std::os::unix::fs::PermissionsExt;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("a/root")).unwrap();
        (directory, store)
    }

    fn record(name: &str) -> Record {
        Record::new(&id(name), "1.2.0".into(), "/b".into(), "/b/rootfs".into())
    }

    #[test]
    fn a_container_comes_and_goes() {
        let (_directory, store) = store();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(
            store.find(&id("web")).unwrap_err().to_string(),
            "container \"web\" does not exist"
        );

        let locked = store.reserve(&id("web")).unwrap();
        assert_eq!(
            fs::metadata(store.root()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(locked.load().unwrap(), None);
        assert_eq!(
            store.reserve(&id("web")).unwrap_err().to_string(),
            "container with given ID already exists: \"web\""
        );
        let mut saved = record("web");
        locked.save(&saved).unwrap();
        locked.save_config(b"{ }").unwrap();
        saved.state = State::Stopped;
        locked.save(&saved).unwrap();
        // Read without the lock, which is held all the time.
        let entry = store.find(&id("web")).unwrap();
        assert_eq!(entry.load().unwrap(), Some(saved));
        assert_eq!(entry.load_config().unwrap().as_deref(), Some(&b"{ }"[..]));
        assert!(!entry.has_fifo());
        fs::write(entry.path().join(EXEC_FIFO), "").unwrap();
        assert!(entry.has_fifo());
        assert_eq!(store.list().unwrap(), [id("web")]);

        locked.remove().unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(store.reserve(&id("web")).is_ok());
    }

    #[test]
    fn a_lock_on_a_deleted_container_is_none() {
        let (_directory, store) = store();
        let first = store.reserve(&id("web")).unwrap();
        let waiting = store.find(&id("web")).unwrap();
        first.remove().unwrap();
        assert!(matches!(waiting.lock(), Err(StoreError::NotFound { .. })));

        // Nor is it the lock of the next container of that id.
        let waiting = {
            let locked = store.reserve(&id("web")).unwrap();
            let waiting = store.find(&id("web")).unwrap();
            locked.remove().unwrap();
            waiting
        };
        let _next = store.reserve(&id("web")).unwrap();
        assert!(matches!(waiting.lock(), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn a_lock_has_one_holder() {
        let (_directory, store) = store();
        let held = store.reserve(&id("web")).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = store.find(&id("web")).unwrap();
        let waiter = std::thread::spawn(move || {
            let locked = other.lock().unwrap();
            sender.send(locked.load().unwrap()).unwrap();
        });
        held.save(&record("web")).unwrap();
        drop(held);
        // Whoever waited sees what was saved under the lock before.
        assert_eq!(
            receiver.recv().unwrap(),
            store.find(&id("web")).unwrap().load().unwrap()
        );
        waiter.join().unwrap();
    }

    #[test]
    fn damaged_and_foreign_things_are_told_apart() {
        let (_directory, store) = store();
        let locked = store.reserve(&id("web")).unwrap();
        fs::create_dir(store.root().join("not an id")).unwrap();
        fs::write(store.root().join("file"), "").unwrap();
        assert_eq!(store.list().unwrap(), [id("web")]);

        fs::write(locked.path().join(STATE), "{").unwrap();
        assert!(matches!(locked.load(), Err(StoreError::Malformed { .. })));
        let mut newer = record("web");
        newer.version = RECORD_VERSION + 1;
        fs::write(locked.path().join(STATE), serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(
            matches!(locked.load(), Err(StoreError::Version { found, .. }) if found == RECORD_VERSION + 1)
        );
        assert!(matches!(Store::new(Path::new("/")), Err(StoreError::Root { .. })));
    }
}
