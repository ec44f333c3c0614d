//! Chains: which layers a stack of diff ids means, and what metadata its directories really have.
//!
//! A tar may hold `usr/bin/tool` without `usr` and `usr/bin`. Unpacked alone those directories are made up ("implicit"), and overlayfs
//! would show their made-up mode and owner instead of what the base image says, because it takes a merged directory's metadata from the
//! topmost layer. So such directories are put, with the right metadata, into one tiny layer on top.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use croze_model::Digest;

use crate::error::SnapshotError;
use crate::records::LayerRecord;
use crate::tree;

/// How many lower layers overlayfs stacks (`OVL_MAX_STACK`).
pub(crate) const MAX_LAYERS: usize = 500;

/// The chain id of a stack of diff ids, base first (OCI image-spec, config.md, "Layer ChainID"). `None` for no layers.
#[must_use]
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(*first, |chain, diff_id| {
        Digest::of(format!("{chain} {diff_id}").as_bytes())
    }))
}

/// The chain ids of every beginning of a stack of diff ids, base first, in one pass.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let next = match chain {
                None => *diff_id,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(next);
            next
        })
        .collect()
}

/// The layers to stack, topmost first: each once (its topmost occurrence), and nothing below an opaque root.
pub(crate) fn lowers(base_first: Vec<LayerRecord>) -> Vec<LayerRecord> {
    let mut seen = HashSet::new();
    let mut stack = Vec::new();
    for layer in base_first.into_iter().rev() {
        if !seen.insert(layer.key) {
            continue;
        }
        let last = layer.opaque_root;
        stack.push(layer);
        if last {
            break;
        }
    }
    stack
}

/// Whether overlayfs stacks so many.
pub(crate) fn check_count(count: usize) -> Result<(), SnapshotError> {
    if count <= MAX_LAYERS {
        return Ok(());
    }
    Err(SnapshotError::TooManyLayers {
        count,
        limit: MAX_LAYERS,
    })
}

/// A layer's tree and which of its directories are implicit.
pub(crate) struct Lower {
    tree: PathBuf,
    implicit: HashSet<PathBuf>,
}

impl Lower {
    pub(crate) fn new(tree: PathBuf, record: &LayerRecord) -> Self {
        Self {
            tree,
            implicit: record.implicit.iter().cloned().collect(),
        }
    }
}

/// What one layer says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing; layers below count.
    Nothing,
    /// Nothing, and layers below are hidden.
    Hidden,
    /// A directory.
    Directory {
        /// Whether layers below may still say something about it.
        continues: bool,
        /// Whether layers below may still say something about what is in it.
        continues_inside: bool,
    },
}

impl Found {
    fn root(tree: &Path) -> Self {
        Self::Directory {
            continues: true,
            continues_inside: !tree::is_opaque(tree),
        }
    }

    /// What the layer says about `path`, given what it says about the directory that `path` lies in.
    fn below(self, tree: &Path, path: &Path) -> Self {
        let Self::Directory { continues_inside, .. } = self else {
            return self;
        };
        let at = tree.join(path);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => Self::Directory {
                continues: continues_inside,
                continues_inside: continues_inside && !tree::is_opaque(&at),
            },
            Err(_) if continues_inside => Self::Nothing,
            _ => Self::Hidden,
        }
    }
}

/// Where a directory's metadata comes from.
struct Source {
    /// The directory to take it from.
    directory: PathBuf,
    /// Whether overlayfs would take it from somewhere else.
    needs_help: bool,
}

/// The source of a directory's metadata in a chain, from what each layer says; `None` if the chain does not show it as a directory.
fn source(lowers: &[Lower], says: &[Found], path: &Path) -> Option<Source> {
    let mut made_up: Option<PathBuf> = None;
    for (lower, found) in lowers.iter().zip(says) {
        match found {
            Found::Nothing => {}
            Found::Hidden => break,
            Found::Directory { continues, .. } => {
                let directory = lower.tree.join(path);
                if !lower.implicit.contains(path) {
                    return Some(Source {
                        directory,
                        needs_help: made_up.is_some(),
                    });
                }
                made_up.get_or_insert(directory);
                if !continues {
                    break;
                }
            }
        }
    }
    made_up.map(|directory| Source {
        directory,
        needs_help: false,
    })
}

