//! The network as a whole: brought up with the first container, looked after while crozed lives, taken down when it ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use croze_model::ContainerId;

use crate::address::{Pool, Subnet};
use crate::error::NetworkError;
use crate::forwarding::{Closed, Forwarding};
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::records::{Endpoint, HostRecord, NetworkRecord};
use crate::rules::Ruleset;
use crate::service::{DEFAULT, Networks, Result, State, Up, mappings, note};
use crate::settings::Ipv6;
use crate::tables::Filter;
use crate::watch::{Event, Watch};
use crate::{bridge, forget, namespace, plan};

impl Networks {
    /// Sees to it that the bridge, the host's settings and the rules are there.
    ///
    /// A bridge of the name that is not ours is refused before anything is changed.
    ///
    /// | step | undo |
    /// |---|---|
    /// | what will be changed on the host is recorded | [`Networks::close`] takes it back from the record, also after a failure |
    /// | bridge | the same |
    /// | rules | the same |
    /// | forwarding | the same |
    pub(crate) fn bring_up(&self, state: &mut State) -> Result<()> {
        if state.closed {
            return Err(NetworkError::Closing);
        }
        let mut socket = Socket::open(Family::Route)?;
        let name = &self.inner.settings.bridge.name;
        let mtu = self.inner.settings.bridge.mtu;
        if let Some(up) = &mut state.up {
            if route::link_index(&mut socket, name)? == Some(up.bridge) {
                return Ok(());
            }
            tracing::warn!(
                bridge = name,
                "the bridge was removed by somebody; it is made again"
            );
            // With the addresses that the containers have.
            let subnets: Vec<Subnet> = std::iter::once(&up.pool)
                .chain(&up.pool6)
                .map(Pool::subnet)
                .collect();
            up.bridge = bridge::ensure(&mut socket, name, &self.inner.mark, mtu, &subnets)?;
            for endpoint in self.facts().endpoints {
                note(&endpoint.container, reconnect(&mut socket, &endpoint, up.bridge));
            }
            return up.filter.write();
        }
        bridge::find(&mut socket, name, &self.inner.mark)?;
        let record = self.decide(&mut socket)?;
        let forwarding = self.record_changes(&mut socket, record.subnet6.is_some())?;
        let subnets = record.subnets();
        let bridge = bridge::ensure(&mut socket, name, &self.inner.mark, mtu, &subnets)?;
        let rulesets = subnets.iter().map(|subnet| Ruleset {
            bridge: name.clone(),
            subnet: *subnet,
            closed: forwarding.closed(subnet.address().is_ipv4()).clone(),
        });
        let mut filter = Filter::open(rulesets.collect())?;
        let (mut pool, mut pool6) = (Pool::new(record.subnet), record.subnet6.map(Pool::new));
        let mut published = BTreeSet::new();
        for endpoint in self.connected() {
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
            published.extend(mappings(&endpoint));
        }
        filter.expect(published);
        filter.write()?;
        // Only now, so that there is no moment in which anything is forwarded that shall not be.
        forwarding.apply()?;
        self.watch(&filter)?;
        for warning in self.warnings() {
            tracing::warn!("{warning}");
        }
        self.table_mut().subnets = subnets;
        state.up = Some(Up {
            bridge,
            pool,
            pool6,
            filter,
        });
        Ok(())
    }

