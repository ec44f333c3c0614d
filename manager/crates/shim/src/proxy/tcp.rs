//! Connections: what one side sends goes to the other, and so does its end.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::waits;

/// So many connections are accepted before others are served.
const AT_ONCE: usize = 64;
/// So many chunks one way of a connection moves before others are served: two that are as fast as each other would never come to an end.
const TURN: usize = 16;
/// How long nothing is accepted when descriptors or memory ran out. What they were lacking for may be somebody else's, who tells nobody.
const PAUSE: Duration = Duration::from_millis(200);
/// So many connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8192;
/// A client that says nothing is asked after so long whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// All connections, by the keys of their two ends.
pub(super) struct Streams {
    pairs: HashMap<u64, Pair>,
    next: u64,
    /// Keys of listeners that wait for descriptors.
    paused: BTreeSet<u64>,
    /// When they are tried again at the latest.
    retry: Option<Instant>,
    /// Pairs whose turn was over before there was nothing to move: the kernel reports them no second time.
    unfinished: BTreeSet<u64>,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing more can be moved until the kernel says so.
    Waits,
    /// There is more to move.
    Unfinished,
}

/// A connection: even distance from the pair's key is the client's end, odd the container's.
struct Pair {
    client: End,
    container: End,
    connected: bool,
    /// From the client to the container.
    there: Direction,
    back: Direction,
}

