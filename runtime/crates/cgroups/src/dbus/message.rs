//! Messages: a header of twelve bytes, its fields, a body.
//!
//! ```text
//! 'l' │ kind │ flags │ 1 │ body's length │ serial │ fields' length │ (number, variant)… │ pad to 8 │ body
//! ```

use super::Error;
use super::value::{Decoder, Encoder, Value};

/// The fixed part with the length of the fields.
pub(super) const PROLOGUE: usize = 16;
/// The longest message that is read; what systemd tells us is far below.
const LIMIT: usize = 1 << 20;

const CALL: u8 = 1;
const REPLY: u8 = 2;
const FAILURE: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Whose it is.
    pub destination: &'static str,
    /// The object.
    pub path: &'static str,
    /// The interface.
    pub interface: &'static str,
    /// Its name.
    pub member: &'static str,
}

/// What kind of message it is, with what tells it from others of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call {
        /// The method's name.
        member: String,
    },
    /// The answer to the call with this serial number.
    Reply {
        /// The call's number.
        to: u32,
    },
    /// The answer to the call with this serial number: it failed.
    Failure {
        /// The call's number.
        to: u32,
        /// The error's name.
        name: String,
    },
    /// Something has happened.
    Signal {
        /// The signal's name.
        member: String,
    },
}

/// A message that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub kind: Kind,
    /// Its own number.
    pub serial: u32,
    /// The signature of its body.
    pub signature: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// A call as it is sent.
#[must_use]
pub fn call(serial: u32, method: &Method, arguments: &[Value]) -> Vec<u8> {
    let fields = vec![
        field(PATH, Value::Path(method.path.to_owned())),
        field(INTERFACE, Value::text(method.interface)),
        field(MEMBER, Value::text(method.member)),
        field(DESTINATION, Value::text(method.destination)),
    ];
    encode(CALL, serial, fields, arguments)
}

fn field(number: u8, value: Value) -> Value {
    Value::Struct(vec![Value::Byte(number), Value::Variant(Box::new(value))])
}

fn encode(kind: u8, serial: u32, mut fields: Vec<Value>, arguments: &[Value]) -> Vec<u8> {
    let mut body = Encoder::default();
    arguments.iter().for_each(|argument| body.value(argument));
    let body = body.into_bytes();
    if !arguments.is_empty() {
        let signature = arguments.iter().map(Value::signature).collect();
        fields.push(field(SIGNATURE, Value::Signature(signature)));
    }
    let mut header = Encoder::default();
    for byte in [b'l', kind, 0, 1] {
        header.byte(byte);
    }
    header.value(&Value::U32(u32::try_from(body.len()).unwrap_or(u32::MAX)));
    header.value(&Value::U32(serial));
    header.value(&Value::Array("(yv)".to_owned(), fields));
    header.pad(8);
    let mut bytes = header.into_bytes();
    bytes.extend(body);
    bytes
}

/// How many bytes come after the prologue.
///
/// # Errors
/// It is no message, or one that is not read here.
pub(super) fn remaining(prologue: &[u8; PROLOGUE]) -> Result<usize, Error> {
    if prologue[0] != b'l' || prologue[3] != 1 {
        return Err(Error::Malformed {
            what: "a message of another byte order or version",
        });
    }
    let mut numbers = Decoder::new(&prologue[4..]);
    let mut next = || numbers.u32().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (body, _, fields) = (next()?, next()?, next()?);
    if body > LIMIT || fields > LIMIT {
        return Err(Error::Malformed {
            what: "a message that is too long",
        });
    }
    Ok(fields.next_multiple_of(8) + body)
}

impl Message {
    /// Reads a message; `rest` is what comes after the prologue.
    pub(super) fn parse(prologue: &[u8; PROLOGUE], rest: &[u8]) -> Result<Self, Error> {
        let serial = Decoder::new(&prologue[8..]).u32()?;
        let fields = usize::try_from(Decoder::new(&prologue[12..]).u32()?).unwrap_or(usize::MAX);
        let missing = Error::Malformed {
            what: "a message without the fields of its kind",
        };
        let (Some(fields), Some(body)) = (rest.get(..fields), rest.get(fields.next_multiple_of(8)..)) else {
            return Err(missing);
        };
        let mut known = Fields::default();
        let mut decoder = Decoder::new(fields);
        while !decoder.is_at_end() {
            decoder.align(8);
            known.take(&mut decoder)?;
        }
        let kind = match (prologue[1], known.reply_to, known.member, known.error) {
            (CALL, _, Some(member), _) => Kind::Call { member },
            (REPLY, Some(to), _, _) => Kind::Reply { to },
            (FAILURE, Some(to), _, Some(name)) => Kind::Failure { to, name },
            (SIGNAL, _, Some(member), _) => Kind::Signal { member },
            _ => return Err(missing),
        };
        Ok(Self {
            kind,
            serial,
            signature: known.signature,
            body: body.to_vec(),
        })
    }

