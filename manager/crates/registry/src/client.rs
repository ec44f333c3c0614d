//! Requests: redirects, retries, and who asks.

use std::sync::Arc;
use std::time::Duration;

use croze_model::{Credentials, Secret};
use http::{HeaderValue, StatusCode, header};
use reqwest::{RequestBuilder, Response, Url};

use crate::answer::{
    in_brackets, is_busy, is_redirect, is_refusal, is_the_registrys, retry_after, said_in, shown, small_body,
};
use crate::auth::Tokens;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::hosts::Hosts;
use crate::transport::{Clients, is_loopback_url};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How often a request is tried that the registry was too busy for, or whose connection broke before the answer.
const ATTEMPTS: u32 = 4;
/// The first wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How long a manifest may take to come. It is read whole and has 4 MiB at most.
const DOCUMENT_TIME: Duration = Duration::from_secs(60);
/// The longest wait, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A client of registries. Cheap to clone; connections and tokens are shared. It asks as nobody, unless [`Registry::asking_as`] says as whom.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    credentials: Arc<Credentials>,
}

#[derive(Debug)]
struct Inner {
    /// The first wait between two tries; it doubles.
    first_wait: Duration,
    /// The longest time for a manifest.
    document_time: Duration,
    hosts: Hosts,
    clients: Clients,
    tokens: Tokens,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Hosts::default())
    }
}

/// What is asked for, besides the address.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ask {
    pub(crate) accept: Option<HeaderValue>,
    /// The first byte wanted.
    pub(crate) from: u64,
}

/// What a request proves who asks with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Bearer(Secret),
    Basic { username: String, password: Secret },
}

impl Proof {
    pub(crate) fn put(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token.expose()),
            Self::Basic { username, password } => request.basic_auth(username, Some(password.expose())),
        }
    }
}

impl Registry {
    /// A client; `hosts` says what is special about single registries.
    #[must_use]
    pub fn new(hosts: Hosts) -> Self {
        Self::with_times(hosts, FIRST_WAIT, DOCUMENT_TIME)
    }

    /// A client that does not wait between its tries.
    #[cfg(test)]
    pub(crate) fn impatient(hosts: Hosts) -> Self {
        Self::with_times(hosts, Duration::ZERO, DOCUMENT_TIME)
    }

