//! Images that somebody may have meant by a name that no image has here.

use std::collections::BTreeSet;

use croze_model::{Reference, nearest};

/// So many names are told; more would be a list, which `croze images` prints better.
const MOST: usize = 3;

/// The names that may have been meant, as people write them: those of the same repository, else those of the repository that is spelled most alike;
/// the one with the same tag alone if there is one. Empty if nothing is near.
pub(crate) fn near<'a>(wanted: &Reference, names: impl IntoIterator<Item = &'a Reference>) -> Vec<String> {
    let names: Vec<&Reference> = names.into_iter().collect();
    let repositories: BTreeSet<String> = names.iter().map(|name| name.familiar_repository()).collect();
    let asked = wanted.familiar_repository();
    let Some(repository) = nearest(&asked, repositories.iter().map(String::as_str)) else {
        return Vec::new();
    };
    let of_repository = names
        .iter()
        .filter(|name| name.familiar_repository() == repository);
    let same_tag = of_repository.clone().find(|name| name.tag() == wanted.tag());
    match same_tag {
        Some(name) => vec![name.familiar()],
        None => of_repository.map(|name| name.familiar()).take(MOST).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_by_repository_first() {
        let names: Vec<Reference> = [
            "busybox:latest",
            "debian:bookworm",
            "debian:trixie",
            "localhost:5000/small:latest",
        ]
        .map(|name| name.parse().unwrap())
        .to_vec();
        for (wanted, meant) in [
            ("debian", &["debian:bookworm", "debian:trixie"][..]),
            ("debain:trixie", &["debian:trixie"]),
            ("debian:bookwrom", &["debian:bookworm", "debian:trixie"]),
            ("bussybox", &["busybox:latest"]),
            ("localhost:5000/smal", &["localhost:5000/small:latest"]),
            ("nginx", &[]),
        ] {
            assert_eq!(near(&wanted.parse().unwrap(), &names), meant, "{wanted}");
        }
        assert!(near(&"debian".parse().unwrap(), &[]).is_empty());
    }
}
