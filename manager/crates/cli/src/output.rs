//! All that this program prints: text and tables on standard output, errors and notices on standard error.

use std::io::{self, Write as _};

use crate::failure::Failure;

/// Prints one line on standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|source| Failure::io("write to standard output", source))
}

/// Prints text on standard output as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Failure::io("write to standard output", source))
}

/// Prints lines on standard error. There is nowhere to report that this failed.
///
/// What they say may come from anywhere, a registry's answer or a file's name among them: a terminal gets nothing that it would obey.
pub(crate) fn notice(text: &str) {
    drop(writeln!(
        io::stderr().lock(),
        "{}",
        escaped(text, |c| !matches!(c, '\n' | '\t'))
    ));
}

/// Prints an error as every verb does: `croze: WHAT: CAUSE`.
pub(crate) fn error(text: &str) {
    notice(&format!("croze: {}", without_numbers(text)));
}

/// A text without the numbers that the standard library appends to the system's words, ` (os error 2)`: they say nothing to a reader who has the words.
fn without_numbers(text: &str) -> String {
    const OPENING: &str = " (os error ";
    let mut parts = text.split(OPENING);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kept.push_str(rest),
            _ => {
                kept.push_str(OPENING);
                kept.push_str(part);
            }
        }
    }
    kept
}

/// Prints what to do about the error above it.
pub(crate) fn hint(text: &str) {
    notice(&format!("hint: {text}"));
}

/// Text from a container or an image made safe for a terminal: control characters become visible escapes.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, |_| true)
}

/// The text with those of its control characters as visible escapes for which `is_bad` holds.
fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() && is_bad(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
            .chars()
            .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_stand_without_their_numbers() {
        for (text, kept) in [
            (
                "open /x: No such file or directory (os error 2)",
                "open /x: No such file or directory",
            ),
            ("a (os error 13): b (os error 2), c", "a: b, c"),
            ("a (os error x) b (os error 2", "a (os error x) b (os error 2"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(text), kept);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31m\nö"), "a\\u{1b}[31m\\nö");
        let of_notice = |text| escaped(text, |c| !matches!(c, '\n' | '\t'));
        assert_eq!(
            of_notice("a:\n\tb\x1b]0;c\x07\r\u{9b}m"),
            "a:\n\tb\\u{1b}]0;c\\u{7}\\r\\u{9b}m"
        );
    }
}
