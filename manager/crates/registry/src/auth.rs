//! Challenges and tokens (distribution specification, "Token Authentication"): a 401 says how it wants to be answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use croze_model::{Credentials, Secret};
use serde::Deserialize;

use crate::client::Proof;

/// How long a token lives whose realm does not say (the specification's default).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Tokens are not used for the last seconds of their life.
const MARGIN: Duration = Duration::from_secs(5);

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token of a token server.
    Bearer(Bearer),
    /// A user's name and password.
    Basic,
}

/// Where to get a token, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
    /// Why the token that was sent did not do, such as `insufficient_scope` (RFC 6750, section 3.1).
    pub(crate) error: Option<String>,
}

impl Challenge {
    /// Takes a header apart: `Bearer realm="…",service="…",scope="…"`, or `Basic realm="…"`. `None` if it is of another scheme or malformed.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut fields = HashMap::new();
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if rest.is_empty() {
                break;
            }
            let (key, after) = rest.split_once('=')?;
            // A quoted value may hold commas: a scope is "repository:name:pull,push".
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            fields.insert(key.trim().to_ascii_lowercase(), value.to_owned());
            rest = after;
        }
        Some(Self::Bearer(Bearer {
            realm: fields.remove("realm")?,
            service: fields.remove("service"),
            scope: fields.remove("scope"),
            error: fields.remove("error"),
        }))
    }
}

/// A realm's answer.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl TokenAnswer {
    /// The bearer token, if there is one.
    pub(crate) fn token(&self) -> Option<Secret> {
        let given = |token: &Option<String>| token.clone().filter(|token| is_token(token));
        given(&self.token)
            .or_else(|| given(&self.access_token))
            .map(Secret::new)
    }

    /// What can be kept instead of the password, if the realm gives that.
    pub(crate) fn identity_token(&self) -> Option<Secret> {
        self.refresh_token
            .clone()
            .filter(|token| !token.is_empty())
            .map(Secret::new)
    }
}

/// Whether a text can be a bearer token: what no header can hold is none.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Seconds as servers write them: as a number of any kind, or in quotes. What is none of these says nothing.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let text = match &value {
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::String(text) => text.trim().to_owned(),
        _ => return Ok(None),
    };
    let whole = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let rounded = || Some(whole(text.parse().ok()?)?.as_secs());
    Ok(text.parse().ok().or_else(rounded))
}

/// What proved good, by base URL, repository, and on whose behalf: nobody's token is used for somebody else.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Key, Known>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    base: String,
    repository: String,
    credentials: Arc<Credentials>,
}

#[derive(Debug)]
struct Known {
    proof: Proof,
    until: Instant,
}

impl Tokens {
    /// A proof that is still good.
    pub(crate) fn get(
        &self,
        base: &str,
        repository: &str,
        credentials: &Credentials,
        now: Instant,
    ) -> Option<Proof> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&key(base, repository, credentials))
            .filter(|known| known.until > now)
            .map(|known| known.proof.clone())
    }

    /// Keeps the answer's token; `None` if it has none.
    pub(crate) fn put(
        &self,
        base: &str,
        repository: &str,
        credentials: &Credentials,
        answer: &TokenAnswer,
        now: Instant,
    ) -> Option<Proof> {
        let proof = Proof::Bearer(answer.token()?);
        // A day at most: an answer with a huge number must not overflow the clock.
        let lifetime = answer
            .expires_in
            .map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(s.min(86_400)));
        let until = now + lifetime.saturating_sub(MARGIN);
        self.keep(key(base, repository, credentials), proof.clone(), until, now);
        Some(proof)
    }

    /// Keeps that the registry takes this proof as it is, for a while.
    pub(crate) fn put_lasting(
        &self,
        base: &str,
        repository: &str,
        credentials: &Credentials,
        proof: Proof,
        now: Instant,
    ) {
        let until = now + DEFAULT_LIFETIME;
        self.keep(key(base, repository, credentials), proof, until, now);
    }

    fn keep(&self, key: Key, proof: Proof, until: Instant, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.until > now);
        known.insert(key, Known { proof, until });
    }
}

