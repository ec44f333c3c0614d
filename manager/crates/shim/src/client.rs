//! One connection of crozed: frames in, frames out, and what happens when it lags.
//!
//! What a process of the container writes is put into a ring of 64 KiB per client (the kernel's socket buffer comes on top). A full ring delays nobody:
//! output of the container's first process that finds no room is left out, and when the ring is empty again, a `gap` says so; the client reads from the
//! log what it did not get. The output of an exec is nowhere else: it waits for its client.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use croze_proto::shim::{Gap, Reply, Request, reply};
use prost::Message as _;

use crate::log::Log;

/// Bytes of output that wait for one client at most.
pub(crate) const RING: usize = 64 * 1024;
/// A client that lets so many bytes of answers pile up does not read at all. Output is bounded far below that by the ring and the pipes.
const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Longest frame from a client.
const FRAME_MAX: usize = 1024 * 1024;

/// What a connection is to the stream that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Role {
    /// Key of the process.
    pub(crate) process: u32,
    /// The request that asked for the stream.
    pub(crate) request: u64,
    /// It writes to standard input.
    pub(crate) stdin: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Number of the connection within the shim.
    pub(crate) key: u64,
    /// The socket.
    pub(crate) stream: UnixStream,
    /// Whether the version was agreed upon.
    pub(crate) greeted: bool,
    /// Its stream, if it has asked for one.
    pub(crate) role: Option<Role>,
    /// Output was left out, and it has not been told so.
    pub(crate) gap: bool,
    input: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    sent_of_first: usize,
    queued: usize,
    /// Nothing is queued any more; with the longest time without progress, if there is a limit.
    closing: Option<Option<Duration>>,
    /// When something was last written, or the closing began.
    progress: Instant,
    dead: bool,
}

impl Client {
    /// A fresh connection.
    pub(crate) fn new(key: u64, stream: UnixStream) -> Self {
        Self {
            key,
            stream,
            greeted: false,
            role: None,
            gap: false,
            input: Vec::new(),
            frames: VecDeque::new(),
            sent_of_first: 0,
            queued: 0,
            closing: None,
            progress: Instant::now(),
            dead: false,
        }
    }

