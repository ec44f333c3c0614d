//! Sealed memory files: contents that nobody can change any more, the running program among them.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::error::Named;
use crate::{Errno, Error, Result};

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Whether the program that runs is a sealed copy.
///
/// # Errors
/// There is no `/proc`.
pub fn is_running_sealed() -> Result<bool> {
    let program = open_running_program()?;
    match rustix::fs::fcntl_get_seals(&program) {
        Ok(seals) => Ok(seals.contains(SEALS)),
        // Not a memory file at all.
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(Error::new("fcntl(F_GET_SEALS)", errno)),
    }
}

/// Copies the running program into a sealed memory file, to be executed in its place.
///
/// # Errors
/// No memory, or no `/proc`.
pub fn seal_running_program(name: &str) -> Result<OwnedFd> {
    let program = open_running_program()?;
    let copy = create_executable(name)?;
    let size = rustix::fs::fstat(&program).named("fstat")?.st_size as usize;
    let mut left = size;
    while left > 0 {
        match rustix::fs::sendfile(&copy, &program, None, left).named("sendfile")? {
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

/// Executes the program in `file` in place of this one; returns only on failure.
///
/// # Errors
/// Those of `execveat`.
pub fn execute(file: impl AsFd, args: &[CString], env: &[CString]) -> Error {
    crate::process::execute_fd(file.as_fd(), args, env)
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
        assert!(!is_running_sealed().expect("a /proc"));
        let copy = seal_running_program("test").expect("sealed");
        assert!(rustix::fs::fcntl_get_seals(&copy).expect("seals").contains(SEALS));
        let original = std::fs::read("/proc/self/exe").expect("read");
        let mut copied = Vec::new();
        rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0)).expect("rewound");
        std::fs::File::from(copy).read_to_end(&mut copied).expect("read");
        assert!(copied == original, "the copy differs");
    }
}
