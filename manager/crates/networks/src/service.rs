//! A container's connection: how it is attached, and what is known of it. How it is taken back: [`crate::leaving`].
//!
//! | lock | guards | held |
//! |---|---|---|
//! | `state` | pools, rules, sockets, what recovery has still to look at | while the kernel is asked: only ever taken on threads that may block |
//! | `table` | who is connected, and the subnets: what everybody asks for | never longer than a look or an insertion takes |
//!
//! `table` is changed with `state` locked, and may be locked within it; never the other way round. What takes long, making namespaces and waiting
//! for processes, is done without either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use croze_model::ContainerId;
use croze_store::Records;

use crate::address::{Mac, Pool, Subnet};
use crate::bridge::Mark;
use crate::error::NetworkError;
use crate::namespace::{self, Wanted};
use crate::ports::{self, Bound};
use crate::records::{Address, Endpoint, HostRecord, NetworkRecord};
use crate::recovery::Inherited;
use crate::rules::Mapping;
use crate::serving::Served;
use crate::settings::{AttachRequest, NetworkFacts, Settings};
use crate::tables::Filter;
use crate::watch::Watch;
use crate::{foreign, forget, plan};

pub(crate) type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// The name of the default network.
pub(crate) const DEFAULT: &str = "bridge";

/// All networks of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) boot_id: String,
    /// What the bridge of this daemon bears.
    pub(crate) mark: Mark,
    pub(crate) networks: Records<NetworkRecord>,
    pub(crate) host: Records<HostRecord>,
    pub(crate) endpoints: Records<Endpoint>,
    pub(crate) state: Mutex<State>,
    pub(crate) table: RwLock<Table>,
    /// Told whenever a container has left.
    pub(crate) left: Condvar,
    /// Ends with the network, or with this.
    pub(crate) watch: Mutex<Option<Watch>>,
}

/// What can be asked at any time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Connected containers, and those in `gone`.
    pub(crate) endpoints: BTreeMap<ContainerId, Endpoint>,
    /// Those whose ports are free already, while the kernel still takes their interfaces away: nobody is told of them.
    pub(crate) gone: BTreeSet<ContainerId>,
    /// Those of the network, as chosen the last time.
    pub(crate) subnets: Vec<Subnet>,
}

/// What the slow lock guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The network, while it is up.
    pub(crate) up: Option<Up>,
    /// What an earlier daemon left, until recovery has looked at it.
    pub(crate) inherited: Inherited,
    /// Containers whose connection is being taken back.
    pub(crate) leaving: BTreeSet<ContainerId>,
    /// Those of them whose ports are free, for the thread that does the rest.
    pub(crate) departures: Vec<Endpoint>,
    /// Whether there is such a thread.
    pub(crate) is_clearing: bool,
    /// Bound sockets that no proxy has yet.
    pub(crate) pending: BTreeMap<ContainerId, Vec<Bound>>,
    /// For whom ports are served.
    pub(crate) served: BTreeMap<ContainerId, Served>,
    /// Proxies that are children of this process.
    pub(crate) children: BTreeMap<ContainerId, Child>,
    /// The daemon ends: nothing is brought up any more.
    pub(crate) closed: bool,
}

/// The network while its bridge exists.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) bridge: u32,
    pub(crate) pool: Pool,
    pub(crate) pool6: Option<Pool>,
    pub(crate) filter: Filter,
}

impl Networks {
    /// Opens the records; nothing is made yet. Their addresses and ports are taken until [`Networks::recover`] has looked at them.
    ///
    /// # Errors
    /// [`NetworkError::BridgeName`], or what the file system says.
    pub fn open(settings: Settings) -> Result<Self> {
        settings.bridge.check()?;
        let run = settings.run_root.join("network");
        for dir in [&run, &run.join("endpoints"), &settings.run_root.join("netns")] {
            croze_store::create_private_dir(dir)?;
        }
        let boot_id = croze_sys::process::boot_id().map_err(|error| NetworkError::Kernel {
            what: "read the boot id".into(),
            source: std::io::Error::other(error),
        })?;
        let run_root = &settings.run_root;
        let run_root = fs::canonicalize(run_root).map_err(NetworkError::file("resolve", run_root))?;
        let networks = Records::<NetworkRecord>::flat(settings.root.join("networks"));
        let subnets = networks
            .load(DEFAULT)?
            .map_or_else(Vec::new, |record| record.subnets());
        let inner = Inner {
            boot_id,
            mark: Mark::of(&run_root),
            networks,
            host: Records::flat(&run),
            endpoints: Records::flat(run.join("endpoints")),
            settings,
            state: Mutex::default(),
            table: RwLock::new(Table {
                subnets,
                ..Table::default()
            }),
            left: Condvar::new(),
            watch: Mutex::default(),
        };
        let networks = Self {
            inner: Arc::new(inner),
        };
        networks.inherit()?;
        Ok(networks)
    }