    /// The values of its body.
    ///
    /// # Errors
    /// The body has another type than `signature`, or is cut off.
    pub fn values(&self, signature: &str) -> Result<Vec<Value>, Error> {
        if self.signature != signature {
            return Err(Error::Malformed {
                what: "a message with a body of another type",
            });
        }
        let mut decoder = Decoder::new(&self.body);
        (0..signature.len())
            .map(|at| decoder.value(&signature[at..=at]))
            .collect()
    }
}

#[derive(Default)]
struct Fields {
    reply_to: Option<u32>,
    member: Option<String>,
    error: Option<String>,
    signature: String,
}

impl Fields {
    fn take(&mut self, decoder: &mut Decoder<'_>) -> Result<(), Error> {
        let number = decoder.value("y")?;
        let Value::Variant(value) = decoder.value("v")? else {
            return Ok(());
        };
        match (number, *value) {
            (Value::Byte(REPLY_SERIAL), Value::U32(to)) => self.reply_to = Some(to),
            (Value::Byte(MEMBER), Value::Text(member)) => self.member = Some(member),
            (Value::Byte(ERROR_NAME), Value::Text(name)) => self.error = Some(name),
            (Value::Byte(SIGNATURE), Value::Signature(signature)) => self.signature = signature,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A reply, an error or a signal as a peer would send it.
    pub(crate) fn reply(to: u32, arguments: &[Value]) -> Vec<u8> {
        encode(REPLY, 1, vec![field(REPLY_SERIAL, Value::U32(to))], arguments)
    }

    pub(crate) fn failure(to: u32, name: &str, message: &str) -> Vec<u8> {
        let fields = vec![
            field(REPLY_SERIAL, Value::U32(to)),
            field(ERROR_NAME, Value::text(name)),
        ];
        encode(FAILURE, 1, fields, &[Value::text(message)])
    }

    pub(crate) fn signal(member: &str, arguments: &[Value]) -> Vec<u8> {
        let fields = vec![
            field(PATH, Value::Path("/org/freedesktop/systemd1".into())),
            field(MEMBER, Value::text(member)),
        ];
        encode(SIGNAL, 1, fields, arguments)
    }

    fn parsed(bytes: &[u8]) -> Result<Message, Error> {
        let prologue = bytes.first_chunk::<PROLOGUE>().unwrap();
        let rest = &bytes[PROLOGUE..];
        assert_eq!(remaining(prologue)?, rest.len());
        Message::parse(prologue, rest)
    }

    #[test]
    fn messages_survive_the_wire() {
        let method = Method {
            destination: "d.e",
            path: "/p",
            interface: "i.f",
            member: "Do",
        };
        let message = parsed(&call(7, &method, &[Value::text("x"), Value::U32(3)])).unwrap();
        let kind = Kind::Call {
            member: "Do".to_owned(),
        };
        assert_eq!((message.kind.clone(), message.serial), (kind, 7));
        assert_eq!(message.values("su").unwrap(), [Value::text("x"), Value::U32(3)]);
        assert!(message.values("s").is_err());

        let failed = parsed(&failure(9, "a.b", "no")).unwrap();
        let kind = Kind::Failure {
            to: 9,
            name: "a.b".to_owned(),
        };
        assert_eq!(failed.kind, kind);
        assert_eq!(parsed(&reply(4, &[])).unwrap().kind, Kind::Reply { to: 4 });
    }

    #[test]
    fn strange_messages_are_refused() {
        let good = reply(4, &[Value::text("x")]);
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            let prologue = *bytes.first_chunk::<PROLOGUE>().unwrap();
            remaining(&prologue).and_then(|_| Message::parse(&prologue, &bytes[PROLOGUE..]))
        };
        for (at, to) in [
            (0, b'B'),
            (1, CALL),
            (3, 2),
            (7, 255),
            (15, 255),
            (12, 200),
            (1, 77),
        ] {
            assert!(changed(at, to).is_err(), "{at} {to}");
        }
        assert!(changed(0, b'l').is_ok());
    }
}
