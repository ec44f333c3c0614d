//! The verbs: attach, serve ports, detach, recover, close.
//!
//! One lock guards the network's state (pools, endpoints, rules); what takes long, making namespaces and waiting for processes, is done
//! without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use croze_model::{ContainerId, Publish};
use croze_store::Records;

use crate::address::{Mac, Pool, Subnet};
use crate::bridge::Mark;
use crate::error::NetworkError;
use crate::namespace::{self, Wanted};
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::ports::{self, Bound};
use crate::records::{Address, Endpoint, HostRecord, NetworkRecord, ProcessMark};
use crate::rules::{Filter, Mapping};
use crate::watch::Watch;
use crate::{foreign, plan, proxy};

pub(crate) type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// The name of the default network.
pub(crate) const DEFAULT: &str = "bridge";

/// Where things are, and how the default network shall be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Durable state.
    pub root: PathBuf,
    /// State of this boot.
    pub run_root: PathBuf,
    /// The program that becomes a port proxy.
    pub shim: PathBuf,
    /// The default network.
    pub bridge: BridgeSettings,
}

/// How the default network shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// The bridge's name, and that of its packet filter tables.
    pub name: String,
    /// IPv4 subnet; `None`: one that the host does not use.
    pub subnet: Option<Subnet>,
    /// IPv6.
    pub ipv6: Ipv6,
    /// Largest packet, bytes.
    pub mtu: u32,
}

/// Whether the network has IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// No.
    Off,
    /// With a unique local subnet of its own, made up once.
    Local,
    /// With this subnet.
    Subnet(Subnet),
}

impl Default for BridgeSettings {
    fn default() -> Self {
        Self {
            name: "croze0".into(),
            subnet: None,
            ipv6: Ipv6::Local,
            mtu: 1500,
        }
    }
}

impl BridgeSettings {
    fn check(&self) -> Result<()> {
        let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '\0');
        let name = &self.name;
        if (1..=15).contains(&name.len()) && !name.contains(bad) && name != "." && name != ".." {
            Ok(())
        } else {
            Err(NetworkError::BridgeName { name: name.clone() })
        }
    }
}

/// What a container wants of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container's name, for messages.
    pub name: String,
    /// A wanted address; `None`: the next free one.
    pub ipv4: Option<Ipv4Addr>,
    /// A wanted IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// A wanted hardware address; `None`: one that follows from the IPv4 address.
    pub mac: Option<Mac>,
    /// Ports to publish.
    pub publish: Vec<Publish>,
}

