//! `--storage-opt`: how much a container may write besides its mounts, in docker's words.
//!
//! `size` is docker's (of its driver `overlay2`), `inodes` podman's. 0 means that there is no limit, also where the daemon has one for all.

use std::collections::BTreeMap;

use croze_model::{Error, ErrorKind, Result, SizeError, parse_size};
use croze_snapshots::Limit;

/// What is wrong with an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageOptError {
    /// There is no such option.
    #[error("unknown storage option {name:?}: there are size and inodes")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The size is none.
    #[error("the storage option size: {0}")]
    Size(#[source] SizeError),
    /// The number of inodes is none.
    #[error("the storage option inodes: {text:?} is no whole number")]
    Inodes {
        /// As given.
        text: String,
    },
}

/// The limits that these options mean, over those that are in force without them.
///
/// # Errors
/// If an option is unknown or malformed.
pub fn storage_limit(
    options: &BTreeMap<String, String>,
    otherwise: Limit,
) -> std::result::Result<Limit, StorageOptError> {
    let given = |value: u64| Some(value).filter(|&value| value != 0);
    let mut limit = otherwise;
    for (name, value) in options {
        match name.to_ascii_lowercase().as_str() {
            "size" => limit.bytes = given(parse_size(value).map_err(StorageOptError::Size)?),
            "inodes" => {
                let number = value
                    .trim()
                    .parse()
                    .map_err(|_| StorageOptError::Inodes { text: value.clone() })?;
                limit.inodes = given(number);
            }
            _ => return Err(StorageOptError::Unknown { name: name.clone() }),
        }
    }
    Ok(limit)
}

/// Adds the limits that hold and were not asked for, so that who looks at the container finds them: they stay its own when the daemon has others.
pub(crate) fn show_limit(options: &mut BTreeMap<String, String>, limit: Limit) {
    for (name, value) in [("size", limit.bytes), ("inodes", limit.inodes)] {
        let is_said = options.keys().any(|said| said.eq_ignore_ascii_case(name));
        if let Some(value) = value.filter(|_| !is_said) {
            options.insert(name.to_owned(), value.to_string());
        }
    }
}

/// As [`storage_limit`], for a request.
pub(crate) fn limit_of_request(options: &BTreeMap<String, String>, otherwise: Limit) -> Result<Limit> {
    storage_limit(options, otherwise)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "create", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_over_what_is_in_force_without_it() {
        let all = Limit {
            bytes: Some(5),
            inodes: Some(7),
        };
        let table: [(&[(&str, &str)], Limit); 6] = [
            (&[], all),
            (
                &[("size", "10G")],
                Limit {
                    bytes: Some(10 << 30),
                    ..all
                },
            ),
            (&[("SIZE", "0")], Limit { bytes: None, ..all }),
            (
                &[("inodes", "100")],
                Limit {
                    inodes: Some(100),
                    ..all
                },
            ),
            (
                &[("size", "1m"), ("inodes", "0")],
                Limit {
                    bytes: Some(1 << 20),
                    inodes: None,
                },
            ),
            (
                &[("size", "1.5k")],
                Limit {
                    bytes: Some(1536),
                    ..all
                },
            ),
        ];
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        for (pairs, expected) in table {
            assert_eq!(storage_limit(&map(pairs), all), Ok(expected), "{pairs:?}");
            // What is shown means the same, whatever the daemon's limits are.
            let mut shown = map(pairs);
            show_limit(&mut shown, expected);
            assert_eq!(storage_limit(&shown, Limit::default()), Ok(expected), "{pairs:?}");
            assert!(pairs.iter().all(|(k, v)| shown[*k] == *v), "{shown:?}");
        }
        let mut none = BTreeMap::new();
        show_limit(&mut none, Limit::default());
        assert!(none.is_empty());
        for (name, value, words) in [
            ("size", "ten", "such as 64m"),
            ("size", "-1", "such as 64m"),
            ("inodes", "1k", "no whole number"),
            ("dm.basesize", "1G", "there are size and inodes"),
        ] {
            let error = limit_of_request(&map(&[(name, value)]), all).unwrap_err();
            assert!(error.one_line().contains(words), "{}", error.one_line());
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
