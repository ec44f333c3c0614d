//! The way through indexes that name indexes, to the image for one platform.
//!
//! ```text
//!   looked at next: 1. what is for exactly this platform      2. an index that does not say what it holds
//!                   3. what else runs on the platform, the best first   4. a manifest alone in its index that does not say what it is for
//! ```
//!
//! So an image for the platform counts first, wherever it stands. Each index is named by its digest in the one before, which is why there are
//! no circles; there may be many: [`MAX_INDEXES`] are looked at. This decides from what was read, and fetches nothing.

use croze_model::Platform;
use oci_spec::image::{Descriptor, ImageIndex};

use crate::error::RegistryError;
use crate::manifest::{DOCKER_LIST, OCI_INDEX};

/// How many indexes are looked at for one image.
const MAX_INDEXES: usize = 16;
/// How many platforms an error lists, and how long the name of each may be, in characters.
const MAX_LISTED: usize = 50;
const LONGEST_LISTED: usize = 80;

/// What was seen on the way.
#[derive(Debug)]
pub(crate) struct Descent<'a> {
    wanted: &'a Platform,
    /// What runs on the platform, and how well.
    fitting: Vec<(usize, Descriptor)>,
    /// Indexes that do not say what they hold, the first last.
    nested: Vec<Descriptor>,
    /// Manifests of which the config says what they are for, the first last.
    unnamed: Vec<Descriptor>,
    /// Why the first of those that are named and not there is not.
    missing: Option<RegistryError>,
    /// How many entries were followed.
    steps: usize,
    /// The platforms that were seen, the first [`MAX_LISTED`] of them.
    available: Vec<String>,
    /// Whether there were more.
    has_more: bool,
}

/// What to look at next.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) entry: Descriptor,
    /// There is something else to look at without it.
    pub(crate) may_be_missing: bool,
}

impl<'a> Descent<'a> {
    pub(crate) fn new(wanted: &'a Platform) -> Self {
        Self {
            wanted,
            fitting: Vec::new(),
            nested: Vec::new(),
            unnamed: Vec::new(),
            missing: None,
            steps: 0,
            available: Vec::new(),
            has_more: false,
        }
    }

    /// Takes note of what an index names.
    pub(crate) fn enter(&mut self, index: &ImageIndex) {
        let entries = index.manifests();
        // The first of an index comes before the rest of it, and before what is left of the indexes around it.
        for entry in entries.iter().rev() {
            match entry.platform().as_ref().map(platform_of) {
                Some(platform) => {
                    if let Some(rank) = platform.rank(self.wanted) {
                        self.fitting.push((rank, entry.clone()));
                    }
                }
                None if is_index(entry) => self.nested.push(entry.clone()),
                None if entries.len() == 1 => self.unnamed.push(entry.clone()),
                None => {}
            }
        }
        let platforms = entries.iter().filter_map(|entry| entry.platform().as_ref());
        for platform in platforms.map(platform_of) {
            // Attestations are listed as unknown/unknown.
            if platform.os != "unknown" {
                self.list(&platform);
            }
        }
    }

    /// What was to be looked at is not there. It may have had the platform: if nothing else has it, that is the error.
    pub(crate) fn lacks(&mut self, error: RegistryError) {
        self.missing.get_or_insert(error);
    }

    fn list(&mut self, platform: &Platform) {
        // The registry's words: one line of plain text, and not much of it.
        let text: String = platform.to_string().chars().take(LONGEST_LISTED).collect();
        let text = text.replace(char::is_control, "?");
        if self.available.contains(&text) {
        } else if self.available.len() < MAX_LISTED {
            self.available.push(text);
        } else {
            self.has_more = true;
        }
    }

    /// What to look at next.
    ///
    /// # Errors
    /// [`RegistryError::NoPlatform`] if nothing is left, or what [`Descent::lacks`] was told; [`RegistryError::TooManyIndexes`] if it is too
    /// far away.
    pub(crate) fn next(&mut self, what: &str) -> Result<Step, RegistryError> {
        self.steps += 1;
        let exact = self.best().filter(|&at| self.fitting[at].0 == 0);
        // The last step is for what is known by then.
        let may_search = self.steps < MAX_INDEXES;
        if exact.is_none()
            && may_search
            && let Some(entry) = self.nested.pop()
        {
            let is_all = self.fitting.is_empty() && self.nested.is_empty() && self.unnamed.is_empty();
            return Ok(Step {
                entry,
                may_be_missing: !is_all,
            });
        }
        let found = match exact.or_else(|| self.best()) {
            Some(at) => Some(self.fitting.remove(at).1),
            None => self.unnamed.pop(),
        };
        match found {
            _ if self.steps > MAX_INDEXES => Err(self.too_many(what)),
            Some(entry) => Ok(Step {
                entry,
                may_be_missing: false,
            }),
            None if !self.nested.is_empty() => Err(self.too_many(what)),
            None => Err(self.missing.take().unwrap_or_else(|| self.no_platform(what))),
        }
    }

    /// Where the best of what fits is; of several the one that was seen first, the innermost index first.
    fn best(&self) -> Option<usize> {
        let places = (0..self.fitting.len()).rev();
        places.min_by_key(|&at| self.fitting[at].0)
    }

    fn too_many(&self, what: &str) -> RegistryError {
        RegistryError::TooManyIndexes {
            what: what.to_owned(),
            limit: MAX_INDEXES,
        }
    }

    fn no_platform(&self, what: &str) -> RegistryError {
        let mut available = self.available.join(", ");
        if self.has_more {
            available.push_str(" and more");
        }
        if available.is_empty() {
            available.push_str("none");
        }
        RegistryError::NoPlatform {
            what: what.to_owned(),
            wanted: self.wanted.clone(),
            available,
        }
    }
}

