//! Capabilities: names, sets, and the calling thread's five of them.

use std::fmt;

use crate::{Errno, Error, Result};

/// Every capability's name, in the order of the kernel's numbers (capabilities(7)); index 0 is `CAP_CHOWN`.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The highest capability that [`Set`] has a name for.
const LAST_NAMED: u32 = NAMES.len() as u32 - 1;

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// The capability of this name (`CAP_` may be missing, case does not matter), or `None` if it has no such.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| known.get(4..) == Some(bare))?;
        Some(Self(1 << number))
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every capability of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits, capability N as bit N.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The names of the capabilities in it, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(number, _)| self.0 >> number & 1 == 1)
            .map(|(_, name)| *name)
    }
}

impl FromIterator<Set> for Set {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        sets.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two halves.
const VERSION: u32 = 0x2008_0522;

/// The calling thread's own effective, permitted and inheritable set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// What the kernel checks.
    pub effective: Set,
    /// What can be made effective.
    pub permitted: Set,
    /// What an executed file may pass on.
    pub inheritable: Set,
}

/// Reads the calling thread's sets.
///
/// # Errors
/// None.
pub fn own() -> Result<Own> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout of this version, which the kernel fills in.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Error::check("capget", result)?;
    let join = |half: fn(&Data) -> u32| Set(u64::from(half(&data[0])) | u64::from(half(&data[1])) << 32);
    Ok(Own {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

/// Sets the calling thread's sets.
///
/// # Errors
/// `EPERM`: something is to be gained that is not permitted.
pub fn set_own(own: &Own) -> Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (own.effective.0 >> shift) as u32,
        permitted: (own.permitted.0 >> shift) as u32,
        inheritable: (own.inheritable.0 >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of this version.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Error::check("capset", result).map(drop)
}

/// Drops everything but `keep` from the bounding set.
///
/// What the kernel does not know (`EINVAL`) ends the list. Without `CAP_SETPCAP` it is no error if there is nothing to drop.
///
/// # Errors
/// `EPERM`: without `CAP_SETPCAP` something would have to be dropped.
pub fn limit_bounding(keep: Set) -> Result<()> {
    for number in 0..64_u32 {
        if keep.0 >> number & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number.into(), 0) {
            Ok(_) => {}
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) if matches!(prctl(libc::PR_CAPBSET_READ, number.into(), 0), Ok(0)) => {}
            Err(errno) => return Err(Error::new("prctl(PR_CAPBSET_DROP)", errno)),
        }
    }
    Ok(())
}

/// Replaces the ambient set by `set`, which must be permitted and inheritable.
///
/// # Errors
/// `EPERM`: a capability of it is not both.
pub fn set_ambient(set: Set) -> Result<()> {
    const CALL: &str = "prctl(PR_CAP_AMBIENT)";
    let ambient = |command: libc::c_int, number: u32| {
        prctl(libc::PR_CAP_AMBIENT, command as libc::c_ulong, number.into())
            .map_err(|errno| Error::new(CALL, errno))
    };
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for number in (0..=LAST_NAMED).filter(|number| set.0 >> number & 1 == 1) {
        ambient(libc::PR_CAP_AMBIENT_RAISE, number)?;
    }
    Ok(())
}

fn prctl(
    option: libc::c_int,
    first: libc::c_ulong,
    second: libc::c_ulong,
) -> std::result::Result<libc::c_int, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, first, second, zero, zero) };
    if result < 0 {
        Err(Error::last("prctl").errno)
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        let cases = [
            ("CAP_CHOWN", 0),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_SYS_RESOURCE", 24),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ];
        for (name, number) in cases {
            assert_eq!(Set::named(name).map(Set::bits), Some(1 << number), "{name}");
        }
        assert_eq!(Set::named("sys_admin"), Set::named("CAP_SYS_ADMIN"));
        assert_eq!(Set::named("CAP_WORLD_PEACE"), None);
        assert_eq!(Set::named(""), None);
    }

    #[test]
    fn a_set_lists_its_names() {
        let set: Set = ["CAP_KILL", "CAP_CHOWN"]
            .into_iter()
            .filter_map(Set::named)
            .collect();
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(format!("{set:?}"), r#"{"CAP_CHOWN", "CAP_KILL"}"#);
    }

    #[test]
    fn effective_is_within_permitted() {
        let own = own().expect("capget");
        assert!(own.permitted.contains(own.effective));
    }
}
