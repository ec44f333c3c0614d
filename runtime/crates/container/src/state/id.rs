//! Container ids: they become directory names, so they are checked before anything is touched.

use std::fmt;

/// The longest id that is accepted: a directory name is at most 255 bytes, and temporary names are made beside it.
const LONGEST: usize = 240;

/// A valid container id: one or more of `A-Z a-z 0-9 _ + - .`, and neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

/// Why an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No id was given.
    #[error("container id cannot be empty")]
    Empty,
    /// It has a character that is not allowed, or is `.` or `..`.
    #[error(
        "invalid container ID format: {id:?}: invalid character `{character}` in the ID (use letters, digits, '_', '+', '-', '.')"
    )]
    Format {
        /// The id as given.
        id: String,
        /// The first character at fault.
        character: char,
    },
    /// It does not fit a directory name.
    #[error("container ID is too long: {length} bytes, at most {LONGEST}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl Id {
    /// Checks an id as it came from the command line.
    ///
    /// # Errors
    /// [`IdError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        let dots = matches!(text, "." | "..").then_some('.');
        if let Some(character) = dots.or_else(|| text.chars().find(|c| !allowed(c))) {
            return Err(IdError::Format {
                id: text.to_owned(),
                character,
            });
        }
        if text.len() > LONGEST {
            return Err(IdError::TooLong { length: text.len() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_accepted_or_refused() {
        for good in [
            "a",
            "0",
            "web-1",
            "a.b",
            "...",
            "A_b+c-d.e",
            "-x",
            &"x".repeat(LONGEST),
        ] {
            assert_eq!(Id::parse(good).unwrap().as_str(), good);
        }
        for bad in [".", "..", "a/b", "../x", "a b", "a\n", "é", "a:b", "a\0"] {
            assert!(matches!(Id::parse(bad), Err(IdError::Format { .. })), "{bad:?}");
        }
        assert_eq!(Id::parse(""), Err(IdError::Empty));
        assert_eq!(Id::parse(&"x".repeat(241)), Err(IdError::TooLong { length: 241 }));
    }
}
