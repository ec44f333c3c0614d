//! A connection to a bus, or to systemd without one.

use super::message::{self, Kind, PROLOGUE};
use super::{Error, Message, Method, Value};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const BUS: &str = "org.freedesktop.DBus";

/// What is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A bus: it wants to be greeted, and sends the signals that were asked for.
    Bus,
    /// The service itself, which sends all of its signals.
    Service,
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while something else was waited for.
    signals: VecDeque<Message>,
    within: Duration,
}

impl Connection {
    /// Connects and authenticates; every later wait is `within` that time.
    ///
    /// # Errors
    /// Nobody listens, or does not want us.
    pub fn open(path: &Path, peer: Peer, within: Duration) -> Result<Self, Error> {
        let socket = croze_sys::socket::connect(path).map_err(|error| Error::Connect {
            path: path.to_owned(),
            source: error.into(),
        })?;
        Self::over(UnixStream::from(socket), peer, within)
    }

    /// Authenticates on a connected socket.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn over(stream: UnixStream, peer: Peer, within: Duration) -> Result<Self, Error> {
        let mut connection = Self {
            stream,
            serial: 0,
            signals: VecDeque::new(),
            within,
        };
        connection.authenticate()?;
        if peer == Peer::Bus {
            let hello = Method {
                destination: BUS,
                path: "/org/freedesktop/DBus",
                interface: BUS,
                member: "Hello",
            };
            connection.call(&hello, &[])?;
        }
        Ok(connection)
    }

    /// Asks a bus for signals.
    ///
    /// # Errors
    /// The bus refuses, or does not answer.
    pub fn add_match(&mut self, rule: &str) -> Result<(), Error> {
        let method = Method {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member: "AddMatch",
        };
        self.call(&method, &[Value::text(rule)]).map(drop)
    }

    /// Without naming a user: the peer asks the kernel who we are, whatever our ids are called in our user namespace.
    fn authenticate(&mut self) -> Result<(), Error> {
        let end = self.deadline();
        self.send(b"\0AUTH EXTERNAL\r\n", "authenticate")?;
        let mut answer = self.line(end)?;
        if answer.starts_with("DATA") {
            self.send(b"DATA\r\n", "authenticate")?;
            answer = self.line(end)?;
        }
        if !answer.starts_with("OK") {
            return Err(Error::Refused { answer });
        }
        self.send(b"BEGIN\r\n", "authenticate")
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Remote`] with what the peer says; else the connection broke.
    pub fn call(&mut self, method: &Method, arguments: &[Value]) -> Result<Message, Error> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&message::call(serial, method, arguments), "call a D-Bus method")?;
        let end = self.deadline();
        loop {
            let message = self.receive(end, "the answer to a D-Bus method")?;
            match &message.kind {
                Kind::Reply { to } if *to == serial => return Ok(message),
                Kind::Failure { to, name } if *to == serial => {
                    let text = match message.values("s").ok().and_then(|mut values| values.pop()) {
                        Some(Value::Text(text)) => text,
                        _ => "no reason was given".to_owned(),
                    };
                    return Err(Error::Remote {
                        method: method.member,
                        name: name.clone(),
                        message: text,
                    });
                }
                Kind::Signal { .. } => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The first signal that `wanted` makes something of; those that came before are lost.
    ///
    /// # Errors
    /// It does not come in time, or the connection broke.
    pub fn wait_signal<T>(
        &mut self,
        what: &'static str,
        mut wanted: impl FnMut(&str, &Message) -> Option<T>,
    ) -> Result<T, Error> {
        let end = self.deadline();
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.receive(end, what)?,
            };
            if let Kind::Signal { member } = &message.kind
                && let Some(found) = wanted(member, &message)
            {
                return Ok(found);
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.within
    }

    fn send(&mut self, bytes: &[u8], action: &'static str) -> Result<(), Error> {
        let fail = |source| Error::Stream { action, source };
        self.stream.set_write_timeout(Some(self.within)).map_err(fail)?;
        self.stream.write_all(bytes).map_err(fail)
    }

    fn receive(&mut self, end: Instant, what: &'static str) -> Result<Message, Error> {
        let mut prologue = [0; PROLOGUE];
        self.fill(&mut prologue, end, what)?;
        let mut rest = vec![0; message::remaining(&prologue)?];
        self.fill(&mut rest, end, what)?;
        Message::parse(&prologue, &rest)
    }

    /// A line of the authentication, which is ASCII.
    fn line(&mut self, end: Instant) -> Result<String, Error> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // Nothing may be read beyond the line; it is short.
            let mut byte = [0];
            self.fill(&mut byte, end, "the answer to the authentication")?;
            line.extend(byte);
            if line.len() > 1024 {
                return Err(Error::Malformed {
                    what: "an endless line",
                });
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn fill(&mut self, mut buffer: &mut [u8], end: Instant, what: &'static str) -> Result<(), Error> {
        let action = "read from the D-Bus socket";
        let fail = |source| Error::Stream { action, source };
        while !buffer.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Deadline {
                    what,
                    after: self.within,
                });
            }
            self.stream.set_read_timeout(Some(left)).map_err(fail)?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dbus::message::tests::{failure, reply, signal};
    use std::thread::{JoinHandle, spawn};

    /// A peer at the other end of a socket pair: it authenticates us, and answers each call as `answer` says with whole messages.
    pub(crate) fn peer(
        mut answer: impl FnMut(&Message) -> Vec<Vec<u8>> + Send + 'static,
    ) -> (UnixStream, JoinHandle<Vec<Message>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = spawn(move || {
            let mut text = Vec::new();
            let mut byte = [0];
            for (word, say) in [
                ("AUTH EXTERNAL", "DATA\r\n"),
                ("DATA", "OK 1234\r\n"),
                ("BEGIN", ""),
            ] {
                text.clear();
                while !text.ends_with(b"\r\n") {
                    theirs.read_exact(&mut byte).unwrap();
                    text.extend(byte);
                }
                assert_eq!(
                    String::from_utf8_lossy(&text).trim_matches(['\0', '\r', '\n']),
                    word
                );
                theirs.write_all(say.as_bytes()).unwrap();
            }
            let mut seen = Vec::new();
            let mut prologue = [0; PROLOGUE];
            while theirs.read_exact(&mut prologue).is_ok() {
                let mut rest = vec![0; message::remaining(&prologue).unwrap()];
                theirs.read_exact(&mut rest).unwrap();
                let call = Message::parse(&prologue, &rest).unwrap();
                for bytes in answer(&call) {
                    // One byte at a time, as slowly as a stream may be.
                    bytes.iter().for_each(|byte| theirs.write_all(&[*byte]).unwrap());
                }
                seen.push(call);
            }
            seen
        });
        (ours, thread)
    }

    const PING: Method = Method {
        destination: "a.b",
        path: "/",
        interface: "a.b",
        member: "Ping",
    };

    #[test]
    fn answers_and_signals_are_told_apart() {
        let (socket, thread) = peer(|call| {
            vec![
                signal("Early", &[Value::U32(1)]),
                reply(call.serial + 77, &[]),
                reply(call.serial, &[Value::text("pong")]),
                signal("Late", &[Value::U32(2)]),
            ]
        });
        let mut connection = Connection::over(socket, Peer::Service, Duration::from_secs(5)).unwrap();
        let answer = connection.call(&PING, &[]).unwrap();
        assert_eq!(answer.values("s").unwrap(), [Value::text("pong")]);
        for name in ["Early", "Late"] {
            let found = connection.wait_signal("it", |member, _| (member == name).then_some(()));
            found.unwrap();
        }
        drop(connection);
        assert_eq!(thread.join().unwrap().len(), 1);
    }

    #[test]
    fn a_bus_is_greeted_and_its_errors_are_told() {
        let (socket, thread) = peer(|call| match &call.kind {
            Kind::Call { member } if member == "Ping" => {
                vec![failure(call.serial, "a.b.No", "not today")]
            }
            _ => vec![reply(call.serial, &[])],
        });
        let mut connection = Connection::over(socket, Peer::Bus, Duration::from_secs(5)).unwrap();
        connection.add_match("type='signal'").unwrap();
        let error = connection.call(&PING, &[]).unwrap_err();
        assert_eq!(error.to_string(), "Ping failed: not today (a.b.No)");
        drop(connection);
        let seen: Vec<_> = thread.join().unwrap().into_iter().map(|call| call.kind).collect();
        let call = |member: &str| Kind::Call {
            member: member.to_owned(),
        };
        assert_eq!(seen, [call("Hello"), call("AddMatch"), call("Ping")]);
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_without_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let error = Connection::over(ours, Peer::Bus, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        drop(theirs);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        let error = Connection::over(ours, Peer::Bus, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}