    pub(crate) fn with_times(hosts: Hosts, first_wait: Duration, document_time: Duration) -> Self {
        // Whoever installs a provider first has made the choice for the process; that is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let inner = Inner {
            first_wait,
            document_time,
            hosts,
            clients: Clients::default(),
            tokens: Tokens::default(),
        };
        Self {
            inner: Arc::new(inner),
            credentials: Arc::default(),
        }
    }

    /// The same client on behalf of somebody: what it fetches is what they may see, and nobody else's tokens are used.
    #[must_use]
    pub fn asking_as(&self, credentials: Credentials) -> Self {
        Self {
            inner: self.inner.clone(),
            credentials: Arc::new(credentials),
        }
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.inner.hosts
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.inner.tokens
    }

    /// The longest time for a manifest.
    pub(crate) fn document_time(&self) -> Duration {
        self.inner.document_time
    }

    /// How long to wait before the next try after this many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.inner
            .first_wait
            .saturating_mul(1 << (failures.clamp(1, 10) - 1))
            .min(MAX_WAIT)
    }

    /// The answer to a GET, after tokens, redirects and retries: a success, or 404, or 416.
    pub(crate) async fn get(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let answer = self.authorized(endpoint, address, ask).await;
            let wait = self.pause(attempt);
            let pause = match &answer {
                Ok(response) if is_busy(response.status()) => retry_after(response.headers()).unwrap_or(wait),
                // A signed address that the registry sent us to may have expired: the registry signs a new one.
                Ok(response) if is_refusal(response.status()) && !is_the_registrys(endpoint, response) => {
                    wait
                }
                Err(RegistryError::TokenServer { .. }) => wait,
                // A refused connection or an unknown host will not get better in a second; a broken one may.
                Err(RegistryError::Unreachable { source, .. }) if !source.is_connect() => wait,
                _ => return self.answer_or_error(endpoint, address, answer?).await,
            };
            if attempt == ATTEMPTS {
                return self.answer_or_error(endpoint, address, answer?).await;
            }
            tracing::debug!(
                address = shown(address),
                attempt,
                ?pause,
                "the registry is asked again"
            );
            tokio::time::sleep(pause.min(MAX_WAIT)).await;
            attempt += 1;
        }
    }

    /// One request and the redirects that follow it. The proof goes nowhere but to the first address' own server.
    pub(crate) async fn redirected(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
        proof: Option<&Proof>,
    ) -> Result<Response, RegistryError> {
        let refused = |reason| RegistryError::Redirect {
            registry: endpoint.registry.clone(),
            address: shown(address),
            reason,
        };
        let mut response = self.send(endpoint, address, ask, proof).await?;
        let first = response.url().origin();
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let next = location
                .and_then(|location| response.url().join(location).ok())
                .ok_or_else(|| refused("to nowhere"))?;
            // Plain text may lead to plain text; HTTPS never leads to it.
            let safe = match next.scheme() {
                "https" => true,
                "http" => response.url().scheme() == "http" && self.may_be_plain(endpoint, &next),
                _ => false,
            };
            if !safe {
                return Err(refused("to an address that is not HTTPS"));
            }
            let proof = proof.filter(|_| next.origin() == first);
            response = self.send(endpoint, next.as_str(), ask, proof).await?;
        }
        if is_redirect(response.status()) {
            Err(refused("too often"))
        } else {
            Ok(response)
        }
    }

    /// Whether a registry that is spoken to without TLS may send us there without TLS: to itself, on this host if it is on this host, and to
    /// what is configured so.
    pub(crate) fn may_be_plain(&self, endpoint: &Endpoint, url: &Url) -> bool {
        if !endpoint.plain {
            return false;
        }
        if is_loopback_url(url) {
            return endpoint.loopback;
        }
        let own = Url::parse(&endpoint.base).is_ok_and(|base| base.host_str() == url.host_str());
        let configured = self.hosts().at(url);
        own || configured.is_some_and(|(_, host)| host.plain_http == Some(true))
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
        proof: Option<&Proof>,
    ) -> Result<Response, RegistryError> {
        let url = Url::parse(address).map_err(|_| RegistryError::Address {
            registry: endpoint.registry.clone(),
            address: shown(address),
        })?;
        let client = self.client(endpoint, &url).await?;
        let mut request = client
            .get(url)
            // Bytes are hashed as they come: a transport encoding would change them.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(accept) = &ask.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if ask.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from));
        }
        if let Some(proof) = proof {
            request = proof.put(request);
        }
        request.send().await.map_err(|source| {
            if source.is_builder() && proof.is_some() {
                // Nothing was sent: the same would happen with every try.
                let reason = "the token for it holds characters that no header can hold";
                return RegistryError::NoToken {
                    registry: endpoint.registry.clone(),
                    reason,
                };
            }
            unreachable(endpoint, address, source)
        })
    }

    pub(crate) async fn client(
        &self,
        endpoint: &Endpoint,
        url: &Url,
    ) -> Result<reqwest::Client, RegistryError> {
        let inner = &self.inner;
        inner.clients.of(&inner.hosts, &endpoint.registry, url).await
    }

    /// Lets successes, 404 and 416 through: their meaning depends on what was asked for.
    async fn answer_or_error(
        &self,
        endpoint: &Endpoint,
        address: &str,
        mut response: Response,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE)
        {
            return Ok(response);
        }
        let own = is_the_registrys(endpoint, &response);
        let address = shown(if own { address } else { response.url().as_str() });
        let body = small_body(&mut response).await;
        // What Go's servers answer, docker-registry among them.
        if own && endpoint.plain && String::from_utf8_lossy(&body).contains("HTTP request to an HTTPS server")
        {
            return Err(RegistryError::WantsTls {
                registry: endpoint.registry.clone(),
                status: status.to_string(),
            });
        }
        let said = said_in(&body);
        if is_refusal(status) && own {
            let reason = said.unwrap_or_else(|| format!("it answered {status}"));
            return Err(self.refused(endpoint, reason));
        }
        Err(RegistryError::Status {
            registry: endpoint.registry.clone(),
            address,
            status: status.to_string(),
            said: in_brackets(said),
        })
    }
}

pub(crate) fn unreachable(endpoint: &Endpoint, address: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable {
        registry: endpoint.registry.clone(),
        address: shown(address),
        // The message names the address already, and the address may carry a signature that is nobody's business.
        source: source.without_url(),
    }
}
