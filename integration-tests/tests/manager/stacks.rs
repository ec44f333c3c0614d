//! Stacks of layers made at random, but sensibly: whatever they hold, the tree is the one that umoci unpacks.
//!
//! `CROZE_TEST_STACKS` says how many (20), `CROZE_TEST_SEED` where to begin (1). A failure names its seed.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use croze_integration_tests::{Entry, LayerTar};

use crate::trees::{compare, on_stage, repository};

/// The names that trees are made of; few, so that layers meet.
const NAMES: [&str; 5] = ["a", "b", "c", ".d", "e\u{e9}"];
/// How deep a tree may be.
const DEPTH: usize = 3;

/// xorshift64*: the same numbers for the same seed, everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % limit
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    /// With a number that its hard links share.
    File(usize),
    Other,
}

/// What the layers so far show.
#[derive(Default)]
struct Model {
    shown: BTreeMap<String, Kind>,
    files: usize,
}

impl Model {
    fn new_file(&mut self) -> Kind {
        self.files += 1;
        Kind::File(self.files)
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.shown
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.shown.get(path) == Some(&Kind::Directory)
    }
}

fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

fn path(chance: &mut Chance) -> String {
    let depth = 1 + chance.below(DEPTH);
    let names: Vec<&str> = (0..depth).map(|_| NAMES[chance.below(NAMES.len())]).collect();
    names.join("/")
}

fn dressed(chance: &mut Chance, entry: Entry, modes: &[u32]) -> Entry {
    let seconds = i64::try_from(1_000_000_000 + chance.below(500_000_000)).unwrap_or(0);
    let nanoseconds = u32::try_from(chance.below(1_000_000_000)).unwrap_or(0);
    let owner = (chance.below(3) as u64 * 1000, chance.below(70_000) as u64);
    let entry = entry
        .mode(modes[chance.below(modes.len())])
        .owner(owner.0, owner.1)
        .mtime(seconds, nanoseconds);
    let takes_attributes = matches!(entry.kind, b'0' | b'5');
    if takes_attributes && chance.one_in(4) {
        return entry.xattr("user.chance", &[u8::try_from(chance.below(256)).unwrap_or(0)]);
    }
    entry
}

/// One layer, with what it makes of the model.
struct Layer<'a> {
    chance: &'a mut Chance,
    model: &'a mut Model,
    /// What the layers below show.
    below: BTreeMap<String, Kind>,
    entries: Vec<Entry>,
    /// Paths with an entry in this layer.
    own: BTreeMap<String, ()>,
}

