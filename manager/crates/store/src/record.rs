//! One small versioned file per entity.
//!
//! ```text
//!   flat:    <dir>/<key>.json              nested:  <dir>/<key>/<file>
//!
//!   {"kind":"container","version":1,"record":{ … }}
//! ```
//!
//! The key becomes a file name by percent-encoding everything but `[A-Za-z0-9_.-]` (and a leading dot); a very long key keeps its beginning
//! and ends in its SHA-256. A file that cannot be read as its kind is renamed to `<file>.corrupt-<time>`, warned about, and treated
//! as absent: one bad file never stops the daemon. A file of a newer version is left alone.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::StoreError;
use crate::files::{
    Durable, NamesIn, SET_ASIDE, create_private_dir_when, set_aside, sweep_temps, write_atomic,
};

/// Encoded keys up to this many bytes are used as they are; `NAME_MAX` is 255 and suffixes need room.
const PLAIN_KEY_MAX: usize = 180;
/// So many damaged files of one record are kept for a look at them.
const KEPT_ASIDE: usize = 3;

/// A fact that lives in a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// The name of the kind, in the file and in messages: `container`, `image`.
    const KIND: &'static str;
    /// The version this program writes, and the newest it reads.
    const VERSION: u32;

    /// What identifies the record among its kind.
    fn key(&self) -> String;

    /// Turns the body of an older version into this version's; `None` means that the version is not supported.
    #[must_use]
    fn upgrade(from: u32, body: serde_json::Value) -> Option<serde_json::Value> {
        // The default knows no older version.
        let _unused = (from, body);
        None
    }
}

#[derive(Serialize)]
struct EnvelopeRef<'a, R> {
    kind: &'static str,
    version: u32,
    record: &'a R,
}

#[derive(Deserialize)]
struct Envelope {
    kind: String,
    version: u32,
    record: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    Flat,
    Nested(&'static str),
}

/// What a listing found.
#[derive(Debug)]
pub struct Listing<R> {
    /// The readable records, by file name.
    pub records: Vec<R>,
    /// What could not be read: what these files say is unknown, which is not the same as nothing.
    pub unreadable: Vec<Unreadable>,
}

/// A record that is there and cannot be read: damaged (and set aside), of a newer version, or behind an I/O error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file, or the directory whose record is missing.
    pub path: PathBuf,
    /// Why, in words.
    pub reason: String,
}

/// The records of one kind in one directory.
///
/// Holds no state besides the path, so any number may exist; who changes one key at a time is the caller's matter.
#[derive(Debug)]
pub struct Records<R> {
    dir: PathBuf,
    layout: Layout,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Records<R> {
    fn clone(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            layout: self.layout.clone(),
            kind: PhantomData,
        }
    }
}

