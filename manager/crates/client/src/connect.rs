//! Reaching the daemon.

use std::path::{Path, PathBuf};

use croze_proto::API_VERSION;
use croze_proto::v1::VersionRequest;
use croze_proto::v1::containers_client::ContainersClient;
use croze_proto::v1::images_client::ImagesClient;
use croze_proto::v1::networks_client::NetworksClient;
use croze_proto::v1::operations_client::OperationsClient;
use croze_proto::v1::system_client::SystemClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};

use crate::error::{ConnectFailure, Error};

/// Largest message accepted from the daemon, in bytes: lists and image configurations are small, stream frames smaller.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Where the daemon listens unless told otherwise.
    pub const DEFAULT: &'static str = "unix:///run/croze/croze.sock";

    /// Parses `unix:///path`, or an absolute path alone.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let reason = match text.split_once("://") {
            _ if text.starts_with('/') => return Ok(Self::Unix(PathBuf::from(text))),
            Some(("unix", path)) if path.starts_with('/') => return Ok(Self::Unix(PathBuf::from(path))),
            Some(("unix", _)) | None => "the path of a socket begins with /",
            Some(("tcp" | "http" | "https" | "ssh" | "npipe" | "fd", _)) => {
                "Croze's daemon listens on unix sockets only"
            }
            Some(_) => "only the scheme unix:// is known",
        };
        Err(Error::InvalidEndpoint {
            text: text.to_owned(),
            reason,
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A connection to a daemon. Cheap to clone; calls run side by side on it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects. The version of the API is not asked for: see [`Client::check_version`].
    ///
    /// # Errors
    /// [`Error::Connect`], with the reason told apart.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let Endpoint::Unix(path) = endpoint;
        // A first connection by hand: the transport would bury the reason of a failure in its own errors.
        let first = dial(path).await.map_err(|failure| Error::Connect {
            endpoint: endpoint.to_string(),
            failure,
        })?;
        let channel = channel_over(path.clone(), first);
        Ok(Self { channel })
    }

    /// Asks the daemon for its version of the API and compares.
    ///
    /// # Errors
    /// [`Error::VersionMismatch`], or a failed call.
    pub async fn check_version(&self) -> Result<(), Error> {
        let daemon = self
            .system()
            .version(VersionRequest {})
            .await?
            .into_inner()
            .api_version;
        if daemon == API_VERSION {
            Ok(())
        } else {
            Err(Error::VersionMismatch {
                daemon,
                client: API_VERSION,
            })
        }
    }

    /// The daemon's images.
    #[must_use]
    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// What the daemon is doing for its clients.
    #[must_use]
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    /// The daemon's containers.
    #[must_use]
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Networks.
    #[must_use]
    pub fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The daemon itself.
    #[must_use]
    pub fn system(&self) -> SystemClient<Channel> {
        SystemClient::new(self.channel.clone())
    }
}

async fn dial(path: &Path) -> Result<UnixStream, ConnectFailure> {
    UnixStream::connect(path).await.map_err(ConnectFailure::from_io)
}

/// A channel whose first connection is `first`, and whose later ones (after a daemon's restart) are dialled anew.
fn channel_over(path: PathBuf, first: UnixStream) -> Channel {
    let mut first = Some(first);
    let connector = tower::service_fn(move |_: Uri| {
        let ready = first.take();
        let path = path.clone();
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => UnixStream::connect(&path).await?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    // The URI is a formality of HTTP/2: it names the authority and reaches no resolver.
    tonic::transport::Endpoint::from_static("http://croze.localhost").connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_or_are_refused() {
        for (text, path) in [
            ("unix:///run/croze/croze.sock", Some("/run/croze/croze.sock")),
            ("/tmp/x.sock", Some("/tmp/x.sock")),
            ("tcp://127.0.0.1:2375", None),
            ("unix://relative", None),
            ("", None),
        ] {
            let parsed = Endpoint::parse(text).ok();
            assert_eq!(parsed, path.map(|p| Endpoint::Unix(PathBuf::from(p))), "{text}");
        }
    }

    #[tokio::test]
    async fn failed_connections_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("dead");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        for (path, words) in [
            (dir.path().join("none"), "no such socket"),
            (dead, "nobody listens"),
        ] {
            let error = Client::connect(&Endpoint::Unix(path.clone())).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(words) && text.contains(path.to_str().unwrap()),
                "{text}"
            );
            assert!(error.hint().unwrap().contains("croze daemon"));
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_a_lost_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            // Every connection is accepted and dropped.
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        let client = Client::connect(&Endpoint::Unix(path)).await.unwrap();
        let error = client.check_version().await.unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error:?}");
        server.abort();
    }
}
