//! One process of the container as the shim holds it: the first one, or an exec.
//!
//! ```text
//!   pipes:  stdin ──write end──▶ process        terminal:  console.sock ──fd──▶ master
//!           stdout, stderr ◀──read ends──                  master: output; its duplicate: input
//! ```
//!
//! The shim's ends are non-blocking; the process's ends are closed here as soon as the runtime has inherited them, so that the end of a stream is
//! seen when its last writer is gone.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use croze_proto::shim::Position;
use nix::unistd::Pid;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::PidfdFlags;

use crate::error::ShimError;
use crate::log::StreamKind;
use crate::runtime::CallStdio;

/// Input that waits for a process at most; its client is not read meanwhile.
pub(crate) const INPUT_MAX: usize = 64 * 1024;

/// More than any terminal's buffer holds.
const TERMINAL_BUFFER: usize = 64 * 1024;

/// How a process is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// A pseudo terminal.
    Terminal,
    /// Pipes for output, and for input too.
    PipesWithInput,
    /// Pipes for output, nothing to read.
    Pipes,
    /// Nothing at all.
    Null,
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its number.
    pub(crate) pid: Pid,
    /// Field 22 of `/proc/PID/stat`.
    pub(crate) start_ticks: u64,
    pidfd: OwnedFd,
}

impl Identity {
    /// Identifies a child that has not been reaped.
    pub(crate) fn of(pid: Pid) -> Result<Self, ShimError> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw())
            .ok_or(ShimError::PidFile { path: PathBuf::new() })?;
        let pidfd =
            rustix::process::pidfd_open(raw, PidfdFlags::empty()).map_err(ShimError::call("pidfd_open"))?;
        Ok(Self {
            pid,
            start_ticks: start_ticks(pid.as_raw()).unwrap_or(0),
            pidfd,
        })
    }

    /// Sends a signal, real-time ones too; one to a process that has ended says ESRCH.
    pub(crate) fn signal(&self, number: u32) -> Result<(), croze_sys::Error> {
        croze_sys::pidfd::send_signal(&self.pidfd, i32::try_from(number).unwrap_or(-1))
    }
}

/// Field 22 of `/proc/PID/stat`; the second field may contain spaces and parentheses.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// How far the terminal has come; the runtime may take any time between connecting and sending it.
#[derive(Debug)]
enum Console {
    /// The runtime has not connected.
    Listening(UnixListener),
    /// It has, and the terminal's descriptor is to come.
    Connected(UnixStream),
}

/// How a process ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Its code, or 128 + signal.
    pub(crate) code: u32,
    /// The signal, or 0.
    pub(crate) signal: u32,
    /// When.
    pub(crate) at_nanos: i64,
    /// When, for the limit of draining.
    pub(crate) since: Instant,
    /// The kernel killed a process of the container.
    pub(crate) oom_killed: bool,
    /// Of the first process: where its output ends in the log, once all of it is there.
    pub(crate) position: Option<Position>,
    /// The same for clients of its streams, who have had what the log held back to the end: that this was lost is no news for them.
    pub(crate) position_for_clients: Option<Position>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number within the shim; 0 is the first process.
    pub(crate) key: u32,
    /// Its id on the wire; empty for the first process.
    pub(crate) exec_id: String,
    /// It has a terminal.
    pub(crate) tty: bool,
    /// Who it is, once the runtime has made it.
    pub(crate) identity: Option<Identity>,
    /// How it ended, once it has.
    pub(crate) ended: Option<Ended>,
    /// Clients and their requests that want to know its end.
    pub(crate) waiters: Vec<(u64, u64)>,
    /// For an exec: the client and the request that started it.
    pub(crate) requested_by: Option<(u64, u64)>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<Console>,
    size: Option<(u16, u16)>,
    input: VecDeque<u8>,
    input_ends: bool,
}