    /// Reads what is there and returns the complete requests. The end of the stream and violations make the client dead.
    pub(crate) fn read(&mut self) -> Vec<Request> {
        let mut buffer = [0u8; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.dead = true,
            Ok(n) => self.input.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.dead = true,
        }
        let mut requests = Vec::new();
        let mut used = 0;
        while let Some((header, rest)) = self.input[used..].split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*header) as usize;
            if length > FRAME_MAX {
                self.dead = true;
                break;
            }
            let Some(body) = rest.get(..length) else { break };
            match Request::decode(body) {
                Ok(request) => requests.push(request),
                Err(_) => self.dead = true,
            }
            used += 4 + length;
        }
        self.input.drain(..used);
        requests
    }

    /// Queues an answer.
    pub(crate) fn send(&mut self, id: u64, body: reply::Body) {
        if self.closing.is_some() {
            return;
        }
        let frame = encode(&Reply { id, body: Some(body) });
        self.queued += frame.len();
        self.frames.push_back(frame);
        if self.queued > QUEUE_MAX {
            self.dead = true;
        }
    }

    /// Writes as much of the queue as the socket takes.
    pub(crate) fn flush(&mut self) {
        while let Some(frame) = self.frames.front() {
            match self.stream.write(&frame[self.sent_of_first..]) {
                Ok(n) => {
                    self.sent_of_first += n;
                    self.queued -= n;
                    self.progress = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
            if self.sent_of_first == self.frames.front().map_or(0, Vec::len) {
                self.frames.pop_front();
                self.sent_of_first = 0;
            }
        }
        if self.closing.is_some() {
            self.dead = true;
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn has_output(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Whether the ring is full.
    pub(crate) fn is_full(&self) -> bool {
        self.queued >= RING && self.closing.is_none()
    }

    /// Says how far the output has come, once there is room again for a client from which some was kept.
    pub(crate) fn tell_gap(&mut self, log: &Log) {
        if !self.has_output() {
            self.end_gap(log);
        }
    }

    /// The same behind whatever is queued: at the end, after which no room is waited for. A client without a log learns only so that it lacks something.
    pub(crate) fn end_gap(&mut self, log: &Log) {
        let Some(role) = self.role.filter(|_| self.gap) else {
            return;
        };
        let (stdout_held, stderr_held) = log.held();
        let gap = Gap {
            position: Some(log.position()),
            stdout_held: stdout_held.to_vec(),
            stderr_held: stderr_held.to_vec(),
        };
        self.gap = false;
        self.send(role.request, reply::Body::Gap(gap));
        self.flush();
    }

    /// When something was last written.
    pub(crate) fn progress(&self) -> Instant {
        self.progress
    }

    /// Ends the connection when its queue is written, or when nothing could be written for as long as `patience` says (`None`: as long as it takes).
    pub(crate) fn close(&mut self, now: Instant, patience: Option<Duration>) {
        if self.closing.is_none() {
            self.closing = Some(patience);
            self.progress = now;
        }
        if self.frames.is_empty() {
            self.dead = true;
        }
    }

    /// When this client needs attention without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.dead {
            // Found so after the clients were last looked at: it must not wait for another event to be let go.
            return Some(self.progress);
        }
        self.closing.flatten().map(|limit| self.progress + limit)
    }

    /// Whether the connection is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.dead
            || self
                .closing
                .flatten()
                .is_some_and(|limit| now - self.progress >= limit)
    }
}

/// A reply in its framing.
pub(crate) fn encode(reply: &Reply) -> Vec<u8> {
    let length = reply.encoded_len();
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A Vec grows as needed, so that encoding cannot fail.
    let _infallible = reply.encode(&mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use croze_proto::shim::{Status, request};

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client::new(1, ours), theirs)
    }

    fn frame(request: &Request) -> Vec<u8> {
        let body = request.encode_to_vec();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn requests_come_out_whole_however_they_arrive() {
        let (mut client, mut peer) = pair();
        let one = Request {
            id: 1,
            body: Some(request::Body::Status(Status {})),
        };
        let two = Request {
            id: 2,
            body: Some(request::Body::Input(vec![7; 300])),
        };
        let bytes = [frame(&one), frame(&two)].concat();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(5) {
            peer.write_all(chunk).unwrap();
            seen.extend(client.read());
        }
        assert_eq!(seen, [one, two]);
        drop(peer);
        assert!(client.read().is_empty());
        assert!(client.is_over(Instant::now()));
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_connection() {
        let (mut client, mut peer) = pair();
        peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(client.read().is_empty());
        assert!(client.is_over(Instant::now()));
    }

    #[test]
    fn a_closing_client_is_given_up_for_want_of_progress_only() {
        let (mut client, mut peer) = pair();
        while client.queued < RING {
            client.send(1, reply::Body::Notice("x".repeat(50_000)));
            client.flush();
        }
        let (begun, limit) = (Instant::now(), Duration::from_secs(2));
        client.close(begun, Some(limit));
        assert!(client.is_over(begun + limit));
        // It reads something: the limit begins anew.
        let _some = peer.read(&mut [0; 60_000]).unwrap();
        client.flush();
        let progress = client.progress();
        assert!(progress >= begun && !client.is_over(progress + limit / 2));
        assert!(client.is_over(progress + limit));

        let (mut done, _peer) = pair();
        done.close(begun, None);
        assert!(
            done.is_over(begun) && done.deadline().is_some_and(|at| at <= begun),
            "it is let go at once"
        );

        let (mut patient, _peer) = pair();
        patient.send(1, reply::Body::Notice("x".repeat(1_000_000)));
        patient.flush();
        patient.close(begun, None);
        assert!(!patient.is_over(begun + Duration::from_secs(3600)) && patient.deadline().is_none());
    }

    #[test]
    fn a_gap_that_is_open_at_the_end_is_told_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("log")).unwrap();
        let (mut client, mut peer) = pair();
        client.role = Some(Role {
            process: 0,
            request: 7,
            stdin: false,
        });
        client.send(7, reply::Body::Notice("x".repeat(1_000_000)));
        client.flush();
        client.gap = true;
        log.push(crate::log::StreamKind::Stdout, b"left out\n", 0);
        // In the midst of the output it waits until there is room; the end waits for none.
        client.tell_gap(&log);
        assert!(client.gap);
        client.end_gap(&log);
        client.send(7, reply::Body::Exit(croze_proto::shim::Exit::default()));
        client.close(Instant::now(), None);
        let mut bodies = Vec::new();
        let mut received = Vec::new();
        while bodies.len() < 3 {
            client.flush();
            let mut buffer = [0; 60_000];
            let n = peer.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..n]);
            while let Some((header, rest)) = received.split_first_chunk::<4>()
                && let Some(body) = rest.get(..u32::from_be_bytes(*header) as usize)
            {
                let length = 4 + body.len();
                bodies.push(Reply::decode(body).unwrap().body.unwrap());
                received.drain(..length);
            }
        }
        assert!(
            matches!(&bodies[1..], [reply::Body::Gap(gap), reply::Body::Exit(_)]
                if gap.position == Some(log.position())),
            "{:?}",
            &bodies[1..]
        );
    }

    #[test]
    fn answers_that_nobody_reads_are_bounded() {
        let (mut client, _peer) = pair();
        for _ in 0..100 {
            client.send(1, reply::Body::Notice("x".repeat(100_000)));
        }
        assert!(client.is_over(Instant::now()));
    }
}
