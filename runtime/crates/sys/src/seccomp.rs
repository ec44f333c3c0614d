//! Loading a seccomp filter into the calling thread.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::{Errno, Error, Result};

/// One instruction of a classic BPF program.
pub use libc::sock_filter as Instruction;

/// Hand out a descriptor of notifications ([`load`] returns it).
pub const NEW_LISTENER: u64 = 1 << 3;

/// Load it into every thread of the process.
const TSYNC: u64 = 1;

/// Loads `program`; from the next system call on it decides.
///
/// `flags` are the kernel's `SECCOMP_FILTER_FLAG_*`; with [`NEW_LISTENER`] among them the descriptor of the notifications is
/// returned.
///
/// # Errors
/// `EACCES`: neither no_new_privs nor `CAP_SYS_ADMIN`; `EINVAL`: the program is not valid or longer than 4096
/// instructions, a flag is not known, or both a listener and all threads are asked for (what is returned could then be either); `EBUSY`:
/// there is a listener already; `ESRCH`: a thread has another filter, and none was loaded.
pub fn load(program: &[Instruction], flags: u64) -> Result<Option<OwnedFd>> {
    if flags & NEW_LISTENER != 0 && flags & TSYNC != 0 {
        return Err(Error::new("seccomp", Errno::INVAL));
    }
    let length = u16::try_from(program.len()).map_err(|_| Error::new("seccomp", Errno::INVAL))?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes a slice that outlives the call; the kernel copies it and writes nothing there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    let result = Error::check("seccomp", result)?;
    if flags & NEW_LISTENER == 0 {
        // With TSYNC: the id of a thread that could not take the filter, and no thread has.
        return if result == 0 {
            Ok(None)
        } else {
            Err(Error::new("seccomp(TSYNC)", Errno::SRCH))
        };
    }
    // SAFETY: with NEW_LISTENER the kernel returns a new descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
