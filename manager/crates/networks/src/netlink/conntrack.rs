//! Connections that the kernel remembers: found by what they go to, and forgotten.
//!
//! The packet filter asks its maps for the first packet of a connection only; all others go where that one went, for as long as the kernel
//! remembers it. A client that keeps its port, as resolvers and games do, keeps it for ever. So what led to a container is forgotten with it, or
//! the next one that has the address would hear what was never meant for it.
//!
//! Names and numbers are those of `linux/netfilter/nfnetlink_conntrack.h`. A dump is filtered by the kernel (since 5.8): hosts remember millions. It
//! knows no sets: for one address the kernel looks at everything twice and copies next to nothing, so that for many addresses at once it is less
//! work to have all copied once, and to keep of each piece what is wanted.

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

/// IPv4, in the kernel's numbers.
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

/// Those of a family that somebody takes part in whose address is wanted, whichever side began. The kernel copies all that it remembers.
pub(crate) fn with_any(
    socket: &mut Socket,
    is_ipv4: bool,
    wanted: impl Fn(&IpAddr) -> bool,
) -> Result<Vec<Connection>> {
    let family = if is_ipv4 { INET } else { INET6 };
    dump(socket, &message(GET, family), |sides| {
        sides.iter().any(|side| wanted(&side.source))
    })
}

/// Those that this address takes part in, whichever side began.
pub(crate) fn with_one(socket: &mut Socket, address: IpAddr) -> Result<Vec<Connection>> {
    let (kind, octets) = match address {
        IpAddr::V4(address) => (IPV4_SOURCE, address.octets().to_vec()),
        IpAddr::V6(address) => (IPV6_SOURCE, address.octets().to_vec()),
    };
    let mut found = Vec::new();
    for direction in [ORIGINAL, REPLY] {
        let request = message(GET, family_of(address))
            .nested(direction, |m| m.nested(TUPLE_IP, |m| m.attribute(kind, &octets)))
            .nested(FILTER, |m| m.number(direction, BY_SOURCE));
        // A kernel that knows no filter lists all.
        let takes_part = |sides: &[Tuple; 2]| sides.iter().any(|side| side.source == address);
        found.extend(dump(socket, &request, takes_part)?);
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
    dump(socket, &request, |_| true)
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

/// Those of the list whose two directions, as begun and as answered, are wanted.
fn dump(
    socket: &mut Socket,
    request: &Message,
    wanted: impl Fn(&[Tuple; 2]) -> bool,
) -> Result<Vec<Connection>> {
    socket.dump_of("list the kernel's connections", request, |reply| {
        connection(&reply, &wanted)
    })
}

fn connection(reply: &Reply, wanted: impl Fn(&[Tuple; 2]) -> bool) -> Option<Connection> {
    let attributes = reply.attributes(HEADER);
    let nested = |kind: u16| match kind {
        ORIGINAL => kind | NESTED,
        _ => kind,
    };
    let sides = [ORIGINAL, REPLY].map(|side| tuple(attributes.within(side)));
    let [Some(original), Some(answer)] = sides else {
        return None;
    };
    wanted(&[original, answer]).then_some(())?;
    Some(Connection {
        original,
        reply: answer,
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

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::super::{CREATE, EXCLUSIVE, Family};
    use super::*;

    const NEW: u16 = 0;
    const TIMEOUT: u16 = 7;
    const SOURCE_PORT: u16 = 2;

    /// Has the kernel remember a datagram from `from` to `asked`, which `answering` answers.
    fn remember(socket: &mut Socket, from: IpAddr, asked: IpAddr, answering: IpAddr) {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let (source, destination) = match from {
            IpAddr::V4(_) => (IPV4_SOURCE, IPV4_DESTINATION),
            IpAddr::V6(_) => (IPV6_SOURCE, IPV6_DESTINATION),
        };
        let side = |message: Message, kind: u16, (by, to): (IpAddr, IpAddr), ports: (u16, u16)| {
            message.nested(kind, |m| {
                m.nested(TUPLE_IP, |m| {
                    m.attribute(source, &octets(by))
                        .attribute(destination, &octets(to))
                })
                .nested(TUPLE_PROTOCOL, |m| {
                    m.attribute(PROTOCOL_NUMBER, &[Protocol::Udp.number()])
                        .attribute(SOURCE_PORT, &ports.0.to_be_bytes())
                        .attribute(DESTINATION_PORT, &ports.1.to_be_bytes())
                })
            })
        };
        let header = [family_of(from), 0, 0, 0];
        let message = Message::new((SUBSYSTEM << 8) | NEW, CREATE | EXCLUSIVE, &header);
        let message = side(message, ORIGINAL, (from, asked), (4444, 53));
        let message = side(message, REPLY, (answering, from), (53, 4444)).big_endian(TIMEOUT, 600);
        socket.request("remember a connection", message).unwrap();
    }

    /// Who began each, and who answers it.
    fn ends(found: &[Connection]) -> Vec<(String, String)> {
        let mut ends: Vec<_> = found
            .iter()
            .map(|one| (one.original.source.to_string(), one.reply.source.to_string()))
            .collect();
        ends.sort();
        ends.dedup();
        ends
    }

    #[test]
    fn what_some_of_many_take_part_in_is_found_and_forgotten_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // In a namespace that ends with the thread.
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut socket = Socket::open(Family::Filter).unwrap();
            for (net, host) in [("172.30.0.", "10.9.0."), ("fd30::", "fd09::")] {
                let at = |net: &str, n: u16| -> IpAddr { format!("{net}{n}").parse().unwrap() };
                for n in 2..=9 {
                    // Asked by the world at the host's address, and asking the world.
                    remember(&mut socket, at(host, n), at(host, 1), at(net, n));
                    remember(&mut socket, at(net, n), at(host, 1), at(host, 1));
                }
                let is_ipv4 = net.contains('.');
                let wanted = |address: &IpAddr| (2..=7).any(|n| *address == at(net, n));
                let mut expected: Vec<_> = (2..=7)
                    .flat_map(|n| {
                        let (own, client) = (at(net, n).to_string(), at(host, n).to_string());
                        [(client, own.clone()), (own, at(host, 1).to_string())]
                    })
                    .collect();
                expected.sort();
                let found = with_any(&mut socket, is_ipv4, wanted).unwrap();
                assert_eq!(found.len(), 12);
                for one in &found {
                    forget(&mut socket, one).unwrap();
                    // By somebody else meanwhile: no error.
                    forget(&mut socket, one).unwrap();
                }
                assert_eq!(ends(&found), expected);
                assert_eq!(with_any(&mut socket, is_ipv4, wanted).unwrap(), []);
                // The neighbours' are there still, for one address as for all.
                assert_eq!(with_any(&mut socket, is_ipv4, |_| true).unwrap().len(), 4);
                for n in [8, 9] {
                    assert_eq!(ends(&with_one(&mut socket, at(net, n)).unwrap()).len(), 2, "{n}");
                }
                assert_eq!(with_one(&mut socket, at(net, 2)).unwrap(), []);
            }
        });
        thread.join().unwrap();
    }
}
