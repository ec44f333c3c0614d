//! `croze-shim port-proxy`: the process that holds the published ports of one container.
//!
//! ```text
//!   croze-shim port-proxy <container> <tcp|udp>:<address>:<port> …
//!
//!   stdin: a socket pair      ◀── pidfd of the container's first process
//!                             ◀── bound sockets, one for each argument, in that order
//!                             ──▶ ready
//!
//!   client ── tcp ──▶ [ socket ── accept ── connect ]══▶ container     half-closed like the original
//!   client ── udp ──▶ [ socket ── a flow for each client ]══▶ container     at most FLOWS, the longest unused goes first
//! ```
//!
//! The packet filter leads most connections to the container before they get here; what arrives came by the host's loopback addresses, or while
//! somebody had flushed the rules. One thread, one epoll; nothing in it blocks.
//!
//! It is root's and has no capabilities, as nothing that it does needs any; nor is it spared when memory ends: whoever connects makes it keep up to
//! 128 KiB. crozed replaces it.
//!
//! Invariants: the process ends when the container's first process does, or on SIGTERM, and with it every socket; a client that reads nothing holds
//! up its own connection only, and one that never pauses takes turns with the others; memory is bounded by the number of open connections, and that by [`tcp`].
//!
//! What it does not do: it keeps no client's address (the container sees the gateway's), and it knows nothing of crozed.

mod tcp;
mod udp;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use croze_sys::socket;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::cgroup::OwnCgroup;
use crate::error::ShimError;
use crate::{note, runtime};

/// The word that makes this program a port proxy.
pub(crate) const VERB: &str = "port-proxy";

/// Keys of the descriptors that are always waited for; listeners follow, then connections and flows.
const PROCESS: u64 = 0;
const SIGNALS: u64 = 1;
const FIRST: u64 = 2;
/// So many events are taken at once.
const EVENTS: usize = 64;
/// The size of what is read at once.
const CHUNK: usize = 64 * 1024;

/// Runs until the container ends; says whether everything went as it should.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> bool {
    match Proxy::open(arguments) {
        Ok(mut proxy) => {
            let mut cgroup = OwnCgroup::enter(&format!("ports-{}", std::process::id()));
            runtime::expose_to_oom();
            drop_privileges();
            let result = proxy.run();
            cgroup.leave();
            result.map_err(|error| note(&error)).is_ok()
        }
        Err(error) => {
            note(&error);
            false
        }
    }
}

/// A published port.
#[derive(Debug)]
pub(crate) enum Port {
    Tcp(TcpListener, SocketAddr),
    Udp(UdpSocket, SocketAddr),
}

struct Proxy {
    epoll: OwnedFd,
    ports: Vec<Port>,
    signals: SignalFd,
    streams: tcp::Streams,
    flows: udp::Flows,
    /// Held so that it stays in the epoll set.
    _process: OwnedFd,
}

