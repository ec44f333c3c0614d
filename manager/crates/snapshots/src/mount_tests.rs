//! Real mounts, in a mount namespace of the test's own thread, so that nothing of them is left on the host.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use croze_model::Digest;

use super::*;
use crate::records::LayerRecord;

/// What a layer is filled with.
type Fill = dyn Fn(&Path);
/// A layer's name, its implicit directories, and its content.
type Layer<'a> = (&'a str, &'a [&'a str], &'a Fill);

/// A store with these layers, base first.
fn store(root: &Path, layers: &[Layer<'_>]) -> (Snapshots, Vec<Digest>) {
    let store = Snapshots::open(root).unwrap();
    let diff_ids = layers.iter().map(|(name, implicit, fill)| {
        let staged = store.stage_layer().unwrap();
        fill(&staged.tree());
        let key = Digest::of(name.as_bytes());
        let implicit = implicit.iter().map(PathBuf::from).collect();
        let record = LayerRecord {
            key,
            diff_id: key,
            size: 1,
            implicit,
            opaque_root: false,
        };
        store.commit_layer(staged, &record).unwrap();
        key
    });
    let diff_ids = diff_ids.collect();
    (store, diff_ids)
}

/// Runs `test` on a thread with a mount namespace of its own. Skipped, with the reason, where the host forbids one.
pub(crate) fn isolated(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS) {
                eprintln!("skipped: a mount namespace is needed ({errno})");
                return;
            }
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn layers_are_stacked_and_writes_stay_in_the_snapshot() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let (store, chain) = store(
            dir.path(),
            &[
                ("base", &[], &|tree| {
                    fs::set_permissions(tree, fs::Permissions::from_mode(0o711)).unwrap();
                    write(tree.join("etc/keep"), "base");
                    write(tree.join("etc/replaced"), "base");
                    fs::set_permissions(tree.join("etc"), fs::Permissions::from_mode(0o750)).unwrap();
                }),
                ("top", &["", "etc"], &|tree| {
                    write(tree.join("etc/replaced"), "top");
                }),
            ],
        );
        let merged = dir.path().join("merged");
        fs::create_dir(&merged).unwrap();
        for each in [true, false] {
            let id = format!("c{each}");
            let record = store.prepare(&id, &chain).unwrap();
            assert!(record.implicit.is_some(), "etc is implicit in the top layer");
            let plan = store.plan(&record, &merged, Access::ReadWrite);
            // Both ways of mounting must give the same; the old one is what older kernels take.
            match each.then(|| mount_each(&plan)) {
                Some(Ok(())) => {}
                Some(Err(Refusal::Failed(error))) => panic!("{error}"),
                Some(Err(Refusal::Unsupported)) | None => mount_page(&plan).unwrap(),
            }
            assert_eq!(fs::read_to_string(merged.join("etc/keep")).unwrap(), "base");
            assert_eq!(fs::read_to_string(merged.join("etc/replaced")).unwrap(), "top");
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
            assert_eq!((mode(&merged), mode(&merged.join("etc"))), (0o711, 0o750));
            let base = fs::metadata(store.layer_tree(&chain[0]).join("etc")).unwrap();
            assert_eq!(
                fs::metadata(merged.join("etc")).unwrap().modified().unwrap(),
                base.modified().unwrap()
            );
            fs::remove_file(merged.join("etc/keep")).unwrap();
            store.unmount(&merged).unwrap();
            store.unmount(&merged).unwrap();
            let upper = store.dir("active").join(&id).join("upper");
            assert!(
                fs::symlink_metadata(upper.join("etc/keep"))
                    .unwrap()
                    .file_type()
                    .is_char_device()
            );
            assert!(store.usage(&id).unwrap().inodes >= 3);
            store.remove(&id).unwrap();
        }
        assert_eq!(store.list().unwrap(), vec![]);
    });
}

#[test]
fn more_layers_than_a_page_of_options_holds_can_be_mounted_and_a_view_refuses_writes() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..64).map(|n| n.to_string()).collect();
        let fills: Vec<Box<Fill>> = names
            .iter()
            .map(|name| {
                let name = name.clone();
                Box::new(move |tree: &Path| write(tree.join(&name), &name)) as Box<Fill>
            })
            .collect();
        let layers: Vec<Layer<'_>> = names
            .iter()
            .zip(&fills)
            .map(|(name, fill)| (name.as_str(), &[][..], fill.as_ref()))
            .collect();
        let (store, chain) = store(dir.path(), &layers);
        store.prepare("many", &chain).unwrap();
        let merged = dir.path().join("merged");
        fs::create_dir(&merged).unwrap();
        store.mount("many", &merged, Access::ReadOnly).unwrap();
        assert_eq!(fs::read_dir(&merged).unwrap().count(), 64);
        assert_eq!(
            fs::write(merged.join("x"), "").unwrap_err().kind(),
            io::ErrorKind::ReadOnlyFilesystem
        );
        store.unmount(&merged).unwrap();
    });
}

#[test]
fn an_image_without_layers_mounts_as_an_empty_directory() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store(dir.path(), &[]);
        store.prepare("scratch", &[]).unwrap();
        let merged = dir.path().join("merged");
        fs::create_dir(&merged).unwrap();
        store.mount("scratch", &merged, Access::ReadWrite).unwrap();
        write(merged.join("x"), "y");
        store.unmount(&merged).unwrap();
        assert!(store.dir("active").join("scratch/upper/x").is_file());
    });
}

#[test]
fn a_layer_in_use_stays_and_what_is_unfinished_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, chain) = store(dir.path(), &[("base", &[], &|tree| write(tree.join("x"), "y"))]);
    store.prepare("c1", &chain).unwrap();
    assert!(store.prepare("c1", &chain).is_err());
    assert!(store.prepare("../c1", &chain).is_err());
    assert!(store.remove_layer(&chain[0]).is_err());
    // A second process finds the records, and removes what has none.
    std::mem::forget(store.stage_layer().unwrap());
    fs::create_dir(store.dir("layers").join(Digest::of(b"half").hex())).unwrap();
    let again = Snapshots::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(again.dir("staging")).unwrap().count(), 0);
    assert_eq!(again.layers().unwrap().len(), 1);
    assert_eq!(fs::read_dir(again.dir("layers")).unwrap().count(), 1);
    assert_eq!(again.list().unwrap().len(), 1);
    again.remove("c1").unwrap();
    again.remove("c1").unwrap();
    assert_eq!(again.remove_layer(&chain[0]).unwrap(), 1);
    assert_eq!(fs::read_dir(again.dir("layers")).unwrap().count(), 0);
}
