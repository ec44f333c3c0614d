//! Hearing of the OOM killer: a descriptor that becomes readable when memory has run out in a cgroup.
//!
//! | version | how |
//! |---|---|
//! | 1 | an event counter, registered in `cgroup.event_control` for `memory.oom_control` |
//! | 2 | inotify on `memory.events`, whose `oom_kill` has grown |
//!
//! Both become readable as well when the cgroup goes away; that is no OOM.

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::file;
use crate::observe::Kind;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A watch on one cgroup.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    kind: Kind,
    /// The file that is watched.
    path: PathBuf,
    /// `oom_kill` when it was last looked at (version 2).
    seen: u64,
}

impl OomWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// The cgroup has no memory controller, or the watch cannot be made.
    pub fn new(cgroup: &Cgroup) -> Result<Self, Error> {
        let dir = cgroup.dir_of("memory").ok_or_else(|| Error::MissingController {
            controller: "memory".to_owned(),
            field: "the watch for OOM events",
        })?;
        match dir.kind {
            Kind::V1 => counter(&dir.path),
            Kind::V2 => inotify(&dir.path),
        }
    }

    /// Takes what has come in, without waiting; whether memory had run out since the last time.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn take(&mut self) -> Result<bool, Error> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.fd, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(failed(&self.path, errno)),
            Ok(_) => {}
        }
        match self.kind {
            Kind::V1 => Ok(self.path.exists()),
            Kind::V2 => {
                let now = kills(&self.path);
                Ok(std::mem::replace(&mut self.seen, now) < now)
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn counter(dir: &Path) -> Result<OomWatch, Error> {
    let path = dir.join("memory.oom_control");
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed(&path, e))?;
    // The kernel needs it only while the watch is registered.
    let control = File::open(&path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
    file::write(&dir.join("cgroup.event_control"), &line)?;
    Ok(OomWatch {
        fd,
        kind: Kind::V1,
        path,
        seen: 0,
    })
}

fn inotify(dir: &Path) -> Result<OomWatch, Error> {
    let path = dir.join("memory.events");
    let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| failed(&path, e))?;
    add_watch(&fd, &path, WatchFlags::MODIFY).map_err(|e| failed(&path, e))?;
    let seen = kills(&path);
    Ok(OomWatch {
        fd,
        kind: Kind::V2,
        path,
        seen,
    })
}

fn kills(events: &Path) -> u64 {
    let text = fs::read_to_string(events).unwrap_or_default();
    file::keyed(&text, "oom_kill").unwrap_or(0)
}

fn failed(path: &Path, errno: Errno) -> Error {
    Error::Read {
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Paths;

    #[test]
    fn a_growing_count_is_an_oom_and_any_other_change_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("memory.events");
        fs::write(&events, "oom 0\noom_kill 3\n").unwrap();
        let cgroup = Cgroup::from_paths(&Paths::from([(String::new(), dir.path().to_owned())]));
        let mut watch = OomWatch::new(&cgroup).unwrap();
        assert!(!watch.take().unwrap());
        fs::write(&events, "oom 1\noom_kill 3\n").unwrap();
        assert!(!watch.take().unwrap());
        fs::write(&events, "oom 1\noom_kill 4\n").unwrap();
        assert!(watch.take().unwrap());
        assert!(!watch.take().unwrap());
    }

    #[test]
    fn without_the_controller_there_is_nothing_to_watch() {
        assert!(matches!(
            OomWatch::new(&Cgroup::default()),
            Err(Error::MissingController { .. })
        ));
    }
}
