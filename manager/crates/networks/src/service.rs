//! A container's connection: attached, and taken back.
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
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::ports::{self, Bound};
use crate::records::{Address, Endpoint, HostRecord, NetworkRecord};
use crate::recovery::Inherited;
use crate::rules::Mapping;
use crate::serving::Served;
use crate::settings::{AttachRequest, NetworkFacts, Settings};
use crate::tables::Filter;
use crate::watch::Watch;
use crate::{foreign, forget, plan, proxy};

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
    left: Condvar,
    /// Ends with the network, or with this.
    pub(crate) watch: Mutex<Option<Watch>>,
}

/// What can be asked at any time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Connected containers.
    pub(crate) endpoints: BTreeMap<ContainerId, Endpoint>,
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
    leaving: BTreeSet<ContainerId>,
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

    /// Addresses, and a place among the endpoints.
    fn lease(&self, id: &ContainerId, request: &AttachRequest) -> Result<(Endpoint, u32)> {
        let mut state = self.state();
        self.bring_up(&mut state)?;
        let up = state.up.as_mut().ok_or(NetworkError::Interrupted)?;
        let ipv4 = take(&mut up.pool, request.ipv4.map(IpAddr::V4))?;
        let ipv6 = match (&mut up.pool6, request.ipv6) {
            (Some(pool), wanted) => take(pool, wanted.map(IpAddr::V6)).map(Some),
            (None, Some(wanted)) => Err(NetworkError::NoIpv6 {
                address: wanted.into(),
            }),
            (None, None) => Ok(None),
        };
        let ipv6 = match ipv6 {
            Ok(ipv6) => ipv6,
            Err(error) => {
                up.pool.free(ipv4.address);
                return Err(error);
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
        let bridge = up.bridge;
        self.table_mut().endpoints.insert(id.clone(), endpoint.clone());
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

    /// Takes a container's connection back; when this returns its ports are free. One that is not connected is no error.
    pub fn detach(&self, id: &ContainerId) {
        self.release(id);
    }

    /// Everything that an endpoint has is taken back, whatever fails; what failed is logged, and found again by recovery.
    pub(crate) fn release(&self, id: &ContainerId) {
        drop(self.wait_for_leaving(id));
        let (endpoint, child) = {
            let mut state = self.state();
            let Some(endpoint) = self.endpoint(id) else {
                return;
            };
            state.leaving.insert(id.clone());
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
        note(
            id,
            Socket::open(Family::Route).and_then(|mut s| route::remove_link(&mut s, &endpoint.interface)),
        );
        // Nothing more comes from it, and nothing that is remembered shall lead to the next one that has its address.
        note(id, forget::endpoint(&endpoint));
        note(id, namespace::remove(&endpoint.namespace));
        let forgotten = self.inner.endpoints.remove(id.as_str());
        note(id, forgotten.map(drop).map_err(NetworkError::from));
        let mut state = self.state();
        if let Some(up) = &mut state.up {
            // Brought up since the beginning of this, it has been told of these ports.
            note(id, up.filter.withdraw(&mappings(&endpoint)));
            up.pool.free(endpoint.ipv4.address);
            if let (Some(pool), Some(ipv6)) = (&mut up.pool6, endpoint.ipv6) {
                pool.free(ipv6.address);
            }
        }
        self.table_mut().endpoints.remove(id);
        state.leaving.remove(id);
        drop(state);
        self.inner.left.notify_all();
    }

    /// The state, when this container is not about to leave.
    fn wait_for_leaving(&self, id: &ContainerId) -> MutexGuard<'_, State> {
        self.inner
            .left
            .wait_while(self.state(), |state| state.leaving.contains(id))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A container's connection. Never waits for the kernel.
    #[must_use]
    pub fn endpoint(&self, id: &ContainerId) -> Option<Endpoint> {
        self.table().endpoints.get(id).cloned()
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
            endpoints: table.endpoints.values().cloned().collect(),
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

    /// Everybody who is connected.
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
