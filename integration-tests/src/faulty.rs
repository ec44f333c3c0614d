//! A proxy before a registry that does to answers what broken networks, and other people's proxies, do.
//!
//! ```text
//!   client --request--> FaultyProxy --request--> docker-registry
//!          <-- cut, late, changed, or another one's answer --'      and every answer is written down, with the bytes that left
//! ```
//!
//! A [`Rule`] says what happens to which requests, and how often; the first one that fits and is not used up counts. A request that no rule
//! fits goes through as it is. It is also a proxy in HTTP's sense: a request for `http://HOST/…` is noted with its host and sent to the same
//! registry, whatever the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::server::Server;

/// How much is passed on at once.
const PORTION: usize = 16 * 1024;
/// The path below which an answer to [`Fault::Redirect`] is found.
const ELSEWHERE: &str = "/elsewhere";

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed instead.
    NoAnswer,
    /// Only this many bytes of its head are sent.
    CutHead(usize),
    /// Only this many bytes of its body are sent.
    Cut(u64),
    /// It comes so much later.
    Late(Duration),
    /// Its body comes in portions of so many bytes, with a rest after each, until other rules hold.
    Drip(usize, Duration),
    /// One bit of the byte at this place of the body is another.
    Flip(u64),
    /// Its `Content-Length` says so many bytes more, or fewer, than there are.
    Length(i64),
    /// It has no length: the end of the connection is its end.
    NoLength,
    /// Something else is answered: a status, headers (each with its line's end) and a body.
    Status(u16, String, String),
    /// The client is sent to another path of this proxy, where the answer is.
    Redirect,
    /// A wish for a part is not understood: everything is sent.
    NoRanges,
    /// A wish for a part is refused.
    RefusesRanges,
}

/// What happens to which requests.
#[derive(Clone, Debug)]
pub struct Rule {
    /// A part of their path: `/manifests/`, a digest.
    pub on: String,
    /// How many of them.
    pub times: usize,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// A rule for the first so many requests whose path has these words.
    #[must_use]
    pub fn new(on: &str, times: usize, fault: Fault) -> Self {
        Self {
            on: on.to_owned(),
            times,
            fault,
        }
    }

    /// A rule for all of them.
    #[must_use]
    pub fn always(on: &str, fault: Fault) -> Self {
        Self::new(on, usize::MAX, fault)
    }
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The host of a request to a proxy, else empty.
    pub host: String,
    /// The path that was asked for.
    pub path: String,
    /// The first byte that was asked for, if it was not everything.
    pub from: Option<u64>,
    /// Whether who asked said who it was.
    pub authorized: bool,
    /// How many bytes of the body left.
    pub bytes: u64,
}

/// A listening proxy; it ends with this value.
#[derive(Debug)]
pub struct FaultyProxy {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    /// How often the rules were changed.
    generation: AtomicU64,
    /// Shared with the connections, each of which counts in its own.
    answered: Mutex<Vec<Arc<Mutex<Answered>>>>,
}

/// A request's head, taken apart.
#[derive(Debug, Default)]
struct Request {
    host: String,
    path: String,
    method: String,
    headers: Vec<(String, String)>,
}

