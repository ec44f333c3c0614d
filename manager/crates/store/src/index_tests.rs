//! The index under everything that may happen to it: each case ends with the content that the source implies.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Names;

fn source(
    calls: &Arc<AtomicUsize>,
) -> impl Fn() -> Result<Vec<(String, u32)>, StoreError> + Send + Sync + 'static {
    let calls = Arc::clone(calls);
    move || {
        calls.fetch_add(1, Ordering::Relaxed);
        Ok(vec![("a".to_owned(), 1), ("b".to_owned(), 2)])
    }
}

/// Opens, declares the tree, and returns its rows and how often the source was asked.
fn rows(root: &Path) -> (Vec<(String, u32)>, usize) {
    let calls = Arc::new(AtomicUsize::new(0));
    let index = Index::open(root);
    let tree = index.tree::<String, u32, _>("numbers", source(&calls)).unwrap();
    (tree.scan(b"").unwrap(), calls.load(Ordering::Relaxed))
}

fn derived() -> Vec<(String, u32)> {
    vec![("a".to_owned(), 1), ("b".to_owned(), 2)]
}

#[test]
fn a_clean_index_is_used_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(rows(root.path()), (derived(), 1));
    assert_eq!(rows(root.path()), (derived(), 0));
}

#[test]
fn put_new_get_remove_and_ranges() {
    let root = tempfile::tempdir().unwrap();
    let index = Index::open(root.path());
    let tree = index.tree::<u64, String, _>("events", || Ok(Vec::new())).unwrap();
    for n in [256u64, 1, 255] {
        assert_eq!(tree.put_new(&n, &n.to_string()).unwrap(), None);
    }
    assert_eq!(
        tree.put_new(&1, &"other".to_owned()).unwrap(),
        Some("1".to_owned())
    );
    let keys: Vec<u64> = tree.scan(b"").unwrap().into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, [1, 255, 256]);
    assert!(tree.remove(&255).unwrap());
    assert!(!tree.remove(&255).unwrap());
    assert_eq!(tree.get(&255).unwrap(), None);
}

#[test]
fn an_index_that_is_gone_truncated_or_noise_is_filled_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("deleted", |root| remove_index(root)),
        ("truncated", |root| each_file(root, |_| Vec::new())),
        ("cut in half", |root| each_file(root, half)),
        ("noise", |root| each_file(root, noise)),
        ("not closed", |root| remove_mark(root)),
        ("not closed, and noise", |root| {
            remove_mark(root);
            each_file(root, noise);
        }),
        ("a file in its place", |root| {
            remove_index(root);
            fs::write(root.join("index"), "noise").unwrap();
        }),
        ("a file in its place, not closed", |root| {
            remove_index(root);
            remove_mark(root);
            fs::write(root.join("index"), "noise").unwrap();
        }),
        ("a directory in the place of the mark", |root| {
            remove_mark(root);
            fs::create_dir_all(root.join("index.clean/in/there")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rows(root.path()).0, derived());
        damage(root.path());
        assert_eq!(rows(root.path()).0, derived(), "{name}");
        assert_eq!(rows(root.path()), (derived(), 0), "{name}, then clean");
    }
}

#[test]
fn every_single_file_cut_at_any_length_or_overwritten_is_survived_and_few_are_kept() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(rows(root.path()).0, derived());
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(root.path().join("index")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_file()).collect()
    };
    for nth in 0..files().len() {
        for seed in 0..6 {
            let mut paths = files();
            paths.sort();
            let Some(path) = paths.get(nth) else { continue };
            let bytes = fs::read(path).unwrap();
            let damaged = match seed {
                0..3 => bytes[..bytes.len() * seed / 3].to_vec(),
                _ => noise_from(u32::try_from(seed).unwrap(), &bytes),
            };
            fs::write(path, damaged).unwrap();
            assert_eq!(rows(root.path()).0, derived(), "{} {seed}", path.display());
        }
    }
    let asides = fs::read_dir(root.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("index.corrupt-")
    });
    assert!(asides.count() <= 1);
}

