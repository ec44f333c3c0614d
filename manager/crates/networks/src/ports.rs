//! Published ports: which sockets they need, bound before anything else is done, so that a taken port is found first.
//!
//! ```text
//!   -p 8080:80          0.0.0.0:8080 and [::]:8080     bound here, held by the port proxy while the container lives
//!   -p 80               the same, with a port that the kernel chooses
//!   -p 7000-7010:80     the first of the ports that is free
//! ```
//!
//! Most traffic never reaches these sockets: the packet filter redirects it first. They make the port ours, and serve what comes by the
//! host's loopback addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use croze_model::{Protocol, Publish};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::holder;

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// One process holds the sockets of a container, and descriptors are limited.
const LIMIT: usize = 4096;
/// A port that the kernel chose for IPv4 may be taken for IPv6: so often another one is tried.
const ATTEMPTS: usize = 32;
const BACKLOG: i32 = 4096;

/// A port of the host that leads to a port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The container's port.
    pub container_port: u16,
    /// tcp or udp.
    pub protocol: Protocol,
    /// The host's address; unspecified: all of that family.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

/// A published port with its socket.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) port: PublishedPort,
    pub(crate) socket: OwnedFd,
}

/// Binds everything that is asked for, or nothing. `known` names who holds a port that is ours.
pub(crate) fn bind_all(
    wanted: &[Publish],
    has_ipv6: bool,
    known: impl Fn(Protocol, SocketAddr) -> Option<String>,
) -> Result<Vec<Bound>> {
    let mut once: Vec<Publish> = Vec::new();
    for publish in wanted {
        if !once.contains(publish) {
            once.push(*publish);
        }
    }
    let count = once.iter().map(|p| p.container.ports.count()).sum();
    if count > LIMIT {
        return Err(NetworkError::TooManyPorts { count, limit: LIMIT });
    }
    // Ports that were named first: a port that the kernel chooses must not take one of them.
    once.sort_by_key(|publish| publish.host_ports.is_none());
    let mut bound = Vec::new();
    for publish in once {
        for (n, container_port) in publish.container.ports.iter().enumerate() {
            let one = One {
                publish,
                container_port,
                hosts: hosts(publish.host, has_ipv6),
            };
            let sockets = one.bind(n);
            bound.extend(sockets.map_err(|error| with_holder(error, &bound, &known))?);
        }
    }
    bound.sort_by_key(|bound| bound.port);
    Ok(bound)
}

/// Binds again what was published before, without another choice. `known` as in [`bind_all`].
pub(crate) fn bind_again(
    ports: &[PublishedPort],
    known: impl Fn(Protocol, SocketAddr) -> Option<String>,
) -> Result<Vec<Bound>> {
    let bind = |port: &PublishedPort| {
        let address = SocketAddr::new(port.host_ip, port.host_port);
        let bound = bind(port.protocol, address);
        let (socket, _) = bound.map_err(|error| with_holder(error, &[], &known))?;
        Ok(Bound { port: *port, socket })
    };
    ports.iter().map(bind).collect()
}

fn hosts(wanted: Option<IpAddr>, has_ipv6: bool) -> Vec<IpAddr> {
    match wanted {
        Some(address) => vec![address],
        None if has_ipv6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
    }
}

fn with_holder(
    error: NetworkError,
    bound: &[Bound],
    known: impl Fn(Protocol, SocketAddr) -> Option<String>,
) -> NetworkError {
    let NetworkError::PortTaken {
        address,
        protocol,
        holder: None,
    } = error
    else {
        return error;
    };
    let own = bound
        .iter()
        .any(|b| b.port.protocol == protocol && b.port.host_port == address.port());
    let holder = if own {
        Some("another port of this container".to_owned())
    } else {
        known(protocol, address).or_else(|| holder::find(protocol, address))
    };
    NetworkError::PortTaken {
        address,
        protocol,
        holder,
    }
}

/// One port of the container.
struct One {
    publish: Publish,
    container_port: u16,
    hosts: Vec<IpAddr>,
}

impl One {
    /// Binds it on every address; `n` is its place within the container's range.
    fn bind(&self, n: usize) -> Result<Vec<Bound>> {
        let Some(range) = self.publish.host_ports else {
            return self.bind_any();
        };
        if self.publish.container.ports.count() > 1 || range.count() == 1 {
            let port = range.iter().nth(n).unwrap_or(range.first());
            return self.bind_on(port);
        }
        for port in range.iter() {
            match self.bind_on(port) {
                Err(NetworkError::PortTaken { .. }) => {}
                result => return result,
            }
        }
        Err(NetworkError::NoFreePort {
            range: range.to_string(),
            protocol: self.publish.container.protocol,
        })
    }

