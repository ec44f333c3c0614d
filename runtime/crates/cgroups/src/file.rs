//! Reading and writing the small files of a cgroup.
//!
//! A value goes into a file with one `write`; a file is opened for writing without creating or truncating,
//! which cgroup file systems do not know.

use crate::error::Error;
use croze_sys::file;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Writes one value.
///
/// # Errors
/// [`Error::Write`] with file, value and cause.
pub fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_raw(path, value).map_err(|source| Error::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Writes one value; for callers that give the failure a meaning of their own.
pub(crate) fn write_raw(path: &Path, value: &str) -> io::Result<()> {
    file::write_all(file::open_to_write(path)?, value.as_bytes())
}

/// Writes values one after the other and keeps the file open while it stays the same: a list of device rules is a dozen of them.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    last: Option<(PathBuf, OwnedFd)>,
}

impl Writer {
    /// Writes one value.
    pub(crate) fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
        if self.last.as_ref().is_none_or(|(open, _)| open != path) {
            self.last = None;
        }
        let (_, file) = match &mut self.last {
            Some(last) => last,
            none => none.insert((path.to_owned(), file::open_to_write(path)?)),
        };
        file::write_from_start(file, value.as_bytes())
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`Error::Read`] with file and cause.
pub fn read(path: &Path) -> Result<String, Error> {
    file::read_text(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// A file of one number; `max` reads as `None`, like a file that is not there.
pub(crate) fn number(path: &Path) -> Option<u64> {
    file::read_text(path).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of `key number` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "kill"), None);
    }

    #[test]
    fn a_failed_write_says_where_and_what() {
        let error = write(Path::new("/nonexistent/cpu.max"), "max 100000").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cannot write "max 100000" to "/nonexistent/cpu.max""#
        );
    }
}
