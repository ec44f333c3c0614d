//! `croze-hello serve`: the page over HTTP, so that a published port has something to answer.
//!
//! ```text
//!   accept ──▶ a thread per connection (64 at most) ──▶ one request, one answer, closed
//!   SIGTERM, SIGINT ──▶ the program ends with code 0
//! ```
//!
//! Invariants: a request's head has 8 KiB and ten seconds, an answer ten seconds; what does not fit is refused and costs nothing more. As process 1 the
//! kernel would ignore SIGTERM for want of a handler, so it is waited for.
//!
//! Not here: keep-alive, TLS, anything that changes state.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::facts::Facts;
use crate::html;
use crate::text::{self, Style};

/// Where it listens unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 8080;

const CONNECTIONS: usize = 64;
const HEAD_BYTES: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until a signal asks for the end.
///
/// # Errors
/// The port cannot be had.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    // Before any thread begins: threads inherit the mask, and only `wait` below takes the signals.
    ends.thread_block()?;
    let listener = listen(port)?;
    let address = listener.local_addr()?;
    let mut stdout = io::stdout().lock();
    // Whoever started it may have closed the stream; it serves all the same.
    let _gone = writeln!(stdout, "croze-hello listens on port {}", address.port());
    let _gone = stdout.flush();
    drop(stdout);
    thread::Builder::new().spawn(move || accept_all(&listener))?;
    ends.wait()?;
    Ok(())
}

/// Both protocols by one socket where IPv6 is there, else IPv4 alone.
fn listen(port: u16) -> io::Result<TcpListener> {
    let addresses = [
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
    ];
    TcpListener::bind(addresses.as_slice())
}

fn accept_all(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        // A client that left before it was accepted, or a moment without descriptors.
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let guard = Open(Arc::clone(&open));
        let worker = thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let _guard = guard;
            // Whatever goes wrong is the end of this connection and of nothing else.
            let _ended = answer(stream);
        });
        // Without a thread the closure is dropped, and the connection with it.
        drop(worker);
    }
}

/// One of the connections that are open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let ends = Ends {
        client: canonical(stream.peer_addr()?),
        server: canonical(stream.local_addr()?),
    };
    let response = respond(&head, ends);
    stream.write_all(&response)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// The two ends of a connection, as this process sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Who asks.
    pub(crate) client: SocketAddr,
    /// The address that was reached.
    pub(crate) server: SocketAddr,
}

/// An IPv4 client of a socket for both protocols shows as `::ffff:a.b.c.d`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads up to the empty line; `None` if it never comes.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if head.len() >= HEAD_BYTES || left.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            n => head.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
    Ok(Some(head))
}

fn respond(head: &Option<Vec<u8>>, ends: Ends) -> Vec<u8> {
    let line = head
        .as_deref()
        .map(|head| String::from_utf8_lossy(head).into_owned())
        .unwrap_or_default();
    let mut words = line.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/") => (
            "200 OK",
            "text/html; charset=utf-8",
            html::render(&Facts::observe(), ends),
        ),
        ("GET" | "HEAD", "/text") => ("200 OK", plain, text::render(&Facts::observe(), Style::Plain)),
        ("GET" | "HEAD", "/json") => ("200 OK", "application/json", json(ends)),
        ("GET" | "HEAD", _) => (
            "404 Not Found",
            plain,
            "there are /, /text and /json\n".to_owned(),
        ),
        ("", _) => ("400 Bad Request", plain, "this is no HTTP request\n".to_owned()),
        _ => ("405 Method Not Allowed", plain, "only GET and HEAD\n".to_owned()),
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if method != "HEAD" {
        response.extend_from_slice(body.as_bytes());
    }
    response
}

fn json(ends: Ends) -> String {
    let mut facts = Facts::observe().to_json();
    if let Some(object) = facts.as_object_mut() {
        object.insert("client".into(), ends.client.to_string().into());
        object.insert("server".into(), ends.server.to_string().into());
    }
    format!("{facts:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server on a free loopback port, and what it says to these bytes.
    fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        server.join().unwrap().unwrap();
        text
    }

    #[test]
    fn pages_by_path_and_refusals_by_status() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "Hello from Croze!"),
            ("GET /?a=b HTTP/1.1\r\n\r\n", "200 OK", "127.0.0.1"),
            ("GET /text HTTP/1.0\r\n\r\n", "200 OK", "Who I am"),
            ("GET /json HTTP/1.1\r\n\r\n", "200 OK", "\"client\": \"127.0.0.1:"),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found", "there are"),
            ("POST / HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "only GET"),
            ("nonsense", "400 Bad Request", "no HTTP"),
        ];
        for (request, status, words) in table {
            let response = ask(request.as_bytes());
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status}\r\n")) && response.contains(words),
                "{request:?}: {response}"
            );
        }
    }

    #[test]
    fn a_head_request_gets_the_length_and_no_body() {
        let response = ask(b"HEAD /text HTTP/1.1\r\n\r\n");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: ") && !head.contains("Content-Length: 0"));
        assert_eq!(body, "");
    }

    #[test]
    fn an_endless_head_is_refused() {
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; HEAD_BYTES]].concat();
        assert!(ask(&long).starts_with("HTTP/1.1 400"));
    }
}
