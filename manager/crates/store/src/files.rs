//! Files that change atomically: a temporary file in the same directory, fsync, rename, fsync of the directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use croze_sys::tree::process_unique;

use crate::StoreError;

/// Temporary files begin with this; no record's file name does.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

/// What comes between the name of a file that was set aside and the time when.
pub(crate) const SET_ASIDE: &str = ".corrupt-";

/// By when a change has to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// When the call returns: a power cut afterwards takes nothing back.
    Now,
    /// In the kernel's own time. A power cut may take it back; it never leaves half of it, as content is on the disk before it gets its
    /// name. For facts of what does not outlive a power cut anyway.
    Soon,
}

/// Replaces the file at `path` by `bytes`, so that after any crash it holds the old content or the new, whole.
///
/// The parent directory must exist.
///
/// # Errors
///
/// [`StoreError::File`]; the temporary file is then removed and the old content is untouched. Only if the disk itself fails in the last step
/// (`sync`) the new content is in place, and how long it stays there is unknown.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32, durable: Durable) -> Result<(), StoreError> {
    let dir = parent(path);
    let names = NamesIn::open(dir, durable)?;
    let (temp, mut file) = create_temp(dir, mode)?;
    let written = write_temp(&temp, &mut file, bytes)
        .and_then(|()| fs::rename(&temp, path).map_err(StoreError::file("rename to", path)));
    if let Err(error) = written {
        // The first error is the one to tell; a temporary file that stays is swept by the next list.
        drop(fs::remove_file(&temp));
        return Err(error);
    }
    names.sync()
}

/// A new file under a name that nobody has: if one of that name was left by somebody else, the next.
fn create_temp(dir: &Path, mode: u32) -> Result<(PathBuf, File), StoreError> {
    loop {
        let temp = temp_path(dir);
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(mode).open(&temp) {
            Ok(file) => return Ok((temp, file)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::file("create", temp)(source)),
        }
    }
}

fn write_temp(temp: &Path, file: &mut File, bytes: &[u8]) -> Result<(), StoreError> {
    file.write_all(bytes).map_err(StoreError::file("write", temp))?;
    file.sync_all().map_err(StoreError::file("sync", temp))
}

/// The names in a directory that are about to change. It is opened before they do, so that whatever can fail but the disk itself (want of
/// descriptors or of permission) fails while nothing has changed yet.
#[derive(Debug)]
pub struct NamesIn {
    /// `None` where the kernel's own time is good enough.
    open: Option<File>,
    path: PathBuf,
}

impl NamesIn {
    /// Opens the directory, if its names have to be durable now.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`].
    pub fn open(dir: &Path, durable: Durable) -> Result<Self, StoreError> {
        let open = match durable {
            Durable::Now => Some(File::open(dir).map_err(StoreError::file("open", dir))?),
            Durable::Soon => None,
        };
        Ok(Self {
            open,
            path: dir.to_owned(),
        })
    }

    /// Makes durable what has changed since.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`]: the disk failed, and the changes are in force for now.
    pub fn sync(self) -> Result<(), StoreError> {
        match self.open {
            Some(dir) => dir.sync_all().map_err(StoreError::file("sync", self.path)),
            None => Ok(()),
        }
    }
}

/// Creates a directory with mode 0700 and its missing parents, and makes the names durable.
///
/// # Errors
///
/// [`StoreError::File`]; a directory that exists is not an error.
pub fn create_private_dir(dir: &Path) -> Result<(), StoreError> {
    create_private_dir_when(dir, Durable::Now)
}

/// As [`create_private_dir`], durable when it is said.
///
/// # Errors
///
/// As [`create_private_dir`].
pub fn create_private_dir_when(dir: &Path, durable: Durable) -> Result<(), StoreError> {
    create_dir_mode(dir, 0o700, durable)
}

pub(crate) fn create_dir_mode(dir: &Path, mode: u32, durable: Durable) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    if !above.as_os_str().is_empty() {
        create_dir_mode(above, mode, durable)?;
    }
    let names = NamesIn::open(above, durable)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => names.sync(),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(StoreError::File {
            call: "create directory",
            path: dir.into(),
            source,
        }),
    }
}

/// Renames something out of the way: `x` becomes `x.corrupt-<unix seconds>`, and the new name is returned.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let mut attempt = 0;
    let aside = loop {
        let suffix = if attempt == 0 {
            String::new()
        } else {
            format!("-{attempt}")
        };
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{SET_ASIDE}{seconds}{suffix}"));
        let candidate = PathBuf::from(name);
        if !candidate.exists() {
            break candidate;
        }
        attempt += 1;
    };
    fs::rename(path, &aside).map_err(StoreError::file("set aside", path))?;
    Ok(aside)
}

/// Removes temporary files that an earlier process left in `dir` when it died between writing and renaming.
pub(crate) fn sweep_temps(dir: &Path) {
    let ours = format!("{TEMP_PREFIX}{}-", process_unique());
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(TEMP_PREFIX)
            && !name.starts_with(&ours)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a leftover temporary file stays");
        }
    }
}

fn temp_path(dir: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{TEMP_PREFIX}{}-{n}", process_unique()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_whole_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fact");
        write_atomic(&path, b"one, which is longer", 0o600, Durable::Now).unwrap();
        write_atomic(&path, b"two", 0o600, Durable::Soon).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_rename_keeps_the_target_and_removes_the_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("occupied");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "").unwrap();
        let error = write_atomic(&path, b"data", 0o600, Durable::Now).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::File {
                    call: "rename to",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Does something in a thread that must obey the modes of files, whoever runs the test.
    fn without_privileges<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                croze_sys::caps::set_own(&croze_sys::caps::Own::default()).unwrap();
                what()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn what_is_refused_has_not_happened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fact");
        write_atomic(&path, b"old", 0o600, Durable::Now).unwrap();
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        // Names can be changed in it, and it cannot be opened to be synced.
        mode(0o300);
        let (written, made) = without_privileges(|| {
            (
                write_atomic(&path, b"new", 0o600, Durable::Now),
                create_private_dir(&dir.path().join("made")),
            )
        });
        mode(0o700);
        assert!(
            matches!(written, Err(StoreError::File { call: "open", .. })),
            "{written:?}"
        );
        assert!(
            matches!(made, Err(StoreError::File { call: "open", .. })),
            "{made:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn sweeps_what_a_dead_process_left() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join(format!("{TEMP_PREFIX}{}-7", process_unique()));
        fs::write(dir.path().join(".tmp-1-0"), "half").unwrap();
        // Pids repeat: in a container, and after each boot.
        let namesake = dir.path().join(format!("{TEMP_PREFIX}{}-0", std::process::id()));
        fs::write(&namesake, "half").unwrap();
        fs::write(&ours, "in flight").unwrap();
        sweep_temps(dir.path());
        assert!(!dir.path().join(".tmp-1-0").exists());
        assert!(ours.exists() && !namesake.exists());
    }
}