fn platform_of(platform: &oci_spec::image::Platform) -> Platform {
    Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        // Some write it though there is none.
        variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
    }
}

fn is_index(entry: &Descriptor) -> bool {
    matches!(entry.media_type().to_string().as_str(), OCI_INDEX | DOCKER_LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    /// An index of entries `NUMBER PLATFORM`, `NUMBER index` or `NUMBER manifest`; the number is the entry's size, by which it is known.
    fn index(entries: &[&str]) -> ImageIndex {
        let digest = croze_model::Digest::of(b"");
        let entries = entries.iter().map(|entry| {
            let (size, kind) = entry.split_once(' ').unwrap();
            let media_type = if kind == "index" { OCI_INDEX } else { MANIFEST };
            let platform = kind.split_once('/').map(|(os, architecture)| {
                let (architecture, variant) = architecture.split_once('/').unwrap_or((architecture, ""));
                serde_json::json!({ "os": os, "architecture": architecture, "variant": variant })
            });
            let mut entry = serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size.parse::<u64>().unwrap() });
            if let Some(platform) = platform {
                entry["platform"] = platform;
            }
            entry
        });
        let entries: Vec<_> = entries.collect();
        serde_json::from_value(serde_json::json!({ "schemaVersion": 2, "manifests": entries })).unwrap()
    }

    /// Enters one index after the other, as they are asked for; returns what was followed, and the error at the end.
    fn follow(wanted: &str, indexes: &[&[&str]]) -> (Vec<(u64, bool)>, String) {
        let wanted = wanted.parse().unwrap();
        let mut descent = Descent::new(&wanted);
        let mut followed = Vec::new();
        let mut indexes = indexes.iter();
        descent.enter(&index(indexes.next().unwrap()));
        loop {
            match descent.next("x") {
                Ok(step) => {
                    followed.push((step.entry.size(), step.may_be_missing));
                    if *step.entry.media_type() == oci_spec::image::MediaType::ImageIndex
                        && let Some(entries) = indexes.next()
                    {
                        descent.enter(&index(entries));
                    }
                }
                Err(error) => return (followed, error.to_string()),
            }
        }
    }

    #[test]
    fn what_fits_best_counts_first_wherever_it_stands() {
        let order = |wanted: &str, indexes: &[&[&str]]| -> Vec<u64> {
            follow(wanted, indexes).0.iter().map(|(size, _)| *size).collect()
        };
        for (indexes, expected) in [
            (
                &[&["1 linux/arm64", "2 linux/amd64", "3 linux/386"][..]][..],
                &[2, 3][..],
            ),
            (&[&["1 linux/amd64", "2 linux/amd64"]], &[1, 2]),
            // A worse one does not hide what an index in the index may hold.
            (&[&["1 linux/386", "2 index"], &["3 linux/amd64"]], &[2, 3, 1]),
            (&[&["1 linux/386", "2 index"], &["3 linux/arm64"]], &[2, 1]),
            (&[&["1 linux/amd64", "2 index"]], &[1, 2]),
            // What says nothing comes last, and only if it is alone.
            (&[&["1 index", "2 linux/386"], &["3 manifest"]], &[1, 2, 3]),
            (&[&["1 manifest"]], &[1]),
            (&[&["1 manifest", "2 manifest"]], &[]),
            (
                &[&["1 index", "2 index"], &["3 linux/arm64"], &["4 linux/amd64"]],
                &[1, 2, 4],
            ),
        ] {
            assert_eq!(order("linux/amd64", indexes), expected, "{indexes:?}");
        }
        let (followed, _) = follow("linux/amd64", &[&["1 linux/386", "2 index"]]);
        assert_eq!(followed, [(2, true), (1, false)], "who has 1 does without 2");
        let (followed, _) = follow("linux/amd64", &[&["1 index", "2 index"], &["3 manifest"]]);
        assert_eq!(followed, [(1, true), (2, true), (3, false)]);
        let (followed, _) = follow("linux/amd64", &[&["1 index"]]);
        assert_eq!(followed, [(1, false)], "there is nothing else");
    }

    #[test]
    fn as_many_indexes_as_one_likes_are_not_looked_at() {
        let flat: Vec<String> = (1..100).map(|n| format!("{n} index")).collect();
        let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
        let (followed, error) = follow("linux/amd64", &[&flat]);
        assert_eq!(followed.len(), 15);
        assert!(error.contains("more than 16 indexes"), "{error}");
        // What is known by then is taken.
        let with_one = [&flat[..], &["100 linux/386"]].concat();
        let (followed, _) = follow("linux/amd64", &[&with_one]);
        assert_eq!(followed.last(), Some(&(100, false)));
        let deep: &[&str] = &["1 index"];
        assert_eq!(follow("linux/amd64", &[deep; 100]).0.len(), 15);
    }

    #[test]
    fn a_platform_that_is_missing_is_told_with_those_that_are_there() {
        let available = |entries: &[&str]| follow("linux/amd64", &[entries]).1;
        assert_eq!(
            available(&[
                "1 linux/arm64",
                "2 linux/riscv64",
                "3 unknown/unknown",
                "4 linux/arm64"
            ]),
            "x has no image for linux/amd64: it has linux/arm64, linux/riscv64"
        );
        assert_eq!(available(&[]), "x has no image for linux/amd64: it has none");
        let many: Vec<String> = (0..1000)
            .map(|n| format!("1 os{n}/{}", "a".repeat(1000)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = available(&many);
        assert!(error.ends_with(" and more") && error.len() < 5000, "{error}");
    }
}
