//! The link to a shim: one connection per use, framed messages of `croze.shim.v1`.
//!
//! A connection says hello, then either asks and is answered in turn ([`Link::ask`]), or becomes the stream of a process
//! ([`Link::into_stream`]). A shim that does not answer in time is an error of the one who asked and of nobody else.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use croze_proto::shim::{self as wire, Reply, Request, reply, request};
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{ContainersError, classify_runtime_message};
use crate::record::ExitStatus;
use crate::streams::{Input, Output, ProcessStream};

/// The newest version of the protocol that is spoken here.
const VERSION: u32 = 1;
/// How long a shim may take to answer what it answers at once.
const PROMPT: Duration = Duration::from_secs(10);
/// How long a runtime call behind an answer may take.
const RUNTIME: Duration = Duration::from_secs(60);
/// A longer frame is no reply of a shim.
const FRAME_MAX: u32 = 4 * 1024 * 1024;
/// Longest path of a unix socket.
const SOCKET_PATH_MAX: usize = 107;
/// Frames kept here for a client that reads slowly; each has 32 KiB at most.
const OUTPUT_FRAMES: usize = 256;

/// What a client is told whose stream breaks off.
const CONNECTION_LOST: &str = "the connection to the container was lost; its output goes on in the log";

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    /// Nobody listens: there is no shim.
    Absent,
    /// Somebody listens and does not behave.
    Unusable(String),
}

/// A connection on which hello was said.
#[derive(Debug)]
pub(crate) struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    next_id: u64,
    name: String,
}

