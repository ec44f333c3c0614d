//! What the loop waits for, and until when.

use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::client::Client;
use crate::log::StreamKind;
use crate::process::Process;
use crate::shim::{DELETE_LIMIT, DRAIN_LIMIT, INIT, Shim, Stage};

/// What a descriptor in the poll set stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Token {
    Signal,
    Listener,
    Client(u64),
    Output(u32, StreamKind),
    Input(u32),
    Console(u32),
}

impl Shim {
    /// Waits for events or the next deadline; `now` is when [`Shim::advance`] looked at the clock.
    pub(crate) fn wait(&mut self, now: Instant) -> Vec<(Token, PollFlags)> {
        let held_up = self.held_up();
        let mut tokens = vec![Token::Signal, Token::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for client in &self.clients {
            let process = client
                .role
                .and_then(|role| self.processes.iter().find(|p| p.key == role.process));
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::POLLIN, !process.is_some_and(Process::input_is_full));
            wanted.set(PollFlags::POLLOUT, client.has_output());
            tokens.push(Token::Client(client.key));
            fds.push(PollFd::new(client.stream.as_fd(), wanted));
        }
        for process in &self.processes {
            // Before the runtime's call has succeeded, what is in the pipes may be the runtime's own words.
            let flows = process.identity.is_some() && !held_up.contains(&process.key);
            for stream in [StreamKind::Stdout, StreamKind::Stderr] {
                if let Some(fd) = process.output(stream).filter(|_| flows) {
                    tokens.push(Token::Output(process.key, stream));
                    fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                }
            }
            if let Some(fd) = process.input() {
                tokens.push(Token::Input(process.key));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
            }
            if let Some(fd) = process.console() {
                tokens.push(Token::Console(process.key));
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let timeout = self.deadline(now).map_or(PollTimeout::NONE, |at| {
            let millis = at.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        // An interruption is a wait that ended early.
        let _interrupted = poll(&mut fds, timeout);
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        tokens
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| !ready.is_empty())
            .collect()
    }

    /// The execs whose output must not be read now, because their client is behind.
    fn held_up(&self) -> Vec<u32> {
        let execs = self
            .clients
            .iter()
            .filter_map(|c| c.role)
            .map(|role| role.process);
        execs.filter(|key| self.is_held_up(*key)).collect()
    }

    /// Whether a process's output waits for its client: an exec's belongs to its client alone and is not logged, so it waits as long as that lives.
    pub(crate) fn is_held_up(&self, key: u32) -> bool {
        let of_it = |c: &&Client| c.role.is_some_and(|role| role.process == key);
        key != INIT && self.clients.iter().filter(of_it).any(Client::is_full)
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Deleting { since } => Some(since + DELETE_LIMIT),
            Stage::Leaving { since } => Some(self.leave_at(since)),
            _ => None,
        };
        let ended = self
            .processes
            .iter()
            .filter_map(|p| p.ended.as_ref())
            .map(|e| e.since + DRAIN_LIMIT);
        // One that had passed when the loop last looked is waited for no more: what it releases depends on a client or a call.
        let ended = ended.filter(|at| *at > now);
        let end = self.calls_end();
        let calls = self.calls.iter().filter_map(|c| c.deadline(end));
        let clients = self.clients.iter().filter_map(Client::deadline);
        stage.into_iter().chain(ended).chain(calls).chain(clients).min()
    }
}