impl Process {
    /// Makes the streams of a process, and what the runtime's call inherits. A terminal's socket is called `<name>.sock`.
    pub(crate) fn new(
        key: u32,
        exec_id: &str,
        wiring: Wiring,
        name: &str,
    ) -> Result<(Self, CallStdio), ShimError> {
        let mut process = Self {
            key,
            exec_id: exec_id.to_owned(),
            tty: wiring == Wiring::Terminal,
            identity: None,
            ended: None,
            waiters: Vec::new(),
            requested_by: None,
            stdin: None,
            stdout: None,
            stderr: None,
            console: None,
            size: None,
            input: VecDeque::new(),
            input_ends: false,
        };
        let mut stdio = CallStdio::null();
        match wiring {
            Wiring::Null => {}
            Wiring::Terminal => {
                let path = format!("{name}.sock");
                let _may_not_exist = fs::remove_file(&path);
                let listener = UnixListener::bind(&path).map_err(ShimError::file("bind", &path))?;
                listener
                    .set_nonblocking(true)
                    .map_err(ShimError::file("bind", &path))?;
                process.console = Some(Console::Listening(listener));
            }
            Wiring::Pipes | Wiring::PipesWithInput => {
                let (ours, theirs) = pipe_to_us()?;
                (process.stdout, stdio.stdout) = (Some(ours), Stdio::from(theirs));
                let (ours, theirs) = pipe_to_us()?;
                (process.stderr, stdio.stderr) = (Some(ours), Stdio::from(theirs));
                if wiring == Wiring::PipesWithInput {
                    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::call("pipe2"))?;
                    nonblocking(&ours)?;
                    (process.stdin, stdio.stdin) = (Some(ours), Stdio::from(theirs));
                }
            }
        }
        Ok((process, stdio))
    }

    /// The descriptor on which a stream's output arrives.
    pub(crate) fn output(&self, stream: StreamKind) -> Option<&OwnedFd> {
        match stream {
            StreamKind::Stdout => self.stdout.as_ref(),
            StreamKind::Stderr => self.stderr.as_ref(),
        }
    }

    /// Reads one chunk of a stream into `buffer`; `None` when there is nothing now. At the end of the stream it is closed.
    pub(crate) fn read(&mut self, stream: StreamKind, buffer: &mut [u8]) -> Option<usize> {
        let slot = match stream {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        };
        match rustix::io::read(slot.as_ref()?, &mut *buffer) {
            Ok(0) => *slot = None,
            Ok(n) => return Some(n),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO is how a terminal says that nobody has it open any more.
            Err(_) => *slot = None,
        }
        None
    }

    /// Whether no output can come any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.console.is_none()
    }

    /// What a stream's pipe holds at most. A pipe is first in, first out: once so much was read after the end of the process, all that it wrote is in.
    pub(crate) fn pipe_size(&self, stream: StreamKind) -> usize {
        self.output(stream)
            .and_then(|fd| rustix::pipe::fcntl_getpipe_size(fd).ok())
            // A terminal has no such size; its buffer is far smaller.
            .unwrap_or(TERMINAL_BUFFER)
    }

    /// Gives up the streams.
    pub(crate) fn close_streams(&mut self) {
        (self.stdin, self.stdout, self.stderr, self.console) = (None, None, None, None);
        self.input.clear();
    }

    /// The descriptor on which the runtime hands over the terminal.
    pub(crate) fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().map(|console| match console {
            Console::Listening(listener) => listener.as_fd(),
            Console::Connected(stream) => stream.as_fd(),
        })
    }

    /// Goes one step towards the terminal: accepts the runtime's connection, takes the descriptor if it is there. Never waits: a runtime connects
    /// long before it sends, or connects and hangs.
    pub(crate) fn accept_terminal(&mut self) -> Result<(), ShimError> {
        if let Some(Console::Listening(listener)) = &self.console {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Ok(());
                }
                Err(source) => {
                    return Err(ShimError::Call {
                        call: "accept the terminal",
                        source,
                    });
                }
            };
            // An accepted socket does not inherit this.
            stream.set_nonblocking(true).map_err(ShimError::call("fcntl"))?;
            self.console = Some(Console::Connected(stream));
        }
        let Some(Console::Connected(stream)) = &self.console else {
            return Ok(());
        };
        let received = receive_fd(stream);
        if let Ok(None) = received {
            return Ok(());
        }
        // Whatever came instead of a terminal, nothing better will.
        self.console = None;
        let Some(master) = received? else { return Ok(()) };
        nonblocking(&master)?;
        self.stdin = Some(master.try_clone().map_err(ShimError::call("dup"))?);
        self.stdout = Some(master);
        self.write_input();
        if let Some((rows, columns)) = self.size.take() {
            self.resize(rows, columns);
        }
        Ok(())
    }

    /// Sets the terminal's size, now or when it arrives. Without a terminal nothing happens.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        if !self.tty {
            return;
        }
        match &self.stdout {
            Some(master) => {
                let size = rustix::termios::Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // It fails only when the terminal is gone.
                let _gone = rustix::termios::tcsetwinsize(master, size);
            }
            None => self.size = Some((rows, columns)),
        }
    }

    /// Queues input; without a stdin it is thrown away.
    pub(crate) fn push_input(&mut self, bytes: &[u8]) {
        // A terminal that has not arrived yet will have one.
        if (self.stdin.is_some() || self.console.is_some()) && !self.input_ends {
            self.input.extend(bytes);
        }
    }

    /// Ends standard input when what is queued is written. A terminal has no end of input.
    pub(crate) fn end_input(&mut self) {
        if !self.tty {
            self.input_ends = true;
            self.write_input();
        }
    }

    /// Whether no more input should be read for this process now.
    pub(crate) fn input_is_full(&self) -> bool {
        self.input.len() >= INPUT_MAX
    }

    /// The descriptor to wait on before [`Process::write_input`], if there is something to write.
    pub(crate) fn input(&self) -> Option<&OwnedFd> {
        self.stdin.as_ref().filter(|_| !self.input.is_empty())
    }

    /// Writes as much input as the process takes.
    pub(crate) fn write_input(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while !self.input.is_empty() {
            match rustix::io::write(stdin, self.input.as_slices().0) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // Nobody reads it any more.
                    self.input.clear();
                    self.stdin = None;
                    return;
                }
            }
        }
        if self.input_ends {
            self.stdin = None;
        }
    }
}

