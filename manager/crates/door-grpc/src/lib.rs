//! The gRPC door: decode, call the engine, map the error, encode; nothing else.
//!
//! ```text
//!   croze.v1 message --decode--> engine's request --> Engine --> engine's answer --encode--> croze.v1 message
//!                                                       `--error--> status (one table) + ErrorDetail (everything)
//! ```
//!
//! Beside `croze.v1` it offers server reflection and the health service, which both need nothing of the engine.
//!
//! Invariant: what a client sends is checked here only for being decodable; what it means is the engine's to judge. Not here: sockets and
//! who may use them.
#![forbid(unsafe_code)]

mod containers;
mod decode;
mod encode;
mod images;
mod networks;
mod operations;
mod options;
mod presence;
mod status;
mod streams;
mod system;

use std::future::Future;

use croze_engine::Engine;
use croze_proto::API_DESCRIPTORS;
use croze_proto::v1::containers_server::ContainersServer;
use croze_proto::v1::images_server::ImagesServer;
use croze_proto::v1::networks_server::NetworksServer;
use croze_proto::v1::operations_server::OperationsServer;
use croze_proto::v1::system_server::SystemServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// What serves every service: each module implements one of them.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    engine: Engine,
}

/// Why the door had to close.
pub use tonic::transport::Error as ServeError;

/// Serves the engine on a listening socket until `shutdown` ends, and then until the calls that are under way have ended.
///
/// # Errors
/// If the transport fails as a whole; a failing connection ends alone.
pub async fn serve(
    engine: Engine,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ContainersServer<Door>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(API_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    // Our own descriptors are a constant of the build; without reflection everything else still works.
    let reflection = reflection
        .inspect_err(|error| tracing::error!(%error, "no server reflection"))
        .ok();
    let door = Door { engine };
    Server::builder()
        .add_service(health)
        .add_optional_service(reflection)
        .add_service(ImagesServer::new(door.clone()))
        .add_service(ContainersServer::new(door.clone()))
        .add_service(NetworksServer::new(door.clone()))
        .add_service(OperationsServer::new(door.clone()))
        .add_service(SystemServer::new(door))
        .serve_with_incoming_shutdown(presence::watched(UnixListenerStream::new(listener)), shutdown)
        .await
}
