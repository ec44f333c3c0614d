//! Servers that want to be left alone: nobody who was told so asks before, and nobody waits for long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use croze_model::{Credentials, ErrorKind, Platform, Reference, Result};

use super::*;
use crate::test_server::{Reply, Request, Server};
use crate::{Host, Rate, Resolved};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
    "config":{"mediaType":"application/vnd.oci.image.config.v1+json",
    "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;

fn manifest() -> Reply {
    Reply::new(200, MANIFEST).with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
}

fn busy(status: u16, after: &str) -> Reply {
    let said = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"enough"}]}"#;
    Reply::new(status, said).with("Retry-After", after)
}

fn user(name: &str) -> Credentials {
    Credentials::Password {
        username: name.to_owned(),
        password: Secret::new("secret"),
    }
}

/// A client that asks this server so many times a second.
fn paced(server: &Server, requests: u32) -> Registry {
    let rate = Rate {
        requests: std::num::NonZeroU32::new(requests),
        bytes: None,
    };
    let host = Host {
        rate,
        ..Host::default()
    };
    Registry::impatient([(server.address.to_string(), host)].into_iter().collect())
}

fn registry() -> Registry {
    Registry::impatient(Hosts::default())
}

async fn resolve(registry: &Registry, server: &Server, path: &str) -> Result<Resolved> {
    let reference: Reference = format!("{}/{path}", server.address).parse().unwrap();
    registry.resolve(&reference, &Platform::host()).await
}

#[tokio::test]
async fn a_registry_that_says_when_is_asked_then_and_by_nobody_before() {
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = Arc::clone(&asked);
    let server = Server::start(move |_| {
        let mut times = times.lock().unwrap();
        times.push(Instant::now());
        match times.len() {
            1 => busy(429, "1"),
            _ => manifest(),
        }
    })
    .await;
    resolve(&registry(), &server, "a/b").await.unwrap();
    let times = asked.lock().unwrap().clone();
    assert_eq!(times.len(), 2);
    let after = times[1] - times[0];
    assert!(after >= Duration::from_millis(990), "asked again after {after:?}");
}

#[tokio::test]
async fn who_has_a_moment_already_asks_no_closed_registry() {
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = Arc::clone(&asked);
    let server = Server::start(move |_| {
        times.lock().unwrap().push(Instant::now());
        manifest()
    })
    .await;
    let registry = paced(&server, 1);
    // The first moment is taken: those that come wait for the second and the third.
    let name = server.address.to_string();
    let rate = registry.hosts().get(&name).unwrap().rate;
    registry.pace().request(&name, rate).await;
    // What they wait for cannot come before all three were polled once: by then it is closed.
    let closing = async {
        let closed = Closed::after(Duration::from_secs(3), "429".to_owned(), String::new());
        let who = registry.as_asked(&format!("http://{name}"));
        registry.pace().close(who, closed);
        Instant::now()
    };
    let (one, two, closed) = tokio::join!(
        resolve(&registry, &server, "a/one"),
        resolve(&registry, &server, "a/two"),
        closing
    );
    one.unwrap();
    two.unwrap();
    let times = asked.lock().unwrap().clone();
    assert_eq!(times.len(), 2);
    for time in times {
        let after = time - closed;
        assert!(after >= Duration::from_millis(2990), "asked after {after:?}");
    }
}

#[tokio::test]
async fn a_registry_that_says_hours_is_not_waited_for_and_asked_once_for_each_user() {
    let server = Server::start(|_| busy(429, "36000")).await;
    let registry = registry();
    let begun = Instant::now();
    for _ in 0..3 {
        let error = resolve(&registry, &server, "a/b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.what().contains("answered 429") && error.what().contains("seconds only (enough)"),
            "{}",
            error.what()
        );
        assert!(error.advice().is_some());
    }
    assert_eq!(server.requests().len(), 1);
    // Who logs in may be let in.
    resolve(&registry.asking_as(user("alice")), &server, "a/b")
        .await
        .unwrap_err();
    assert_eq!(server.requests().len(), 2);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "nobody waits for hours"
    );
}

