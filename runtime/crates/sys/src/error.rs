//! The one error of this crate: which call failed, and how.

use std::fmt;

/// An error number of the kernel.
pub use rustix::io::Errno;

/// A failed system call.
///
/// It names the call, not the object: the caller knows which path or process it was about and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// The system call (or the file read in its place); empty if what was being done says it already.
    pub call: &'static str,
    /// Why it failed.
    pub errno: Errno,
}

/// The result of a system call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `call` failed with `errno`.
    pub const fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno }
    }

    /// `call` failed just now, through libc.
    pub(crate) fn last(call: &'static str) -> Self {
        let raw = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        Self {
            call,
            errno: Errno::from_raw_os_error(raw),
        }
    }

    /// Turns libc's `-1` into an error of `call`.
    pub(crate) fn check(call: &'static str, result: libc::c_long) -> Result<libc::c_long> {
        if result < 0 {
            Err(Self::last(call))
        } else {
            Ok(result)
        }
    }

    /// Whether the kernel (or a filter in front of it) does not know the call.
    pub fn is_missing(&self) -> bool {
        self.errno == Errno::NOSYS
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.call {
            "" => f.write_str(&describe(self.errno)),
            call => write!(f, "{call}: {}", describe(self.errno)),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno.raw_os_error())
    }
}

/// The C library's words for an error number, in lower case as the rest of our messages are.
fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    // The standard library appends " (os error N)": the number says nothing to a reader who has the words.
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().collect::<String>() + chars.as_str(),
        None => text,
    }
}

/// Names the call in an error of `rustix`.
pub(crate) trait Named<T> {
    fn named(self, call: &'static str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, Errno> {
    fn named(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| Error::new(call, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_call_and_says_why_in_lower_case() {
        assert_eq!(
            Error::new("openat2", Errno::NOENT).to_string(),
            "openat2: no such file or directory"
        );
        assert_eq!(Error::new("", Errno::ACCESS).to_string(), "permission denied");
        assert!(Error::new("clone3", Errno::NOSYS).is_missing());
    }
}