impl<R: Record> Records<R> {
    /// Records at `<dir>/<key>.json`.
    #[must_use]
    pub fn flat(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            layout: Layout::Flat,
            kind: PhantomData,
        }
    }

    /// Records at `<dir>/<key>/<file>`, beside what they describe.
    #[must_use]
    pub fn nested(dir: impl Into<PathBuf>, file: &'static str) -> Self {
        Self {
            dir: dir.into(),
            layout: Layout::Nested(file),
            kind: PhantomData,
        }
    }

    /// The directory of these records.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the record of `key` is or would be.
    #[must_use]
    pub fn path(&self, key: &str) -> PathBuf {
        let name = encode_key(key);
        match self.layout {
            Layout::Flat => self.dir.join(name + ".json"),
            Layout::Nested(file) => self.dir.join(name).join(file),
        }
    }

    /// Writes the record; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Encode`] or [`StoreError::File`]; the former content is then untouched, unless the disk itself failed in the last step: who
    /// was told of an error and wants no new record removes it.
    pub fn save(&self, record: &R) -> Result<(), StoreError> {
        self.save_when(record, Durable::Now)
    }

    /// As [`Records::save`], durable when it is said.
    ///
    /// # Errors
    ///
    /// As [`Records::save`].
    pub fn save_when(&self, record: &R, durable: Durable) -> Result<(), StoreError> {
        let path = self.path(&record.key());
        let envelope = EnvelopeRef {
            kind: R::KIND,
            version: R::VERSION,
            record,
        };
        let mut bytes = serde_json::to_vec(&envelope).map_err(|source| StoreError::Encode {
            kind: R::KIND.into(),
            source,
        })?;
        bytes.push(b'\n');
        let dir = path.parent().unwrap_or(&self.dir);
        let is_new = dir.symlink_metadata().is_err();
        let saved =
            create_private_dir_when(dir, durable).and_then(|()| write_atomic(&path, &bytes, 0o600, durable));
        saved.inspect_err(|_| {
            // An empty directory would look like something whose record is lost.
            if is_new && matches!(self.layout, Layout::Nested(_)) {
                let _the_next_start_sweeps_it = fs::remove_dir(dir);
            }
        })
    }

    /// Reads the record of `key`; `None` if there is none. A corrupt file is set aside and counts as none.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooNew`] or [`StoreError::File`].
    pub fn load(&self, key: &str) -> Result<Option<R>, StoreError> {
        match self.read(&self.path(key)) {
            Ok(Some(record)) if record.key() == key => Ok(Some(record)),
            Ok(_) => Ok(None),
            Err(error @ StoreError::Corrupt { .. }) => {
                quarantine(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the record of `key`, durably, readable or not, and damaged ones of it that were set aside; says whether there was one. A nested
    /// record's directory goes too if nothing else is in it.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`].
    pub fn remove(&self, key: &str) -> Result<bool, StoreError> {
        self.remove_when(key, Durable::Now)
    }

    /// As [`Records::remove`], durable when it is said.
    ///
    /// # Errors
    ///
    /// As [`Records::remove`].
    pub fn remove_when(&self, key: &str, durable: Durable) -> Result<bool, StoreError> {
        let path = self.path(key);
        let dir = path.parent().unwrap_or(&self.dir);
        // Without its directory there is no record; any other trouble shows itself below.
        let names = match NamesIn::open(dir, durable) {
            Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(false),
            Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::NotADirectory => {
                return Ok(false);
            }
            opened => opened?,
        };
        let above = match self.layout {
            Layout::Nested(_) => Some(NamesIn::open(&self.dir, durable)?),
            Layout::Flat => None,
        };
        let there = match fs::remove_file(&path) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            // Something else stands in its place.
            Err(_) if path.is_dir() => {
                fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
                true
            }
            Err(source) => return Err(StoreError::file("remove", &path)(source)),
        };
        let aside = remove_set_aside(dir, &path, 0);
        if !there && aside == 0 {
            return Ok(false);
        }
        match above {
            Some(above) if fs::remove_dir(dir).is_ok() => above.sync()?,
            _ => names.sync()?,
        }
        Ok(true)
    }

    /// All readable records, by file name. Corrupt files are set aside, files of a newer version skipped, both with a
    /// warning; temporary files of a dead process are removed. A directory that does not exist is empty.
    ///
    /// Who deletes what no record names must use [`Records::survey`]: a record that is skipped here may name it.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<R>, StoreError> {
        Ok(self.survey()?.records)
    }

    /// As [`Records::list`], and what could not be read: besides what this call skips or sets aside also what was set aside before and not
    /// written anew since, and, for nested records, directories without a record.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`] if the directory cannot be read.
    pub fn survey(&self) -> Result<Listing<R>, StoreError> {
        let (paths, mut unreadable) = self.record_files()?;
        let mut records = Vec::new();
        for path in paths {
            let error = match self.read(&path) {
                Ok(Some(record)) if self.path(&record.key()) == path => {
                    records.push(record);
                    continue;
                }
                // A copy: the same entity twice would be two truths.
                Ok(Some(record)) => StoreError::Corrupt {
                    kind: R::KIND,
                    path: path.clone(),
                    reason: format!("it is the record of {}", record.key()),
                },
                Ok(None) => continue,
                Err(error) => error,
            };
            unreadable.push(Unreadable {
                path,
                reason: error.to_string(),
            });
            match error {
                StoreError::Corrupt { .. } => quarantine(&error),
                _ => tracing::warn!(%error, "a {} record is skipped", R::KIND),
            }
        }
        Ok(Listing { records, unreadable })
    }

    /// The files that should be records, and what shows that one is missing.
    fn record_files(&self) -> Result<(Vec<PathBuf>, Vec<Unreadable>), StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            Err(source) => {
                return Err(StoreError::File {
                    call: "list",
                    path: self.dir.clone(),
                    source,
                });
            }
        };
        sweep_temps(&self.dir);
        let (mut paths, mut lost) = (Vec::new(), Vec::new());
        let mut lose = |path: PathBuf, reason: &str| {
            lost.push(Unreadable {
                path,
                reason: reason.to_owned(),
            });
        };
        for entry in entries {
            let entry = entry.map_err(StoreError::file("list", &self.dir))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            match self.layout {
                Layout::Flat if name.ends_with(".json") => paths.push(entry.path()),
                Layout::Flat => {
                    let original = name.split_once(SET_ASIDE).map(|(original, _)| original);
                    if let Some(original) = original.filter(|original| original.ends_with(".json"))
                        && !self.dir.join(original).exists()
                    {
                        lose(entry.path(), "it was damaged and set aside");
                    }
                }
                Layout::Nested(file) => {
                    sweep_temps(&entry.path());
                    let path = entry.path().join(file);
                    match fs::symlink_metadata(&path) {
                        Ok(_) => paths.push(path),
                        Err(_) if !set_aside_of(&entry.path(), &path).is_empty() => {
                            lose(path, "it was damaged and set aside");
                        }
                        Err(_) if entry.path().is_dir() => lose(entry.path(), "it has no record"),
                        Err(_) => {}
                    }
                }
            }
        }
        paths.sort();
        Ok((paths, lost))
    }

    fn read(&self, path: &Path) -> Result<Option<R>, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt {
            kind: R::KIND,
            path: path.into(),
            reason,
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == ErrorKind::IsADirectory => return Err(corrupt("it is a directory".into())),
            Err(source) => {
                return Err(StoreError::File {
                    call: "read",
                    path: path.into(),
                    source,
                });
            }
        };
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if envelope.kind != R::KIND {
            return Err(corrupt(format!("it says it is a {:?}", envelope.kind)));
        }
        let body = match envelope.version {
            v if v == R::VERSION => envelope.record,
            v if v > R::VERSION => {
                return Err(StoreError::TooNew {
                    kind: R::KIND,
                    path: path.into(),
                    found: v,
                    supported: R::VERSION,
                });
            }
            v => R::upgrade(v, envelope.record)
                .ok_or_else(|| corrupt(format!("version {v} is no longer supported")))?,
        };
        serde_json::from_value(body)
            .map(Some)
            .map_err(|e| corrupt(e.to_string()))
    }
}