#[tokio::test]
async fn a_registry_that_is_busy_each_time_is_given_up() {
    let server = Server::start(|_| busy(503, "0")).await;
    let error = resolve(&registry(), &server, "a/b").await.unwrap_err();
    assert!(error.what().contains("in 0 seconds only"), "{}", error.what());
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn who_waits_because_others_were_told_to_uses_up_no_try() {
    let server = Server::start(|_| manifest()).await;
    let registry = registry();
    let address = format!("http://{}", server.address);
    let closing = async {
        // So often that every try would be used up.
        for _ in 0..12 {
            let closed = Closed::after(Duration::from_millis(200), "429".to_owned(), String::new());
            registry.pace().close(registry.as_asked(&address), closed);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let (resolved, ()) = tokio::join!(resolve(&registry, &server, "a/b"), closing);
    resolved.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_a_token_server_says_of_when_to_come_back_is_kept() {
    let server = Server::start(|request: &Request| {
        if request.path.starts_with("/token") {
            return match request.path.contains("never") {
                true => busy(429, "3600"),
                false => Reply::new(408, ""),
            };
        }
        let repository = request.path.split('/').nth(3).unwrap();
        let realm = format!("http://{}/token/{repository}", request.header("host").unwrap());
        Reply::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let registry = registry().asking_as(user("alice"));
    let tokens = || {
        let requests = server.requests();
        requests
            .iter()
            .filter(|request| request.path.starts_with("/token"))
            .count()
    };
    // 408 is no word about the user.
    let error = resolve(&registry, &server, "a/b").await.unwrap_err();
    assert!(error.what().contains("token server"), "{}", error.what());
    assert_eq!((error.kind(), tokens()), (ErrorKind::Unavailable, 4));
    let error = resolve(&registry, &server, "a/never").await.unwrap_err();
    assert!(
        error.what().contains("/token/never") && error.what().contains("in 3600 seconds only"),
        "{}",
        error.what()
    );
    assert_eq!(tokens(), 5, "the password was shown once");
}

#[tokio::test]
async fn a_storage_that_wants_to_be_left_alone_closes_itself_only() {
    let storage = Server::start(|_| busy(503, "3600")).await;
    let target = format!("http://{}/stored", storage.address);
    let server = Server::start(move |request: &Request| {
        if request.path.contains("/stored/") {
            Reply::new(307, "").with("Location", target.clone())
        } else {
            manifest()
        }
    })
    .await;
    let registry = registry();
    for _ in 0..2 {
        let error = resolve(&registry, &server, "stored/b").await.unwrap_err();
        assert!(error.what().contains("answered 503"), "{}", error.what());
        resolve(&registry, &server, "a/b").await.unwrap();
    }
    assert_eq!(storage.requests().len(), 1);
}

#[tokio::test]
async fn a_login_is_paced_and_told_when_to_come_back() {
    let server = Server::start(|request: &Request| match request.header("authorization") {
        Some(_) => Reply::new(200, "{}"),
        None => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let begun = Instant::now();
    let registry = paced(&server, 4).asking_as(user("alice"));
    registry.login(&server.address.to_string()).await.unwrap();
    registry.login(&server.address.to_string()).await.unwrap();
    assert_eq!(server.requests().len(), 4);
    assert!(
        begun.elapsed() >= Duration::from_millis(740),
        "{:?}",
        begun.elapsed()
    );

    let server = Server::start(|_| busy(429, "3600")).await;
    let registry = self::registry().asking_as(user("alice"));
    for _ in 0..2 {
        let error = registry.login(&server.address.to_string()).await.unwrap_err();
        assert!(error.what().contains("seconds only (enough)"), "{}", error.what());
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn who_was_led_away_and_back_is_shown_nothing() {
    let back: Arc<Mutex<String>> = Arc::default();
    let to = Arc::clone(&back);
    let elsewhere =
        Server::start(move |_| Reply::new(307, "").with("Location", to.lock().unwrap().clone())).await;
    let away = format!("http://{}/away", elsewhere.address);
    let server = Server::start(move |request: &Request| match request.header("authorization") {
        _ if request.path == "/chosen" => manifest(),
        Some(_) => Reply::new(307, "").with("Location", away.clone()),
        None => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    *back.lock().unwrap() = format!("http://{}/chosen", server.address);
    resolve(&registry().asking_as(user("alice")), &server, "a/b")
        .await
        .unwrap();
    let seen: Vec<(String, bool)> = server
        .requests()
        .into_iter()
        .map(|request| {
            let authorized = request.header("authorization").is_some();
            (request.path, authorized)
        })
        .collect();
    assert_eq!(seen.last(), Some(&("/chosen".to_owned(), false)), "{seen:?}");
}

#[tokio::test]
async fn a_token_that_no_header_can_hold_is_not_sent() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        manifest()
    })
    .await;
    let token = Credentials::Registry {
        token: Secret::new("a\r\nb"),
    };
    let error = resolve(&registry().asking_as(token), &server, "a/b")
        .await
        .unwrap_err();
    assert!(error.what().contains("no header can hold"), "{}", error.what());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
