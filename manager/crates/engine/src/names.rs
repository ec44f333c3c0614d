//! Made-up names of containers: `adjective_noun`, drawn from the container's random id.

use croze_model::{ContainerId, ContainerName};

/// After so many names that were all taken, a number makes the next one unique enough.
const PLAIN_ATTEMPTS: usize = 4;

const ADJECTIVES: [&str; 64] = [
    "able", "airy", "amber", "apt", "arctic", "ashen", "avid", "balmy", "bold", "brave", "brisk", "bronze",
    "calm", "candid", "cedar", "civil", "clear", "copper", "cosy", "crisp", "deft", "eager", "early", "fair",
    "firm", "fleet", "fond", "gentle", "glad", "golden", "grand", "hale", "hardy", "honest", "humble",
    "ivory", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry", "mild", "neat",
    "nimble", "noble", "oaken", "patient", "plain", "proud", "quick", "quiet", "ready", "rustic", "sage",
    "sober", "spry", "steady", "sunny", "swift", "tidy", "warm",
];

const NOUNS: [&str; 64] = [
    "adze", "alder", "anvil", "auger", "awl", "barge", "barrel", "beech", "bevel", "birch", "bucket", "bung",
    "cask", "chisel", "chime", "cooper", "cork", "crane", "croze", "dowel", "drum", "elm", "ferry", "flagon",
    "forge", "gauge", "gimlet", "harbour", "hazel", "hoop", "jetty", "jug", "keel", "keg", "kiln", "lathe",
    "ledger", "linden", "mallet", "maple", "mast", "mill", "oak", "orchard", "pail", "plane", "quay", "raft",
    "rivet", "rope", "rowan", "rudder", "sail", "sledge", "spigot", "spruce", "stave", "tankard", "timber",
    "vat", "vine", "wharf", "willow", "yew",
];

/// The name for this id and this attempt (0, 1, …): the same for the same input, another for each attempt.
pub(crate) fn for_id(id: &ContainerId, attempt: usize) -> Option<ContainerName> {
    let digits = id.as_str().as_bytes();
    // Two bytes of the id per word, another four with each attempt.
    let number = |word: usize| -> usize {
        (0..4)
            .map(|i| digits[(attempt * 8 + word * 4 + i) % digits.len()])
            .fold(0, |sum, digit| sum * 16 + hex_value(digit))
    };
    let mut name = format!(
        "{}_{}",
        ADJECTIVES[number(0) % ADJECTIVES.len()],
        NOUNS[number(1) % NOUNS.len()]
    );
    if attempt >= PLAIN_ATTEMPTS {
        name.push_str(&format!("{}", number(2) % 1000));
    }
    name.parse().ok()
}

fn hex_value(digit: u8) -> usize {
    char::from(digit).to_digit(16).map_or(0, |value| value as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(n: u8) -> ContainerId {
        let mut bytes = [0; 32];
        for (i, byte) in (0_u8..).zip(bytes.iter_mut()) {
            *byte = n.wrapping_mul(31).wrapping_add(i.wrapping_mul(97));
        }
        ContainerId::from_random(bytes)
    }

    #[test]
    fn words_are_valid_names_and_different() {
        for words in [&ADJECTIVES, &NOUNS] {
            assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
            assert!(
                words
                    .iter()
                    .all(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
            );
        }
    }

    #[test]
    fn names_depend_on_id_and_attempt_alone() {
        assert_eq!(for_id(&id(1), 0), for_id(&id(1), 0));
        let names: HashSet<_> = (0..100)
            .filter_map(|n| for_id(&id(n), 0))
            .map(|name| name.to_string())
            .collect();
        assert!(
            names.len() > 50,
            "only {} different names for 100 ids",
            names.len()
        );
        let late = for_id(&id(1), PLAIN_ATTEMPTS).unwrap().to_string();
        assert!(late.ends_with(|c: char| c.is_ascii_digit()), "{late}");
    }
}