/// What was set aside in `dir` under the name of `path`, the oldest first.
fn set_aside_of(dir: &Path, path: &Path) -> Vec<PathBuf> {
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(dir)) else {
        return Vec::new();
    };
    let prefix = format!("{}{SET_ASIDE}", name.to_string_lossy());
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Removes what was set aside under the name of `path` in `dir`, but for the newest `kept`; says how many there were. The facts in it are no
/// longer wanted, so one that stays is only a reason to clean up less.
fn remove_set_aside(dir: &Path, path: &Path, kept: usize) -> usize {
    let found = set_aside_of(dir, path);
    for old in found.iter().take(found.len().saturating_sub(kept)) {
        if let Err(error) = croze_sys::tree::remove_path(old) {
            tracing::warn!(path = %old.display(), %error, "a damaged record stays");
        }
    }
    found.len()
}

fn quarantine(error: &StoreError) {
    let StoreError::Corrupt { path, .. } = error else {
        return;
    };
    match set_aside(path) {
        Ok(aside) => tracing::warn!(%error, aside = %aside.display(), "a damaged record is set aside"),
        Err(failure) => tracing::warn!(%error, %failure, "a damaged record cannot be set aside"),
    }
    if let Some(dir) = path.parent() {
        remove_set_aside(dir, path, KEPT_ASIDE);
    }
}

fn encode_key(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for (i, byte) in key.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if i > 0 => name.push('.'),
            other => {
                // Writing to a String cannot fail.
                let _infallible = write!(name, "%{other:02X}");
            }
        }
    }
    if name.is_empty() {
        // Never a bare ".json", which would be hidden.
        name.push_str("%00");
    }
    if name.len() > PLAIN_KEY_MAX {
        name.truncate(100);
        name.push('-');
        name.push_str(&hex::encode(Sha256::digest(key.as_bytes())));
    }
    name
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