fn key(base: &str, repository: &str, credentials: &Credentials) -> Key {
    Key {
        base: base.to_owned(),
        repository: repository.to_owned(),
        credentials: Arc::new(credentials.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let challenge = |realm: &str, service: Option<&str>, scope: Option<&str>, error: Option<&str>| {
            Some(Challenge::Bearer(Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
                error: error.map(str::to_owned),
            }))
        };
        let scope = Some("repository:x/y:pull,push");
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="a.io",scope="repository:x/y:pull,push",error="invalid_token""#,
                challenge("https://a/token", Some("a.io"), scope, Some("invalid_token")),
            ),
            (
                r#"bearer realm="https://a/token""#,
                challenge("https://a/token", None, None, None),
            ),
            (
                r"Bearer realm=https://a/token, service=b",
                challenge("https://a/token", Some("b"), None, None),
            ),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (r#"Digest realm="x""#, None),
            (r#"Bearer service="x""#, None),
            (r#"Bearer realm="unfinished"#, None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn tokens_live_as_long_as_their_realm_says() {
        let (tokens, now, nobody) = (Tokens::default(), Instant::now(), Credentials::Anonymous);
        let answer = |text: &str| serde_json::from_str::<TokenAnswer>(text).unwrap();
        let bearer = |text: &str| Some(Proof::Bearer(Secret::new(text)));
        assert_eq!(tokens.put("b", "r", &nobody, &answer("{}"), now), None);
        let given = answer(r#"{"access_token":"t","expires_in":300}"#);
        assert_eq!(tokens.put("b", "r", &nobody, &given, now), bearer("t"));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(tokens.get("b", "r", &nobody, at(294)), bearer("t"));
        assert_eq!(tokens.get("b", "r", &nobody, at(295)), None);
        assert_eq!(tokens.get("b", "other", &nobody, now), None);
        let huge = answer(r#"{"token":"t","expires_in":18446744073709551615}"#);
        assert_eq!(tokens.put("b", "r", &nobody, &huge, now), bearer("t"));
    }

    #[test]
    fn a_token_is_what_a_header_can_hold_and_its_time_may_be_written_in_many_ways() {
        for (text, token, expires_in) in [
            (r#"{"token":"t","expires_in":300}"#, Some("t"), Some(300)),
            (r#"{"token":"t","expires_in":300.5}"#, Some("t"), Some(300)),
            (r#"{"token":"t","expires_in":"300"}"#, Some("t"), Some(300)),
            (r#"{"token":"t","expires_in":-1}"#, Some("t"), None),
            (r#"{"token":"t","expires_in":1.5e3}"#, Some("t"), Some(1500)),
            (r#"{"token":"t","expires_in":1.5e300}"#, Some("t"), None),
            (r#"{"token":"t","expires_in":"soon"}"#, Some("t"), None),
            (r#"{"token":"t","expires_in":"NaN"}"#, Some("t"), None),
            (r#"{"token":"t","expires_in":null}"#, Some("t"), None),
            (r#"{"token":"a\nb","access_token":"t"}"#, Some("t"), None),
            (r#"{"token":"a b"}"#, None, None),
        ] {
            let answer: TokenAnswer = serde_json::from_str(text).unwrap();
            assert_eq!(answer.token(), token.map(Secret::new), "{text}");
            assert_eq!(answer.expires_in, expires_in, "{text}");
        }
    }

    #[test]
    fn nobodys_token_is_used_for_somebody_else() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let user = |password: &str| Credentials::Password {
            username: "alice".to_owned(),
            password: Secret::new(password),
        };
        let answer: TokenAnswer = serde_json::from_str(r#"{"token":"t"}"#).unwrap();
        tokens.put("b", "r", &user("right"), &answer, now).unwrap();
        assert!(tokens.get("b", "r", &user("right"), now).is_some());
        for other in [user("wrong"), Credentials::Anonymous] {
            assert_eq!(tokens.get("b", "r", &other, now), None, "{other:?}");
        }
    }
}
