//! What the packet filter shall do for a bridge network: a table of its own for each of IPv4 and IPv6. Pure; [`crate::tables`] has the kernel
//! do it.
//!
//! ```text
//!   table ip croze0 {
//!     map published    { protocol . address . port : container's address . port }    ports published on one address of the host
//!     map published-any{ protocol . port           : container's address . port }    ports published on all of them
//!
//!     chain guard        prerouting, raw:    not from the bridge or the host itself, yet with a source in the subnet → drop
//!     chain prerouting   nat, dstnat:        to an address of the host → published
//!     chain output       nat, dstnat:        to an address of the host but 127.0.0.0/8 (::1) → published
//!     chain published    destination changed as the maps say
//!     chain forward      filter:             to the bridge: answers, the bridge's own, and what was published; else drop
//!                                            from the bridge: accept
//!                                            between interfaces that did not forward before crozed came → closed
//!     chain closed                           to another of those: drop
//!     chain postrouting  nat, srcnat:        from the subnet to elsewhere: masquerade
//!                                            from the subnet back to it by way of a published port: masquerade, so that the answer
//!                                            takes the same way back
//!   }
//! ```
//!
//! The table is named like the bridge. A published port is an element of a map: a hundred ports are one message, and as fast as one. What
//! goes to the host's loopback addresses never passes here: the sockets of the port proxy take that.
//!
//! Invariant: every change is one transaction; a packet sees the old rules or the new ones. An accept here cannot undo a drop in a table of
//! somebody else (see [`crate::foreign`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use croze_model::Protocol;

use crate::address::Subnet;
use crate::forwarding::Closed;
use crate::netlink::Message;
use crate::netlink::filter::{self, ACCEPT, DROP, FIRST, Hook, Step, Table, TableFamily};

/// So many elements fit into one message: attributes are 64 KiB at most.
const ELEMENTS_PER_MESSAGE: usize = 512;

pub(crate) const PUBLISHED: &str = "published";
pub(crate) const PUBLISHED_ANY: &str = "published-any";
const CLOSED: &str = "closed";

/// nft's numbers of types; a concatenation has them one after the other, six bits each.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
/// Keys of `meta` and `ct`.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// Established or related; a connection whose destination was changed; an address of the host.
const ANSWERS: u32 = 6;
const REDIRECTED: u32 = 32;
const LOCAL: u32 = 2;

/// A port that leads to a container, for one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mapping {
    /// tcp or udp.
    pub(crate) protocol: Protocol,
    /// The host's address; `None`: all of them.
    pub(crate) host: Option<IpAddr>,
    /// The host's port.
    pub(crate) port: u16,
    /// The container's address, of the table's family.
    pub(crate) target: IpAddr,
    /// The container's port.
    pub(crate) target_port: u16,
}

