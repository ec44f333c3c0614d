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
    let index = Index::open(root).unwrap();
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
    let index = Index::open(root.path()).unwrap();
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
    let damages: [(&str, Damage); 5] = [
        ("deleted", |root| remove_index(root)),
        ("truncated", |root| each_file(root, |_| Vec::new())),
        ("cut in half", |root| each_file(root, half)),
        ("noise", |root| each_file(root, noise)),
        ("not closed", |root| remove_mark(root)),
    ];
    for (name, damage) in damages {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rows(root.path()).0, derived());
        damage(root.path());
        assert_eq!(rows(root.path()).0, derived(), "{name}");
        assert_eq!(rows(root.path()), (derived(), 0), "{name}, then clean");
    }
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

/// Bytes of a linear congruential generator: the same in every run.
fn noise(old: &[u8]) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
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
    let index = Index::open(root.path()).unwrap();
    let tree = index.tree::<String, u32, _>("numbers", source(&calls)).unwrap();
    tree.put(&"c".to_owned(), &3).unwrap();
    index.distrust();
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
    let index = Index::open(root.path()).unwrap();
    let names = Names::open(&index, "names", || Ok(vec![("web".to_owned(), "1".to_owned())])).unwrap();
    let taken = names.reserve("web", "2").unwrap().unwrap_err();
    assert_eq!((taken.name.as_str(), taken.holder.as_str()), ("web", "1"));
    names.reserve("web", "1").unwrap().unwrap();
    names.release("web", "2").unwrap();
    assert_eq!(names.holder("web").unwrap().as_deref(), Some("1"));
    names.release("web", "1").unwrap();
    names.reserve("web", "2").unwrap().unwrap();
}
