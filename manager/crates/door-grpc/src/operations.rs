//! `croze.v1.Operations`.

use std::collections::HashMap;
use std::pin::Pin;

use croze_engine::{OperationInfo, PullState, Watched};
use croze_model::{Error, ErrorKind};
use croze_proto::v1;
use croze_proto::v1::operations_server::Operations;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::Door;
use crate::images::{EVENTS_IN_FLIGHT, REPORT_EVERY, Told, changes};
use crate::status::{self, refuse};

#[tonic::async_trait]
impl Operations for Door {
    type WatchOperationStream = Pin<Box<dyn Stream<Item = Result<v1::PullProgress, Status>> + Send>>;

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let operations = self.engine.list_operations();
        Ok(Response::new(v1::ListOperationsResponse {
            operations: operations.iter().map(operation).collect(),
        }))
    }

    async fn watch_operation(
        &self,
        request: Request<v1::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let watched = self.engine.watch_operation(&request.into_inner().id);
        let watched = watched.map_err(refuse)?;
        let (events, stream) = mpsc::channel(EVENTS_IN_FLIGHT);
        tokio::spawn(report(watched, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::CancelOperationResponse>, Status> {
        let cancelled = self.engine.cancel_operation(&request.into_inner().id);
        cancelled.map_err(refuse)?;
        Ok(Response::new(v1::CancelOperationResponse {}))
    }
}

fn operation(info: &OperationInfo) -> v1::Operation {
    let (current_bytes, total_bytes) = info.bytes;
    v1::Operation {
        id: info.id.to_string(),
        kind: info.kind.to_owned(),
        subject: info.subject.clone(),
        started: jiff::Timestamp::try_from(info.started)
            .map_or_else(|_| String::new(), |moment| moment.to_string()),
        current_bytes,
        total_bytes,
    }
}

/// Sends the progress as it changes until the operation or its watcher ends. The operation does not notice.
async fn report(mut watched: Watched, events: mpsc::Sender<Result<v1::PullProgress, Status>>) {
    let mut told: Told = HashMap::new();
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        let ended = tokio::select! {
            () = events.closed() => return,
            outcome = watched.outcome.wait_for(Option::is_some) => {
                Some(outcome.map(|outcome| outcome.clone()).ok().flatten())
            }
            _ = tick.tick() => None,
        };
        let state: PullState = watched.progress.borrow_and_update().clone();
        for progress in changes(&mut told, &state) {
            if events.send(Ok(progress)).await.is_err() {
                return;
            }
        }
        let Some(outcome) = ended else { continue };
        let failed = match outcome {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(status::of(&error)),
            None => {
                let gone = "the operation was cancelled: the client that began it has gone";
                Some(refuse(Error::new(ErrorKind::Cancelled, "watch", gone)))
            }
        };
        if let Some(failed) = failed {
            events.send(Err(failed)).await.ok();
        }
        return;
    }
}