impl Mapping {
    pub(crate) fn map(&self) -> &'static str {
        if self.host.is_some() {
            PUBLISHED
        } else {
            PUBLISHED_ANY
        }
    }

    pub(crate) fn is_same_port(&self, other: &Self) -> bool {
        (self.protocol, self.host, self.port) == (other.protocol, other.host, other.port)
            && self.target.is_ipv4() == other.target.is_ipv4()
    }

    /// The reverse of [`Mapping::element`]; `None`: it leads elsewhere.
    pub(crate) fn parse(map: &str, (key, data): &filter::Element, target: IpAddr) -> Option<Self> {
        let port_at =
            |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let address = octets(target);
        if data.get(..address.len())? != address {
            return None;
        }
        let host = match (map == PUBLISHED, target) {
            (false, _) => None,
            (true, IpAddr::V4(_)) => Some(IpAddr::from(<[u8; 4]>::try_from(key.get(4..8)?).ok()?)),
            (true, IpAddr::V6(_)) => Some(IpAddr::from(<[u8; 16]>::try_from(key.get(4..20)?).ok()?)),
        };
        Some(Self {
            protocol: [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .find(|protocol| key.first() == Some(&protocol.number()))?,
            host,
            port: port_at(key, 4 + host.map_or(0, |host| octets(host).len()))?,
            target,
            target_port: port_at(data, address.len())?,
        })
    }

    /// Key and value as the map has them: each part begins at a multiple of four bytes.
    pub(crate) fn element(&self) -> filter::Element {
        let mut key = vec![self.protocol.number(), 0, 0, 0];
        key.extend(self.host.map(octets).unwrap_or_default());
        key.extend(self.port.to_be_bytes());
        key.extend([0; 2]);
        let mut data = octets(self.target);
        data.extend(self.target_port.to_be_bytes());
        data.extend([0; 2]);
        (key, data)
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What one table is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// The bridge's name, and the table's.
    pub(crate) bridge: String,
    /// The containers' addresses.
    pub(crate) subnet: Subnet,
    /// Between whom the host does not forward.
    pub(crate) closed: Closed,
}

impl Ruleset {
    pub(crate) fn table(&self) -> Table<'_> {
        Table {
            family: self.family(),
            name: &self.bridge,
        }
    }

    fn family(&self) -> TableFamily {
        if self.subnet.address().is_ipv4() {
            TableFamily::V4
        } else {
            TableFamily::V6
        }
    }

    /// Replaces the table, whether it exists or not.
    pub(crate) fn replace(&self, mappings: &BTreeSet<Mapping>) -> Vec<Message> {
        let table = self.table();
        // Only what exists can be removed: so it is made first.
        let mut messages = vec![table.add(), table.remove(), table.add()];
        let address = match self.family() {
            TableFamily::V4 => (TYPE_IPV4, 4),
            TableFamily::V6 => (TYPE_IPV6, 16),
        };
        let data = ((address.0 << 6) | TYPE_PORT, address.1 + 4);
        let specific = (
            (TYPE_PROTOCOL << 12) | (address.0 << 6) | TYPE_PORT,
            4 + address.1 + 4,
        );
        messages.push(table.add_map(PUBLISHED, 1, specific, data));
        messages.push(table.add_map(PUBLISHED_ANY, 2, ((TYPE_PROTOCOL << 6) | TYPE_PORT, 8), data));
        for (name, hook) in chains() {
            messages.push(table.add_chain(name, hook));
        }
        for (chain, steps, comment) in self.rules() {
            messages.push(table.add_rule(chain, &steps, comment));
        }
        messages.extend(self.elements(mappings, Change::Add));
        messages
    }

    pub(crate) fn elements(&self, mappings: &BTreeSet<Mapping>, change: Change) -> Vec<Message> {
        let table = self.table();
        let mut messages = Vec::new();
        for map in [PUBLISHED, PUBLISHED_ANY] {
            let elements: Vec<_> = mappings
                .iter()
                .filter(|mapping| mapping.map() == map)
                .map(Mapping::element)
                .collect();
            for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
                messages.push(match change {
                    Change::Add => table.add_elements(map, some),
                    Change::Remove => table.remove_elements(map, some),
                });
            }
        }
        messages
    }

    fn rules(&self) -> Vec<(&'static str, Vec<Step>, &'static str)> {
        let mut rules = self.rules_of_containers();
        // An interface is matched by name: one that is made anew under it is meant as well.
        let is = |key: u32, name: &str| vec![Step::Meta(key, FIRST), Step::Is(interface(name))];
        rules.extend(self.closed.from.iter().map(|name| {
            let steps = [is(IIFNAME, name), vec![Step::Jump(CLOSED)]].concat();
            ("forward", steps, "did not forward before")
        }));
        rules.extend(self.closed.to.iter().map(|name| {
            let steps = [is(OIFNAME, name), vec![Step::Verdict(DROP)]].concat();
            (CLOSED, steps, "crozed makes this host no router")
        }));
        rules
    }

    fn rules_of_containers(&self) -> Vec<(&'static str, Vec<Step>, &'static str)> {
        let from_bridge = || vec![Step::Meta(IIFNAME, FIRST), Step::Is(interface(&self.bridge))];
        let to_bridge = || vec![Step::Meta(OIFNAME, FIRST), Step::Is(interface(&self.bridge))];
        let from_elsewhere = |name: &str| vec![Step::Meta(IIFNAME, FIRST), Step::IsNot(interface(name))];
        let to_elsewhere = vec![Step::Meta(OIFNAME, FIRST), Step::IsNot(interface(&self.bridge))];
        let to_host = vec![Step::DestinationType, Step::Is(LOCAL.to_ne_bytes().to_vec())];
        let has = |key: u32, bits: u32| {
            vec![
                Step::Connection(key),
                Step::Mask(bits.to_ne_bytes().to_vec()),
                Step::IsNot(vec![0; 4]),
            ]
        };
        let accept = vec![Step::Verdict(ACCEPT)];
        let drop = vec![Step::Verdict(DROP)];
        let redirect = vec![Step::Jump(PUBLISHED)];
        let rule = |parts: &[&[Step]]| parts.concat();
        let (source, not_loopback) = (self.has_source_in_subnet(), self.not_to_loopback());
        vec![
            (
                "guard",
                rule(&[
                    &from_elsewhere(&self.bridge),
                    &from_elsewhere("lo"),
                    &source,
                    &drop,
                ]),
                "only containers have their addresses",
            ),
            ("prerouting", rule(&[&to_host, &redirect]), "published ports"),
            (
                "output",
                rule(&[&not_loopback, &to_host, &redirect]),
                "published ports, from the host itself",
            ),
            (PUBLISHED, self.look_up(PUBLISHED), "on one address"),
            (PUBLISHED, self.look_up(PUBLISHED_ANY), "on all addresses"),
            (
                "forward",
                rule(&[&to_bridge(), &has(CT_STATE, ANSWERS), &accept]),
                "answers",
            ),
            ("forward", rule(&[&from_bridge(), &accept]), "from containers"),
            (
                "forward",
                rule(&[&to_bridge(), &has(CT_STATUS, REDIRECTED), &accept]),
                "to published ports",
            ),
            (
                "forward",
                rule(&[&to_bridge(), &drop]),
                "nothing else reaches a container",
            ),
            (
                "postrouting",
                rule(&[&source, &to_elsewhere, &[Step::Masquerade]]),
                "containers to elsewhere",
            ),
            (
                "postrouting",
                rule(&[
                    &source,
                    &to_bridge(),
                    &has(CT_STATUS, REDIRECTED),
                    &[Step::Masquerade],
                ]),
                "containers to published ports",
            ),
        ]
    }

    /// Source address within the subnet.
    fn has_source_in_subnet(&self) -> Vec<Step> {
        let (offset, length) = match self.family() {
            TableFamily::V4 => (12, 4),
            TableFamily::V6 => (8, 16),
        };
        vec![
            Step::Payload(1, offset, length, FIRST),
            Step::Mask(mask(self.subnet.prefix(), length)),
            Step::Is(octets(self.subnet.address())),
        ]
    }

    fn not_to_loopback(&self) -> Vec<Step> {
        match self.family() {
            TableFamily::V4 => vec![
                Step::Payload(1, 16, 4, FIRST),
                Step::Mask(mask(8, 4)),
                Step::IsNot(vec![127, 0, 0, 0]),
            ],
            TableFamily::V6 => vec![
                Step::Payload(1, 24, 16, FIRST),
                Step::IsNot(octets(std::net::Ipv6Addr::LOCALHOST.into())),
            ],
        }
    }

    fn look_up(&self, map: &'static str) -> Vec<Step> {
        // Registers 8, 9 … are the four-byte parts of the key: protocol, address where it counts, port.
        let (offset, length) = match self.family() {
            TableFamily::V4 => (16, 4),
            TableFamily::V6 => (24, 16),
        };
        let first = 8;
        let mut steps = vec![Step::Meta(L4PROTO, FIRST)];
        let mut next = first + 1;
        if map == PUBLISHED {
            steps.push(Step::Payload(1, offset, length, next));
            next += length / 4;
        }
        steps.push(Step::Payload(2, 2, 2, next));
        steps.push(Step::Lookup(map));
        steps.push(Step::ChangeDestination(first + length / 4));
        steps
    }
}