/// What can be said of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its name.
    pub name: String,
    /// The bridge's name.
    pub bridge: String,
    /// Subnets with their gateways; none before the network was used for the first time.
    pub subnets: Vec<(Subnet, IpAddr)>,
    /// Largest packet.
    pub mtu: u32,
    /// Connected containers.
    pub endpoints: Vec<Endpoint>,
}

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
    /// Ends with the network, or with this.
    pub(crate) watch: Mutex<Option<Watch>>,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The network, while it is up.
    pub(crate) up: Option<Up>,
    /// Connected containers.
    pub(crate) endpoints: BTreeMap<ContainerId, Endpoint>,
    /// Those of them that an earlier daemon connected, until recovery has looked at them.
    pub(crate) unverified: BTreeSet<ContainerId>,
    /// Bound sockets that no proxy has yet.
    pub(crate) pending: BTreeMap<ContainerId, Vec<Bound>>,
    /// Proxies that are children of this process.
    pub(crate) children: BTreeMap<ContainerId, Child>,
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
    /// Opens the records; nothing is made yet.
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
        let endpoints = Records::<Endpoint>::flat(run.join("endpoints"));
        // Their addresses and ports are taken until recovery has looked at them.
        let found: BTreeMap<_, _> = endpoints
            .list()?
            .into_iter()
            .filter(|endpoint| endpoint.boot_id == boot_id)
            .map(|endpoint| (endpoint.container.clone(), endpoint))
            .collect();
        let state = State {
            unverified: found.keys().cloned().collect(),
            endpoints: found,
            ..State::default()
        };
        let run_root = &settings.run_root;
        let run_root = fs::canonicalize(run_root).map_err(NetworkError::file("resolve", run_root))?;
        let inner = Inner {
            boot_id,
            mark: Mark::of(&run_root),
            networks: Records::flat(settings.root.join("networks")),
            host: Records::flat(&run),
            endpoints,
            settings,
            state: Mutex::new(state),
            watch: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
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
        if let Some(endpoint) = self.endpoint(id) {
            return Ok(endpoint);
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
        state.endpoints.insert(id.clone(), endpoint.clone());
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
            up.filter.publish(&mappings(&endpoint))?;
        }
        if !bound.is_empty() {
            state.pending.insert(endpoint.container.clone(), bound);
        }
        state
            .endpoints
            .insert(endpoint.container.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// Which of our containers has published the port.
    fn own_holder(&self, protocol: croze_model::Protocol, address: std::net::SocketAddr) -> Option<String> {
        let state = self.state();
        let holds = |endpoint: &&Endpoint| {
            endpoint.ports.iter().any(|port| {
                port.protocol == protocol
                    && port.host_port == address.port()
                    && (port.host_ip == address.ip()
                        || port.host_ip.is_unspecified()
                        || address.ip().is_unspecified())
            })
        };
        let endpoint = state.endpoints.values().find(holds)?;
        Some(format!("container {}", endpoint.name))
    }

    /// Gives the ports' sockets to a process that holds them for as long as the container's first process lives. One that has no ports, or
    /// whose ports are served, is left alone.
    ///
    /// # Errors
    /// [`NetworkError::NotAttached`], [`NetworkError::Proxy`].
    pub fn serve_ports(&self, id: &ContainerId, container: ProcessMark) -> Result<()> {
        let (mut endpoint, bound) = {
            let mut state = self.state();
            let bound = state.pending.remove(id).unwrap_or_default();
            let endpoint = state.endpoints.get(id).cloned();
            (
                endpoint.ok_or_else(|| NetworkError::NotAttached {
                    container: id.short().into(),
                })?,
                bound,
            )
        };
        if bound.is_empty() {
            return Ok(());
        }
        let log = self
            .inner
            .settings
            .run_root
            .join("network")
            .join("port-proxy.log");
        let (child, mark) = proxy::start(&self.inner.settings.shim, &log, &endpoint, &bound, container)?;
        endpoint.proxy = Some(mark);
        let saved = self.inner.endpoints.save(&endpoint);
        let mut state = self.state();
        state.endpoints.insert(id.clone(), endpoint);
        state.children.insert(id.clone(), child);
        Ok(saved?)
    }

    /// Takes a container's connection back; when this returns its ports are free. One that is not connected is no error.
    pub fn detach(&self, id: &ContainerId) {
        self.release(id);
    }

    /// Everything that an endpoint has is taken back, whatever fails; what failed is logged, and found again by recovery.
    pub(crate) fn release(&self, id: &ContainerId) {
        let (endpoint, child) = {
            let mut state = self.state();
            let Some(endpoint) = state.endpoints.get(id).cloned() else {
                return;
            };
            state.pending.remove(id);
            if let Some(up) = &mut state.up {
                note(id, up.filter.withdraw(&mappings(&endpoint)));
            }
            (endpoint, state.children.remove(id))
        };
        if let Some(mark) = endpoint.proxy {
            note(id, proxy::stop(mark, child));
        }
        note(
            id,
            Socket::open(Family::Route).and_then(|mut s| route::remove_link(&mut s, &endpoint.interface)),
        );
        note(id, namespace::remove(&endpoint.namespace));
        let forgotten = self.inner.endpoints.remove(id.as_str());
        note(id, forgotten.map(drop).map_err(NetworkError::from));
        let mut state = self.state();
        if let Some(up) = &mut state.up {
            up.pool.free(endpoint.ipv4.address);
            if let (Some(pool), Some(ipv6)) = (&mut up.pool6, endpoint.ipv6) {
                pool.free(ipv6.address);
            }
        }
        state.endpoints.remove(id);
    }

    /// A container's connection.
    #[must_use]
    pub fn endpoint(&self, id: &ContainerId) -> Option<Endpoint> {
        self.state().endpoints.get(id).cloned()
    }

    /// The default network as it is.
    #[must_use]
    pub fn facts(&self) -> NetworkFacts {
        let state = self.state();
        let subnets = match &state.up {
            Some(up) => std::iter::once(&up.pool)
                .chain(&up.pool6)
                .map(|pool| (pool.subnet(), pool.gateway()))
                .collect(),
            None => {
                let record = self.inner.networks.load(DEFAULT).ok().flatten();
                let subnets = record.map(|r| std::iter::once(r.subnet).chain(r.subnet6));
                subnets
                    .into_iter()
                    .flatten()
                    .map(|subnet| (subnet, Pool::new(subnet).gateway()))
                    .collect()
            }
        };
        NetworkFacts {
            name: DEFAULT.into(),
            bridge: self.inner.settings.bridge.name.clone(),
            subnets,
            mtu: self.inner.settings.bridge.mtu,
            endpoints: state.endpoints.values().cloned().collect(),
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

/// Logs what could not be taken back.
pub(crate) fn note(id: &ContainerId, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(container = id.short(), %error, "a part of its network could not be removed");
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
