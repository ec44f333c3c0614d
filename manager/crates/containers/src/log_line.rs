//! One line of a log: docker's json-file format as the shim writes it, byte for byte the inverse of its encoder.
//!
//! A byte that is not UTF-8 stands in the log as `\ufffd`, spelled so; while clients are attached the shim keeps the byte itself in a file beside the
//! log. Who has these bytes at hand gets the output back exactly, everybody else gets U+FFFD, as from docker's log.

use bytes::Bytes;

/// A decoded line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogLine<'line> {
    /// What was printed.
    pub(crate) data: Bytes,
    /// Where in `data` U+FFFD stands for a byte that nobody has kept.
    pub(crate) lost: Vec<usize>,
    /// It was printed on standard error.
    pub(crate) stderr: bool,
    /// The container did not print it: the shim says that lines are missing.
    pub(crate) by_shim: bool,
    /// When, RFC 3339.
    pub(crate) time: &'line str,
}

impl LogLine<'_> {
    /// What is left of `data` behind the first `printed` bytes of what the container printed. A byte that was lost is three bytes here.
    pub(crate) fn behind(&self, printed: usize) -> &[u8] {
        let before = |(number, at): &(usize, &usize)| *at - number * REPLACEMENT_GROWS < printed;
        let grown = self.lost.iter().enumerate().take_while(before).count() * REPLACEMENT_GROWS;
        self.data.get(printed.saturating_add(grown)..).unwrap_or_default()
    }

    /// How many bytes the container printed for this line.
    pub(crate) fn printed(&self) -> usize {
        self.data.len() - self.lost.len() * REPLACEMENT_GROWS
    }
}

/// By how much U+FFFD is longer than the byte that it stands for.
const REPLACEMENT_GROWS: usize = char::REPLACEMENT_CHARACTER.len_utf8() - 1;

/// Decodes a line without its newline; a damaged one is `None`. `replaced` gives the byte for each `\ufffd`; as long as it gives none that becomes U+FFFD.
pub(crate) fn decode(line: &[u8], mut replaced: impl FnMut() -> Option<u8>) -> Option<LogLine<'_>> {
    let mut rest = line.strip_prefix(b"{\"log\":\"")?;
    let mut data = Vec::with_capacity(rest.len());
    let mut lost = Vec::new();
    loop {
        let special = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        data.extend_from_slice(&rest[..special]);
        let (mark, after) = (rest[special], &rest[special + 1..]);
        rest = after;
        if mark == b'"' {
            break;
        }
        let (escaped, after) = rest.split_first()?;
        rest = after;
        match escaped {
            b'"' | b'\\' | b'/' => data.push(*escaped),
            b'n' => data.push(b'\n'),
            b'r' => data.push(b'\r'),
            b't' => data.push(b'\t'),
            b'u' => {
                let (digits, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                match (code == 0xfffd).then(&mut replaced) {
                    Some(Some(byte)) => data.push(byte),
                    kept => {
                        if kept.is_some() {
                            lost.push(data.len());
                        }
                        let character = char::from_u32(code)?;
                        data.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
            }
            _ => return None,
        }
    }
    let rest = std::str::from_utf8(rest).ok()?;
    let (stream, rest) = rest.strip_prefix(",\"stream\":\"")?.split_once('"')?;
    let (attributes, time) = rest.split_once(",\"time\":\"")?;
    Some(LogLine {
        data: Bytes::from(data),
        lost,
        stderr: stream == "stderr",
        by_shim: attributes.starts_with(",\"attrs\":{\"croze\":\"dropped\""),
        time: time.strip_suffix("\"}")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"T\"}}")
    }

    #[test]
    fn texts_come_back() {
        let table: [(&str, &[u8]); 6] = [
            (r"a\nb\r\t", b"a\nb\r\t"),
            (r#"\"q\" \\ \\ufffd"#, b"\"q\" \\ \\ufffd"),
            (r"\u0000\u001b\u003cä\u2028", "\0\u{1b}<ä\u{2028}".as_bytes()),
            (r"1\ufffd2\ufffd3\ufffd", b"1\xf12\xf23\xef\xbf\xbd"),
            ("\u{fffd} itself", "\u{fffd} itself".as_bytes()),
            ("", b""),
        ];
        for (text, expected) in table {
            let mut bytes = [0xf1, 0xf2].into_iter();
            let text = line(text);
            let decoded = decode(text.as_bytes(), || bytes.next()).unwrap();
            assert_eq!(decoded.data, expected, "{text}");
            assert_eq!(
                (decoded.stderr, decoded.by_shim, decoded.time),
                (false, false, "T")
            );
        }
    }

    #[test]
    fn the_shims_own_lines_are_told_apart() {
        let marked = br#"{"log":"croze-shim: x\n","stream":"stderr","attrs":{"croze":"dropped"},"time":"T"}"#;
        let decoded = decode(marked, || None).unwrap();
        assert!(decoded.by_shim && decoded.stderr && decoded.time == "T");
        // What a container prints cannot look like it.
        let forged = line(r#"\",\"stream\":\"stderr\",\"attrs\":{\"croze\":\"dropped\"}"#);
        assert!(!decode(forged.as_bytes(), || None).unwrap().by_shim);
    }

    #[test]
    fn damage_is_no_line() {
        for text in [
            "",
            "{",
            "{\"log\":\"open",
            "{\"log\":\"a\\",
            "{\"log\":\"a\\u12",
            "{\"log\":\"a\\x\",\"stream\":\"stdout\",\"time\":\"T\"}",
            "{\"log\":\"a\",\"stream\":\"stdout\",\"time\":\"T",
            "\0\0\0",
        ] {
            assert_eq!(decode(text.as_bytes(), || None), None, "{text:?}");
        }
    }
}
