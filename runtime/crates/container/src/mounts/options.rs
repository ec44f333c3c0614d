//! Mount options: words to attributes, propagation and data for the file system. Pure.

use croze_sys::mount::{Attributes, Depth, Propagation};

/// What the options of one mount mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether an existing tree is bound, and how deep.
    pub bind: Option<Depth>,
    /// Attributes of the mount itself.
    pub own: Change,
    /// Attributes of the mount and of all below it (`rro` and its like).
    pub recursive: Change,
    /// Whether owners are mapped (`idmap`, `ridmap`), and how deep.
    pub id_map: Option<Depth>,
    /// Changes of propagation, in order.
    pub propagation: Vec<(Propagation, Depth)>,
    /// What the image has at the destination is copied into the new tmpfs (`tmpcopyup`).
    pub copy_up: bool,
    /// A source that is a symbolic link is made again instead of being followed (`copy-symlink`, which crun has).
    pub copy_link: bool,
    /// What is left for the file system.
    pub data: Vec<String>,
}

/// Attributes that are set and cleared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// To be set.
    pub set: Attributes,
    /// To be cleared.
    pub clear: Attributes,
}

impl Change {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }

    fn set(&mut self, attribute: Attributes) {
        if Attributes::ATIME_MASK.contains(attribute) {
            // The ways to keep access times exclude one another, and the kernel wants them cleared together.
            self.set = self.set.without(Attributes::ATIME_MASK);
            self.clear = self.clear.with(Attributes::ATIME_MASK);
        } else {
            self.clear = self.clear.without(attribute);
        }
        self.set = self.set.with(attribute);
    }

    fn clear(&mut self, attribute: Attributes) {
        self.set = self.set.without(attribute);
        let is_atime = Attributes::ATIME_MASK.contains(attribute);
        self.clear = self.clear.with(if is_atime {
            Attributes::ATIME_MASK
        } else {
            attribute
        });
    }
}

enum Meaning {
    Set(Attributes),
    Clear(Attributes),
}

/// The options about attributes. Each is known recursively too, with an `r` in front.
const ATTRIBUTES: [(&str, Meaning); 18] = [
    ("ro", Meaning::Set(Attributes::READ_ONLY)),
    ("rw", Meaning::Clear(Attributes::READ_ONLY)),
    ("nosuid", Meaning::Set(Attributes::NO_SUID)),
    ("suid", Meaning::Clear(Attributes::NO_SUID)),
    ("nodev", Meaning::Set(Attributes::NO_DEV)),
    ("dev", Meaning::Clear(Attributes::NO_DEV)),
    ("noexec", Meaning::Set(Attributes::NO_EXEC)),
    ("exec", Meaning::Clear(Attributes::NO_EXEC)),
    ("nodiratime", Meaning::Set(Attributes::NO_DIR_ATIME)),
    ("diratime", Meaning::Clear(Attributes::NO_DIR_ATIME)),
    ("noatime", Meaning::Set(Attributes::NO_ATIME)),
    ("atime", Meaning::Clear(Attributes::NO_ATIME)),
    ("strictatime", Meaning::Set(Attributes::STRICT_ATIME)),
    ("nostrictatime", Meaning::Clear(Attributes::STRICT_ATIME)),
    // Relative access times are the kernel's default: the zero of the mask.
    ("relatime", Meaning::Clear(Attributes::ATIME_MASK)),
    ("norelatime", Meaning::Clear(Attributes::NONE)),
    ("nosymfollow", Meaning::Set(Attributes::NO_SYMLINK_FOLLOW)),
    ("symfollow", Meaning::Clear(Attributes::NO_SYMLINK_FOLLOW)),
];

/// Options that change nothing, or only what the kernel prints.
const IGNORED: [&str; 10] = [
    "defaults",
    "async",
    "nomand",
    "nodirsync",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "nolazytime",
    "remount",
];

/// All options that have a meaning here, for `features`.
pub fn known_options() -> Vec<String> {
    let attributes = ATTRIBUTES
        .iter()
        .flat_map(|(name, _)| [(*name).to_owned(), format!("r{name}")]);
    let others = [
        "bind",
        "rbind",
        "copy-symlink",
        "idmap",
        "ridmap",
        "tmpcopyup",
        "sync",
        "dirsync",
        "lazytime",
        "mand",
    ];
    let propagations = PROPAGATIONS.iter().map(|(name, ..)| (*name).to_owned());
    let mut all: Vec<String> = attributes
        .chain(others.into_iter().chain(IGNORED).map(str::to_owned))
        .chain(propagations)
        .collect();
    all.sort_unstable();
    all
}

