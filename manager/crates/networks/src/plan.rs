//! What recovery does, decided from what is there; and the choice of subnets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use croze_model::ContainerId;

use crate::address::Subnet;
use crate::records::{Endpoint, NetworkRecord, ProcessMark};
use crate::settings::{BridgeSettings, Ipv6};

/// Where the default network looks for an IPv4 subnet, the first that is free; docker's and podman's own defaults are not among them.
const CANDIDATES: [&str; 6] = [
    "172.30.0.0/16",
    "172.31.0.0/16",
    "10.201.0.0/16",
    "10.231.0.0/16",
    "192.168.201.0/24",
    "192.168.231.0/24",
];

/// The first candidate that overlaps with none of the routes; `before` is what was chosen the last time.
pub(crate) fn choose_subnet(before: Option<Subnet>, routes: &[Subnet]) -> Option<Subnet> {
    let candidates = CANDIDATES.iter().filter_map(|text| text.parse().ok());
    before
        .into_iter()
        .chain(candidates)
        .find(|candidate| overlap(*candidate, routes).is_none())
}

/// A route that the subnet overlaps with.
pub(crate) fn overlap(subnet: Subnet, routes: &[Subnet]) -> Option<Subnet> {
    // A default route overlaps with everything.
    routes
        .iter()
        .find(|route| route.prefix() > 0 && route.overlaps(subnet))
        .copied()
}

/// A unique local IPv6 subnet of 64 bits (RFC 4193) from 40 random bits.
pub(crate) fn local_ipv6(random: [u8; 5]) -> Option<Subnet> {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    Subnet::new(IpAddr::from(octets), 64)
}

/// Whether a network is as the settings want it, as far as they say how.
pub(crate) fn is_as_configured(settings: &BridgeSettings, record: &NetworkRecord) -> bool {
    let ipv6 = match settings.ipv6 {
        Ipv6::Off => record.subnet6.is_none(),
        Ipv6::Subnet(subnet) => record.subnet6 == Some(subnet),
        // Whether the host has it is a question of its own.
        Ipv6::Local => record.subnet6.is_none() || record.subnet6 == record.made_up6,
    };
    ipv6 && settings.subnet.is_none_or(|subnet| subnet == record.subnet)
}

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// The boot of now.
    pub(crate) boot_id: String,
    /// Records of connections.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Connections of which nothing is known but whose they are: their records cannot be read.
    pub(crate) unreadable: BTreeSet<ContainerId>,
    /// Containers that run, with their first processes; without one those that may: prepared ones, and where it cannot be told now.
    pub(crate) live: BTreeMap<ContainerId, Option<ProcessMark>>,
    /// Names of pinned namespaces.
    pub(crate) namespaces: BTreeSet<String>,
    /// Names of the bridge's ports.
    pub(crate) bridge_ports: BTreeSet<String>,
    /// Names of all interfaces.
    pub(crate) interfaces: BTreeSet<String>,
    /// Proxies that run.
    pub(crate) proxies: BTreeSet<ContainerId>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Its container is gone: take everything back.
    Release(ContainerId),
    /// It is of an earlier boot, or cannot be read and its container is gone: nothing of it is left but the record.
    Forget(ContainerId),
    /// Its container lives, or may live: its addresses and ports are its own.
    Keep(ContainerId),
    /// Its end of the veth pair is no longer a port of the bridge.
    Reconnect(ContainerId),
    /// The process that holds its ports is gone.
    ServeAgain(ContainerId),
    /// A namespace without a record.
    Unpin(String),
    /// A port of the bridge without a record.
    RemoveInterface(String),
}

