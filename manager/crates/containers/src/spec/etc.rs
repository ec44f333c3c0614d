//! The files below `/etc` that are generated for each container: `hosts`, `hostname`, `resolv.conf`.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::error::ContainersError;
use crate::request::Network;

/// systemd-resolved's list of the real servers, for hosts whose resolv.conf names its stub only.
const RESOLVED_LIST: &str = "/run/systemd/resolve/resolv.conf";

/// Writes the three files into `dir`.
pub(crate) fn write(dir: &Path, hostname: &str, network: Network) -> Result<(), ContainersError> {
    let host_file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (hosts, resolv) = match network {
        Network::Host => (host_file("/etc/hosts"), host_file("/etc/resolv.conf")),
        Network::None => {
            let own = host_file("/etc/resolv.conf");
            (hosts(), resolv_conf(&own, || host_file(RESOLVED_LIST)))
        }
    };
    for (name, text) in [
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(ContainersError::file("write", &path))?;
    }
    Ok(())
}

fn hosts() -> String {
    "127.0.0.1\tlocalhost\n\
     ::1\tlocalhost ip6-localhost ip6-loopback\n\
     fe00::\tip6-localnet\n\
     ff00::\tip6-mcastprefix\n\
     ff02::1\tip6-allnodes\n\
     ff02::2\tip6-allrouters\n"
        .into()
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
}
