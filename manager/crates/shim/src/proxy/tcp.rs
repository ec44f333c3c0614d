//! Connections: what one side sends goes to the other, and so does its end.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::waits;

/// So many connections are accepted before others are served.
const AT_ONCE: usize = 64;

/// All connections, by the keys of their two ends.
pub(super) struct Streams {
    pairs: HashMap<u64, Pair>,
    next: u64,
    /// Keys of listeners that wait for descriptors.
    paused: BTreeSet<u64>,
}

/// A connection: even distance from the pair's key is the client's end, odd the container's.
struct Pair {
    client: TcpStream,
    container: TcpStream,
    connected: bool,
    /// From the client to the container.
    there: Direction,
    back: Direction,
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
    /// Moves what can be moved now.
    fn pump(&mut self, mut from: &TcpStream, mut to: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            while !self.left.is_empty() {
                match to.write(&self.left) {
                    Ok(written) => drop(self.left.drain(..written)),
                    Err(error) if waits(&error) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            match self.stage {
                Stage::Open => {}
                Stage::Ending => {
                    to.shutdown(Shutdown::Write)?;
                    self.stage = Stage::Ended;
                    self.left = Vec::new();
                    return Ok(());
                }
                Stage::Ended => return Ok(()),
            }
            match from.read(buffer) {
                Ok(0) => self.stage = Stage::Ending,
                Ok(length) => {
                    let written = match to.write(&buffer[..length]) {
                        Ok(written) => written,
                        Err(error) if waits(&error) => 0,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                        Err(error) => return Err(error),
                    };
                    self.left.extend_from_slice(&buffer[written..length]);
                }
                Err(error) if waits(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Pair {
    fn pump(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.connected {
            match self.container.take_error()? {
                Some(error) => return Err(error),
                // Its end of the epoll set says when.
                None if self.container.peer_addr().is_err() => return Ok(true),
                // Asked once only: when both sides have ended there is no peer any more, yet what it sent is still to be read.
                None => self.connected = true,
            }
        }
        self.there.pump(&self.client, &self.container, buffer)?;
        self.back.pump(&self.container, &self.client, buffer)?;
        Ok(self.there.stage != Stage::Ended || self.back.stage != Stage::Ended)
    }
}

impl Streams {
    pub(super) fn new(first_key: u64) -> Self {
        Self {
            pairs: HashMap::new(),
            // Even, so that a pair's key follows from the key of either end.
            next: first_key.next_multiple_of(2),
            paused: BTreeSet::new(),
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
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) if exhausted(&error) => return false,
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
        client.set_nonblocking(true)?;
        let pair = Pair {
            client,
            container: container.into(),
            connected: false,
            there: Direction::default(),
            back: Direction::default(),
        };
        // What was sent goes on at once: it was the sender's business to wait for more.
        for stream in [&pair.client, &pair.container] {
            let _slower = stream.set_nodelay(true);
        }
        let key = self.next_key();
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &pair.client, EventData::new_u64(key), both)?;
        epoll::add(epoll, &pair.container, EventData::new_u64(key + 1), both)?;
        self.pairs.insert(key, pair);
        Ok(())
    }

    /// Serves a connection; true: it is over.
    pub(super) fn serve(&mut self, key: u64, buffer: &mut [u8]) -> bool {
        let key = key & !1;
        let Some(pair) = self.pairs.get_mut(&key) else {
            return false;
        };
        let goes_on = pair.pump(buffer).unwrap_or(false);
        if !goes_on {
            self.pairs.remove(&key);
        }
        !goes_on
    }

    /// Stops accepting until a connection ends.
    pub(super) fn pause(&mut self, epoll: &OwnedFd, listener: &TcpListener, key: u64) {
        if epoll::delete(epoll, listener).is_ok() {
            self.paused.insert(key);
        }
    }

    /// Accepts again.
    pub(super) fn resume<'a>(
        &mut self,
        epoll: &OwnedFd,
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
    }
}

fn exhausted(error: &io::Error) -> bool {
    let exhausting = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausting.contains(&errno))
}
