//! What a container is asked to be on the network, and what it has become there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::joining::JoinedNamespace;
use croze_model::{ExposedPorts, Publish};
use serde::{Deserialize, Serialize};

/// The kind of network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace with nothing but a loopback.
    #[default]
    None,
    /// The host's own.
    Host,
    /// An interface on the default bridge.
    Bridge,
    /// That of another container; its id, or before the container is created whatever names it.
    Container(String),
}

impl Network {
    /// The network of this name, as users write it; `None`: there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "host" => Some(Self::Host),
            // "default" is docker's word for what nobody chose.
            "bridge" | "default" => Some(Self::Bridge),
            other => other
                .strip_prefix("container:")
                .filter(|container| !container.is_empty())
                .map(|container| Self::Container(container.to_owned())),
        }
    }

    /// The name users write.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::None => "none".into(),
            Self::Host => "host".into(),
            Self::Bridge => "bridge".into(),
            Self::Container(container) => format!("container:{container}"),
        }
    }
}

/// Ports and addresses that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkOptions {
    /// Ports of the host that shall lead to the container.
    pub publish: Vec<Publish>,
    /// Every exposed port is published on a port that is free.
    pub publish_all: bool,
    /// Ports that the container offers, besides its image's.
    pub expose: Vec<ExposedPorts>,
    /// A wanted IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// A wanted IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// A wanted hardware address, in the words of the request.
    pub mac: Option<String>,
}

impl NetworkOptions {
    /// Whether nothing is asked for that needs a network of the container's own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a container is connected when it is started.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The network namespace to join; `None`: a new one, or the host's, as the request says.
    pub namespace: Option<PathBuf>,
    /// What keeps that path valid, where it is a process's.
    pub held: Option<JoinedNamespace>,
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's addresses, as the container sees it.
    pub gateways: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_named() {
        for name in ["none", "host", "bridge", "container:web"] {
            assert_eq!(Network::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Network::from_name("default"), Some(Network::Bridge));
        for bad in ["", "container:", "Bridge", "web"] {
            assert_eq!(Network::from_name(bad), None, "{bad}");
        }
    }
}
