//! Image references by docker's grammar: `[domain[:port]/]path[:tag][@digest]`.
//!
//! ```text
//!   debian                   -> docker.io/library/debian:latest
//!   croze/hello              -> docker.io/croze/hello:latest
//!   localhost:5000/a/b:1.0   -> localhost:5000/a/b:1.0
//!   a@sha256:…               -> docker.io/library/a@sha256:…
//! ```
//!
//! The first component is a domain if it has a dot, a colon or an upper-case letter, or is `localhost` (docker's rule).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, DigestError};

/// The registry that names without a domain mean.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Its other names: of the host that serves it, and of files of credentials.
const DEFAULT_DOMAIN_HOSTS: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];
/// The tag that names without tag and digest mean.
const DEFAULT_TAG: &str = "latest";
/// docker's bound on domain and path together, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// docker's bound on a tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text as a whole or one of its parts does not fit the grammar.
    #[error("invalid reference {text:?}: {part} must {rule}")]
    Malformed {
        /// The text as given.
        text: String,
        /// Which part is wrong.
        part: &'static str,
        /// What the part must be.
        rule: &'static str,
    },
    /// The digest is malformed.
    #[error("invalid reference {text:?}")]
    Digest {
        /// The text as given.
        text: String,
        /// Why.
        #[source]
        source: DigestError,
    },
}

/// A fully qualified image reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Docker Hub's name in references.
    pub const HUB: &str = DEFAULT_DOMAIN;

    /// The registry that somebody's word for one means, as [`Reference::domain`] would name it: without scheme and path, Docker Hub's names
    /// as one. `None` if it can be no registry's name.
    #[must_use]
    pub fn registry_of(text: &str) -> Option<&str> {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let host = host.unwrap_or(text).split('/').next().unwrap_or_default();
        if DEFAULT_DOMAIN_HOSTS.contains(&host) {
            return Some(DEFAULT_DOMAIN);
        }
        Some(host).filter(|host| reads_as_domain(host) && is_domain(host))
    }

    /// The registry, with its port if one was given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/debian`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag. `None` only where a digest is given without one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the manifest must have, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    #[must_use]
    pub fn identifier(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }

    /// `domain/path`, without tag and digest.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as docker shows it to people: without the default domain and its `library/`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        // Without the domain a first component with a dot would be taken for one.
        let first = self.path.split_once('/').map(|(first, _)| first);
        if self.domain != DEFAULT_DOMAIN || first.is_some_and(reads_as_domain) {
            return self.repository();
        }
        self.path
            .strip_prefix("library/")
            .filter(|rest| !rest.contains('/'))
            .unwrap_or(&self.path)
            .to_owned()
    }

    /// The reference as docker shows it to people: `debian:latest`, `localhost:5000/a/b:1.0`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// The same repository and tag with this digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |part, rule| ReferenceError::Malformed {
            text: text.to_owned(),
            part,
            rule,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                    text: text.to_owned(),
                    source,
                })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        if !is_domain(domain) {
            return Err(malformed(
                "the registry",
                "be a host name or address with an optional port",
            ));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(malformed("the repository name", "be lower case"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(malformed(
                "the repository name",
                "be lower-case letters and digits, separated by '/', '.', '-' or '_'",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed(
                "the tag",
                "be up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'",
            ));
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > MAX_NAME_BYTES {
            return Err(malformed(
                "registry and repository name together",
                "be 255 bytes at most",
            ));
        }
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Domain and remainder, by docker's rule of what is a domain.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if reads_as_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

/// Whether a first component is the registry, and not a part of the repository's path.
fn reads_as_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let Some((address, after)) = v6.split_once(']') else {
                return false;
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let port_is_good =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
    port_is_good && host.is_none_or(|host| host.split('.').all(is_domain_component))
}

fn is_domain_component(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Runs of lower-case letters and digits, separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    bytes
        .split(|&b| word(b))
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG_BYTES).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_qualified_as_docker_does() {
        let digest = format!("debian@{D}");
        let qualified = format!("docker.io/library/debian@{D}");
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "croze/hello",
                "docker.io/croze/hello:latest",
                "croze/hello:latest",
            ),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "localhost:5000/a/b:1.0",
                "localhost:5000/a/b:1.0",
                "localhost:5000/a/b:1.0",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "a.example/x__y/z-w.v:T_1",
                "a.example/x__y/z-w.v:T_1",
                "a.example/x__y/z-w.v:T_1",
            ),
            (digest.as_str(), qualified.as_str(), digest.as_str()),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (full, familiar),
                "{text}"
            );
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn words_for_a_registry_are_brought_to_the_name_that_references_have() {
        for (text, registry) in [
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("docker.io", Some("docker.io")),
            ("https://r.example:5000/v2/", Some("r.example:5000")),
            ("http://localhost:5000", Some("localhost:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("quay.io/team", Some("quay.io")),
            ("Registry", Some("Registry")),
            ("registry", None),
            ("", None),
            ("https://", None),
            ("a b", None),
            ("user@host", None),
            ("no_registry", None),
        ] {
            assert_eq!(Reference::registry_of(text), registry, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a/{}", "x".repeat(300));
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "Debian",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:12",
            "a@b",
            "a b",
            "a/../b",
            "..",
            "a___b",
            "a..b",
            "-a/b.c",
            "host:99999/a",
            "host:+1/a",
            "[::1/a",
            "[zz]/a",
            "a.-b/c",
            &long,
            "ä",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
