//! A proxy that lets bytes through slowly, so that what happens while they travel can be met.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::server::Server;

/// One portion of an answer.
const PORTION: usize = 8 * 1024;

/// A listening proxy; it ends with this value.
#[derive(Debug)]
pub struct SlowProxy {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Microseconds of rest after each portion of an answer.
    rest: AtomicU64,
    /// Bytes of answers that went through.
    passed: AtomicU64,
}

impl SlowProxy {
    /// Listens on a free port and passes everything on to `target` (`127.0.0.1:PORT`), resting after each 8 KiB of an answer.
    ///
    /// # Errors
    /// No port can be had, or `target` is no address.
    pub fn before(target: &str, rest: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            target: target.parse().with_context(|| format!("an address: {target}"))?,
            rest: AtomicU64::new(micros(rest)),
            passed: AtomicU64::new(0),
        });
        let ours = Arc::clone(&shared);
        let server = Server::start("slow-proxy", move |client, ended| relay(client, &ours, ended))?;
        Ok(Self { server, shared })
    }

    /// The reference of a repository and tag through this proxy.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address())
    }

    /// Another time of rest from now on.
    pub fn rest(&self, rest: Duration) {
        self.shared.rest.store(micros(rest), Ordering::SeqCst);
    }

    /// How many bytes of answers have gone through so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn relay(client: &TcpStream, shared: &Shared, ended: &AtomicBool) -> Result<()> {
    let server = TcpStream::connect(shared.target)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    let (mut from_server, mut to_client) = (&server, client);
    let mut portion = vec![0; PORTION];
    loop {
        let length = from_server.read(&mut portion)?;
        if length == 0 || ended.load(Ordering::SeqCst) {
            break;
        }
        to_client.write_all(&portion[..length])?;
        shared.passed.fetch_add(length as u64, Ordering::SeqCst);
        crate::wait::rest(Duration::from_micros(shared.rest.load(Ordering::SeqCst)))?;
    }
    client.shutdown(Shutdown::Both)?;
    Ok(())
}
