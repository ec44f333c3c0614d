//! A token server (distribution specification, "Token Authentication") for docker-registry's `auth: token`.
//!
//! | who asks | gets |
//! |---|---|
//! | `alice`, password `secret` | everything |
//! | `bob`, password `secret`, or nobody | pulls from `public/` |
//! | anybody with another password | 401 |

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::server::Server;

/// How long docker-registry still takes a token after its end.
const LEEWAY: u64 = 60;

/// A running token server; it ends with this value.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    given: AtomicUsize,
    /// Seconds for which the registry takes a new token, whatever its answer says.
    lifetime: AtomicU64,
    key: EcdsaKeyPair,
    certificate: String,
}

impl TokenServer {
    /// The service and issuer that it signs for.
    pub const SERVICE: &'static str = "croze-test";

    /// Starts one that signs with this authority's key.
    ///
    /// # Errors
    /// The key cannot be used, or no port can be had.
    pub fn start(authority: &Authority<'_>) -> Result<Self> {
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &authority.key_der()?,
            &SystemRandom::new(),
        );
        let shared = Arc::new(Shared {
            given: AtomicUsize::new(0),
            lifetime: AtomicU64::new(300),
            key: key.map_err(|rejected| anyhow::anyhow!("the key is rejected: {rejected}"))?,
            certificate: STANDARD.encode(authority.certificate_der()?),
        });
        let ours = Arc::clone(&shared);
        let server = Server::start("tokens", move |client, _| ours.answer(client))?;
        Ok(Self { server, shared })
    }

    /// The part of docker-registry's configuration that trusts it.
    #[must_use]
    pub fn configuration(&self, authority: &Authority<'_>) -> String {
        format!(
            "auth:\n  token:\n    realm: http://127.0.0.1:{}/token\n    service: {service}\n    issuer: {service}\n    rootcertbundle: {}\n",
            self.server.port(),
            authority.certificate().display(),
            service = Self::SERVICE,
        )
    }

    /// How many tokens were given.
    #[must_use]
    pub fn given(&self) -> usize {
        self.shared.given.load(Ordering::SeqCst)
    }

    /// From now on the registry takes a token for so long only, while the client is told that it lasts.
    pub fn shorten(&self, lifetime: Duration) {
        self.shared.lifetime.store(lifetime.as_secs(), Ordering::SeqCst);
    }
}

impl Shared {
    fn answer(&self, stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut authorization = String::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = value.trim().to_owned();
            }
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let scopes = scopes(target);
        let user = user(&authorization)?;
        let (status, body) = match user {
            None => (
                "401 Unauthorized",
                json!({"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}),
            ),
            Some(user) => {
                self.given.fetch_add(1, Ordering::SeqCst);
                let token = self.token(&user, &scopes)?;
                ("200 OK", json!({"token": token, "expires_in": 300}))
            }
        };
        let (body, mut out) = (body.to_string(), stream);
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        out.flush()?;
        stream.shutdown(Shutdown::Both)?;
        Ok(())
    }

    /// A signed token (RFC 7519, ES256) for what of the scopes the user may have.
    fn token(&self, user: &str, scopes: &[String]) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let access: Vec<Value> = scopes.iter().filter_map(|scope| allowed(user, scope)).collect();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": Self::service(),
            "aud": Self::service(),
            "sub": user,
            "iat": now - LEEWAY,
            "nbf": now - LEEWAY,
            "exp": now + self.lifetime.load(Ordering::SeqCst) - LEEWAY,
            "jti": format!("{now}-{}", self.given.load(Ordering::SeqCst)),
            "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| anyhow::anyhow!("cannot sign"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn service() -> &'static str {
        TokenServer::SERVICE
    }
}

/// Who asks: nobody is somebody here, too. `None` for a wrong password.
fn user(authorization: &str) -> Result<Option<String>> {
    if authorization.is_empty() {
        return Ok(Some(String::new()));
    }
    let encoded = authorization
        .strip_prefix("Basic ")
        .context("basic authorization")?;
    let text = String::from_utf8(STANDARD.decode(encoded)?)?;
    let known = ["alice:secret", "bob:secret"].contains(&text.as_str());
    Ok(known.then(|| text.split(':').next().map(str::to_owned)).flatten())
}

/// The part of `repository:NAME:ACTIONS` that a user may have.
fn allowed(user: &str, scope: &str) -> Option<Value> {
    let mut parts = scope.split(':');
    let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|&action| user == "alice" || (action == "pull" && name.starts_with("public/")))
        .collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

/// Every `scope` of a query.
fn scopes(target: &str) -> Vec<String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .flat_map(|value| {
            let text = value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            text.split('+').map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
