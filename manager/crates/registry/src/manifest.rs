//! From a reference to the manifest for one platform.

use bytes::Bytes;
use croze_model::{Digest, Platform, Reference, Result};
use http::{HeaderValue, StatusCode};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::MAX_MANIFEST;
use crate::answer::{in_brackets, said};
use crate::client::{Ask, Registry};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json",
);

/// A reference, resolved.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The digest that the reference stands for: of an index, or of the manifest itself.
    pub digest: Digest,
    /// The digest of the manifest.
    pub manifest_digest: Digest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The manifest, byte for byte.
    pub bytes: Bytes,
}

/// A document of one of the two kinds.
#[derive(Debug)]
enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// The fields that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// A digest of the specification's types as ours.
///
/// # Errors
/// [`RegistryError::BadDigest`] if it is not a sha256 digest; `what` is the image it was found in.
pub fn parse_digest(digest: &oci_spec::image::Digest, what: &str) -> Result<Digest, RegistryError> {
    digest
        .to_string()
        .parse()
        .map_err(|source| RegistryError::BadDigest {
            what: what.to_owned(),
            source,
        })
}

impl Registry {
    /// Asks the registry what `reference` stands for, on `platform`.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or a platform that it does not have, `Unavailable` if the registry cannot be reached,
    /// `Unauthenticated`, `Corrupt` if what it says is not what it should be.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved> {
        let endpoint = Endpoint::of(reference, self.hosts());
        let what = reference.familiar();
        let promised = reference.digest().map(|digest| (*digest, "the reference"));
        let (bytes, digest, document) = self.document(&endpoint, reference, &what, promised, None).await?;
        let index = match document {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    digest,
                    manifest_digest: digest,
                    manifest: *manifest,
                    bytes,
                });
            }
            Document::Index(index) => index,
        };
        let chosen = choose(&index, platform, &what)?;
        let manifest_digest = parse_digest(chosen.digest(), &what)?;
        let exact = reference.with_digest(manifest_digest);
        let promised = Some((manifest_digest, "the index"));
        let (bytes, _, document) = self
            .document(&endpoint, &exact, &what, promised, Some(chosen.size()))
            .await?;
        match document {
            Document::Manifest(manifest) => Ok(Resolved {
                digest,
                manifest_digest,
                manifest: *manifest,
                bytes,
            }),
            Document::Index(_) => {
                let reason = "its index names another index for the platform".to_owned();
                Err(RegistryError::Malformed { what, reason }.into())
            }
        }
    }

    async fn document(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        what: &str,
        promised: Option<(Digest, &'static str)>,
        size: Option<u64>,
    ) -> Result<(Bytes, Digest, Document), RegistryError> {
        let identifier = reference.identifier();
        let ask = Ask {
            accept: Some(ACCEPT),
            from: 0,
        };
        let mut response = self
            .get(endpoint, &endpoint.manifest_url(&identifier), &ask)
            .await?;
        if !response.status().is_success() {
            let kind = if reference.digest().is_some() {
                "digest"
            } else {
                "tag"
            };
            return Err(match response.status() {
                StatusCode::NOT_FOUND => RegistryError::UnknownImage {
                    registry: endpoint.registry.clone(),
                    repository: endpoint.repository.clone(),
                    identifier: format!("{kind} {identifier}"),
                    said: in_brackets(said(&mut response).await),
                },
                status => RegistryError::Status {
                    registry: endpoint.registry.clone(),
                    address: endpoint.manifest_url(&identifier),
                    status: status.to_string(),
                    said: String::new(),
                },
            });
        }
        let media_type = header(&response, "content-type").map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        });
        if media_type.as_deref().is_some_and(|text| SCHEMA_1.contains(&text)) {
            // Before its digest is looked at: that of a signed one is of a part of it only.
            return Err(schema_1(what));
        }
        let claimed =
            header(&response, "docker-content-digest").and_then(|value| value.parse::<Digest>().ok());
        let limit = size.unwrap_or(MAX_MANIFEST).min(MAX_MANIFEST);
        let bytes = self
            .bounded(endpoint, response, &format!("the manifest of {what}"), limit)
            .await?;
        if let Some(expected) = size.filter(|&size| size != bytes.len() as u64) {
            return Err(RegistryError::WrongSize {
                what: format!("the manifest of {what}"),
                registry: endpoint.registry.clone(),
                expected,
                found: bytes.len() as u64,
            });
        }
        let found = Digest::of(&bytes);
        let claims = promised
            .into_iter()
            .chain(claimed.map(|digest| (digest, "the registry itself")));
        for (expected, by) in claims {
            if expected != found {
                return Err(RegistryError::WrongDigest {
                    what: what.to_owned(),
                    expected,
                    found,
                    by,
                });
            }
        }
        let document = parse(&bytes, media_type.as_deref(), what)?;
        Ok((bytes, found, document))
    }

    /// A whole body of at most `limit` bytes.
    pub(crate) async fn bounded(
        &self,
        endpoint: &Endpoint,
        mut response: reqwest::Response,
        what: &str,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge {
            what: what.to_owned(),
            limit,
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let address = response.url().origin().ascii_serialization();
        let mut body = Vec::new();
        // A silent registry is found by the connection; one that sends a byte now and then only here.
        let deadline = Instant::now() + self.document_time();
        loop {
            let chunk = timeout_at(deadline, response.chunk()).await;
            let chunk = chunk.map_err(|_| RegistryError::Slow {
                what: what.to_owned(),
                address: address.clone(),
                seconds: self.document_time().as_secs(),
            })?;
            match chunk {
                Ok(Some(piece)) if body.len() as u64 + piece.len() as u64 > limit => return Err(too_large()),
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return Ok(body.into()),
                Err(source) => {
                    return Err(RegistryError::Unreachable {
                        registry: endpoint.registry.clone(),
                        address,
                        source: source.without_url(),
                    });
                }
            }
        }
    }
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Reads a document, and refuses what could be read in two ways.
fn parse(bytes: &[u8], served_as: Option<&str>, what: &str) -> Result<Document, RegistryError> {
    let malformed = |reason: String| RegistryError::Malformed {
        what: what.to_owned(),
        reason,
    };
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
        // CVE-2021-41190: one digest, two meanings.
        return Err(malformed("it is an index and a manifest at once".to_owned()));
    }
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(schema_1(what));
    }
    if shape.schema_version != Some(2) {
        return Err(malformed("it has no schema version 2".to_owned()));
    }
    let known = |text: &&str| matches!(*text, OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST);
    let inside = shape.media_type.as_deref();
    if let (Some(inside), Some(served_as)) = (inside, served_as.filter(|text| known(text)))
        && inside != served_as
    {
        return Err(malformed(format!(
            "it is served as {served_as} but says that it is {inside:?}"
        )));
    }
    let media_type = inside.or(served_as).unwrap_or_default();
    let is_index = match media_type {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        // Old OCI documents carry no type, and simple servers send a general one.
        _ if inside.is_none() => shape.manifests.is_some(),
        other => {
            return Err(RegistryError::MediaType {
                what: what.to_owned(),
                media_type: other.to_owned(),
            });
        }
    };
    let document = if is_index {
        serde_json::from_slice(bytes).map(Document::Index)
    } else {
        serde_json::from_slice(bytes).map(Document::Manifest)
    };
    document.map_err(|error| malformed(error.to_string()))
}