impl Link {
    /// Connects to the shim in a run directory; `name` is the container's, for messages.
    pub(crate) async fn dial(run_dir: &Path, name: &str) -> Result<Self, DialError> {
        let stream = match timeout(PROMPT, connect(&run_dir.join("shim.sock"))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e))
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(DialError::Absent);
            }
            Ok(Err(e)) => return Err(DialError::Unusable(e.to_string())),
            Err(_) => return Err(DialError::Unusable("it does not accept connections".into())),
        };
        let (reader, writer) = stream.into_split();
        let mut link = Self {
            reader,
            writer,
            next_id: 1,
            name: name.to_owned(),
        };
        let hello = request::Body::Hello(wire::Hello { version: VERSION });
        match link.ask(hello).await {
            Ok(reply::Body::Hello(_)) => Ok(link),
            Ok(_) => Err(DialError::Unusable("it does not answer hello".into())),
            // A shim that is leaving closes its socket.
            Err(ContainersError::Shim { .. }) if !run_dir.join("shim.sock").exists() => {
                Err(DialError::Absent)
            }
            Err(error) => Err(DialError::Unusable(error.to_string())),
        }
    }

    /// Connects, where no shim is an error.
    pub(crate) async fn to(run_dir: &Path, name: &str) -> Result<Self, ContainersError> {
        Self::dial(run_dir, name)
            .await
            .map_err(|error| ContainersError::Shim {
                name: name.to_owned(),
                reason: match error {
                    DialError::Absent => "it is not there".into(),
                    DialError::Unusable(reason) => reason,
                },
            })
    }

    fn broken(&self, reason: impl Into<String>) -> ContainersError {
        ContainersError::Shim {
            name: self.name.clone(),
            reason: reason.into(),
        }
    }

    async fn send(&mut self, body: request::Body) -> Result<u64, ContainersError> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = encode(&Request { id, body: Some(body) });
        self.writer
            .write_all(&frame)
            .await
            .map_err(|e| self.broken(e.to_string()))?;
        Ok(id)
    }

    async fn receive(&mut self, id: u64) -> Result<reply::Body, ContainersError> {
        loop {
            let reply = read_frame(&mut self.reader)
                .await
                .map_err(|e| self.broken(e.to_string()))?
                .ok_or_else(|| self.broken("it closed the connection"))?;
            match reply.body {
                Some(reply::Body::Failure(failure)) if reply.id == id => {
                    return Err(convert_failure(failure));
                }
                Some(body) if reply.id == id => return Ok(body),
                _ => {}
            }
        }
    }

    /// Asks something that is answered without a call of the runtime.
    pub(crate) async fn ask(&mut self, body: request::Body) -> Result<reply::Body, ContainersError> {
        self.ask_within(PROMPT, body).await
    }

    /// Asks something for which the shim calls the runtime.
    pub(crate) async fn ask_runtime(&mut self, body: request::Body) -> Result<reply::Body, ContainersError> {
        self.ask_within(RUNTIME, body).await
    }

    async fn ask_within(
        &mut self,
        limit: Duration,
        body: request::Body,
    ) -> Result<reply::Body, ContainersError> {
        let id = timeout(limit, self.send(body))
            .await
            .map_err(|_| self.broken("it does not read"))??;
        match timeout(limit, self.receive(id)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.broken(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// What the shim knows of its container.
    pub(crate) async fn status(&mut self) -> Result<wire::StatusReply, ContainersError> {
        match self.ask(request::Body::Status(wire::Status {})).await? {
            reply::Body::Status(status) => Ok(status),
            _ => Err(self.broken("it does not answer status")),
        }
    }

    /// Waits for the end of the container and then for the end of the shim, so that the run directory is free.
    pub(crate) async fn wait_for_end(&mut self) -> Result<wire::Exit, ContainersError> {
        let wait = request::Body::Wait(wire::Wait {
            exec_id: String::new(),
        });
        let id = self.send(wait).await?;
        let reply::Body::Exit(exit) = self.receive(id).await? else {
            return Err(self.broken("it does not answer wait"));
        };
        // Errors and the end of the stream say the same here: it is gone.
        let gone = async { while let Ok(Some(_)) = read_frame(&mut self.reader).await {} };
        if timeout(PROMPT, gone).await.is_err() {
            tracing::warn!(container = self.name, "the shim stays after its container's end");
        }
        Ok(exit)
    }

    /// Turns the connection into the stream that was asked for with `opening`; returns the process's pid too.
    pub(crate) async fn into_stream(
        mut self,
        opening: request::Body,
    ) -> Result<ProcessStream, ContainersError> {
        let stream_id = self.next_id;
        match self.ask_runtime(opening).await? {
            reply::Body::Ready(_) => {}
            _ => return Err(self.broken("it does not answer with a stream")),
        }
        let (input, from_client) = mpsc::channel(16);
        let (to_client, output) = mpsc::channel(OUTPUT_FRAMES);
        let (over, is_over) = oneshot::channel();
        let Self {
            reader,
            writer,
            next_id,
            name,
        } = self;
        tokio::spawn(relay_input(writer, next_id, stream_id, from_client, is_over));
        tokio::spawn(relay_output(reader, name, stream_id, to_client, over));
        let output = futures_util::stream::unfold(output, |mut output| async move {
            let item = output.recv().await?;
            Some((item, output))
        });
        Ok(ProcessStream {
            input,
            output: output.boxed(),
        })
    }
}

/// A stream over which nothing comes: a detached process's.
pub(crate) fn empty_stream() -> ProcessStream {
    let (input, _) = mpsc::channel(1);
    ProcessStream {
        input,
        output: futures_util::stream::empty().boxed(),
    }
}

/// Writes what the client sends; the writing half lives as long as the output does, because closing it means leaving.
async fn relay_input(
    mut writer: OwnedWriteHalf,
    mut next_id: u64,
    stream_id: u64,
    mut from_client: mpsc::Receiver<Input>,
    mut is_over: oneshot::Receiver<()>,
) {
    loop {
        let input = tokio::select! {
            input = from_client.recv() => input,
            _ = &mut is_over => return,
        };
        let (id, body) = match input {
            Some(Input::Stdin(bytes)) => (stream_id, request::Body::Input(bytes.to_vec())),
            Some(Input::CloseStdin) => (stream_id, request::Body::CloseInput(wire::CloseInput {})),
            Some(Input::Resize(size)) => {
                next_id += 1;
                let resize = wire::Resize {
                    exec_id: String::new(),
                    rows: size.rows.into(),
                    columns: size.columns.into(),
                };
                (next_id, request::Body::ResizeStream(resize))
            }
            None => {
                let _over = is_over.await;
                return;
            }
        };
        if writer
            .write_all(&encode(&Request { id, body: Some(body) }))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn relay_output(
    mut reader: OwnedReadHalf,
    name: String,
    stream_id: u64,
    to_client: mpsc::Sender<Result<Output, ContainersError>>,
    over: oneshot::Sender<()>,
) {
    loop {
        let (item, last) = tokio::select! {
            frame = read_frame(&mut reader) => match frame {
                Ok(Some(reply)) => match (reply.id == stream_id).then(|| convert_stream(reply)).flatten() {
                    // A client that was cut off from the output gets a notice, and later the exit.
                    Some(item) => {
                        let last = matches!(item, Ok(Output::Exit(_)) | Err(_));
                        (item, last)
                    }
                    None => continue,
                },
                // A shim says how a process ended before it closes; so it was killed, or gave this client up.
                Ok(None) => (Ok(Output::Notice(CONNECTION_LOST.into())), true),
                Err(e) => (Err(ContainersError::Shim { name: name.clone(), reason: e.to_string() }), true),
            },
            () = to_client.closed() => break,
        };
        if to_client.send(item).await.is_err() || last {
            break;
        }
    }
    // The other half may have ended first.
    let _input_is_over = over.send(());
}

fn convert_stream(reply: Reply) -> Option<Result<Output, ContainersError>> {
    Some(Ok(match reply.body? {
        reply::Body::Output(output) if output.stream() == wire::Stream::Stderr => {
            Output::Stderr(Bytes::from(output.data))
        }
        reply::Body::Output(output) => Output::Stdout(Bytes::from(output.data)),
        reply::Body::Notice(words) => Output::Notice(words),
        reply::Body::Exit(exit) => Output::Exit(convert_exit(&exit)),
        reply::Body::Failure(failure) => return Some(Err(convert_failure(failure))),
        _ => return None,
    }))
}

/// An exit as the shim tells it.
pub(crate) fn convert_exit(exit: &wire::Exit) -> ExitStatus {
    ExitStatus {
        code: exit.code,
        signal: (exit.signal > 0).then_some(exit.signal),
        oom_killed: exit.oom_killed,
        finished_at: rfc3339(exit.finished_unix_nanos),
        log_lines_dropped: 0,
        unknown: false,
    }
}

/// Nanoseconds since 1970 as RFC 3339.
pub(crate) fn rfc3339(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// What a failure of a shim means here.
pub(crate) fn convert_failure(failure: wire::Failure) -> ContainersError {
    let kind = match failure.kind() {
        wire::FailureKind::Runtime => classify_runtime_message(&failure.message),
        wire::FailureKind::Conflict => croze_model::ErrorKind::Conflict,
        wire::FailureKind::NotFound => croze_model::ErrorKind::NotFound,
        wire::FailureKind::Internal | wire::FailureKind::Unspecified => croze_model::ErrorKind::Internal,
    };
    ContainersError::Runtime {
        stage: failure.stage,
        message: failure.message,
        kind,
    }
}

/// A message in its framing.
fn encode(request: &Request) -> Vec<u8> {
    let body = request.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

/// The next reply; `None` at the end of the stream.
pub(crate) async fn read_frame(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<Option<Reply>> {
    let mut header = [0u8; 4];
    match reader.read_exact(&mut header).await {
        Ok(_) => {}
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    }
    let length = u32::from_be_bytes(header);
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut body = vec![0u8; length as usize];
    reader.read_exact(&mut body).await?;
    Reply::decode(body.as_slice())
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Connects; a path that is too long for a socket goes through a descriptor of its directory.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return UnixStream::connect(path).await;
    }
    let dir = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, body: reply::Body) -> Vec<u8> {
        let body = Reply { id, body: Some(body) }.encode_to_vec();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    /// What a client gets when the shim sends `frames` and closes.
    async fn relayed(frames: &[Vec<u8>]) -> Vec<Output> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&frames.concat()).await.unwrap();
        drop(theirs);
        let (send, mut receive) = mpsc::channel(8);
        let (over, _is_over) = oneshot::channel();
        let (reader, _writer) = ours.into_split();
        relay_output(reader, "web".into(), 7, send, over).await;
        let mut items = Vec::new();
        while let Some(item) = receive.recv().await {
            items.push(item.unwrap());
        }
        items
    }

    #[tokio::test]
    async fn a_stream_ends_once_with_an_exit_or_with_words() {
        let output = |data: &[u8]| {
            frame(
                7,
                reply::Body::Output(wire::Output {
                    stream: wire::Stream::Stdout.into(),
                    data: data.to_vec(),
                }),
            )
        };
        let foreign = frame(8, reply::Body::Done(wire::Done {}));
        let exit = frame(
            7,
            reply::Body::Exit(wire::Exit {
                code: 3,
                ..wire::Exit::default()
            }),
        );
        let whole = relayed(&[output(b"a"), foreign, exit.clone(), output(b"late")]).await;
        assert_eq!(whole[0], Output::Stdout(Bytes::from_static(b"a")));
        assert!(
            matches!(&whole[1..], [Output::Exit(status)] if status.code == 3),
            "{whole:?}"
        );
        let broken = relayed(&[output(b"a")]).await;
        assert_eq!(broken[1..], [Output::Notice(CONNECTION_LOST.into())]);
        let let_go = relayed(&[frame(7, reply::Body::Notice("slow".into())), exit]).await;
        assert_eq!(let_go[0], Output::Notice("slow".into()));
        assert!(
            matches!(&let_go[1..], [Output::Exit(status)] if status.code == 3),
            "the code comes after the notice: {let_go:?}"
        );
    }
}
