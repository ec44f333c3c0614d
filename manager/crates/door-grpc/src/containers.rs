//! `croze.v1.Containers`, all but the streams.

use std::pin::Pin;
use std::time::Duration;

use croze_engine::{
    ContainersRequest, KillRequest, LogOptions, LogsRequest, RemoveRequest, ResizeRequest, StartRequest,
    StopRequest, WaitRequest,
};
use croze_proto::v1;
use croze_proto::v1::containers_server::Containers;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::status::refuse;
use crate::{Door, decode, encode, networks, presence, status, streams};

#[tonic::async_trait]
impl Containers for Door {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogEntry, Status>> + Send>>;
    type AttachStream = streams::Frames;
    type ExecStream = streams::Frames;

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let client_gone = presence::gone(&request);
        let mut message = request.into_inner();
        let (network, options) = (
            std::mem::take(&mut message.network),
            message.network_options.take(),
        );
        let request = networks::decode(&self.engine, &network, options, decode::create(message)?)?;
        let created = self
            .engine
            .create_for(request, client_gone)
            .await
            .map_err(refuse)?;
        Ok(Response::new(v1::CreateContainerResponse {
            id: created.id.as_str().to_owned(),
            name: created.name.as_str().to_owned(),
            warnings: created.warnings,
        }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        let request = StartRequest {
            container: request.into_inner().container,
        };
        self.engine.start(request).await.map_err(refuse)?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        let message = request.into_inner();
        let timeout = message
            .timeout_seconds
            .map(|seconds| Duration::from_secs(seconds.into()));
        self.engine
            .stop(StopRequest {
                container: message.container,
                timeout,
                signal: Some(message.signal).filter(|signal| !signal.is_empty()),
            })
            .await
            .map_err(refuse)?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn kill_container(
        &self,
        request: Request<v1::KillContainerRequest>,
    ) -> Result<Response<v1::KillContainerResponse>, Status> {
        let message = request.into_inner();
        self.engine
            .kill(KillRequest {
                container: message.container,
                signal: message.signal,
            })
            .await
            .map_err(refuse)?;
        Ok(Response::new(v1::KillContainerResponse {}))
    }

    async fn wait_container(
        &self,
        request: Request<v1::WaitContainerRequest>,
    ) -> Result<Response<v1::WaitContainerResponse>, Status> {
        let request = WaitRequest {
            container: request.into_inner().container,
        };
        let ended = self.engine.wait(request).await.map_err(refuse)?;
        Ok(Response::new(v1::WaitContainerResponse {
            status: Some(encode::exit_status(&ended)),
        }))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        let message = request.into_inner();
        let request = RemoveRequest {
            container: message.container,
            force: message.force,
        };
        let id = self.engine.remove(request).await.map_err(refuse)?;
        Ok(Response::new(v1::RemoveContainerResponse {
            id: id.as_str().to_owned(),
        }))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let message = request.into_inner();
        let request = ContainersRequest {
            all: message.all,
            limit: usize::try_from(message.limit).ok().filter(|&limit| limit > 0),
            sizes: message.sizes,
            filters: decode::filters(message.filters),
        };
        let listed = self.engine.list_containers(&request).await.map_err(refuse)?;
        let containers = listed
            .iter()
            .map(|listed| {
                let mut summary = encode::listed(listed);
                networks::complete(&self.engine, &listed.container, &mut summary);
                summary
            })
            .collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn inspect_container(
        &self,
        request: Request<v1::InspectContainerRequest>,
    ) -> Result<Response<v1::InspectContainerResponse>, Status> {
        let message = request.into_inner();
        let inspection = self.engine.inspect(&message.container).await.map_err(refuse)?;
        let disk_use = if message.sizes {
            self.engine
                .disk_use(&inspection.container)
                .await
                .map_err(refuse)?
        } else {
            None
        };
        let container = inspection.container.clone();
        let mut response = encode::inspection(inspection);
        if let Some(summary) = &mut response.summary {
            summary.disk_use = disk_use.map(encode::disk_use);
            networks::complete(&self.engine, &container, summary);
        }
        Ok(Response::new(response))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let message = request.into_inner();
        let options = LogOptions {
            follow: message.follow,
            tail: message.tail,
            since: decode::moment(&message.since)?,
            until: decode::moment(&message.until)?,
        };
        let entries = self
            .engine
            .logs(LogsRequest {
                container: message.container,
                options,
            })
            .await
            .map_err(refuse)?;
        Ok(Response::new(Box::pin(
            entries.map(|entry| entry.map(encode::log_entry).map_err(refuse)),
        )))
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        streams::attach(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        streams::exec(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn resize_container(
        &self,
        request: Request<v1::ResizeContainerRequest>,
    ) -> Result<Response<v1::ResizeContainerResponse>, Status> {
        let message = request.into_inner();
        let size = message
            .size
            .map(decode::size)
            .ok_or_else(|| status::invalid("the new size is missing"))?;
        self.engine
            .resize(ResizeRequest {
                container: message.container,
                size,
            })
            .await
            .map_err(refuse)?;
        Ok(Response::new(v1::ResizeContainerResponse {}))
    }
}
