//! Signals by name or number.

/// Names in the order of their numbers, from 1: the same on every architecture this runs on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first realtime signal as the C library counts (it keeps two for itself), and the last.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `15`, `TERM`, `SIGTERM`, `RTMIN+3`, in any case.
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=RTMAX).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = (1..)
        .zip(NAMES)
        .find_map(|(number, known)| (known == name).then_some(number))
    {
        return Ok(number);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest
            .strip_prefix(sign)
            .and_then(|digits| digits.parse::<i32>().ok()),
    };
    let number = match name {
        "CLD" => Some(17),
        "POLL" => Some(29),
        "IOT" => Some(6),
        _ => name
            .strip_prefix("RTMIN")
            .and_then(|rest| RTMIN.checked_add(offset(rest, '+')?))
            .or_else(|| {
                name.strip_prefix("RTMAX")
                    .and_then(|rest| RTMAX.checked_sub(offset(rest, '-')?))
            }),
    };
    number
        .filter(|number| (1..=RTMAX).contains(number))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in [
            ("15", 15),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("SIGSYS", 31),
            ("CHLD", 17),
            ("SIGPOLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        for text in [
            "", "SIG", "BOGUS", "65", "-1", "RTMIN+31", "RTMIN-1", "RTMAX-99", "1.5",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