    fn bind_any(&self) -> Result<Vec<Bound>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.bind_on(0) {
                Err(NetworkError::PortTaken { .. }) if attempt < ATTEMPTS => {}
                result => return result,
            }
        }
    }

    fn bind_on(&self, port: u16) -> Result<Vec<Bound>> {
        let protocol = self.publish.container.protocol;
        let mut chosen = port;
        let mut bound = Vec::new();
        for host_ip in &self.hosts {
            let (socket, host_port) = bind(protocol, SocketAddr::new(*host_ip, chosen))?;
            chosen = host_port;
            bound.push(Bound {
                port: PublishedPort {
                    container_port: self.container_port,
                    protocol,
                    host_ip: *host_ip,
                    host_port,
                },
                socket,
            });
        }
        Ok(bound)
    }
}

/// A socket bound to the address, and its port.
fn bind(protocol: Protocol, address: SocketAddr) -> Result<(OwnedFd, u16)> {
    let failed = |errno: Errno| match errno {
        Errno::ADDRINUSE => NetworkError::PortTaken {
            address,
            protocol,
            holder: None,
        },
        errno => NetworkError::Bind {
            address,
            protocol,
            source: io::Error::from(errno),
        },
    };
    let (family, kind) = (
        if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        },
        match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        },
    );
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(failed)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).map_err(failed)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier holder that are still dying do not count.
        sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
    }
    rustix::net::bind(&socket, &address).map_err(failed)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
    }
    let own = rustix::net::getsockname(&socket)
        .and_then(SocketAddr::try_from)
        .map_err(failed)?;
    Ok((socket, own.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_texts(texts: &[&str]) -> Result<Vec<PublishedPort>> {
        let wanted: Vec<Publish> = texts.iter().map(|t| t.parse().unwrap()).collect();
        Ok(bind_all(&wanted, true, |_, _| None)?
            .iter()
            .map(|b| b.port)
            .collect())
    }

    #[test]
    fn a_port_of_the_kernels_choice_is_the_same_for_both_families() {
        let ports = bind_texts(&["80", "80/udp"]).unwrap();
        assert_eq!(ports.len(), 4);
        assert!(ports.iter().all(|p| p.container_port == 80 && p.host_port > 0));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut of_it = ports.iter().filter(|p| p.protocol == protocol);
            let (v4, v6) = (of_it.next().unwrap(), of_it.next().unwrap());
            assert!(v4.host_ip.is_ipv4() && v6.host_ip.is_ipv6());
            assert_eq!(v4.host_port, v6.host_port);
        }
    }

    #[test]
    fn a_taken_port_is_refused_with_its_holder() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = bind_texts(&[&format!("127.0.0.1:{port}:80")])
            .unwrap_err()
            .to_string();
        let pid = std::process::id();
        assert!(
            error.contains(&format!("127.0.0.1:{port}/tcp")) && error.contains(&format!("(pid {pid})")),
            "{error}"
        );
        let error = bind_texts(&[&format!("{port}:80")]).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {pid})")), "all addresses: {error}");
        // Another protocol is another port.
        bind_texts(&[&format!("127.0.0.1:{port}:80/udp")]).unwrap();
    }

    #[test]
    fn ranges_go_one_to_one_or_to_the_first_that_is_free() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = held.local_addr().unwrap().port();
        if taken > u16::MAX - 20 {
            return;
        }
        let any = bind_texts(&[&format!("127.0.0.1:{taken}-{}:80", taken + 20)]).unwrap();
        assert_eq!(any.len(), 1);
        assert!(any[0].host_port > taken && any[0].container_port == 80);
        let error = bind_texts(&[&format!("127.0.0.1:{taken}-{taken}:80")]).unwrap_err();
        assert!(matches!(error, NetworkError::PortTaken { .. }), "{error}");
        let twice = format!("127.0.0.1:{}:80", any[0].host_port);
        assert_eq!(
            bind_texts(&[&twice, &twice]).unwrap().len(),
            1,
            "said twice is said once"
        );
        let error = bind_texts(&[&twice, &format!("127.0.0.1:{}:81", any[0].host_port)]).unwrap_err();
        assert!(
            error.to_string().contains("another port of this container"),
            "{error}"
        );
    }

    #[test]
    fn what_one_process_cannot_hold_is_refused() {
        let error = bind_texts(&["1000-60000:1000-60000"]).unwrap_err();
        assert!(matches!(error, NetworkError::TooManyPorts { .. }), "{error}");
        let error = bind_texts(&["192.0.2.77:8080:80"]).unwrap_err();
        assert!(error.to_string().contains("192.0.2.77:8080/tcp"), "{error}");
    }
}
