//! Looking and making things inside a root file system that nobody trusts: everything is resolved beneath it by openat2(2), and sizes are bounded.

use std::fs::File;
use std::io::{Read as _, Take};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat2};
use rustix::io::Errno;

use super::user::Accounts;
use crate::error::ContainersError;

/// More than this of an account file is not read.
const ACCOUNT_FILE_MAX: u64 = 4 * 1024 * 1024;
/// Symbolic links stay inside; magic ones (`/proc/PID/fd`) are refused.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// The account files of a root file system; one that is missing is empty.
pub(crate) fn accounts(rootfs: &Path) -> Result<Accounts, ContainersError> {
    let root = open_root(rootfs)?;
    Ok(Accounts {
        passwd: read_text(&root, "etc/passwd"),
        group: read_text(&root, "etc/group"),
    })
}

/// Makes a directory and its missing parents inside the root file system, with mode 0755. What exists stays as it is.
pub(crate) fn create_dir(rootfs: &Path, dir: &str) -> Result<(), ContainersError> {
    let failed = |errno: Errno| ContainersError::File {
        call: "create the working directory",
        path: rootfs.join(dir.trim_start_matches('/')),
        source: errno.into(),
    };
    let root = open_root(rootfs)?;
    let mut done = String::new();
    for part in dir.split('/').filter(|p| !p.is_empty()) {
        let parent = open_dir(&root, &done).map_err(failed)?;
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(part);
        match open_dir(&root, &done) {
            Ok(_) => {}
            Err(Errno::NOENT) => match mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            },
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

fn open_root(rootfs: &Path) -> Result<OwnedFd, ContainersError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, rootfs, flags, Mode::empty(), ResolveFlags::empty()).map_err(|e| ContainersError::File {
        call: "open root file system",
        path: rootfs.into(),
        source: e.into(),
    })
}

fn open_dir(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        INSIDE,
    )
}

/// A regular file's text; empty if it is missing, no regular file, too long or not to be read.
fn read_text(root: &OwnedFd, path: &str) -> String {
    // A container can put a device there, and opening one may act on the host (a watchdog starts, a tape rewinds): so first it is only looked at.
    let Ok(place) = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE) else {
        return String::new();
    };
    let regular = fstat(&place).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
    if !regular {
        return String::new();
    }
    // The very inode that was looked at; the link leads nowhere else.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let same = format!("/proc/self/fd/{}", place.as_raw_fd());
    let Ok(fd) = open(same, flags, Mode::empty()) else {
        return String::new();
    };
    let file = File::from(fd);
    let short = file.metadata().is_ok_and(|m| m.len() <= ACCOUNT_FILE_MAX);
    let mut bytes = Vec::new();
    let mut bounded: Take<File> = file.take(ACCOUNT_FILE_MAX);
    if !short || bounded.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_cannot_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("passwd"), "secret").unwrap();
        symlink(outside.join("passwd"), root.join("etc/passwd")).unwrap();
        symlink("../../../../../../etc/real", root.join("etc/group")).unwrap();
        std::fs::write(root.join("etc/real"), "inside").unwrap();
        let found = accounts(&root).unwrap();
        assert_eq!(
            found,
            Accounts {
                passwd: String::new(),
                group: "inside".into()
            }
        );

        symlink(&outside, root.join("link")).unwrap();
        assert!(
            create_dir(&root, "/link/made").is_err(),
            "its target does not exist inside"
        );
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        create_dir(&root, "/a/b/c").unwrap();
        create_dir(&root, "/a/b/c").unwrap();
        assert!(root.join("a/b/c").is_dir());
    }

    #[test]
    fn what_is_no_regular_file_is_not_even_opened() {
        use rustix::fs::inotify;
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(etc.join("group"), "real").unwrap();
        rustix::fs::mkfifoat(CWD, etc.join("passwd"), Mode::from_raw_mode(0o666)).unwrap();
        let seen = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&seen, etc.join("passwd"), inotify::WatchFlags::OPEN).unwrap();
        let found = accounts(dir.path()).unwrap();
        assert_eq!((found.passwd.as_str(), found.group.as_str()), ("", "real"));
        let event = rustix::io::read(&seen, &mut [0u8; 512]);
        assert_eq!(event, Err(Errno::AGAIN), "the fifo was opened");
        // A link that leads to an open descriptor instead of a file.
        std::fs::remove_file(etc.join("group")).unwrap();
        symlink("/proc/self/fd/0", etc.join("group")).unwrap();
        assert_eq!(accounts(dir.path()).unwrap().group, "");
    }
}
