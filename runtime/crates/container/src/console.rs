//! Terminals: made in the container, used from outside.
//!
//! ```text
//! init: pty in the container's devpts ── master over a socket ──▶ --console-socket   (somebody else shows it)
//!            │ slave                                         └──▶ the runtime itself (foreground: Relay)
//!            ▼
//!      0, 1, 2 and /dev/console
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use croze_sys::signal::SignalFd;
use croze_sys::tty::{self, RawMode};
use croze_sys::{Errno, socket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::error::{ConsoleMisuse, Error, Result, While, chain};
use crate::mounts::devices;
use crate::mounts::root::Root;
use crate::notify::Relay;
use crate::ops::{Attachment, Warn};
use crate::plan::TerminalPlan;

/// What a caller of a console socket reads beside the descriptor: the name that the master had when it was opened.
const MASTER_NAME: &[u8] = b"/dev/ptmx";

/// Makes a terminal in the container's devpts, sends its master away and returns its slave.
///
/// # Errors
/// There is no devpts in the container, or nobody takes the master.
pub fn make(root: &Root, terminal: &TerminalPlan, to: BorrowedFd<'_>) -> Result<OwnedFd> {
    let master = devices::open_multiplexer(root)?;
    let pty = tty::open_pty(master).while_doing(|| "make a terminal".to_owned())?;
    if let Some((rows, columns)) = terminal.size {
        tty::set_size(&pty.master, rows, columns).while_doing(|| "set process.consoleSize".to_owned())?;
    }
    socket::send_fds(to, MASTER_NAME, &[pty.master.as_fd()])
        .while_doing(|| "send the terminal to the console socket".to_owned())?;
    Ok(pty.slave)
}

/// Where the master of a new terminal goes.
#[derive(Debug)]
pub enum Destination {
    /// There is no terminal.
    None,
    /// To the caller's socket.
    Socket(OwnedFd),
    /// To this process, which will relay.
    Own {
        /// The end that init sends to.
        sender: OwnedFd,
        /// The end that the master arrives at.
        receiver: OwnedFd,
    },
}

impl Destination {
    /// Decides where the master goes, and connects.
    ///
    /// # Errors
    /// Terminal, detaching and console socket do not go together, or nobody listens at the socket.
    pub fn open(has_terminal: bool, console_socket: Option<&Path>, attachment: Attachment) -> Result<Self> {
        match (has_terminal, console_socket, attachment) {
            (true, None, Attachment::Detached) => Err(Error::Console(ConsoleMisuse::NoSocket)),
            (false, Some(_), _) | (true, Some(_), Attachment::Foreground) => {
                Err(Error::Console(ConsoleMisuse::NoTerminal))
            }
            (false, None, _) => Ok(Self::None),
            (true, Some(path), Attachment::Detached) => socket::connect(path)
                .map(Self::Socket)
                .while_doing(|| format!("connect to the console socket {}", path.display())),
            (true, None, Attachment::Foreground) => {
                let (receiver, sender) =
                    socket::message_pair().while_doing(|| "prepare to take the terminal".to_owned())?;
                Ok(Self::Own { sender, receiver })
            }
        }
    }

    /// Splits into what init sends to and what this process receives at.
    pub fn split(self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        match self {
            Self::None => (None, None),
            Self::Socket(socket) => (Some(socket), None),
            Self::Own { sender, receiver } => (Some(sender), Some(receiver)),
        }
    }
}

/// Takes the master that init has sent.
///
/// # Errors
/// Init has sent none.
pub fn receive_master(receiver: &OwnedFd) -> Result<OwnedFd> {
    let (_, mut fds) =
        socket::receive_fds(receiver, &mut [0; 64]).while_doing(|| "take the terminal".to_owned())?;
    fds.pop().ok_or(Error::Unsupported {
        what: "a terminal that init did not send",
    })
}

/// Waits for a process in the foreground: signals go to it, its terminal is relayed, its readiness passed on.
pub struct Foreground<'a> {
    /// The process.
    pub pidfd: &'a OwnedFd,
    /// Its pid.
    pub pid: i32,
    /// Signals that this process gets.
    pub signals: &'a SignalFd,
    /// The master of the process's terminal, if it has one.
    pub master: Option<OwnedFd>,
    /// Who is told that it is ready, until that has happened.
    pub readiness: Option<Relay>,
    /// Takes what is worth telling and no reason to give the process up.
    pub warn: Warn<'a>,
}

impl std::fmt::Debug for Foreground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreground")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, Default)]
struct Events {
    ended: bool,
    signalled: bool,
    notified: bool,
    line: LineEvents,
}

#[derive(Debug, Clone, Copy, Default)]
struct LineEvents {
    typed: bool,
    terminal: bool,
}

