//! Requests: redirects, retries, and who asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use croze_model::{Credentials, Secret};
use http::{HeaderValue, StatusCode, header};
use reqwest::{RequestBuilder, Response, Url};

use crate::answer::{in_brackets, is_redirect, is_refusal, is_the_registrys, message, said, said_in, shown};
use crate::auth::Tokens;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, Told};
use crate::hosts::Hosts;
use crate::pace::{Closed, Pace, Rate, Who};
use crate::resting::Resting;
use crate::retry::{self, ATTEMPTS, LONGEST_ASKED};
use crate::times::Times;
use crate::transport::{Clients, is_loopback_url};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// A client of registries. Cheap to clone; connections and tokens are shared. It asks as nobody, unless [`Registry::asking_as`] says as whom.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    credentials: Arc<Credentials>,
    /// What mirrors are shown, by their names.
    for_mirrors: Arc<BTreeMap<String, Credentials>>,
    next: Next,
}

/// Who is asked for the same if a registry fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    /// Nobody: it is worth waiting for.
    #[default]
    Nobody,
    /// Another source of the image: nothing is waited for, and nothing tried twice but a connection that breaks before its answer.
    Another,
}

#[derive(Debug)]
struct Inner {
    times: Times,
    hosts: Hosts,
    clients: Clients,
    tokens: Tokens,
    pace: Pace,
    resting: Resting,
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
        Self::with_times(hosts, Times::default())
    }

    /// A client that does not wait between its tries.
    #[cfg(test)]
    pub(crate) fn impatient(hosts: Hosts) -> Self {
        Self::with_times(hosts, Times::none())
    }

    pub(crate) fn with_times(hosts: Hosts, times: Times) -> Self {
        // Whoever installs a provider first has made the choice for the process; that is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let inner = Inner {
            times,
            hosts,
            clients: Clients::default(),
            tokens: Tokens::default(),
            pace: Pace::default(),
            resting: Resting::default(),
        };
        Self {
            inner: Arc::new(inner),
            credentials: Arc::default(),
            for_mirrors: Arc::default(),
            next: Next::Nobody,
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

    /// The same client with credentials for mirrors, by their names as [`Registry::sources_of`] gives them. A mirror without is asked as nobody.
    #[must_use]
    pub fn showing_mirrors(&self, credentials: BTreeMap<String, Credentials>) -> Self {
        Self {
            for_mirrors: Arc::new(credentials),
            ..self.clone()
        }
    }

    /// The same client for a source that others follow.
    pub(crate) fn with_another_next(self) -> Self {
        Self {
            next: Next::Another,
            ..self
        }
    }

    /// Whether another source is asked if this one fails.
    pub(crate) fn has_another(&self) -> bool {
        self.next == Next::Another
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

    pub(crate) fn times(&self) -> &Times {
        &self.inner.times
    }

    /// The longest time for a manifest.
    pub(crate) fn document_time(&self) -> Duration {
        self.if_none_follows(self.times().document)
    }

    /// A time for what has no other source; less if there is one.
    pub(crate) fn if_none_follows(&self, time: Duration) -> Duration {
        if self.has_another() {
            time.min(self.times().silence)
        } else {
            time
        }
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    /// Which mirrors are passed over.
    pub(crate) fn resting(&self) -> &Resting {
        &self.inner.resting
    }

    /// A server or mirror as this client asks it.
    pub(crate) fn as_asked(&self, server: &str) -> Who {
        Who {
            server: server.to_owned(),
            credentials: self.credentials.clone(),
        }
    }

    /// How fast the registry may be asked.
    pub(crate) fn rate(&self, endpoint: &Endpoint) -> Rate {
        self.hosts()
            .get(&endpoint.registry)
            .map_or_else(Rate::default, |host| host.rate)
    }

    /// How long to wait before the next try after this many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        retry::wait(self.times().first_wait, failures, retry::chance())
    }

    /// The answer to a GET, after tokens, redirects and retries: a success, or 404, or 416.
    pub(crate) async fn get(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        // Who waits because others were told to has not tried; how long that may go on is bounded all the same.
        let mut waited = Duration::ZERO;
        loop {
            let answer = self.once(endpoint, address, ask).await;
            let pause = if self.has_another() {
                (attempt == 1 && broke_unanswered(&answer)).then_some(Duration::ZERO)
            } else {
                self.pause_after(endpoint, &answer, attempt)
            };
            let Some(pause) = pause.filter(|_| attempt < ATTEMPTS) else {
                return self.answer_or_error(endpoint, address, answer?).await;
            };
            tracing::debug!(
                address = shown(address),
                attempt,
                ?pause,
                "the registry is asked again"
            );
            tokio::time::sleep(pause).await;
            match answer {
                Err(RegistryError::TooBusy {
                    told: Told::Before, ..
                }) if waited < LONGEST_ASKED * ATTEMPTS => waited += pause,
                _ => attempt += 1,
            }
        }
    }

    /// How long to wait after an answer that may be a better one the next time.
    fn pause_after(
        &self,
        endpoint: &Endpoint,
        answer: &Result<Response, RegistryError>,
        attempt: u32,
    ) -> Option<Duration> {
        match answer {
            Ok(response) => {
                let status = response.status();
                // A signed address that the registry sent us to may have expired: the registry signs a new one.
                let expired = is_refusal(status) && !is_the_registrys(endpoint, response);
                (retry::is_busy(status) || expired).then(|| self.pause(attempt))
            }
            Err(RegistryError::TooBusy { wait, .. }) => {
                (*wait <= LONGEST_ASKED).then(|| retry::spread(*wait, retry::chance()))
            }
            Err(RegistryError::TokenServer { .. }) => Some(self.pause(attempt)),
            // A refused connection or an unknown host will not get better in a second; a broken one may.
            Err(RegistryError::Unreachable { source, .. }) if !source.is_connect() => {
                Some(self.pause(attempt))
            }
            Err(_) => None,
        }
    }

    /// One request; an answer that says when to come back is an error.
    async fn once(&self, endpoint: &Endpoint, address: &str, ask: &Ask) -> Result<Response, RegistryError> {
        let mut response = self.authorized(endpoint, address, ask).await?;
        match self.closing(endpoint, address, &mut response).await {
            Some(closed) => Err(closed),
            None => Ok(response),
        }
    }

    /// If an answer says that its server wants to be left alone: that, from now on and for everybody who asks it as the same user.
    pub(crate) async fn closing(
        &self,
        endpoint: &Endpoint,
        address: &str,
        response: &mut Response,
    ) -> Option<RegistryError> {
        let wait = retry::wait_asked(response.status(), response.headers(), SystemTime::now())?;
        let server = response.url().origin().ascii_serialization();
        let status = response.status().to_string();
        let said = in_brackets(said(response).await);
        let closed = Closed::after(wait, status, said);
        self.pace().close(self.as_asked(&server), closed.clone());
        Some(too_busy(endpoint, address, wait, Told::Now, closed))
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
        self.pace().request(&endpoint.registry, self.rate(endpoint)).await;
        let mut proof = proof;
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
            if next.origin() != first {
                // For good: where to go from there is another server's choice, also if it is back to the first one.
                proof = None;
            }
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
            .get(url.clone())
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
        self.answered(endpoint, &url, request).await
    }

    /// The answer to a request, unless its server wants to be left alone.
    pub(crate) async fn answered(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let server = url.origin().ascii_serialization();
        if let Some(closed) = self.pace().closed(&self.as_asked(&server)) {
            return Err(too_busy(
                endpoint,
                url.as_str(),
                closed.wait(),
                Told::Before,
                closed,
            ));
        }
        let answer = self.unless_silent(endpoint, url, request.send()).await?;
        answer.map_err(|source| unreachable(endpoint, url.as_str(), source))
    }

    /// What comes from a server; if another source follows, it is not waited for as long as the connection allows.
    pub(crate) async fn unless_silent<T>(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        coming: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        if !self.has_another() {
            return Ok(coming.await);
        }
        let time = self.times().silence;
        let came = tokio::time::timeout(time, coming).await;
        came.map_err(|_| RegistryError::Silent {
            registry: endpoint.registry.clone(),
            address: shown(url.as_str()),
            time,
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
        let body = message(&mut response).await;
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

/// Whether a connection that was there broke before its answer came: one that was kept from an earlier request may have been closed by then,
/// and nothing of that is the server's fault.
fn broke_unanswered(answer: &Result<Response, RegistryError>) -> bool {
    matches!(answer, Err(RegistryError::Unreachable { source, .. })
        if source.is_request() && !source.is_connect() && !source.is_timeout())
}

fn too_busy(endpoint: &Endpoint, address: &str, wait: Duration, told: Told, closed: Closed) -> RegistryError {
    RegistryError::TooBusy {
        registry: endpoint.registry.clone(),
        address: shown(address),
        status: closed.status,
        wait,
        told,
        said: closed.said,
    }
}

fn unreachable(endpoint: &Endpoint, address: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable {
        registry: endpoint.registry.clone(),
        address: shown(address),
        // The message names the address already, and the address may carry a signature that is nobody's business.
        source: source.without_url(),
    }
}

#[cfg(test)]
#[path = "busy_tests.rs"]
mod tests;