impl FaultyProxy {
    /// Listens on a free port before `target` (`127.0.0.1:PORT`). Without rules it does nothing.
    ///
    /// # Errors
    /// No port can be had, or `target` is no address.
    pub fn before(target: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            target: target.parse().with_context(|| format!("an address: {target}"))?,
            rules: Mutex::default(),
            generation: AtomicU64::new(0),
            answered: Mutex::default(),
        });
        let ours = Arc::clone(&shared);
        let server = Server::start("faulty-proxy", move |client, ended| ours.answer(client, ended))?;
        Ok(Self { server, shared })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The reference of a repository and tag through this proxy.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// From now on these rules hold, and what was answered before is forgotten. What drips does so no longer.
    pub fn obey(&self, rules: &[Rule]) {
        *lock(&self.shared.rules) = rules.to_vec();
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        lock(&self.shared.answered).clear();
    }

    /// What was answered since.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        let answered = lock(&self.shared.answered);
        answered.iter().map(|entry| lock(entry).clone()).collect()
    }

    /// How many bytes of answers to paths with these words left since.
    #[must_use]
    pub fn bytes(&self, on: &str) -> u64 {
        let answered = self.answered().into_iter();
        let fitting = answered.filter(|answer| answer.path.contains(on));
        fitting.map(|answer| answer.bytes).sum()
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Answers one request and closes.
    fn answer(&self, client: &TcpStream, ended: &AtomicBool) -> Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut request = Request::read(client)?;
        let (seen, from) = (request.path.clone(), request.from());
        let fault = self.fault(&seen);
        let mut out = Counting {
            client,
            entry: self.note(&request, from),
        };
        match &fault {
            Some(Fault::NoAnswer) => {}
            Some(Fault::Status(status, headers, body)) => {
                out.head(&format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
                    body.len()
                ))?;
                out.body(body.as_bytes())?;
            }
            Some(Fault::RefusesRanges) if from.is_some() => {
                out.head("HTTP/1.1 416 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            }
            Some(Fault::Redirect) => {
                let here = client.local_addr()?;
                out.head(&format!(
                    "HTTP/1.1 307 X\r\nLocation: http://{here}{ELSEWHERE}{seen}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                ))?;
            }
            fault => {
                if let Some(Fault::Late(time)) = fault {
                    crate::wait::rest(*time)?;
                }
                if *fault == Some(Fault::NoRanges) {
                    request
                        .headers
                        .retain(|(name, _)| !name.eq_ignore_ascii_case("range"));
                }
                self.relay(&request, fault.as_ref(), &mut out, ended)?;
            }
        }
        client.shutdown(Shutdown::Both)?;
        Ok(())
    }

    /// The fault for a path, which is then used up once more.
    fn fault(&self, path: &str) -> Option<Fault> {
        // What a redirect leads to is the answer itself.
        if path.starts_with(ELSEWHERE) {
            return None;
        }
        let mut rules = lock(&self.rules);
        let rule = rules
            .iter_mut()
            .find(|rule| rule.times > 0 && path.contains(&rule.on))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn note(&self, request: &Request, from: Option<u64>) -> Arc<Mutex<Answered>> {
        let entry = Arc::new(Mutex::new(Answered {
            host: request.host.clone(),
            path: request.path.clone(),
            from,
            authorized: request.header("authorization").is_some(),
            bytes: 0,
        }));
        lock(&self.answered).push(Arc::clone(&entry));
        entry
    }

    /// Asks the registry and passes its answer on, changed as the fault says.
    fn relay(
        &self,
        request: &Request,
        fault: Option<&Fault>,
        out: &mut Counting<'_>,
        ended: &AtomicBool,
    ) -> Result<()> {
        let server = TcpStream::connect(self.target)?;
        let generation = self.generation.load(Ordering::SeqCst);
        let path = request.path.strip_prefix(ELSEWHERE).unwrap_or(&request.path);
        let mut asked = format!("{} {path} HTTP/1.1\r\n", request.method);
        for (name, value) in &request.headers {
            if !name.eq_ignore_ascii_case("connection") {
                asked.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        asked.push_str("Connection: close\r\n\r\n");
        (&server).write_all(asked.as_bytes())?;
        let mut answer = BufReader::new(&server);
        let mut head = changed_head(&mut answer, fault)?;
        if let Some(Fault::CutHead(length)) = fault {
            head.truncate(*length);
            return out.head(&head);
        }
        out.head(&head)?;
        let mut sent = 0_u64;
        let mut portion = vec![0; PORTION];
        loop {
            let is_slow = self.generation.load(Ordering::SeqCst) == generation;
            let wanted = match fault {
                Some(Fault::Cut(most)) => portion.len().min(usize::try_from(most - sent)?),
                Some(Fault::Drip(length, _)) if is_slow => portion.len().min(*length),
                _ => portion.len(),
            };
            let length = answer.read(&mut portion[..wanted])?;
            if length == 0 || ended.load(Ordering::SeqCst) {
                return Ok(());
            }
            if let Some(Fault::Flip(place)) = fault
                && let Some(byte) = place
                    .checked_sub(sent)
                    .and_then(|place| portion[..length].get_mut(usize::try_from(place).ok()?))
            {
                *byte ^= 1;
            }
            out.body(&portion[..length])?;
            sent += length as u64;
            if let (Some(Fault::Drip(_, rest)), true) = (fault, is_slow) {
                crate::wait::rest(*rest)?;
            }
        }
    }
}

/// The head of the registry's answer, with what the fault changes in it.
fn changed_head(answer: &mut impl BufRead, fault: Option<&Fault>) -> Result<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if answer.read_line(&mut line)? == 0 {
            anyhow::bail!("the registry closed before its answer");
        }
        let is_last = line.trim().is_empty();
        let length = line
            .to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(|value| value.trim().parse::<i64>())
            .transpose()?;
        match (length, fault) {
            (Some(length), Some(Fault::Length(more))) => {
                head.push_str(&format!("Content-Length: {}\r\n", length + more));
            }
            (Some(_), Some(Fault::NoLength)) => {}
            _ => head.push_str(&line),
        }
        if is_last {
            return Ok(head);
        }
    }
}

impl Request {
    fn read(client: &TcpStream) -> Result<Self> {
        let mut reader = BufReader::new(client);
        let mut request = Self::default();
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        request.method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default();
        match target
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
        {
            Some((host, path)) => {
                request.host = host.to_owned();
                request.path = format!("/{path}");
            }
            None => request.path = target.to_owned(),
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                return Ok(request);
            }
            if let Some((name, value)) = line.trim().split_once(": ") {
                request.headers.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        Some(&found.1)
    }

    fn from(&self) -> Option<u64> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .split('-')
            .next()?
            .parse()
            .ok()
    }
}

/// The way to the client, on which bytes of the body are counted.
struct Counting<'a> {
    client: &'a TcpStream,
    entry: Arc<Mutex<Answered>>,
}

impl Counting<'_> {
    fn head(&mut self, text: &str) -> Result<()> {
        Ok(self.client.write_all(text.as_bytes())?)
    }

    fn body(&mut self, bytes: &[u8]) -> Result<()> {
        // Before the client can have seen them.
        lock(&self.entry).bytes += bytes.len() as u64;
        Ok(self.client.write_all(bytes)?)
    }
}