impl Foreground<'_> {
    /// Relays until the process has ended (it is not reaped).
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn wait(mut self) -> Result<()> {
        let _raw = self.enter_raw_mode()?;
        let master = self.master.take();
        let mut line = master.as_ref().map(Line::new).transpose()?;
        loop {
            let events = self.poll(line.as_ref())?;
            if events.signalled {
                self.forward_signals(master.as_ref())?;
            }
            if events.notified {
                self.pass_readiness_on();
            }
            if let Some(line) = &mut line {
                line.relay(events.line)?;
            }
            if events.ended {
                return line.map_or(Ok(()), Line::drain);
            }
        }
    }

    fn enter_raw_mode(&self) -> Result<Option<RawMode>> {
        let Some(master) = &self.master else {
            return Ok(None);
        };
        if !tty::is_terminal(rustix::stdio::stdin()) {
            return Ok(None);
        }
        let action = || "relay the terminal".to_owned();
        tty::copy_size(rustix::stdio::stdin(), master).while_doing(action)?;
        RawMode::enter(rustix::stdio::stdin())
            .map(Some)
            .while_doing(action)
    }

    fn poll(&self, line: Option<&Line<'_>>) -> Result<Events> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![
            PollFd::new(self.pidfd, PollFlags::IN),
            PollFd::new(self.signals, PollFlags::IN),
        ];
        let terminal = line.filter(|line| !line.hung_up);
        if let Some(line) = terminal {
            fds.push(PollFd::new(line.master, line.wanted()));
        }
        let typing = terminal.is_some_and(Line::takes_input);
        if typing {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let last = fds.len();
        if let Some(relay) = &self.readiness {
            fds.push(PollFd::new(relay, PollFlags::IN));
        }
        let timeout = line.filter(|line| line.hung_up).map(|_| HUNG_UP);
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).while_doing(|| "wait for the process".to_owned()),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Events {
            ended: ready(0),
            signalled: ready(1),
            notified: ready(last),
            line: LineEvents {
                typed: typing && ready(3),
                terminal: terminal.is_none() || ready(2),
            },
        })
    }

    /// A service manager that cannot be told is no reason to give the process up.
    fn pass_readiness_on(&mut self) {
        let told = self.readiness.as_ref().map(|relay| relay.pass_on(self.pid));
        match told {
            Some(Ok(false)) | None => {}
            Some(Ok(true)) => self.readiness = None,
            Some(Err(error)) => {
                (self.warn)(&chain(&error));
                self.readiness = None;
            }
        }
    }

    fn forward_signals(&self, master: Option<&OwnedFd>) -> Result<()> {
        while let Some(signal) = self.signals.next().while_doing(|| "read a signal".to_owned())? {
            match Signal::from_named_raw(signal) {
                // The process itself is reaped when it has ended, orphans of its pid namespace are at once.
                Some(Signal::CHILD) => {
                    croze_sys::pidfd::reap_others(self.pid).while_doing(|| "reap orphans".to_owned())?;
                }
                // The runtime's of other languages.
                Some(Signal::URG) => {}
                Some(Signal::WINCH) if master.is_some() => {
                    if let Some(master) = master {
                        // Our own terminal may have gone: the other one keeps its size.
                        tty::copy_size(rustix::stdio::stdin(), master).ok();
                    }
                }
                _ => match croze_sys::pidfd::send_signal(self.pidfd, signal) {
                    Err(error) if error.errno == Errno::SRCH => {}
                    result => result.while_doing(|| format!("forward signal {signal}"))?,
                },
            }
        }
        Ok(())
    }
}

/// How long a terminal that nobody has open is left alone before it is looked at again: no event tells of its being opened.
const HUNG_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The terminal as it is relayed. The process may read slowly or not at all: nothing here waits for it, so that signals and the end of
/// the process are seen meanwhile.
///
/// ```text
/// standard input ─▶ pending (one read at most) ─▶ master ─▶ standard output
/// ```
#[derive(Debug)]
struct Line<'a> {
    master: &'a OwnedFd,
    /// What was typed and not taken yet; while there is some nothing more is read.
    pending: Vec<u8>,
    stdin_open: bool,
    /// Nobody has the slave open. That is not the end: a process can close it and open `/dev/console` again.
    hung_up: bool,
}

impl<'a> Line<'a> {
    fn new(master: &'a OwnedFd) -> Result<Self> {
        let action = || "relay the terminal".to_owned();
        let flags = rustix::fs::fcntl_getfl(master).while_doing(action)?;
        rustix::fs::fcntl_setfl(master, flags | OFlags::NONBLOCK).while_doing(action)?;
        Ok(Self {
            master,
            pending: Vec::new(),
            stdin_open: true,
            hung_up: false,
        })
    }