impl Proxy {
    fn open(mut arguments: impl Iterator<Item = String>) -> Result<Self, ShimError> {
        let unusable = |reason: String| ShimError::Launch { reason };
        let _container = arguments
            .next()
            .ok_or_else(|| unusable("no container is named".into()))?;
        let targets: Vec<String> = arguments.collect();
        // It fails only if this is the leader already, which is as good.
        let _leader_already = nix::unistd::setsid();
        raise_descriptor_limit();
        let control = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| unusable(e.to_string()))?;
        let mut received = receive(&control, targets.len() + 1)?.into_iter();
        let process = received
            .next()
            .ok_or_else(|| unusable("no process came".into()))?;
        let ports = targets
            .iter()
            .zip(received)
            .map(|(target, fd)| Port::new(target, fd))
            .collect::<Result<Vec<_>, _>>()?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().map_err(ShimError::call("sigprocmask"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(ShimError::call("signalfd"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShimError::call("epoll_create1"))?;
        let watch = |fd: &dyn std::os::fd::AsFd, key: u64| {
            epoll::add(&epoll, fd, EventData::new_u64(key), EventFlags::IN)
                .map_err(ShimError::call("epoll_ctl"))
        };
        watch(&process, PROCESS)?;
        watch(&signals, SIGNALS)?;
        for (port, key) in ports.iter().zip(FIRST..) {
            match port {
                Port::Tcp(listener, _) => watch(listener, key)?,
                Port::Udp(socket, _) => watch(socket, key)?,
            }
        }
        socket::send(&control, &[1]).map_err(|e| unusable(e.to_string()))?;
        let first_free = FIRST + ports.len() as u64;
        Ok(Self {
            epoll,
            ports,
            signals,
            streams: tcp::Streams::new(first_free),
            flows: udp::Flows::default(),
            _process: process,
        })
    }

    fn run(&mut self) -> Result<(), ShimError> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; CHUNK];
        loop {
            events.clear();
            let now = Instant::now();
            let deadlines = [self.flows.deadline(), self.streams.deadline(now)];
            let next = deadlines.into_iter().flatten().min();
            let timeout = next.map(|at| timespec(at.saturating_duration_since(now)));
            let unfinished = self.streams.unfinished();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ShimError::call("epoll_wait")(errno)),
            }
            for event in &events {
                let key = event.data.u64();
                match key {
                    PROCESS => return Ok(()),
                    SIGNALS => {
                        if let Ok(Some(_)) = self.signals.read_signal() {
                            return Ok(());
                        }
                    }
                    _ => self.dispatch(key, event.flags, &mut buffer),
                }
            }
            for key in unfinished {
                self.serve(key, &mut buffer);
            }
            let now = Instant::now();
            self.flows.expire(now);
            if self.streams.may_resume(now) {
                self.resume(now);
            }
        }
    }

    fn dispatch(&mut self, key: u64, flags: EventFlags, buffer: &mut [u8]) {
        let place = usize::try_from(key - FIRST).unwrap_or(usize::MAX);
        match self.ports.get(place) {
            Some(Port::Tcp(listener, target)) => {
                if !self.streams.accept(&self.epoll, listener, *target) {
                    // No descriptors left: clients wait in the kernel's queue for a while, or until a connection ends.
                    self.streams.pause(&self.epoll, listener, key, Instant::now());
                }
            }
            Some(Port::Udp(socket, target)) => {
                let next_key = || self.streams.next_key();
                self.flows
                    .forward(&self.epoll, socket, place, *target, next_key, buffer);
            }
            None if self.flows.has(key) => {
                let ports = &self.ports;
                let socket_of = |place: usize| match ports.get(place) {
                    Some(Port::Udp(socket, _)) => Some(socket),
                    _ => None,
                };
                self.flows.answer(key, socket_of, buffer);
            }
            None => {
                self.streams.note(key, flags);
                self.serve(key, buffer);
            }
        }
    }

    fn serve(&mut self, key: u64, buffer: &mut [u8]) {
        if self.streams.serve(key, buffer) && self.streams.is_paused() {
            self.resume(Instant::now());
        }
    }

    fn resume(&mut self, now: Instant) {
        let ports = &self.ports;
        self.streams.resume(&self.epoll, now, |key| {
            match ports.get(usize::try_from(key - FIRST).unwrap_or(usize::MAX)) {
                Some(Port::Tcp(listener, _)) => Some(listener),
                _ => None,
            }
        });
    }
}

impl Port {
    fn new(target: &str, fd: OwnedFd) -> Result<Self, ShimError> {
        let unusable = || ShimError::Launch {
            reason: format!("{target:?} is no target: expected tcp:ADDRESS:PORT or udp:ADDRESS:PORT"),
        };
        let (protocol, address) = target.split_once(':').ok_or_else(unusable)?;
        let address = address.parse().map_err(|_| unusable())?;
        match protocol {
            "tcp" => {
                tcp::prepare(&fd);
                Ok(Self::Tcp(fd.into(), address))
            }
            "udp" => Ok(Self::Udp(fd.into(), address)),
            _ => Err(unusable()),
        }
    }
}

/// Takes in this many descriptors.
fn receive(control: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>, ShimError> {
    let mut fds = Vec::with_capacity(count);
    while fds.len() < count {
        let (length, some) = socket::receive_fds(control, &mut [0; 8]).map_err(|e| ShimError::Launch {
            reason: e.to_string(),
        })?;
        if length == 0 {
            return Err(ShimError::Launch {
                reason: format!(
                    "{} of {count} descriptors came; crozed starts this program",
                    fds.len()
                ),
            });
        }
        fds.extend(some);
    }
    Ok(fds)
}

/// The sockets are bound and came with their rights; what is left to do anybody may do.
fn drop_privileges() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = set_capabilities(None, none) {
        note(&ShimError::call("capset")(error));
    }
    if let Err(error) = croze_sys::process::set_no_new_privileges() {
        note(&error);
    }
}

/// Each connection takes two descriptors: as many as are allowed may be used.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer connections at once, then.
    let _stays = setrlimit(Resource::Nofile, limit);
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Whether a call would have waited.
pub(crate) fn waits(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
