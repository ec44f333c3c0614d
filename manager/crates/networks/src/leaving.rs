//! A container's connection, taken back: first what others may want at once, then what takes the kernel long.
//!
//! ```text
//!   detach ── rules withdrawn ── proxy ended, ports free ── returns
//!                                        └─▶ one thread: unpinned ── interface removed ── conntrack forgets ── record removed ── addresses free
//! ```
//!
//! The thread takes those who have left by then through each of its steps together, though no more than [`TOGETHER`] of them: whoever left first
//! waits for as many at most.
//!
//! Removing an interface costs some ten milliseconds, in which the kernel waits until no processor looks at it any more: nobody has to wait for
//! that but who wants what it holds. The same container's next connection does, an address that is not free yet, and the daemon's end. Until all
//! is done the record stays: what a killed daemon has not come to is found by recovery.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{MutexGuard, PoisonError};

use croze_model::ContainerId;

use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::records::Endpoint;
use crate::service::{Networks, Result, State, mappings, note};
use crate::{forget, namespace, proxy};

/// So many that what costs the same for one and for many is worth it, and so few that nobody waits long for the others.
const TOGETHER: usize = 32;

impl Networks {
    /// Takes a container's connection back; when this returns its ports are free, and nobody is told of it any more. One that is not connected
    /// is no error.
    pub fn detach(&self, id: &ContainerId) {
        let Some(endpoint) = self.free_ports(id) else {
            return;
        };
        let mut state = self.state();
        state.departures.push(endpoint);
        if std::mem::replace(&mut state.is_clearing, true) {
            return;
        }
        drop(state);
        let networks = self.clone();
        let thread = std::thread::Builder::new()
            .name("departures".into())
            .spawn(move || networks.clear_departures());
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread to be had: the interface is removed meanwhile");
            self.clear_departures();
        }
    }

    /// The whole of it at once: everything that an endpoint has is taken back, whatever fails; what failed is logged, and found again by recovery.
    pub(crate) fn release(&self, id: &ContainerId) {
        if let Some(endpoint) = self.free_ports(id) {
            self.clear_all(vec![endpoint]);
        }
    }

    /// Waits until everything that has left is gone from the kernel, too.
    pub fn settle(&self) {
        drop(self.settled());
    }

    pub(crate) fn settled(&self) -> MutexGuard<'_, State> {
        self.inner
            .left
            .wait_while(self.state(), |state| !state.leaving.is_empty())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, when this container is not about to leave.
    pub(crate) fn wait_for_leaving(&self, id: &ContainerId) -> MutexGuard<'_, State> {
        self.inner
            .left
            .wait_while(self.state(), |state| state.leaving.contains(id))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is left to do; `None`: it is not connected, or somebody else has freed them.
    fn free_ports(&self, id: &ContainerId) -> Option<Endpoint> {
        let mut way_back = WayBack {
            networks: self,
            id: None,
        };
        let (endpoint, child) = {
            // Whoever is at it shall be done with this half.
            let busy = |state: &mut State| state.leaving.contains(id) && !self.table().gone.contains(id);
            let mut state = self
                .inner
                .left
                .wait_while(self.state(), busy)
                .unwrap_or_else(PoisonError::into_inner);
            let endpoint = self.endpoint(id)?;
            state.leaving.insert(id.clone());
            way_back.id = Some(id);
            state.inherited.claim(id);
            state.pending.remove(id);
            state.served.remove(id);
            if let Some(up) = &mut state.up {
                note(id, up.filter.withdraw(&mappings(&endpoint)));
            }
            (endpoint, state.children.remove(id))
        };
        self.unguard(id);
        if let Some(mark) = endpoint.proxy {
            note(id, proxy::stop(mark, child));
        }
        let state = self.state();
        self.table_mut().gone.insert(id.clone());
        way_back.id = None;
        drop(state);
        self.inner.left.notify_all();
        Some(endpoint)
    }

    fn clear_departures(&self) {
        loop {
            let departures = {
                let mut state = self.state();
                state.is_clearing = !state.departures.is_empty();
                let some = state.departures.len().min(TOGETHER);
                state.departures.drain(..some).collect::<Vec<_>>()
            };
            if departures.is_empty() {
                return;
            }
            self.clear_all(departures);
        }
    }

    /// What is left when their ports are free; whatever happens, nobody waits for these any more.
    fn clear_all(&self, endpoints: Vec<Endpoint>) {
        self.clear_all_by(endpoints, |endpoints| self.clear(endpoints));
    }

    fn clear_all_by(&self, endpoints: Vec<Endpoint>, clear: impl FnOnce(&mut VecDeque<Endpoint>)) {
        let mut endpoints = VecDeque::from(endpoints);
        let cleared = catch_unwind(AssertUnwindSafe(|| clear(&mut endpoints)));
        if cleared.is_err() {
            // The panic is in the log. What may be left in the kernel has their addresses: those stay taken, until recovery has seen to it.
            for endpoint in &endpoints {
                self.is_done_with(&endpoint.container);
            }
        }
    }

    /// Takes each out of the list when nothing of it is left.
    fn clear(&self, endpoints: &mut VecDeque<Endpoint>) {
        // All first: of namespaces that end together the kernel removes the interfaces together.
        for endpoint in endpoints.iter() {
            note(&endpoint.container, namespace::remove(&endpoint.namespace));
        }
        for endpoint in endpoints.iter() {
            // Somebody else may be in the namespace still, and keep it.
            note(
                &endpoint.container,
                Socket::open(Family::Route).and_then(|mut s| route::remove_link(&mut s, &endpoint.interface)),
            );
        }
        // Nothing more comes from them, and nothing that is remembered shall lead to the next one that has such an address.
        match Socket::open(Family::Filter) {
            Ok(mut socket) => {
                for (id, error) in forget::endpoints(&mut socket, endpoints.iter()) {
                    note(&id, Err(error));
                }
            }
            Err(error) => {
                for endpoint in endpoints.iter() {
                    tracing::warn!(container = %endpoint.container, %error, "its connections stay remembered");
                }
            }
        }
        while let Some(endpoint) = endpoints.front() {
            let id = &endpoint.container;
            note(id, self.forget_endpoint(id));
            let mut state = self.state();
            if let Some(up) = &mut state.up {
                // Brought up since the beginning of this, it has been told of these ports.
                note(id, up.filter.withdraw(&mappings(endpoint)));
                up.pool.free(endpoint.ipv4.address);
                if let (Some(pool), Some(ipv6)) = (&mut up.pool6, endpoint.ipv6) {
                    pool.free(ipv6.address);
                }
            }
            drop(state);
            self.is_done_with(id);
            endpoints.pop_front();
        }
    }

    /// Nobody waits for it any more.
    fn is_done_with(&self, id: &ContainerId) {
        let mut state = self.state();
        let mut table = self.table_mut();
        table.endpoints.remove(id);
        table.gone.remove(id);
        drop(table);
        state.leaving.remove(id);
        drop(state);
        self.inner.left.notify_all();
    }

    fn forget_endpoint(&self, id: &ContainerId) -> Result<()> {
        self.inner.endpoints.remove(id.as_str())?;
        Ok(())
    }
}

