//! The files below `/etc` that are generated for each container: `hosts`, `hostname`, `resolv.conf`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::SpecError;
use crate::error::ContainersError;
use crate::networking::{Attachment, Network};
use crate::options::{Dns, ExtraHost, HostAddress, Options};
use crate::request::CreateRequest;

/// systemd-resolved's list of the real servers, for hosts whose resolv.conf names its stub only.
const RESOLVED_LIST: &str = "/run/systemd/resolve/resolv.conf";

/// Writes the three files into `dir`.
pub(crate) fn write(
    dir: &Path,
    hostname: &str,
    request: &CreateRequest,
    attachment: &Attachment,
) -> Result<(), ContainersError> {
    let host_file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = host_file("/etc/resolv.conf");
    let (hosts, resolv) = match request.network {
        Network::Host => (host_file("/etc/hosts"), own),
        Network::None | Network::Bridge | Network::Container(_) => (
            hosts(hostname, &attachment.addresses),
            resolv_conf(&own, || host_file(RESOLVED_LIST)),
        ),
    };
    let gateways = match request.network {
        // There the host is itself.
        Network::Host => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        _ => attachment.gateways.as_slice(),
    };
    for (name, text) in [
        (
            "hosts",
            with_extra_hosts(hosts, &request.options.extra_hosts, gateways)?,
        ),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", with_dns(resolv, &request.options.dns)),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(ContainersError::file("write", &path))?;
    }
    Ok(())
}

fn with_extra_hosts(mut text: String, extra: &[ExtraHost], gateways: &[IpAddr]) -> Result<String, SpecError> {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for host in extra {
        let addresses = match &host.address {
            HostAddress::Ip(address) => std::slice::from_ref(address),
            HostAddress::Gateway if gateways.is_empty() => {
                return Err(SpecError::NoGateway {
                    name: host.name.clone(),
                });
            }
            HostAddress::Gateway => gateways,
        };
        for address in addresses {
            text.push_str(&format!("{address}\t{}\n", host.name));
        }
    }
    Ok(text)
}

/// What to say of the host's name servers, if containers reach none of them: all listen on the host's loopback, and no list of others is known.
///
/// Nobody else's servers are taken instead: what a host asks for is its own business.
#[must_use]
pub fn name_server_warning() -> Option<String> {
    let host_file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = host_file("/etc/resolv.conf");
    let seen = resolv_conf(&own, || host_file(RESOLVED_LIST));
    let has_server = |text: &str| text.lines().any(|line| nameserver(line).is_some());
    (has_server(&own) && !has_server(&seen)).then(|| {
        "the host's name servers (/etc/resolv.conf) all listen on its loopback addresses, which containers do not reach: names are not \
         resolved in them; name a server with --dns"
            .to_owned()
    })
}

