//! Requests: tokens, redirects, retries, and what an answer means.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Response, Url, redirect};
use serde::Deserialize;

use crate::auth::{Challenge, TokenAnswer, Tokens};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registry may stay silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How often a request is tried that the registry was too busy for, or whose connection broke before the answer.
const ATTEMPTS: u32 = 4;
/// The first wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How much of an error's body is read for its message, and of a realm's answer.
const MAX_SMALL_BODY: u64 = 64 * 1024;

/// A client of registries. Cheap to clone; connections and tokens are shared.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The first wait between two tries; it doubles.
    first_wait: Duration,
    /// For the world: HTTPS, through the system's proxy if there is one. Made when first needed, because reading the system's certificates
    /// takes time and may fail where no registry but a local one is used.
    remote: OnceLock<reqwest::Client>,
    /// For this host: no proxy.
    local: OnceLock<reqwest::Client>,
    tokens: Tokens,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// What is asked for, besides the address.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ask {
    pub(crate) accept: Option<HeaderValue>,
    /// The first byte wanted.
    pub(crate) from: u64,
}

impl Registry {
    /// A client.
    #[must_use]
    pub fn new() -> Self {
        Self::with_first_wait(FIRST_WAIT)
    }

    /// A client that does not wait between its tries.
    #[cfg(test)]
    pub(crate) fn impatient() -> Self {
        Self::with_first_wait(Duration::ZERO)
    }

    fn with_first_wait(first_wait: Duration) -> Self {
        // Whoever installs a provider first has made the choice for the process; that is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let inner = Inner {
            first_wait,
            remote: OnceLock::new(),
            local: OnceLock::new(),
            tokens: Tokens::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
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
                _ => return answer_or_error(endpoint, address, answer?).await,
            };
            if attempt == ATTEMPTS {
                return answer_or_error(endpoint, address, answer?).await;
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

    /// One request, with a token if the registry wants one.
    async fn authorized(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
    ) -> Result<Response, RegistryError> {
        let token = self
            .inner
            .tokens
            .get(&endpoint.base, &endpoint.repository, Instant::now());
        let response = self.redirected(endpoint, address, ask, token.as_deref()).await?;
        // What another server asks for is none of the registry's tokens' business (CVE-2020-15157).
        if response.status() != StatusCode::UNAUTHORIZED || !is_the_registrys(endpoint, &response) {
            return Ok(response);
        }
        let token = self.token(endpoint, response.headers()).await?;
        self.redirected(endpoint, address, ask, Some(&token)).await
    }

    /// One request and the redirects that follow it. The token goes to the first address only.
    async fn redirected(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
        token: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let refused = |reason| RegistryError::Redirect {
            registry: endpoint.registry.clone(),
            address: shown(address),
            reason,
        };
        let mut response = self.send(endpoint, address, ask, token).await?;
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
            let safe = match next.scheme() {
                "https" => true,
                // Plain text may lead to plain text on this host; HTTPS never leads to it.
                "http" => endpoint.loopback && response.url().scheme() == "http" && is_loopback_url(&next),
                _ => false,
            };
            if !safe {
                return Err(refused("to an address that is not HTTPS"));
            }
            response = self.send(endpoint, next.as_str(), ask, None).await?;
        }
        if is_redirect(response.status()) {
            Err(refused("too often"))
        } else {
            Ok(response)
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
        token: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let local = Url::parse(address).is_ok_and(|url| is_loopback_url(&url));
        let mut request = self
            .http(endpoint, local)
            .await?
            .get(address)
            // Bytes are hashed as they come: a transport encoding would change them.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(accept) = &ask.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if ask.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from));
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|source| RegistryError::Unreachable {
            registry: endpoint.registry.clone(),
            address: shown(address),
            // The message names the address already, and the address may carry a signature that is nobody's business.
            source: source.without_url(),
        })
    }