/// What is done to a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

fn chains() -> [(&'static str, Option<Hook>); 7] {
    let hook = |kind, number, priority| {
        Some(Hook {
            kind,
            number,
            priority,
        })
    };
    [
        ("guard", hook("filter", 0, -300)),
        ("prerouting", hook("nat", 0, -100)),
        ("output", hook("nat", 3, -100)),
        (PUBLISHED, None),
        (CLOSED, None),
        ("forward", hook("filter", 2, 0)),
        ("postrouting", hook("nat", 4, 100)),
    ]
}

/// An interface's name as the kernel compares it: 16 bytes.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn mask(prefix: u8, length: u32) -> Vec<u8> {
    (0..length)
        .map(|byte| {
            let ones = u32::from(prefix).saturating_sub(byte * 8).min(8);
            u8::try_from(0xff00u32 >> ones & 0xff).unwrap_or_default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: Option<&str>, target: &str) -> Mapping {
        Mapping {
            protocol: Protocol::Tcp,
            host: host.map(|h| h.parse().unwrap()),
            port: 8080,
            target: target.parse().unwrap(),
            target_port: 80,
        }
    }

    #[test]
    fn elements_are_laid_out_in_words() {
        let any = mapping(None, "172.30.0.2");
        assert_eq!(
            any.element(),
            (
                vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0],
                vec![172, 30, 0, 2, 0, 80, 0, 0]
            )
        );
        let one = mapping(Some("10.0.0.1"), "172.30.0.2");
        assert_eq!(one.element().0, [6, 0, 0, 0, 10, 0, 0, 1, 0x1f, 0x90, 0, 0]);
        assert_eq!((any.map(), one.map()), (PUBLISHED_ANY, PUBLISHED));
        assert_eq!(mapping(None, "fd00::2").element().1.len(), 20);
        for whole in [
            any,
            one,
            mapping(None, "fd00::2"),
            mapping(Some("fd99::1"), "fd00::2"),
        ] {
            let parsed = |target| Mapping::parse(whole.map(), &whole.element(), target);
            assert_eq!(parsed(whole.target), Some(whole));
            assert_eq!(parsed("172.30.0.3".parse().unwrap()), None);
        }
    }

    #[test]
    fn masks_have_as_many_ones_as_the_prefix() {
        for (prefix, length, expected) in [
            (16, 4, vec![255, 255, 0, 0]),
            (20, 4, vec![255, 255, 0xf0, 0]),
            (0, 4, vec![0; 4]),
            (32, 4, vec![255; 4]),
            (8, 4, vec![255, 0, 0, 0]),
        ] {
            assert_eq!(mask(prefix, length), expected, "{prefix}");
        }
        assert_eq!(mask(64, 16), [[255; 8], [0; 8]].concat());
    }

    #[test]
    fn many_ports_are_few_messages() {
        let ruleset = Ruleset {
            bridge: "croze0".into(),
            subnet: "172.30.0.0/16".parse().unwrap(),
            closed: Closed::default(),
        };
        let mappings: BTreeSet<Mapping> = (1..=1000)
            .map(|port| Mapping {
                port,
                ..mapping(None, "172.30.0.2")
            })
            .collect();
        assert_eq!(ruleset.elements(&mappings, Change::Add).len(), 2);
        assert!(ruleset.elements(&BTreeSet::new(), Change::Add).is_empty());
        let one_more = ruleset.replace(&mappings).len() - ruleset.replace(&BTreeSet::new()).len();
        assert_eq!(one_more, 2);
    }
}