fn roots(lowers: &[Lower]) -> Vec<Found> {
    lowers.iter().map(|lower| Found::root(&lower.tree)).collect()
}

/// The directory whose metadata the chain's root has; `None` for a chain without layers.
pub(crate) fn root_source(lowers: &[Lower]) -> Option<PathBuf> {
    source(lowers, &roots(lowers), Path::new("")).map(|source| source.directory)
}

/// The directories that overlayfs would show with made-up metadata, and their ancestors, each with where its metadata is taken from.
/// The root is not among them: it takes its metadata from the upper directory.
///
/// One walk down: each directory is looked at once in each layer that has the directory above it.
pub(crate) fn implicit_directories(lowers: &[Lower]) -> BTreeMap<PathBuf, PathBuf> {
    let named = lowers.iter().flat_map(|lower| &lower.implicit);
    let candidates: BTreeSet<&Path> = named
        .flat_map(|path| path.ancestors())
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    let mut wanted = BTreeMap::new();
    // The directories above the present one, the root first: a set of paths is ordered as a walk down is.
    struct Step<'a> {
        path: &'a Path,
        says: Vec<Found>,
        directory: Option<PathBuf>,
    }
    let mut above = vec![Step {
        path: Path::new(""),
        says: roots(lowers),
        directory: None,
    }];
    for path in candidates {
        while above.last().is_some_and(|step| !path.starts_with(step.path)) {
            above.pop();
        }
        let Some(step) = above.last() else { break };
        let says: Vec<Found> = lowers
            .iter()
            .zip(&step.says)
            .map(|(lower, found)| found.below(&lower.tree, path))
            .collect();
        let found = source(lowers, &says, path);
        let needs_help = found.as_ref().is_some_and(|source| source.needs_help);
        above.push(Step {
            path,
            says,
            directory: found.map(|source| source.directory),
        });
        if needs_help {
            for step in above.iter_mut().rev() {
                // Where one is there already (or is the root), so are those above it.
                let Some(directory) = step.directory.take() else {
                    break;
                };
                wanted.insert(step.path.to_owned(), directory);
            }
        }
    }
    wanted
}

