//! Numbers and times as docker shows them to people.

use jiff::Timestamp;

/// Digits of a shortened id.
pub(crate) const SHORT_ID: usize = 12;

/// Bytes in decimal units with three significant digits: `78.1MB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let number = format!("{value:.decimals$}");
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number}{}", UNITS[unit])
}

/// A duration in whole seconds the way docker rounds it: `About a minute`, `3 hours`.
pub(crate) fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    /// In hours.
    const DAY: i64 = 24;
    // As docker does, hours are rounded, everything else is cut.
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        s if s < MINUTE => format!("{s} seconds"),
        s if s < 2 * MINUTE => "About a minute".to_owned(),
        s if s < HOUR => format!("{} minutes", s / MINUTE),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 2 * DAY => format!("{hours} hours"),
        _ if hours < 14 * DAY => format!("{} days", hours / DAY),
        _ if hours < 60 * DAY => format!("{} weeks", hours / (7 * DAY)),
        _ if hours < 730 * DAY => format!("{} months", hours / (30 * DAY)),
        s => format!("{} years", s / HOUR / (365 * DAY)),
    }
}

/// How long ago an RFC 3339 time was, or `N/A` when there is none.
pub(crate) fn ago(time: &str, now: Timestamp) -> String {
    seconds_since(time, now).map_or_else(
        || "N/A".to_owned(),
        |seconds| format!("{} ago", duration(seconds)),
    )
}

/// Time of something that has not happened, or of which nobody knows, as docker writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A time, or the one that stands for none.
pub(crate) fn or_never(time: &str) -> &str {
    if time.is_empty() { NEVER } else { time }
}

/// A moment as Go prints it, in this machine's time zone: `2026-01-31 15:04:05 +0000 UTC`; empty when there is none.
pub(crate) fn moment(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let zoned = then.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// A moment as RFC 3339 in this machine's time zone, without parts of seconds; empty when there is none.
pub(crate) fn rfc3339(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let zoned = then.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// An RFC 3339 time with nine digits after the point; what is none stays as it is.
pub(crate) fn exact(time: &str) -> String {
    time.parse::<Timestamp>()
        .map_or_else(|_| time.to_owned(), |moment| format!("{moment:.9}"))
}

/// Seconds from an RFC 3339 time until `now`.
pub(crate) fn seconds_since(time: &str, now: Timestamp) -> Option<i64> {
    let then: Timestamp = time.parse().ok()?;
    Some(now.as_second() - then.as_second())
}

/// The first twelve digits of an id, without its algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..SHORT_ID).unwrap_or(digits)
}

/// `text` cut to `limit` characters, the last one an ellipsis when something was cut.
pub(crate) fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1550, "1.55kB"),
            (78_123_456, "78.1MB"),
            (117_000_000, "117MB"),
            (1_240_000_000, "1.24GB"),
            (99_960_000, "100MB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (14 * 86_400, "2 weeks"),
            (90 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn times_ids_and_cuts() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(ago("2026-01-01T00:00:05.5Z", now), "5 seconds ago");
        assert_eq!(ago("", now), "N/A");
        assert_eq!(exact("2026-01-01T00:00:05.5Z"), "2026-01-01T00:00:05.500000000Z");
        assert_eq!(exact("T"), "T");
        assert_eq!(moment("T"), "");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
