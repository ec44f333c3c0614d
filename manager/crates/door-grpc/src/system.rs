//! `croze.v1.System`.

use std::pin::Pin;

use croze_engine::{Event, EventsRequest, HostCheck, Told, Verdict};
use croze_proto::v1::system_server::System;
use croze_proto::{API_VERSION, v1};
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::status::refuse;
use crate::{Door, decode};

#[tonic::async_trait]
impl System for Door {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        let version = self.engine.version();
        Ok(Response::new(v1::VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: API_VERSION,
            os: version.platform.os.clone(),
            architecture: version.platform.architecture.clone(),
            kernel: version.kernel,
            runtime_version: version.runtime,
        }))
    }

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let info = self.engine.info().await.map_err(refuse)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Response::new(v1::InfoResponse {
            containers: count(info.containers),
            containers_running: count(info.running),
            containers_stopped: count(info.containers - info.running),
            images: count(info.images),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: info.root,
            run_root: info.run_root,
            runtime: info.runtime,
            cgroup_version: info.cgroup_version.to_owned(),
            kernel: info.kernel,
            operating_system: info.operating_system,
            architecture: info.platform.architecture.clone(),
            cpus: count(info.cpus),
            memory_bytes: info.memory_bytes,
            hostname: info.hostname,
            snapshotter: info.snapshotter.to_owned(),
            warnings: info.warnings,
            checks: info.checks.into_iter().map(check).collect(),
        }))
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let message = request.into_inner();
        let request = EventsRequest {
            since: decode::given(message.since),
            until: decode::given(message.until),
            filters: decode::filters(message.filters),
        };
        let told = self.engine.listen(&request).map_err(refuse)?;
        let events = told.map(|told| {
            Ok(match told {
                Told::Event(event) => encoded(event),
                Told::Lost(count) => lost(count),
            })
        });
        Ok(Response::new(Box::pin(events)))
    }
}

fn encoded(event: Event) -> v1::Event {
    v1::Event {
        time: event.time.to_string(),
        kind: event.kind.as_str().to_owned(),
        action: event.action.to_owned(),
        id: event.id,
        attributes: event.attributes.into_iter().collect(),
    }
}

fn check(check: HostCheck) -> v1::HostCheck {
    let verdict = match check.verdict {
        Verdict::Ok => v1::HostVerdict::Ok,
        Verdict::Partly => v1::HostVerdict::Partly,
        Verdict::Missing => v1::HostVerdict::Missing,
    };
    v1::HostCheck {
        name: check.name.to_owned(),
        verdict: verdict.into(),
        detail: check.detail,
        hint: check.hint,
    }
}

/// What a client that was too slow is told.
fn lost(count: u64) -> v1::Event {
    v1::Event {
        kind: "daemon".to_owned(),
        action: "lost".to_owned(),
        attributes: [("count".to_owned(), count.to_string())].into(),
        ..v1::Event::default()
    }
}
