//! What somebody may have meant by a word that nothing is called.

/// The candidate that is spelled most alike, if one is alike enough to be meant: at most one letter wrong, and one more for every four.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.len() / 4;
    let (distance, nearest) = candidates
        .into_iter()
        // Too far in any case; this also bounds the work that a very long word would make.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= allowed)
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate))
        .min()?;
    let length = word.len().max(nearest.len());
    (distance < length && distance <= allowed).then_some(nearest)
}

/// How many letters must be put in, taken out, changed, or made to change places with their neighbour, to make one word of the other (the optimal
/// string alignment distance).
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = above[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = changed.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_meant() {
        let verbs = ["run", "ps", "rm", "rmi", "images", "network"];
        for (word, meant) in [
            ("rnu", Some("run")),
            ("runn", Some("run")),
            ("image", Some("images")),
            ("netwrok", Some("network")),
            ("zzzz", None),
            ("x", None),
            ("sp", Some("ps")),
            ("", None),
        ] {
            assert_eq!(nearest(word, verbs), meant, "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn distances_are_counted_in_letters() {
        for (from, to, letters) in [
            ("", "", 0),
            ("", "ab", 2),
            ("web", "wbe", 1),
            ("web", "wab", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from.as_bytes(), to.as_bytes()), letters, "{from} {to}");
            assert_eq!(distance(to.as_bytes(), from.as_bytes()), letters, "{to} {from}");
        }
    }
}