    /// The network's subnets: as configured, else as the last time, else what is free. Written down before they are used. While containers are
    /// connected they stay what they are, whatever is configured by now.
    fn decide(&self, socket: &mut Socket) -> Result<NetworkRecord> {
        let settings = &self.inner.settings.bridge;
        let before = self.inner.networks.load(DEFAULT)?;
        let host = self.host_record()?;
        let is_used = !self.table().endpoints.is_empty();
        if let (true, Some(before), Some(_)) = (is_used, &before, &host) {
            if host.is_some_and(|host| host.bridge != settings.name) {
                tracing::warn!(
                    bridge = settings.name,
                    "the bridge has another name by now: running containers move to it"
                );
                self.take_down(None)?;
            }
            if !plan::is_as_configured(settings, before) {
                tracing::warn!(
                    subnet = %before.subnet,
                    "the network's new settings take effect when no container is connected any more"
                );
            }
            return Ok(before.clone());
        }
        let own = route::link_index(socket, &settings.name)?;
        let routes: Vec<Subnet> = route::routes(socket)?
            .into_iter()
            .filter(|(_, interface)| Some(*interface) != own)
            .map(|(subnet, _)| subnet)
            .collect();
        let record = self.choose(before.as_ref(), &routes)?;
        // What a killed daemon left up with other settings.
        let differs = |host: &HostRecord| {
            host.bridge != settings.name || before.as_ref().is_some_and(|b| b.subnets() != record.subnets())
        };
        if host.as_ref().is_some_and(differs) {
            self.take_down(None)?;
        }
        if before.as_ref() != Some(&record) {
            self.inner.networks.save(&record)?;
        }
        Ok(record)
    }

    fn choose(&self, before: Option<&NetworkRecord>, routes: &[Subnet]) -> Result<NetworkRecord> {
        let settings = &self.inner.settings.bridge;
        let taken = |subnet: Subnet| plan::overlap(subnet, routes).map(|route| (subnet, route));
        let subnet = match settings.subnet {
            Some(subnet) => Some(subnet),
            None => plan::choose_subnet(before.map(|b| b.subnet), routes),
        };
        let subnet = subnet.ok_or_else(|| NetworkError::NoSubnet {
            bridge: settings.name.clone(),
        })?;
        let made_up6 = before
            .and_then(|b| b.made_up6.or(b.subnet6))
            .filter(|subnet| taken(*subnet).is_none());
        let (subnet6, made_up6) = match settings.ipv6 {
            _ if !namespace::has_kernel_ipv6() => (None, made_up6),
            Ipv6::Off => (None, made_up6),
            Ipv6::Subnet(subnet) => (Some(subnet), made_up6),
            // Somebody switched it off for this host, which only a subnet given by name overrides.
            Ipv6::Local if !namespace::has_ipv6_by_default() => (None, made_up6),
            Ipv6::Local => {
                let local = made_up6.or(plan::local_ipv6(random()?));
                (local, local)
            }
        };
        if let Some((subnet, route)) = taken(subnet).or_else(|| subnet6.and_then(taken)) {
            return Err(NetworkError::SubnetTaken {
                bridge: settings.name.clone(),
                subnet,
                route,
            });
        }
        Ok(NetworkRecord {
            name: DEFAULT.into(),
            subnet,
            subnet6,
            made_up6,
        })
    }

    /// Writes down what will be changed on the host, with what is changed already.
    fn record_changes(&self, socket: &mut Socket, with_ipv6: bool) -> Result<Forwarding> {
        let before = self.host_record()?;
        let bridge = &self.inner.settings.bridge.name;
        let forwarding = Forwarding::plan(socket, bridge, with_ipv6)?;
        let record = HostRecord {
            boot_id: self.inner.boot_id.clone(),
            bridge: bridge.clone(),
            forwarding: match &before {
                Some(before) => forwarding.after(before.forwarding.clone()),
                None => forwarding,
            },
        };
        if before.as_ref() != Some(&record) {
            self.inner.host.save(&record)?;
        }
        Ok(record.forwarding)
    }

    pub(crate) fn host_record(&self) -> Result<Option<HostRecord>> {
        let record = self.inner.host.load(HostRecord::KEY)?;
        Ok(record.filter(|record| record.boot_id == self.inner.boot_id))
    }

    fn watch(&self, filter: &Filter) -> Result<()> {
        let weak = Arc::downgrade(&self.inner);
        let watch = Watch::start(
            self.inner.settings.bridge.name.clone(),
            filter.port(),
            move |event| {
                if let Some(inner) = weak.upgrade() {
                    Networks { inner }.disturbed(&event);
                }
            },
        )?;
        *self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        Ok(())
    }

