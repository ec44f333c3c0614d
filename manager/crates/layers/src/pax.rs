//! PAX extended headers (POSIX pax, "pax Extended Header"): records `<length> <key>=<value>\n`, taken apart by their lengths, because a
//! value may hold any byte: file capabilities hold newlines.

use crate::sparse::{Records, number};

/// The prefix of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The prefix of what is said about holes.
const SPARSE: &[u8] = b"GNU.sparse.";
/// The longest value of an extended attribute (`XATTR_SIZE_MAX`), and the longest name (`XATTR_NAME_MAX`).
pub(crate) const MAX_XATTR: usize = 65536;
const MAX_XATTR_NAME: usize = 255;
/// How much all of an entry's attributes may hold: no file system of ours takes more.
const MAX_XATTRS: usize = 128 * 1024;
/// How many attributes an entry may have.
const MAX_XATTR_COUNT: usize = 1024;

/// What one extended header says about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(crate) mtime: Option<(i64, u32)>,
    /// Names and values of those that an archive may set, in the archive's order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What there is about holes, if anything.
    pub(crate) sparse: Option<Records>,
    /// Whether an attribute, or all together, is larger than any file can have.
    pub(crate) oversized: bool,
}

impl Extensions {
    /// Takes an extended header apart; `None` if it is malformed.
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut extensions = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|&b| b == b' ')?;
            let length: usize = number(&bytes[..space])?.try_into().ok()?;
            // The length counts itself, the space, the record and the newline.
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return None;
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=')?;
            extensions.set(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Some(extensions)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            // An empty value takes a global header's value back; there is none that we follow.
            _ if value.is_empty() && !key.starts_with(XATTR) => {}
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ if key.starts_with(SPARSE) => {
                let records = self.sparse.get_or_insert_default();
                records.set(&key[SPARSE.len()..], value)?;
            }
            _ => {
                // What is not wanted is dropped here, before it takes memory.
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| is_wanted(name)) {
                    let held: usize = self.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
                    if name.len() > MAX_XATTR_NAME
                        || value.len() > MAX_XATTR
                        || self.xattrs.len() == MAX_XATTR_COUNT
                        || held + name.len() + value.len() > MAX_XATTRS
                    {
                        self.oversized = true;
                    } else {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Some(())
    }
}

/// Whether an archive may set this extended attribute: users' own, file capabilities and access control lists. Not overlayfs' own, and no
/// label of a security module of the host where the image was made.
pub(crate) fn is_wanted(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    user || matches!(
        name,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
    )
}

/// `[-]seconds[.fraction]`; a negative time with a fraction is rounded as timespec wants it: nanoseconds count forward.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &text[text.len()..]),
    };
    let seconds = i64::try_from(number(seconds)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0, |sum, place| {
        sum * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length.to_string().len() + body != length {
            length += 1;
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn records_are_taken_apart_by_their_lengths() {
        let bytes = [
            record(b"path", "a/\u{e4}".as_bytes()),
            record(b"size", b"8589934592"),
            record(b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\n=\n\0"),
            record(b"mtime", b"1700000000.25"),
            record(b"comment", b"ignored"),
        ]
        .concat();
        assert_eq!(
            Extensions::parse(&bytes),
            Some(Extensions {
                path: Some("a/\u{e4}".into()),
                size: Some(1 << 33),
                mtime: Some((1_700_000_000, 250_000_000)),
                xattrs: vec![(b"security.capability".to_vec(), b"\x01\0\0\x02\n=\n\0".to_vec())],
                ..Extensions::default()
            })
        );
    }

    #[test]
    fn attributes_that_are_not_wanted_or_too_large_take_no_memory() {
        for (key, size, kept, oversized) in [
            ("SCHILY.xattr.trusted.overlay.opaque", 1, 0, false),
            ("SCHILY.xattr.user.overlay.opaque", 1, 0, false),
            ("SCHILY.xattr.security.selinux", 100_000, 0, false),
            ("SCHILY.xattr.user.a", 65536, 1, false),
            ("SCHILY.xattr.user.a", 65537, 0, true),
        ] {
            let bytes = record(key.as_bytes(), &vec![b'a'; size]);
            let parsed = Extensions::parse(&bytes).unwrap();
            assert_eq!(
                (parsed.xattrs.len(), parsed.oversized),
                (kept, oversized),
                "{key} {size}"
            );
        }
        let three: Vec<u8> = ["a", "b", "c"]
            .iter()
            .flat_map(|n| record(format!("SCHILY.xattr.user.{n}").as_bytes(), &[0; 60_000]))
            .collect();
        let parsed = Extensions::parse(&three).unwrap();
        assert_eq!((parsed.xattrs.len(), parsed.oversized), (2, true));
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bytes in [
            b"path=x\n".as_slice(),
            b"99 path=x\n",
            b"8 path=x\n",
            b"3 \n",
            b"0 a=b\n",
            b"18446744073709551616 a=b\n",
            b"7 ab\nxx",
            b"12 size=-99\n",
            b"13 uid=12345x",
        ] {
            assert_eq!(
                Extensions::parse(bytes),
                None,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn times_before_the_epoch_count_forward() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567899", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