impl Layer<'_> {
    /// Directory entries for whatever is above a path and is no directory (yet); now and then for one that is.
    fn parents(&mut self, path: &str) {
        let parts: Vec<&str> = above(path).split('/').filter(|part| !part.is_empty()).collect();
        for end in 1..=parts.len() {
            let directory = parts[..end].join("/");
            if self.model.is_directory(&directory) && !self.chance.one_in(6) {
                continue;
            }
            self.put_directory(&directory);
        }
    }

    fn put_directory(&mut self, path: &str) {
        if !self.model.is_directory(path) {
            self.model.remove(path);
        }
        let entry = dressed(self.chance, Entry::dir(path), &[0o755, 0o700, 0o1777, 0o2750]);
        self.entries.push(entry);
        self.own.insert(path.to_owned(), ());
        self.model.shown.insert(path.to_owned(), Kind::Directory);
    }

    fn put(&mut self, path: &str, entry: Entry, kind: Kind, modes: &[u32]) {
        self.model.remove(path);
        let entry = dressed(self.chance, entry, modes);
        self.entries.push(entry);
        self.own.insert(path.to_owned(), ());
        self.model.shown.insert(path.to_owned(), kind);
    }

    fn touches(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.own.keys().any(|own| own == path || own.starts_with(&below))
    }

    fn step(&mut self) {
        let path = path(self.chance);
        // A second entry of one name, or one above what this layer has, is for tests of their own.
        if self.touches(&path) {
            return;
        }
        match self.chance.below(12) {
            0..=3 => {
                self.parents(&path);
                let data = vec![b'x'; self.chance.below(2000)];
                let kind = self.model.new_file();
                self.put(
                    &path,
                    Entry::file(path.as_str(), data),
                    kind,
                    &[0o644, 0o4755, 0o600],
                );
            }
            4 | 5 => {
                self.parents(&path);
                self.put_directory(&path);
            }
            6 => {
                self.parents(&path);
                self.put(
                    &path,
                    Entry::symlink(path.as_str(), "../x/y"),
                    Kind::Other,
                    &[0o777],
                );
            }
            7 => {
                self.parents(&path);
                let entry = if self.chance.one_in(2) {
                    Entry::fifo(path.as_str())
                } else {
                    Entry::device(path.as_str(), 1, 7)
                };
                self.put(&path, entry, Kind::Other, &[0o600, 0o666]);
            }
            8 | 9 => self.whiteout(&path),
            10 => self.opaque(&path),
            _ => self.link(&path),
        }
    }

    /// Hides something that is there, or nothing.
    fn whiteout(&mut self, path: &str) {
        if !self.model.is_directory(above(path)) {
            return;
        }
        let (above, name) = path
            .rsplit_once('/')
            .map_or(("", path), |(above, name)| (above, name));
        let slash = if above.is_empty() { "" } else { "/" };
        self.entries
            .push(Entry::file(format!("{above}{slash}.wh.{name}"), ""));
        self.own.insert(path.to_owned(), ());
        self.model.remove(path);
        // Half of them come back as something new.
        if self.chance.one_in(2) {
            self.put_directory(path);
        }
    }

    /// Hides all that a directory has below this layer.
    fn opaque(&mut self, path: &str) {
        if !self.model.is_directory(path) {
            return;
        }
        let inside = format!("{path}/");
        let own = &self.own;
        self.model.shown.retain(|other, _| {
            !other.starts_with(&inside)
                || own
                    .keys()
                    .any(|own| own == other || own.starts_with(&format!("{other}/")))
        });
        self.entries.push(Entry::file(format!("{path}/.wh..wh..opq"), ""));
    }

    /// A hard link to a file, of this layer or below, that has no other name yet.
    fn link(&mut self, path: &str) {
        let shown = &self.model.shown;
        let single = |number: usize| shown.values().filter(|&&kind| kind == Kind::File(number)).count() == 1;
        let targets: Vec<(String, Kind)> = shown
            .iter()
            .filter(|(_, kind)| matches!(kind, Kind::File(number) if single(*number)))
            .map(|(path, kind)| (path.clone(), *kind))
            .collect();
        if targets.is_empty() {
            return;
        }
        let (target, kind) = targets[self.chance.below(targets.len())].clone();
        let inside = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}/"));
        // What would be replaced by the link, or by a directory for it, cannot be its target.
        if target == path || inside(&target, path) || inside(path, &target) || self.below.contains_key(path) {
            return;
        }
        self.parents(path);
        if self.model.shown.get(&target) != Some(&kind) {
            return;
        }
        self.put(path, Entry::hard_link(path, target.as_str()), kind, &[0o644]);
    }
}

/// A stack of two to six layers.
fn stack(seed: u64) -> Vec<Vec<u8>> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::default();
    // The base has these.
    for path in ["bin", "etc", "dev", "proc", "sys"] {
        model.shown.insert(path.to_owned(), Kind::Directory);
    }
    let count = 2 + chance.below(5);
    (0..count)
        .map(|_| {
            let steps = 1 + chance.below(25);
            let below = model.shown.clone();
            let mut layer = Layer {
                chance: &mut chance,
                model: &mut model,
                below,
                entries: Vec::new(),
                own: BTreeMap::new(),
            };
            for _ in 0..steps {
                layer.step();
            }
            LayerTar::of(layer.entries)
        })
        .collect()
}

/// What the layers hold, for whoever has to understand a failure.
fn listing(layers: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for (n, layer) in layers.iter().enumerate() {
        text.push_str(&format!("layer {n}:"));
        for entry in tar::Archive::new(layer.as_slice())
            .entries()
            .into_iter()
            .flatten()
            .flatten()
        {
            let kind = char::from(entry.header().entry_type().as_byte());
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let link = entry.link_name_bytes();
            let link = link.map(|link| format!(" -> {}", String::from_utf8_lossy(&link)));
            text.push_str(&format!("\n  {kind} {path}{}", link.unwrap_or_default()));
        }
        text.push('\n');
    }
    text
}

fn number(variable: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(otherwise),
    }
}

#[test]
fn random_stacks_come_out_as_umoci_has_them() -> Result<()> {
    let (count, first) = (number("CROZE_TEST_STACKS", 20)?, number("CROZE_TEST_SEED", 1)?);
    on_stage(|scene, registry, daemon| {
        for seed in first..first + count {
            let name = format!("stack-{seed}");
            let layers = stack(seed);
            compare(scene, registry, daemon, &name, &layers)
                .with_context(|| format!("seed {seed}:\n{}", listing(&layers)))?;
            daemon.ok(&["rmi", &registry.reference(&repository(&name))])?;
        }
        Ok(())
    })
}
