//! From a reference to the manifest for one platform.

use bytes::Bytes;
use croze_model::{Digest, Platform, Reference, Result};
use http::{HeaderValue, StatusCode};
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::MAX_MANIFEST;
use crate::answer::{in_brackets, said};
use crate::client::{Ask, Registry};
use crate::descent::Descent;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::retry::ATTEMPTS;
use crate::sources::Sources;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
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
        let Sources {
            mirrors,
            own,
            mut tried,
        } = self.sources(reference);
        for mirror in &mirrors {
            let found = mirror
                .registry
                .resolve_at(&mirror.endpoint, reference, platform)
                .await;
            match found {
                Ok(resolved) => {
                    mirror.did_well();
                    return Ok(resolved);
                }
                Err(error) => tried.note(mirror, error),
            }
        }
        let found = own.registry.resolve_at(&own.endpoint, reference, platform).await;
        found.map_err(|error| tried.all_failed(&own, error, &reference.familiar()))
    }

    /// Descends from what the reference names to the manifest for the platform.
    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let what = reference.familiar();
        let promised = reference.digest().map(|digest| (*digest, "the reference"));
        let (bytes, digest, document) = self
            .whole_document(endpoint, reference, &what, promised, None)
            .await?;
        let mut descent = Descent::new(platform);
        let (mut bytes, mut manifest_digest, mut document) = (bytes, digest, document);
        loop {
            match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        digest,
                        manifest_digest,
                        manifest: *manifest,
                        bytes,
                    });
                }
                Document::Index(index) => descent.enter(&index),
            }
            (bytes, manifest_digest, document) = self
                .next_document(endpoint, reference, &mut descent, &what)
                .await?;
        }
    }

    /// What the indexes that were read lead to next.
    async fn next_document(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descent: &mut Descent<'_>,
        what: &str,
    ) -> Result<(Bytes, Digest, Document), RegistryError> {
        loop {
            let step = descent.next(what)?;
            let digest = parse_digest(step.entry.digest(), what)?;
            let (exact, promised) = (reference.with_digest(digest), Some((digest, "the index")));
            let size = Some(step.entry.size());
            match self.whole_document(endpoint, &exact, what, promised, size).await {
                // A copy of an index need not have all that the index names: there may be an image without this one.
                Err(error @ RegistryError::UnknownImage { .. }) if step.may_be_missing => {
                    descent.lacks(error);
                }
                read => return read,
            }
        }
    }

    /// A document; asked for again if the connection breaks in the middle of it.
    async fn whole_document(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        what: &str,
        promised: Option<(Digest, &'static str)>,
        size: Option<u64>,
    ) -> Result<(Bytes, Digest, Document), RegistryError> {
        let mut attempt = 1;
        loop {
            match self.document(endpoint, reference, what, promised, size).await {
                // What breaks before the body has been asked for again already.
                Err(RegistryError::Unreachable { source, .. })
                    if attempt < ATTEMPTS
                        && !self.has_another()
                        && (source.is_body() || source.is_decode()) =>
                {
                    tokio::time::sleep(self.pause(attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
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
}

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz_tests;

#[cfg(test)]
#[path = "index_tests.rs"]
mod index_tests;
