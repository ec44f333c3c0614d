//! Mirrors: asked in order, with their own credentials, and told when they fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::{Credentials, Digest, ErrorKind, Platform, Result, Secret};

use super::*;
use crate::test_server::{Reply, Request, Server};
use crate::{Host, Hosts, Resolved};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
    "config":{"mediaType":"application/vnd.oci.image.config.v1+json",
    "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;

/// Content that differs everywhere, so that a piece in the wrong place is seen.
fn content() -> Vec<u8> {
    (0u32..50_000).flat_map(u32::to_le_bytes).collect()
}

fn manifest() -> Reply {
    Reply::new(200, MANIFEST).with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
}

/// A server that has everything, below any path.
async fn good() -> Server {
    Server::start(|request: &Request| {
        if request.path.contains("/manifests/") {
            return manifest();
        }
        let whole = content();
        let from = request.from().unwrap_or(0);
        let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
        let status = if request.from().is_some() { 206 } else { 200 };
        Reply::new(status, whole[from..].to_vec()).with("Content-Range", range)
    })
    .await
}

async fn always(status: u16) -> Server {
    Server::start(move |_| Reply::new(status, "{}")).await
}

/// A client for which the registry `own` has these mirrors.
fn registry(own: &Server, mirrors: &[String]) -> Registry {
    let host = Host {
        mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
        ..Host::default()
    };
    let hosts: Hosts = [(own.address.to_string(), host)].into_iter().collect();
    Registry::impatient(hosts)
}

fn reference(own: &Server) -> Reference {
    format!("{}/a/b:1", own.address).parse().unwrap()
}

async fn resolve(registry: &Registry, own: &Server) -> Result<Resolved> {
    registry.resolve(&reference(own), &Platform::host()).await
}

async fn fetch(registry: &Registry, own: &Server) -> Result<Vec<u8>> {
    let bytes = content();
    registry
        .small_blob(&reference(own), &Digest::of(&bytes), bytes.len() as u64, 1 << 20)
        .await
}

#[test]
fn mirrors_are_registries_with_a_path_at_most() {
    for (text, shown, repository) in [
        ("m.example", "m.example", "library/debian"),
        ("https://m.example/", "m.example", "library/debian"),
        ("127.0.0.1:5000/hub", "127.0.0.1:5000/hub", "hub/library/debian"),
        ("m.example/a/b", "m.example/a/b", "a/b/library/debian"),
    ] {
        let mirror: Mirror = text.parse().unwrap();
        assert_eq!(mirror.to_string(), shown, "{text}");
        assert_eq!(mirror.repository("library/debian"), repository, "{text}");
    }
    for text in [
        "",
        "/",
        "plain",
        "a b",
        "m.example/UPPER",
        "m.example/a:1",
        "m.example?x",
        "u:p@m.example",
    ] {
        let error = text.parse::<Mirror>().unwrap_err();
        assert!(matches!(error, MirrorError::Form { .. }), "{text}: {error}");
    }
    let error = "http://m.example:5000/x"
        .parse::<Mirror>()
        .unwrap_err()
        .to_string();
    assert!(error.contains("[registries.\"m.example:5000\"]"), "{error}");
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_only_if_none_has_it() {
    let (missing, has_it, own) = (always(404).await, good().await, good().await);
    let mirrors = [missing.address.to_string(), format!("{}/cache", has_it.address)];
    let registry = registry(&own, &mirrors);
    resolve(&registry, &own).await.unwrap();
    assert_eq!(fetch(&registry, &own).await.unwrap(), content());
    assert_eq!((missing.requests().len(), own.requests().len()), (2, 0));
    let paths: Vec<String> = has_it
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(paths[0], "/v2/cache/a/b/manifests/1");
    assert!(paths[1].starts_with("/v2/cache/a/b/blobs/sha256:"), "{paths:?}");
    assert_eq!(
        registry.sources_of(&own.address.to_string()),
        [
            missing.address.to_string(),
            has_it.address.to_string(),
            own.address.to_string()
        ]
    );
}

#[tokio::test]
async fn an_error_names_every_source_that_was_tried_and_why_each_failed() {
    let (missing, broken, own) = (always(404).await, always(500).await, always(404).await);
    let mirrors = [missing.address.to_string(), broken.address.to_string()];
    let registry = registry(&own, &mirrors);
    for error in [
        resolve(&registry, &own).await.unwrap_err(),
        fetch(&registry, &own).await.unwrap_err(),
    ] {
        let text = error.what();
        assert!(text.contains("none of the 3 sources of"), "{text}");
        for source in [&missing, &broken, &own] {
            assert!(text.contains(&format!("{}: ", source.address)), "{text}");
        }
        assert!(
            text.contains("answered 500") && error.advice().is_some(),
            "{text}"
        );
    }
    assert_eq!(
        resolve(&registry, &own).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_is_passed_over_for_a_while() {
    let (gone, own) = (good().await, good().await);
    let address = gone.address;
    drop(gone);
    let registry = registry(&own, &[address.to_string()]);
    // The listener is closed by its task, which may take a moment: until then the mirror answers.
    while registry.unreached().reason(&address.to_string()).is_none() {
        resolve(&registry, &own).await.unwrap();
        tokio::task::yield_now().await;
    }
    let sources = registry.sources(&reference(&own));
    assert_eq!(sources.mirrors.len(), 0);
    assert!(
        sources.tried.reasons[0].contains("cannot reach registry"),
        "{:?}",
        sources.tried
    );
}

#[tokio::test]
async fn what_one_source_began_the_next_one_finishes() {
    // Sends a piece, and then never again.
    let sent = AtomicUsize::new(0);
    let dying = Server::start(move |_| match sent.fetch_add(1, Ordering::Relaxed) {
        0 => Reply {
            cut: Some(70_000),
            ..Reply::new(200, content())
        },
        _ => Reply::new(404, "{}"),
    })
    .await;
    let own = good().await;
    let registry = registry(&own, &[dying.address.to_string()]);
    assert_eq!(fetch(&registry, &own).await.unwrap(), content());
    let rest = own.requests()[0].from().unwrap();
    assert!(rest > 0 && rest <= 70_000, "{rest}");
}

#[tokio::test]
async fn a_mirror_that_serves_something_else_is_found_out() {
    let own = good().await;
    let lying = Server::start(|request: &Request| {
        if request.path.contains("/manifests/") {
            return manifest();
        }
        let mut wrong = content();
        wrong[1000] ^= 1;
        Reply::new(200, wrong)
    })
    .await;
    let registry = registry(&own, &[lying.address.to_string()]);
    assert_eq!(fetch(&registry, &own).await.unwrap(), content());
    assert_eq!((lying.requests().len(), own.requests().len()), (1, 1));
    // By digest even a manifest of a mirror is checked.
    let wrong = Digest::of(b"another");
    let by_digest = reference(&own).with_digest(wrong);
    let error = registry.resolve(&by_digest, &Platform::host()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // Whoever stores the bytes asks whom to leave out.
    let bytes = content();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let mut stream = registry.blob(&reference(&own), &digest, size).await.unwrap();
    while stream.next().await.unwrap().is_some() {}
    let suspect = stream.suspect().unwrap();
    assert_eq!(suspect, lying.address.to_string());
    let mut stream = registry
        .blob_except(&reference(&own), &digest, size, &[suspect])
        .await
        .unwrap();
    while stream.next().await.unwrap().is_some() {}
    assert_eq!(stream.suspect(), None);
}

#[tokio::test]
async fn a_mirror_sees_its_own_credentials_only() {
    let basic = |request: &Request| match request.header("authorization") {
        Some(_) => Reply::new(404, "{}"),
        None => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""),
    };
    let (known, unknown, own) = (
        Server::start(basic).await,
        Server::start(basic).await,
        Server::start(basic).await,
    );
    let user = |name: &str| Credentials::Password {
        username: name.to_owned(),
        password: Secret::new("secret"),
    };
    let mirrors = [known.address.to_string(), unknown.address.to_string()];
    let shown = BTreeMap::from([(known.address.to_string(), user("mirror"))]);
    let registry = registry(&own, &mirrors)
        .asking_as(user("alice"))
        .showing_mirrors(shown);
    resolve(&registry, &own).await.unwrap_err();
    let seen = |server: &Server| -> Vec<String> {
        let requests = server.requests();
        let headers = requests
            .iter()
            .filter_map(|request| request.header("authorization"));
        headers.map(str::to_owned).collect()
    };
    // `mirror:secret`, nothing, `alice:secret`
    assert_eq!(seen(&known), ["Basic bWlycm9yOnNlY3JldA=="]);
    assert_eq!(seen(&unknown), Vec::<String>::new());
    assert_eq!(seen(&own), ["Basic YWxpY2U6c2VjcmV0"]);
}

#[tokio::test]
async fn a_registry_that_says_when_is_asked_then_and_by_nobody_before() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(move |request: &Request| {
        if request.path.contains("never") {
            return Reply::new(
                429,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"enough"}]}"#,
            )
            .with("Retry-After", "3600");
        }
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(429, "").with("Retry-After", "1"),
            _ => manifest(),
        }
    })
    .await;
    let registry = registry(&server, &[]);
    let begun = Instant::now();
    resolve(&registry, &server).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(asked.load(Ordering::Relaxed), 2);

    let begun = Instant::now();
    let never: Reference = format!("{}/a/never", server.address).parse().unwrap();
    let error = registry.resolve(&never, &Platform::host()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits an hour");
    assert!(
        error.what().contains("in 3600 seconds only (enough)") && error.advice().is_some(),
        "{}",
        error.what()
    );
}
