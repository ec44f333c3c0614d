//! Datagrams: each client of a port gets a socket of its own towards the container, so that answers find their way back.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

/// A flow in which nothing was sent for so long is forgotten, as docker's proxy does.
const IDLE: Duration = Duration::from_secs(90);
/// So many clients at once; beyond that the one that was silent for longest is forgotten.
const FLOWS: usize = 1024;
/// So many datagrams are taken before others are served.
const AT_ONCE: usize = 64;

/// All flows, by key.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: HashMap<u64, Flow>,
    by_client: HashMap<(usize, SocketAddr), u64>,
    /// When each was last used, the longest unused first.
    ages: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Flow {
    /// The place of the port among all.
    port: usize,
    client: SocketAddr,
    container: UdpSocket,
    used: Instant,
}

impl Flows {
    pub(super) fn has(&self, key: u64) -> bool {
        self.flows.contains_key(&key)
    }

    /// When the next flow will have been silent for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ages.first().map(|(used, _)| *used + IDLE)
    }

    /// Forgets flows that were silent for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((used, key)) = self.ages.first().copied() {
            if used + IDLE > now {
                return;
            }
            self.forget(key);
        }
    }

    fn forget(&mut self, key: u64) {
        if let Some(flow) = self.flows.remove(&key) {
            self.ages.remove(&(flow.used, key));
            self.by_client.remove(&(flow.port, flow.client));
        }
    }

    fn touch(&mut self, key: u64) {
        if let Some(flow) = self.flows.get_mut(&key) {
            self.ages.remove(&(flow.used, key));
            flow.used = Instant::now();
            self.ages.insert((flow.used, key));
        }
    }

    /// Takes datagrams from clients to the container.
    pub(super) fn forward(
        &mut self,
        epoll: &OwnedFd,
        socket: &UdpSocket,
        port: usize,
        target: SocketAddr,
        mut next_key: impl FnMut() -> u64,
        buffer: &mut [u8],
    ) {
        for _ in 0..AT_ONCE {
            let Ok((length, client)) = socket.recv_from(buffer) else {
                return;
            };
            let key = match self.by_client.get(&(port, client)) {
                Some(key) => Some(*key),
                None => self.add(epoll, port, client, target, next_key()),
            };
            // A datagram that cannot be passed on is lost, as datagrams may be.
            if let Some(key) = key
                && let Some(flow) = self.flows.get(&key)
            {
                let _lost = flow.container.send(&buffer[..length]);
                self.touch(key);
            }
        }
    }

    fn add(
        &mut self,
        epoll: &OwnedFd,
        port: usize,
        client: SocketAddr,
        target: SocketAddr,
        key: u64,
    ) -> Option<u64> {
        if self.flows.len() >= FLOWS
            && let Some((_, oldest)) = self.ages.first().copied()
        {
            self.forget(oldest);
        }
        let own = match target {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        let container = UdpSocket::bind(own).ok()?;
        container.connect(target).ok()?;
        container.set_nonblocking(true).ok()?;
        epoll::add(epoll, &container, EventData::new_u64(key), EventFlags::IN).ok()?;
        let used = Instant::now();
        self.flows.insert(
            key,
            Flow {
                port,
                client,
                container,
                used,
            },
        );
        self.by_client.insert((port, client), key);
        self.ages.insert((used, key));
        Some(key)
    }

    /// Takes answers of the container back to the flow's client.
    pub(super) fn answer<'a>(
        &mut self,
        key: u64,
        socket_of: impl Fn(usize) -> Option<&'a UdpSocket>,
        buffer: &mut [u8],
    ) {
        for _ in 0..AT_ONCE {
            let Some(flow) = self.flows.get(&key) else { return };
            match flow.container.recv(buffer) {
                Ok(length) => {
                    if let Some(socket) = socket_of(flow.port) {
                        let _lost = socket.send_to(&buffer[..length], flow.client);
                    }
                    self.touch(key);
                }
                // Nothing more, or nobody listens in the container: the client is not told, and may try again.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoll() -> OwnedFd {
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()
    }

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_longest_unused_flow_makes_room() {
        let (mut flows, epoll) = (Flows::default(), epoll());
        let target = client(9);
        for n in 0..FLOWS {
            let port = u16::try_from(n + 1).unwrap();
            flows.add(&epoll, 0, client(port), target, n as u64).unwrap();
        }
        // The first is used again: the second is now the longest unused.
        flows.touch(0);
        flows.add(&epoll, 0, client(60000), target, 60000).unwrap();
        assert!(flows.has(0) && !flows.has(1) && flows.has(2) && flows.has(60000));
        assert_eq!(
            (flows.flows.len(), flows.by_client.len(), flows.ages.len()),
            (FLOWS, FLOWS, FLOWS)
        );
    }

    #[test]
    fn silent_flows_are_forgotten() {
        let (mut flows, epoll) = (Flows::default(), epoll());
        flows.add(&epoll, 0, client(1), client(9), 7).unwrap();
        flows.expire(Instant::now());
        assert!(flows.has(7));
        flows.expire(flows.deadline().unwrap());
        assert!(!flows.has(7) && flows.by_client.is_empty() && flows.deadline().is_none());
    }
}
