//! Values as text, in the notation of `GVariant`: how annotations give the values of properties.
//!
//! ```text
//! value   = [type] literal            type    = "@" signature | "byte" | "int32" | "uint64" | …
//! literal = true | -12 | 0x1f | 1.5 | 'text' | "text" | b'bytes' | [value, …] | (value, …)
//! ```
//!
//! A whole number without a type is an `int32`. Dictionaries, maybes and variants are not read: no property that may be set takes
//! one. Length, depth and number of items are bounded.

use crate::dbus::Value;
use std::fmt;

/// The longest text that is read.
const LENGTH: usize = 4096;
/// How deep lists may lie in each other.
const DEPTH: usize = 3;
/// How many items a list may have.
const ITEMS: usize = 256;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextError {
    /// Where, in bytes.
    pub at: usize,
    /// What.
    pub why: &'static str,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.why, self.at)
    }
}

impl std::error::Error for TextError {}

type Result<T> = std::result::Result<T, TextError>;

/// Reads one value.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(text: &str) -> Result<Value> {
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
    };
    if text.len() > LENGTH {
        return reader.fail("it is longer than 4096 bytes");
    }
    let value = reader.value(None, 0)?;
    reader.space();
    if reader.at < text.len() {
        return reader.fail("something follows the value");
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

/// The names of types, and their signatures.
const KEYWORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

impl Reader<'_> {
    fn fail<T>(&self, why: &'static str) -> Result<T> {
        Err(TextError { at: self.at, why })
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A word of letters, digits and what numbers are made of.
    fn word(&mut self) -> &str {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
        {
            self.at += 1;
        }
        // Only ASCII was passed.
        std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default()
    }

    /// A value, of the type `expected` if that is known.
    fn value(&mut self, expected: Option<&str>, depth: usize) -> Result<Value> {
        self.space();
        if depth > DEPTH {
            return self.fail("lists lie too deep in each other");
        }
        match self.peek() {
            None => self.fail("a value is missing"),
            Some(b'@') => {
                self.at += 1;
                let signature = self.signature()?;
                self.value(Some(&signature), depth)
            }
            Some(b'\'' | b'"') => {
                let text = self.quoted()?;
                match expected {
                    None | Some("s") => Ok(Value::Text(text)),
                    Some("o") => Ok(Value::Path(text)),
                    Some("g") => Ok(Value::Signature(text)),
                    Some(_) => self.fail("a text stands where another type is expected"),
                }
            }
            Some(b'[') => self.array(expected, depth),
            Some(b'(') => self.tuple(expected, depth),
            Some(b'b') if matches!(self.text.get(self.at + 1), Some(b'\'' | b'"')) => {
                self.at += 1;
                let mut bytes: Vec<Value> = self.quoted()?.bytes().map(Value::Byte).collect();
                // A byte string of GVariant has a zero at its end.
                bytes.push(Value::Byte(0));
                self.checked(Value::Array("y".to_owned(), bytes), expected)
            }
            Some(_) => self.plain(expected, depth),
        }
    }

    /// A signature after `@`, of the types that can be read here.
    fn signature(&mut self) -> Result<String> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || b"()".contains(&byte))
        {
            self.at += 1;
        }
        let signature = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        if signature.is_empty() || split(&signature).is_none_or(|(_, rest)| !rest.is_empty()) {
            return self.fail("a type that is not read here");
        }
        Ok(signature)
    }

    fn checked(&self, value: Value, expected: Option<&str>) -> Result<Value> {
        if expected.is_none_or(|expected| value.signature() == expected) {
            Ok(value)
        } else {
            self.fail("a value of another type than expected")
        }
    }

    fn plain(&mut self, expected: Option<&str>, depth: usize) -> Result<Value> {
        let word = self.word().to_owned();
        if let Some((_, signature)) = KEYWORDS.iter().find(|(name, _)| *name == word) {
            let value = self.value(Some(signature), depth + 1)?;
            return self.checked(value, expected);
        }
        match &*word {
            "" => self.fail("a value is missing"),
            "true" | "false" => self.checked(Value::Bool(word == "true"), expected),
            _ => match number(&word, expected) {
                Some(value) => Ok(value),
                None => self.fail("it is no value, or does not fit its type; a text stands in quotes"),
            },
        }
    }

    fn array(&mut self, expected: Option<&str>, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut of = match expected.map(|signature| signature.strip_prefix('a')) {
            None => None,
            Some(Some(of)) => Some(of.to_owned()),
            Some(None) => return self.fail("a list stands where another type is expected"),
        };
        let items = self.items(b']', |reader, _| {
            let item = reader.value(of.as_deref(), depth + 1)?;
            of.get_or_insert_with(|| item.signature());
            Ok(item)
        })?;
        match of {
            Some(of) => Ok(Value::Array(of, items)),
            None => self.fail("an empty list needs its type, like @as []"),
        }
    }

    fn tuple(&mut self, expected: Option<&str>, depth: usize) -> Result<Value> {
        self.at += 1;
        let inner = match expected {
            None => None,
            Some(signature) => match signature.strip_prefix('(').and_then(|s| s.strip_suffix(')')) {
                Some(inner) => Some(fields(inner)),
                None => return self.fail("a tuple stands where another type is expected"),
            },
        };
        let fields = self.items(b')', |reader, index| {
            let of = match &inner {
                None => None,
                Some(all) => match all.get(index) {
                    Some(of) => Some(&**of),
                    None => return reader.fail("the tuple has more fields than its type"),
                },
            };
            reader.value(of, depth + 1)
        })?;
        if fields.is_empty() || inner.is_some_and(|inner| inner.len() != fields.len()) {
            return self.fail("the tuple has fewer fields than its type");
        }
        Ok(Value::Struct(fields))
    }

    /// Values between commas, up to `close`.
    fn items(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self, usize) -> Result<Value>,
    ) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            self.space();
            if self.eat(close) {
                return Ok(items);
            }
            if items.len() == ITEMS {
                return self.fail("a list has more than 256 items");
            }
            items.push(item(self, items.len())?);
            self.space();
            if !self.eat(b',') && self.peek() != Some(close) {
                return self.fail("a comma or the end of the list is missing");
            }
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let quote = self.peek();
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return self.fail("a text does not end");
            };
            self.at += 1;
            match byte {
                _ if Some(byte) == quote => break,
                b'\\' => {
                    let Some(escaped) = self.peek() else {
                        return self.fail("a text does not end");
                    };
                    self.at += 1;
                    bytes.push(match escaped {
                        b'n' => b'\n',
                        b't' => b'\t',
                        b'\\' | b'\'' | b'"' => escaped,
                        _ => return self.fail("an escape that is not read here"),
                    });
                }
                0 => return self.fail("a zero in a text"),
                _ => bytes.push(byte),
            }
        }
        // The input was a string, and only whole characters were taken out of it.
        String::from_utf8(bytes).or_else(|_| self.fail("a text is not UTF-8"))
    }
}

