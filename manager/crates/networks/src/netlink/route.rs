//! Interfaces, addresses and routes: the requests of rtnetlink(7) that a bridge network needs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::{CREATE, EXCLUSIVE, Message, Reply, Result, Socket};
use crate::address::{Mac, Subnet};
use crate::error::NetworkError;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// Of `IFLA_PROTINFO`: hairpin mode.
const BRPORT_MODE: u16 = 4;
const UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: addresses come from one pool.
const NO_DAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const PROTOCOL_RA: u8 = 9;
const UNICAST: u8 = 1;

const INET: u8 = 2;
const INET6: u8 = 10;
const BRIDGE_FAMILY: u8 = 7;

/// The group of notifications about interfaces, as a bit (group 1).
pub(crate) const LINK_CHANGES: u32 = 1;

/// Lengths of the family's headers.
const ADDRESS_HEADER: usize = 8;
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// An interface, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// The kind of virtual interface: `bridge`, `veth`.
    pub(crate) kind: Option<String>,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// What somebody wrote on it.
    pub(crate) alias: Option<String>,
    /// Its hardware address, where it has one of six bytes.
    pub(crate) mac: Option<Mac>,
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// All interfaces of the socket's namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    let replies = socket.dump(
        "list the interfaces",
        &Message::new(GETLINK, 0, &link_header(0, 0, 0)),
    )?;
    Ok(replies
        .iter()
        .filter_map(|reply| {
            let attributes = reply.attributes(LINK_HEADER);
            Some(Link {
                index: u32::from_ne_bytes(reply.body.get(4..8)?.try_into().ok()?),
                name: attributes.text(IFLA_IFNAME)?,
                kind: attributes.within(IFLA_LINKINFO).text(INFO_KIND),
                master: attributes.number(IFLA_MASTER),
                alias: attributes.text(IFLA_IFALIAS),
                mac: attributes
                    .find(IFLA_ADDRESS)
                    .and_then(|bytes| Some(Mac(bytes.try_into().ok()?))),
            })
        })
        .collect())
}

/// Whether a notification says that the interface of this name is gone.
pub(crate) fn removes(reply: &Reply, name: &str) -> bool {
    reply.kind == DELLINK && reply.attributes(LINK_HEADER).text(IFLA_IFNAME).as_deref() == Some(name)
}

/// The addresses of an interface of the socket's namespace that reach beyond its own link, with the length of each one's prefix.
pub(crate) fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<(IpAddr, u8)>> {
    let replies = socket.dump(
        "list the addresses",
        &Message::new(GETADDR, 0, &[0; ADDRESS_HEADER]),
    )?;
    let of_interface = |reply: &&Reply| reply.body.get(4..8) == Some(&index.to_ne_bytes()[..]);
    let global = |reply: &&Reply| reply.body.get(3) == Some(&0);
    Ok(replies
        .iter()
        .filter(of_interface)
        .filter(global)
        .filter_map(|reply| {
            let attributes = reply.attributes(ADDRESS_HEADER);
            let bytes = attributes.find(IFA_LOCAL).or(attributes.find(IFA_ADDRESS))?;
            Some((ip(bytes)?, *reply.body.get(1)?))
        })
        .collect())
}

/// The number of the interface of this name.
pub(crate) fn link_index(socket: &mut Socket, name: &str) -> Result<Option<u32>> {
    Ok(link(socket, name)?.map(|link| link.index))
}

/// The interface of this name.
pub(crate) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    Ok(links(socket)?.into_iter().find(|link| link.name == name))
}

/// Makes a bridge, down.
pub(crate) fn add_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: u32) -> Result<()> {
    let message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        // Without one of its own a bridge takes its ports' lowest, and changes it as they come and go.
        .attribute(IFLA_ADDRESS, &mac.0)
        .number(IFLA_MTU, mtu)
        .nested(IFLA_LINKINFO, |m| m.text(INFO_KIND, "bridge"));
    socket.request(&format!("make the bridge {name}"), message)
}

/// The two ends of a veth pair.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    /// Name of the end that becomes a port of the bridge.
    pub(crate) name: &'a str,
    /// The bridge's number.
    pub(crate) bridge: u32,
    /// Name of the end in the container.
    pub(crate) peer: &'a str,
    /// Its hardware address.
    pub(crate) mac: Mac,
    /// The container's namespace.
    pub(crate) namespace: BorrowedFd<'a>,
    /// Largest packet.
    pub(crate) mtu: u32,
}

/// Makes a veth pair whose one end is a port of the bridge, up, and whose other end is in another namespace.
pub(crate) fn add_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<()> {
    let namespace = u32::try_from(veth.namespace.as_raw_fd()).unwrap_or_default();
    let message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, UP, UP))
        .text(IFLA_IFNAME, veth.name)
        .number(IFLA_MTU, veth.mtu)
        .number(IFLA_MASTER, veth.bridge)
        .nested(IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nested(INFO_DATA, |m| {
                m.nested(VETH_INFO_PEER, |m| {
                    m.raw(&link_header(0, 0, 0))
                        .text(IFLA_IFNAME, veth.peer)
                        .attribute(IFLA_ADDRESS, &veth.mac.0)
                        .number(IFLA_MTU, veth.mtu)
                        .number(IFLA_NET_NS_FD, namespace)
                })
            })
        });
    socket.request(&format!("make the interface {}", veth.name), message)
}

