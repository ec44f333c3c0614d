//! Hearing at once when somebody takes our rules away: `nft flush ruleset`, a restarted firewall.
//!
//! A thread waits on the kernel's notifications. What takes something out of our table, and was not done by our own socket, calls for a look at
//! the whole table; a notification that was lost (`ENOBUFS`) does so, too.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};

use crate::error::NetworkError;
use crate::netlink::filter;
use crate::netlink::{Family, Socket};

/// The thread; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The thread ends when this closes.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `disturbed` whenever something of `table` may have been taken away by another socket than that of `own_port`.
    pub(crate) fn start(
        table: String,
        own_port: u32,
        disturbed: impl Fn() + Send + 'static,
    ) -> Result<Self, NetworkError> {
        let failed = |source: io::Error| NetworkError::Kernel {
            what: "watch the packet filter".into(),
            source,
        };
        let socket = Socket::open_in_groups(Family::Filter, filter::CHANGES)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let thread = std::thread::Builder::new()
            .name("nft-watch".into())
            .spawn(move || watch(&socket, &stopped, &table, own_port, disturbed))
            .map_err(failed)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            // It may be the thread itself that lets go of the last reference.
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

fn watch(socket: &Socket, stopped: &OwnedFd, table: &str, own_port: u32, disturbed: impl Fn()) {
    loop {
        let own = socket.as_fd();
        let mut fds = [
            PollFd::new(&own, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "the packet filter is no longer watched");
                return;
            }
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let is_disturbed = match socket.receive() {
            Ok(replies) => replies
                .iter()
                .any(|reply| filter::takes_away(reply, table, own_port)),
            // Too many at once: some are lost.
            Err(_) => true,
        };
        if is_disturbed {
            disturbed();
        }
    }
}