/// One end of a connection, with what the kernel has said of it and was not found untrue since: what is known to wait is not asked for.
#[derive(Debug)]
struct End {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// Its sender has ended, so that a read that is short is not the last.
    ending: bool,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            readable: false,
            writable: false,
            ending: false,
        }
    }

    fn note(&mut self, flags: EventFlags) {
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.ending |= flags.intersects(over);
        self.readable |= flags.intersects(EventFlags::IN | over);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    /// How much was written; 0: it waits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.writable {
            match (&self.stream).write(bytes) {
                Ok(length) => {
                    // What did not fit waits for room: the kernel says when there is some.
                    self.writable = length == bytes.len();
                    return Ok(length);
                }
                Err(error) if waits(&error) => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    /// How much was read; `None`: it waits.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match (&self.stream).read(buffer) {
                Ok(length) => {
                    // Less than there was room for was all there was: what comes then is told.
                    self.readable = length == buffer.len() || self.ending;
                    return Ok(Some(length));
                }
                Err(error) if waits(&error) => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// What flows one way.
#[derive(Debug, Default)]
struct Direction {
    /// Read, and not taken by the other side yet.
    left: Vec<u8>,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The sender has ended; what is left is still delivered.
    Ending,
    /// The receiver was told so.
    Ended,
}

impl Direction {
    /// Moves what can be moved now, and no more than is one's turn.
    fn pump(&mut self, from: &mut End, to: &mut End, buffer: &mut [u8]) -> io::Result<Turn> {
        for _ in 0..TURN {
            while !self.left.is_empty() {
                match to.write(&self.left)? {
                    0 => return Ok(Turn::Waits),
                    written => drop(self.left.drain(..written)),
                }
            }
            match self.stage {
                Stage::Open => {}
                Stage::Ending => {
                    self.stage = Stage::Ended;
                    self.left = Vec::new();
                    return Ok(Turn::Waits);
                }
                Stage::Ended => return Ok(Turn::Waits),
            }
            match from.read(buffer)? {
                Some(0) => self.stage = Stage::Ending,
                Some(length) => {
                    let written = to.write(&buffer[..length])?;
                    self.left.extend_from_slice(&buffer[written..length]);
                }
                None => return Ok(Turn::Waits),
            }
        }
        Ok(Turn::Unfinished)
    }
}

impl Pair {
    /// One turn in both directions; `None`: both have ended.
    fn pump(&mut self, buffer: &mut [u8]) -> io::Result<Option<Turn>> {
        if !self.connected {
            if !self.container.writable {
                // Its end of the epoll set says when.
                return Ok(Some(Turn::Waits));
            }
            if let Some(error) = self.container.stream.take_error()? {
                return Err(error);
            }
            self.connected = true;
        }
        let stages = (self.there.stage, self.back.stage);
        let there = self.there.pump(&mut self.client, &mut self.container, buffer)?;
        let back = self.back.pump(&mut self.container, &mut self.client, buffer)?;
        match (self.there.stage, self.back.stage) {
            // Both are closed now, which tells their peers.
            (Stage::Ended, Stage::Ended) => return Ok(None),
            (Stage::Ended, _) if stages.0 != Stage::Ended => {
                self.container.stream.shutdown(Shutdown::Write)?;
            }
            (_, Stage::Ended) if stages.1 != Stage::Ended => self.client.stream.shutdown(Shutdown::Write)?,
            _ => {}
        }
        Ok(Some(if there == Turn::Waits { back } else { there }))
    }
}

/// Sets what connections inherit from their listener, so that nobody has to set it for each of them.
pub(super) fn prepare(listener: &OwnedFd) {
    // What was sent goes on at once: it was the sender's business to wait for more. A client that is gone without a word is found out.
    let _slower = sockopt::set_tcp_nodelay(listener, true);
    let _kept = sockopt::set_socket_keepalive(listener, true);
    let _kept = sockopt::set_tcp_keepidle(listener, KEEP_ALIVE);
    let _kept = sockopt::set_tcp_keepintvl(listener, KEEP_ALIVE);
}

impl Streams {
    pub(super) fn new(first_key: u64) -> Self {
        Self {
            pairs: HashMap::new(),
            // Even, so that a pair's key follows from the key of either end.
            next: first_key.next_multiple_of(2),
            paused: BTreeSet::new(),
            retry: None,
            unfinished: BTreeSet::new(),
        }
    }

    /// A key for something else that lives beside the connections.
    pub(super) fn next_key(&mut self) -> u64 {
        let key = self.next;
        self.next += 2;
        key
    }

    /// Takes in clients that wait; false: no descriptors are left.
    pub(super) fn accept(&mut self, epoll: &OwnedFd, listener: &TcpListener, target: SocketAddr) -> bool {
        for _ in 0..AT_ONCE {
            if self.pairs.len() >= CONNECTIONS {
                return false;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = match rustix::net::accept_with(listener, flags) {
                Ok(client) => TcpStream::from(client),
                Err(errno) if exhausted(&errno.into()) => return false,
                // Nobody waits, or the client went away again.
                Err(_) => return true,
            };
            match self.connect(epoll, client, target) {
                Err(error) if exhausted(&error) => return false,
                // The client sees its connection end.
                _ => {}
            }
        }
        true
    }

    fn connect(&mut self, epoll: &OwnedFd, client: TcpStream, target: SocketAddr) -> io::Result<()> {
        let family = if target.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let container = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&container, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let _slower = sockopt::set_tcp_nodelay(&container, true);
        let pair = Pair {
            client: End::new(client),
            container: End::new(container.into()),
            connected: false,
            there: Direction::default(),
            back: Direction::default(),
        };
        let key = self.next_key();
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &pair.client.stream, EventData::new_u64(key), both)?;
        epoll::add(epoll, &pair.container.stream, EventData::new_u64(key + 1), both)?;
        self.pairs.insert(key, pair);
        Ok(())
    }

    /// Takes in what the kernel says of one end.
    pub(super) fn note(&mut self, key: u64, flags: EventFlags) {
        if let Some(pair) = self.pairs.get_mut(&(key & !1)) {
            let end = if key & 1 == 0 {
                &mut pair.client
            } else {
                &mut pair.container
            };
            end.note(flags);
        }
    }

    /// Whether a listener is not listened to.
    pub(super) fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Serves a connection; true: it is over.
    pub(super) fn serve(&mut self, key: u64, buffer: &mut [u8]) -> bool {
        let key = key & !1;
        let Some(pair) = self.pairs.get_mut(&key) else {
            return false;
        };
        // Who fails sees both connections end.
        let turn = pair.pump(buffer).unwrap_or(None);
        match turn {
            Some(Turn::Unfinished) => {
                self.unfinished.insert(key);
            }
            Some(Turn::Waits) => {
                self.unfinished.remove(&key);
            }
            None => {
                self.unfinished.remove(&key);
                self.pairs.remove(&key);
            }
        }
        turn.is_none()
    }

    /// Connections that wait for another turn.
    pub(super) fn unfinished(&self) -> Vec<u64> {
        self.unfinished.iter().copied().collect()
    }

    /// When something is to be done without an event.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.unfinished.is_empty() {
            self.retry
        } else {
            Some(now)
        }
    }

    /// Stops accepting until a connection ends, or for a while.
    pub(super) fn pause(&mut self, epoll: &OwnedFd, listener: &TcpListener, key: u64, now: Instant) {
        if epoll::delete(epoll, listener).is_ok() {
            self.paused.insert(key);
            self.retry = Some(now + PAUSE);
        }
    }

    /// Whether it is time to accept again.
    pub(super) fn may_resume(&self, now: Instant) -> bool {
        self.retry.is_some_and(|at| at <= now)
    }

    /// Accepts again.
    pub(super) fn resume<'a>(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
        listener_of: impl Fn(u64) -> Option<&'a TcpListener>,
    ) {
        for key in std::mem::take(&mut self.paused) {
            let added = listener_of(key).is_none_or(|listener| {
                epoll::add(epoll, listener, EventData::new_u64(key), EventFlags::IN).is_ok()
            });
            if !added {
                self.paused.insert(key);
            }
        }
        self.retry = (!self.paused.is_empty()).then(|| now + PAUSE);
    }
}