/// A resolv.conf in which what is asked for replaces the lines of its kind.
fn with_dns(text: String, dns: &Dns) -> String {
    if dns.is_empty() {
        return text;
    }
    let kept = |kinds: &'static [&'static str]| {
        text.lines().filter(move |line| {
            line.split_whitespace()
                .next()
                .is_some_and(|kind| kinds.contains(&kind))
        })
    };
    let mut lines: Vec<String> = Vec::new();
    match dns.search.as_slice() {
        [] => lines.extend(kept(&["search", "domain"]).map(str::to_owned)),
        // One that is alone and a dot stands for none.
        [only] if only == "." => {}
        domains => lines.push(format!("search {}", domains.join(" "))),
    }
    if dns.servers.is_empty() {
        lines.extend(kept(&["nameserver"]).map(str::to_owned));
    }
    lines.extend(dns.servers.iter().map(|server| format!("nameserver {server}")));
    if dns.options.is_empty() {
        lines.extend(kept(&["options"]).map(str::to_owned));
    } else {
        lines.push(format!("options {}", dns.options.join(" ")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Refuses what would be read as something else in the files' lines.
pub(crate) fn check(options: &Options) -> Result<(), SpecError> {
    let word = |text: &str| {
        !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control()) && text.len() <= 255
    };
    let names = options.extra_hosts.iter().map(|host| &host.name);
    let domains = options.dns.search.iter().chain(&options.dns.options);
    match names.chain(domains).find(|text| !word(text)) {
        Some(name) => Err(SpecError::Name { name: name.clone() }),
        None => Ok(()),
    }
}

fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let own: String = addresses
        .iter()
        .map(|address| format!("{address}\t{hostname}\n"))
        .collect();
    let common = "127.0.0.1\tlocalhost\n\
     ::1\tlocalhost ip6-localhost ip6-loopback\n\
     fe00::0\tip6-localnet\n\
     ff00::0\tip6-mcastprefix\n\
     ff02::1\tip6-allnodes\n\
     ff02::2\tip6-allrouters\n";
    format!("{common}{own}")
}

/// The host's resolv.conf without servers that listen on the host's loopback: in another network namespace they are not there. If none is left, the
/// list behind a local stub is tried.
fn resolv_conf(own: &str, behind_the_stub: impl FnOnce() -> String) -> String {
    let filtered = without_loopback(own);
    if filtered.lines().any(|l| nameserver(l).is_some()) || !own.lines().any(|l| nameserver(l).is_some()) {
        return filtered;
    }
    let behind = without_loopback(&behind_the_stub());
    if behind.lines().any(|l| nameserver(l).is_some()) {
        behind
    } else {
        filtered
    }
}

fn without_loopback(text: &str) -> String {
    text.lines()
        .filter(|line| !nameserver(line).is_some_and(|address| address.is_loopback()))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    // fe80::1%eth0: the zone is not part of the address.
    words.next()?.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_left_out() {
        let stub = "nameserver 10.0.0.2\nsearch lan\n";
        let table = [
            (
                "nameserver 1.2.3.4\nsearch a b\n",
                "nameserver 1.2.3.4\nsearch a b\n",
            ),
            (
                "nameserver 127.0.0.1\nnameserver 1.2.3.4\noptions edns0",
                "nameserver 1.2.3.4\noptions edns0\n",
            ),
            ("nameserver ::1\nnameserver 127.0.0.53\nsearch x\n", stub),
            ("search x\n", "search x\n"),
            ("", ""),
            ("nameserver fe80::1%eth0\n", "nameserver fe80::1%eth0\n"),
        ];
        for (own, expected) in table {
            assert_eq!(resolv_conf(own, || stub.to_owned()), expected, "{own:?}");
        }
        assert_eq!(
            resolv_conf("nameserver 127.0.0.53\nsearch x\n", String::new),
            "search x\n"
        );
    }

    #[test]
    fn what_is_asked_for_replaces_lines_of_its_kind() {
        let text = "# from the host\nsearch lan\nnameserver 10.0.0.1\noptions edns0\n".to_owned();
        let dns = |servers: &[&str], search: &[&str], options: &[&str]| Dns {
            servers: servers.iter().map(|s| s.parse().unwrap()).collect(),
            search: search.iter().map(|s| (*s).to_owned()).collect(),
            options: options.iter().map(|s| (*s).to_owned()).collect(),
        };
        for (dns, expected) in [
            (dns(&[], &[], &[]), text.as_str()),
            (
                dns(&["1.1.1.1", "::1"], &[], &[]),
                "search lan\nnameserver 1.1.1.1\nnameserver ::1\noptions edns0\n",
            ),
            (
                dns(&[], &["a", "b"], &["ndots:2"]),
                "search a b\nnameserver 10.0.0.1\noptions ndots:2\n",
            ),
            (dns(&[], &["."], &[]), "nameserver 10.0.0.1\noptions edns0\n"),
        ] {
            assert_eq!(with_dns(text.clone(), &dns), expected, "{dns:?}");
        }
    }

    #[test]
    fn further_hosts_are_added() {
        let extra = |name: &str, address: &str| ExtraHost {
            name: name.into(),
            address: address.parse().unwrap(),
        };
        let hosts = [
            extra("db", "10.0.0.9"),
            extra("six", "fd00::1"),
            extra("up", "host-gateway"),
        ];
        let gateways = ["172.30.0.1", "fd00::9"].map(|address| address.parse().unwrap());
        assert_eq!(
            with_extra_hosts("127.0.0.1 localhost".into(), &hosts, &gateways).unwrap(),
            "127.0.0.1 localhost\n10.0.0.9\tdb\nfd00::1\tsix\n172.30.0.1\tup\nfd00::9\tup\n"
        );
        let error = with_extra_hosts(String::new(), &hosts, &[]).unwrap_err();
        assert!(error.to_string().contains("host-gateway"), "{error}");
        for wrong in ["", "a b", "a\nnameserver 6.6.6.6"] {
            let options = Options {
                extra_hosts: vec![extra(wrong, "10.0.0.9")],
                ..Options::default()
            };
            assert!(check(&options).is_err(), "{wrong:?}");
        }
    }
}
