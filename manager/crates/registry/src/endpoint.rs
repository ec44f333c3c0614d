//! Where a registry is: its base URL, whether it is on this host, and whether it is spoken to without TLS.

use std::net::{Ipv4Addr, Ipv6Addr};

use croze_model::Reference;

use crate::hosts::Hosts;

/// Docker Hub's name in references, and the host that serves it.
pub(crate) const HUB: (&str, &str) = (Reference::HUB, "registry-1.docker.io");

/// A repository at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// The registry as the reference names it, for messages.
    pub(crate) registry: String,
    /// `http://host:port` or `https://host[:port]`.
    pub(crate) base: String,
    /// The repository.
    pub(crate) repository: String,
    /// Whether it is reached over the loopback interface.
    pub(crate) loopback: bool,
    /// Whether it is spoken to without TLS.
    pub(crate) plain: bool,
}

impl Endpoint {
    pub(crate) fn of(reference: &Reference, hosts: &Hosts) -> Self {
        Self::new(reference.domain(), reference.path(), hosts)
    }

    /// A registry without any repository.
    pub(crate) fn of_registry(registry: &str, hosts: &Hosts) -> Self {
        Self::new(registry, "", hosts)
    }

    /// A repository of the registry of this name.
    pub(crate) fn new(registry: &str, repository: &str, hosts: &Hosts) -> Self {
        let host = if registry == HUB.0 { HUB.1 } else { registry };
        let plain = hosts.is_plain(registry);
        let scheme = if plain { "http" } else { "https" };
        Self {
            registry: registry.to_owned(),
            base: format!("{scheme}://{host}"),
            repository: repository.to_owned(),
            loopback: is_loopback(registry),
            plain,
        }
    }

    /// Where it is asked whether it is a registry at all.
    pub(crate) fn root_url(&self) -> String {
        format!("{}/v2/", self.base)
    }

    pub(crate) fn manifest_url(&self, identifier: &str) -> String {
        format!("{}/v2/{}/manifests/{identifier}", self.base, self.repository)
    }

    pub(crate) fn blob_url(&self, digest: &croze_model::Digest) -> String {
        format!("{}/v2/{}/blobs/{digest}", self.base, self.repository)
    }
}

/// Whether `host[:port]` is a loopback address or `localhost`. A name that merely resolves to one is not.
pub(crate) fn is_loopback(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok_and(|a| a.is_loopback());
    }
    let host = domain.split(':').next().unwrap_or_default();
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries_are_known_by_their_address() {
        for (domain, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::2]:5000", false),
            ("128.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(domain), expected, "{domain}");
        }
    }

    #[test]
    fn references_become_addresses() {
        let url = |text: &str| {
            let reference: Reference = text.parse().unwrap();
            Endpoint::of(&reference, &Hosts::default()).manifest_url(&reference.identifier())
        };
        assert_eq!(
            url("debian"),
            "https://registry-1.docker.io/v2/library/debian/manifests/latest"
        );
        assert_eq!(url("[::1]:5000/a/b:1"), "http://[::1]:5000/v2/a/b/manifests/1");
        assert_eq!(url("quay.io/a/b"), "https://quay.io/v2/a/b/manifests/latest");
    }
}
