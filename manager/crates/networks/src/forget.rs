//! Which remembered connections must go when a container does, and when its ports are published.
//!
//! | when | what is forgotten | or else |
//! |---|---|---|
//! | a container is released | whatever its addresses take part in | who has the address next hears its clients, past every rule: answers are let through |
//! | a port is published, or the rules are written again | datagrams that were sent to the port and do not lead to its container | a client that goes on sending never gets there |
//!
//! TCP needs the first only: a connection that leads nowhere ends, and the next one is a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use croze_model::{ContainerId, Protocol};

use crate::error::NetworkError;
use crate::netlink::conntrack::{self, Connection};
use crate::netlink::{Family, Socket};
use crate::records::Endpoint;
use crate::rules::Mapping;
use crate::service::Result;

/// For more addresses of a family than this everything is looked through, once.
const FEW: usize = 4;

/// Whose addresses these are.
type Owners<'a> = BTreeMap<IpAddr, &'a ContainerId>;
/// Of whom something is remembered still, and the first reason why.
type Kept = BTreeMap<ContainerId, NetworkError>;

/// Forgets everything that these containers take part in. What fails for one keeps nothing of another; it is returned by whom it concerns.
pub(crate) fn endpoints<'a>(socket: &mut Socket, endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Kept {
    let owned = endpoints
        .into_iter()
        .flat_map(|endpoint| endpoint.addresses().map(|own| (own.address, &endpoint.container)));
    let (ipv4, ipv6): (Owners<'_>, Owners<'_>) = owned.partition(|(address, _)| address.is_ipv4());
    let mut kept = Kept::new();
    for owners in [ipv4, ipv6] {
        for connection in remembered(socket, &owners, &mut kept) {
            if let Err(error) = conntrack::forget(socket, &connection) {
                let mut sides = [connection.reply.source, connection.original.source].into_iter();
                if let Some(owner) = sides.find_map(|side| owners.get(&side)) {
                    kept.entry((*owner).clone()).or_insert(error);
                }
            }
        }
    }
    kept
}

/// What the owners of these addresses, all of one family, take part in.
fn remembered(socket: &mut Socket, owners: &Owners<'_>, kept: &mut Kept) -> Vec<Connection> {
    if let Some((first, _)) = owners.first_key_value()
        && owners.len() > FEW
    {
        match conntrack::with_any(socket, first.is_ipv4(), |address| owners.contains_key(address)) {
            Ok(found) => return found,
            Err(error) => {
                tracing::warn!(%error, "one container's connections after the other's are looked for");
            }
        }
    }
    let mut found = Vec::new();
    for (address, owner) in owners {
        match conntrack::with_one(socket, *address) {
            Ok(its) => found.extend(its),
            Err(error) => {
                kept.entry((*owner).clone()).or_insert(error);
            }
        }
    }
    found
}

/// Forgets datagrams that go elsewhere than these ports lead now.
pub(crate) fn misled(mappings: &BTreeSet<Mapping>) -> Result<()> {
    let mut udp = mappings
        .iter()
        .filter(|mapping| mapping.protocol == Protocol::Udp)
        .peekable();
    if udp.peek().is_none() {
        return Ok(());
    }
    let mut socket = Socket::open(Family::Filter)?;
    for mapping in udp {
        let found = conntrack::towards(
            &mut socket,
            mapping.target.is_ipv4(),
            mapping.protocol,
            mapping.port,
        )?;
        for connection in found.iter().filter(|one| is_misled(one, mapping)) {
            conntrack::forget(&mut socket, connection)?;
        }
    }
    Ok(())
}

/// Whether a connection towards the mapping's port goes where no mapping leads it: to who was asked, though the port leads on.
fn is_misled(connection: &Connection, mapping: &Mapping) -> bool {
    let asked = connection.original.destination;
    mapping.host.is_none_or(|host| host == asked)
        // What a container or another network sends out by this host is somebody's own business: its source was changed.
        && connection.reply.destination == connection.original.source
        && connection.reply.source == asked
        && asked != mapping.target
        && !asked.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_past_a_published_port_is_misled() {
        let mapping = |host: Option<&str>| Mapping {
            protocol: Protocol::Udp,
            host: host.map(|host| host.parse().unwrap()),
            port: 5000,
            target: "172.30.0.2".parse().unwrap(),
            target_port: 80,
        };
        for (original, reply, host, is) in [
            // To the host itself: the proxy has it.
            (("10.9.0.2", "10.9.0.1"), ("10.9.0.1", "10.9.0.2"), None, true),
            (
                ("10.9.0.2", "10.9.0.1"),
                ("10.9.0.1", "10.9.0.2"),
                Some("10.9.0.1"),
                true,
            ),
            (
                ("10.9.0.2", "10.9.0.1"),
                ("10.9.0.1", "10.9.0.2"),
                Some("10.9.0.7"),
                false,
            ),
            // Led to the container.
            (("10.9.0.2", "10.9.0.1"), ("172.30.0.2", "10.9.0.2"), None, false),
            // A container asks a server of the world at the same port.
            (("172.30.0.3", "8.8.8.8"), ("8.8.8.8", "10.9.0.1"), None, false),
            // Loopback addresses are the proxy's.
            (
                ("127.0.0.1", "127.0.0.1"),
                ("127.0.0.1", "127.0.0.1"),
                None,
                false,
            ),
        ] {
            let connection = Connection::between(original, reply);
            assert_eq!(
                is_misled(&connection, &mapping(host)),
                is,
                "{connection:?} {host:?}"
            );
        }
    }
}
