//! The values of D-Bus, and how they lie in a message.
//!
//! Each value begins at a multiple of its alignment, counted from the start of the message's body:
//!
//! | type | signature | alignment | layout |
//! |---|---|---|---|
//! | byte, signature's length | `y` | 1 | |
//! | 16 bits | `n` `q` | 2 | |
//! | 32 bits, boolean | `i` `u` `b` | 4 | |
//! | 64 bits | `x` `t` `d` | 8 | |
//! | text, object path | `s` `o` | 4 | length in 32 bits, bytes, a zero |
//! | signature | `g` | 1 | length in a byte, bytes, a zero |
//! | array | `aT` | 4 | length in bytes, padding to T's alignment, the items |
//! | structure | `(…)` | 8 | its fields |
//! | variant | `v` | 1 | signature, value |

use super::Error;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `aT`: the signature of its items, which an empty one would not tell, and the items.
    Array(String, Vec<Value>),
    /// `(…)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Its signature.
    #[must_use]
    pub fn signature(&self) -> String {
        let basic = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Double(_) => "d",
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(of, _) => return format!("a{of}"),
            Self::Struct(fields) => {
                let inner: String = fields.iter().map(Self::signature).collect();
                return format!("({inner})");
            }
        };
        basic.to_owned()
    }
}

/// The alignment of a type, by the first letter of its signature.
fn alignment(signature: &str) -> usize {
    match signature.bytes().next() {
        Some(b'n' | b'q') => 2,
        Some(b'i' | b'u' | b'b' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Writes values one behind the other.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Zeros up to a multiple of `to`.
    pub fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    /// A single byte, unaligned.
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn length(&mut self, length: usize) {
        // Nothing that is sent comes near 4 GiB.
        self.0
            .extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// A value, with the padding before it.
    pub fn value(&mut self, value: &Value) {
        self.pad(alignment(&value.signature()));
        match value {
            Value::Byte(v) => self.0.push(*v),
            Value::Bool(v) => self.0.extend(u32::from(*v).to_le_bytes()),
            Value::I16(v) => self.0.extend(v.to_le_bytes()),
            Value::U16(v) => self.0.extend(v.to_le_bytes()),
            Value::I32(v) => self.0.extend(v.to_le_bytes()),
            Value::U32(v) => self.0.extend(v.to_le_bytes()),
            Value::I64(v) => self.0.extend(v.to_le_bytes()),
            Value::U64(v) => self.0.extend(v.to_le_bytes()),
            Value::Double(v) => self.0.extend(v.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                self.length(text.len());
                self.0.extend(text.bytes());
                self.0.push(0);
            }
            Value::Signature(text) => self.signature(text),
            Value::Array(of, items) => {
                let at = self.0.len();
                self.length(0);
                // The padding before the first item is not counted.
                self.pad(alignment(of));
                let start = self.0.len();
                items.iter().for_each(|item| self.value(item));
                let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
                self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => fields.iter().for_each(|field| self.value(field)),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.bytes());
        self.0.push(0);
    }
}

/// Reads values one behind the other: those without items, which is all that systemd answers to us.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Reads from the start of a body, or of a header's fields.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Skips padding.
    pub fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = end.unwrap_or(usize::MAX);
        taken.ok_or(Error::Malformed {
            what: "a value goes over the end of its message",
        })
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.align(N);
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn text_of(&mut self, length: usize) -> Result<String, Error> {
        let bytes = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(bytes).map_err(|_| Error::Malformed {
            what: "a text is not UTF-8",
        })
    }

    /// A text or an object path.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn text(&mut self) -> Result<String, Error> {
        let length = self.u32()?;
        self.text_of(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A signature.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn signature(&mut self) -> Result<String, Error> {
        let length = usize::from(self.take(1)?[0]);
        self.text_of(length)
    }

    /// A value of a type without items.
    ///
    /// # Errors
    /// [`Error::Malformed`], for arrays and structures too.
    pub fn value(&mut self, signature: &str) -> Result<Value, Error> {
        Ok(match signature {
            "y" => Value::Byte(self.take(1)?[0]),
            "b" => Value::Bool(self.u32()? != 0),
            "n" => Value::I16(i16::from_le_bytes(self.number()?)),
            "q" => Value::U16(u16::from_le_bytes(self.number()?)),
            "i" => Value::I32(i32::from_le_bytes(self.number()?)),
            "u" => Value::U32(self.u32()?),
            "x" => Value::I64(i64::from_le_bytes(self.number()?)),
            "t" => Value::U64(u64::from_le_bytes(self.number()?)),
            "d" => Value::Double(f64::from_le_bytes(self.number()?)),
            "s" => Value::Text(self.text()?),
            "o" => Value::Path(self.text()?),
            "g" => Value::Signature(self.signature()?),
            "v" => {
                let inner = self.signature()?;
                if inner == "v" {
                    return Err(Error::Malformed {
                        what: "a variant in a variant",
                    });
                }
                Value::Variant(Box::new(self.value(&inner)?))
            }
            _ => {
                return Err(Error::Malformed {
                    what: "a value of a type that is not expected",
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[Value]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        values.iter().for_each(|value| encoder.value(value));
        encoder.into_bytes()
    }

    #[test]
    fn values_lie_as_the_specification_has_it() {
        assert_eq!(bytes(&[Value::Byte(1), Value::U32(2)]), [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes(&[Value::text("ab")]), [2, 0, 0, 0, b'a', b'b', 0]);
        assert_eq!(
            bytes(&[Value::Variant(Box::new(Value::Bool(true)))]),
            [1, b'b', 0, 0, 1, 0, 0, 0]
        );
        // An array of structures: its length leaves out the padding before the first.
        let item = Value::Struct(vec![Value::text("k"), Value::U64(7)]);
        assert_eq!(item.signature(), "(st)");
        assert_eq!(
            bytes(&[Value::Array("(st)".to_owned(), vec![item])]),
            [
                16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'k', 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(bytes(&[Value::Array("t".to_owned(), vec![])]), [0; 8]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let values = [
            Value::Byte(1),
            Value::I64(-5),
            Value::U16(6),
            Value::Double(0.5),
            Value::text("path"),
            Value::Path("/a".into()),
            Value::Signature("as".into()),
            Value::Variant(Box::new(Value::U64(9))),
            Value::I16(-1),
            Value::I32(-2),
            Value::Bool(false),
        ];
        let written = bytes(&values);
        let mut decoder = Decoder::new(&written);
        for value in values {
            assert_eq!(decoder.value(&value.signature()).unwrap(), value);
        }
        assert!(decoder.is_at_end());
    }

    #[test]
    fn nothing_is_read_over_the_end() {
        for (signature, bytes) in [
            ("s", &[255, 255, 255, 255, b'a'][..]),
            ("s", &[2, 0, 0, 0, b'a', b'b']),
            ("t", &[1, 2, 3]),
            ("g", &[9, b'a']),
            ("s", &[1, 0, 0, 0, 0xff, 0]),
            ("as", &[0, 0, 0, 0]),
            ("v", &[1, b'v', 0]),
            ("y", &[]),
        ] {
            let error = Decoder::new(bytes).value(signature).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{signature} {bytes:?}");
        }
    }
}