    async fn token(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<String, RegistryError> {
        let refused = |reason: &str| RegistryError::Unauthorized {
            registry: endpoint.registry.clone(),
            repository: endpoint.repository.clone(),
            reason: reason.to_owned(),
        };
        let challenge = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Challenge::parse)
            .ok_or_else(|| refused("it wants a user name and password"))?;
        let mut realm =
            Url::parse(&challenge.realm).map_err(|_| refused("it names no usable token server"))?;
        if realm.scheme() != "https" && !(endpoint.loopback && is_loopback_url(&realm)) {
            return Err(refused("its token server is not HTTPS"));
        }
        let scope = challenge
            .scope
            .unwrap_or_else(|| format!("repository:{}:pull", endpoint.repository));
        realm.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = &challenge.service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let mut response = self
            .redirected(endpoint, realm.as_str(), &Ask::default(), None)
            .await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            // It says nothing about the repository.
            return Err(RegistryError::TokenServer {
                registry: endpoint.registry.clone(),
                address: shown(realm.as_str()),
                status: status.to_string(),
            });
        }
        if !status.is_success() {
            return Err(refused(&format!("its token server answered {status}")));
        }
        let body = small_body(&mut response).await;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| refused("its token server's answer is malformed"))?;
        self.inner
            .tokens
            .put(&endpoint.base, &endpoint.repository, answer, Instant::now())
            .ok_or_else(|| refused("its token server gave no token"))
    }

    async fn http(&self, endpoint: &Endpoint, local: bool) -> Result<reqwest::Client, RegistryError> {
        let cell = if local {
            &self.inner.local
        } else {
            &self.inner.remote
        };
        if let Some(client) = cell.get() {
            return Ok(client.clone());
        }
        // Reads the system's certificates from their files.
        let built = tokio::task::spawn_blocking(move || build_client(local)).await;
        let failed = |source| RegistryError::Client {
            registry: endpoint.registry.clone(),
            source,
        };
        let client = match built {
            Ok(built) => built.map_err(failed)?,
            // The thread panicked or the runtime is going down: build it here, which then fails or works for itself.
            Err(_) => build_client(local).map_err(failed)?,
        };
        Ok(cell.get_or_init(|| client).clone())
    }
}

fn build_client(local: bool) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("croze/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE)
        // Followed by hand, so that credentials stay here.
        .redirect(redirect::Policy::none());
    if local {
        builder.no_proxy().tls_certs_only([]).build()
    } else {
        builder.build()
    }
}

fn is_loopback_url(url: &Url) -> bool {
    url.host_str().is_some_and(crate::endpoint::is_loopback)
}

/// Whether an answer comes from the registry itself, and not from where it redirected to.
fn is_the_registrys(endpoint: &Endpoint, response: &Response) -> bool {
    Url::parse(&endpoint.base).is_ok_and(|base| base.origin() == response.url().origin())
}

/// An address as it is shown: what follows the path may be a signature that lets everybody in who reads it.
fn shown(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else {
        return address.split(['?', '#']).next().unwrap_or_default().to_owned();
    };
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for addresses that can have neither.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return url.scheme().to_owned();
    }
    url.to_string()
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// Lets successes, 404 and 416 through: their meaning depends on what was asked for.
async fn answer_or_error(
    endpoint: &Endpoint,
    address: &str,
    mut response: Response,
) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE) {
        return Ok(response);
    }
    let own = is_the_registrys(endpoint, &response);
    let address = shown(if own { address } else { response.url().as_str() });
    let said = said(&mut response).await;
    if is_refusal(status) && own {
        return Err(RegistryError::Unauthorized {
            registry: endpoint.registry.clone(),
            repository: endpoint.repository.clone(),
            reason: said.unwrap_or_else(|| format!("it answered {status}")),
        });
    }
    Err(RegistryError::Status {
        registry: endpoint.registry.clone(),
        address,
        status: status.to_string(),
        said: in_brackets(said),
    })
}

/// A registry's message, as it follows ours.
pub(crate) fn in_brackets(said: Option<String>) -> String {
    said.map(|said| format!(" ({said})")).unwrap_or_default()
}

/// What an error's body says (distribution specification, "Error Codes").
pub(crate) async fn said(response: &mut Response) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    let body = small_body(response).await;
    let item = serde_json::from_slice::<Body>(&body)
        .ok()?
        .errors
        .into_iter()
        .next()?;
    let text = item.message.filter(|message| !message.is_empty()).or(item.code)?;
    // It is shown on a terminal: nothing but plain text, and not much of it.
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// The beginning of a body, as much as came.
async fn small_body(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() as u64 > MAX_SMALL_BODY {
            break;
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_lets_one_in() {
        for (address, expected) in [
            (
                "https://cdn.example/a/b?X-Amz-Signature=secret#x",
                "https://cdn.example/a/b",
            ),
            ("https://user:secret@r.example/v2/", "https://r.example/v2/"),
            ("https://r.example/v2/a", "https://r.example/v2/a"),
            ("no address?secret", "no address"),
        ] {
            assert_eq!(shown(address), expected);
        }
    }
}
