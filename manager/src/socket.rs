//! The daemon's socket: who may use it is root, so its mode is the border of trust.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use croze_model::{Error, ErrorKind, Result};
use nix::unistd::{Gid, Group, Uid, chown};

/// Members may use the socket.
const GROUP: &str = "croze";
/// The longest path of a socket (`sun_path` without its final zero byte).
const MAX_PATH_BYTES: usize = 107;

/// A bound socket, unlinked when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
}

impl Socket {
    /// Binds the socket with mode 0660 for root and the group `croze` (root's group where there is none). A socket that nobody listens on
    /// any more is replaced.
    ///
    /// # Errors
    /// `Conflict` if somebody listens on it, or something else is in its place.
    pub(crate) fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        check_length(path)?;
        if let Some(parent) = path.parent() {
            make_parent(parent)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(|error| failed("bind", path, error))?;
        let socket = Self {
            path: path.to_owned(),
        };
        chown(path, Some(Uid::from_raw(0)), Some(group()))
            .map_err(|errno| failed("change the owner of", path, errno.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(|error| failed("change the mode of", path, error))?;
        listener
            .set_nonblocking(true)
            .map_err(|error| failed("prepare", path, error))?;
        Ok((socket, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next daemon replaces one that stays.
        fs::remove_file(&self.path).ok();
    }
}

fn check_length(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    if length <= MAX_PATH_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        "listen",
        format!(
            "the socket's path {} has {length} bytes, and sockets allow {MAX_PATH_BYTES}",
            path.display()
        ),
    )
    .hint("choose a shorter one with --socket"))
}

/// Makes the directory of the socket; one that exists stays as it is.
fn make_parent(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|error| failed("create the directory of", dir, error))?;
    // Members of the group must get through to the socket; they need not see what else is there.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .map_err(|error| failed("change the mode of", dir, error))
}

fn remove_stale(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(taken(path, "it exists and is not a socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(taken(path, "another daemon listens on it")),
        Err(_) => fs::remove_file(path).map_err(|error| failed("remove the stale", path, error)),
    }
}

/// The group's id; without the group, or without an answer, root alone may use the socket.
fn group() -> Gid {
    match Group::from_name(GROUP) {
        Ok(Some(group)) => group.gid,
        Ok(None) | Err(_) => Gid::from_raw(0),
    }
}

fn taken(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "listen",
        format!("cannot listen on {}", path.display()),
    )
    .because(why.to_owned())
    .hint("choose another one with --socket, or stop the other daemon")
}

fn failed(action: &str, path: &Path, source: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        "listen",
        format!("cannot {action} {}", path.display()),
    )
    .because(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        remove_stale(&path).unwrap();
        assert!(!path.exists());

        let _live = UnixListener::bind(&path).unwrap();
        assert_eq!(remove_stale(&path).unwrap_err().kind(), ErrorKind::Conflict);
        assert!(path.exists());
    }

    #[test]
    fn something_else_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(remove_stale(&path).unwrap_err().kind(), ErrorKind::Conflict);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_words() {
        let error = check_length(Path::new(&format!("/{}", "x".repeat(107)))).unwrap_err();
        assert!(error.one_line().contains("108 bytes"), "{error}");
        assert!(check_length(Path::new("/run/croze/croze.sock")).is_ok());
    }
}
