//! Small files, read and written with as few system calls as they need.
//!
//! The standard library asks for a file's size, reads first what that promises, and on musl sets close-on-exec a second time: six calls
//! for one line of `/proc` or of a cgroup, of which a container's life has dozens. Here it is open, read, read, close.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::Errno;

/// What is read at once. Hardly any file that this is meant for is longer.
const PIECE: usize = 4096;

/// Reads a whole file.
///
/// # Errors
/// It cannot be opened or read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    let mut piece = [0; PIECE];
    loop {
        match rustix::io::read(&file, &mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reads a whole file of text.
///
/// # Errors
/// It cannot be opened or read, or is no UTF-8 (`InvalidData`).
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Opens a file that is there for writing, neither made nor truncated: what file systems like cgroup's want.
///
/// # Errors
/// Those of `open`.
pub fn open_to_write(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlags::WRONLY)
}

/// Makes a file, or empties the one that is there, and writes it.
///
/// # Errors
/// It cannot be opened or written.
pub fn create(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    write_all(rustix::fs::open(path, flags, mode)?, bytes)
}

/// Writes all of it.
///
/// # Errors
/// Those of `write`; `WriteZero` if the file takes nothing more.
pub fn write_all(file: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes a value in one call, as if the file had just been opened.
///
/// # Errors
/// Those of `pwrite`; `WriteZero` if the file takes a part only.
pub fn write_from_start(file: impl AsFd, value: &[u8]) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, value, 0))? {
        length if length == value.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn open(path: &Path, access: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_length_come_back_whole() {
        let name = format!("croze-sys-file-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
            create(&path, &bytes, Mode::from_raw_mode(0o600)).expect("written");
            assert_eq!(read(&path).expect("read"), bytes);
            assert_eq!(read_text(&path).expect("text").len(), length);
        }
        create(&path, &[0xff], Mode::from_raw_mode(0o600)).expect("written");
        assert_eq!(
            read_text(&path).map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidData)
        );
        let file = open_to_write(&path).expect("opened");
        for value in ["long", "new"] {
            write_from_start(&file, value.as_bytes()).expect("written");
        }
        assert_eq!(read_text(&path).expect("text"), "newg");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(
            read(&path).map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
        assert_eq!(
            open_to_write(&path).map(drop).map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
    }
}
