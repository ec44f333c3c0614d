//! Values of options, parsed from their text: sizes, CPUs, environment, mounts, detach keys.
//!
//! Every parser is pure (what it needs of the surroundings is handed in) and its error says what would have been right, so that clap
//! can show it beside the option's name.

mod mounts;
mod options;

use std::ffi::OsString;

use croze_client::{parse_decimal, parse_size};

pub(crate) use mounts::{MountSpec, mount, tmpfs, volume};
pub(crate) use options::{device, dns_server, extra_host, storage_opt, sysctl, ulimit};

/// Parses a size such as `64m`.
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// Parses `--memory-swap`: a size, or -1 for no limit.
pub(crate) fn swap_bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    size_bytes(text).and_then(|bytes| i64::try_from(bytes).map_err(|e| e.to_string()))
}

/// Parses a number of CPUs such as `0.5` into billionths of a CPU.
pub(crate) fn nano_cpus(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("invalid number of CPUs {text:?}: write a positive decimal number such as 0.5 or 2");
    let fraction_digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    if fraction_digits > 9 {
        return Err(format!(
            "invalid number of CPUs {text:?}: more than nine digits after the point"
        ));
    }
    let value = parse_decimal(text, 1_000_000_000).ok_or_else(wrong)?;
    u64::try_from(value).map_err(|_| wrong())
}

/// Parses `--pids-limit`: 0 and -1 mean no limit.
pub(crate) fn pids_limit(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(0),
        Ok(limit) => u64::try_from(limit)
            .map_err(|_| format!("invalid limit {text:?}: write a positive number, or -1 for no limit")),
        Err(_) => Err(format!(
            "invalid limit {text:?}: write a positive number, or -1 for no limit"
        )),
    }
}

/// Resolves one `-e`: `NAME=value` as it is, `NAME` from this program's environment. Where it is not set the bare name is passed on: it takes the
/// image's variable away, as with docker.
pub(crate) fn env(text: &str, lookup: impl Fn(&str) -> Option<OsString>) -> Result<String, String> {
    Ok(env_or_nothing(text, lookup)?.unwrap_or_else(|| text.to_owned()))
}

/// The same; `None`: a bare name that is not set.
fn env_or_nothing(text: &str, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, String> {
    if text.contains('\0') {
        return Err(format!(
            "invalid environment variable {text:?}: it contains a NUL byte"
        ));
    }
    match text.split_once('=') {
        Some(("", _)) => Err(format!("invalid environment variable: {text}")),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() => Err("invalid environment variable: it is empty".to_owned()),
        None => match lookup(text).map(OsString::into_string) {
            Some(Ok(value)) => Ok(Some(format!("{text}={value}"))),
            Some(Err(_)) => Err(format!(
                "the environment variable {text} has a value here that is not UTF-8"
            )),
            None => Ok(None),
        },
    }
}

/// The variables of an env file's text: one per line as for `-e`, but that a name that is not set here says nothing; see [`lines`].
pub(crate) fn env_file(text: &str, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Vec<String>, String> {
    let variables = lines(text, |line| {
        let name = line.split('=').next().unwrap_or(line);
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        env_or_nothing(line, &lookup)
    })?;
    Ok(variables.into_iter().flatten().collect())
}

/// What each line of a file says; the blanks before it, empty lines and lines that start with `#` are skipped, and so is the mark that some
/// editors put at the beginning of a text in UTF-8. An error begins with the line's number.
pub(crate) fn lines<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| parse(line).map_err(|reason| format!("line {number}: {reason}")))
        .collect()
}

/// Parses `KEY=value` or `KEY` of `--label`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("invalid label {text:?}: write KEY=value"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses `--detach-keys`: single characters or `ctrl-` and a letter or one of `@[\]^_`, separated by commas. Empty: no keys.
pub(crate) fn detach_keys(text: &str) -> Result<DetachKeys, String> {
    let mut keys = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let key = match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (Some(control), _) => control_byte(control),
            (None, [byte]) => Some(*byte),
            _ => None,
        };
        keys.push(
            key.ok_or_else(|| format!("invalid detach keys {text:?}: write keys such as ctrl-p,ctrl-q"))?,
        );
    }
    Ok(DetachKeys(keys))
}

