//! The calling process: credentials, `prctl`, limits, `execve`; and who a pid is.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::{Gid, Uid};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// Replaces the program; returns only on failure.
///
/// # Errors
/// Those of `execve`.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the path and both arrays are NUL-terminated and outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Error::last("execve")
}

unsafe extern "C" {
    /// The environment, environ(7): kept up to date by the C library, and by the standard library through it.
    static environ: *const *const libc::c_char;
}

/// As [`execute`], the program given as a descriptor, with the environment of this one as it is: copying a long one costs as much as the
/// rest of a short program's start.
pub(crate) fn execute_fd(file: BorrowedFd<'_>, args: &[CString]) -> Error {
    let args = pointers(args);
    // SAFETY: the variable is read, not referred to; only programs with one thread come here, so nobody changes it meanwhile.
    let env = unsafe { environ };
    // SAFETY: the path is an empty string, both arrays are NUL-terminated and outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env,
            libc::AT_EMPTY_PATH,
        )
    };
    Error::last("execveat")
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Ends the process at once: no destructor and no `atexit` function runs. For the child of a clone.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: nothing of this process is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Makes the process (un)traceable and its `/proc` directory root's; `execve` sets it anew.
///
/// # Errors
/// None.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl("prctl(PR_SET_DUMPABLE)", libc::PR_SET_DUMPABLE, dumpable.into())
}

/// No later `execve` can gain privileges. Cannot be undone.
///
/// # Errors
/// None.
pub fn set_no_new_privileges() -> Result<()> {
    prctl("prctl(PR_SET_NO_NEW_PRIVS)", libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Makes the process the reaper of its orphaned descendants, or not any more.
///
/// # Errors
/// None.
pub fn set_child_subreaper(reaper: bool) -> Result<()> {
    prctl(
        "prctl(PR_SET_CHILD_SUBREAPER)",
        libc::PR_SET_CHILD_SUBREAPER,
        reaper.into(),
    )
}

/// Keeps the permitted capabilities over the next change of user id.
///
/// # Errors
/// The securebits forbid it.
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    prctl("prctl(PR_SET_KEEPCAPS)", libc::PR_SET_KEEPCAPS, keep.into())
}

fn prctl(call: &'static str, option: libc::c_int, value: libc::c_ulong) -> Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, value, zero, zero, zero) };
    Error::check(call, result.into()).map(drop)
}

/// Sets the supplementary groups of the calling thread.
///
/// # Errors
/// `EPERM`, also in a user namespace whose `setgroups` is denied; `EINVAL`: a group without a mapping, or too many.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the pointer and the length describe `groups`.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Error::check("setgroups", result).map(drop)
}

/// Sets the real, effective and saved group id of the calling thread.
///
/// # Errors
/// `EPERM`; `EINVAL`: the id has no mapping in this user namespace.
pub fn set_group(gid: u32) -> Result<()> {
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).named("setresgid")
}

/// Sets the real, effective and saved user id of the calling thread.
///
/// # Errors
/// `EPERM`; `EINVAL`: the id has no mapping in this user namespace.
pub fn set_user(uid: u32) -> Result<()> {
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).named("setresuid")
}

/// Sets one resource limit of a process; `resource` is the kernel's `RLIMIT_*` number.
///
/// # Errors
/// `EPERM`: above the hard limit; `EINVAL`: the soft limit above the hard one.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: `limit` outlives the call, and the old limit is not asked for.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) };
    Error::check("prlimit64", result).map(drop)
}

/// The calling process's soft and hard limit of a resource.
///
/// # Errors
/// There is no such limit.
pub fn limit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new: *const libc::rlimit64 = std::ptr::null();
    // SAFETY: `limit` outlives the call, and no new limit is set.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut limit) };
    Error::check("prlimit64", result)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets the execution domain; `persona` is a `PER_*` value with its flags.
///
/// # Errors
/// A filter forbids it.
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: personality takes an integer.
    let result = unsafe { libc::personality(persona) };
    Error::check("personality", result.into()).map(drop)
}

/// Who a process is, beside its pid: fields of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The state letter: `R`, `S`, `D`, `Z` (ended, not reaped), `X`, `T`, …
    pub state: u8,
    /// The parent's pid.
    pub parent: i32,
    /// When it started, in clock ticks after boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether the process has ended, reaped or not.
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads who `pid` is.
///
/// # Errors
/// `ENOENT` or `ESRCH`: there is no such process.
pub fn stat(pid: i32) -> Result<Stat> {
    const CALL: &str = "read(/proc/PID/stat)";
    let mut buffer = [0_u8; 1024];
    let length =
        read_small(&format!("/proc/{pid}/stat"), &mut buffer).map_err(|errno| Error::new(CALL, errno))?;
    parse_stat(&buffer[..length]).ok_or(Error::new(CALL, Errno::BADMSG))
}

/// The second field is the program's name in parentheses and may itself contain spaces and parentheses: the rest begins
/// after the last one.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 2..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of proc(5); the state was field 3, the parent field 4.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        start_time,
    })
}

/// The id of this boot, as the kernel writes it (36 characters).
///
/// # Errors
/// There is no `/proc`.
pub fn boot_id() -> Result<String> {
    const CALL: &str = "read(/proc/sys/kernel/random/boot_id)";
    let mut buffer = [0_u8; 64];
    let length = read_small("/proc/sys/kernel/random/boot_id", &mut buffer)
        .map_err(|errno| Error::new(CALL, errno))?;
    let text = std::str::from_utf8(&buffer[..length]).map_err(|_| Error::new(CALL, Errno::BADMSG))?;
    Ok(text.trim_end().to_owned())
}

fn read_small(path: &str, buffer: &mut [u8]) -> std::result::Result<usize, Errno> {
    let as_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = std::fs::File::open(path).map_err(as_errno)?;
    let mut length = 0;
    loop {
        match file.read(&mut buffer[length..]).map_err(as_errno)? {
            0 => return Ok(length),
            read => length += read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse_the_fields() {
        let line = b"42 (a) b (c)) S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5555 1000 2";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                state: b'S',
                parent: 7,
                start_time: 5555
            })
        );
        assert_eq!(parse_stat(b"42 (cut"), None);
        assert_eq!(parse_stat(b"42 (cut) S 7 1"), None);
    }

    #[test]
    fn this_process_is_alive_and_the_boot_has_an_id() {
        let own = stat(std::process::id() as i32).expect("alive");
        assert!(!own.has_ended());
        assert!(own.start_time > 0);
        assert_eq!(boot_id().expect("a /proc").len(), 36);
    }

    #[test]
    fn a_pid_that_nobody_has_is_not_found() {
        assert_eq!(stat(i32::MAX).expect_err("no such pid").errno, Errno::NOENT);
    }
}