/// Makes `directories` (path -> where its metadata comes from) beneath `root`, parents first.
pub(crate) fn build(root: &Path, directories: &BTreeMap<PathBuf, PathBuf>) -> Result<(), SnapshotError> {
    for path in directories.keys() {
        let target = root.join(path);
        debug_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&target)
            .map_err(SnapshotError::file("create directory", &target))?;
    }
    // Only when all are there: making a directory changes the time of the one above it.
    for (path, from) in directories {
        tree::copy_metadata(from, &root.join(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn record(name: &str, opaque_root: bool) -> LayerRecord {
        let key = Digest::of(name.as_bytes());
        LayerRecord {
            key,
            diff_id: key,
            size: 0,
            implicit: vec![],
            opaque_root,
        }
    }

    fn lower(root: &Path, name: &str, directories: &[(&str, u32)], implicit: &[&str]) -> Lower {
        let tree = root.join(name);
        fs::create_dir(&tree).unwrap();
        for (path, mode) in directories {
            fs::create_dir_all(tree.join(path)).unwrap();
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        Lower {
            tree,
            implicit: implicit.iter().map(PathBuf::from).collect(),
        }
    }

    fn found(lowers: &[Lower]) -> Vec<(String, String)> {
        let names = |path: &Path| path.to_string_lossy().into_owned();
        implicit_directories(lowers)
            .iter()
            .map(|(path, from)| {
                let layer = from.ancestors().nth(path.components().count()).unwrap();
                (names(path), names(Path::new(layer.file_name().unwrap())))
            })
            .collect()
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]), Some(a));
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(
            chain_id(&[a, b, c]),
            Some(Digest::of(format!("{ab} {c}").as_bytes()))
        );
        let one_by_one: Vec<_> = (1..=3).filter_map(|n| chain_id(&[a, b, c][..n])).collect();
        assert_eq!(chain_ids(&[a, b, c]), one_by_one);
        assert_eq!(chain_ids(&[]), []);
    }

    #[test]
    fn a_repeated_layer_is_stacked_once_and_nothing_lies_below_an_opaque_root() {
        let keys = |records: Vec<LayerRecord>| records.into_iter().map(|r| r.key).collect::<Vec<_>>();
        let (a, b) = (record("a", false), record("b", false));
        let stack = lowers(vec![a.clone(), b.clone(), a.clone()]);
        assert_eq!(keys(stack), vec![a.key, b.key]);
        let o = record("o", true);
        assert_eq!(keys(lowers(vec![a, o.clone(), b.clone()])), vec![b.key, o.key]);
    }

    #[test]
    fn more_layers_than_overlayfs_stacks_are_refused() {
        let many: Vec<LayerRecord> = (0..=MAX_LAYERS).map(|n| record(&n.to_string(), false)).collect();
        assert!(check_count(lowers(many[1..].to_vec()).len()).is_ok());
        assert!(matches!(
            check_count(lowers(many).len()),
            Err(SnapshotError::TooManyLayers {
                count: 501,
                limit: 500
            })
        ));
    }

    #[test]
    fn metadata_comes_from_the_layer_that_named_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let base = lower(dir.path(), "base", &[("usr", 0o750), ("usr/bin", 0o711)], &[""]);
        let middle = lower(dir.path(), "middle", &[("usr/bin", 0o755)], &["", "usr"]);
        let top = lower(
            dir.path(),
            "top",
            &[("usr/bin", 0o755), ("opt/x", 0o755)],
            &["", "usr", "usr/bin", "opt"],
        );
        let chain = [top, middle, base];
        // usr/bin was named by the middle layer, usr only by the base; opt by nobody.
        assert_eq!(
            found(&chain),
            vec![("usr".into(), "base".into()), ("usr/bin".into(), "middle".into())]
        );
        let target = dir.path().join("tiny");
        fs::create_dir(&target).unwrap();
        build(&target, &implicit_directories(&chain)).unwrap();
        let mode = |path: &str| fs::metadata(target.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("usr"), mode("usr/bin")), (0o750, 0o755));
    }

    #[test]
    fn an_opaque_directory_ends_the_search_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = lower(dir.path(), "base", &[("a/b", 0o700)], &[]);
        let middle = lower(dir.path(), "middle", &[("a", 0o711)], &[]);
        let opaque = rustix::fs::lsetxattr(
            middle.tree.join("a"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        );
        if opaque.is_err() {
            eprintln!("skipped: trusted attributes need a privileged user");
            return;
        }
        let top = lower(dir.path(), "top", &[("a/b", 0o755)], &["a", "a/b"]);
        // a is the middle layer's; a/b below it is nobody's, and not the base's.
        assert_eq!(found(&[top, middle, base]), vec![("a".into(), "middle".into())]);
    }

    #[test]
    fn many_implicit_directories_in_many_layers_are_each_looked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(60);
        let paths: Vec<String> = Path::new(&deep)
            .ancestors()
            .map(|path| path.display().to_string())
            .collect();
        let implicit: Vec<&str> = paths.iter().map(String::as_str).collect();
        let base = lower(dir.path(), "base", &[(&deep, 0o700)], &[]);
        let mut chain: Vec<Lower> = (0..30)
            .map(|n| lower(dir.path(), &n.to_string(), &[(&deep, 0o755)], &implicit))
            .collect();
        chain.push(base);
        let found = implicit_directories(&chain);
        assert_eq!(found.len(), 60);
        assert!(
            found
                .values()
                .all(|from| from.starts_with(dir.path().join("base")))
        );
    }

    #[test]
    fn what_a_layer_between_hides_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let base = lower(dir.path(), "base", &[("a/b", 0o700)], &[]);
        let hides = lower(dir.path(), "hides", &[], &[]);
        fs::write(hides.tree.join("a"), "a file hides the directory").unwrap();
        let top = lower(dir.path(), "top", &[("a/b", 0o755)], &["a", "a/b"]);
        assert_eq!(found(&[top, hides, base]), vec![]);
    }
}
