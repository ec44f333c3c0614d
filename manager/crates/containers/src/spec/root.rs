//! Looking and making things inside a root file system that nobody trusts: everything is resolved beneath it by openat2(2), and sizes are bounded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Take};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat2, readlinkat};
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

/// How many symbolic links to what is not there are followed on the way to a directory, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Makes a directory and its missing parents inside the root file system, with mode 0755. What exists stays as it is; a link whose target is missing
/// is followed, and its target made.
pub(crate) fn create_dir(rootfs: &Path, dir: &str) -> Result<(), ContainersError> {
    let failed = |errno: Errno| ContainersError::File {
        call: "create the working directory",
        path: rootfs.join(dir.trim_start_matches('/')),
        source: errno.into(),
    };
    let root = open_root(rootfs)?;
    let mut todo: VecDeque<String> = parts(dir).collect();
    let mut done = String::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        let parent = open_dir(&root, &done).map_err(failed)?;
        let next = if done.is_empty() {
            part.clone()
        } else {
            format!("{done}/{part}")
        };
        match open_dir(&root, &next) {
            Ok(_) => done = next,
            Err(Errno::NOENT) => match mkdirat(&parent, part.as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => done = next,
                // Somebody has made it meanwhile, or it is a link that leads to nothing yet.
                Err(Errno::EXIST) => match readlinkat(&parent, part.as_str(), Vec::new()) {
                    Ok(_) if links == LINKS_MAX => return Err(failed(Errno::LOOP)),
                    Ok(target) => {
                        links += 1;
                        let target = target.to_string_lossy();
                        if target.starts_with('/') {
                            done.clear();
                        }
                        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                            todo.push_front(part);
                        }
                    }
                    Err(Errno::INVAL) => done = next,
                    Err(errno) => return Err(failed(errno)),
                },
                Err(errno) => return Err(failed(errno)),
            },
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

fn parts(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned)
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
        create_dir(&root, "/link/made").unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        let inside = root.join(outside.strip_prefix("/").unwrap());
        assert!(inside.join("made").is_dir(), "its target is made inside");
    }

    #[test]
    fn what_is_missing_is_made_also_where_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        create_dir(root, "/a/b/c").unwrap();
        create_dir(root, "/a/b/c").unwrap();
        symlink("../data/./deep", root.join("a/up")).unwrap();
        symlink("/a/up/more", root.join("first")).unwrap();
        create_dir(root, "/first/work").unwrap();
        symlink("round", root.join("trip")).unwrap();
        symlink("trip", root.join("round")).unwrap();
        create_dir(root, "/trip").unwrap_err();
        std::fs::write(root.join("file"), "x").unwrap();
        symlink("file", root.join("to-file")).unwrap();
        create_dir(root, "/to-file/work").unwrap_err();
        for made in ["a/b/c", "data/deep/more/work"] {
            assert!(root.join(made).is_dir(), "{made}");
        }
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