fn pipe_to_us() -> Result<(OwnedFd, OwnedFd), ShimError> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(ShimError::call("pipe2"))?;
    nonblocking(&ours)?;
    Ok((ours, theirs))
}

fn nonblocking(fd: &OwnedFd) -> Result<(), ShimError> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(ShimError::call("fcntl"))?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(ShimError::call("fcntl"))
}

/// Receives one descriptor; `None` if it has not been sent yet.
fn receive_fd(socket: &UnixStream) -> Result<Option<OwnedFd>, ShimError> {
    let mut payload = [0u8; 256];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    match rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(&mut payload)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(_) => {}
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(ShimError::call("receive the terminal")(errno)),
    }
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.map(Some).ok_or_else(|| ShimError::Call {
        call: "receive the terminal",
        source: io::Error::new(io::ErrorKind::InvalidData, "the runtime sent no descriptor"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    #[test]
    fn a_runtime_that_connects_and_sends_later_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("console");
        let (mut process, _) = Process::new(0, "", Wiring::Terminal, name.to_str().unwrap()).unwrap();
        process.accept_terminal().unwrap();
        let runtime = UnixStream::connect(dir.path().join("console.sock")).unwrap();
        // Connected, and nothing sent: this returns.
        process.accept_terminal().unwrap();
        process.accept_terminal().unwrap();
        assert!(process.console().is_some() && !process.is_drained());
        process.push_input(b"early");

        let (terminal, peer) = UnixStream::pair().unwrap();
        let fds = [terminal.as_fd()];
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let payload = [io::IoSlice::new(b"x")];
        rustix::net::sendmsg(&runtime, &payload, &mut control, SendFlags::empty()).unwrap();
        process.accept_terminal().unwrap();
        assert!(process.console().is_none() && process.output(StreamKind::Stdout).is_some());
        let mut early = [0; 5];
        rustix::io::read(&peer, &mut early).unwrap();
        assert_eq!(&early, b"early", "what was typed before the terminal came");
    }

    #[test]
    fn a_runtime_that_leaves_without_a_terminal_is_an_error_once() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("console");
        let (mut process, _) = Process::new(0, "", Wiring::Terminal, name.to_str().unwrap()).unwrap();
        drop(UnixStream::connect(dir.path().join("console.sock")).unwrap());
        assert!(process.accept_terminal().is_err());
        assert!(process.console().is_none() && process.is_drained());
        process.accept_terminal().unwrap();
    }
}
