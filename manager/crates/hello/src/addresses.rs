//! The addresses of this network namespace, from files alone.
//!
//! IPv4 comes from the local routing table as `/proc/net/fib_trie` prints it, IPv6 from `/proc/net/if_inet6` (proc(5)). Loopback and link-local
//! addresses are left out: nobody else can reach them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every address at which others may reach this process, IPv4 first.
pub(crate) fn observe() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let v4 = parse_fib_trie(&read("/proc/self/net/fib_trie"))
        .into_iter()
        .map(IpAddr::V4);
    let v6 = parse_if_inet6(&read("/proc/self/net/if_inet6"))
        .into_iter()
        .map(IpAddr::V6);
    v4.chain(v6).collect()
}

/// A leaf `|-- ADDRESS` that is followed by `/32 host LOCAL` is an address of ours. The file prints the main and the local table, so each may
/// come twice.
fn parse_fib_trie(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut leaf = None;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|a| !a.is_loopback()));
        }
    }
    found
}

/// 32 hexadecimal digits, then index, prefix length, scope, flags and interface.
fn parse_if_inet6(text: &str) -> BTreeSet<Ipv6Addr> {
    text.lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from)
        .filter(|a| !a.is_loopback() && !a.is_unicast_link_local())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_once_and_nobody_elses() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 172.30.0.0/16 2 0 2\n        |-- 172.30.0.2\n           /32 host LOCAL\n        \
                    |-- 172.30.255.255\n           /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n        /32 host LOCAL\n        |-- 172.30.0.2\n           /32 host LOCAL\n";
        assert_eq!(
            parse_fib_trie(text).into_iter().collect::<Vec<_>>(),
            [Ipv4Addr::new(172, 30, 0, 2)]
        );
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fd00000000000000000000000000000a 02 40 00 80     eth0\n\
                    fe8000000000000000428cfffe1e0002 02 40 20 80     eth0\nnonsense\n";
        let found: Vec<String> = parse_if_inet6(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["fd00::a"]);
        assert_eq!(parse_fib_trie("").len() + parse_if_inet6("").len(), 0);
    }
}