    /// Connects a container to the default network. One that is connected stays so.
    ///
    /// | step | undo |
    /// |---|---|
    /// | the network is up | none: it stays until crozed ends |
    /// | addresses taken | given back |
    /// | ports bound | sockets closed |
    /// | record written | removed |
    /// | namespace made, pinned, connected | interface and mount removed |
    /// | ports redirected | withdrawn |
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], [`NetworkError::AddressTaken`] and their like; what the kernel says.
    pub fn attach(&self, id: &ContainerId, request: &AttachRequest) -> Result<Endpoint> {
        {
            let mut state = self.wait_for_leaving(id);
            if let Some(endpoint) = self.endpoint(id) {
                // Whoever asks knows that it is in use: recovery has nothing to decide about it any more.
                state.inherited.claim(id);
                return Ok(endpoint);
            }
        }
        let (endpoint, bridge) = self.lease(id, request)?;
        let result = self.connect(&endpoint, bridge, request);
        if result.is_err() {
            // What fails here is told by the log; the first failure is the one to return.
            self.release(id);
        }
        result
    }

    /// Addresses, and a place among the endpoints. What is not to be had while containers are leaving is asked for again when they have left.
    fn lease(&self, id: &ContainerId, request: &AttachRequest) -> Result<(Endpoint, u32)> {
        let mut state = self.state();
        let mut hoped_for: Option<BTreeSet<ContainerId>> = None;
        let (ipv4, ipv6, bridge) = loop {
            self.bring_up(&mut state)?;
            // Those that leave by now, and no later ones: who asks for what is never free shall not wait for ever.
            let hope = hoped_for.get_or_insert_with(|| state.leaving.clone());
            let some_leave = !hope.is_disjoint(&state.leaving);
            let up = state.up.as_mut().ok_or(NetworkError::Interrupted)?;
            match take_both(up, request) {
                Err(NetworkError::AddressTaken { .. } | NetworkError::NoFreeAddress { .. }) if some_leave => {
                    state = self
                        .inner
                        .left
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Err(error) => return Err(error),
                Ok((ipv4, ipv6)) => break (ipv4, ipv6, up.bridge),
            }
        };
        let own_mac = match ipv4.address {
            IpAddr::V4(address) => Mac::of(address),
            IpAddr::V6(_) => Mac([2; 6]),
        };
        let endpoint = Endpoint {
            container: id.clone(),
            name: request.name.clone(),
            boot_id: self.inner.boot_id.clone(),
            namespace: self.namespace_path(id.as_str()),
            interface: plan::interface_name(id),
            mac: request.mac.unwrap_or(own_mac),
            ipv4,
            ipv6,
            ports: Vec::new(),
            proxy: None,
        };
        self.table_mut().endpoints.insert(id.clone(), endpoint.clone());
        drop(state);
        Ok((endpoint, bridge))
    }

    fn connect(&self, endpoint: &Endpoint, bridge: u32, request: &AttachRequest) -> Result<Endpoint> {
        let bound = ports::bind_all(
            &request.publish,
            namespace::has_kernel_ipv6(),
            |protocol, address| self.own_holder(protocol, address),
        )?;
        let endpoint = Endpoint {
            ports: bound.iter().map(|b| b.port).collect(),
            ..endpoint.clone()
        };
        self.inner.endpoints.save(&endpoint)?;
        let addresses: Vec<_> = endpoint
            .addresses()
            .map(|a| (a.address, a.prefix, a.gateway))
            .collect();
        namespace::create(&Wanted {
            path: &endpoint.namespace,
            veth: &endpoint.interface,
            bridge,
            mac: endpoint.mac,
            mtu: self.inner.settings.bridge.mtu,
            addresses: &addresses,
        })?;
        let mut state = self.state();
        if let Some(up) = &mut state.up {
            let mappings = mappings(&endpoint);
            up.filter.publish(&mappings)?;
            note(&endpoint.container, forget::misled(&mappings));
        }
        if !bound.is_empty() {
            state.pending.insert(endpoint.container.clone(), bound);
        }
        self.table_mut()
            .endpoints
            .insert(endpoint.container.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// A container's connection. Never waits for the kernel.
    #[must_use]
    pub fn endpoint(&self, id: &ContainerId) -> Option<Endpoint> {
        let table = self.table();
        let endpoint = table.endpoints.get(id)?;
        (!table.gone.contains(id)).then(|| endpoint.clone())
    }

    /// The default network as it is. Never waits for the kernel.
    #[must_use]
    pub fn facts(&self) -> NetworkFacts {
        let table = self.table();
        NetworkFacts {
            name: DEFAULT.into(),
            bridge: self.inner.settings.bridge.name.clone(),
            subnets: table
                .subnets
                .iter()
                .map(|subnet| (*subnet, Pool::new(*subnet).gateway()))
                .collect(),
            mtu: self.inner.settings.bridge.mtu,
            endpoints: table
                .endpoints
                .values()
                .filter(|endpoint| !table.gone.contains(&endpoint.container))
                .cloned()
                .collect(),
        }
    }

    /// What keeps containers from being reached or from reaching others, with what to do about it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        foreign::observe(&self.inner.settings.bridge.name).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who is connected, or has an interface still.
    pub(crate) fn connected(&self) -> Vec<Endpoint> {
        self.table().endpoints.values().cloned().collect()
    }

    /// To be taken with the state locked.
    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn namespace_path(&self, name: &str) -> PathBuf {
        self.inner.settings.run_root.join("netns").join(name)
    }

    /// Names of pinned namespaces.
    pub(crate) fn pinned(&self) -> Result<BTreeSet<String>> {
        let dir = self.inner.settings.run_root.join("netns");
        let entries = fs::read_dir(&dir).map_err(NetworkError::file("list", &dir))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }
}

fn take_both(up: &mut Up, request: &AttachRequest) -> Result<(Address, Option<Address>)> {
    let ipv4 = take(&mut up.pool, request.ipv4.map(IpAddr::V4))?;
    let ipv6 = match (&mut up.pool6, request.ipv6) {
        (Some(pool), wanted) => take(pool, wanted.map(IpAddr::V6)).map(Some),
        (None, Some(wanted)) => Err(NetworkError::NoIpv6 {
            address: wanted.into(),
        }),
        (None, None) => Ok(None),
    };
    if ipv6.is_err() {
        up.pool.free(ipv4.address);
    }
    Ok((ipv4, ipv6?))
}

fn take(pool: &mut Pool, wanted: Option<IpAddr>) -> Result<Address> {
    let address = match wanted {
        Some(address) => pool.take_this(address).map(|()| address)?,
        None => pool.take()?,
    };
    Ok(Address {
        address,
        prefix: pool.subnet().prefix(),
        gateway: pool.gateway(),
    })
}

/// Logs what could not be done for a container's network.
pub(crate) fn note(id: &ContainerId, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(container = id.short(), %error, "a part of its network is not as it should be");
    }
}

/// What the packet filter shall do for an endpoint. Ports on loopback addresses are the proxy's alone.
pub(crate) fn mappings(endpoint: &Endpoint) -> BTreeSet<Mapping> {
    let mapping = |port: &crate::PublishedPort| {
        let target = match port.host_ip {
            IpAddr::V4(_) => Some(endpoint.ipv4),
            IpAddr::V6(_) => endpoint.ipv6,
        }?;
        (!port.host_ip.is_loopback()).then_some(Mapping {
            protocol: port.protocol,
            host: (!port.host_ip.is_unspecified()).then_some(port.host_ip),
            port: port.host_port,
            target: target.address,
            target_port: port.container_port,
        })
    };
    endpoint.ports.iter().filter_map(mapping).collect()
}