/// Decides what follows from what is there.
pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let (mut namespaces, mut ports) = (observed.namespaces.clone(), observed.bridge_ports.clone());
    // Whatever the records say or do not: nothing is taken from what may live.
    for id in observed.live.keys() {
        namespaces.remove(id.as_str());
        ports.remove(&interface_name(id));
    }
    for endpoint in &observed.endpoints {
        let id = endpoint.container.clone();
        if endpoint.boot_id != observed.boot_id {
            actions.push(Action::Forget(id));
            continue;
        }
        namespaces.remove(id.as_str());
        ports.remove(&endpoint.interface);
        if !observed.live.contains_key(&id) {
            actions.push(Action::Release(id));
            continue;
        }
        actions.push(Action::Keep(id.clone()));
        if observed.interfaces.contains(&endpoint.interface)
            && !observed.bridge_ports.contains(&endpoint.interface)
        {
            actions.push(Action::Reconnect(id.clone()));
        }
        let is_known = observed.live.get(&id).is_some_and(Option::is_some);
        if is_known && !endpoint.ports.is_empty() && !observed.proxies.contains(&id) {
            actions.push(Action::ServeAgain(id));
        }
    }
    let gone = |id: &&ContainerId| !observed.live.contains_key(*id);
    actions.extend(
        observed
            .unreadable
            .iter()
            .filter(gone)
            .cloned()
            .map(Action::Forget),
    );
    actions.extend(namespaces.into_iter().map(Action::Unpin));
    actions.extend(
        ports
            .into_iter()
            .filter(|name| is_ours(name))
            .map(Action::RemoveInterface),
    );
    actions
}

/// The name of the host's end of a container's veth pair: what fits into the 15 characters of an interface's name.
pub(crate) fn interface_name(id: &ContainerId) -> String {
    format!("{INTERFACE_PREFIX}{}", id.short())
}

const INTERFACE_PREFIX: &str = "cz";

