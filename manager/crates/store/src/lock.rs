//! One process per root: an flock on a file that carries the holder's pid.
//!
//! The lock belongs to the open file, so it is gone when the process is, however it ended; the pid is only for the
//! message. The file itself stays: unlinking a lock file lets two processes lock two different inodes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::StoreError;

/// A held lock; dropping it lets another process in.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock without waiting.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] with the holder's pid, or [`StoreError::File`].
    pub fn acquire(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(StoreError::file("open lock", path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // An unreadable pid is no reason for another error: the lock is held either way.
                if file.read_to_string(&mut pid).is_err() || pid.trim().is_empty() {
                    pid = "unknown".into();
                }
                return Err(StoreError::Locked {
                    path: path.into(),
                    holder: pid.trim().into(),
                });
            }
            Err((_, errno)) => {
                return Err(StoreError::File {
                    call: "lock",
                    path: path.into(),
                    source: errno.into(),
                });
            }
        };
        // Over what is there, and only then shortened: where the disk is full the old line's block is all there is.
        let line = format!("{}\n", std::process::id());
        let length = line.len() as u64;
        let noted = file
            .rewind()
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.set_len(length));
        if let Err(error) = noted {
            tracing::warn!(path = %path.display(), %error, "the lock is held, and its file does not say by whom");
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_it_and_gets_it_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path).unwrap();
        match Lock::acquire(&path) {
            Err(StoreError::Locked { holder, .. }) => assert_eq!(holder, std::process::id().to_string()),
            other => panic!("expected Locked, got {other:?}"),
        }
        drop(first);
        Lock::acquire(&path).unwrap();
    }
}