/// The first complete type of a signature, and the rest.
fn split(signature: &str) -> Option<(&str, &str)> {
    let length = match signature.bytes().next()? {
        b'a' => 1 + split(&signature[1..])?.0.len(),
        b'(' => {
            let mut rest = &signature[1..];
            while !rest.starts_with(')') {
                rest = split(rest)?.1;
            }
            signature.len() - rest.len() + 1
        }
        byte if b"ybnqiuxtdsog".contains(&byte) => 1,
        _ => return None,
    };
    (length != 2 || !signature.starts_with("()")).then(|| signature.split_at(length))
}

/// The types of a tuple's fields.
fn fields(mut signature: &str) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((first, rest)) = split(signature) {
        all.push(first.to_owned());
        signature = rest;
    }
    all
}

fn number(word: &str, expected: Option<&str>) -> Option<Value> {
    let decimal = word.contains(['.', 'e', 'E']) && !word.contains('x');
    let expected = expected.unwrap_or(if decimal { "d" } else { "i" });
    if expected == "d" {
        return word
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
            .map(Value::Double);
    }
    let (sign, digits) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word),
    };
    let hexadecimal = digits.strip_prefix("0x");
    let digits = hexadecimal.unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let radix = if hexadecimal.is_some() { 16 } else { 10 };
    let whole = sign * i128::from_str_radix(digits, radix).ok()?;
    Some(match expected {
        "y" => Value::Byte(whole.try_into().ok()?),
        "n" => Value::I16(whole.try_into().ok()?),
        "q" => Value::U16(whole.try_into().ok()?),
        "i" => Value::I32(whole.try_into().ok()?),
        "u" => Value::U32(whole.try_into().ok()?),
        "x" => Value::I64(whole.try_into().ok()?),
        "t" => Value::U64(whole.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Value {
        Value::Array(
            "s".to_owned(),
            items.iter().map(|item| Value::text(*item)).collect(),
        )
    }

    #[test]
    fn values_are_read() {
        let pair = Value::Struct(vec![Value::text("/dev/sda"), Value::U64(7)]);
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("-12", Value::I32(-12)),
            ("0x1f", Value::I32(31)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 5", Value::U64(5)),
            ("byte 255", Value::Byte(255)),
            ("1.5", Value::Double(1.5)),
            ("'a b'", Value::text("a b")),
            (r#" "it's\n" "#, Value::text("it's\n")),
            ("objectpath '/a'", Value::Path("/a".to_owned())),
            ("['a', 'b']", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            (
                "[uint64 1, 2]",
                Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)]),
            ),
            (
                "b'a'",
                Value::Array("y".into(), vec![Value::Byte(b'a'), Value::Byte(0)]),
            ),
            (
                "@a(st) [('/dev/sda', 7)]",
                Value::Array("(st)".into(), vec![pair.clone()]),
            ),
            ("('/dev/sda', uint64 7)", pair),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let deep = "[".repeat(50) + &"]".repeat(50);
        let many = format!("[{}]", "1,".repeat(300));
        let long = format!("'{}'", "a".repeat(5000));
        for text in [
            "",
            "nonsense",
            "'open",
            "[1, 'a']",
            "[]",
            "()",
            "1 2",
            "int32 3000000000",
            "byte -1",
            "@v 1",
            "@",
            "@(t 1",
            "{'a': 1}",
            "just 1",
            "<1>",
            "@s 5",
            "boolean 'a'",
            "uint64 -1",
            "1e999",
            "--1",
            "+-1",
            "0x",
            "'\\x'",
            "@t",
            "string string string string string 'a'",
            "[1 2]",
            "@() ()",
            "@(ss) ('a',)",
            "@s ['a']",
            &deep,
            &many,
            &long,
        ] {
            assert!(parse(text).is_err(), "{text:.60}");
        }
    }
}
