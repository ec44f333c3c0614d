//! Random manifests, indexes and challenges: whatever is read can be acted upon, and the rest is an error.

use croze_fuzz::{Campaign, kind_of};
use croze_model::Platform;

use super::*;
use crate::auth::{Challenge, TokenAnswer};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1470},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":529,"urls":["https://example.org/x"]}],"annotations":{"a":"b"}}"#;
const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7143,"platform":{"architecture":"arm","os":"linux","variant":"v7","os.features":["x"]}},{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":9}]}"#;
const SCHEMA_ONE: &str =
    r#"{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"sha256:00"}],"history":[]}"#;

/// The words of an error without what it quotes and counts.
fn kind(error: &RegistryError) -> u64 {
    let text = error.to_string();
    let words: String = text
        .chars()
        .take_while(|c| *c != '`')
        .filter(|c| c.is_ascii_alphabetic() || *c == ' ')
        .take(80)
        .collect();
    kind_of(&words)
}

#[test]
fn fuzz_manifests_and_indexes() {
    let seeds = [MANIFEST, INDEX, SCHEMA_ONE, "{}", "[]"];
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    let words: [&[u8]; 14] = [
        br#""manifests":[],"#,
        br#""layers":[],"#,
        br#""config":{},"#,
        br#""schemaVersion":2,"#,
        br#""size":-1,"#,
        br#""digest":"sha512:00","#,
        br#""platform":null,"#,
        DOCKER_LIST.as_bytes(),
        DOCKER_MANIFEST.as_bytes(),
        OCI_INDEX.as_bytes(),
        OCI_MANIFEST.as_bytes(),
        b"null",
        b"[[[[[[[[",
        br#"{"a":"#,
    ];
    let platforms: Vec<Platform> = ["linux/arm/v7", "linux/amd64", "windows/amd64"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let served = [None, Some(OCI_MANIFEST), Some(OCI_INDEX), Some("text/html")];
    let outcome = Campaign::new(seeds, &words, 1 << 16).attack("manifests", |input| {
        let served_as = served[input.len() % served.len()];
        match parse(input, served_as, "x") {
            Ok(Document::Manifest(manifest)) => {
                let blobs = manifest.layers().iter().chain([manifest.config()]);
                let good = blobs.filter(|blob| parse_digest(blob.digest(), "x").is_ok());
                1 + good.count().min(5) as u64
            }
            Ok(Document::Index(index)) => {
                let chosen = platforms.iter().filter_map(|platform| {
                    let mut descent = Descent::new(platform);
                    descent.enter(&index);
                    descent.next("x").ok()
                });
                let good = chosen.filter(|step| parse_digest(step.entry.digest(), "x").is_ok());
                10 + good.count() as u64
            }
            Err(error) => kind(&error),
        }
    });
    assert!(outcome.kinds > 10, "{outcome:?}");
}

#[test]
fn fuzz_challenges() {
    let seeds = [
        r#"Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull,push",error="invalid_token""#,
        r#"Basic realm="a, b""#,
        "Bearer realm=https://a/token, service=b",
        r#"Digest username="x""#,
    ];
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    let words: [&[u8]; 7] = [
        b"Bearer ",
        b"realm=",
        b"realm=\"",
        b"scope=",
        b"\\\"",
        b", ",
        b"Basic ",
    ];
    let outcome = Campaign::new(seeds, &words, 4000).attack("challenges", |input| {
        let text = String::from_utf8_lossy(input);
        match Challenge::parse(&text) {
            None => 0,
            Some(Challenge::Basic) => 1,
            Some(Challenge::Bearer(bearer)) => {
                // Every value is a part of the header: nothing is made up, and nothing is copied twice.
                let values = [
                    Some(&bearer.realm),
                    bearer.service.as_ref(),
                    bearer.scope.as_ref(),
                ];
                let mut length = 0;
                for value in values.into_iter().flatten() {
                    assert!(text.contains(value.as_str()), "{value:?}");
                    length += value.len();
                }
                assert!(length <= text.len());
                2 + u64::from(bearer.service.is_some())
                    + 2 * u64::from(bearer.scope.is_some())
                    + 4 * u64::from(bearer.realm.is_empty())
            }
        }
    });
    assert!(outcome.kinds > 4, "{outcome:?}");
}

#[test]
fn fuzz_answers_of_token_servers() {
    let seeds = [
        r#"{"token":"t","access_token":"a","expires_in":300,"issued_at":"2024-01-02T03:04:05Z","refresh_token":"r"}"#,
        r#"{"access_token":"a"}"#,
    ];
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    let outcome =
        Campaign::new(seeds, &[b"\"token\":", b"null", b"\"\"", b"-1"], 4000).attack("tokens", |input| {
            match serde_json::from_slice::<TokenAnswer>(input) {
                Ok(answer) => {
                    u64::from(answer.token().is_some()) + 2 * u64::from(answer.identity_token().is_some())
                }
                Err(_) => 9,
            }
        });
    assert!(outcome.kinds > 2, "{outcome:?}");
}
