//! Who asks: challenges answered, tokens fetched, logins verified.
//!
//! ```text
//!   request with what proved good before --401--> challenge of the registry itself
//!        Basic   -> user and password, to the registry
//!        Bearer  -> a token from the realm: GET with user and password, or POST with the identity token (OAuth 2), or GET as nobody
//!   request with the new proof --401--> the error says who was refused, and what to do
//! ```
//!
//! A token that expires in the middle of a pull is a 401 like any other: the next request fetches a new one.
//!
//! Invariants: credentials go to the registry and to the realm it names, never along a redirect to another server, and to a realm without TLS
//! only if the registry itself is spoken to without TLS.

use std::time::{Duration, Instant};

use croze_model::{Credentials, Reference, Result, Secret};
use http::{HeaderMap, StatusCode, header};
use reqwest::{Response, Url};

use crate::answer::{in_brackets, is_refusal, is_the_registrys, said, shown, small_body};
use crate::auth::{Bearer, Challenge, TokenAnswer, is_token};
use crate::client::{Ask, Proof, Registry};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::retry::is_busy;

/// The name under which this client asks for tokens.
const CLIENT_ID: &str = "croze";

/// How long a token may take to come, once the answer began.
const TOKEN_TIME: Duration = Duration::from_secs(30);

/// What a token is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To read the endpoint's repository.
    Pull,
    /// To see whether the credentials are good, and to get something that can be kept instead of a password.
    Login,
}

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// The registry's name, as references name it.
    pub registry: String,
    /// What is to be kept instead of the password, where the registry gives that.
    pub identity_token: Option<Secret>,
    /// The registry lets everybody in and has not looked at the credentials: they may be wrong.
    pub unchecked: bool,
}

impl Registry {
    /// Asks the registry `server` (`host[:port]`) whether it takes the credentials.
    ///
    /// # Errors
    /// `Unauthenticated` if it does not, `Unavailable` if it cannot be reached, `InvalidArgument` if this is no registry's name.
    pub async fn login(&self, server: &str) -> Result<LoggedIn> {
        Ok(self.verify(server).await?)
    }

    async fn verify(&self, server: &str) -> Result<LoggedIn, RegistryError> {
        let registry = Reference::registry_of(server)
            .ok_or_else(|| RegistryError::Name {
                name: server.chars().take(200).collect(),
            })?
            .to_owned();
        let endpoint = Endpoint::of_registry(&registry, self.hosts());
        let address = endpoint.root_url();
        let ask = Ask::default();
        let mut first = self.redirected(&endpoint, &address, &ask, None).await?;
        if first.status().is_success() {
            return Ok(LoggedIn {
                registry,
                identity_token: None,
                unchecked: true,
            });
        }
        if let Some(closed) = self.closing(&endpoint, &address, &mut first).await {
            return Err(closed);
        }
        if is_busy(first.status()) {
            return Err(status_error(&endpoint, &address, &mut first).await);
        }
        if first.status() != StatusCode::UNAUTHORIZED {
            return Err(RegistryError::NoRegistry {
                registry,
                address: shown(&address),
                status: first.status().to_string(),
            });
        }
        // What another server asks for is none of these credentials' business, here no more than in a pull.
        if !is_the_registrys(&endpoint, &first) {
            return Err(RegistryError::LoginElsewhere {
                registry,
                server: first.url().origin().ascii_serialization(),
            });
        }
        let challenge = self.challenge(&endpoint, first.headers())?;
        let (proof, identity_token) = match (challenge, self.credentials()) {
            (Challenge::Basic, _) => (self.basic(&endpoint)?, None),
            // It is what a token server would give: the registry is shown it as it is.
            (Challenge::Bearer(_), Credentials::Registry { token }) => (usable(&endpoint, token)?, None),
            (Challenge::Bearer(bearer), _) => {
                let answer = self.token(&endpoint, &bearer, Purpose::Login).await?;
                let token = answer.token().ok_or_else(|| no_token(&endpoint))?;
                (Proof::Bearer(token), answer.identity_token())
            }
        };
        let mut second = self.redirected(&endpoint, &address, &ask, Some(&proof)).await?;
        let status = second.status();
        if let Some(closed) = self.closing(&endpoint, &address, &mut second).await {
            return Err(closed);
        }
        if !is_refusal(status) && !status.is_success() {
            return Err(status_error(&endpoint, &address, &mut second).await);
        }
        if !status.is_success() {
            let reason = said(&mut second)
                .await
                .unwrap_or_else(|| format!("it answered {status}"));
            return Err(self.wrong(&endpoint, reason));
        }
        Ok(LoggedIn {
            registry,
            identity_token,
            unchecked: false,
        })
    }

