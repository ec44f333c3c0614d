//! Registries that misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::{ErrorKind, Platform};

use super::*;
use crate::test_server::{Reply, Request, Server};
use crate::times::Times;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest() -> String {
    let digest = Digest::of(b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},"layers":[]}}"#
    )
}

fn manifest_reply() -> Reply {
    Reply::new(200, manifest()).with("Content-Type", MANIFEST)
}

/// A client that does not wait between its tries.
fn registry() -> Registry {
    Registry::impatient(crate::Hosts::default())
}

fn reference(server: &Server, rest: &str) -> Reference {
    format!("{}/{rest}", server.address).parse().unwrap()
}

async fn resolve(server: &Server, rest: &str) -> Result<crate::Resolved> {
    registry()
        .resolve(&reference(server, rest), &Platform::host())
        .await
}

async fn fetch(server: &Server, digest: &Digest, size: u64) -> Result<Vec<u8>> {
    let mut stream = registry().blob(&reference(server, "a/b"), digest, size).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Content that differs everywhere, so that a piece in the wrong place is seen.
fn content() -> Vec<u8> {
    (0u32..100_000).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn a_manifest_that_does_not_end_is_given_up() {
    let server = Server::start(|_: &Request| Reply {
        cut: Some(9),
        stalls: true,
        ..manifest_reply()
    })
    .await;
    let times = Times {
        document: Duration::from_millis(50),
        ..Times::none()
    };
    let registry = Registry::with_times(crate::Hosts::default(), times);
    let error = registry
        .resolve(&reference(&server, "a/b"), &Platform::host())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.what().contains("did not come whole from http://127.0.0.1"),
        "{}",
        error.what()
    );
}

#[tokio::test]
async fn an_unknown_image_is_told_with_registry_repository_and_tag() {
    let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
    let server = Server::start(move |_| Reply::new(404, body)).await;
    let error = resolve(&server, "no/such:thing").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let expected = format!(
        "registry {} has no image no/such with tag thing (repository name not known to registry)",
        server.address
    );
    assert_eq!(error.what(), expected);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_with_address_and_cause() {
    let server = Server::start(|_| manifest_reply()).await;
    let gone = reference(&server, "a/b");
    let address = server.address;
    server.stop().await;
    let error = registry().resolve(&gone, &Platform::host()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let line = error.one_line();
    assert!(
        line.contains(&format!(
            "cannot reach registry {address} at http://{address}/v2/a/b/"
        )),
        "{line}"
    );
    assert!(error.advice().is_some());
}

#[tokio::test]
async fn a_manifest_must_be_what_every_promise_says() {
    let right = Digest::of(manifest().as_bytes());
    let wrong = Digest::of(b"something else");
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/a/liar/manifests/latest" => manifest_reply().with("Docker-Content-Digest", wrong.to_string()),
        "/v2/a/large/manifests/latest" => Reply::new(200, vec![b' '; 4 << 20 | 1]),
        "/v2/a/endless/manifests/latest" => Reply {
            cut: Some(10),
            ..Reply::new(200, vec![b' '; 100]).with("Content-Length", (1u64 << 40).to_string())
        },
        _ => manifest_reply().with("Docker-Content-Digest", right.to_string()),
    })
    .await;
    assert_eq!(resolve(&server, "a/b").await.unwrap().digest, right);
    assert_eq!(
        resolve(&server, &format!("a/b@{right}")).await.unwrap().digest,
        right
    );
    for (rest, message) in [
        (format!("a/b@{wrong}"), "but the reference says"),
        ("a/liar".to_owned(), "but the registry itself says"),
        ("a/large".to_owned(), "is larger than 4194304 bytes"),
        ("a/endless".to_owned(), "is larger than 4194304 bytes"),
    ] {
        let error = resolve(&server, &rest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{rest}");
        assert!(error.what().contains(message), "{rest}: {}", error.what());
    }
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_and_kept() {
    let server = Server::start(|request: &Request| {
        if request.path.starts_with("/token?") {
            assert!(
                request.path.contains("scope=repository%3Aa%2Fb%3Apull")
                    && request.path.contains("service=s")
            );
            return Reply::new(200, r#"{"token":"secret","expires_in":300}"#);
        }
        if request.header("authorization") == Some("Bearer secret") {
            return manifest_reply();
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="repository:a/b:pull""#);
        Reply::new(401, "{}").with("WWW-Authenticate", challenge)
    })
    .await;
    let registry = registry();
    for _ in 0..2 {
        registry
            .resolve(&reference(&server, "a/b"), &Platform::host())
            .await
            .unwrap();
    }
    let tokens = server
        .requests()
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .count();
    assert_eq!((tokens, server.requests().len()), (1, 4));
}

#[tokio::test]
async fn redirects_are_followed_without_the_token() {
    let storage = Server::start(|_| Reply::new(200, content())).await;
    let target = format!("http://{}/stored", storage.address);
    let server = Server::start(move |request: &Request| {
        if request.path == "/token" {
            return Reply::new(200, r#"{"token":"secret"}"#);
        }
        if request.path.starts_with("/token?") {
            return Reply::new(200, r#"{"token":"secret"}"#);
        }
        match request.header("authorization") {
            Some(_) if request.path.contains("loop") => {
                Reply::new(307, "").with("Location", request.path.clone())
            }
            Some(_) => Reply::new(307, "").with("Location", target.clone()),
            None if request.path.contains("loop") => {
                Reply::new(307, "").with("Location", request.path.clone())
            }
            None => {
                let realm = format!("http://{}/token", request.header("host").unwrap());
                Reply::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
            }
        }
    })
    .await;
    let bytes = content();
    assert!(
        fetch(&server, &Digest::of(&bytes), bytes.len() as u64)
            .await
            .unwrap()
            == bytes
    );
    assert!(
        storage
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.header("authorization").is_some())
    );

    let error = resolve(&server, "a/loop").await.unwrap_err();
    assert!(
        error.what().contains("redirects") && error.what().contains("too often"),
        "{}",
        error.what()
    );
    let away = Server::start(|_| Reply::new(302, "").with("Location", "http://example.com/x")).await;
    let error = resolve(&away, "a/b").await.unwrap_err();
    assert!(error.what().contains("not HTTPS"), "{}", error.what());
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let bytes = content();
    for ranges in [true, false] {
        let breaks = AtomicUsize::new(0);
        let server = Server::start(move |request: &Request| {
            let whole = content();
            // Without ranges every answer begins again, so it must get further each time.
            let step = (breaks.fetch_add(1, Ordering::Relaxed) + 1) * 90_000;
            match request.from().filter(|_| ranges) {
                Some(from) => {
                    let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
                    let body = whole[from..].to_vec();
                    let cut = Some(body.len().min(90_000));
                    Reply {
                        cut,
                        ..Reply::new(206, body).with("Content-Range", range)
                    }
                }
                None => Reply {
                    cut: Some(whole.len().min(step)),
                    ..Reply::new(200, whole)
                },
            }
        })
        .await;
        let fetched = fetch(&server, &Digest::of(&bytes), bytes.len() as u64)
            .await
            .unwrap();
        assert!(fetched == bytes, "ranges: {ranges}");
        assert_eq!(server.requests().len(), 5);
    }
}

#[tokio::test]
async fn a_download_that_never_goes_on_fails_with_how_far_it_came() {
    let server = Server::start(|request: &Request| {
        let from = request.from().unwrap_or(0);
        let range = format!("bytes {from}-399999/400000");
        let cut = Some(if from == 0 { 1000 } else { 0 });
        let status = if from == 0 { 200 } else { 206 };
        Reply {
            cut,
            ..Reply::new(status, content()[from..].to_vec()).with("Content-Range", range)
        }
    })
    .await;
    let error = fetch(&server, &Digest::of(&content()), 400_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.what().contains("broke off at 1000 of 400000 bytes"),
        "{}",
        error.what()
    );
}

#[tokio::test]
async fn sizes_that_are_not_the_descriptors_are_refused_at_once() {
    let server = Server::start(|_| Reply::new(200, content())).await;
    for size in [399_999, 400_001] {
        let error = fetch(&server, &Digest::of(&content()), size).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.what().contains("has 400000 bytes at registry"),
            "{}",
            error.what()
        );
    }
    assert_eq!(server.requests().len(), 2, "asking again would not help");
    let missing = Server::start(|_| Reply::new(404, "")).await;
    let error = fetch(&missing, &Digest::of(b"x"), 1).await.unwrap_err();
    assert!(error.what().contains("has no blob sha256:"), "{}", error.what());
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        let first = asked.fetch_add(1, Ordering::Relaxed) < 2;
        if first || request.path.contains("always") {
            Reply::new(503, "")
        } else {
            manifest_reply()
        }
    })
    .await;
    resolve(&server, "a/b").await.unwrap();
    assert_eq!(server.requests().len(), 3);
    let error = resolve(&server, "a/always").await.unwrap_err();
    assert!(error.what().contains("answered 503"), "{}", error.what());
}

#[tokio::test]
async fn a_challenge_of_where_a_redirect_leads_is_not_answered() {
    let storage = Server::start(|request: &Request| {
        let realm = format!("http://{}/steal", request.header("host").unwrap());
        Reply::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let target = format!("http://{}/stored?X-Amz-Signature=secret", storage.address);
    let server = Server::start(move |_| Reply::new(307, "").with("Location", target.clone())).await;
    let error = fetch(&server, &Digest::of(b"x"), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.one_line());
    assert!(error.what().contains("401") && error.what().contains("/stored"));
    assert!(!error.one_line().contains("secret"), "{}", error.one_line());
    assert!(
        storage
            .requests()
            .iter()
            .all(|request| request.path.starts_with("/stored"))
    );
    assert!(server.requests().len() > 1, "the registry may sign a new address");
}

#[tokio::test]
async fn a_token_server_that_fails_is_asked_again_and_not_taken_for_a_refusal() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        if request.path.starts_with("/token?") {
            return match asked.fetch_add(1, Ordering::Relaxed) {
                1 => Reply::new(200, r#"{"token":"secret"}"#),
                _ => Reply::new(503, ""),
            };
        }
        if request.header("authorization").is_some() && !request.path.contains("never") {
            return manifest_reply();
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        Reply::new(401, "{}").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    })
    .await;
    resolve(&server, "a/b").await.unwrap();
    let error = resolve(&server, "a/never").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.what().contains("token server"), "{}", error.what());
}

#[tokio::test]
async fn a_download_is_complete_with_its_last_byte_however_the_connection_ends() {
    // A chunk with all bytes, and then not the chunk that ends the body.
    let server = Server::start(|request: &Request| match request.from() {
        None => Reply::new(200, "5\r\ncroze\r\n").with("Transfer-Encoding", "chunked"),
        Some(_) => Reply::new(416, ""),
    })
    .await;
    let bytes = fetch(&server, &Digest::of(b"croze"), 5).await.unwrap();
    assert_eq!(bytes, b"croze");
    assert_eq!(server.requests().len(), 1);
    // More than was promised is still told.
    let server = Server::start(|_| {
        Reply::new(200, "5\r\ncroze\r\n1\r\n!\r\n0\r\n\r\n").with("Transfer-Encoding", "chunked")
    })
    .await;
    let error = fetch(&server, &Digest::of(b"croze"), 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_server_that_breaks_after_each_byte_is_given_up() {
    let server = Server::start(|request: &Request| {
        let from = request.from().unwrap_or(0);
        let body = content()[from..].to_vec();
        let status = if from == 0 { 200 } else { 206 };
        Reply {
            cut: Some(1),
            ..Reply::new(status, body).with("Content-Range", format!("bytes {from}-399999/400000"))
        }
    })
    .await;
    let error = fetch(&server, &Digest::of(&content()), 400_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_server_that_drips_is_given_up_though_bytes_come() {
    let server = Server::start(|request: &Request| {
        let from = request.from().unwrap_or(0);
        let status = if from == 0 { 200 } else { 206 };
        Reply {
            // 64 KiB take a second and more, in which five of these minutes are over.
            drip: Some((1024, Duration::from_millis(20))),
            ..Reply::new(status, content()[from..].to_vec())
                .with("Content-Range", format!("bytes {from}-399999/400000"))
        }
    })
    .await;
    let times = Times {
        patience: Duration::from_millis(300),
        ..Times::none()
    };
    let registry = Registry::with_times(crate::Hosts::default(), times);
    let bytes = content();
    let error = registry
        .small_blob(&reference(&server, "a/b"), &Digest::of(&bytes), 400_000, 1 << 20)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.what().contains("less than 64 KiB a minute"),
        "{}",
        error.what()
    );
    // It goes on where it was each time.
    let asked: Vec<usize> = server
        .requests()
        .iter()
        .map(|request| request.from().unwrap_or(0))
        .collect();
    assert!(asked.len() == 5 && asked.is_sorted_by(|a, b| a < b), "{asked:?}");
}
