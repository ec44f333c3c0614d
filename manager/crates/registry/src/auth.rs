//! Anonymous tokens (distribution specification, "Token Authentication"): a 401 names a realm, and the realm hands out a token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long a token lives whose realm does not say (the specification's default).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Tokens are not used for the last seconds of their life.
const MARGIN: Duration = Duration::from_secs(5);

/// What a `WWW-Authenticate: Bearer` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

impl Challenge {
    /// Takes a header apart: `Bearer realm="…",service="…",scope="…"`. `None` if it is of another scheme or malformed.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ')?;
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
        Some(Self {
            realm: fields.remove("realm")?,
            service: fields.remove("service"),
            scope: fields.remove("scope"),
        })
    }
}

/// A realm's answer.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Tokens by base URL and repository.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<(String, String), Token>>,
}

#[derive(Debug)]
struct Token {
    value: String,
    until: Instant,
}

impl Tokens {
    /// A token that is still good.
    pub(crate) fn get(&self, base: &str, repository: &str, now: Instant) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(base.to_owned(), repository.to_owned()))
            .filter(|token| token.until > now)
            .map(|token| token.value.clone())
    }

    /// Keeps the answer's token; `None` if it has none.
    pub(crate) fn put(
        &self,
        base: &str,
        repository: &str,
        answer: TokenAnswer,
        now: Instant,
    ) -> Option<String> {
        let value = answer
            .token
            .or(answer.access_token)
            .filter(|value| !value.is_empty())?;
        // A day at most: an answer with a huge number must not overflow the clock.
        let lifetime = answer
            .expires_in
            .map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(s.min(86_400)));
        let until = now + lifetime.saturating_sub(MARGIN);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, token| token.until > now);
        known.insert(
            (base.to_owned(), repository.to_owned()),
            Token {
                value: value.clone(),
                until,
            },
        );
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let challenge = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="a.io",scope="repository:x/y:pull,push""#,
                challenge("https://a/token", Some("a.io"), Some("repository:x/y:pull,push")),
            ),
            (
                r#"bearer realm="https://a/token""#,
                challenge("https://a/token", None, None),
            ),
            (
                r"Bearer realm=https://a/token, service=b",
                challenge("https://a/token", Some("b"), None),
            ),
            (r#"Basic realm="x""#, None),
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
        let (tokens, now) = (Tokens::default(), Instant::now());
        let answer = |text: &str| serde_json::from_str(text).unwrap();
        assert_eq!(tokens.put("b", "r", answer("{}"), now), None);
        let put = tokens.put("b", "r", answer(r#"{"access_token":"t","expires_in":300}"#), now);
        assert_eq!(put.as_deref(), Some("t"));
        assert_eq!(
            tokens.get("b", "r", now + Duration::from_secs(294)).as_deref(),
            Some("t")
        );
        assert_eq!(tokens.get("b", "r", now + Duration::from_secs(295)), None);
        assert_eq!(tokens.get("b", "other", now), None);
        let huge = answer(r#"{"token":"t","expires_in":18446744073709551615}"#);
        assert_eq!(tokens.put("b", "r", huge, now).as_deref(), Some("t"));
    }
}
