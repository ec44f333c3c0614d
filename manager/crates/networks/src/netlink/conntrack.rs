//! Connections that the kernel remembers: found by what they go to, and forgotten.
//!
//! The packet filter asks its maps for the first packet of a connection only; all others go where that one went, for as long as the kernel
//! remembers it. A client that keeps its port, as resolvers and games do, keeps it for ever. So what led to a container is forgotten with it, or
//! the next one that has the address would hear what was never meant for it.
//!
//! Names and numbers are those of `linux/netfilter/nfnetlink_conntrack.h`. A dump is filtered by the kernel (since 5.8): hosts remember millions. It
//! knows no sets: for one address the kernel looks at everything twice and copies next to nothing, so that for many addresses at once it is less
//! work to copy all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use croze_model::Protocol;

use super::{Attributes, Message, NESTED, Reply, Result, Socket};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
/// Which parts of a tuple a dump is to be filtered by.
const BY_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// For more addresses than this everything is copied, once.
const FEW: usize = 4;

const INET: u8 = 2;
const INET6: u8 = 10;

/// Who sends to whom, as the packets of one direction say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    /// Where they come from.
    pub(crate) source: IpAddr,
    /// Where they go to.
    pub(crate) destination: IpAddr,
}

/// A connection that the kernel remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// As it was begun.
    pub(crate) original: Tuple,
    /// How it is answered, before addresses are changed back.
    pub(crate) reply: Tuple,
    family: u8,
    /// What names it to the kernel, in the kernel's own words.
    name: Vec<(u16, Vec<u8>)>,
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn message(kind: u16, family: u8) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, 0, &[family, 0, 0, 0])
}

/// Those that one of these addresses, all of one family, takes part in, whichever side began.
pub(crate) fn with(socket: &mut Socket, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Connection>> {
    let mut found = Vec::new();
    match addresses.first() {
        Some(first) if addresses.len() > FEW => found = dump(socket, &message(GET, family_of(*first)))?,
        _ => {
            for address in addresses {
                found.extend(with_one(socket, *address)?);
            }
        }
    }
    found.retain(|one| {
        let sources = [one.original.source, one.reply.source];
        sources.iter().any(|source| addresses.contains(source))
    });
    Ok(found)
}

fn with_one(socket: &mut Socket, address: IpAddr) -> Result<Vec<Connection>> {
    let (kind, octets) = match address {
        IpAddr::V4(address) => (IPV4_SOURCE, address.octets().to_vec()),
        IpAddr::V6(address) => (IPV6_SOURCE, address.octets().to_vec()),
    };
    let mut found = Vec::new();
    for direction in [ORIGINAL, REPLY] {
        let request = message(GET, family_of(address))
            .nested(direction, |m| m.nested(TUPLE_IP, |m| m.attribute(kind, &octets)))
            .nested(FILTER, |m| m.number(direction, BY_SOURCE));
        found.extend(dump(socket, &request)?);
    }
    Ok(found)
}

/// Those that were begun towards this port, whosever address it is of.
pub(crate) fn towards(
    socket: &mut Socket,
    is_ipv4: bool,
    protocol: Protocol,
    port: u16,
) -> Result<Vec<Connection>> {
    let family = if is_ipv4 { INET } else { INET6 };
    let request = message(GET, family)
        .nested(ORIGINAL, |m| {
            m.nested(TUPLE_PROTOCOL, |m| {
                m.attribute(PROTOCOL_NUMBER, &[protocol.number()])
                    .attribute(DESTINATION_PORT, &port.to_be_bytes())
            })
        })
        .nested(FILTER, |m| m.number(ORIGINAL, BY_PROTOCOL | BY_DESTINATION_PORT));
    dump(socket, &request)
}

/// Has the kernel forget a connection; one that is forgotten already is no error.
pub(crate) fn forget(socket: &mut Socket, connection: &Connection) -> Result<()> {
    let message = connection
        .name
        .iter()
        .fold(message(DELETE, connection.family), |message, (kind, value)| {
            message.attribute(*kind, value)
        });
    match socket.request("forget a connection", message) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

fn dump(socket: &mut Socket, request: &Message) -> Result<Vec<Connection>> {
    let replies = socket.dump("list the kernel's connections", request)?;
    Ok(replies.iter().filter_map(connection).collect())
}

fn connection(reply: &Reply) -> Option<Connection> {
    let attributes = reply.attributes(HEADER);
    let nested = |kind: u16| match kind {
        ORIGINAL => kind | NESTED,
        _ => kind,
    };
    Some(Connection {
        original: tuple(attributes.within(ORIGINAL))?,
        reply: tuple(attributes.within(REPLY))?,
        family: *reply.body.first()?,
        name: [ORIGINAL, ID, ZONE]
            .into_iter()
            .filter_map(|kind| Some((nested(kind), attributes.find(kind)?.to_vec())))
            .collect(),
    })
}

fn tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let ip = attributes.within(TUPLE_IP);
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        match ip.find(v4) {
            Some(octets) => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
            None => Some(IpAddr::from(<[u8; 16]>::try_from(ip.find(v6)?).ok()?)),
        }
    };
    Some(Tuple {
        source: address(IPV4_SOURCE, IPV6_SOURCE)?,
        destination: address(IPV4_DESTINATION, IPV6_DESTINATION)?,
    })
}

#[cfg(test)]
impl Connection {
    /// One with these addresses, for tests of decisions.
    pub(crate) fn between(original: (&str, &str), reply: (&str, &str)) -> Self {
        let tuple = |(source, destination): (&str, &str)| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Self {
            original: tuple(original),
            reply: tuple(reply),
            family: INET,
            name: Vec::new(),
        }
    }
}
