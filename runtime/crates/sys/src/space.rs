//! How full a file system is, in words that a user can act on.
//!
//! A full disk is reported by the call that met it as ENOSPC or EDQUOT, which names neither the file system nor what it lacks: bytes and
//! inodes run out separately.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Less than this is no room for anything: a file system at its brim keeps a few blocks for itself.
const BRIM_BYTES: u64 = 64 * 1024;
/// A request that fails for want of inodes gives back the few that it had made.
const BRIM_INODES: u64 = 16;

/// The file system that something is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Where it is mounted, as seen from here.
    pub mounted_at: PathBuf,
    /// Bytes that may still be written by an unprivileged user.
    pub free_bytes: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes that may still be made.
    pub free_inodes: u64,
    /// Inodes in all; 0: the file system makes them as it needs them.
    pub inodes: u64,
}

impl Space {
    /// Looks at the file system of `path`, or of the nearest directory above it that exists. `None` if not even that can be looked at.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let there = path
            .ancestors()
            .find(|ancestor| ancestor.symlink_metadata().is_ok())?;
        let stat = rustix::fs::statvfs(there).ok()?;
        Some(Self {
            mounted_at: mount_point(there),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_inodes: stat.f_favail,
            inodes: stat.f_files,
        })
    }

    /// Whether next to nothing can be written to it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free_bytes < BRIM_BYTES || (self.inodes > 0 && self.free_inodes < BRIM_INODES)
    }

    /// What to tell a user whose request met ENOSPC or EDQUOT at `path`.
    #[must_use]
    pub fn advice(path: &Path) -> String {
        match Self::of(path) {
            Some(space) => format!("{space}: free some space there and try again"),
            None => format!(
                "free some space on the file system of {} and try again",
                path.display()
            ),
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_full() { "is full" } else { "is too full" };
        write!(
            f,
            "the file system at {} {verdict}: {} of {} free",
            self.mounted_at.display(),
            Bytes(self.free_bytes),
            Bytes(self.bytes)
        )?;
        if self.inodes > 0 {
            write!(f, ", {} of {} inodes free", self.free_inodes, self.inodes)?;
        }
        Ok(())
    }
}

/// A number of bytes in the largest binary unit that it fills.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.into_iter().find(|(_, shift)| self.0 >= 1 << shift) {
            Some((unit, shift)) => {
                // Tenths, in integers: a float would need a cast that loses bits.
                let tenths = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

/// The topmost directory above `path` that is on the same file system.
fn mount_point(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let device = |path: &Path| path.symlink_metadata().map(|metadata| metadata.dev()).ok();
    let own = device(&path);
    path.ancestors()
        .take_while(|ancestor| device(ancestor) == own)
        .last()
        .unwrap_or(&path)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_told_by_where_it_is_mounted_and_what_is_left() {
        let space = Space {
            mounted_at: "/data".into(),
            free_bytes: 1536,
            bytes: 64 << 20,
            free_inodes: 3,
            inodes: 1000,
        };
        assert!(space.is_full());
        assert_eq!(
            space.to_string(),
            "the file system at /data is full: 1.5 KiB of 64.0 MiB free, 3 of 1000 inodes free"
        );
        let without_inodes = Space {
            free_bytes: 5 << 30,
            inodes: 0,
            ..space
        };
        assert!(!without_inodes.is_full());
        assert_eq!(
            without_inodes.to_string(),
            "the file system at /data is too full: 5.0 GiB of 64.0 MiB free"
        );
    }

    #[test]
    fn what_is_not_there_is_looked_for_above() {
        let space = Space::of(Path::new("/proc/self/nothing/like/this")).unwrap();
        assert_eq!(space.mounted_at, Path::new("/proc"));
    }
}