    /// What an earlier daemon left up for containers that ended since: its rules would lead their ports to nobody.
    pub(crate) fn take_down_unused(&self) {
        let state = self.state();
        if state.up.is_none()
            && self.table().endpoints.is_empty()
            && let Err(error) = self.take_down(None)
        {
            tracing::error!(%error, "what a former daemon left of the network cannot be removed");
        }
    }

    /// Connects a container's interface with the bridge again.
    pub(crate) fn reconnect(&self, id: &ContainerId) -> Result<()> {
        let state = self.state();
        let (Some(endpoint), Some(up)) = (self.endpoint(id), &state.up) else {
            return Ok(());
        };
        reconnect(&mut Socket::open(Family::Route)?, &endpoint, up.bridge)
    }

    /// Leaves the host as it was found, if no container is connected any more. To be called when the daemon ends: nothing is connected after it.
    pub fn close(&self) {
        // First the watcher: what is removed now shall not be written again. Its thread may be waiting for the state.
        let watch = self
            .inner
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(watch);
        let mut state = self.settled();
        state.closed = true;
        let connected = self.table().endpoints.len();
        if connected > 0 {
            tracing::info!(
                containers = connected,
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
        let link = Socket::open(Family::Route).and_then(|mut socket| {
            let link = route::link(&mut socket, &record.bridge)?;
            Ok((socket, link))
        });
        // Tables have no owner's mark but the bridge's.
        let (rules, removed) = match link {
            Ok((_, Some(link))) if self.inner.mark.is_of_another(&link) => (Ok(()), Ok(())),
            Ok((mut socket, _)) => (
                self.remove_rules(up, &record.bridge),
                bridge::remove(&mut socket, &record.bridge, &self.inner.mark),
            ),
            Err(error) => (self.remove_rules(up, &record.bridge), Err(error)),
        };
        record.forwarding.restore(&record.bridge);
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
        match filter.remove() {
            // A kernel without nf_tables, or that refuses it, has none of ours either.
            Err(error) if error.is_unsupported() => Ok(()),
            result => result,
        }
    }

    fn rulesets_of_record(&self, bridge: &str) -> Result<Vec<Ruleset>> {
        let record = self.inner.networks.load(DEFAULT)?;
        let ruleset = |subnet: Subnet| Ruleset {
            bridge: bridge.to_owned(),
            subnet,
            closed: Closed::default(),
        };
        Ok(record.map_or_else(Vec::new, |record| {
            record.subnets().into_iter().map(ruleset).collect()
        }))
    }
}

impl Networks {
    /// Somebody took something that is ours.
    fn disturbed(&self, event: &Event) {
        let result = match event {
            Event::Proxy(id) => {
                self.proxy_ended(id);
                return;
            }
            Event::Rules | Event::Bridge => self.repair(),
        };
        if let Err(error) = result {
            tracing::error!(%error, "the bridge or the packet filter's rules were changed by somebody and cannot be repaired");
        }
    }

    /// Makes bridge and rules again where they are not what they were.
    fn repair(&self) -> Result<()> {
        let name = &self.inner.settings.bridge.name;
        let link = Socket::open(Family::Route).and_then(|mut socket| route::link(&mut socket, name));
        if let Ok(Some(link)) = link
            && self.inner.mark.is_of_another(&link)
        {
            tracing::error!(
                bridge = name,
                "the bridge was removed, and another crozed has made its own"
            );
            return Ok(());
        }
        let mut state = self.state();
        if state.closed || state.up.is_none() {
            return Ok(());
        }
        self.bring_up(&mut state)?;
        let Some(up) = &mut state.up else { return Ok(()) };
        let found = up.filter.is_intact();
        if matches!(found, Ok(true)) {
            return Ok(());
        }
        found.and_then(|_| up.filter.write())?;
        tracing::warn!("the packet filter's rules were changed by somebody; they are written again");
        // Who sent something while they were gone was led astray.
        let published = self.connected().iter().flat_map(mappings).collect();
        forget::misled(&published)
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
