//! `croze.v1.Images`.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use croze_engine::{
    ImagesRequest, LayerOrigin, LayerProgress, LayerState, LoginRequest, Operation, PullPhase, PullRequest,
    PullState, Pulled, RemoveImageRequest, TagImageRequest,
};
use croze_model::Digest;
use croze_proto::v1;
use croze_proto::v1::images_server::Images;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::status::refuse;
use crate::{Door, decode, encode};

/// Messages of one pull that wait for the client.
pub(crate) const EVENTS_IN_FLIGHT: usize = 16;
/// Progress is told this often: a layer's bytes change many thousand times a second.
pub(crate) const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What a client was told last of each layer.
pub(crate) type Told = HashMap<Digest, (LayerState, u64)>;

#[tonic::async_trait]
impl Images for Door {
    type PullStream = Pin<Box<dyn Stream<Item = Result<v1::PullEvent, Status>> + Send>>;

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let message = request.into_inner();
        let asked = message.reference.clone();
        let request = PullRequest {
            reference: message.reference,
            platform: decode::given(message.platform),
            credentials: decode::credentials(message.credentials),
            mirror_credentials: message
                .mirror_credentials
                .into_iter()
                .map(|(registry, credentials)| (registry, decode::credentials(Some(credentials))))
                .collect(),
        };
        let operation = self.engine.pull(&request).map_err(refuse)?;
        let (events, stream) = mpsc::channel(EVENTS_IN_FLIGHT);
        tokio::spawn(report(operation, asked, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_sources(
        &self,
        request: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        let registries = self.engine.sources(&request.into_inner().reference);
        Ok(Response::new(v1::ListSourcesResponse {
            registries: registries.map_err(refuse)?,
        }))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let request = ImagesRequest {
            filters: decode::filters(request.into_inner().filters),
        };
        let images = self.engine.list_images(&request).await.map_err(refuse)?;
        Ok(Response::new(v1::ListImagesResponse {
            images: images.iter().map(encode::image).collect(),
        }))
    }

    async fn inspect_image(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageResponse>, Status> {
        let details = self
            .engine
            .inspect_image(&request.into_inner().image)
            .await
            .map_err(refuse)?;
        let sizes = self.engine.layer_sizes(&details.image).await.map_err(refuse)?;
        Ok(Response::new(encode::image_details(&details, &sizes)))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let message = request.into_inner();
        let request = RemoveImageRequest {
            image: message.image,
            force: message.force,
        };
        let removed = self.engine.remove_image(request).await.map_err(refuse)?;
        Ok(Response::new(v1::RemoveImageResponse {
            untagged: removed
                .untagged
                .iter()
                .map(croze_model::Reference::familiar)
                .collect(),
            deleted: removed.deleted.iter().map(ToString::to_string).collect(),
            freed_bytes: removed.bytes_freed,
        }))
    }

    async fn tag_image(
        &self,
        request: Request<v1::TagImageRequest>,
    ) -> Result<Response<v1::TagImageResponse>, Status> {
        let message = request.into_inner();
        let request = TagImageRequest {
            source: message.source,
            target: message.target,
        };
        self.engine.tag_image(request).await.map_err(refuse)?;
        Ok(Response::new(v1::TagImageResponse {}))
    }

    async fn resolve_image(
        &self,
        request: Request<v1::ResolveImageRequest>,
    ) -> Result<Response<v1::ResolveImageResponse>, Status> {
        let text = request.into_inner().image;
        let image = self.engine.resolve_image(&text).await.map_err(refuse)?;
        let reference = text
            .parse()
            .map_or(text, |reference: croze_model::Reference| reference.familiar());
        Ok(Response::new(v1::ResolveImageResponse {
            reference,
            image_id: image.id.to_string(),
            platform: image.platform().to_string(),
        }))
    }

    async fn login(&self, request: Request<v1::LoginRequest>) -> Result<Response<v1::LoginResponse>, Status> {
        let message = request.into_inner();
        let request = LoginRequest {
            server: message.server,
            credentials: decode::credentials(message.credentials),
        };
        let login = self.engine.login(request).await.map_err(refuse)?;
        let identity_token = login.identity_token.map(|token| token.expose().to_owned());
        Ok(Response::new(v1::LoginResponse {
            registry: login.registry,
            identity_token: identity_token.unwrap_or_default(),
            unchecked: login.unchecked,
        }))
    }
}

/// Sends the progress as it changes, then the result. A client that goes away drops the operation, which cancels the pull.
async fn report(
    operation: Operation<PullState, Pulled>,
    asked: String,
    events: mpsc::Sender<Result<v1::PullEvent, Status>>,
) {
    let mut progress = operation.progress();
    let mut told = HashMap::new();
    let result = operation.result();
    tokio::pin!(result);
    let resolving = message(&asked, v1::PullPhase::Resolving, 0, 0);
    if events.send(Ok(event(resolving))).await.is_err() {
        return;
    }
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        let ended = tokio::select! {
            () = events.closed() => return,
            result = &mut result => Some(result),
            _ = tick.tick() => None,
        };
        let state = progress.borrow_and_update().clone();
        for change in changes(&mut told, &state) {
            if events.send(Ok(event(change))).await.is_err() {
                return;
            }
        }
        if let Some(result) = ended {
            events.send(finished(result)).await.ok();
            return;
        }
    }
}

fn finished(result: croze_model::Result<Pulled>) -> Result<v1::PullEvent, Status> {
    let pulled = result.map_err(refuse)?;
    let present = pulled
        .layers
        .iter()
        .filter(|layer| layer.origin != LayerOrigin::Downloaded)
        .count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(v1::PullEvent {
        event: Some(v1::pull_event::Event::Result(v1::PullResult {
            reference: pulled.reference.to_string(),
            digest: pulled.digest.to_string(),
            image_id: pulled.id.to_string(),
            bytes_fetched: pulled.bytes_downloaded,
            bytes_present: pulled.bytes_existing,
            layers_fetched: count(pulled.layers.len() - present),
            layers_present: count(present),
            up_to_date: pulled.up_to_date,
            warnings: pulled.warnings,
        })),
    })
}

/// One message for every layer whose state is not the one that was told last.
pub(crate) fn changes(told: &mut Told, state: &PullState) -> Vec<v1::PullProgress> {
    if state.phase == PullPhase::Resolving {
        return Vec::new();
    }
    let mut messages = Vec::new();
    for layer in &state.layers {
        let now = (layer.state, layer.received);
        if told.insert(layer.digest, now) != Some(now) {
            messages.push(layer_message(layer));
        }
    }
    messages
}

fn layer_message(layer: &LayerProgress) -> v1::PullProgress {
    let phase = match layer.state {
        LayerState::Waiting => v1::PullPhase::Waiting,
        LayerState::Downloading => v1::PullPhase::Fetching,
        LayerState::Unpacking => v1::PullPhase::Unpacking,
        LayerState::Exists => v1::PullPhase::Present,
        LayerState::Done => v1::PullPhase::Done,
    };
    message(&layer.digest.to_string(), phase, layer.received, layer.total)
}

fn message(item: &str, phase: v1::PullPhase, current_bytes: u64, total_bytes: u64) -> v1::PullProgress {
    v1::PullProgress {
        item: item.to_owned(),
        phase: phase.into(),
        current_bytes,
        total_bytes,
    }
}

fn event(progress: v1::PullProgress) -> v1::PullEvent {
    v1::PullEvent {
        event: Some(v1::pull_event::Event::Progress(progress)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told() {
        let layer = |received, state| LayerProgress {
            digest: Digest::of(b"blob"),
            diff_id: Digest::of(b"tar"),
            state,
            received,
            total: 9,
        };
        let state = |received, layer_state| PullState {
            phase: PullPhase::Layers,
            layers: vec![layer(received, layer_state)],
        };
        let mut told = HashMap::new();
        assert_eq!(changes(&mut told, &PullState::default()), []);
        let expected = message(&Digest::of(b"blob").to_string(), v1::PullPhase::Fetching, 3, 9);
        assert_eq!(changes(&mut told, &state(3, LayerState::Downloading)), [expected]);
        assert_eq!(changes(&mut told, &state(3, LayerState::Downloading)), []);
        assert_eq!(changes(&mut told, &state(9, LayerState::Done)).len(), 1);
    }
}
