//! Serving published ports: the proxy of a container is started, looked after, and replaced when it ends too early.
//!
//! ```text
//!   pending (sockets here) ── serve_ports ──▶ served (a proxy holds them) ──── the container ends: so does the proxy
//!                                                 ▲            │
//!                                                 └─ bound again ─ the proxy ends while the container runs
//! ```
//!
//! While crozed lives a proxy that ends is replaced at once, unless it ends again and again; after a restart recovery does the same.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use croze_model::{ContainerId, Protocol};

use crate::error::NetworkError;
use crate::ports::{self, Bound};
use crate::proxy;
use crate::records::{Endpoint, ProcessMark};
use crate::service::{Networks, Result, State, mappings, note};

/// A proxy is replaced so often within [`CALM`]; what ends oftener has a reason that does not go away by itself.
const REPLACEMENTS: u32 = 5;
const CALM: Duration = Duration::from_secs(60);

/// For whom ports are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// The container's first process.
    container: ProcessMark,
    /// How often the proxy was replaced lately.
    replaced: u32,
    /// When that was counted from.
    since: Instant,
}

impl Served {
    fn new(container: ProcessMark) -> Self {
        Self {
            container,
            replaced: 0,
            since: Instant::now(),
        }
    }

    /// Counts one more; false: it is one too many.
    fn may_replace(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) > CALM {
            (self.replaced, self.since) = (0, now);
        }
        self.replaced += 1;
        self.replaced <= REPLACEMENTS
    }
}

impl Networks {
    /// Which of our containers has published the port.
    pub(crate) fn own_holder(&self, protocol: Protocol, address: SocketAddr) -> Option<String> {
        let table = self.table();
        let holds = |endpoint: &&Endpoint| {
            endpoint.ports.iter().any(|port| {
                port.protocol == protocol
                    && port.host_port == address.port()
                    && (port.host_ip == address.ip()
                        || port.host_ip.is_unspecified()
                        || address.ip().is_unspecified())
            })
        };
        let mut here = table
            .endpoints
            .values()
            .filter(|endpoint| !table.gone.contains(&endpoint.container));
        let endpoint = here.find(holds)?;
        Some(format!("container {}", endpoint.name))
    }

    /// Sees to it that a process holds the ports' sockets for as long as the container's first process lives. One that has no ports, or whose ports
    /// are served, is left alone; where the sockets went with an earlier attempt they are bound again.
    ///
    /// # Errors
    /// [`NetworkError::NotAttached`], [`NetworkError::PortTaken`], [`NetworkError::Proxy`].
    pub fn serve_ports(&self, id: &ContainerId, container: ProcessMark) -> Result<()> {
        let (endpoint, bound) = {
            let mut state = self.state();
            let endpoint = self.endpoint(id).ok_or_else(|| not_attached(id))?;
            (endpoint, state.pending.remove(id))
        };
        let is_served = || endpoint.proxy.and_then(proxy::open_process).is_some();
        let bound = match bound {
            Some(bound) => bound,
            None if endpoint.ports.is_empty() || is_served() => return Ok(()),
            None => ports::bind_again(&endpoint.ports, |protocol, address| {
                self.own_holder(protocol, address)
            })?,
        };
        self.start_proxy(&endpoint, &bound, Served::new(container))
    }

    fn start_proxy(&self, endpoint: &Endpoint, bound: &[Bound], served: Served) -> Result<()> {
        let id = &endpoint.container;
        let settings = &self.inner.settings;
        let log = settings.run_root.join("network").join("port-proxy.log");
        if let Some(former) = endpoint.proxy {
            // A new process may have its number by now, and a cgroup that is not empty.
            proxy::remove_cgroup(former.pid);
        }
        let (child, mark) = proxy::start(&settings.shim, &log, endpoint, bound, served.container)?;
        let endpoint = Endpoint {
            proxy: Some(mark),
            ..endpoint.clone()
        };
        let mut state = self.state();
        if self.endpoint(id).is_none() || state.leaving.contains(id) {
            // It was taken back meanwhile.
            drop(state);
            note(id, proxy::stop(mark, Some(child)));
            return Err(not_attached(id));
        }
        let saved = self.inner.endpoints.save(&endpoint);
        self.table_mut().endpoints.insert(id.clone(), endpoint);
        state.children.insert(id.clone(), child);
        drop(state);
        self.look_after(id, mark, served);
        Ok(saved?)
    }

    /// Has the end of a proxy noticed.
    pub(crate) fn look_after_inherited(&self, id: &ContainerId, proxy: ProcessMark, container: ProcessMark) {
        self.look_after(id, proxy, Served::new(container));
    }

