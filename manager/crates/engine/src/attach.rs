//! Streams: attach to a container, run a further process in one.

use std::time::Duration;

use croze_containers::{ExecRequest, Input, Output, ProcessStream, TerminalSize};
use croze_model::{ContainerId, Result};
use futures_util::StreamExt as _;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::engine::{Engine, complete};
use crate::events::Event;
use crate::waiting::WaitingClient;

/// The end of a container is told to its client at the latest after so long, even if its clean-up hangs.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);

/// Connects to a container's streams.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// Connect standard input.
    pub stdin: bool,
    /// The caller is about to start the container.
    pub before_start: bool,
    /// The terminal's size, for the program to find when it starts.
    pub size: Option<TerminalSize>,
}

/// Runs a further process in a running container.
#[derive(Debug, Clone)]
pub struct ExecContainerRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// What to run.
    pub exec: ExecRequest,
}

impl Engine {
    /// Connects to a container's streams; gives its id, whether it has a terminal, and the streams. The end is told when the container has
    /// ended and, if it removes itself, is gone. A container that was prepared for a client that goes away without starting it is taken
    /// back to where it was; one that removes itself is removed.
    ///
    /// # Errors
    /// `Conflict` if it does not run and is not about to; what `start` fails with, as all but the command's execution is done here.
    pub async fn attach(&self, request: AttachRequest) -> Result<(ContainerId, bool, ProcessStream)> {
        let id = self.containers().resolve(&request.container)?;
        // Before anything can end.
        let events = self.events();
        let waiting = if request.before_start {
            // From before it is prepared, so that it is taken back whatever fails here or is dropped.
            let client = WaitingClient::new(self, &id);
            self.prepare(&id).await?;
            Some(client)
        } else {
            None
        };
        let container = self.containers().get(&id)?;
        let stream = self.containers().attach(&id, request.stdin).await?;
        if let Some(size) = request.size.filter(|_| container.request.io.tty) {
            // A process that has ended has no use for it.
            stream.input.send(Input::Resize(size)).await.ok();
        }
        let ends = EndWatch {
            engine: self.clone(),
            id: id.clone(),
            auto_remove: container.request.auto_remove,
            events,
            _waiting: waiting,
        };
        Ok((id, container.request.io.tty, ends.over(stream)))
    }

    /// Brings a container to the point where only its command is to be executed, so that attached clients miss nothing.
    async fn prepare(&self, id: &ContainerId) -> Result<()> {
        let (engine, id) = (self.clone(), id.clone());
        complete(async move {
            let _lock = engine.locks().lock(&id).await;
            if engine.containers().get(&id)?.state.is_running() {
                // There is nothing to wait for.
                engine.waiting().over(&id);
                return Ok(());
            }
            let result = engine.prepare_locked(&id).await.map(drop);
            let result = result.map_err(|error| engine.name_full_disk(error));
            if result.is_err() {
                engine.waiting().over(&id);
                engine.settle(&id).await;
            }
            result
        })
        .await
    }

    /// Runs a further process; gives its id and its streams when it runs.
    ///
    /// # Errors
    /// `Conflict` if the container does not run; `CommandNotFound`, `CommandNotExecutable`.
    pub async fn exec(&self, request: ExecContainerRequest) -> Result<(String, ProcessStream)> {
        let id = self.containers().resolve(&request.container)?;
        Ok(self.containers().exec(&id, request.exec).await?)
    }
}

/// Holds back the end of a container's stream until the daemon has dealt with it, so that what the user does next finds it settled.
struct EndWatch {
    engine: Engine,
    id: ContainerId,
    auto_remove: bool,
    events: broadcast::Receiver<Event>,
    /// Dropped with the stream: then a container that was only prepared for it is taken back.
    _waiting: Option<WaitingClient>,
}

impl EndWatch {
    fn over(self, stream: ProcessStream) -> ProcessStream {
        let ProcessStream { input, output } = stream;
        let state = (output, Some(self));
        let output = futures_util::stream::unfold(state, |(mut output, mut watch)| async move {
            let item = output.next().await?;
            if matches!(item, Ok(Output::Exit(_)))
                && let Some(watch) = watch.take()
            {
                watch.settled().await;
            }
            Some((item, (output, watch)))
        });
        ProcessStream {
            input,
            output: output.boxed(),
        }
    }

    async fn settled(mut self) {
        let last = if self.auto_remove { "destroy" } else { "die" };
        let heard = async {
            loop {
                match self.events.recv().await {
                    Ok(event) if event.id == self.id.as_str() && event.action == last => return,
                    Ok(_) => {}
                    // Events were missed: what can be asked is asked instead.
                    Err(RecvError::Lagged(_)) => {
                        if self
                            .engine
                            .containers()
                            .get(&self.id)
                            .is_ok_and(|c| self.auto_remove || c.state.is_running())
                        {
                            continue;
                        }
                        return;
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        };
        if tokio::time::timeout(SETTLE_PATIENCE, heard).await.is_err() {
            tracing::warn!(
                container = self.id.short(),
                "the end of a container is told before it is cleaned up"
            );
        }
    }
}
