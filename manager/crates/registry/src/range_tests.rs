//! Servers that make of ranges what they like: what came is kept, and what is missing is found.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::ErrorKind;
use tokio::net::TcpSocket;

use super::*;
use crate::test_server::{Reply, Request, Server};
use crate::times::Times;

const SIZE: usize = 400_000;
/// Where the first answer of each server ends.
const CUT: usize = 90_000;

fn content() -> Vec<u8> {
    (0u32..100_000).flat_map(u32::to_le_bytes).collect()
}

/// A 206 with these bytes, which says that it has `said` of `total`.
fn partial(from: usize, to: usize, said: impl std::fmt::Display) -> Reply {
    Reply::new(206, content()[from..to].to_vec()).with("Content-Range", said.to_string())
}

/// Fetches from a server that breaks its first answer at [`CUT`] and answers a wish for the rest like this.
async fn after_a_break(rest: fn(usize) -> Reply) -> (Result<Vec<u8>>, Vec<Option<usize>>) {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        let whole = Reply::new(200, content());
        match (asked.fetch_add(1, Ordering::Relaxed), request.from()) {
            (0, _) => Reply {
                cut: Some(CUT),
                ..whole
            },
            (_, None) => whole,
            (_, Some(from)) => rest(from),
        }
    })
    .await;
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    let registry = Registry::impatient(crate::Hosts::default());
    let bytes = content();
    let fetched = registry
        .small_blob(&reference, &Digest::of(&bytes), SIZE as u64, 1 << 20)
        .await;
    (fetched, server.requests().iter().map(Request::from).collect())
}

#[tokio::test]
async fn what_a_server_makes_of_a_range_is_understood() {
    let good = Some(CUT);
    for (name, rest, expected) in [
        (
            "what was asked for",
            (|from| partial(from, SIZE, format!("bytes {from}-{}/{SIZE}", SIZE - 1))) as fn(usize) -> Reply,
            vec![None, good],
        ),
        (
            "no total",
            |from| partial(from, SIZE, format!("bytes {from}-{}/*", SIZE - 1)),
            vec![None, good],
        ),
        (
            "more than was asked for",
            |_| partial(1000, SIZE, format!("bytes 1000-{}/{SIZE}", SIZE - 1)),
            vec![None, good],
        ),
        (
            "less than was asked for",
            |from| {
                let to = (from + 200_000).min(SIZE);
                partial(from, to, format!("bytes {from}-{}/{SIZE}", to - 1))
            },
            vec![None, good, Some(CUT + 200_000)],
        ),
        ("everything", |_| Reply::new(200, content()), vec![None, good]),
        (
            "416 for any range",
            |_| Reply::new(416, ""),
            vec![None, good, None],
        ),
        (
            "206 that does not say what it is",
            |from| Reply::new(206, content()[from..].to_vec()),
            vec![None, good, None],
        ),
        (
            "a gap",
            |from| partial(from + 1, SIZE, format!("bytes {}-{}/{SIZE}", from + 1, SIZE - 1)),
            vec![None, good, None],
        ),
    ] {
        let (fetched, asked) = after_a_break(rest).await;
        assert!(fetched.unwrap() == content(), "{name}");
        assert_eq!(asked, expected, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_has_something_else_by_now_is_refused() {
    for (name, rest) in [
        (
            "another length",
            (|from| partial(from, SIZE, format!("bytes {from}-{}/{}", SIZE - 1, SIZE + 1)))
                as fn(usize) -> Reply,
        ),
        ("an end that is none", |from| {
            partial(from, SIZE, format!("bytes {from}-{SIZE}/*"))
        }),
        ("fewer bytes", |_| Reply::new(200, content()[..CUT].to_vec())),
    ] {
        let (fetched, _) = after_a_break(rest).await;
        let error = fetched.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        assert!(
            error.what().contains("but its descriptor says 400000"),
            "{}",
            error.what()
        );
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_for_a_moment_is_waited_for() {
    // Holds the port, so that nobody else gets it meanwhile; whoever connects to it is refused, as it does not listen.
    let socket = |port| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, port).into()).unwrap();
        socket
    };
    let holder = socket(0);
    let port = holder.local_addr().unwrap().port();
    let serve = |cut| {
        let answer = move |request: &Request| match request.from() {
            None => Reply {
                cut,
                ..Reply::new(200, content())
            },
            Some(from) => partial(from, SIZE, format!("bytes {from}-{}/{SIZE}", SIZE - 1)),
        };
        Server::listening(socket(port).listen(16).unwrap(), answer)
    };
    let server = serve(Some(CUT));
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    let digest = Digest::of(&content());
    // Longer than what is polled at once below.
    let times = Times {
        first_wait: Duration::from_millis(20),
        ..Times::none()
    };
    let registry = Registry::with_times(crate::Hosts::default(), times);
    let mut stream = registry.blob(&reference, &digest, SIZE as u64).await.unwrap();
    let mut bytes = Vec::new();
    // The first break is the cut; the listener's end takes a moment, and until then it answers.
    server.stop().await;
    while stream.flow.breaks() < 2 {
        // Cut short in the pause after a break, so that each turn is one try at most.
        if let Ok(piece) = tokio::time::timeout(Duration::from_millis(1), stream.next()).await {
            bytes.extend_from_slice(&piece.unwrap().unwrap());
        }
    }
    let server = serve(None);
    while let Some(piece) = stream.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes == content());
    assert_eq!(server.requests()[0].from(), Some(CUT));
}

/// Fetches two megabytes from a server that knows no ranges, and breaks its first answer shortly before the end; the others it sends like this.
async fn from_the_beginning(drip: (usize, Duration), patience: Duration) -> (Result<()>, usize) {
    let bytes: Vec<u8> = (0u32..500_000).flat_map(u32::to_le_bytes).collect();
    let (digest, size) = (Digest::of(&bytes), bytes.len());
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let whole = Reply::new(200, bytes.clone());
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply {
                cut: Some(size - CUT),
                ..whole
            },
            _ => Reply {
                drip: Some(drip),
                ..whole
            },
        }
    })
    .await;
    let reference = format!("{}/a/b", server.address).parse().unwrap();
    let times = Times {
        patience,
        ..Times::none()
    };
    let fetched = Registry::with_times(crate::Hosts::default(), times)
        .small_blob(&reference, &digest, size as u64, 1 << 22)
        .await;
    (fetched.map(drop), server.requests().len())
}

#[tokio::test]
async fn what_is_here_already_may_come_again_for_longer_than_new_bytes_may_take() {
    // Twenty times as fast as it must be, and what is skipped alone takes longer than the patience.
    let drip = (16_384, Duration::from_millis(10));
    let (fetched, asked) = from_the_beginning(drip, Duration::from_secs(1)).await;
    fetched.unwrap();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn what_comes_again_too_slowly_is_given_up() {
    let drip = (1024, Duration::from_millis(20));
    let (fetched, asked) = from_the_beginning(drip, Duration::from_millis(500)).await;
    let error = fetched.unwrap_err();
    assert!(
        error.what().contains("less than 64 KiB a minute"),
        "{}",
        error.what()
    );
    assert_eq!(asked, 5);
}
