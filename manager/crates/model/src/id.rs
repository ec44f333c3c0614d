//! Identifiers and names of containers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no identifier or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("container id {text:?} is malformed: expected 64 lower-case hexadecimal digits")]
    MalformedId {
        /// The text as given.
        text: String,
    },
    /// Not a name by docker's rule.
    #[error(
        "invalid container name {text:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two characters at least"
    )]
    MalformedName {
        /// The text as given.
        text: String,
    },
}

/// A container's identifier: 32 random bytes, written as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// An identifier from 32 random bytes. An identifier whose first 12 digits are all decimal would be taken for a number as a host name;
    /// the caller draws again (see [`ContainerId::is_numeric`]).
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(hex::encode(bytes))
    }

    /// Whether the short form consists of decimal digits only.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        self.short().bytes().all(|b| b.is_ascii_digit())
    }

    /// The 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as docker shows identifiers.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let well_formed = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::MalformedId {
                text: text.to_owned(),
            })
        }
    }
}

/// A container's name, by docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName(String);

impl ContainerName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // docker's own clients may put a slash before a name; it is no part of it.
        let name = text.strip_prefix('/').unwrap_or(text);
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first && rest && (2..=255).contains(&name.len()) {
            Ok(Self(name.to_owned()))
        } else {
            Err(IdError::MalformedName {
                text: text.to_owned(),
            })
        }
    }
}

macro_rules! text_like {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

text_like!(ContainerId);
text_like!(ContainerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "web-1", "A.b_c", "0x", "/slash"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "-a", ".a", "a b", "a/b", "ä1", "//x", "a\n"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
        assert_eq!("/slash".parse::<ContainerName>().unwrap().as_str(), "slash");
    }

    #[test]
    fn ids_are_64_lower_case_digits() {
        let id = ContainerId::from_random([0xab; 32]);
        assert_eq!(id.short(), "abababababab");
        assert_eq!(id.as_str().parse::<ContainerId>().unwrap(), id);
        assert!(!id.is_numeric() && ContainerId::from_random([0x11; 32]).is_numeric());
        for bad in ["", "ab", "../../etc", &"A".repeat(64), &"g".repeat(64)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
