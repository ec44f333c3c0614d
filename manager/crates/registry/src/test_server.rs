//! A tiny HTTP server for tests: answers what a closure says, and may cut an answer off. Used by this crate's tests and by those of crates
//! above it.

#![allow(dead_code, reason = "each of its users needs another part of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Lower-case names.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first byte that a Range header wants.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Only this many bytes of the body are sent, then the connection is cut.
    pub(crate) cut: Option<usize>,
    /// After the cut the connection stays open and silent, until the client goes.
    pub(crate) stalls: bool,
    /// Not even the head is sent: the connection is open and silent.
    pub(crate) mute: bool,
    /// The connection is closed instead.
    pub(crate) hangs_up: bool,
    /// The body is sent in portions of so many bytes, with a rest after each.
    pub(crate) drip: Option<(usize, Duration)>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on a loopback port; it stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listening(listener, answer)
    }

    /// Answers those who come to a socket of the test's own.
    pub(crate) fn listening(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen): (Arc<Answer>, _) = (Arc::new(answer), requests.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), seen.clone()));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Stops listening; from then on nobody is answered who has not been accepted.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // An error, as it was aborted; the listener is closed by now.
        drop((&mut self.task).await);
    }

    /// Everything asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request per connection. A client that goes away ends it; there is nobody to tell.
async fn serve(stream: TcpStream, answer: Arc<Answer>, seen: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    let mut request = Request::default();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|n| n > 0) && !line.trim().is_empty() {
        match line.trim().split_once(": ") {
            Some((name, value)) => request.headers.push((name.to_lowercase(), value.to_owned())),
            None => {
                let mut words = line.split(' ').map(str::to_owned);
                request.method = words.next().unwrap_or_default();
                request.path = words.next().unwrap_or_default();
            }
        }
        line.clear();
    }
    let length = request
        .header("content-length")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    request.body = String::from_utf8(body).unwrap();
    let reply = answer(&request);
    seen.lock().unwrap().push(request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    let sized = |name: &str| matches!(name, "Content-Length" | "Transfer-Encoding");
    if !reply.headers.iter().any(|(name, _)| sized(name)) {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    let sent = async {
        if reply.mute || reply.hangs_up {
            return Ok(());
        }
        stream.write_all(head.as_bytes()).await?;
        let (portion, rest) = reply.drip.unwrap_or((usize::MAX, Duration::ZERO));
        for portion in body.chunks(portion) {
            stream.write_all(portion).await?;
            stream.flush().await?;
            tokio::time::sleep(rest).await;
        }
        stream.flush().await
    };
    let is_sent: std::io::Result<()> = sent.await;
    if is_sent.is_ok() && (reply.stalls || reply.mute) {
        // Ends when the client closes its side.
        line.clear();
        drop(stream.read_line(&mut line).await);
    }
}
