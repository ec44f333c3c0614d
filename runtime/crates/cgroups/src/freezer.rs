//! Freezing and thawing every process of a cgroup.
//!
//! The freezer controller of version 1 is used where it is (it is the one that shows in the container's own
//! hierarchy), else `cgroup.freeze` of version 2. Version 2 tells by an event on `cgroup.events` when all are
//! frozen. Version 1 tells nobody: its state is read again after short pauses, and written again, because a
//! process that forks while it is being frozen can leave the state at `FREEZING`.

use crate::cgroup::{Cgroup, Dir};
use crate::error::Error;
use crate::file;
use crate::observe::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

impl Cgroup {
    /// Freezes every process and waits until all of them are.
    ///
    /// # Errors
    /// [`Error::Deadline`] if some are not frozen in time; they are thawed again then. [`Error::NoFreezer`] if
    /// there is none.
    pub fn freeze(&self, within: Duration) -> Result<(), Error> {
        let dir = self.freezer()?;
        let frozen = match dir.kind {
            Kind::V1 => freeze_v1(&dir.path, within)?,
            Kind::V2 => {
                file::write(&dir.path.join("cgroup.freeze"), "1")?;
                wait_event(&dir.path, "frozen", 1, within)?
            }
        };
        if frozen {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::Deadline {
            path: dir.path.clone(),
            state: "frozen",
            after: within,
        })
    }

    /// Lets every process run again.
    ///
    /// # Errors
    /// If the freezer's file cannot be written, or there is none.
    pub fn thaw(&self) -> Result<(), Error> {
        let dir = self.freezer()?;
        match dir.kind {
            Kind::V1 => file::write(&dir.path.join("freezer.state"), "THAWED"),
            Kind::V2 => file::write(&dir.path.join("cgroup.freeze"), "0"),
        }
    }

    /// Whether the cgroup is frozen (or about to be). Without a freezer, or without the cgroup, it is not.
    ///
    /// # Errors
    /// If the freezer's file cannot be read though it is there.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let Ok(dir) = self.freezer() else { return Ok(false) };
        let (name, thawed) = match dir.kind {
            Kind::V1 => ("freezer.state", "THAWED"),
            Kind::V2 => ("cgroup.freeze", "0"),
        };
        match file::read(&dir.path.join(name)) {
            Ok(text) => Ok(text.trim() != thawed),
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
            // The cgroup went away between open and read.
            Err(Error::Read { source, .. })
                if source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn freezer(&self) -> Result<&Dir, Error> {
        self.dir_of("freezer").ok_or(Error::NoFreezer)
    }
}

fn freeze_v1(dir: &Path, within: Duration) -> Result<bool, Error> {
    let path = dir.join("freezer.state");
    let end = Instant::now() + within;
    loop {
        file::write(&path, "FROZEN")?;
        if file::read(&path)?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        pause(Duration::from_millis(1));
    }
}

/// Waits until `key` has `value` in `cgroup.events`; `false` when the time is over first.
pub(crate) fn wait_event(dir: &Path, key: &str, value: u64, within: Duration) -> Result<bool, Error> {
    let path = dir.join("cgroup.events");
    let end = Instant::now() + within;
    let fail = |source| Error::Read {
        path: path.clone(),
        source,
    };
    let events = File::open(&path).map_err(fail)?;
    loop {
        // Reading from the start arms the event again, so a change between the read and the poll is not missed.
        let text = read_from_start(&events).map_err(fail)?;
        if file::keyed(&text, key) == Some(value) {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
}

fn read_from_start(mut file: &File) -> std::io::Result<String> {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// A pause where the kernel offers no event to wait for.
pub(crate) fn pause(time: Duration) {
    // A signal may end it early, which only means looking again sooner.
    poll(&mut [], Some(&timespec(time))).ok();
}

pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
