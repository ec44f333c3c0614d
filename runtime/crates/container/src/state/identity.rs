//! Who a process is: a pid alone may be a stranger's by now.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A process for as long as the machine is up: a pid is reused, the pair of pid and start time is not, and the
/// boot id tells one boot's from another's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `/proc/sys/kernel/random/boot_id` when it was seen.
    pub boot_id: String,
    /// Its pid in the runtime's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    pub start_time: u64,
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file under `/proc` could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A file under `/proc` reads unlike its format.
    #[error("cannot understand {path}")]
    Format {
        /// The file.
        path: String,
    },
    /// A pidfd could not be opened.
    #[error("cannot open a pidfd of process {pid}")]
    Pidfd {
        /// The process.
        pid: i32,
        /// The cause.
        source: io::Error,
    },
}

/// What `/proc/<pid>/stat` tells of a process.
struct Stat {
    /// One letter; `Z` and `X` are dead.
    state: u8,
    start_time: u64,
}

impl Identity {
    /// The identity of a process that is there now.
    ///
    /// # Errors
    /// If it is gone or `/proc` cannot be read.
    pub fn of(pid: i32) -> Result<Self, IdentityError> {
        let stat = stat(pid)?.ok_or_else(|| IdentityError::Read {
            path: format!("/proc/{pid}/stat"),
            source: io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()),
        })?;
        Ok(Self {
            boot_id: boot_id()?,
            pid,
            start_time: stat.start_time,
        })
    }

    /// Whether the process still runs: a zombie does not.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn is_alive(&self) -> Result<bool, IdentityError> {
        match stat(self.pid)? {
            Some(found) if found.start_time == self.start_time && !matches!(found.state, b'Z' | b'X') => {
                Ok(boot_id()? == self.boot_id)
            }
            _ => Ok(false),
        }
    }

    /// A pidfd of this very process, or `None` if it is gone. The identity is checked after the descriptor is
    /// open, so that the descriptor cannot be a stranger's.
    ///
    /// # Errors
    /// If `/proc` cannot be read or no pidfd can be opened.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, IdentityError> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(self.is_alive()?.then_some(fd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(IdentityError::Pidfd {
                pid: self.pid,
                source: errno.into(),
            }),
        }
    }
}

fn boot_id() -> Result<String, IdentityError> {
    let path = "/proc/sys/kernel/random/boot_id";
    match croze_sys::file::read_text(Path::new(path)) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(IdentityError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn stat(pid: i32) -> Result<Option<Stat>, IdentityError> {
    let path = format!("/proc/{pid}/stat");
    match croze_sys::file::read(Path::new(&path)) {
        Ok(line) => parse_stat(&line).map(Some).ok_or(IdentityError::Format { path }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process went away between open and read.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(source) => Err(IdentityError::Read { path, source }),
    }
}

/// The command's name, in parentheses, may itself hold spaces and parentheses: fields are counted after the last `)`.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // State is field 3, the start time field 22.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_command_is_called() {
        let tail = "S 1 2 3 0 -1 4194560 5 6 7 8 9 10 11 12 20 0 1 0 4711 99 100";
        for name in ["sh", "a b", "x) R 1 (", ")"] {
            let found = parse_stat(format!("42 ({name}) {tail}\n").as_bytes()).unwrap();
            assert_eq!((found.state, found.start_time), (b'S', 4711), "{name:?}");
        }
        assert!(parse_stat(b"42 sh S").is_none());
        assert!(parse_stat(b"42 (sh) S 1 2").is_none());
    }

    #[test]
    fn this_process_is_itself_and_no_other() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = Identity::of(pid).unwrap();
        assert!(me.is_alive().unwrap());
        assert!(me.pidfd().unwrap().is_some());
        let reused = Identity {
            start_time: me.start_time + 1,
            ..me.clone()
        };
        assert!(!reused.is_alive().unwrap());
        assert!(reused.pidfd().unwrap().is_none());
        let rebooted = Identity {
            boot_id: "00000000-0000-0000-0000-000000000000".into(),
            ..me
        };
        assert!(!rebooted.is_alive().unwrap());
    }
}