    fn takes_input(&self) -> bool {
        self.stdin_open && self.pending.is_empty()
    }

    fn wanted(&self) -> PollFlags {
        if self.pending.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        }
    }

    fn relay(&mut self, events: LineEvents) -> Result<()> {
        if events.typed {
            let mut buffer = [0; BUFFER];
            match read(rustix::stdio::stdin(), &mut buffer)? {
                Read::Some(length) => self.pending.extend_from_slice(&buffer[..length]),
                Read::Later => {}
                Read::End => self.stdin_open = false,
            }
        }
        if events.terminal {
            self.hung_up = !self.show()?;
        }
        self.type_pending()
    }

    /// Gives the process what it takes of what was typed.
    fn type_pending(&mut self) -> Result<()> {
        if self.pending.is_empty() || self.hung_up {
            return Ok(());
        }
        match rustix::io::write(self.master, &self.pending) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::IO) => self.hung_up = true,
            Err(errno) => return Err(errno).while_doing(|| "write to the terminal".to_owned()),
        }
        Ok(())
    }

    /// Copies what the process has written to standard output; `false` if nobody has the slave open.
    fn show(&self) -> Result<bool> {
        let mut buffer = [0; BUFFER];
        match read(self.master.as_fd(), &mut buffer)? {
            Read::Some(length) => write_all(rustix::stdio::stdout(), &buffer[..length]).map(|()| true),
            Read::Later => Ok(true),
            Read::End => Ok(false),
        }
    }

    /// Shows what the process wrote last. A descendant that holds the terminal is not waited for.
    fn drain(self) -> Result<()> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            let mut fds = [PollFd::new(self.master, PollFlags::IN)];
            let ready =
                rustix::event::poll(&mut fds, Some(&now)).while_doing(|| "drain the terminal".to_owned())?;
            if ready == 0 || !self.show()? {
                return Ok(());
            }
        }
    }
}

const BUFFER: usize = 8192;

/// What a read has brought.
enum Read {
    Some(usize),
    Later,
    End,
}

fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Read> {
    match rustix::io::read(from, buffer) {
        // A terminal whose other side nobody has open says EIO, anything else that it is at its end.
        Ok(0) | Err(Errno::IO) => Ok(Read::End),
        Ok(length) => Ok(Read::Some(length)),
        Err(Errno::INTR | Errno::AGAIN) => Ok(Read::Later),
        Err(errno) => Err(errno).while_doing(|| "read from the terminal".to_owned()),
    }
}

fn write_all(to: BorrowedFd<'_>, mut rest: &[u8]) -> Result<()> {
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                rustix::event::poll(&mut fds, None).while_doing(|| "wait for the terminal".to_owned())?;
            }
            // Nobody reads any more: what the process writes is lost, but it goes on.
            Err(Errno::PIPE | Errno::IO) => return Ok(()),
            Err(errno) => return Err(errno).while_doing(|| "write to the terminal".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn terminal_socket_and_attachment_must_go_together() {
        let socket = Path::new("/nowhere/console.sock");
        let no_socket = Some(ConsoleMisuse::NoSocket);
        let no_terminal = Some(ConsoleMisuse::NoTerminal);
        let cases = [
            (false, None, Attachment::Foreground, None),
            (false, None, Attachment::Detached, None),
            (true, None, Attachment::Foreground, None),
            (true, None, Attachment::Detached, no_socket),
            (false, Some(socket), Attachment::Detached, no_terminal),
            (false, Some(socket), Attachment::Foreground, no_terminal),
            (true, Some(socket), Attachment::Foreground, no_terminal),
        ];
        for (has_terminal, socket, attachment, expected) in cases {
            let misuse = match Destination::open(has_terminal, socket, attachment) {
                Err(Error::Console(misuse)) => Some(misuse),
                Err(error) => panic!("{error}"),
                Ok(_) => None,
            };
            assert_eq!(misuse, expected, "{has_terminal} {socket:?} {attachment:?}");
        }
    }

    #[test]
    fn a_console_socket_is_connected_to_before_anything_is_made() {
        let path = std::env::temp_dir().join(format!("croze-console-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).expect("bound");
        let destination = Destination::open(true, Some(&path), Attachment::Detached).expect("connected");
        assert!(matches!(destination, Destination::Socket(_)));
        listener.accept().expect("somebody came");
        drop(listener);
        std::fs::remove_file(&path).expect("removed");
        let error = Destination::open(true, Some(&path), Attachment::Detached).expect_err("nobody there");
        assert!(
            error
                .to_string()
                .starts_with("cannot connect to the console socket"),
            "{error}"
        );
    }
}
