//! What the suite's own servers and proxies have in common: a free port on loopback, and a thread for each connection.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Result;

/// A listening server; it ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port, and answers each connection on a thread of its own; the flag says that the server has ended.
    ///
    /// # Errors
    /// No port or no thread can be had.
    pub(crate) fn start(
        name: &str,
        answer: impl Fn(&TcpStream, &AtomicBool) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let (told, answer) = (Arc::clone(&ended), Arc::new(answer));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                let (told, answer) = (Arc::clone(&told), Arc::clone(&answer));
                // A client that goes away, a connection that breaks: what is concluded from it is what a test looks at.
                std::thread::spawn(move || answer(&client, &told).ok());
            }
        })?;
        Ok(Self {
            port,
            ended,
            thread: Some(thread),
        })
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // One more connection wakes the listener, so that it sees the flag.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
