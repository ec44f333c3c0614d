//! Requests: redirects, retries, and who asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use croze_model::{Credentials, Secret};
use http::{HeaderValue, StatusCode, header};
use reqwest::{RequestBuilder, Response, Url};

use crate::answer::{in_brackets, is_redirect, is_refusal, is_the_registrys, said_in, shown, small_body};
use crate::auth::Tokens;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::hosts::Hosts;
use crate::pace::{Pace, Rate};
use crate::retry::{self, ATTEMPTS, Busy, FIRST_WAIT};
use crate::sources::Unreached;
use crate::transport::{Clients, is_loopback_url};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How long a manifest may take to come. It is read whole and has 4 MiB at most.
const DOCUMENT_TIME: Duration = Duration::from_secs(60);

/// A client of registries. Cheap to clone; connections and tokens are shared. It asks as nobody, unless [`Registry::asking_as`] says as whom.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    credentials: Arc<Credentials>,
    /// What mirrors are shown, by their registries' names.
    for_mirrors: Arc<BTreeMap<String, Credentials>>,
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
    pace: Pace,
    unreached: Unreached,
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
            pace: Pace::default(),
            unreached: Unreached::default(),
        };
        Self {
            inner: Arc::new(inner),
            credentials: Arc::default(),
            for_mirrors: Arc::default(),
        }
    }

    /// The same client on behalf of somebody: what it fetches is what they may see, and nobody else's tokens are used.
    #[must_use]
    pub fn asking_as(&self, credentials: Credentials) -> Self {
        Self {
            credentials: Arc::new(credentials),
            ..self.clone()
        }
    }

    /// The same client with credentials for mirrors, by their registries' names. A mirror without is asked as nobody.
    #[must_use]
    pub fn showing_mirrors(&self, credentials: BTreeMap<String, Credentials>) -> Self {
        Self {
            for_mirrors: Arc::new(credentials),
            ..self.clone()
        }
    }

    pub(crate) fn for_mirrors(&self) -> &BTreeMap<String, Credentials> {
        &self.for_mirrors
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

    pub(crate) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    /// Which mirrors could not be reached.
    pub(crate) fn unreached(&self) -> &Unreached {
        &self.inner.unreached
    }

    /// How fast the registry may be asked.
    pub(crate) fn rate(&self, endpoint: &Endpoint) -> Rate {
        self.hosts()
            .get(&endpoint.registry)
            .map_or_else(Rate::default, |host| host.rate)
    }

    /// How long to wait before the next try after this many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        retry::wait(self.inner.first_wait, failures, retry::chance())
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
            self.pace().request(&endpoint.registry, self.rate(endpoint)).await;
            let answer = self.authorized(endpoint, address, ask).await;
            let again = match &answer {
                Ok(response) => match Busy::of(response.status(), response.headers(), SystemTime::now()) {
                    Some(busy) => Some(busy),
                    // A signed address that the registry sent us to may have expired: the registry signs a new one.
                    None if is_refusal(response.status()) && !is_the_registrys(endpoint, response) => {
                        Some(Busy::Soon)
                    }
                    None => None,
                },
                Err(RegistryError::TokenServer { .. }) => Some(Busy::Soon),
                // A refused connection or an unknown host will not get better in a second; a broken one may.
                Err(RegistryError::Unreachable { source, .. }) if !source.is_connect() => Some(Busy::Soon),
                Err(_) => None,
            };
            let pause = match again {
                Some(Busy::Soon) if attempt < ATTEMPTS => self.pause(attempt),
                Some(Busy::After(asked)) if attempt < ATTEMPTS => {
                    // Whoever else asks it now would be told the same.
                    self.pace().leave_alone(&endpoint.registry, asked);
                    retry::spread(asked, retry::chance())
                }
                Some(Busy::TooLong(asked)) => {
                    return Err(self.too_busy(endpoint, address, answer?, asked).await);
                }
                _ => return self.answer_or_error(endpoint, address, answer?).await,
            };
            tracing::debug!(
                address = shown(address),
                attempt,
                ?pause,
                "the registry is asked again"
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// The error for a registry that wants to be left alone for long.
    async fn too_busy(
        &self,
        endpoint: &Endpoint,
        address: &str,
        mut response: Response,
        asked: Duration,
    ) -> RegistryError {
        RegistryError::TooBusy {
            registry: endpoint.registry.clone(),
            address: shown(address),
            status: response.status().to_string(),
            seconds: asked.as_secs(),
            said: in_brackets(said_in(&small_body(&mut response).await)),
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
