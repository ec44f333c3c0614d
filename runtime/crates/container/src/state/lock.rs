//! One writer per container: an exclusive `flock` on its directory.
//!
//! The kernel drops the lock when the descriptor is closed, so a killed runtime leaves nothing locked. Init
//! must not inherit the descriptor: it is close-on-exec, and a child that does not exec (init before the user's
//! process) closes it first, or it would hold the lock for as long as it waits.

use super::record::Record;
use super::store::{self, Entry, StoreError};
use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long until a lock that somebody holds is tried again.
const AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

fn cannot_lock(entry: &Entry, errno: Errno) -> StoreError {
    StoreError::Io {
        action: "lock",
        path: entry.path().to_owned(),
        source: errno.into(),
    }
}

/// A container whose lock is held.
#[derive(Debug)]
pub struct Locked {
    entry: Entry,
}

impl Locked {
    pub(super) fn take(entry: Entry) -> Result<Self, StoreError> {
        loop {
            match flock(entry.fd(), FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(cannot_lock(&entry, errno)),
            }
        }
        // Whoever held the lock before may have deleted the container.
        if entry.is_current() {
            Ok(Self { entry })
        } else {
            Err(StoreError::NotFound {
                id: entry.id().to_string(),
            })
        }
    }

    /// As [`Locked::take`], but gives up when the time is over. `on_busy` is called once if somebody else holds the lock.
    pub(super) fn take_within(
        entry: Entry,
        within: Duration,
        on_busy: impl FnOnce(&Entry),
    ) -> Result<Self, StoreError> {
        let end = Instant::now() + within;
        let mut on_busy = Some(on_busy);
        loop {
            match flock(entry.fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self::take(entry),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    if let Some(on_busy) = on_busy.take() {
                        on_busy(&entry);
                    } else if Instant::now() >= end {
                        return Err(StoreError::Busy {
                            id: entry.id().to_string(),
                            after: within,
                        });
                    }
                    // Nothing tells of a lock's release but a call that waits for it without limit.
                    match poll(&mut [], Some(&AGAIN)) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(cannot_lock(&entry, errno)),
                    }
                }
                Err(errno) => return Err(cannot_lock(&entry, errno)),
            }
        }
    }

    /// The container it is.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The container's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.entry.path()
    }

    /// The record; see [`Entry::load`].
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(&self) -> Result<Option<Record>, StoreError> {
        self.entry.load()
    }

    /// Replaces the record in one step.
    ///
    /// # Errors
    /// If it cannot be written; the old one stands then.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).map_err(|source| StoreError::Malformed {
            path: self.path().join(store::STATE),
            source,
        })?;
        store::replace(self.path(), store::STATE, &bytes)
    }

    /// Keeps the spec as it was given, for `exec` and for hooks that run when the bundle may be gone.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_config(&self, spec: &[u8]) -> Result<(), StoreError> {
        store::replace(self.path(), store::CONFIG, spec)
    }

    /// Forgets the container: its directory goes, and with it the id.
    ///
    /// # Errors
    /// If the directory cannot be removed.
    pub fn remove(self) -> Result<(), StoreError> {
        match fs::remove_dir_all(self.path()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::Io {
                action: "remove",
                path: self.path().to_owned(),
                source,
            }),
        }
    }
}

/// The descriptor that holds the lock, for a child that must close it.
impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.entry.fd()
    }
}