    /// One request, with a proof of who asks if the registry wants one.
    pub(crate) async fn authorized(
        &self,
        endpoint: &Endpoint,
        address: &str,
        ask: &Ask,
    ) -> Result<Response, RegistryError> {
        let known = self.known(endpoint)?;
        let response = self.redirected(endpoint, address, ask, known.as_ref()).await?;
        // What another server asks for is none of the registry's credentials' business (CVE-2020-15157).
        if response.status() != StatusCode::UNAUTHORIZED || !is_the_registrys(endpoint, &response) {
            return Ok(response);
        }
        let challenge = self.challenge(endpoint, response.headers())?;
        let proof = match &challenge {
            Challenge::Basic => self.basic(endpoint)?,
            Challenge::Bearer(_) if matches!(self.credentials(), Credentials::Registry { .. }) => {
                return Ok(response);
            }
            Challenge::Bearer(bearer) => {
                let answer = self.token(endpoint, bearer, Purpose::Pull).await?;
                self.tokens()
                    .put(
                        &endpoint.base,
                        &endpoint.repository,
                        self.credentials(),
                        &answer,
                        Instant::now(),
                    )
                    .ok_or_else(|| no_token(endpoint))?
            }
        };
        let mut response = self.redirected(endpoint, address, ask, Some(&proof)).await?;
        let refused = response.status() == StatusCode::UNAUTHORIZED && is_the_registrys(endpoint, &response);
        match (&challenge, refused) {
            (Challenge::Basic, true) => {
                let reason = said(&mut response).await;
                Err(self.wrong(
                    endpoint,
                    reason.unwrap_or_else(|| "it asks for it again".to_owned()),
                ))
            }
            (Challenge::Basic, false) => {
                let (base, repository) = (&endpoint.base, &endpoint.repository);
                self.tokens()
                    .put_lasting(base, repository, self.credentials(), proof, Instant::now());
                Ok(response)
            }
            // The token is good, but not for this: what the answer says is told by who reads it.
            (Challenge::Bearer(_), _) => Ok(response),
        }
    }

    /// What is sent at once, because it was good before or is said to be.
    fn known(&self, endpoint: &Endpoint) -> Result<Option<Proof>, RegistryError> {
        if let Credentials::Registry { token } = self.credentials() {
            return usable(endpoint, token).map(Some);
        }
        let (base, repository) = (&endpoint.base, &endpoint.repository);
        let tokens = self.tokens();
        Ok(tokens.get(base, repository, self.credentials(), Instant::now()))
    }

    fn challenge(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<Challenge, RegistryError> {
        headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Challenge::parse)
            .ok_or_else(|| cannot_ask(endpoint, "it does not say how it wants to be asked"))
    }