/// The keys that leave a container without stopping it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(pub(crate) Vec<u8>);

fn control_byte(key: &str) -> Option<u8> {
    match key.as_bytes() {
        [letter @ (b'a'..=b'z' | b'A'..=b'Z')] => Some(letter.to_ascii_lowercase() - b'a' + 1),
        [b'@'] => Some(0),
        [other @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Some(other - b'@'),
        _ => None,
    }
}

/// Parses `--tail`: a number of lines, or `all`.
pub(crate) fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail(None)),
        _ => text
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| format!("invalid number of lines {text:?}: write a number or `all`")),
    }
}

/// How many of the last lines are wanted; `None`: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Option<u64>);

/// Splits `--entrypoint`: one program, an empty text meaning none.
pub(crate) fn entrypoint(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_bytes("1.5g"), Ok(3 << 29));
        assert!(size_bytes("64x").unwrap_err().contains("such as 64m"));
        assert_eq!(swap_bytes("-1"), Ok(-1));
        assert_eq!(swap_bytes("1k"), Ok(1024));
    }

    #[test]
    fn cpus() {
        for (text, expected) in [
            ("0.5", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            (".25", Some(250_000_000)),
            ("0.000000001", Some(1)),
            ("0.0000000001", None),
            ("-1", None),
            ("", None),
            ("1e3", None),
            ("half", None),
        ] {
            assert_eq!(nano_cpus(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn pids() {
        for (text, expected) in [
            ("64", Some(64)),
            ("0", Some(0)),
            ("-1", Some(0)),
            ("-2", None),
            ("many", None),
        ] {
            assert_eq!(pids_limit(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn environment() {
        let lookup = |name: &str| match name {
            "HOME" => Some(OsString::from("/root")),
            "BYTES" => Some(OsString::from_vec(vec![0xff])),
            _ => None,
        };
        let some = |text: &str| Ok(text.to_owned());
        assert_eq!(env("A=b=c", lookup), some("A=b=c"));
        assert_eq!(env("A=", lookup), some("A="));
        assert_eq!(env("HOME", lookup), some("HOME=/root"));
        assert_eq!(env("UNSET", lookup), some("UNSET"));
        let error = env("BYTES", lookup).unwrap_err();
        assert!(error.contains("BYTES") && error.contains("UTF-8"), "{error}");
        for bad in ["", "=x", "A=\0"] {
            assert!(env(bad, lookup).is_err(), "{bad:?}");
        }
        assert_eq!(
            env_file("\u{feff}# comment\n\nA=1\n  B=2 \nHOME\nUNSET\n", lookup),
            Ok(vec!["A=1".to_owned(), "B=2 ".to_owned(), "HOME=/root".to_owned()])
        );
        assert_eq!(
            env_file("A=1\n=2\n", lookup).unwrap_err(),
            "line 2: invalid environment variable: =2"
        );
        assert_eq!(
            env_file("\u{feff}A=1\n\nA B=2\n", lookup).unwrap_err(),
            "line 3: variable 'A B' contains whitespaces"
        );
        assert_eq!(
            env_file("\u{feff}A=with blanks", lookup),
            Ok(vec!["A=with blanks".to_owned()])
        );
    }

    #[test]
    fn keys() {
        for (text, expected) in [
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("ctrl-A", Some(vec![1])),
            ("a,ctrl-],b", Some(vec![b'a', 29, b'b'])),
            ("ctrl-@", Some(vec![0])),
            ("", Some(vec![])),
            ("ctrl-1", None),
            ("abc", None),
        ] {
            assert_eq!(detach_keys(text).ok().map(|keys| keys.0), expected, "{text}");
        }
    }

    #[test]
    fn tails_and_labels() {
        assert_eq!(tail("all"), Ok(Tail(None)));
        assert_eq!(tail("12"), Ok(Tail(Some(12))));
        assert!(tail("few").is_err());
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert!(label("=b").is_err());
    }
}
