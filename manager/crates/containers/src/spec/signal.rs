//! Signals by name or number.

use std::str::FromStr as _;

use nix::sys::signal::Signal;

use super::SpecError;

/// First real-time signal that programs may use (the C library keeps two below it for itself).
const RT_MIN: u32 = 34;
/// Last real-time signal.
const RT_MAX: u32 = 64;

/// The number of a signal: `9`, `KILL`, `SIGKILL`, `sigterm`, `RTMIN+3`, `SIGRTMAX-1`.
pub(crate) fn parse(text: &str) -> Result<u32, SpecError> {
    let unknown = || SpecError::Signal {
        text: text.to_owned(),
    };
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=RT_MAX).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('+').and_then(|n| n.parse().ok())
        };
        return offset
            .filter(|n| *n <= RT_MAX - RT_MIN)
            .map(|n| RT_MIN + n)
            .ok_or_else(unknown);
    }
    if let Some(rest) = bare.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('-').and_then(|n| n.parse().ok())
        };
        return offset
            .filter(|n| *n <= RT_MAX - RT_MIN)
            .map(|n| RT_MAX - n)
            .ok_or_else(unknown);
    }
    Signal::from_str(&format!("SIG{bare}"))
        .map(|s| (s as i32).cast_unsigned())
        .map_err(|_| unknown())
}

/// The name of a signal's number.
pub(crate) fn name(number: u32) -> String {
    let known = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok());
    match known {
        Some(signal) => signal.as_str().to_owned(),
        None if (RT_MIN..=RT_MAX).contains(&number) => format!("SIGRTMIN+{}", number - RT_MIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let table = [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("sigusr1", Some(10)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIG", None),
            ("RTMIN+99", None),
            ("-9", None),
        ];
        for (text, number) in table {
            assert_eq!(parse(text).ok(), number, "{text:?}");
        }
        assert_eq!(
            (name(15), name(37)),
            ("SIGTERM".to_owned(), "SIGRTMIN+3".to_owned())
        );
    }
}