/// A container whose ports are being freed: should that panic, it may try to leave again.
struct WayBack<'a> {
    networks: &'a Networks,
    id: Option<&'a ContainerId>,
}

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.networks.state().leaving.remove(id);
            self.networks.inner.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;

    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;
    use crate::error::NetworkError;
    use crate::settings::{AttachRequest, BridgeSettings, Ipv6, Settings};

    fn id(n: u8) -> ContainerId {
        ContainerId::from_random([n; 32])
    }

    fn open(dir: &Path) -> Networks {
        let bridge = BridgeSettings {
            ipv6: Ipv6::Off,
            ..BridgeSettings::default()
        };
        Networks::open(Settings {
            root: dir.join("root"),
            run_root: dir.join("run"),
            shim: "/no/such/program".into(),
            bridge,
        })
        .unwrap()
    }

    /// On a thread with a network and mounts of its own, which end with it: then nothing keeps the directory, even if the test has failed.
    fn apart(work: impl FnOnce(&Path) + Send) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            work(dir.path());
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
    }

    #[test]
    fn of_those_whose_clearing_panics_nobody_is_waited_for_and_the_addresses_stay_taken() {
        apart(|dir| {
            let networks = open(dir);
            let all: Vec<Endpoint> = (1..=3)
                .map(|n| networks.attach(&id(n), &AttachRequest::default()).unwrap())
                .collect();
            let leaving: Vec<Endpoint> = all
                .iter()
                .filter_map(|endpoint| networks.free_ports(&endpoint.container))
                .collect();
            assert_eq!(leaving.len(), 3);
            networks.clear_all_by(leaving, |endpoints| {
                // The first one is through with it.
                let mut first = endpoints.drain(..1).collect();
                networks.clear(&mut first);
                panic!("a test's own panic");
            });
            // Or this would not return.
            networks.settle();
            assert_eq!(networks.connected(), []);

            let again = |networks: &Networks, n: u8, endpoint: &Endpoint| {
                let IpAddr::V4(address) = endpoint.ipv4.address else {
                    unreachable!()
                };
                let wanted = AttachRequest {
                    ipv4: Some(address),
                    ..AttachRequest::default()
                };
                networks
                    .attach(&id(n), &wanted)
                    .map(|endpoint| endpoint.ipv4.address)
            };
            assert_eq!(again(&networks, 11, &all[0]).unwrap(), all[0].ipv4.address);
            for (n, endpoint) in (12..).zip(&all[1..]) {
                let error = again(&networks, n, endpoint).unwrap_err();
                assert!(matches!(error, NetworkError::AddressTaken { .. }), "{error}");
            }
            networks.release(&id(11));

            // The next daemon takes back what is left of them.
            drop(networks);
            let networks = open(dir);
            networks.recover(std::collections::BTreeMap::new()).unwrap();
            for (n, endpoint) in (21..).zip(&all) {
                assert_eq!(again(&networks, n, endpoint).unwrap(), endpoint.ipv4.address);
            }
        });
    }

    #[test]
    fn more_than_are_taken_together_leave_all() {
        apart(|dir| {
            let networks = open(dir);
            let mut state = networks.state();
            for n in 0..u8::try_from(2 * TOGETHER + 1).unwrap() {
                let endpoint = Endpoint {
                    container: id(n),
                    name: String::new(),
                    boot_id: String::new(),
                    namespace: networks.namespace_path(id(n).as_str()),
                    interface: format!("none{n}"),
                    mac: crate::address::Mac([2; 6]),
                    ipv4: crate::records::Address {
                        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)),
                        prefix: 24,
                        gateway: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
                    },
                    ipv6: None,
                    ports: Vec::new(),
                    proxy: None,
                };
                networks.inner.endpoints.save(&endpoint).unwrap();
                state.leaving.insert(id(n));
                state.departures.push(endpoint);
            }
            state.is_clearing = true;
            drop(state);
            networks.clear_departures();
            networks.settle();
            assert!(!networks.state().is_clearing);
            assert_eq!(networks.inner.endpoints.load(id(0).as_str()).unwrap(), None);
            let records = dir.join("run/network/endpoints");
            assert_eq!(std::fs::read_dir(records).unwrap().count(), 0);
        });
    }
}
