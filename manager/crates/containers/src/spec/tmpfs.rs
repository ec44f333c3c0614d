//! Options of memory file systems: docker's defaults with the user's over them.

use super::SpecError;

/// Flags that exclude each other; of each pair the later one counts.
const PAIRS: [(&str, &str); 8] = [
    ("rw", "ro"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("async", "sync"),
    ("atime", "noatime"),
    ("diratime", "nodiratime"),
    ("relatime", "strictatime"),
];
/// What tmpfs(5) takes with a value.
const VALUED: [&str; 9] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
    "huge",
    "nr_pages",
];
/// How mounts below travel; for a new file system only the container's own side counts.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
const DEFAULTS: [&str; 4] = ["nosuid", "nodev", "noexec", "rprivate"];

/// The mount's options: the defaults, then the user's, of which the last one of a kind counts.
pub(crate) fn options(target: &str, asked: &str) -> Result<Vec<String>, SpecError> {
    let mut merged: Vec<String> = DEFAULTS.map(str::to_owned).to_vec();
    for option in asked.split(',').filter(|option| !option.is_empty()) {
        let kind = kind(option).ok_or_else(|| SpecError::Mount {
            target: target.to_owned(),
            reason: format!("a tmpfs has no option {option:?}"),
        })?;
        merged.retain(|other| self::kind(other) != Some(kind));
        merged.push(option.to_owned());
    }
    Ok(merged)
}

/// What an option decides; options of one kind replace each other.
fn kind(option: &str) -> Option<&str> {
    if let Some((key, value)) = option.split_once('=') {
        return (VALUED.contains(&key) && !value.is_empty()).then_some(key);
    }
    if PROPAGATIONS.contains(&option) {
        return Some("rprivate");
    }
    PAIRS
        .into_iter()
        .find(|(one, other)| *one == option || *other == option)
        .map(|(one, _)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_option_counts() {
        for (asked, expected) in [
            ("", "nosuid,nodev,noexec,rprivate"),
            ("size=64m,exec", "nosuid,nodev,rprivate,size=64m,exec"),
            ("ro,rw,,suid", "nodev,noexec,rprivate,rw,suid"),
            (
                "mode=700,mode=1777,rshared",
                "nosuid,nodev,noexec,mode=1777,rshared",
            ),
        ] {
            assert_eq!(options("/t", asked).unwrap().join(","), expected, "{asked}");
        }
        for wrong in ["bogus", "size", "size=", "=1", "lowerdir=/etc"] {
            assert!(options("/t", wrong).is_err(), "{wrong}");
        }
    }
}
