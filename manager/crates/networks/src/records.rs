//! What is kept in files: the network, each container's connection to it, and what was changed on the host.
//!
//! ```text
//!   <root>/networks/bridge.json           lasts: the subnets that were chosen
//!   <run root>/network/host.json          what was changed on the host, with the boot in which that is true
//!   <run root>/network/endpoints/<id>.json    one for each connected container; leases of addresses are rebuilt from these
//!   <run root>/netns/<id>                 its namespace, a mount
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use croze_model::ContainerId;
use croze_store::Record;
use serde::{Deserialize, Serialize};

use crate::address::{Mac, Subnet};
use crate::forwarding::Forwarding;
use crate::ports::PublishedPort;

/// The default network as it was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// The network's name.
    pub(crate) name: String,
    /// IPv4.
    pub(crate) subnet: Subnet,
    /// IPv6, where it has that.
    pub(crate) subnet6: Option<Subnet>,
    /// The one that was made up, also while it is not used.
    #[serde(default)]
    pub(crate) made_up6: Option<Subnet>,
}

impl NetworkRecord {
    /// Those that it has.
    pub(crate) fn subnets(&self) -> Vec<Subnet> {
        std::iter::once(self.subnet).chain(self.subnet6).collect()
    }
}

impl Record for NetworkRecord {
    const KIND: &'static str = "network";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// What was changed on the host for the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    /// The boot in which it is true.
    pub(crate) boot_id: String,
    /// The bridge that was made.
    pub(crate) bridge: String,
    /// Its settings.
    #[serde(flatten)]
    pub(crate) forwarding: Forwarding,
}

impl HostRecord {
    pub(crate) const KEY: &'static str = "host";
}

impl Record for HostRecord {
    const KIND: &'static str = "network-host";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        Self::KEY.into()
    }
}

/// A container's connection to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container.
    pub container: ContainerId,
    /// Its name, for messages.
    pub name: String,
    /// The boot in which this is true.
    pub(crate) boot_id: String,
    /// The pinned network namespace.
    pub namespace: PathBuf,
    /// The host's end of the veth pair.
    pub interface: String,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Address,
    /// IPv6 address, where the network has that.
    pub ipv6: Option<Address>,
    /// Ports of the host that lead here.
    pub ports: Vec<PublishedPort>,
    /// The process that holds them.
    pub(crate) proxy: Option<ProcessMark>,
}

/// An address with its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// How many bits are the network's.
    pub prefix: u8,
    /// The way out.
    pub gateway: IpAddr,
}

/// A process that cannot be mistaken for a later one with the same number, within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Process id.
    pub pid: u32,
    /// Start time, clock ticks after boot.
    pub start_ticks: u64,
}

impl Record for Endpoint {
    const KIND: &'static str = "endpoint";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.container.as_str().to_owned()
    }
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        std::iter::once(self.ipv4).chain(self.ipv6)
    }
}
