//! The link to a shim: one connection per use, framed messages of `croze.shim.v1`.
//!
//! A connection says hello, then either asks and is answered in turn ([`Link::ask`]), or becomes the stream of a process
//! ([`Link::into_stream`], [`relay`]). A shim that does not answer in time is an error of the one who asked and of nobody else.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use croze_proto::shim::{self as wire, Reply, Request, reply, request};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::error::{ContainersError, classify_runtime_message};
use crate::record::ExitStatus;
use crate::relay::{self, AttachedLog, Connection};
use crate::streams::ProcessStream;

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

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody listens: there is no shim.
    #[error("it is not there")]
    Absent,
    /// Somebody listens and says nothing.
    #[error("{0}")]
    Silent(String),
    /// Somebody listens and does not behave.
    #[error("{0}")]
    Unusable(String),
}

impl DialError {
    /// What it means to somebody who needs the shim of this container.
    pub(crate) fn of(self, name: &str) -> ContainersError {
        let (name, reason) = (name.to_owned(), self.to_string());
        match self {
            Self::Silent(_) => ContainersError::ShimSilent { name, reason },
            Self::Absent | Self::Unusable(_) => ContainersError::Shim { name, reason },
        }
    }
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
        let stream = reach(run_dir).await?;
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
            Err(ContainersError::ShimSilent { reason, .. }) => Err(DialError::Silent(reason)),
            // A shim that is leaving removes its socket; that of one that was killed is there, and nobody listens to it.
            Err(ContainersError::Shim { reason, .. }) => match reach(run_dir).await {
                Err(DialError::Absent) => Err(DialError::Absent),
                _ => Err(DialError::Unusable(reason)),
            },
            Err(error) => Err(DialError::Unusable(error.to_string())),
        }
    }

    /// Connects, where no shim is an error.
    pub(crate) async fn to(run_dir: &Path, name: &str) -> Result<Self, ContainersError> {
        Self::dial(run_dir, name).await.map_err(|error| error.of(name))
    }

    fn broken(&self, reason: impl Into<String>) -> ContainersError {
        ContainersError::Shim {
            name: self.name.clone(),
            reason: reason.into(),
        }
    }

    fn silent(&self, reason: impl Into<String>) -> ContainersError {
        ContainersError::ShimSilent {
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
            .map_err(|_| self.silent(format!("it did not read within {} s", limit.as_secs())))??;
        match timeout(limit, self.receive(id)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// What the shim knows of its container.
    pub(crate) async fn status(&mut self) -> Result<wire::StatusReply, ContainersError> {
        match self.ask(request::Body::Status(wire::Status {})).await? {
            reply::Body::Status(status) => Ok(status),
            _ => Err(self.broken("it does not answer status")),
        }
    }

    /// Waits until the start is over that the shim has said to be in progress, however it ends.
    pub(crate) async fn wait_for_start(&mut self) -> Result<(), ContainersError> {
        let wait = request::Body::Wait(wire::Wait {
            exec_id: String::new(),
            start: true,
        });
        let id = self.send(wait).await?;
        self.receive(id).await.map(|_| ())
    }

    /// Waits for the end of the container and then for the end of the shim, so that the run directory is free.
    pub(crate) async fn wait_for_end(&mut self) -> Result<wire::Exit, ContainersError> {
        let wait = request::Body::Wait(wire::Wait {
            exec_id: String::new(),
            start: false,
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

    /// Turns the connection into the stream that was asked for with `opening`. An attached client has a `log` from which it gets what it misses.
    pub(crate) async fn into_stream(
        mut self,
        opening: request::Body,
        log: Option<AttachedLog>,
    ) -> Result<ProcessStream, ContainersError> {
        let stream_id = self.next_id;
        let reply::Body::Ready(ready) = self.ask_runtime(opening).await? else {
            return Err(self.broken("it does not answer with a stream"));
        };
        let backlog = match log {
            Some(log) => log.open(ready.position.unwrap_or_default()).await,
            None => None,
        };
        let connection = Connection {
            reader: self.reader,
            writer: self.writer,
            name: self.name,
            stream_id,
            next_id: self.next_id,
        };
        Ok(relay::start(connection, backlog))
    }
}

/// An exit as the shim tells it.
pub(crate) fn convert_exit(exit: &wire::Exit) -> ExitStatus {
    ExitStatus {
        code: exit.code,
        signal: (exit.signal > 0).then_some(exit.signal),
        oom_killed: exit.oom_killed,
        finished_at: rfc3339(exit.finished_unix_nanos),
        log_lines_dropped: exit.position.map_or(0, |p| p.lines_dropped),
        log_end: exit.position.map(|p| p.log_offset),
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
pub(crate) fn encode(request: &Request) -> Vec<u8> {
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
    match reader.read_exact(&mut body).await {
        Ok(_) => {}
        // A shim that gives a client up may do so within a frame.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    Reply::decode(body.as_slice())
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Connects to whoever listens in a run directory.
async fn reach(run_dir: &Path) -> Result<UnixStream, DialError> {
    match timeout(PROMPT, connect(&run_dir.join("shim.sock"))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e))
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Err(DialError::Absent)
        }
        Ok(Err(e)) => Err(DialError::Unusable(e.to_string())),
        Err(_) => Err(DialError::Silent("it does not accept connections".into())),
    }
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
