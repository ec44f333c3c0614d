//! Packet filters of others that drop what containers send or receive: docker, ufw, firewalld, or a policy somebody set.
//!
//! An accept ends the evaluation of its own chain only; another chain on the same hook that drops has the last word. So nothing that is
//! written here could help: it is found, and said, with what to do.

use std::collections::BTreeSet;
use std::fs;

use crate::error::NetworkError;
use crate::netlink::filter::{self, BaseChain};
use crate::netlink::{Family, Socket};

/// The hook that packets to and from containers pass.
const FORWARD: u32 = 2;

/// Looks for chains that drop forwarded packets; one sentence for each, with advice.
pub(crate) fn observe(bridge: &str) -> Result<Vec<String>, NetworkError> {
    let chains = filter::base_chains(&mut Socket::open(Family::Filter)?)?;
    let legacy = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    Ok(judge(&chains, &legacy, bridge))
}

/// Whether somebody else's rules make this host a router: what they rely on is not ours to turn off.
pub(crate) fn routes_for_others(own_table: &str) -> bool {
    let chains = Socket::open(Family::Filter).and_then(|mut socket| filter::base_chains(&mut socket));
    // In doubt nothing is taken away.
    chains.map_or(true, |chains| {
        chains
            .iter()
            .any(|chain| chain.table != own_table && chain.hook == FORWARD)
    })
}

fn judge(chains: &[BaseChain], legacy_tables: &str, bridge: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for chain in chains.iter().filter(|c| c.hook == FORWARD && c.table != bridge) {
        let is_firewalld = chain.table == "firewalld";
        if !chain.drops && !is_firewalld {
            continue;
        }
        let advice = if is_firewalld {
            format!(
                "`firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload`"
            )
        } else {
            let program = if chain.family == "ip6" {
                "ip6tables"
            } else {
                "iptables"
            };
            format!(
                "`{program} -I FORWARD -i {bridge} -j ACCEPT; {program} -I FORWARD -o {bridge} -j ACCEPT` (with docker: into DOCKER-USER; with ufw: `ufw route allow in on {bridge}` and `out on {bridge}`)"
            )
        };
        let why = if is_firewalld {
            "may reject"
        } else {
            "drops by its policy"
        };
        found.insert(format!(
            "the packet filter chain {} of table {} {} {why} what is forwarded to and from containers on {bridge}; let it pass with {advice}",
            chain.name, chain.family, chain.table
        ));
    }
    if legacy_tables.lines().any(|table| table == "filter") {
        found.insert(format!(
            "rules of iptables-legacy are loaded, which cannot be looked at: if containers on {bridge} are cut off, see `iptables-legacy -S FORWARD`"
        ));
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &'static str, table: &str, hook: u32, drops: bool) -> BaseChain {
        BaseChain {
            family,
            table: table.into(),
            name: "FORWARD".into(),
            hook,
            drops,
        }
    }

    #[test]
    fn only_what_can_cut_containers_off_is_told() {
        for (chains, legacy, words) in [
            (vec![], "", None),
            (vec![chain("ip", "filter", FORWARD, false)], "", None),
            (vec![chain("ip", "filter", 1, true)], "nat\n", None),
            (vec![chain("ip", "croze0", FORWARD, true)], "", None),
            (
                vec![chain("ip", "filter", FORWARD, true)],
                "",
                Some("`iptables -I FORWARD -i croze0 -j ACCEPT"),
            ),
            (vec![chain("ip6", "filter", FORWARD, true)], "", Some("ip6tables")),
            (
                vec![chain("inet", "firewalld", FORWARD, false)],
                "",
                Some("--zone=trusted --add-interface=croze0"),
            ),
            (vec![], "filter\nnat\n", Some("iptables-legacy -S FORWARD")),
        ] {
            let told = judge(&chains, legacy, "croze0");
            assert_eq!(told.len(), usize::from(words.is_some()), "{told:?}");
            assert!(words.is_none_or(|w| told[0].contains(w)), "{told:?}");
        }
    }
}
