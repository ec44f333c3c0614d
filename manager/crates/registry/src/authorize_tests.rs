//! Registries that want to know who asks.

use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::{ErrorKind, Platform};

use super::*;
use crate::Hosts;
use crate::test_server::{Reply, Request, Server};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
    "config":{"mediaType":"application/vnd.oci.image.config.v1+json",
    "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;

/// `alice:secret`
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";

fn user(name: &str, password: &str) -> Credentials {
    Credentials::Password {
        username: name.to_owned(),
        password: Secret::new(password),
    }
}

fn manifest() -> Reply {
    Reply::new(200, MANIFEST).with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
}

fn bearer(request: &Request, realm: &str) -> Reply {
    let realm = format!("http://{}{realm}", request.header("host").unwrap_or_default());
    let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="repository:a/b:pull""#);
    Reply::new(401, "{}").with("WWW-Authenticate", challenge)
}

async fn pull(server: &Server, credentials: Credentials) -> Result<()> {
    let registry = Registry::impatient(Hosts::default()).asking_as(credentials);
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    registry.resolve(&reference, &Platform::host()).await.map(drop)
}

/// A registry with a password of its own.
async fn basic_server() -> Server {
    Server::start(|request: &Request| match request.header("authorization") {
        Some(ALICE) if request.path == "/v2/" => Reply::new(200, "{}"),
        Some(ALICE) => manifest(),
        _ => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await
}

#[tokio::test]
async fn a_password_is_sent_when_it_is_asked_for_and_then_at_once() {
    let server = basic_server().await;
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    for _ in 0..2 {
        registry.resolve(&reference, &Platform::host()).await.unwrap();
    }
    let sent: Vec<bool> = server
        .requests()
        .iter()
        .map(|request| request.header("authorization").is_some())
        .collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn who_is_refused_and_what_to_do_is_said() {
    let server = basic_server().await;
    let registry = server.address;
    let error = pull(&server, Credentials::Anonymous).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(
        error.what().contains("repository a/b to no anonymous users"),
        "{}",
        error.what()
    );
    assert!(
        error
            .advice()
            .unwrap()
            .contains(&format!("croze login {registry}"))
    );
    let error = pull(&server, user("alice", "wrong-word")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(
        error.what().contains(r#"the password or token of user "alice""#),
        "{}",
        error.what()
    );
    assert!(!format!("{error:?}").contains("wrong-word"));
    assert_eq!(server.requests().len(), 3, "a wrong password is not tried again");
}

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_denial_is_no_wrong_password() {
    let server = Server::start(|request: &Request| {
        if request.path.starts_with("/token?") {
            return match request.header("authorization") {
                Some(ALICE) => {
                    assert!(request.path.contains("account=alice"), "{}", request.path);
                    Reply::new(200, r#"{"token":"good"}"#)
                }
                Some(_) => Reply::new(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad credentials"}]}"#,
                ),
                None => Reply::new(200, r#"{"token":"weak"}"#),
            };
        }
        match request.header("authorization") {
            Some("Bearer good") if !request.path.contains("other") => manifest(),
            _ => bearer(request, "/token"),
        }
    })
    .await;
    pull(&server, user("alice", "secret")).await.unwrap();
    for (credentials, kind, words) in [
        (user("alice", "x"), ErrorKind::Unauthenticated, "bad credentials"),
        (Credentials::Anonymous, ErrorKind::Unauthenticated, "anonymous"),
        (
            Credentials::Registry {
                token: Secret::new("weak"),
            },
            ErrorKind::PermissionDenied,
            "the holder of this token",
        ),
    ] {
        let error = pull(&server, credentials).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.what());
        assert!(error.what().contains(words), "{}", error.what());
    }
    pull(
        &server,
        Credentials::Registry {
            token: Secret::new("good"),
        },
    )
    .await
    .unwrap();
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
    let other = format!("{}/a/other", server.address).parse().unwrap();
    let error = registry.resolve(&other, &Platform::host()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(
        error
            .what()
            .contains(r#"denies user "alice" access to repository a/other"#)
    );
}

#[tokio::test]
async fn a_token_that_expires_is_fetched_anew() {
    let given = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        if request.path.starts_with("/token?") {
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Reply::new(200, format!(r#"{{"token":"t{number}","expires_in":3600}}"#));
        }
        // Only the newest token is good, and each of them once.
        match request.header("authorization") {
            Some(token) if token == format!("Bearer t{}", given.load(Ordering::Relaxed) - 1) => {
                given.fetch_add(1, Ordering::Relaxed);
                manifest()
            }
            _ => bearer(request, "/token"),
        }
    })
    .await;
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    for _ in 0..3 {
        registry.resolve(&reference, &Platform::host()).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_expires_within_a_download_is_fetched_anew_and_the_download_goes_on() {
    let given = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        if request.path.starts_with("/token?") {
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Reply::new(200, format!(r#"{{"token":"t{number}","expires_in":3600}}"#));
        }
        // The first token is good for the beginning only: the connection breaks, and it does not open the rest.
        match (request.header("authorization"), request.from()) {
            (Some("Bearer t0"), None) => Reply {
                cut: Some(4),
                ..Reply::new(200, "croze goes on")
            },
            (Some("Bearer t1"), Some(4)) => {
                Reply::new(206, "e goes on").with("Content-Range", "bytes 4-12/13")
            }
            _ => bearer(request, "/token"),
        }
    })
    .await;
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
    let reference: Reference = format!("{}/a/b", server.address).parse().unwrap();
    let digest = croze_model::Digest::of(b"croze goes on");
    let bytes = registry.small_blob(&reference, &digest, 13, 100).await.unwrap();
    assert_eq!(bytes, b"croze goes on");
    let tokens = server
        .requests()
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .count();
    assert_eq!(tokens, 2);
}

#[tokio::test]
async fn an_identity_token_goes_into_the_body_of_a_post() {
    let server = Server::start(|request: &Request| {
        if request.path == "/token" {
            assert_eq!(request.method, "POST");
            for part in [
                "grant_type=refresh_token",
                "refresh_token=id%2Ftoken",
                "service=s",
                "client_id=croze",
            ] {
                assert!(request.body.contains(part), "{}", request.body);
            }
            return Reply::new(200, r#"{"access_token":"good"}"#);
        }
        match request.header("authorization") {
            Some("Bearer good") => manifest(),
            _ => bearer(request, "/token"),
        }
    })
    .await;
    let credentials = Credentials::Identity {
        username: "alice".to_owned(),
        token: Secret::new("id/token"),
    };
    pull(&server, credentials).await.unwrap();
    assert!(
        server
            .requests()
            .iter()
            .all(|request| !request.path.contains("id%2Ftoken"))
    );
}

#[tokio::test]
async fn credentials_follow_no_redirect_to_another_server() {
    let thief = Server::start(|_| Reply::new(200, r#"{"token":"stolen"}"#)).await;
    let target = format!("http://{}/take", thief.address);
    let server = Server::start(move |request: &Request| {
        if request.path.starts_with("/token?") {
            return Reply::new(307, "").with("Location", target.clone());
        }
        match request.header("authorization") {
            Some(_) => manifest(),
            None => bearer(request, "/token"),
        }
    })
    .await;
    // What the other server answers is taken for the realm's word; that it learned nothing is the point.
    pull(&server, user("alice", "secret")).await.unwrap();
    assert!(
        thief
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    let realm = thief.address;
    let server = Server::start(move |_: &Request| {
        let challenge =
            format!(r#"Bearer realm="http://{realm}/take",service="s""#).replace("127.0.0.1", "192.0.2.1");
        Reply::new(401, "{}").with("WWW-Authenticate", challenge)
    })
    .await;
    let error = pull(&server, user("alice", "secret")).await.unwrap_err();
    assert!(
        error.what().contains("its token server is not HTTPS"),
        "{}",
        error.what()
    );
}

#[tokio::test]
async fn a_token_that_no_header_can_hold_is_told_and_not_tried_again() {
    let server = Server::start(|request: &Request| match request.path.starts_with("/token?") {
        true => Reply::new(200, r#"{"token":"two\nlines"}"#),
        false => bearer(request, "/token"),
    })
    .await;
    let error = pull(&server, user("alice", "secret")).await.unwrap_err();
    assert!(
        error.what().contains("its token server gave no usable token"),
        "{}",
        error.what()
    );
    assert_eq!(
        server.requests().len(),
        2,
        "once the registry, once its token server"
    );

    let credentials = Credentials::Registry {
        token: Secret::new("two\nlines"),
    };
    let error = pull(&server, credentials).await.unwrap_err();
    assert!(error.what().contains("no header can hold"), "{}", error.what());
    assert_eq!(server.requests().len(), 2, "nothing is sent");
}

#[tokio::test]
async fn a_login_answers_nobody_but_the_registry() {
    let thief = Server::start(|request: &Request| match request.path.as_str() {
        "/v2/" => bearer(request, "/token"),
        _ => Reply::new(200, r#"{"token":"stolen"}"#),
    })
    .await;
    let target = format!("http://{}/v2/", thief.address);
    let server = Server::start(move |_: &Request| Reply::new(307, "").with("Location", target.clone())).await;
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
    let error = registry.login(&server.address.to_string()).await.unwrap_err();
    assert!(
        error.what().contains(&thief.address.to_string()),
        "{}",
        error.what()
    );
    let asked: Vec<String> = thief.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/v2/"], "it is told nothing but the redirect");
}

#[tokio::test]
async fn a_login_that_nobody_looked_at_says_so() {
    let open = Server::start(|_: &Request| Reply::new(200, "{}")).await;
    let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "anything"));
    assert!(registry.login(&open.address.to_string()).await.unwrap().unchecked);

    // A token is shown to the registry itself: one that the token server gives to everybody would prove nothing.
    let server = Server::start(|request: &Request| match request.header("authorization") {
        Some("Bearer good" | "Bearer anonymous") => Reply::new(200, "{}"),
        _ if request.path.starts_with("/token") => Reply::new(200, r#"{"token":"anonymous"}"#),
        _ => bearer(request, "/token"),
    })
    .await;
    for (token, good) in [("good", true), ("old", false)] {
        let credentials = Credentials::Registry {
            token: Secret::new(token),
        };
        let registry = Registry::impatient(Hosts::default()).asking_as(credentials);
        let outcome = registry.login(&server.address.to_string()).await;
        assert_eq!(
            outcome.map(|login| login.unchecked).map_err(|error| error.kind()),
            if good {
                Ok(false)
            } else {
                Err(ErrorKind::Unauthenticated)
            }
        );
    }
}

#[tokio::test]
async fn a_registry_that_is_busy_calls_no_password_wrong() {
    for (busy_at, status) in [(None, 503), (Some(ALICE), 429), (Some(ALICE), 500)] {
        let server = Server::start(move |request: &Request| {
            if request.header("authorization") == busy_at {
                Reply::new(status, "{}")
            } else {
                Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\"")
            }
        })
        .await;
        let registry = Registry::impatient(Hosts::default()).asking_as(user("alice", "secret"));
        let error = registry.login(&server.address.to_string()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.what());
        assert!(
            error.what().contains(&format!("answered {status}")),
            "{}",
            error.what()
        );
    }
}

#[tokio::test]
async fn a_login_is_verified_and_may_give_an_identity_token() {
    let server = basic_server().await;
    let name = server.address.to_string();
    let login = |credentials| {
        let registry = Registry::impatient(Hosts::default()).asking_as(credentials);
        let name = name.clone();
        async move { registry.login(&name).await }
    };
    assert_eq!(login(user("alice", "secret")).await.unwrap().identity_token, None);
    let error = login(user("alice", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);

    let server = Server::start(|request: &Request| {
        if request.path.starts_with("/token?") {
            assert!(request.path.contains("offline_token=true"), "{}", request.path);
            return match request.header("authorization") {
                Some(ALICE) => Reply::new(200, r#"{"token":"t","refresh_token":"keep"}"#),
                _ => Reply::new(401, "{}"),
            };
        }
        match request.header("authorization") {
            Some("Bearer t") => Reply::new(200, "{}"),
            _ => bearer(request, "/token"),
        }
    })
    .await;
    let registry = Registry::impatient(Hosts::default());
    let name = format!("http://{}/v2/", server.address);
    let good = registry
        .asking_as(user("alice", "secret"))
        .login(&name)
        .await
        .unwrap();
    assert_eq!(good.identity_token, Some(Secret::new("keep")));
    assert_eq!(good.registry, server.address.to_string());
    assert!(registry.asking_as(user("alice", "x")).login(&name).await.is_err());

    let other = Server::start(|_| Reply::new(404, "")).await;
    let error = registry.login(&other.address.to_string()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.what());
    for bad in ["", "a b", "user@host", "no_registry"] {
        let error = registry.login(bad).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidArgument,
            "{bad:?}: {}",
            error.what()
        );
    }
}
