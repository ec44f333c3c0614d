//! Sizes as users write them: `64m`, `1.5g`.

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is none.
    #[error("invalid size {text:?}: write a number with an optional unit b, k, m or g, such as 64m or 1.5g")]
    Malformed {
        /// The text.
        text: String,
    },
    /// It does not fit into 63 bits.
    #[error("invalid size {text:?}: it is larger than any machine's memory")]
    TooLarge {
        /// The text.
        text: String,
    },
}

/// Parses a size: a number with an optional fraction and an optional unit `b`, `k`, `m`, `g`, `t` or `p` (powers of 1024, also written
/// `kb` or `kib`, in any case). Without a unit it is bytes.
///
/// # Errors
/// If it is none, or does not fit into 63 bits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError::Malformed {
        text: text.to_owned(),
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(wrong()),
    };
    let value = parse_decimal(number, 1 << shift).ok_or_else(wrong)?;
    u64::try_from(value)
        .ok()
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| SizeError::TooLarge {
            text: text.to_owned(),
        })
}

/// `text` (digits with at most one point) times `factor`, rounded down; exact, as floating point would not be.
#[must_use]
pub fn parse_decimal(text: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()) && s.len() <= 18;
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let number = |s: &str| {
        if s.is_empty() {
            Some(0)
        } else {
            s.parse::<u128>().ok()
        }
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = number(fraction)?.checked_mul(factor)? / scale;
    number(whole)?.checked_mul(factor)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64m", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64mb", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            (".5k", Some(512)),
            ("4096", Some(4096)),
            ("12b", Some(12)),
            ("0", Some(0)),
            ("", None),
            (".", None),
            ("m", None),
            ("-1", None),
            ("1.2.3m", None),
            ("64x", None),
            ("64 m", None),
            ("999999999999p", None),
            ("９m", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text:?}");
        }
    }
}
