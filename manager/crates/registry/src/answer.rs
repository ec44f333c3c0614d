//! What an answer means, and how addresses and messages are shown.

use std::time::Duration;

use http::StatusCode;
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::endpoint::Endpoint;

/// How much of an error's body is read for its message, and of a realm's answer.
const MAX_SMALL_BODY: u64 = 64 * 1024;
/// How long an error's body may take to come: what it says is a help, and nothing to wait for.
const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// Whether an answer comes from the registry itself, and not from where it redirected to.
pub(crate) fn is_the_registrys(endpoint: &Endpoint, response: &Response) -> bool {
    Url::parse(&endpoint.base).is_ok_and(|base| base.origin() == response.url().origin())
}

/// An address as it is shown: what follows the path may be a signature that lets everybody in who reads it.
pub(crate) fn shown(address: &str) -> String {
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

pub(crate) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// A registry's message, as it follows ours.
pub(crate) fn in_brackets(said: Option<String>) -> String {
    said.map(|said| format!(" ({said})")).unwrap_or_default()
}

/// What an error's body says (distribution specification, "Error Codes").
pub(crate) async fn said(response: &mut Response) -> Option<String> {
    said_in(&message(response).await)
}

/// The same of a body that was read.
pub(crate) fn said_in(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    let item = serde_json::from_slice::<Body>(body)
        .ok()?
        .errors
        .into_iter()
        .next()?;
    let text = item.message.filter(|message| !message.is_empty()).or(item.code)?;
    // It is shown on a terminal: nothing but plain text, and not much of it.
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// The beginning of an error's body, as much as came.
pub(crate) async fn message(response: &mut Response) -> Vec<u8> {
    small_body(response, MESSAGE_TIME).await
}

/// The beginning of a body, as much as came in this time.
pub(crate) async fn small_body(response: &mut Response, time: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let deadline = Instant::now() + time;
    while let Ok(Ok(Some(piece))) = timeout_at(deadline, response.chunk()).await {
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
