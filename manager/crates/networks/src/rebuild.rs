//! The connection of a container whose record cannot be read, from what the kernel has of it.
//!
//! | fact | where it is found |
//! |---|---|
//! | addresses, hardware address | its pinned namespace |
//! | published ports | the maps of our packet filter table; ports on loopback addresses are not in there, and go on while their proxy lives |
//! | the port proxy, the container's name | the arguments of the processes of this network namespace |
//!
//! It is as good as a record for what it is needed for: nobody else is given its address and ports, and all of it can be taken back.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use croze_model::ContainerId;

use crate::address::{Mac, Pool, Subnet};
use crate::namespace::{self, INTERFACE};
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::plan;
use crate::ports::PublishedPort;
use crate::proxy;
use crate::records::{Address, Endpoint, ProcessMark};
use crate::rules::Mapping;
use crate::service::Result;
use crate::tables;

/// What is in a container's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    mac: Mac,
    addresses: Vec<(IpAddr, u8)>,
}

/// Looks into a pinned namespace; `None`: there is none, or it has no connection.
pub(crate) fn observe(path: &Path) -> Result<Option<Found>> {
    if !namespace::is_pinned(path) {
        return Ok(None);
    }
    namespace::within(path, || {
        let mut socket = Socket::open(Family::Route)?;
        let Some(link) = route::link(&mut socket, INTERFACE)? else {
            return Ok(None);
        };
        Ok(Some(Found {
            mac: link.mac.unwrap_or(Mac([2; 6])),
            addresses: route::addresses(&mut socket, link.index)?,
        }))
    })
}

/// The connection; `None`: it has no IPv4 address, which all have.
pub(crate) fn endpoint(
    id: &ContainerId,
    boot_id: &str,
    namespace: PathBuf,
    bridge: &str,
    found: &Found,
) -> Result<Option<Endpoint>> {
    let address = |is_ipv4: bool| found.addresses.iter().find(|(a, _)| a.is_ipv4() == is_ipv4);
    let Some(ipv4) = address(true).and_then(|a| complete(*a)) else {
        return Ok(None);
    };
    let ipv6 = address(false).and_then(|a| complete(*a));
    let mut socket = Socket::open(Family::Filter)?;
    let mut ports = Vec::new();
    for target in std::iter::once(ipv4).chain(ipv6) {
        let published = tables::published_to(&mut socket, bridge, target.address)?;
        ports.extend(published.iter().map(port));
    }
    ports.sort_unstable();
    let (proxy, name) = find_proxy(ipv4.address).unzip();
    Ok(Some(Endpoint {
        container: id.clone(),
        name: name.unwrap_or_else(|| id.short().to_owned()),
        boot_id: boot_id.to_owned(),
        namespace,
        interface: plan::interface_name(id),
        mac: found.mac,
        ipv4,
        ipv6,
        ports,
        proxy,
    }))
}

fn complete((address, prefix): (IpAddr, u8)) -> Option<Address> {
    let gateway = Pool::new(Subnet::new(address, prefix)?).gateway();
    Some(Address {
        address,
        prefix,
        gateway,
    })
}

fn port(mapping: &Mapping) -> PublishedPort {
    let any: IpAddr = if mapping.target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    PublishedPort {
        container_port: mapping.target_port,
        protocol: mapping.protocol,
        host_ip: mapping.host.unwrap_or(any),
        host_port: mapping.port,
    }
}

/// The proxy that leads to this address, and the name of its container.
fn find_proxy(address: IpAddr) -> Option<(ProcessMark, String)> {
    let own = fs::read_link(namespace::OWN).ok()?;
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let name = leads_to(&words, address)?;
        // Another daemon in another namespace may have given the same address.
        if fs::read_link(format!("/proc/{pid}/ns/net")).ok()? != own {
            return None;
        }
        let stat = croze_sys::process::stat(pid.cast_signed()).ok()?;
        let mark = ProcessMark {
            pid,
            start_ticks: stat.start_time,
        };
        Some((mark, name))
    })
}

/// The name of the container in a proxy's arguments, if they lead to this address.
fn leads_to(arguments: &[u8], address: IpAddr) -> Option<String> {
    let words: Vec<_> = arguments
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    if words.get(1)? != proxy::VERB {
        return None;
    }
    let is_target = |word: &str| {
        word.split_once(':')
            .and_then(|(_, target)| target.parse::<SocketAddr>().ok())
            .is_some_and(|target| target.ip() == address)
    };
    words
        .iter()
        .skip(3)
        .any(|word| is_target(word))
        .then(|| words.get(2).map(ToString::to_string))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_where_it_leads() {
        let words = b"croze-shim\0port-proxy\0web\0tcp:172.30.0.2:80\0tcp:[fd00::2]:80\0";
        let name = |text: &str| leads_to(words, text.parse().unwrap());
        assert_eq!(name("172.30.0.2").as_deref(), Some("web"));
        assert_eq!(name("fd00::2").as_deref(), Some("web"));
        assert_eq!(name("172.30.0.3"), None);
        let other = b"nc\0-l\0web\0tcp:172.30.0.2:80\0";
        assert_eq!(leads_to(other, "172.30.0.2".parse().unwrap()), None);
    }
}
