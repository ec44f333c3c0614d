//! Kills a process at the n-th change of the file system below some directories: so each step between two changes is cut, one after the other.
//!
//! A change is a name that appears, goes or is moved. The signal is sent within microseconds of it, which is less than what follows takes: a sync
//! at least.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a look for changes lasts before the trap looks whether it is still wanted.
const LOOK_MS: u8 = 50;

/// An armed trap; it is disarmed with this value.
#[derive(Debug)]
pub(crate) struct Trap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: AtomicUsize,
    sprung: AtomicBool,
    stop: AtomicBool,
}

impl Trap {
    /// Sends `signal` to `victim` at the `nth` change below `directories`.
    pub(crate) fn arm(directories: &[&Path], nth: usize, victim: i32, signal: Signal) -> Result<Self> {
        let mut watch = Watch {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            paths: HashMap::new(),
        };
        for directory in directories {
            watch.add(directory)?;
        }
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("trap".to_owned())
            .spawn(move || {
                while !ours.stop.load(Ordering::SeqCst) && !ours.sprung.load(Ordering::SeqCst) {
                    watch.look(&ours, nth, victim, signal);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Takes it away; says whether it has sent the signal. After this it does not.
    pub(crate) fn disarm(mut self) -> bool {
        self.end();
        self.shared.sprung.load(Ordering::SeqCst)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.end();
    }
}

struct Watch {
    inotify: Inotify,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

impl Watch {
    fn add(&mut self, directory: &Path) -> Result<()> {
        // The trees of layers are many and say nothing; the index is not truth.
        let name = directory.file_name().unwrap_or_default();
        if name == "fs" || name == "index" || name == "upper" || name == "work" {
            return Ok(());
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self
            .inotify
            .add_watch(directory, flags)
            .with_context(|| format!("watching {}", directory.display()))?;
        self.paths.insert(descriptor, directory.to_owned());
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // It may be gone again.
                self.add(&entry.path()).ok();
            }
        }
        Ok(())
    }

    fn look(&mut self, shared: &Shared, nth: usize, victim: i32, signal: Signal) {
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(LOOK_MS)) != Ok(1) {
            return;
        }
        for event in self.inotify.read_events().unwrap_or_default() {
            let Some(name) = event.name else { continue };
            let seen = shared.seen.fetch_add(1, Ordering::SeqCst) + 1;
            if seen == nth {
                kill(Pid::from_raw(victim), signal).ok();
                shared.sprung.store(true, Ordering::SeqCst);
                return;
            }
            if event.mask.contains(AddWatchFlags::IN_CREATE)
                && let Some(parent) = self.paths.get(&event.wd).cloned()
            {
                // Most are files; a directory may be gone again.
                self.add(&parent.join(&name)).ok();
            }
        }
    }
}
