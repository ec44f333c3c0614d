//! `--since` and `--until`: moments as docker's users write them.
//!
//! | form | example |
//! |---|---|
//! | so long ago, in Go's units | `10m`, `1h30m`, `1.5s` |
//! | RFC 3339 | `2026-01-31T15:04:05.5Z`, `2026-01-31T15:04:05+01:00` |
//! | the same without a zone, this machine's then; without seconds, minutes or the time of day | `2026-01-31T15:04`, `2026-01-31` |
//! | seconds since 1970, with a fraction | `1769871845.5` |

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A moment in the daemon's form: RFC 3339.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    moment(text, Timestamp::now(), &TimeZone::system())
        .map(|moment| moment.to_string())
        .ok_or_else(|| {
            format!(
                "invalid time {text:?}: write how long ago (10m, 1h30m), a time (2026-01-31T15:04:05Z, 2026-01-31) or seconds since 1970"
            )
        })
}

fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago).ok();
    }
    if let Some(seconds) = seconds(text) {
        return Timestamp::from_duration(seconds).ok();
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    let civil = match (text.parse::<DateTime>(), text.parse::<jiff::civil::Date>()) {
        (Ok(civil), _) => civil,
        (_, Ok(date)) => date.to_datetime(jiff::civil::Time::midnight()),
        _ => return None,
    };
    Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
}

/// Seconds since 1970, with at most nine digits after the point.
fn seconds(text: &str) -> Option<SignedDuration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    Some(SignedDuration::new(
        seconds,
        if seconds < 0 { -nanos } else { nanos },
    ))
}

/// A duration as Go writes it: numbers with units, `1h15m30.5s`.
fn duration(text: &str) -> Option<SignedDuration> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.len() > 18 || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let digits = |text: &str| {
            if text.is_empty() {
                Some(0)
            } else {
                text.parse::<i128>().ok()
            }
        };
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total
            .checked_add(digits(whole)?.checked_mul(nanos)?)?
            .checked_add(digits(fraction)?.checked_mul(nanos)? / scale)?;
        rest = next;
    }
    let nanos = i64::try_from(total).ok()?;
    Some(SignedDuration::from_nanos(if negative { -nanos } else { nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("10m", "2026-01-31T11:50:00Z"),
            ("1h30m", "2026-01-31T10:30:00Z"),
            ("1.5s", "2026-01-31T11:59:58.5Z"),
            ("500ms", "2026-01-31T11:59:59.5Z"),
            ("-10m", "2026-01-31T12:10:00Z"),
            ("0s", "2026-01-31T12:00:00Z"),
            ("2026-01-31T15:04:05.5Z", "2026-01-31T15:04:05.5Z"),
            ("2026-01-31T15:04:05+01:00", "2026-01-31T14:04:05Z"),
            ("2026-01-31T15:04:05", "2026-01-31T14:04:05Z"),
            ("2026-01-31T15:04", "2026-01-31T14:04:00Z"),
            ("2026-01-31", "2026-01-30T23:00:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1769871845.5", "2026-01-31T15:04:05.5Z"),
        ] {
            let moment = moment(text, now, &zone).map(|moment| moment.to_string());
            assert_eq!(moment.as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "soon",
            "10",
            "1x",
            "m",
            "1.2.3s",
            "2026-13-01",
            "99999999999999999999",
            "1e5s",
            "-",
        ] {
            let known = bad == "10";
            assert_eq!(moment(bad, now, &zone).is_some(), known, "{bad}");
        }
        assert!(parse("soon").unwrap_err().contains("10m"));
    }
}
