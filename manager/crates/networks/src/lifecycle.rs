//! The network as a whole: brought up with the first container, looked after while crozed lives, taken down when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};

use croze_model::ContainerId;

use crate::address::{Pool, Subnet};
use crate::error::NetworkError;
use crate::namespace;
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::plan::{self, Action, Observed};
use crate::records::{Endpoint, HostRecord, NetworkRecord, ProcessMark};
use crate::rules::{Filter, Ruleset};
use crate::service::{DEFAULT, Inner, Ipv6, Networks, Result, State, Up, mappings, note};
use crate::watch::Watch;
use crate::{bridge, forwarding, ports, proxy};

impl Networks {
    /// Sees to it that the bridge, the host's settings and the rules are there.
    ///
    /// A bridge of the name that is not ours is refused before anything is changed.
    ///
    /// | step | undo |
    /// |---|---|
    /// | what will be changed on the host is recorded | [`Networks::close`] takes it back from the record, also after a failure |
    /// | forwarding | the same |
    /// | bridge | the same |
    /// | rules | the same |
    pub(crate) fn bring_up(&self, state: &mut State) -> Result<()> {
        let mut socket = Socket::open(Family::Route)?;
        let name = &self.inner.settings.bridge.name;
        if let Some(up) = &mut state.up {
            if route::link_index(&mut socket, name)? == Some(up.bridge) {
                return Ok(());
            }
            tracing::warn!(
                bridge = name,
                "the bridge was removed by somebody; it is made again"
            );
        }
        bridge::find(&mut socket, name, &self.inner.mark)?;
        let record = self.decide(&mut socket)?;
        self.change_host(&mut socket, record.subnet6.is_some())?;
        let subnets: Vec<Subnet> = [Some(record.subnet), record.subnet6]
            .into_iter()
            .flatten()
            .collect();
        let mtu = self.inner.settings.bridge.mtu;
        let bridge = bridge::ensure(&mut socket, name, &self.inner.mark, mtu, &subnets)?;
        if let Some(up) = &mut state.up {
            up.bridge = bridge;
            for endpoint in state.endpoints.values() {
                note(&endpoint.container, reconnect(&mut socket, endpoint, bridge));
            }
            return up.filter.write();
        }
        let rulesets = subnets.into_iter().map(|subnet| Ruleset {
            bridge: name.clone(),
            subnet,
        });
        let mut filter = Filter::open(rulesets.collect())?;
        let (mut pool, mut pool6) = (Pool::new(record.subnet), record.subnet6.map(Pool::new));
        let mut published = BTreeSet::new();
        for endpoint in state.endpoints.values() {
            for address in endpoint.addresses() {
                let pool = match address.address {
                    IpAddr::V4(_) => Some(&mut pool),
                    IpAddr::V6(_) => pool6.as_mut(),
                };
                note(
                    &endpoint.container,
                    pool.map_or(Ok(()), |p| p.take_this(address.address)),
                );
            }
            published.extend(mappings(endpoint));
        }
        filter.expect(published);
        filter.write()?;
        self.watch(&filter)?;
        for warning in self.warnings() {
            tracing::warn!("{warning}");
        }
        state.up = Some(Up {
            bridge,
            pool,
            pool6,
            filter,
        });
        Ok(())
    }

    /// The network's subnets: as configured, else as the last time, else what is free. Written down before they are used.
    fn decide(&self, socket: &mut Socket) -> Result<NetworkRecord> {
        let settings = &self.inner.settings.bridge;
        let before = self.inner.networks.load(DEFAULT)?;
        let own = route::link_index(socket, &settings.name)?;
        let routes: Vec<Subnet> = route::routes(socket)?
            .into_iter()
            .filter(|(_, interface)| Some(*interface) != own)
            .map(|(subnet, _)| subnet)
            .collect();
        let taken = |subnet: Subnet| plan::overlap(subnet, &routes).map(|route| (subnet, route));
        let subnet = match settings.subnet {
            Some(subnet) => Some(subnet),
            None => plan::choose_subnet(before.as_ref().map(|b| b.subnet), &routes),
        };
        let subnet = subnet.ok_or_else(|| NetworkError::NoSubnet {
            bridge: settings.name.clone(),
        })?;
        let subnet6 = match settings.ipv6 {
            _ if !namespace::has_kernel_ipv6() => None,
            Ipv6::Off => None,
            Ipv6::Subnet(subnet) => Some(subnet),
            // Somebody switched it off for this host, which only a subnet given by name overrides.
            Ipv6::Local if !namespace::has_ipv6_by_default() => None,
            Ipv6::Local => before
                .as_ref()
                .and_then(|b| b.subnet6)
                .filter(|subnet| taken(*subnet).is_none())
                .or(plan::local_ipv6(random()?)),
        };
        if let Some((subnet, route)) = taken(subnet).or_else(|| subnet6.and_then(taken)) {
            return Err(NetworkError::SubnetTaken {
                bridge: settings.name.clone(),
                subnet,
                route,
            });
        }
        let record = NetworkRecord {
            name: DEFAULT.into(),
            subnet,
            subnet6,
        };
        if before.as_ref() != Some(&record) {
            self.inner.networks.save(&record)?;
        }
        Ok(record)
    }

