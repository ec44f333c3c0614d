//! Session keyrings.

use std::ffi::CStr;

use crate::{Error, Result};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
/// Stands for the caller's session keyring.
const KEY_SPEC_SESSION_KEYRING: i32 = -3;
const KEYCTL_DESCRIBE: libc::c_int = 6;
const KEYCTL_SETPERM: libc::c_int = 5;

/// Gives the calling process the session keyring of this name, made if there is none that it may search, and returns its id.
///
/// # Errors
/// `ENOSYS`: the kernel has no keyrings; `EDQUOT`: too many keys.
pub fn join_new_session(name: &CStr) -> Result<i32> {
    // SAFETY: the name is NUL-terminated and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    match Error::check("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", result)? {
        // The process has that very keyring already.
        0 => Ok(KEY_SPEC_SESSION_KEYRING),
        id => Ok(id as i32),
    }
}

/// Adds the owner's right to search and change the keyring, so that a process of another user in the session can use it.
///
/// # Errors
/// `EACCES`: the keyring is not the caller's.
pub fn allow_owner(keyring: i32) -> Result<()> {
    /// All that the owner can be permitted (`KEY_USR_ALL`).
    const OWNER_ALL: u32 = 0x003f_0000;
    let permissions = permissions(keyring)? | OWNER_ALL;
    // SAFETY: the call takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, keyring, permissions) };
    Error::check("keyctl(KEYCTL_SETPERM)", result).map(drop)
}

/// `type;uid;gid;permissions;description`, the permissions in hexadecimal.
fn permissions(keyring: i32) -> Result<u32> {
    const CALL: &str = "keyctl(KEYCTL_DESCRIBE)";
    let mut buffer = [0_u8; 256];
    // SAFETY: the buffer is as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            keyring,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    Error::check(CALL, result)?;
    let malformed = Error::new(CALL, crate::Errno::BADMSG);
    let text = CStr::from_bytes_until_nul(&buffer)
        .ok()
        .and_then(|text| text.to_str().ok())
        .ok_or(malformed)?;
    let field = text.split(';').nth(3).ok_or(malformed)?;
    u32::from_str_radix(field, 16).map_err(|_| malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knows_the_name_joins_the_same_keyring() {
        let name = std::ffi::CString::new(format!("croze-test-{}", std::process::id())).expect("no NUL");
        let join = || match join_new_session(&name) {
            Err(error) if error.is_missing() => None,
            result => Some(result.expect("a keyring")),
        };
        // Each thread has a session keyring of its own; the first one keeps the keyring there while the second one looks for it.
        std::thread::scope(|scope| {
            let (tell, hear) = std::sync::mpsc::channel();
            let (end, wait) = std::sync::mpsc::channel::<()>();
            let join = &join;
            scope.spawn(move || {
                let id = join();
                if let Some(id) = id {
                    allow_owner(id).expect("it is ours");
                    assert_eq!(join(), Some(KEY_SPEC_SESSION_KEYRING), "joined once more");
                }
                tell.send(id).expect("heard");
                wait.recv().ok();
            });
            let first = hear.recv().expect("told");
            let second = scope.spawn(join).join().expect("ended");
            drop(end);
            assert_eq!(first, second);
        });
    }
}
