//! What damage and leftovers do to the store, and what they must not do.

use croze_model::ErrorKind as Kind;

use super::*;

fn commit(store: &Snapshots, name: &str) -> Digest {
    let staged = store.stage_layer().unwrap();
    fs::write(staged.tree().join("file"), name).unwrap();
    let key = Digest::of(name.as_bytes());
    let record = LayerRecord {
        key,
        diff_id: key,
        size: 1,
        implicit: vec![],
        opaque_root: false,
    };
    store.commit_layer(staged, &record).unwrap();
    key
}

fn damage(dir: &Path, file: &str) {
    fs::write(dir.join(file), "{\"kind\":").unwrap();
}

#[test]
fn a_layer_that_lost_its_record_gets_it_back_and_keeps_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let key = commit(&store, "a");
    damage(&store.layer_dir(&key), LAYER_FILE);
    assert_eq!(store.layer(&key).unwrap(), None);
    let before = std::os::unix::fs::MetadataExt::ino(&fs::metadata(store.layer_tree(&key)).unwrap());
    commit(&store, "a");
    assert!(store.layer(&key).unwrap().is_some());
    let after = std::os::unix::fs::MetadataExt::ino(&fs::metadata(store.layer_tree(&key)).unwrap());
    assert_eq!(before, after, "a container may stand on it");
    store.prepare("c", &[key]).unwrap();
}

#[test]
fn opening_keeps_what_a_snapshot_stands_on_and_removes_what_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let (used, unused) = (commit(&store, "used"), commit(&store, "unused"));
    store.prepare("c", &[used]).unwrap();
    for key in [&used, &unused] {
        damage(&store.layer_dir(key), LAYER_FILE);
        store.layer(key).unwrap();
    }
    // While one snapshot is unreadable, nothing is removed.
    fs::create_dir(store.dir("active").join("lost")).unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    assert!(store.layer_tree(&used).exists() && store.layer_tree(&unused).exists());
    fs::remove_dir(store.dir("active").join("lost")).unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    assert!(store.layer_tree(&used).exists() && !store.layer_tree(&unused).exists());
}

#[test]
fn a_layer_stays_while_it_is_unknown_who_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let key = commit(&store, "a");
    store.prepare("c", &[key]).unwrap();
    assert_eq!(store.remove_layer(&key).unwrap_err().kind(), Kind::Conflict);
    let record = store.dir("active/c").join(SNAPSHOT_FILE);
    let newer = fs::read_to_string(&record)
        .unwrap()
        .replace("\"version\":1", "\"version\":99");
    fs::write(&record, newer).unwrap();
    for damaged in [false, true] {
        if damaged {
            fs::write(&record, "").unwrap();
        }
        for _ in 0..2 {
            let error = store.remove_layer(&key).unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict);
            assert!(error.what().contains("cannot be read"), "{}", error.what());
        }
    }
    assert!(store.layer_tree(&key).exists());
    store.remove("c").unwrap();
    store.remove_layer(&key).unwrap();
    assert!(!store.layer_tree(&key).exists());
}

#[test]
fn a_snapshot_deeper_than_descriptors_go_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    store.prepare("c", &[]).unwrap();
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let upper = store.dir("active/c/upper");
    let mut at = rustix::fs::open(&upper, flags, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(at);
    assert_eq!(store.usage("c").unwrap().inodes, 3001);
    store.remove("c").unwrap();
    assert_eq!(list(&store.dir("staging")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn ids_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    store.prepare("c", &[]).unwrap();
    assert_eq!(store.prepare("c", &[]).unwrap_err().kind(), Kind::AlreadyExists);
}
