//! What the configuration says about single registries: plain HTTP or TLS, whose certificates, which client certificate, which mirrors, how
//! fast.
//!
//! | registry | spoken to in |
//! |---|---|
//! | configured with `plain-http` | as that says |
//! | configured with a CA, a client certificate or `insecure-skip-verify` | HTTPS |
//! | a loopback address or `localhost` | HTTP |
//! | any other | HTTPS |
//!
//! There is no third way: what is spoken to in HTTPS is never asked in HTTP because HTTPS failed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reqwest::Url;

use crate::endpoint::{HUB, is_loopback};
use crate::pace::Rate;
use crate::sources::Mirror;

/// How one registry is spoken to. Every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether it speaks HTTP without TLS.
    pub plain_http: Option<bool>,
    /// A file of certificates (PEM) of authorities that are trusted for this registry besides the system's.
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) that the registry knows this client by, and its key.
    pub client: Option<ClientCertificate>,
    /// Whether any certificate at all is taken for the registry's: the connection is then private, but to nobody knows whom.
    pub insecure_skip_verify: bool,
    /// Who is asked before it, in this order.
    pub mirrors: Vec<Mirror>,
    /// How fast it may be asked.
    pub rate: Rate,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The file of the certificate chain, PEM.
    pub certificate: PathBuf,
    /// The file of its private key, PEM.
    pub key: PathBuf,
}

impl Host {
    /// Whether something is said that makes sense with TLS only.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.ca.is_some() || self.client.is_some() || self.insecure_skip_verify
    }
}

/// What is said about registries, by `host[:port]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    hosts: BTreeMap<String, Host>,
}

impl Hosts {
    /// What is said about the registry of this name, as references name it.
    pub(crate) fn get(&self, registry: &str) -> Option<&Host> {
        self.hosts.get(&registry.to_ascii_lowercase())
    }

    /// The name and what is said about the server that an address leads to.
    pub(crate) fn at(&self, url: &Url) -> Option<(&str, &Host)> {
        let host = url.host_str()?;
        let host = if host == HUB.1 { HUB.0 } else { host };
        let port = url.port_or_known_default()?;
        let with_port = format!("{host}:{port}");
        let is_default = url.port().is_none();
        let found = self
            .hosts
            .get_key_value(&with_port)
            .or_else(|| is_default.then(|| self.hosts.get_key_value(host)).flatten())?;
        Some((found.0.as_str(), found.1))
    }

    /// Whether the registry of this name is spoken to without TLS.
    pub(crate) fn is_plain(&self, registry: &str) -> bool {
        match self.get(registry) {
            Some(host) => host
                .plain_http
                .unwrap_or_else(|| !host.wants_tls() && is_loopback(registry)),
            None => is_loopback(registry),
        }
    }
}

impl FromIterator<(String, Host)> for Hosts {
    fn from_iter<T: IntoIterator<Item = (String, Host)>>(hosts: T) -> Self {
        Self {
            hosts: hosts
                .into_iter()
                .map(|(name, host)| (name.to_ascii_lowercase(), host))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_what_is_configured_is_plain() {
        let plain = |plain_http| Host {
            plain_http: Some(plain_http),
            ..Host::default()
        };
        let tls = Host {
            ca: Some(PathBuf::from("/ca.pem")),
            ..Host::default()
        };
        let hosts: Hosts = [
            ("R.example:5000", plain(true)),
            ("127.0.0.1:1", plain(false)),
            ("127.0.0.1:2", tls),
            ("127.0.0.1:3", Host::default()),
        ]
        .map(|(name, host)| (name.to_owned(), host))
        .into_iter()
        .collect();
        for (registry, expected) in [
            ("r.example:5000", true),
            ("r.example", false),
            ("r.example:5001", false),
            ("127.0.0.1:1", false),
            ("127.0.0.1:2", false),
            ("127.0.0.1:3", true),
            ("127.0.0.1:4", true),
        ] {
            assert_eq!(hosts.is_plain(registry), expected, "{registry}");
        }
    }

    #[test]
    fn an_address_is_found_by_host_and_port() {
        let hosts: Hosts = ["docker.io", "a.example", "b.example:443", "c.example:5000"]
            .map(|name| (name.to_owned(), Host::default()))
            .into_iter()
            .collect();
        for (address, expected) in [
            ("https://registry-1.docker.io/v2/", Some("docker.io")),
            ("https://a.example/x", Some("a.example")),
            ("https://a.example:8443/x", None),
            ("https://b.example/x", Some("b.example:443")),
            ("http://b.example/x", None),
            ("http://c.example:5000/x", Some("c.example:5000")),
        ] {
            let url = Url::parse(address).unwrap();
            assert_eq!(hosts.at(&url).map(|(name, _)| name), expected, "{address}");
        }
    }
}