fn is_ours(name: &str) -> bool {
    name.strip_prefix(INTERFACE_PREFIX)
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use croze_model::Protocol;

    use super::*;
    use crate::address::Mac;
    use crate::ports::PublishedPort;
    use crate::records::Address;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_subnet_is_chosen() {
        for (before, routes, chosen) in [
            (None, vec![], Some("172.30.0.0/16")),
            (None, vec!["0.0.0.0/0", "10.0.0.0/24"], Some("172.30.0.0/16")),
            (None, vec!["172.16.0.0/12"], Some("10.201.0.0/16")),
            (None, vec!["172.30.4.0/24"], Some("172.31.0.0/16")),
            (Some("10.9.0.0/16"), vec!["172.30.0.0/16"], Some("10.9.0.0/16")),
            (Some("10.9.0.0/16"), vec!["10.9.1.0/24"], Some("172.30.0.0/16")),
            (None, vec!["172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16"], None),
        ] {
            let routes: Vec<Subnet> = routes.into_iter().map(subnet).collect();
            assert_eq!(
                choose_subnet(before.map(subnet), &routes),
                chosen.map(subnet),
                "{routes:?}"
            );
        }
        assert_eq!(local_ipv6([1, 2, 3, 4, 5]), Some(subnet("fd01:203:405::/64")));
    }

    fn id(n: u8) -> ContainerId {
        ContainerId::from_random([n; 32])
    }

    fn endpoint(n: u8, boot: &str, published: bool) -> Endpoint {
        let address = Address {
            address: IpAddr::from([172, 30, 0, n]),
            prefix: 16,
            gateway: IpAddr::from([172, 30, 0, 1]),
        };
        let port = PublishedPort {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: IpAddr::from([0; 4]),
            host_port: 8080,
        };
        Endpoint {
            container: id(n),
            name: format!("c{n}"),
            boot_id: boot.into(),
            namespace: "/x".into(),
            interface: interface_name(&id(n)),
            mac: Mac([2, 0, 0, 0, 0, n]),
            ipv4: address,
            ipv6: None,
            ports: published.then_some(port).into_iter().collect(),
            proxy: None,
        }
    }

    fn names(ids: &[u8]) -> BTreeSet<String> {
        ids.iter().map(|n| interface_name(&id(*n))).collect()
    }

    #[test]
    fn what_was_left_behind_decides_what_is_done() {
        let mark = ProcessMark {
            pid: 7,
            start_ticks: 9,
        };
        let with = |endpoints: Vec<Endpoint>, live: &[u8], ports: &[u8]| Observed {
            boot_id: "now".into(),
            endpoints,
            live: live.iter().map(|n| (id(*n), Some(mark))).collect(),
            bridge_ports: names(ports),
            interfaces: names(&[1, 2, 3]),
            ..Observed::default()
        };
        let table = [
            ("nothing", with(vec![], &[], &[]), vec![]),
            (
                "runs",
                with(vec![endpoint(1, "now", false)], &[1], &[1]),
                vec![Action::Keep(id(1))],
            ),
            (
                "ended while nobody looked",
                with(vec![endpoint(1, "now", true)], &[], &[1]),
                vec![Action::Release(id(1))],
            ),
            (
                "the host was booted",
                with(vec![endpoint(1, "before", true)], &[], &[]),
                vec![Action::Forget(id(1))],
            ),
            (
                "the bridge was removed",
                with(vec![endpoint(1, "now", false)], &[1], &[]),
                vec![Action::Keep(id(1)), Action::Reconnect(id(1))],
            ),
            (
                "the proxy was killed",
                with(vec![endpoint(1, "now", true)], &[1], &[1]),
                vec![Action::Keep(id(1)), Action::ServeAgain(id(1))],
            ),
            (
                "may run: nothing is taken from it, and for whom its ports were served is not known",
                Observed {
                    live: BTreeMap::from([(id(1), None)]),
                    ..with(vec![endpoint(1, "now", true)], &[], &[])
                },
                vec![Action::Keep(id(1)), Action::Reconnect(id(1))],
            ),
            (
                "an attach that was cut off",
                Observed {
                    namespaces: BTreeSet::from([id(2).to_string()]),
                    ..with(vec![endpoint(1, "now", false)], &[1], &[1, 2])
                },
                vec![
                    Action::Keep(id(1)),
                    Action::Unpin(id(2).to_string()),
                    Action::RemoveInterface(interface_name(&id(2))),
                ],
            ),
            (
                "an interface that somebody else put on the bridge",
                Observed {
                    bridge_ports: BTreeSet::from(["eth7".to_owned(), "czech".to_owned()]),
                    ..with(vec![], &[], &[])
                },
                vec![],
            ),
            (
                "served",
                Observed {
                    proxies: BTreeSet::from([id(1)]),
                    ..with(vec![endpoint(1, "now", true)], &[1], &[1])
                },
                vec![Action::Keep(id(1))],
            ),
        ];
        for (words, observed, expected) in table {
            assert_eq!(plan(&observed), expected, "{words}");
        }
    }

    #[test]
    fn what_no_record_can_name_is_taken_only_from_the_dead() {
        let observed = |live: &[u8]| Observed {
            unreadable: BTreeSet::from([id(1)]),
            live: live.iter().map(|n| (id(*n), None)).collect(),
            namespaces: BTreeSet::from([id(1).to_string()]),
            bridge_ports: names(&[1]),
            ..Observed::default()
        };
        assert_eq!(plan(&observed(&[1])), []);
        let taken = [
            Action::Forget(id(1)),
            Action::Unpin(id(1).to_string()),
            Action::RemoveInterface(interface_name(&id(1))),
        ];
        assert_eq!(plan(&observed(&[])), taken);
    }

    #[test]
    fn a_network_is_as_configured_as_far_as_the_settings_say() {
        let record = |subnet6: Option<&str>| NetworkRecord {
            name: "bridge".into(),
            subnet: subnet("172.30.0.0/16"),
            subnet6: subnet6.map(subnet),
            made_up6: Some(subnet("fd01::/64")),
        };
        let settings = |subnet4: Option<&str>, ipv6: Ipv6| BridgeSettings {
            subnet: subnet4.map(subnet),
            ipv6,
            ..BridgeSettings::default()
        };
        for (settings, record, is) in [
            (settings(None, Ipv6::Local), record(Some("fd01::/64")), true),
            (settings(None, Ipv6::Local), record(None), true),
            (settings(None, Ipv6::Local), record(Some("fd02::/64")), false),
            (settings(None, Ipv6::Off), record(Some("fd01::/64")), false),
            (settings(None, Ipv6::Off), record(None), true),
            (settings(Some("172.30.0.0/16"), Ipv6::Off), record(None), true),
            (settings(Some("10.0.0.0/16"), Ipv6::Off), record(None), false),
        ] {
            assert_eq!(
                is_as_configured(&settings, &record),
                is,
                "{settings:?} {record:?}"
            );
        }
    }
}