/// Makes an interface a port of a bridge.
pub(crate) fn set_master(socket: &mut Socket, name: &str, index: u32, bridge: u32) -> Result<()> {
    let message = Message::new(NEWLINK, 0, &link_header(index, UP, UP)).number(IFLA_MASTER, bridge);
    socket.request(&format!("make {name} a port of the bridge"), message)
}

/// Lets a bridge send a packet back by the port it came from.
///
/// Where `br_netfilter` is loaded (docker and Kubernetes do that), a packet to a published port is redirected within the bridge: one that a
/// container sends to its own published port would otherwise be lost.
pub(crate) fn set_hairpin(socket: &mut Socket, name: &str, index: u32) -> Result<()> {
    let mut header = link_header(index, 0, 0);
    header[0] = BRIDGE_FAMILY;
    let message = Message::new(SETLINK, 0, &header).nested(IFLA_PROTINFO, |m| m.attribute(BRPORT_MODE, &[1]));
    socket.request(&format!("configure {name} as a port of the bridge"), message)
}

/// Writes an alias on an interface.
pub(crate) fn set_alias(socket: &mut Socket, name: &str, index: u32, alias: &str) -> Result<()> {
    // Without the terminating zero: the kernel would show it.
    let message =
        Message::new(NEWLINK, 0, &link_header(index, 0, 0)).attribute(IFLA_IFALIAS, alias.as_bytes());
    socket.request(&format!("write an alias on the interface {name}"), message)
}

/// Gives an interface, which is down, another name.
pub(crate) fn rename(socket: &mut Socket, name: &str, index: u32, new: &str) -> Result<()> {
    let message = Message::new(NEWLINK, 0, &link_header(index, 0, 0)).text(IFLA_IFNAME, new);
    socket.request(&format!("rename the interface {name} to {new}"), message)
}

/// Brings an interface up.
pub(crate) fn set_up(socket: &mut Socket, name: &str, index: u32) -> Result<()> {
    let message = Message::new(NEWLINK, 0, &link_header(index, UP, UP));
    socket.request(&format!("bring the interface {name} up"), message)
}

/// Removes an interface; one that is not there is no error. The other end of a veth pair goes with it.
pub(crate) fn remove_link(socket: &mut Socket, name: &str) -> Result<()> {
    let message = Message::new(DELLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
    match socket.request(&format!("remove the interface {name}"), message) {
        Err(NetworkError::Kernel { source, .. }) if source.raw_os_error() == Some(ENODEV) => Ok(()),
        result => result,
    }
}

const ENODEV: i32 = 19;

/// Gives an interface an address; one that it has already is no error.
pub(crate) fn add_address(socket: &mut Socket, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = [family(address), prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address);
    let mut message = Message::new(NEWADDR, CREATE | EXCLUSIVE, &header)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    if address.is_ipv6() {
        message = message.number(IFA_FLAGS, NO_DAD);
    }
    match socket.request(&format!("give an interface the address {address}"), message) {
        Err(NetworkError::Kernel { source, .. }) if source.raw_os_error() == Some(EEXIST) => Ok(()),
        result => result,
    }
}

const EEXIST: i32 = 17;

/// Makes the gateway the way to everywhere.
pub(crate) fn add_default_route(socket: &mut Socket, gateway: IpAddr, index: u32) -> Result<()> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let header = [
        family(gateway),
        0,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_BOOT,
        0,
        UNICAST,
        0,
        0,
        0,
        0,
    ];
    let message = Message::new(NEWROUTE, CREATE | EXCLUSIVE, &header)
        .attribute(RTA_GATEWAY, &octets(gateway))
        .number(RTA_OIF, index);
    socket.request(&format!("route through the gateway {gateway}"), message)
}

/// Numbers of the interfaces by which the host learned a route from a router advertisement.
pub(crate) fn learned_from_routers(socket: &mut Socket) -> Result<BTreeSet<u32>> {
    let mut header = [0; ROUTE_HEADER];
    header[0] = INET6;
    let replies = socket.dump("list the routes", &Message::new(GETROUTE, 0, &header))?;
    Ok(replies
        .iter()
        .filter(|reply| reply.body.get(5) == Some(&PROTOCOL_RA))
        .filter_map(|reply| reply.attributes(ROUTE_HEADER).number(RTA_OIF))
        .collect())
}

/// What the host reaches other than by its default route: the destinations of its main routing table, with the interface of each.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<(Subnet, u32)>> {
    let mut found = Vec::new();
    for family in [INET, INET6] {
        let mut header = [0; ROUTE_HEADER];
        header[0] = family;
        let replies = socket.dump("list the routes", &Message::new(GETROUTE, 0, &header))?;
        found.extend(replies.iter().filter_map(|reply| {
            let attributes = reply.attributes(ROUTE_HEADER);
            if attributes.number(RTA_TABLE)? != u32::from(TABLE_MAIN) {
                return None;
            }
            let subnet = Subnet::new(ip(attributes.find(RTA_DST)?)?, *reply.body.get(1)?)?;
            Some((subnet, attributes.number(RTA_OIF).unwrap_or_default()))
        }));
    }
    Ok(found)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}
