//! `--cidfile`: a file that names the container for whoever looks for it later.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file that was made for an id; removed again unless one is written.
#[derive(Debug)]
pub(super) struct CidFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl CidFile {
    /// Refuses a path at which there is something.
    pub(super) fn check(path: &Path) -> Result<(), Failure> {
        match path.symlink_metadata() {
            Ok(_) => Err(found(path)),
            // Whether it can be made is seen when it is.
            Err(_) => Ok(()),
        }
    }

    /// Makes the file, before there is a container: where it cannot be made, none is.
    pub(super) fn reserve(path: &Path) -> Result<Self, Failure> {
        match File::create_new(path) {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
                written: false,
            }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(found(path)),
            Err(error) => Err(Failure::io(format!("create {}", path.display()), error)),
        }
    }

    /// Writes the id.
    pub(super) fn write(mut self, id: &str) -> Result<(), Failure> {
        self.file
            .write_all(id.as_bytes())
            .map_err(|error| Failure::io(format!("write {}", self.path.display()), error))?;
        self.written = true;
        Ok(())
    }
}

fn found(path: &Path) -> Failure {
    Failure::usage(
        format!("container ID file found: {}", path.display()),
        Some("make sure that the other container does not run, then remove the file"),
    )
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.written {
            // It says nothing; where it cannot be removed the next one's error names it.
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_an_empty_one_does_not_stay() {
        let path = std::env::temp_dir().join(format!("croze-cidfile-{}", std::process::id()));
        CidFile::check(&path).unwrap();
        drop(CidFile::reserve(&path).unwrap());
        assert!(!path.exists());
        CidFile::reserve(&path).unwrap().write("ab").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
        CidFile::check(&path).unwrap_err();
        CidFile::reserve(&path).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab", "it stays as it is");
        fs::remove_file(&path).unwrap();
    }
}