    fn change_host(&self, socket: &mut Socket, with_ipv6: bool) -> Result<()> {
        let before = self.host_record()?;
        let changes = forwarding::plan(socket, with_ipv6)?;
        let record = HostRecord {
            boot_id: self.inner.boot_id.clone(),
            bridge: self.inner.settings.bridge.name.clone(),
            // What was changed by an earlier daemon of this boot is still to be taken back.
            changes: before
                .iter()
                .flat_map(|b| b.changes.clone())
                .filter(|old| !changes.contains(old))
                .chain(changes.iter().cloned())
                .collect(),
        };
        if before.as_ref() != Some(&record) {
            self.inner.host.save(&record)?;
        }
        forwarding::apply(&changes)
    }

    fn host_record(&self) -> Result<Option<HostRecord>> {
        let record = self.inner.host.load(HostRecord::KEY)?;
        Ok(record.filter(|record| record.boot_id == self.inner.boot_id))
    }

    fn watch(&self, filter: &Filter) -> Result<()> {
        let weak = Arc::downgrade(&self.inner);
        let watch = Watch::start(
            self.inner.settings.bridge.name.clone(),
            filter.port(),
            move || disturbed(&weak),
        )?;
        *self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        Ok(())
    }

    /// Finds out what is there of connections of containers, repairs what lives, and takes back what does not; to be called once, when it is
    /// known which containers live, or may live: of those the process is `None`, and nothing is taken from them. What fails of one container
    /// is logged.
    ///
    /// # Errors
    /// If records or interfaces cannot be listed.
    pub fn recover(&self, live: BTreeMap<ContainerId, Option<ProcessMark>>) -> Result<()> {
        let observed = self.observe(live)?;
        let actions = plan::plan(&observed);
        // Those that are gone first, so that nothing of theirs is written into the rules.
        for action in &actions {
            if let Action::Release(id) = action {
                tracing::info!(
                    container = id.short(),
                    "its network is taken back: it ended meanwhile"
                );
                self.release(id);
            }
        }
        let keeps = actions.iter().any(|action| matches!(action, Action::Keep(_)));
        let up = if keeps {
            self.bring_up(&mut self.state())
        } else {
            Ok(())
        };
        if let Err(error) = &up {
            tracing::error!(%error, "the network of running containers cannot be repaired");
        }
        for action in actions {
            self.execute(&action, &observed);
        }
        self.take_down_unused();
        Ok(())
    }

    /// What an earlier daemon left up for containers that ended since: its rules would lead their ports to nobody.
    fn take_down_unused(&self) {
        let state = self.state();
        if state.up.is_none()
            && state.endpoints.is_empty()
            && let Err(error) = self.take_down(None)
        {
            tracing::error!(%error, "what a former daemon left of the network cannot be removed");
        }
    }

    fn observe(&self, live: BTreeMap<ContainerId, Option<ProcessMark>>) -> Result<Observed> {
        // What was connected since this daemon was opened is no leftover, whatever is known of its container.
        let (unverified, connected) = {
            let mut state = self.state();
            let unverified = std::mem::take(&mut state.unverified);
            let connected: Vec<Endpoint> = state.endpoints.values().cloned().collect();
            (unverified, connected)
        };
        let is_new =
            |id: &ContainerId| !unverified.contains(id) && connected.iter().any(|e| e.container == *id);
        let new_names: BTreeSet<String> = connected
            .iter()
            .filter(|endpoint| is_new(&endpoint.container))
            .flat_map(|endpoint| [endpoint.interface.clone(), endpoint.container.to_string()])
            .collect();
        let mut endpoints = self.inner.endpoints.list()?;
        endpoints.retain(|endpoint| !is_new(&endpoint.container));
        let links = Socket::open(Family::Route).and_then(|mut socket| route::links(&mut socket))?;
        // Ports of a bridge that is another's are no leftovers of ours, whatever their names.
        let bridge = links
            .iter()
            .find(|link| link.name == self.inner.settings.bridge.name && self.inner.mark.is_on(link))
            .map(|link| link.index);
        Ok(Observed {
            boot_id: self.inner.boot_id.clone(),
            proxies: endpoints
                .iter()
                .filter(|endpoint| endpoint.proxy.and_then(proxy::open_process).is_some())
                .map(|endpoint| endpoint.container.clone())
                .collect(),
            endpoints,
            live,
            namespaces: self.pinned()?.difference(&new_names).cloned().collect(),
            bridge_ports: links
                .iter()
                .filter(|link| bridge.is_some() && link.master == bridge && !new_names.contains(&link.name))
                .map(|link| link.name.clone())
                .collect(),
            interfaces: links.into_iter().map(|link| link.name).collect(),
        })
    }