    fn basic(&self, endpoint: &Endpoint) -> Result<Proof, RegistryError> {
        match self.credentials() {
            Credentials::Password { username, password } => Ok(Proof::Basic {
                username: username.clone(),
                password: password.clone(),
            }),
            Credentials::Anonymous => {
                Err(self.refused(endpoint, "it wants a user name and password".to_owned()))
            }
            Credentials::Identity { .. } | Credentials::Registry { .. } => {
                Err(self.wrong(endpoint, "it wants a password, and there is a token".to_owned()))
            }
        }
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        bearer: &Bearer,
        purpose: Purpose,
    ) -> Result<TokenAnswer, RegistryError> {
        let realm =
            Url::parse(&bearer.realm).map_err(|_| cannot_ask(endpoint, "it names no usable token server"))?;
        if realm.scheme() != "https" && !(realm.scheme() == "http" && self.may_be_plain(endpoint, &realm)) {
            return Err(cannot_ask(endpoint, "its token server is not HTTPS"));
        }
        let scope = match (&bearer.scope, purpose) {
            (Some(scope), _) => Some(scope.clone()),
            (None, Purpose::Pull) => Some(format!("repository:{}:pull", endpoint.repository)),
            (None, Purpose::Login) => None,
        };
        let mut response = match self.credentials() {
            Credentials::Identity { token, .. } => {
                self.refresh(endpoint, &realm, bearer, scope.as_deref(), token)
                    .await?
            }
            credentials => {
                let address = token_address(&realm, bearer, scope.as_deref(), credentials, purpose);
                let proof = match credentials {
                    Credentials::Password { username, password } => Some(Proof::Basic {
                        username: username.clone(),
                        password: password.clone(),
                    }),
                    _ => None,
                };
                self.redirected(endpoint, address.as_str(), &Ask::default(), proof.as_ref())
                    .await?
            }
        };
        let status = response.status();
        if let Some(closed) = self.closing(endpoint, realm.as_str(), &mut response).await {
            return Err(closed);
        }
        if status.is_server_error() || is_busy(status) {
            // It says nothing about the repository.
            return Err(RegistryError::TokenServer {
                registry: endpoint.registry.clone(),
                address: shown(realm.as_str()),
                status: status.to_string(),
            });
        }
        if !status.is_success() {
            let reason = match said(&mut response).await {
                Some(said) => format!("its token server answered {status} ({said})"),
                None => format!("its token server answered {status}"),
            };
            // Whoever asks as nobody, or is known but may not, has no wrong password.
            let unknown = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST);
            return Err(if unknown && !self.credentials().is_anonymous() {
                self.wrong(endpoint, reason)
            } else {
                self.refused(endpoint, reason)
            });
        }
        let (begun, time) = (Instant::now(), self.if_none_follows(TOKEN_TIME));
        let body = small_body(&mut response, time).await;
        serde_json::from_slice(&body).map_err(|_| {
            if begun.elapsed() < time {
                return cannot_ask(endpoint, "its token server's answer is malformed");
            }
            RegistryError::Slow {
                what: format!("the token for registry {}", endpoint.registry),
                address: realm.origin().ascii_serialization(),
                seconds: time.as_secs(),
            }
        })
    }

    /// Gets a token for an identity token (RFC 6749, section 6). A redirect is not followed: the token is in the body.
    async fn refresh(
        &self,
        endpoint: &Endpoint,
        realm: &Url,
        bearer: &Bearer,
        scope: Option<&str>,
        token: &Secret,
    ) -> Result<Response, RegistryError> {
        let mut form = realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", bearer.service.as_deref().unwrap_or_default())
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", scope.unwrap_or_default())
            .append_pair("refresh_token", token.expose());
        let body = form.query().unwrap_or_default().to_owned();
        let request = self
            .client(endpoint, realm)
            .await?
            .post(realm.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        self.pace().request(&endpoint.registry, self.rate(endpoint)).await;
        self.answered(endpoint, realm, request).await
    }

    /// The registry does not give this to whoever asks.
    pub(crate) fn refused(&self, endpoint: &Endpoint, reason: String) -> RegistryError {
        let registry = endpoint.registry.clone();
        let repository = endpoint.repository.clone();
        if self.credentials().is_anonymous() {
            RegistryError::NoCredentials {
                registry,
                repository,
                reason,
            }
        } else {
            RegistryError::Denied {
                registry,
                repository,
                who: self.credentials().who(),
                reason,
            }
        }
    }

    /// The registry does not believe whoever asks.
    fn wrong(&self, endpoint: &Endpoint, reason: String) -> RegistryError {
        RegistryError::WrongCredentials {
            registry: endpoint.registry.clone(),
            who: self.credentials().who(),
            reason,
        }
    }
}

fn token_address(
    realm: &Url,
    bearer: &Bearer,
    scope: Option<&str>,
    credentials: &Credentials,
    purpose: Purpose,
) -> Url {
    let mut address = realm.clone();
    let mut pairs = address.query_pairs_mut();
    if let Some(scope) = scope {
        pairs.append_pair("scope", scope);
    }
    if let Some(service) = &bearer.service {
        pairs.append_pair("service", service);
    }
    if let Credentials::Password { username, .. } = credentials {
        pairs.append_pair("account", username);
        if purpose == Purpose::Login {
            pairs
                .append_pair("offline_token", "true")
                .append_pair("client_id", CLIENT_ID);
        }
    }
    drop(pairs);
    address
}

/// An answer that says nothing about who asks.
async fn status_error(endpoint: &Endpoint, address: &str, response: &mut Response) -> RegistryError {
    RegistryError::Status {
        registry: endpoint.registry.clone(),
        address: shown(address),
        status: response.status().to_string(),
        said: in_brackets(said(response).await),
    }
}

/// A token that somebody gave, as it is shown to the registry. Nothing is sent if it is none.
fn usable(endpoint: &Endpoint, token: &Secret) -> Result<Proof, RegistryError> {
    if is_token(token.expose()) {
        Ok(Proof::Bearer(token.clone()))
    } else {
        let reason = "the token for it holds characters that no header can hold";
        Err(cannot_ask(endpoint, reason))
    }
}

fn cannot_ask(endpoint: &Endpoint, reason: &'static str) -> RegistryError {
    RegistryError::NoToken {
        registry: endpoint.registry.clone(),
        reason,
    }
}

fn no_token(endpoint: &Endpoint) -> RegistryError {
    cannot_ask(endpoint, "its token server gave no usable token")
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