fn schema_1(what: &str) -> RegistryError {
    RegistryError::SchemaOne {
        what: what.to_owned(),
    }
}

/// The index's entry for a platform.
fn choose<'a>(index: &'a ImageIndex, wanted: &Platform, what: &str) -> Result<&'a Descriptor, RegistryError> {
    let platforms = || {
        index.manifests().iter().filter_map(|entry| {
            let platform = entry.platform().as_ref()?;
            Some((
                entry,
                Platform {
                    os: platform.os().to_string(),
                    architecture: platform.architecture().to_string(),
                    variant: platform.variant().clone(),
                },
            ))
        })
    };
    let best = platforms()
        .filter_map(|(entry, platform)| Some((platform.rank(wanted)?, entry)))
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Ok(entry);
    }
    if let [only] = index.manifests().as_slice()
        && only.platform().is_none()
    {
        // An index around a single manifest that says nothing: the config will say what it is for.
        return Ok(only);
    }
    let mut available: Vec<String> = platforms()
        // Attestations are listed as unknown/unknown.
        .filter(|(_, platform)| platform.os != "unknown")
        // The registry's words: one line of plain text.
        .map(|(_, platform)| platform.to_string().replace(char::is_control, "?"))
        .collect();
    available.dedup();
    Err(RegistryError::NoPlatform {
        what: what.to_owned(),
        wanted: wanted.clone(),
        available: if available.is_empty() {
            "none".to_owned()
        } else {
            available.join(", ")
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, platform: &str) -> String {
        let platform = match platform.split_once('/') {
            Some((os, arch)) => format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#),
            None => String::new(),
        };
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":2{platform}}}"#)
    }

    fn manifest(media_type: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json", "");
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[]}}"#)
    }

    fn index(platforms: &[&str]) -> String {
        let entries: Vec<String> = platforms.iter().map(|p| descriptor(OCI_MANIFEST, p)).collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
    }

    #[test]
    fn documents_are_known_by_their_type_or_shape() {
        for (text, served_as, is_index) in [
            (manifest(OCI_MANIFEST), Some(OCI_MANIFEST), false),
            (manifest(DOCKER_MANIFEST), None, false),
            (index(&["linux/amd64"]), Some(OCI_INDEX), true),
            (index(&["linux/amd64"]), Some("application/json"), true),
            (index(&[]), None, true),
        ] {
            let document = parse(text.as_bytes(), served_as, "x").unwrap();
            assert_eq!(matches!(document, Document::Index(_)), is_index, "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}}"#,
            descriptor("x", "")
        );
        for (text, served_as, message) in [
            (both.as_str(), Some(OCI_INDEX), "an index and a manifest at once"),
            (&manifest(OCI_MANIFEST), Some(OCI_INDEX), "served as"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema version 1"),
            (r#"{"schemaVersion":1}"#, None, "schema version 1"),
            (r#"{"manifests":[]}"#, None, "no schema version 2"),
            (
                r#"{"schemaVersion":2,"layers":[]}"#,
                Some(OCI_MANIFEST),
                "missing field",
            ),
            (
                &manifest("application/vnd.cncf.helm"),
                None,
                "not an image that can be run",
            ),
            ("[]", None, "malformed"),
            ("", None, "malformed"),
        ] {
            let error = parse(text.as_bytes(), served_as, "x").unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_platform_that_is_missing_is_told_with_those_that_are_there() {
        let index: ImageIndex =
            serde_json::from_str(&index(&["linux/arm64", "linux/riscv64", "unknown/unknown"])).unwrap();
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(choose(&index, &platform("linux/arm64/v8"), "x").is_ok());
        let error = choose(&index, &platform("linux/amd64"), "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "x has no image for linux/amd64: it has linux/arm64, linux/riscv64"
        );
    }
}

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz_tests;