#[test]
fn without_an_index_the_source_answers_until_there_is_one_again() {
    let root = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let index = Index::open(root.path());
    let tree = index.tree::<String, u32, _>("numbers", source(&calls)).unwrap();
    // Nothing can be made below a file, whoever tries.
    let moved = root.path().with_extension("moved");
    fs::rename(root.path(), &moved).unwrap();
    fs::write(root.path(), "").unwrap();
    assert!(index.distrust().is_err());
    for _ in 0..2 {
        assert_eq!(tree.scan(b"").unwrap(), derived());
        assert_eq!(tree.get(&"b".to_owned()).unwrap(), Some(2));
        assert!(matches!(
            tree.put(&"c".to_owned(), &3),
            Err(StoreError::Index { .. })
        ));
    }
    fs::remove_file(root.path()).unwrap();
    fs::rename(&moved, root.path()).unwrap();
    tree.put(&"c".to_owned(), &3).unwrap();
    assert_eq!(tree.get(&"c".to_owned()).unwrap(), Some(3));
    assert_eq!(tree.scan(b"").unwrap().len(), 3);
}

fn remove_index(root: &Path) {
    fs::remove_dir_all(root.join("index")).unwrap();
}

fn remove_mark(root: &Path) {
    fs::remove_file(root.join("index.clean")).unwrap();
}

fn each_file(root: &Path, change: fn(&[u8]) -> Vec<u8>) {
    for entry in fs::read_dir(root.join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, change(&bytes)).unwrap();
        }
    }
}

fn half(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

fn noise(old: &[u8]) -> Vec<u8> {
    noise_from(0, old)
}

/// Bytes of a linear congruential generator: the same in every run.
fn noise_from(seed: u32, old: &[u8]) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32 ^ seed;
    (0..old.len().max(4096))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

#[test]
fn an_index_replaced_while_in_use_serves_the_same_handles() {
    let root = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let index = Index::open(root.path());
    let tree = index.tree::<String, u32, _>("numbers", source(&calls)).unwrap();
    tree.put(&"c".to_owned(), &3).unwrap();
    index.distrust().unwrap();
    assert_eq!(tree.scan(b"").unwrap(), derived(), "what no file implies is gone");
    tree.put(&"d".to_owned(), &4).unwrap();
    assert_eq!(tree.get(&"d".to_owned()).unwrap(), Some(4));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn another_schema_is_built_anew() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(rows(root.path()).1, 1);
    let db = sled::open(root.path().join("index")).unwrap();
    db.insert(b"schema", &99u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    let checksum = db.checksum().unwrap();
    fs::write(root.path().join("index.clean"), checksum.to_string()).unwrap();
    drop(db);
    assert_eq!(rows(root.path()), (derived(), 1));
}

#[test]
fn a_name_has_one_holder() {
    let root = tempfile::tempdir().unwrap();
    let index = Index::open(root.path());
    let names = Names::open(&index, "names", || Ok(vec![("web".to_owned(), "1".to_owned())])).unwrap();
    let taken = names.reserve("web", "2").unwrap().unwrap_err();
    assert_eq!((taken.name.as_str(), taken.holder.as_str()), ("web", "1"));
    names.reserve("web", "1").unwrap().unwrap();
    names.release("web", "2").unwrap();
    assert_eq!(names.holder("web").unwrap().as_deref(), Some("1"));
    names.release("web", "1").unwrap();
    names.reserve("web", "2").unwrap().unwrap();
    names.reserve("db", "3").unwrap().unwrap();
    names.retain(|_, holder| holder == "3").unwrap();
    assert_eq!(names.holder("web").unwrap(), None);
    assert_eq!(names.holder("db").unwrap().as_deref(), Some("3"));
}
