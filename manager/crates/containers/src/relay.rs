//! A process's streams between its shim and one client.
//!
//! ```text
//!   client ──Input──▶ relay_input  ──▶ shim's socket
//!   client ◀─Output── relay_output ◀── shim's socket
//!                          ▲
//!                       Backlog: what the shim left out, from the log
//! ```
//!
//! A client that reads slowly is waited for here: its channel is full, so nothing is taken from the socket, so the shim has no room and leaves output out.
//! Little is kept in memory, whatever the client does; and how the container ended is found out even if the shim is long gone by then.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use croze_proto::shim::{self as wire, Position, Request, reply, request};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backlog::Backlog;
use crate::error::ContainersError;
use crate::link::{convert_exit, convert_failure, encode, read_frame};
use crate::record::State;
use crate::streams::{Input, Output, ProcessStream};

/// Pieces of output kept here for a client; each has 32 KiB at most.
const OUTPUT_PIECES: usize = 16;
/// Longest input in one message to the shim, which reads 1 MiB at most.
const INPUT_PIECE: usize = 64 * 1024;
/// How long the end of a container may take to be known when its shim is gone.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What a client is told whose stream breaks off.
const CONNECTION_LOST: &str = "the connection to the container was lost; its output goes on in the log";
/// What a client is told that is behind and has no log to read from.
const NOTHING_TO_CATCH_UP_FROM: &str =
    "output is missing: this client was behind, and the container's log cannot be read";

/// Where an attached client finds what it missed.
pub(crate) struct AttachedLog {
    /// The container's log.
    pub(crate) path: PathBuf,
    /// The container's state, from before the client was attached.
    pub(crate) state: watch::Receiver<State>,
}

impl AttachedLog {
    /// Opens the files, for a client whose stream begins at `position`. Without them it still gets what comes live.
    pub(crate) async fn open(self, position: Position) -> Option<Backlog> {
        let (path, runtime) = (self.path.clone(), tokio::runtime::Handle::current());
        let opened = tokio::task::spawn_blocking(move || {
            let _guard = runtime.enter();
            Backlog::open(&self.path, position, self.state)
        });
        let log = path.display();
        match opened.await {
            Ok(Ok(backlog)) => Some(backlog),
            Ok(Err(error)) => {
                tracing::warn!(%log, %error, "an attached client has nothing to catch up from");
                None
            }
            Err(error) => {
                tracing::warn!(%log, %error, "an attached client has nothing to catch up from");
                None
            }
        }
    }
}

/// A connection to a shim on which a stream was opened.
pub(crate) struct Connection {
    pub(crate) reader: OwnedReadHalf,
    pub(crate) writer: OwnedWriteHalf,
    /// The container's name.
    pub(crate) name: String,
    /// The id of the request that opened the stream.
    pub(crate) stream_id: u64,
    /// The next free id.
    pub(crate) next_id: u64,
}

