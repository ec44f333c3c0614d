//! One attached process: this program's standard streams joined to a container's, or to an exec's.
//!
//! ```text
//!   stdin ----> [detach keys] ----> frames ----> daemon ----> process
//!   SIGWINCH -> size ------------->   |
//!   stdout <--------------------- frames <------ daemon <----- process
//!   stderr <----------------------    |
//!                                 exit: the session's end
//! ```
//!
//! A session is made before the process runs, so that nothing it prints is missed. Standard input is only read when the process
//! takes it; its end closes the process's input, and the session goes on until the process has ended.

use croze_client::v1::{
    AttachRequest, AttachStart, CloseStdin, ExecRequest, ExecStart, ExitStatus, StreamFrame, TerminalSize,
    attach_request, exec_request, stream_frame,
};
use croze_client::{Client, Error};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use crate::failure::Failure;
use crate::output;
use crate::signals::{self, SignalProxy};
use crate::terminal::{self, RawMode};
use crate::values::DetachKeys;

/// Bytes of one read of standard input.
const READ_BYTES: usize = 32 * 1024;
/// Frames on their way to the daemon.
const FRAMES_IN_FLIGHT: usize = 16;

/// What this side sends, whichever kind of session it is.
#[derive(Debug)]
enum Input {
    Bytes(Vec<u8>),
    Close,
    Resize(TerminalSize),
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process ended.
    Exited(ExitStatus),
    /// The user left with the detach keys; the process goes on.
    Detached,
    /// A signal of this number ended this side; the process goes on.
    Signalled(u8),
}

/// What the session does with this side's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// It is sent to the process.
    Forward,
    /// It is not read.
    Ignore,
}

/// A stream of frames from a process, and the way to it.
#[derive(Debug)]
pub(crate) struct Session<S> {
    frames: S,
    input: mpsc::Sender<Input>,
    /// Id of the container or exec.
    pub(crate) id: String,
    /// The process has a terminal.
    pub(crate) tty: bool,
}

type Frames = std::pin::Pin<Box<dyn Stream<Item = Result<StreamFrame, Error>> + Send>>;

/// Connects to a container's streams and waits until the connection stands.
pub(crate) async fn attach(client: &Client, start: AttachStart) -> Result<Session<Frames>, Failure> {
    let (input, inputs) = mpsc::channel(FRAMES_IN_FLIGHT);
    let first = AttachRequest {
        frame: Some(attach_request::Frame::Start(start)),
    };
    let rest = mapped(inputs, |input| AttachRequest {
        frame: Some(match input {
            Input::Bytes(bytes) => attach_request::Frame::Stdin(bytes.into()),
            Input::Close => attach_request::Frame::CloseStdin(CloseStdin {}),
            Input::Resize(size) => attach_request::Frame::Resize(size),
        }),
    });
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(first), rest);
    let response = client.containers().attach(requests).await.map_err(Error::from)?;
    Session::open(response.into_inner(), input).await
}

/// Runs a process in a container and waits until it runs.
pub(crate) async fn exec(client: &Client, start: ExecStart) -> Result<Session<Frames>, Failure> {
    let (input, inputs) = mpsc::channel(FRAMES_IN_FLIGHT);
    let first = ExecRequest {
        frame: Some(exec_request::Frame::Start(start)),
    };
    let rest = mapped(inputs, |input| ExecRequest {
        frame: Some(match input {
            Input::Bytes(bytes) => exec_request::Frame::Stdin(bytes.into()),
            Input::Close => exec_request::Frame::CloseStdin(CloseStdin {}),
            Input::Resize(size) => exec_request::Frame::Resize(size),
        }),
    });
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(first), rest);
    let response = client.containers().exec(requests).await.map_err(Error::from)?;
    Session::open(response.into_inner(), input).await
}

fn mapped<T, F: Fn(Input) -> T + Send + 'static>(
    inputs: mpsc::Receiver<Input>,
    f: F,
) -> impl Stream<Item = T> + Send {
    tokio_stream::StreamExt::map(ReceiverStream::new(inputs), f)
}

impl Session<Frames> {
    async fn open<E, S>(stream: S, input: mpsc::Sender<Input>) -> Result<Self, Failure>
    where
        S: Stream<Item = Result<StreamFrame, E>> + Send + 'static,
        Error: From<E>,
    {
        let mut frames: Frames = Box::pin(tokio_stream::StreamExt::map(stream, |frame| {
            frame.map_err(Error::from)
        }));
        match next(&mut frames).await? {
            Some(stream_frame::Frame::Ready(ready)) => Ok(Self {
                frames,
                input,
                id: ready.id,
                tty: ready.tty,
            }),
            _ => Err(Error::Protocol {
                expected: "the first frame of a stream",
            }
            .into()),
        }
    }

