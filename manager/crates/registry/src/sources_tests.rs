//! Mirrors: asked in order, with their own credentials, and told when they fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use croze_model::{Credentials, Digest, ErrorKind, Platform, Result, Secret};

use super::*;
use crate::test_server::{Reply, Request, Server};
use crate::times::Times;
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
    with_times(own, mirrors, Times::none())
}

fn with_times(own: &Server, mirrors: &[String], times: Times) -> Registry {
    let host = Host {
        mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
        ..Host::default()
    };
    let hosts: Hosts = [(own.address.to_string(), host)].into_iter().collect();
    Registry::with_times(hosts, times)
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
            format!("{}/cache", has_it.address),
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

/// Why this mirror is passed over by somebody who shows it nothing.
fn passed_over(registry: &Registry, mirror: &Server) -> Option<String> {
    let who = crate::pace::Who::nobody(&mirror.address.to_string());
    registry.resting().reason(&who)
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_is_passed_over_for_a_while() {
    let (gone, own) = (good().await, good().await);
    let address = gone.address;
    let registry = registry(&own, &[address.to_string()]);
    gone.stop().await;
    resolve(&registry, &own).await.unwrap();
    let sources = registry.sources(&reference(&own));
    assert_eq!(sources.mirrors.len(), 0);
    assert!(
        sources.tried.reasons[0].contains("cannot reach registry"),
        "{:?}",
        sources.tried
    );
}

#[tokio::test]
async fn nobody_waits_for_a_mirror_that_wants_to_be_left_alone_or_is_silent() {
    // Longer than a busy machine takes to answer.
    let silence = Duration::from_secs(2);
    let mute = || Reply {
        mute: true,
        ..Reply::default()
    };
    let token_server = |request: &Request, token: &Reply| {
        if request.path.starts_with("/token") {
            return token.clone();
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        Reply::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    };
    for (name, mirror, requests) in [
        (
            "429",
            Server::start(|_| Reply::new(429, "").with("Retry-After", "60")).await,
            1,
        ),
        (
            "a long 503",
            Server::start(|_| Reply::new(503, "").with("Retry-After", "86400")).await,
            1,
        ),
        ("503", always(503).await, 1),
        ("502", always(502).await, 1),
        ("silence", Server::start(move |_| mute()).await, 1),
        (
            "a body that stalls",
            Server::start(|_| Reply {
                cut: Some(10),
                stalls: true,
                ..manifest()
            })
            .await,
            1,
        ),
        (
            "a silent token server",
            Server::start(move |request| token_server(request, &mute())).await,
            2,
        ),
        (
            "a token that stalls",
            Server::start(move |request| {
                let token = Reply {
                    cut: Some(10),
                    stalls: true,
                    ..Reply::new(200, r#"{"token":"secret"}"#)
                };
                token_server(request, &token)
            })
            .await,
            2,
        ),
    ] {
        let own = good().await;
        let times = Times {
            silence,
            ..Times::default()
        };
        let registry = with_times(&own, &[mirror.address.to_string()], times);
        let begun = Instant::now();
        resolve(&registry, &own).await.unwrap();
        for _ in 0..20 {
            assert_eq!(fetch(&registry, &own).await.unwrap(), content(), "{name}");
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{name}: {:?}",
            begun.elapsed()
        );
        assert_eq!(mirror.requests().len(), requests, "{name}");
        assert!(passed_over(&registry, &mirror).is_some(), "{name}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_answer_passes_over_no_mirror() {
    for (name, reply) in [
        ("404", Reply::new(404, "{}")),
        ("403", Reply::new(403, "{}")),
        ("500", Reply::new(500, "{}")),
        (
            "a manifest that breaks off",
            Reply {
                cut: Some(10),
                ..manifest()
            },
        ),
        ("something else", Reply::new(200, "{}")),
    ] {
        let mirror = Server::start(move |_| reply.clone()).await;
        let own = good().await;
        let registry = registry(&own, &[mirror.address.to_string()]);
        resolve(&registry, &own).await.unwrap();
        resolve(&registry, &own).await.unwrap();
        assert_eq!(mirror.requests().len(), 2, "{name}: one try each time");
        assert_eq!(passed_over(&registry, &mirror), None, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_its_answer_is_made_once_more() {
    for (name, breaks, asked, from_own) in [("once", 1, 2, 0), ("always", usize::MAX, 2, 1)] {
        let count = AtomicUsize::new(0);
        let mirror = Server::start(move |_| Reply {
            hangs_up: count.fetch_add(1, Ordering::Relaxed) < breaks,
            ..manifest()
        })
        .await;
        let own = good().await;
        let registry = registry(&own, &[mirror.address.to_string()]);
        resolve(&registry, &own).await.unwrap();
        assert_eq!(mirror.requests().len(), asked, "{name}");
        assert_eq!(own.requests().len(), from_own, "{name}");
        let rests = passed_over(&registry, &mirror).is_some();
        assert_eq!(rests, from_own > 0, "{name}");
    }
}

#[tokio::test]
async fn a_mirror_is_shown_a_wrong_password_once() {
    // `mirror:right`
    let right = "Basic bWlycm9yOnJpZ2h0";
    let mirror = Server::start(move |request: &Request| match request.header("authorization") {
        Some(shown) if shown == right => manifest(),
        _ => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let own = good().await;
    let name = mirror.address.to_string();
    let registry = registry(&own, std::slice::from_ref(&name));
    let showing = |password: &str| {
        let credentials = Credentials::Password {
            username: "mirror".to_owned(),
            password: Secret::new(password),
        };
        registry.showing_mirrors(BTreeMap::from([(name.clone(), credentials)]))
    };
    let wrong = showing("wrong");
    resolve(&wrong, &own).await.unwrap();
    for _ in 0..5 {
        assert_eq!(fetch(&wrong, &own).await.unwrap(), content());
    }
    let logins = |server: &Server| {
        let requests = server.requests();
        let shown = requests.iter().filter_map(|r| r.header("authorization"));
        shown.count()
    };
    assert_eq!((mirror.requests().len(), logins(&mirror)), (2, 1));
    let reasons = wrong.sources(&reference(&own)).tried.reasons;
    assert!(
        reasons.len() == 1 && reasons[0].contains("does not accept the password"),
        "{reasons:?}"
    );
    // Who shows it something else, or nothing, is not concerned.
    assert_eq!(passed_over(&registry, &mirror), None);
    let before = own.requests().len();
    resolve(&showing("right"), &own).await.unwrap();
    assert_eq!((own.requests().len(), logins(&mirror)), (before, 2));
}

#[tokio::test]
async fn a_mirror_that_breaks_once_goes_on_and_one_that_drips_or_stalls_is_left() {
    let (short, long) = (Duration::from_secs(1), Duration::from_mins(1));
    for (name, asked, drip, stalls) in [
        ("breaks once", 2, None, false),
        ("drips", 1, Some((1024, Duration::from_millis(20))), false),
        ("stalls", 1, None, true),
    ] {
        let count = AtomicUsize::new(0);
        let mirror = Server::start(move |request: &Request| {
            let whole = content();
            let from = request.from().unwrap_or(0);
            let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
            Reply {
                cut: (is_first && drip.is_none()).then_some(100_000),
                drip,
                stalls,
                ..Reply::new(if is_first { 200 } else { 206 }, whole[from..].to_vec()).with(
                    "Content-Range",
                    format!("bytes {from}-{}/{}", whole.len() - 1, whole.len()),
                )
            }
        })
        .await;
        let own = good().await;
        let times = Times {
            silence: if stalls { short } else { long },
            patience: if drip.is_some() { short } else { long },
            ..Times::none()
        };
        let registry = with_times(&own, &[mirror.address.to_string()], times);
        assert_eq!(fetch(&registry, &own).await.unwrap(), content(), "{name}");
        assert_eq!(mirror.requests().len(), asked, "{name}");
        let from_own: Vec<_> = own.requests().iter().map(Request::from).collect();
        if asked == 1 {
            assert!(
                from_own.len() == 1 && from_own[0] > Some(0),
                "{name}: {from_own:?}"
            );
            assert!(passed_over(&registry, &mirror).is_some(), "{name}");
        } else {
            assert_eq!(from_own, [], "{name}");
            assert_eq!(passed_over(&registry, &mirror), None, "{name}");
        }
    }
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
async fn credentials_for_a_mirror_with_a_path_are_for_that_path() {
    let server = Server::start(|request: &Request| match request.header("authorization") {
        Some(_) => Reply::new(404, "{}"),
        None => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let own = good().await;
    let mirrors = ["one", "two"].map(|path| format!("{}/{path}", server.address));
    let user = |name: &str| Credentials::Password {
        username: name.to_owned(),
        password: Secret::new("secret"),
    };
    let shown = BTreeMap::from([(mirrors[1].clone(), user("two"))]);
    let registry = registry(&own, &mirrors).showing_mirrors(shown);
    resolve(&registry, &own).await.unwrap();
    let seen: Vec<(bool, bool)> = server
        .requests()
        .iter()
        .map(|request| {
            let authorized = request.header("authorization").is_some();
            (request.path.starts_with("/v2/two/a/b/"), authorized)
        })
        .collect();
    assert_eq!(seen, [(false, false), (true, false), (true, true)]);
}
