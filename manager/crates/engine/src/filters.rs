//! Conditions on what a list shows, by docker's names and with docker's meanings.
//!
//! ```text
//!   [key=value …] ──Filters::parse──▶ values by key ──containers, images, events──▶ which of them are shown
//! ```
//!
//! Several values of one key are alternatives, except labels, which must all be there; several keys must all be met. A key that is not known is
//! an error that lists those that are: a condition that is ignored would show too much.
//!
//! Everything here is pure: what a condition refers to (a container, an image) is looked up by the caller.

pub(crate) mod containers;
pub(crate) mod events;
mod glob;
pub(crate) mod images;

use std::collections::BTreeMap;

use croze_model::{Error, ErrorKind, Result};
use regex::{Regex, RegexBuilder};

/// A pattern that takes more memory than this is refused.
const PATTERN_BYTES: usize = 1 << 20;

/// A condition as users give it: `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What it is about, such as `name`.
    pub key: String,
    /// What it must be.
    pub value: String,
}

/// Conditions whose keys are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// Takes conditions on `what` (`containers`, `images`, `events`).
    pub(crate) fn parse(what: &'static str, known: &[&str], filters: &[Filter]) -> Result<Self> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for filter in filters {
            if !known.contains(&filter.key.as_str()) {
                return Err(
                    invalid(format!("invalid filter {:?}", filter.key), None).hint(format!(
                        "the filters of {what} are {}; write them as KEY=VALUE",
                        known.join(", ")
                    )),
                );
            }
            values
                .entry(filter.key.clone())
                .or_default()
                .push(filter.value.clone());
        }
        Ok(Self { values })
    }

    /// The values of a key; none: everything fits.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// The single value of a key that may be given once.
    pub(crate) fn single(&self, key: &str) -> Result<Option<&str>> {
        match self.values(key) {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(invalid(
                format!("invalid filter {key:?}: it is given more than once"),
                None,
            )),
        }
    }

    /// The patterns of a key: regular expressions that fit anywhere in a text.
    pub(crate) fn patterns(&self, key: &str) -> Result<Vec<Regex>> {
        let compile = |pattern: &String| {
            let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build();
            built.map_err(|error| {
                let reason = error.to_string();
                let last = reason.lines().last().unwrap_or_default().to_owned();
                invalid(format!("invalid filter \"{key}={pattern}\""), Some(last))
            })
        };
        self.values(key).iter().map(compile).collect()
    }

    /// Whether these labels have all that are asked for: `KEY`, or `KEY=value`.
    pub(crate) fn fit_labels<'label>(&self, lookup: impl Fn(&str) -> Option<&'label str>) -> bool {
        self.values("label")
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => lookup(key) == Some(value),
                None => lookup(wanted).is_some(),
            })
    }
}

/// An error of a filter.
pub(crate) fn invalid(what: String, why: Option<String>) -> Error {
    let error = Error::new(ErrorKind::InvalidArgument, "filter", what);
    match why {
        Some(why) => error.because(why),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn filters(pairs: &[(&str, &str)]) -> Vec<Filter> {
        let filter = |&(key, value): &(&str, &str)| Filter {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        pairs.iter().map(filter).collect()
    }

    #[test]
    fn an_unknown_key_names_the_known_ones() {
        let error = Filters::parse("containers", &["id", "name"], &filters(&[("nam", "x")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(format!("{error:?}").contains("id, name"), "{error:?}");
    }

    #[test]
    fn labels_must_all_be_there() {
        let labels = BTreeMap::from([("a", "1"), ("b", "")]);
        for (wanted, fits) in [
            (&[][..], true),
            (&[("label", "a")], true),
            (&[("label", "a=1"), ("label", "b")], true),
            (&[("label", "a=1"), ("label", "c")], false),
            (&[("label", "a=2")], false),
            (&[("label", "b=")], true),
        ] {
            let filters = Filters::parse("things", &["label"], &filters(wanted)).unwrap();
            assert_eq!(
                filters.fit_labels(|key| labels.get(key).copied()),
                fits,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn patterns_that_make_no_sense_are_refused() {
        for bad in ["(", "a{1000000}{1000000}"] {
            let filters = Filters::parse("things", &["name"], &filters(&[("name", bad)])).unwrap();
            assert!(filters.patterns("name").is_err(), "{bad}");
        }
    }
}
