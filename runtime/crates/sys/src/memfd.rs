//! Sealed memory files: contents that nobody can change any more, the running program among them.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::error::Named;
use crate::{Errno, Error, Result};

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A sealed copy of the running program, to be executed in its place; `None` if the program that runs is one.
///
/// # Errors
/// No memory, or no `/proc`.
pub fn seal_running_program(name: &str) -> Result<Option<OwnedFd>> {
    let program = open_running_program()?;
    if is_sealed(&program)? {
        return Ok(None);
    }
    copy_sealed(name, &program).map(Some)
}

fn is_sealed(program: &OwnedFd) -> Result<bool> {
    match rustix::fs::fcntl_get_seals(program) {
        Ok(seals) => Ok(seals.contains(SEALS)),
        // Not a memory file at all.
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(Error::new("fcntl(F_GET_SEALS)", errno)),
    }
}

fn copy_sealed(name: &str, program: &OwnedFd) -> Result<OwnedFd> {
    let copy = create_executable(name)?;
    let size = rustix::fs::fstat(program).named("fstat")?.st_size as usize;
    let mut left = size;
    while left > 0 {
        match rustix::fs::sendfile(&copy, program, None, left).named("sendfile")? {
            0 => return Err(Error::new("sendfile", Errno::NODATA)),
            sent => left -= sent,
        }
    }
    seal(&copy)?;
    Ok(copy)
}

/// Seals a memory file: neither its contents nor its size can change from now on.
///
/// # Errors
/// It was made without permission to seal, or a writable mapping of it exists.
pub fn seal(memory: impl AsFd) -> Result<()> {
    rustix::fs::fcntl_add_seals(memory, SEALS).named("fcntl(F_ADD_SEALS)")
}

/// A memory file that can be executed and sealed.
///
/// `MFD_EXEC` says so where the kernel knows it (Linux 6.3); older ones answer `EINVAL` and allow it anyway.
fn create_executable(name: &str) -> Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags).named("memfd_create"),
        result => result.named("memfd_create"),
    }
}

/// Executes the program in `file` in place of this one, with its arguments and environment; returns only on failure.
///
/// # Errors
/// Those of `execveat`.
pub fn execute_in_place(file: impl AsFd) -> Error {
    // They come from the kernel as NUL-terminated strings: none has a NUL inside.
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|text| CString::new(text.into_vec()).ok())
        .collect();
    crate::process::execute_fd(file.as_fd(), &args)
}

fn open_running_program() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .named("open(/proc/self/exe)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_running_program_is_copied_whole_and_sealed() {
        let copy = seal_running_program("test")
            .expect("a /proc")
            .expect("not sealed yet");
        assert!(is_sealed(&copy).expect("seals"));
        assert!(rustix::fs::fcntl_get_seals(&copy).expect("seals").contains(SEALS));
        let original = std::fs::read("/proc/self/exe").expect("read");
        let mut copied = Vec::new();
        rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0)).expect("rewound");
        std::fs::File::from(copy).read_to_end(&mut copied).expect("read");
        assert!(copied == original, "the copy differs");
    }
}
