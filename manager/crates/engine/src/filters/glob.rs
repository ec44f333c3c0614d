//! Patterns of Go's `path.Match`: `*` and `?` do not match a slash, `[a-z]` and `[^a]` are classes, a backslash makes the next character plain.

/// Whether the whole text fits the pattern. A pattern that makes no sense fits nothing.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and up to where it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = one(&pattern, p, text[t]) {
            p = next;
            t += 1;
        } else {
            // Let the last star eat one more.
            match star {
                Some((at, eaten)) if text[eaten] != '/' => {
                    star = Some((at, eaten + 1));
                    (p, t) = (at + 1, eaten + 1);
                }
                _ => return false,
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Where the pattern goes on if its part at `p` fits this character.
fn one(pattern: &[char], p: usize, character: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => (character != '/').then_some(p + 1),
        '[' => class(pattern, p + 1, character),
        '\\' => (pattern.get(p + 1) == Some(&character)).then_some(p + 2),
        plain => (*plain == character).then_some(p + 1),
    }
}

/// A class that begins at `p`, behind its bracket.
fn class(pattern: &[char], mut p: usize, character: char) -> Option<usize> {
    let negated = pattern.get(p) == Some(&'^');
    p += usize::from(negated);
    let mut found = false;
    let mut first = true;
    loop {
        let low = *pattern.get(p)?;
        if low == ']' && !first {
            break;
        }
        first = false;
        let mut high = low;
        p += 1;
        if pattern.get(p) == Some(&'-') {
            high = *pattern.get(p + 1)?;
            p += 2;
        }
        found |= (low..=high).contains(&character);
    }
    (found != negated).then_some(p + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("a", "a", true),
            ("a*", "abc", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a*c*e", "abcde", true),
            ("a*c*f", "abcde", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]", "x", false),
            ("[a-", "a", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("debian:1*", "debian:12", true),
            ("*************b", &"a".repeat(10_000), false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