    fn look_after(&self, id: &ContainerId, proxy: ProcessMark, served: Served) {
        let Some(process) = proxy::open_process(proxy) else {
            // It has ended already: whether that was right is decided where every end is.
            self.state().served.insert(id.clone(), served);
            self.proxy_ended(id);
            return;
        };
        self.state().served.insert(id.clone(), served);
        let watch = self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &*watch {
            watch.guard(id, Arc::new(process));
        }
    }

    /// Its proxy's end is not waited for any more.
    pub(crate) fn unguard(&self, id: &ContainerId) {
        let watch = self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &*watch {
            watch.unguard(id);
        }
    }

    /// A proxy has ended: with its container, as it should, or before it.
    pub(crate) fn proxy_ended(&self, id: &ContainerId) {
        let (served, child, endpoint) = {
            let mut state = self.state();
            let Some(served) = state.served.get_mut(id) else {
                return;
            };
            if proxy::open_process(served.container).is_none() {
                // Its container has ended, and is taken back in its own time.
                return;
            }
            let may = served.may_replace(Instant::now()).then_some(*served);
            let child = state.children.remove(id);
            (may, child, self.endpoint(id))
        };
        let Some(endpoint) = endpoint else { return };
        if let Some(mark) = endpoint.proxy {
            // It is reaped, and what it could not remove itself goes.
            note(id, proxy::stop(mark, child));
        }
        let Some(served) = served else {
            tracing::error!(
                container = id.short(),
                "its port proxy ends again and again: its published ports do not answer on loopback addresses until crozed is restarted; \
                 network/port-proxy.log below the run root may say why"
            );
            return;
        };
        tracing::warn!(container = id.short(), "its port proxy has ended; it is replaced");
        note(id, self.serve_again(endpoint, served));
    }

    /// Serves the ports of a container that runs once more. One that somebody else took meanwhile is given up, the others are not.
    pub(crate) fn serve_inherited(&self, id: &ContainerId, container: ProcessMark) -> Result<()> {
        match self.endpoint(id) {
            Some(endpoint) => self.serve_again(endpoint, Served::new(container)),
            None => Ok(()),
        }
    }

    fn serve_again(&self, endpoint: Endpoint, served: Served) -> Result<()> {
        let known = |protocol, address| self.own_holder_but(&endpoint.container, protocol, address);
        let (mut bound, mut ports) = (Vec::new(), Vec::new());
        for port in &endpoint.ports {
            match ports::bind_again(std::slice::from_ref(port), known) {
                Ok(one) => {
                    bound.extend(one);
                    ports.push(*port);
                }
                Err(error) => tracing::error!(
                    container = endpoint.container.short(),
                    %error,
                    "a published port is lost to somebody else"
                ),
            }
        }
        let left = Endpoint { ports, ..endpoint };
        if bound.len() < self.endpoint(&left.container).map_or(0, |e| e.ports.len()) {
            self.give_up_lost(&mut self.state(), &left)?;
        }
        if bound.is_empty() {
            return Ok(());
        }
        self.start_proxy(&left, &bound, served)
    }

    /// What is published of a container shall be this from now on.
    fn give_up_lost(&self, state: &mut State, left: &Endpoint) -> Result<()> {
        let Some(before) = self.endpoint(&left.container) else {
            return Ok(());
        };
        let lost = mappings(&before).difference(&mappings(left)).copied().collect();
        self.table_mut()
            .endpoints
            .insert(left.container.clone(), left.clone());
        self.inner.endpoints.save(left)?;
        match &mut state.up {
            Some(up) => up.filter.withdraw(&lost),
            None => Ok(()),
        }
    }

    fn own_holder_but(&self, id: &ContainerId, protocol: Protocol, address: SocketAddr) -> Option<String> {
        let own = self.own_holder(protocol, address)?;
        let name = self
            .endpoint(id)
            .map(|endpoint| format!("container {}", endpoint.name));
        (name.as_ref() != Some(&own)).then_some(own)
    }
}

fn not_attached(id: &ContainerId) -> NetworkError {
    NetworkError::NotAttached {
        container: id.short().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_replaced_until_it_ends_too_often() {
        let mut served = Served::new(ProcessMark {
            pid: 1,
            start_ticks: 1,
        });
        let at = |seconds| served.since + Duration::from_secs(seconds);
        let (soon, later) = (at(1), at(120));
        assert!((0..REPLACEMENTS).all(|_| served.may_replace(soon)));
        assert!(!served.may_replace(soon));
        assert!(served.may_replace(later), "after a while it may again");
    }
}
