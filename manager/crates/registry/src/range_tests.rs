//! Servers that make of ranges what they like: what came is kept, and what is missing is found.

use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::ErrorKind;

use super::*;
use crate::test_server::{Reply, Request, Server};

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
    let server = Server::start(|_| Reply {
        cut: Some(CUT),
        ..Reply::new(200, content())
    })
    .await;
    let address = server.address;
    let reference = format!("{address}/a/b").parse().unwrap();
    let digest = Digest::of(&content());
    let registry = Registry::with_times(
        crate::Hosts::default(),
        Duration::from_millis(20),
        Duration::from_secs(60),
    );
    let mut stream = registry.blob(&reference, &digest, SIZE as u64).await.unwrap();
    let mut bytes = stream.next().await.unwrap().unwrap().to_vec();
    drop(server);
    let listener = std::thread::spawn(move || {
        // It comes back at the same address.
        loop {
            if let Ok(listener) = std::net::TcpListener::bind(address) {
                return listener;
            }
            std::thread::yield_now();
        }
    });
    let rest = async {
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Result::<_>::Ok(bytes)
    };
    let serving = async {
        let listener = listener.join().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let read = std::io::Read::read(&mut stream, &mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
        let from = head.split("bytes=").nth(1).unwrap().split('-').next().unwrap();
        let from: usize = from.parse().unwrap();
        let rest = content()[from..].to_vec();
        let answer = format!(
            "HTTP/1.1 206 X\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{SIZE}\r\nConnection: close\r\n\r\n",
            rest.len(),
            SIZE - 1
        );
        std::io::Write::write_all(&mut stream, &[answer.into_bytes(), rest].concat()).unwrap();
    };
    let serving = tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(serving);
    });
    assert!(rest.await.unwrap() == content());
    serving.await.unwrap();
}
