//! Hearing at once when somebody takes away what is ours: rules (`nft flush ruleset`, a restarted firewall), the bridge, a port proxy.
//!
//! ```text
//!   nf_tables' notifications ──┐
//!   notifications of interfaces ┼──▶ one thread ──▶ Event
//!   a pidfd for each proxy ────┘        ▲
//!                                       └── a pipe: a byte wakes it, its end ends it
//! ```
//!
//! What takes something out of our table, and was not done by our own socket, calls for a look at the whole table; a notification that was lost
//! (`ENOBUFS`) does so, too.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use croze_model::ContainerId;
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;

use crate::error::NetworkError;
use crate::netlink::{Family, Socket, filter, route};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Something may have been taken out of the rules.
    Rules,
    /// The bridge may be gone.
    Bridge,
    /// The port proxy of this container ended.
    Proxy(ContainerId),
}

/// Processes whose end is waited for.
type Guarded = Arc<Mutex<BTreeMap<ContainerId, Arc<OwnedFd>>>>;

fn lock(guarded: &Guarded) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<OwnedFd>>> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Watch {
    guarded: Guarded,
    /// The thread ends when this closes.
    wake: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Tells of what is done to the bridge of this name and its table, by another socket than that of `own_port`, and of the ends of proxies.
    pub(crate) fn start(
        name: String,
        own_port: u32,
        tell: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, NetworkError> {
        let failed = |source: io::Error| NetworkError::Kernel {
            what: "watch the packet filter".into(),
            source,
        };
        let guarded = Guarded::default();
        let (woken, wake) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let watcher = Watcher {
            rules: Socket::open_in_groups(Family::Filter, filter::CHANGES)?,
            links: Socket::open_in_groups(Family::Route, route::LINK_CHANGES)?,
            woken,
            name,
            own_port,
            guarded: Arc::clone(&guarded),
        };
        let thread = std::thread::Builder::new()
            .name("net-watch".into())
            .spawn(move || watcher.run(tell))
            .map_err(failed)?;
        Ok(Self {
            guarded,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Waits for the end of a process, too.
    pub(crate) fn guard(&self, id: &ContainerId, process: Arc<OwnedFd>) {
        lock(&self.guarded).insert(id.clone(), process);
        self.wake();
    }

    /// Does so no more.
    pub(crate) fn unguard(&self, id: &ContainerId) {
        if lock(&self.guarded).remove(id).is_some() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A full pipe wakes it as well.
            let _is_full = rustix::io::write(wake, &[1]);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            // It may be the thread itself that lets go of the last reference.
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

struct Watcher {
    rules: Socket,
    links: Socket,
    woken: OwnedFd,
    name: String,
    own_port: u32,
    guarded: Guarded,
}

impl Watcher {
    fn run(&self, tell: impl Fn(Event)) {
        loop {
            let guarded: Vec<_> = lock(&self.guarded)
                .iter()
                .map(|(id, fd)| (id.clone(), Arc::clone(fd)))
                .collect();
            let (rules, links) = (self.rules.as_fd(), self.links.as_fd());
            let mut fds = vec![
                PollFd::new(&self.woken, PollFlags::IN),
                PollFd::new(&rules, PollFlags::IN),
                PollFd::new(&links, PollFlags::IN),
            ];
            fds.extend(
                guarded
                    .iter()
                    .map(|(_, fd)| PollFd::new(fd.as_ref(), PollFlags::IN)),
            );
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "packet filter, bridge and port proxies are no longer watched");
                    return;
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] && self.is_over() {
                return;
            }
            if ready[1] && self.rules_changed() {
                tell(Event::Rules);
            }
            if ready[2] && self.bridge_changed() {
                tell(Event::Bridge);
            }
            for ((id, process), _) in guarded.into_iter().zip(&ready[3..]).filter(|(_, ready)| **ready) {
                let mut all = lock(&self.guarded);
                // Another process may be waited for by now.
                if all.get(&id).is_some_and(|now| Arc::ptr_eq(now, &process)) {
                    all.remove(&id);
                    drop(all);
                    tell(Event::Proxy(id));
                }
            }
        }
    }

    /// Takes what woke the thread; true: nobody will any more.
    fn is_over(&self) -> bool {
        loop {
            match rustix::io::read(&self.woken, &mut [0; 64]) {
                Ok(0) => return true,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn rules_changed(&self) -> bool {
        match self.rules.receive() {
            Ok(replies) => replies
                .iter()
                .any(|reply| filter::takes_away(reply, &self.name, self.own_port)),
            // Too many at once: some are lost.
            Err(_) => true,
        }
    }

    fn bridge_changed(&self) -> bool {
        match self.links.receive() {
            Ok(replies) => replies.iter().any(|reply| route::removes(reply, &self.name)),
            Err(_) => true,
        }
    }
}