const PROPAGATIONS: [(&str, Propagation, Depth); 8] = [
    ("private", Propagation::Private, Depth::One),
    ("rprivate", Propagation::Private, Depth::Recursive),
    ("slave", Propagation::Slave, Depth::One),
    ("rslave", Propagation::Slave, Depth::Recursive),
    ("shared", Propagation::Shared, Depth::One),
    ("rshared", Propagation::Shared, Depth::Recursive),
    ("unbindable", Propagation::Unbindable, Depth::One),
    ("runbindable", Propagation::Unbindable, Depth::Recursive),
];

/// The propagation of this name.
pub fn propagation(name: &str) -> Option<(Propagation, Depth)> {
    PROPAGATIONS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, propagation, depth)| (*propagation, *depth))
}

/// Reads the options of one mount.
pub fn parse(options: &[String]) -> MountOptions {
    let mut parsed = MountOptions::default();
    for option in options {
        if let Some(change) = propagation(option) {
            parsed.propagation.push(change);
        } else if let Some((_, meaning)) = ATTRIBUTES.iter().find(|(name, _)| name == option) {
            parsed.own.apply(meaning);
        } else if let Some((_, meaning)) = recursive(option) {
            parsed.recursive.apply(meaning);
        } else {
            match option.as_str() {
                "bind" => parsed.bind = Some(Depth::One),
                "rbind" => parsed.bind = Some(Depth::Recursive),
                "tmpcopyup" => parsed.copy_up = true,
                "copy-symlink" => parsed.copy_link = true,
                "idmap" => parsed.id_map = Some(Depth::One),
                "ridmap" => parsed.id_map = Some(Depth::Recursive),
                "" => {}
                known if IGNORED.contains(&known) => {}
                _ => parsed.data.push(option.clone()),
            }
        }
    }
    parsed
}

fn recursive(option: &str) -> Option<&'static (&'static str, Meaning)> {
    let name = option.strip_prefix('r')?;
    ATTRIBUTES.iter().find(|(known, _)| *known == name)
}

impl Change {
    fn apply(&mut self, meaning: &Meaning) {
        match meaning {
            Meaning::Set(attribute) => self.set(*attribute),
            Meaning::Clear(attribute) if attribute.is_empty() => {}
            Meaning::Clear(attribute) => self.clear(*attribute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        parse(&options)
    }

    #[test]
    fn words_become_attributes() {
        let nosuid_nodev = Attributes::NO_SUID.with(Attributes::NO_DEV);
        let cases: [(&[&str], Attributes, Attributes); 8] = [
            (&[], Attributes::NONE, Attributes::NONE),
            (&["nosuid", "nodev"], nosuid_nodev, Attributes::NONE),
            (&["ro"], Attributes::READ_ONLY, Attributes::NONE),
            (&["ro", "rw"], Attributes::NONE, Attributes::READ_ONLY),
            (&["rw", "ro"], Attributes::READ_ONLY, Attributes::NONE),
            (
                &["noatime", "strictatime"],
                Attributes::STRICT_ATIME,
                Attributes::ATIME_MASK,
            ),
            (&["noatime", "relatime"], Attributes::NONE, Attributes::ATIME_MASK),
            (&["defaults", "norelatime"], Attributes::NONE, Attributes::NONE),
        ];
        for (options, set, clear) in cases {
            assert_eq!(parsed(options).own, Change { set, clear }, "{options:?}");
        }
    }

    #[test]
    fn recursive_words_are_kept_apart() {
        let options = parsed(&["rbind", "nosuid", "rro", "rnosymfollow", "rshared"]);
        assert_eq!(options.bind, Some(Depth::Recursive));
        assert_eq!(options.own.set, Attributes::NO_SUID);
        assert_eq!(
            options.recursive.set,
            Attributes::READ_ONLY.with(Attributes::NO_SYMLINK_FOLLOW)
        );
        assert_eq!(options.propagation, [(Propagation::Shared, Depth::Recursive)]);
        // "rw" is "read-write", not a recursive "w"; "relatime" is no recursive "elatime".
        assert_eq!(parsed(&["rw", "relatime"]).recursive, Change::default());
    }

    #[test]
    fn what_nobody_knows_is_the_file_systems() {
        let options = parsed(&["mode=755", "size=64k", "newinstance", "tmpcopyup", "bind"]);
        assert_eq!(options.data, ["mode=755", "size=64k", "newinstance"]);
        assert!(options.copy_up);
        assert_eq!(options.bind, Some(Depth::One));
    }

    #[test]
    fn owners_are_mapped_for_one_mount_or_for_all() {
        assert_eq!(parsed(&["rbind", "idmap"]).id_map, Some(Depth::One));
        assert_eq!(parsed(&["rbind", "ridmap"]).id_map, Some(Depth::Recursive));
        assert!(known_options().contains(&"rro".to_owned()));
    }
}
