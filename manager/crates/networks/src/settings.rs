//! What the default network shall be, what containers ask of it, and what can be said of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use croze_model::Publish;

use crate::address::{Mac, Subnet};
use crate::error::NetworkError;
use crate::records::Endpoint;

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
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
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
    pub ipv6: Option<Ipv6Addr>,
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