/// Relays until the process has ended or the client has left.
pub(crate) fn start(connection: Connection, backlog: Option<Backlog>) -> ProcessStream {
    let (input, from_client) = mpsc::channel(16);
    let (to_client, output) = mpsc::channel(OUTPUT_PIECES);
    let (over, is_over) = oneshot::channel();
    let Connection {
        reader,
        writer,
        name,
        stream_id,
        next_id,
    } = connection;
    tokio::spawn(relay_input(writer, next_id, stream_id, from_client, is_over));
    let relay = OutputRelay {
        reader,
        name,
        stream_id,
        backlog,
        to_client,
    };
    tokio::spawn(async move {
        relay.run().await;
        // The other half may have ended first.
        let _input_is_over = over.send(());
    });
    let output = futures_util::stream::unfold(output, |mut output| async move {
        let item = output.recv().await?;
        Some((item, output))
    });
    ProcessStream {
        input,
        output: output.boxed(),
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

/// Writes what the client sends. The writing half lives as long as the output does and no longer, because closing it means leaving: a process that reads
/// nothing lets the shim take no more, and a write that waits for that must not keep a client there that has gone.
async fn relay_input(
    mut writer: OwnedWriteHalf,
    next_id: u64,
    stream_id: u64,
    from_client: mpsc::Receiver<Input>,
    mut is_over: oneshot::Receiver<()>,
) {
    tokio::select! {
        biased;
        // A frame may be torn here; nobody reads on behind it.
        _ = &mut is_over => return,
        () = write_input(&mut writer, next_id, stream_id, from_client) => {}
    }
    let _over = is_over.await;
}

/// Writes until the client has said all, or the shim takes no more.
async fn write_input(
    writer: &mut OwnedWriteHalf,
    mut next_id: u64,
    stream_id: u64,
    mut from_client: mpsc::Receiver<Input>,
) {
    while let Some(input) = from_client.recv().await {
        for body in messages(input) {
            let id = if matches!(body, request::Body::ResizeStream(_)) {
                next_id += 1;
                next_id
            } else {
                stream_id
            };
            let frame = encode(&Request { id, body: Some(body) });
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

/// Input as messages that a shim takes.
fn messages(input: Input) -> Vec<request::Body> {
    match input {
        Input::Stdin(bytes) => bytes
            .chunks(INPUT_PIECE)
            .map(|piece| request::Body::Input(piece.to_vec()))
            .collect(),
        Input::CloseStdin => vec![request::Body::CloseInput(wire::CloseInput {})],
        Input::Resize(size) => vec![request::Body::ResizeStream(wire::Resize {
            exec_id: String::new(),
            rows: size.rows.into(),
            columns: size.columns.into(),
        })],
    }
}

/// The way from the shim to the client.
struct OutputRelay {
    reader: OwnedReadHalf,
    name: String,
    stream_id: u64,
    backlog: Option<Backlog>,
    to_client: mpsc::Sender<Result<Output, ContainersError>>,
}

impl OutputRelay {
    async fn run(mut self) {
        loop {
            let frame = tokio::select! {
                frame = read_frame(&mut self.reader) => frame,
                () = self.to_client.closed() => return,
            };
            let passed = match frame {
                Ok(Some(reply)) if reply.id == self.stream_id => self.pass_on(reply.body).await,
                Ok(Some(_)) => ControlFlow::Continue(()),
                Ok(None) => self.without_shim().await,
                Err(e) => {
                    let name = self.name.clone();
                    let reason = e.to_string();
                    self.send_last(Err(ContainersError::Shim { name, reason })).await
                }
            };
            if passed.is_break() {
                return;
            }
        }
    }

    async fn pass_on(&mut self, body: Option<reply::Body>) -> ControlFlow<()> {
        match body {
            Some(reply::Body::Output(output)) => {
                let stderr = output.stream() == wire::Stream::Stderr;
                let data = Bytes::from(output.data);
                self.send(Ok(if stderr {
                    Output::Stderr(data)
                } else {
                    Output::Stdout(data)
                }))
                .await?;
                if let (Some(backlog), Some(position)) = (&mut self.backlog, output.position) {
                    backlog.advance(position);
                }
                ControlFlow::Continue(())
            }
            Some(reply::Body::Gap(_)) if self.backlog.is_none() => {
                self.send(Ok(Output::Notice(NOTHING_TO_CATCH_UP_FROM.into())))
                    .await
            }
            Some(reply::Body::Gap(gap)) => {
                let position = gap.position.unwrap_or_default();
                self.catch_up(position, gap.stdout_held, gap.stderr_held).await
            }
            Some(reply::Body::Exit(exit)) => {
                if let Some(position) = exit.position {
                    self.catch_up(position, Vec::new(), Vec::new()).await?;
                }
                self.send_last(Ok(Output::Exit(convert_exit(&exit)))).await
            }
            Some(reply::Body::Notice(words)) => self.send(Ok(Output::Notice(words))).await,
            Some(reply::Body::Failure(failure)) => self.send_last(Err(convert_failure(failure))).await,
            _ => ControlFlow::Continue(()),
        }
    }

    /// Sends what is between the client's position and `target`, at which so much is held back.
    async fn catch_up(&mut self, target: Position, stdout: Vec<u8>, stderr: Vec<u8>) -> ControlFlow<()> {
        let Some(mut backlog) = self.backlog.take() else {
            return ControlFlow::Continue(());
        };
        if let Some(notice) = backlog.refused(&target) {
            self.send(Ok(notice)).await?;
        }
        while let Some(read) = backlog.read(&target).await {
            match read {
                Ok(pieces) => {
                    for piece in pieces {
                        self.send(Ok(piece)).await?;
                    }
                }
                Err(error) => return self.send_last(Err(error)).await,
            }
        }
        for piece in backlog.close(target, stdout, stderr) {
            self.send(Ok(piece)).await?;
        }
        self.backlog = Some(backlog);
        ControlFlow::Continue(())
    }

    /// The connection has ended before the process has, as far as this client was told. A shim that leaves waits for no client; else it was killed.
    async fn without_shim(&mut self) -> ControlFlow<()> {
        let Some(backlog) = &mut self.backlog else {
            return self.send_last(Ok(Output::Notice(CONNECTION_LOST.into()))).await;
        };
        let status = tokio::select! {
            status = backlog.end(END_PATIENCE) => status,
            () = self.to_client.closed() => return ControlFlow::Break(()),
        };
        let target = backlog.end_position(status.as_ref());
        self.catch_up(target, Vec::new(), Vec::new()).await?;
        match status {
            Some(status) if !status.unknown => self.send_last(Ok(Output::Exit(status))).await,
            _ => self.send_last(Ok(Output::Notice(CONNECTION_LOST.into()))).await,
        }
    }

    async fn send(&self, item: Result<Output, ContainersError>) -> ControlFlow<()> {
        match self.to_client.send(item).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    async fn send_last(&self, item: Result<Output, ContainersError>) -> ControlFlow<()> {
        // Whether somebody still listens or not.
        let _last = self.send(item).await;
        ControlFlow::Break(())
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