fn exhausted(error: &io::Error) -> bool {
    let exhausting = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausting.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_nonblocking(true).unwrap();
        }
        (near, far)
    }

    /// Waits until a connection has something to read.
    fn arrived(stream: &TcpStream) {
        stream.set_nonblocking(false).unwrap();
        stream.peek(&mut [0]).unwrap();
        stream.set_nonblocking(true).unwrap();
    }

    #[test]
    fn a_busy_connection_gives_others_their_turn() {
        let (mut client, from_client) = connection();
        let (to_container, mut container) = connection();
        let mut streams = Streams::new(2);
        let pair = Pair {
            client: End::new(from_client),
            container: End::new(to_container),
            connected: false,
            there: Direction::default(),
            back: Direction::default(),
        };
        streams.pairs.insert(2, pair);
        let sent = vec![7; 3 * TURN];
        client.write_all(&sent).unwrap();
        arrived(&streams.pairs[&2].client.stream);
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        for key in [2, 3] {
            streams.note(key, all);
        }
        // One byte at once: the turn is over long before the bytes are.
        let buffer = &mut [0; 1];
        let now = Instant::now();
        assert!(!streams.serve(3, buffer));
        assert_eq!(
            (streams.unfinished(), streams.deadline(now)),
            (vec![2], Some(now))
        );
        client.shutdown(Shutdown::Write).unwrap();
        container.shutdown(Shutdown::Write).unwrap();
        container.set_nonblocking(false).unwrap();
        let mut received = vec![0; sent.len()];
        let mut filled = 0;
        while filled < sent.len() {
            streams.serve(2, buffer);
            let n = container.read(&mut received[filled..]).unwrap();
            assert!(n > 0, "the end came before the bytes");
            filled += n;
        }
        assert_eq!(received, sent);
        // The ends are seen when they arrive, and nothing is left of the connection.
        while !streams.pairs.is_empty() {
            for key in [2, 3] {
                streams.note(key, all);
            }
            streams.serve(2, buffer);
        }
        assert!(streams.unfinished().is_empty() && streams.deadline(now).is_none());
    }

    #[test]
    fn a_listener_that_was_paused_comes_back_though_no_connection_ends() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let key = 2;
        epoll::add(&epoll, &listener, EventData::new_u64(key), EventFlags::IN).unwrap();
        let mut streams = Streams::new(4);
        let now = Instant::now();
        assert_eq!(streams.deadline(now), None);
        streams.pause(&epoll, &listener, key, now);
        assert_eq!(streams.deadline(now), Some(now + PAUSE));
        assert!(!streams.may_resume(now) && streams.may_resume(now + PAUSE));
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let heard = || {
            let mut events = Vec::with_capacity(4);
            epoll::wait(
                &epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&super::super::timespec(Duration::ZERO)),
            )
            .unwrap();
            events.iter().map(|event| event.data.u64()).collect::<Vec<_>>()
        };
        assert!(heard().is_empty());
        streams.resume(&epoll, now + PAUSE, |_| Some(&listener));
        assert_eq!(heard(), [key]);
        assert_eq!(streams.deadline(now), None);
    }
}
