//! Conditions on images.

use croze_images::Image;
use croze_model::{Reference, Result};

use super::{Filter, Filters, glob, invalid};

/// What may be asked for.
const KNOWN: [&str; 5] = ["before", "dangling", "label", "reference", "since"];

/// Conditions on images, understood.
#[derive(Debug)]
pub(crate) struct ImageFilters {
    filters: Filters,
    dangling: Option<bool>,
}

impl ImageFilters {
    pub(crate) fn parse(filters: &[Filter]) -> Result<Self> {
        let filters = Filters::parse("images", &KNOWN, filters)?;
        let dangling = match filters.single("dangling")? {
            None => None,
            Some("true" | "1" | "t" | "True" | "TRUE") => Some(true),
            Some("false" | "0" | "f" | "False" | "FALSE") => Some(false),
            Some(other) => {
                return Err(invalid(
                    format!("invalid filter \"dangling={other}\": it is true or false"),
                    None,
                ));
            }
        };
        filters.single("before")?;
        filters.single("since")?;
        Ok(Self { filters, dangling })
    }

    /// The image that `before` names.
    pub(crate) fn before(&self) -> Option<&str> {
        self.filters.values("before").first().map(String::as_str)
    }

    /// The image that `since` names.
    pub(crate) fn since(&self) -> Option<&str> {
        self.filters.values("since").first().map(String::as_str)
    }

    /// Whether labels are asked for, which stand in the images' configurations.
    pub(crate) fn wants_labels(&self) -> bool {
        !self.filters.values("label").is_empty()
    }

    /// Whether an image has the wanted labels.
    pub(crate) fn fits_labels<'label>(&self, lookup: impl Fn(&str) -> Option<&'label str>) -> bool {
        self.filters.fit_labels(lookup)
    }

    /// The image as far as it fits, with those of its names that do. The times are those of the images that `before` and `since` name.
    pub(crate) fn select(
        &self,
        mut image: Image,
        before: Option<&str>,
        since: Option<&str>,
    ) -> Option<Image> {
        let made = image.created.as_deref().unwrap_or_default();
        // RFC 3339 in UTC sorts as text does.
        if before.is_some_and(|before| made >= before) || since.is_some_and(|since| made <= since) {
            return None;
        }
        let is_dangling = image.references.is_empty() && image.repo_digests.is_empty();
        if self.dangling.is_some_and(|wanted| wanted != is_dangling) {
            return None;
        }
        let patterns = self.filters.values("reference");
        if !patterns.is_empty() {
            image.references.retain(|name| is_meant(name, patterns));
            image.repo_digests.retain(|name| is_meant(name, patterns));
            if image.references.is_empty() && image.repo_digests.is_empty() {
                return None;
            }
        }
        Some(image)
    }
}

/// A pattern means a name as people write it, whole or without its tag or digest.
fn is_meant(name: &Reference, patterns: &[String]) -> bool {
    let (whole, repository) = (name.familiar(), name.familiar_repository());
    patterns
        .iter()
        .any(|pattern| glob::fits(pattern, &whole) || glob::fits(pattern, &repository))
}

#[cfg(test)]
mod tests {
    use croze_model::Digest;

    use super::super::tests::filters;
    use super::*;

    fn image(names: &[&str], created: &str) -> Image {
        Image {
            id: Digest::of(b"image"),
            manifest: Digest::of(b"manifest"),
            references: names.iter().map(|name| name.parse().unwrap()).collect(),
            repo_digests: vec![],
            layers: vec![],
            size: 0,
            created: Some(created.to_owned()),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }

    #[test]
    fn conditions_and_the_names_they_leave() {
        for (pairs, names, left) in [
            (&[][..], &["debian:12"][..], Some(1)),
            (
                &[("reference", "debian")],
                &["debian:12", "debian:13", "other:1"],
                Some(2),
            ),
            (
                &[("reference", "debian:13")],
                &["debian:12", "debian:13"],
                Some(1),
            ),
            (&[("reference", "deb*:1?")], &["debian:12"], Some(1)),
            (&[("reference", "*")], &["localhost:5000/a:1"], None),
            (&[("reference", "*/*")], &["localhost:5000/a:1"], Some(1)),
            (&[("dangling", "true")], &["a:1"], None),
            (&[("dangling", "true")], &[], Some(0)),
            (&[("dangling", "false")], &["a:1"], Some(1)),
        ] {
            let selected =
                ImageFilters::parse(&filters(pairs))
                    .unwrap()
                    .select(image(names, "2026"), None, None);
            assert_eq!(
                selected.map(|image| image.references.len()),
                left,
                "{pairs:?} {names:?}"
            );
        }
    }

    #[test]
    fn before_and_since_compare_times() {
        let all = ImageFilters::parse(&[]).unwrap();
        for (before, since, shown) in [
            (Some("2026-01-02"), None, true),
            (Some("2026-01-01"), None, false),
            (None, Some("2026-01-01"), false),
            (None, Some("2025"), true),
        ] {
            let selected = all.select(image(&[], "2026-01-01"), before, since);
            assert_eq!(selected.is_some(), shown, "{before:?} {since:?}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for pairs in [
            &[("dangling", "perhaps")][..],
            &[("name", "x")],
            &[("since", "a"), ("since", "b")],
        ] {
            assert!(ImageFilters::parse(&filters(pairs)).is_err(), "{pairs:?}");
        }
    }
}
