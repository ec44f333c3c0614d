//! Attach and exec: the first message says what is wanted, the others are input; what comes back are frames.

use std::pin::Pin;

use croze_engine::{AttachRequest, Engine, Input, ProcessStream};
use croze_proto::v1;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::status::refuse;
use crate::{decode, encode, status};

/// Frames to the client.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<v1::StreamFrame, Status>> + Send>>;

/// Attaches to a container.
pub(crate) async fn attach(
    engine: &Engine,
    mut messages: Streaming<v1::AttachRequest>,
) -> Result<Frames, Status> {
    let Some(v1::attach_request::Frame::Start(start)) =
        messages.message().await?.and_then(|message| message.frame)
    else {
        return Err(status::invalid(
            "the first message of an attach must say to which container",
        ));
    };
    let request = AttachRequest {
        container: start.container,
        stdin: start.stdin,
        before_start: start.before_start,
        size: start.size.map(decode::size),
    };
    let (id, tty, stream) = engine.attach(request).await.map_err(refuse)?;
    let ready = v1::Ready {
        id: id.as_str().to_owned(),
        tty,
    };
    Ok(joined(
        ready,
        stream,
        messages,
        |message: v1::AttachRequest| match message.frame? {
            v1::attach_request::Frame::Start(_) => None,
            v1::attach_request::Frame::Stdin(bytes) => Some(Input::Stdin(bytes)),
            v1::attach_request::Frame::CloseStdin(_) => Some(Input::CloseStdin),
            v1::attach_request::Frame::Resize(size) => Some(Input::Resize(decode::size(size))),
        },
    ))
}

/// Runs a process in a container.
pub(crate) async fn exec(
    engine: &Engine,
    mut messages: Streaming<v1::ExecRequest>,
) -> Result<Frames, Status> {
    let Some(v1::exec_request::Frame::Start(start)) =
        messages.message().await?.and_then(|message| message.frame)
    else {
        return Err(status::invalid(
            "the first message of an exec must say what to run",
        ));
    };
    let tty = start.tty;
    let (id, stream) = engine.exec(decode::exec(start)).await.map_err(refuse)?;
    Ok(joined(
        v1::Ready { id, tty },
        stream,
        messages,
        |message: v1::ExecRequest| match message.frame? {
            v1::exec_request::Frame::Start(_) => None,
            v1::exec_request::Frame::Stdin(bytes) => Some(Input::Stdin(bytes)),
            v1::exec_request::Frame::CloseStdin(_) => Some(Input::CloseStdin),
            v1::exec_request::Frame::Resize(size) => Some(Input::Resize(decode::size(size))),
        },
    ))
}

/// Joins a process's streams to a call's: input is pumped by a task that ends with the client's messages, output is the answer.
fn joined<M: Send + 'static>(
    ready: v1::Ready,
    stream: ProcessStream,
    messages: Streaming<M>,
    input: impl Fn(M) -> Option<Input> + Send + 'static,
) -> Frames {
    tokio::spawn(pump(messages, stream.input, input));
    let ready = v1::StreamFrame {
        frame: Some(v1::stream_frame::Frame::Ready(ready)),
    };
    let output = stream.output.map(|item| match item {
        Ok(output) => Ok(encode::frame(output)),
        Err(error) => Err(refuse(error)),
    });
    Box::pin(futures_util::stream::iter([Ok(ready)]).chain(output))
}

/// Passes on input until the client stops sending or the process is gone. A client that only goes away has not closed standard input.
async fn pump<M>(mut messages: Streaming<M>, to: mpsc::Sender<Input>, input: impl Fn(M) -> Option<Input>) {
    loop {
        let message = tokio::select! {
            () = to.closed() => return,
            message = messages.message() => message,
        };
        let Ok(Some(message)) = message else {
            return;
        };
        if let Some(input) = input(message)
            && to.send(input).await.is_err()
        {
            return;
        }
    }
}
