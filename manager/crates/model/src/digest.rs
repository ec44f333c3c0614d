//! Content digests (OCI image-spec, descriptor.md, "Digests"). Only `sha256` is accepted: it is the one every registry speaks.

use std::fmt;
use std::io;
use std::str::FromStr;

use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` part.
    #[error("digest {text:?} has no algorithm: expected sha256:<64 hexadecimal digits>")]
    NoAlgorithm {
        /// The text as given, its beginning if it is long.
        text: String,
    },
    /// The algorithm is not one we verify.
    #[error("digest algorithm {algorithm:?} is not supported: only sha256 is")]
    UnknownAlgorithm {
        /// The algorithm as given, its beginning if it is long.
        algorithm: String,
    },
    /// The encoded part is not 64 lower-case hexadecimal digits.
    #[error("digest {text:?} is malformed: expected sha256:<64 lower-case hexadecimal digits>")]
    Malformed {
        /// The text as given, its beginning if it is long.
        text: String,
    },
}

/// A SHA-256 digest, written `sha256:<64 hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::finished(&digest(&SHA256, bytes))
    }

    fn finished(digest: &ring::digest::Digest) -> Self {
        let mut bytes = [0; 32];
        // SHA-256 always gives 32 bytes; the zip leaves no way to panic.
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// A digest from its 32 raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm: used as a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hexadecimal digits, as docker shows identifiers.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// The digest from its 64 hexadecimal digits without the algorithm.
    ///
    /// # Errors
    /// [`DigestError::Malformed`] if the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed { text: shown(text) };
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(malformed());
        }
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| malformed())?;
        Ok(Self(bytes))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, encoded)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm { text: shown(text) });
        };
        if algorithm != "sha256" {
            return Err(DigestError::UnknownAlgorithm {
                algorithm: shown(algorithm),
            });
        }
        Self::from_hex(encoded).map_err(|_| DigestError::Malformed { text: shown(text) })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Hashes and counts what passes through to the writer inside.
pub struct DigestWriter<W> {
    inner: W,
    hasher: Context,
    bytes: u64,
}

impl<W: fmt::Debug> fmt::Debug for DigestWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestWriter")
            .field("inner", &self.inner)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl<W> DigestWriter<W> {
    /// A writer that hashes everything `inner` accepts.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Context::new(&SHA256),
            bytes: 0,
        }
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The writer inside, the digest of what passed, and how many bytes that was.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::finished(&self.hasher.finish()), self.bytes)
    }
}

impl<W: io::Write> io::Write for DigestWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.hasher.update(&buf[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The beginning of what a registry may have made as long as it likes.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_print_as_they_parse() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let upper = EMPTY.replace('e', "E");
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:zz",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &upper,
            &EMPTY[1..],
            "sha256:../../../../etc/passwd",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_writer_hashes_what_passes() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"croze").unwrap();
        let (inner, digest, bytes) = writer.finish();
        assert_eq!(
            (inner.as_slice(), digest, bytes),
            (b"croze".as_slice(), Digest::of(b"croze"), 5)
        );
    }
}
