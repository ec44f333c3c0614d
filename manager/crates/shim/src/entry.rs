//! One entry of the log as a line of JSON, byte for byte as docker writes it.
//!
//! ```text
//!   {"log":"hello\n","stream":"stdout","time":"2026-11-20T23:17:00.123456789Z"}
//! ```
//!
//! JSON cannot hold bytes that are not UTF-8. Each of them becomes `\ufffd`, spelled so, while a U+FFFD that the container itself printed stays
//! as its three bytes; so the two can be told apart, and the bytes themselves are handed to the caller.

use crate::log::StreamKind;

/// What marks an entry as the shim's own words: where entries are missing.
const DROPPED: &str = "\"attrs\":{\"croze\":\"dropped\"},";

/// Who speaks in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// The container, on one of its streams.
    Container(StreamKind),
    /// The shim; it is shown as standard error.
    Shim,
}

/// Appends one entry to `out`, and to `replaced` the bytes of `text` that it cannot hold.
pub(crate) fn encode(out: &mut Vec<u8>, replaced: &mut Vec<u8>, text: &[u8], speaker: Speaker, time: &str) {
    let (stream, mark) = match speaker {
        Speaker::Container(stream) => (stream.name(), ""),
        Speaker::Shim => (StreamKind::Stderr.name(), DROPPED),
    };
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
            replaced.push(*byte);
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(mark.as_bytes());
    out.extend_from_slice(b"\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Appends valid UTF-8 as the inside of a JSON string. Docker escapes what could end a script in HTML too, and what ends a line in JavaScript.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        // What is escaped, and how many bytes it has.
        let (code, length) = match byte {
            b'"' | b'\\' | b'<' | b'>' | b'&' | 0..=0x1f => (u16::from(*byte), 1),
            // U+2028 and U+2029.
            0xe2 if matches!(text.get(i + 1..i + 3), Some([0x80, 0xa8 | 0xa9])) => {
                (0x2028 + u16::from(text[i + 2] & 1), 3)
            }
            _ => continue,
        };
        out.extend_from_slice(&text[plain..i]);
        plain = i + length;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u");
                let digits = [12, 8, 4, 0].map(|shift| HEX[usize::from(code >> shift & 15)]);
                out.extend_from_slice(&digits);
            }
        }
    }
    out.extend_from_slice(&text[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line without what is the same in all, and the bytes that it does not hold.
    fn encoded(text: &[u8]) -> (String, Vec<u8>) {
        let (mut out, mut replaced) = (Vec::new(), Vec::new());
        let speaker = Speaker::Container(StreamKind::Stdout);
        encode(&mut out, &mut replaced, text, speaker, "T");
        let line = String::from_utf8(out).unwrap();
        let text = line.strip_prefix("{\"log\":\"").unwrap();
        let text = text
            .strip_suffix("\",\"stream\":\"stdout\",\"time\":\"T\"}\n")
            .unwrap();
        (text.to_owned(), replaced)
    }

    #[test]
    fn texts_as_docker_writes_them() {
        let table: [(&[u8], &str, &[u8]); 8] = [
            (b"plain \x7f", "plain \x7f", b""),
            (b"\"q\" \\ \r\n", r#"\"q\" \\ \r\n"#, b""),
            (
                b"\0\x01\x08\t\x0c\x1b",
                r"\u0000\u0001\u0008\u0009\u000c\u001b",
                b"",
            ),
            (b"<a&b>", r"\u003ca\u0026b\u003e", b""),
            ("ä€\u{1f600}".as_bytes(), "ä€\u{1f600}", b""),
            (
                "\u{2027}\u{2028}\u{2029}\u{202a}".as_bytes(),
                "\u{2027}\\u2028\\u2029\u{202a}",
                b"",
            ),
            (
                b"bad \xff\xfe \xe2\x82",
                r"bad \ufffd\ufffd \ufffd\ufffd",
                b"\xff\xfe\xe2\x82",
            ),
            ("its own: \u{fffd}".as_bytes(), "its own: \u{fffd}", b""),
        ];
        for (text, expected, bytes) in table {
            assert_eq!(encoded(text), (expected.to_owned(), bytes.to_vec()), "{text:?}");
        }
    }

    #[test]
    fn the_shims_own_words_are_marked() {
        let (mut out, mut replaced) = (Vec::new(), Vec::new());
        encode(&mut out, &mut replaced, b"x\n", Speaker::Shim, "T");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"x\\n\",\"stream\":\"stderr\",\"attrs\":{\"croze\":\"dropped\"},\"time\":\"T\"}\n"
        );
    }
}
