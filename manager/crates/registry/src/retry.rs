//! How long to wait before a registry is asked again, and when not to ask again.
//!
//! | the registry | what is done |
//! |---|---|
//! | answers 408, 429, 500, 502, 503 or 504 | it is asked again, [`ATTEMPTS`] times in all |
//! | says with it when to come back (`Retry-After`, seconds or a date) | until then nobody asks it who was told so, but for [`LONGEST_BELIEVED`] at most; longer than [`LONGEST_ASKED`] nobody waits: that is an error that says so |
//! | does not say when | a wait that doubles, between [`FIRST_WAIT`] and [`LONGEST_WAIT`], the half of it by chance: those who failed together do not come back together |
//!
//! Where another source of the image follows, nobody waits and nothing is tried again, but for a connection that broke before its answer, once
//! and at once: the other one is asked instead ([`crate::sources`]).
//!
//! Everything here is decided from facts that are given; who waits is [`crate::client`].

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

/// How often a request is tried that the registry was too busy for, or whose connection broke before the answer.
pub(crate) const ATTEMPTS: u32 = 4;
/// The first wait between two tries.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait that is chosen here.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The longest wait that a registry may ask for.
pub(crate) const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// For how long at most a server is believed that it wants to be left alone: one that says years would be asked never again.
pub(crate) const LONGEST_BELIEVED: Duration = Duration::from_hours(1);
/// Whoever was told when to come back comes so much later at most, each at another moment.
const SPREAD: Duration = Duration::from_millis(250);

/// How long a server wants to be left alone, if its answer is that it is too busy and says so.
pub(crate) fn wait_asked(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    is_busy(status).then(|| retry_after(headers, now)).flatten()
}

/// Whether the registry, or what stands before it, may do better in a moment.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, of which one that is over means now.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // So many seconds that no number holds them are many.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait after this many failures in a row, of which the first is `first`. `chance` is any number.
pub(crate) fn wait(first: Duration, failures: u32, chance: u64) -> Duration {
    let whole = first
        .saturating_mul(1 << (failures.clamp(1, 10) - 1))
        .min(LONGEST_WAIT);
    let half = whole / 2;
    half + part(half, chance)
}

/// A wait that a registry asked for, with a little more.
pub(crate) fn spread(asked: Duration, chance: u64) -> Duration {
    asked + part(SPREAD, chance)
}

fn part(whole: Duration, chance: u64) -> Duration {
    let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(chance % millis.saturating_add(1))
}

/// A number that is another one each time. It keeps no secret: the standard library's random hash seed will do.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_of_when_to_come_back() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (status, header, expected) in [
            (200, Some("1"), None),
            (403, Some("1"), None),
            (501, Some("1"), None),
            (408, None, None),
            (503, Some("soon"), None),
            (503, Some(""), None),
            (503, Some("-1"), None),
            (429, Some("0"), Some(0)),
            (500, Some(" 3 "), Some(3)),
            (429, Some("60"), Some(60)),
            (503, Some("99999999999999999999999"), Some(u64::MAX)),
            (503, Some("Sun, 06 Nov 1994 08:49:42 GMT"), Some(5)),
            (503, Some("Sunday, 06-Nov-94 08:49:42 GMT"), Some(5)),
            (503, Some("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0)),
            (503, Some("Sun, 06 Nov 1994 09:49:37 GMT"), Some(3600)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            let expected = expected.map(Duration::from_secs);
            assert_eq!(wait_asked(status, &headers, now), expected, "{status} {header:?}");
        }
    }

    #[test]
    fn waits_double_within_bounds_and_differ() {
        let first = Duration::from_millis(200);
        for (failures, least, most) in [
            (0, 100, 200),
            (1, 100, 200),
            (2, 200, 400),
            (4, 800, 1600),
            (99, 5000, 10_000),
        ] {
            for chance in [0, 1, 7, 12_345, u64::MAX] {
                let wait = wait(first, failures, chance).as_millis();
                assert!((least..=most).contains(&wait), "{failures} {chance}: {wait}");
            }
        }
        assert_eq!(wait(Duration::ZERO, 3, 5), Duration::ZERO);
        let many: std::collections::HashSet<Duration> = (0..50).map(|_| wait(first, 4, chance())).collect();
        assert!(many.len() > 10, "{many:?}");
        assert!(spread(Duration::from_secs(1), chance()) <= Duration::from_millis(1250));
    }
}