    fn execute(&self, action: &Action, observed: &Observed) {
        let result = match action {
            Action::Release(_) | Action::Keep(_) => Ok(()),
            Action::Forget(id) => self
                .inner
                .endpoints
                .remove(id.as_str())
                .map(drop)
                .map_err(NetworkError::from),
            Action::Reconnect(id) => self.reconnect(id),
            Action::ServeAgain(id) => match observed.live.get(id) {
                Some(Some(process)) => self.serve_again(id, *process),
                Some(None) | None => Ok(()),
            },
            Action::Unpin(name) => namespace::remove(&self.namespace_path(name)),
            Action::RemoveInterface(name) => {
                Socket::open(Family::Route).and_then(|mut socket| route::remove_link(&mut socket, name))
            }
        };
        match (result, action) {
            (Ok(()), Action::Keep(_) | Action::Release(_)) => {}
            (Ok(()), _) => tracing::info!(?action, "network recovered"),
            (Err(error), _) => tracing::error!(?action, %error, "cannot recover the network"),
        }
    }

    fn reconnect(&self, id: &ContainerId) -> Result<()> {
        let state = self.state();
        let (Some(endpoint), Some(up)) = (state.endpoints.get(id), &state.up) else {
            return Ok(());
        };
        reconnect(&mut Socket::open(Family::Route)?, endpoint, up.bridge)
    }

    fn serve_again(&self, id: &ContainerId, process: ProcessMark) -> Result<()> {
        let Some(endpoint) = self.endpoint(id) else {
            return Ok(());
        };
        let bound = ports::bind_again(&endpoint.ports)?;
        self.state().pending.insert(id.clone(), bound);
        self.serve_ports(id, process)
    }

    /// Leaves the host as it was found, if no container is connected any more. To be called when the daemon ends.
    pub fn close(&self) {
        // First the watcher: what is removed now shall not be written again. Its thread may be waiting for the state.
        let watch = self
            .inner
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(watch);
        let mut state = self.state();
        if !state.endpoints.is_empty() {
            tracing::info!(
                containers = state.endpoints.len(),
                "the network stays: containers are connected"
            );
            return;
        }
        let up = state.up.take();
        if let Err(error) = self.take_down(up) {
            tracing::error!(%error, "the network could not be taken down");
        }
    }

    /// Takes back what is recorded, each step whether or not another failed: what stays is recorded still, and tried again at the next end.
    fn take_down(&self, up: Option<Up>) -> Result<()> {
        let Some(record) = self.host_record()? else {
            return Ok(());
        };
        let mut socket = Socket::open(Family::Route)?;
        let link = route::link(&mut socket, &record.bridge)?;
        // Tables have no owner's mark but the bridge's.
        let rules = if link.is_some_and(|link| self.inner.mark.is_of_another(&link)) {
            Ok(())
        } else {
            self.remove_rules(up, &record.bridge)
        };
        let removed = bridge::remove(&mut socket, &record.bridge, &self.inner.mark);
        forwarding::restore(&record.changes, &record.bridge);
        rules.and(removed)?;
        self.inner.host.remove(HostRecord::KEY)?;
        Ok(())
    }

    fn remove_rules(&self, up: Option<Up>, bridge: &str) -> Result<()> {
        let mut filter = match up {
            Some(up) => up.filter,
            // Made by an earlier daemon: the tables' families are all that has to be known.
            None => Filter::open(self.rulesets_of_record(bridge)?)?,
        };
        filter.remove()
    }

    fn rulesets_of_record(&self, bridge: &str) -> Result<Vec<Ruleset>> {
        let record = self.inner.networks.load(DEFAULT)?;
        let subnets = record.into_iter().flat_map(|r| [Some(r.subnet), r.subnet6]);
        Ok(subnets
            .flatten()
            .map(|subnet| Ruleset {
                bridge: bridge.to_owned(),
                subnet,
            })
            .collect())
    }
}

/// Somebody took something out of the rules.
fn disturbed(inner: &Weak<Inner>) {
    let Some(inner) = inner.upgrade() else { return };
    let name = &inner.settings.bridge.name;
    let link = Socket::open(Family::Route).and_then(|mut socket| route::link(&mut socket, name));
    if let Ok(Some(link)) = link
        && inner.mark.is_of_another(&link)
    {
        tracing::error!(
            bridge = name,
            "the bridge was removed, and another crozed has made its own"
        );
        return;
    }
    let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(up) = &mut state.up else { return };
    match up.filter.is_intact() {
        Ok(true) => {}
        found => {
            if let Err(error) = found.and_then(|_| up.filter.write()) {
                tracing::error!(%error, "the packet filter's rules were changed by somebody and cannot be repaired");
            } else {
                tracing::warn!("the packet filter's rules were changed by somebody; they are written again");
            }
        }
    }
}

fn reconnect(socket: &mut Socket, endpoint: &Endpoint, bridge: u32) -> Result<()> {
    match route::link_index(socket, &endpoint.interface)? {
        Some(index) => {
            route::set_master(socket, &endpoint.interface, index, bridge)?;
            route::set_hairpin(socket, &endpoint.interface, index)
        }
        None => Ok(()),
    }
}

fn random() -> Result<[u8; 5]> {
    let mut bytes = [0; 5];
    // Up to 256 bytes come at once, or not at all.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|errno| {
        NetworkError::Kernel {
            what: "draw random bytes".into(),
            source: errno.into(),
        }
    })?;
    Ok(bytes)
}