    /// Joins the streams until the process ends or the user leaves.
    pub(crate) async fn run(
        mut self,
        stdin: Stdin,
        keys: &DetachKeys,
        mut proxy: Option<SignalProxy>,
    ) -> Result<End, Failure> {
        let raw = self.raw_mode(stdin)?;
        let (detached_tx, mut detached) = mpsc::channel(1);
        let pumps = [
            (stdin == Stdin::Forward).then(|| {
                let keys = if self.tty { keys.0.clone() } else { Vec::new() };
                tokio::spawn(pump_stdin(self.input.clone(), keys, detached_tx.clone()))
            }),
            self.tty.then(|| tokio::spawn(pump_sizes(self.input.clone()))),
        ];
        let end = tokio::select! {
            end = pump_output(&mut self.frames) => end,
            Some(()) = detached.recv() => Ok(End::Detached),
            ended = signals::ending(), if self.tty => {
                ended.map(End::Signalled).map_err(|source| Failure::io("catch signals", source))
            }
            () = gave_up(&mut proxy) => Err(Failure::usage("the container cannot be reached", None)),
        };
        pumps
            .into_iter()
            .flatten()
            .for_each(|pump: JoinHandle<()>| pump.abort());
        drop(raw);
        end
    }

    /// Raw mode, where keys go to the process's own terminal one by one.
    fn raw_mode(&self, stdin: Stdin) -> Result<Option<RawMode>, Failure> {
        if !self.tty || stdin == Stdin::Ignore || !terminal::stdin_is_terminal() {
            return Ok(None);
        }
        RawMode::enable()
            .map(Some)
            .map_err(|source| Failure::io("put the terminal into raw mode", source))
    }
}

async fn gave_up(proxy: &mut Option<SignalProxy>) {
    match proxy {
        Some(proxy) => proxy.exhausted().await,
        None => std::future::pending().await,
    }
}

async fn next(frames: &mut Frames) -> Result<Option<stream_frame::Frame>, Failure> {
    match tokio_stream::StreamExt::next(frames).await {
        Some(Ok(frame)) => Ok(frame.frame),
        Some(Err(error)) => Err(error.into()),
        None => Err(Error::Protocol {
            expected: "the exit status",
        }
        .into()),
    }
}

/// Copies what the process prints until it ends.
async fn pump_output(frames: &mut Frames) -> Result<End, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match next(frames).await? {
            Some(stream_frame::Frame::Stdout(bytes)) => {
                copy(&mut stdout, &bytes, "write to standard output").await?;
            }
            Some(stream_frame::Frame::Stderr(bytes)) => {
                copy(&mut stderr, &bytes, "write to standard error").await?;
            }
            Some(stream_frame::Frame::Notice(text)) => output::notice(&output::printable(&text)),
            Some(stream_frame::Frame::Exit(status)) => return Ok(End::Exited(status)),
            // A newer daemon may send frames this client does not know.
            Some(stream_frame::Frame::Ready(_)) | None => {}
        }
    }
}

async fn copy(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], action: &str) -> Result<(), Failure> {
    to.write_all(bytes)
        .await
        .map_err(|source| Failure::io(action, source))?;
    to.flush().await.map_err(|source| Failure::io(action, source))
}

/// Sends standard input until it ends or the detach keys are typed.
async fn pump_stdin(input: mpsc::Sender<Input>, keys: Vec<u8>, detached: mpsc::Sender<()>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; READ_BYTES];
    let mut watch = DetachWatch::new(keys);
    loop {
        // An unreadable standard input is one that has ended.
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            drop(input.send(Input::Close).await);
            return;
        }
        let (bytes, leave) = watch.feed(&buffer[..count]);
        if !bytes.is_empty() && input.send(Input::Bytes(bytes)).await.is_err() {
            return;
        }
        if leave {
            detached.send(()).await.ok();
            return;
        }
    }
}

/// Sends the terminal's size now and whenever it changes.
async fn pump_sizes(input: mpsc::Sender<Input>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some(size) = terminal::size()
            && input.send(Input::Resize(size)).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Finds the detach keys in what is typed. Keys that turn out to be no detach sequence are passed on, late but complete.
#[derive(Debug)]
struct DetachWatch {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachWatch {
    fn new(keys: Vec<u8>) -> Self {
        Self { keys, seen: 0 }
    }

    /// What to pass on of `typed`, and whether the sequence is complete.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.keys[self.seen] {
                pass.extend_from_slice(&self.keys[..self.seen]);
                self.seen = 0;
            }
            if byte == self.keys[self.seen] {
                self.seen += 1;
            } else {
                pass.push(byte);
            }
            if self.seen == self.keys.len() {
                return (pass, true);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_and_nothing_else_is_lost() {
        for (typed, passed, leaves) in [
            (vec![&b"abc"[..]], &b"abc"[..], false),
            (vec![b"a\x10\x11b"], b"a", true),
            (vec![b"a\x10", b"\x11"], b"a", true),
            (vec![b"\x10", b"x"], b"\x10x", false),
            (vec![b"\x10\x10\x11"], b"\x10", true),
            (vec![b"\x11\x10"], b"\x11", false),
        ] {
            let mut watch = DetachWatch::new(vec![16, 17]);
            let mut all = Vec::new();
            let mut left = false;
            for part in &typed {
                let (pass, leave) = watch.feed(part);
                all.extend(pass);
                left |= leave;
            }
            assert_eq!((all.as_slice(), left), (passed, leaves), "{typed:?}");
        }
    }

    #[test]
    fn without_keys_everything_passes() {
        assert_eq!(
            DetachWatch::new(Vec::new()).feed(b"\x10\x11"),
            (b"\x10\x11".to_vec(), false)
        );
    }
}
