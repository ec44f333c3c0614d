//! Ports that a container offers, and how users write that they are published.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text names no port. The words are docker's, which users may look for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing stands where the container's port is expected.
    #[error("no port specified: {text}")]
    NoPort {
        /// The text as given.
        text: String,
    },
    /// The container's port is none.
    #[error("invalid containerPort: {text}")]
    ContainerPort {
        /// The part that is wrong.
        text: String,
    },
    /// The host's port is none.
    #[error("invalid hostPort: {text}")]
    HostPort {
        /// The part that is wrong.
        text: String,
    },
    /// The host's address is none.
    #[error("invalid IP address: {text}")]
    Address {
        /// The part that is wrong.
        text: String,
    },
    /// The protocol is unknown.
    #[error("invalid proto: {text} (expected tcp or udp)")]
    Protocol {
        /// The part that is wrong.
        text: String,
    },
    /// Two ranges of different lengths.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
    /// The long form is not made of `name=value`.
    #[error("invalid publish opts format (should be name=value but got '{text}')")]
    LongForm {
        /// The part that is wrong.
        text: String,
    },
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name, `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(PortError::Protocol {
                text: text.to_owned(),
            }),
        }
    }
}

/// Ports from the first to the last, both included; never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range; `None` if it is empty or has port 0 in it.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports they are.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        match text.split_once('-') {
            None => number(text).and_then(|port| Self::new(port, port)),
            Some((first, last)) => Self::new(number(first)?, number(last)?),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Ports of a container: `80`, `80-90/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExposedPorts {
    /// The ports.
    pub ports: PortRange,
    /// Their protocol.
    pub protocol: Protocol,
}

impl FromStr for ExposedPorts {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (ports, protocol) = split_protocol(text)?;
        if ports.is_empty() {
            return Err(PortError::NoPort {
                text: text.to_owned(),
            });
        }
        let ports = PortRange::parse(ports).ok_or_else(|| PortError::ContainerPort {
            text: ports.to_owned(),
        })?;
        Ok(Self { ports, protocol })
    }
}

impl fmt::Display for ExposedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports, self.protocol)
    }
}

/// What `-p` asks for: `[[ip:][hostPort[-last]]:]containerPort[-last][/protocol]`, or docker's long form
/// `target=80,published=8080,protocol=tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address; `None`: all of them, IPv4 and IPv6.
    pub host: Option<IpAddr>,
    /// The host's ports: as many as the container's, or, for one port of the container, several of which any will do; `None`: any that is
    /// free.
    pub host_ports: Option<PortRange>,
    /// The container's.
    pub container: ExposedPorts,
}

impl FromStr for Publish {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        if text.contains('=') {
            return Self::parse_long(text);
        }
        let (ports, protocol) = split_protocol(text)?;
        let mut parts = ports.rsplitn(3, ':');
        let container = parts.next().unwrap_or_default();
        let (host, address) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if container.is_empty() {
            return Err(PortError::NoPort {
                text: text.to_owned(),
            });
        }
        let ports = PortRange::parse(container).ok_or_else(|| PortError::ContainerPort {
            text: container.to_owned(),
        })?;
        let host_ports = match host {
            // Zero means any, as it does for bind(2).
            "" | "0" => None,
            _ => Some(PortRange::parse(host).ok_or_else(|| PortError::HostPort {
                text: host.to_owned(),
            })?),
        };
        if let Some(wanted) = host_ports
            && ports.count() > 1
            && ports.count() != wanted.count()
        {
            return Err(PortError::Ranges {
                container: container.to_owned(),
                host: host.to_owned(),
            });
        }
        Ok(Self {
            host: parse_address(address)?,
            host_ports,
            container: ExposedPorts { ports, protocol },
        })
    }
}

impl Publish {
    fn parse_long(text: &str) -> Result<Self, PortError> {
        let (mut target, mut published, mut protocol) = ("", "", "tcp");
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("target", value)) => target = value,
                Some(("published", value)) => published = value,
                Some(("protocol", value)) => protocol = value,
                // host or ingress: without a swarm both mean the same.
                Some(("mode", "host" | "ingress")) => {}
                _ => {
                    return Err(PortError::LongForm {
                        text: part.to_owned(),
                    });
                }
            }
        }
        format!("{published}:{target}/{protocol}").parse()
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host_ports {
            Some(ports) => write!(f, "{ports}:")?,
            None if self.host.is_some() => write!(f, ":")?,
            None => {}
        }
        write!(f, "{}", self.container)
    }
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), PortError> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((ports, protocol)) => Ok((ports, protocol.parse()?)),
    }
}

fn parse_address(text: &str) -> Result<Option<IpAddr>, PortError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().map(Some).map_err(|_| PortError::Address {
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_publish() {
        let table = [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("8080:80/TCP", "8080:80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp"),
            (":80", "80/tcp"),
            ("0:80", "80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("[::]:8080:80/udp", "[::]:8080:80/udp"),
            ("::1:8080:80", "[::1]:8080:80/tcp"),
            ("7000-7002:80-82", "7000-7002:80-82/tcp"),
            ("7000-7010:80", "7000-7010:80/tcp"),
            ("80-82", "80-82/tcp"),
            ("10.0.0.1:7000-7001:80-81/udp", "10.0.0.1:7000-7001:80-81/udp"),
            ("target=80,published=8080", "8080:80/tcp"),
            ("published=53,target=53,protocol=udp,mode=host", "53:53/udp"),
            ("target=80", "80/tcp"),
        ];
        for (text, expected) in table {
            let publish: Publish = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(publish.to_string(), expected, "{text}");
            assert_eq!(expected.parse::<Publish>().unwrap(), publish, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_in_dockers_words() {
        let table = [
            ("", "no port specified"),
            (":", "no port specified"),
            ("8080:", "no port specified"),
            ("127.0.0.1:8080:", "no port specified"),
            ("/tcp", "no port specified"),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("65536", "invalid containerPort: 65536"),
            ("+80", "invalid containerPort: +80"),
            ("90-80", "invalid containerPort: 90-80"),
            ("80-", "invalid containerPort: 80-"),
            ("x:80", "invalid hostPort: x"),
            ("-1:80", "invalid hostPort: -1"),
            ("70000:80", "invalid hostPort: 70000"),
            ("x:80:80", "invalid IP address: x"),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("1.2.3.4.5:80:80", "invalid IP address: 1.2.3.4.5"),
            ("80/sctpp", "invalid proto: sctpp"),
            ("80/", "invalid proto: "),
            (
                "7000-7001:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 7000-7001",
            ),
            ("8080:80-82", "invalid ranges"),
            ("target=80,publish=8080", "name=value but got 'publish=8080'"),
            ("target=80,x", "name=value but got 'x'"),
            ("published=80", "no port specified"),
        ];
        for (text, words) in table {
            let error = text.parse::<Publish>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn exposed_ports() {
        let range: ExposedPorts = "80-82/udp".parse().unwrap();
        assert_eq!(range.ports.iter().collect::<Vec<_>>(), [80, 81, 82]);
        assert_eq!(
            (range.ports.count(), range.to_string().as_str()),
            (3, "80-82/udp")
        );
        assert!("8080:80".parse::<ExposedPorts>().is_err());
    }
}
