//! What every way of making snapshots must do: the same tests for each, with real mounts in a mount namespace of the test's own thread.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use croze_layers::{Limits, Parents, unpack};
use croze_model::{Digest, ErrorKind};

use crate::mount::tests::isolated;
use crate::{Access, LayerRecord, Snapshots, Snapshotter};

const EVERY: [Snapshotter; 2] = [Snapshotter::Overlay, Snapshotter::Copy];

/// A store of one way, and a directory to mount at.
struct World {
    dir: tempfile::TempDir,
    store: Snapshots,
}

impl World {
    fn new(snapshotter: Snapshotter) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Snapshots::open_with(&dir.path().join("root"), Some(snapshotter)).unwrap();
        assert_eq!(store.snapshotter(), snapshotter);
        Self { dir, store }
    }

    /// Runs `test` for each way, in a mount namespace.
    fn each(test: impl Fn(&Self) + Send + Sync) {
        for snapshotter in EVERY {
            isolated(|| {
                let world = Self::new(snapshotter);
                test(&world);
                assert_eq!(world.names("staging"), Vec::<String>::new(), "{snapshotter:?}");
            });
        }
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store.dir(dir)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Commits a layer that `fill` makes.
    fn layer(&self, name: &str, implicit: &[&str], fill: impl Fn(&Path)) -> Digest {
        let staged = self.store.stage_layer().unwrap();
        fill(&staged.tree());
        let key = Digest::of(name.as_bytes());
        let record = LayerRecord {
            key,
            diff_id: key,
            size: 1,
            implicit: implicit.iter().map(PathBuf::from).collect(),
            opaque_root: false,
        };
        self.store.commit_layer(staged, &record).unwrap();
        key
    }

    fn mounted(&self, id: &str, access: Access) -> PathBuf {
        let target = self.dir.path().join(format!("mount-{id}"));
        fs::create_dir(&target).unwrap();
        self.store.mount(id, &target, access).unwrap();
        target
    }

    /// A base and a layer on it that replaces, hides and links.
    fn chain(&self) -> Vec<Digest> {
        let base = self.layer("base", &[], |tree| {
            fs::set_permissions(tree, fs::Permissions::from_mode(0o711)).unwrap();
            write(tree, "etc/keep", "base");
            write(tree, "etc/replaced", "base");
            write(tree, "etc/hidden", "base");
            write(tree, "opt/below", "base");
            write(tree, "was-dir/f", "base");
            symlink("keep", tree.join("etc/link")).unwrap();
            fs::hard_link(tree.join("etc/keep"), tree.join("etc/hard")).unwrap();
            fs::set_permissions(tree.join("etc"), fs::Permissions::from_mode(0o2750)).unwrap();
            std::os::unix::fs::chown(tree.join("etc/keep"), Some(7), Some(8)).unwrap();
            set(tree.join("etc/keep"), "user.note", b"kept");
        });
        let top = self.layer("top", &["", "etc"], |tree| {
            write(tree, "etc/replaced", "top");
            whiteout(&tree.join("etc/hidden"));
            write(tree, "opt/above", "top");
            set(tree.join("opt"), "trusted.overlay.opaque", b"y");
            write(tree, "was-dir", "now a file");
            set_mode(&tree.join("opt"), 0o700);
        });
        vec![base, top]
    }
}

fn write(tree: &Path, path: &str, text: &str) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set(path: PathBuf, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// Every path with all that a container can see of it but the inode: which names are one file is told by the first of them.
fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    let mut paths = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let is = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut what = format!(
            "{:o} {} {} {}.{}",
            is.mode(),
            is.uid(),
            is.gid(),
            is.mtime(),
            is.mtime_nsec()
        );
        if is.is_file() {
            what.push_str(&format!(" {:?}", fs::read(&path).unwrap()));
        } else if is.is_symlink() {
            what.push_str(&format!(" -> {}", fs::read_link(&path).unwrap().display()));
        } else if is.file_type().is_char_device() {
            what.push_str(&format!(" {:x}", is.rdev()));
        }
        if !is.is_dir() && is.nlink() > 1 {
            let first = first.entry(is.ino()).or_insert_with(|| name.clone());
            what.push_str(&format!(" = {first}"));
        }
        let mut value = [0; 64];
        if let Ok(n) = rustix::fs::lgetxattr(&path, "user.note", &mut value[..]) {
            what.push_str(&format!(" note {:?}", &value[..n]));
        }
        found.insert(name, what);
    }
    found
}

#[test]
fn layers_are_laid_over_each_other() {
    let trees = std::sync::Mutex::new(Vec::new());
    World::each(|world| {
        let chain = world.chain();
        world.store.prepare("c", &chain).unwrap();
        let at = world.mounted("c", Access::ReadWrite);
        let read = |path: &str| fs::read_to_string(at.join(path));
        assert_eq!(read("etc/keep").unwrap(), "base");
        assert_eq!(read("etc/replaced").unwrap(), "top");
        assert_eq!(read("was-dir").unwrap(), "now a file");
        assert_eq!(read("opt/above").unwrap(), "top");
        for gone in ["etc/hidden", "opt/below"] {
            assert_eq!(read(gone).unwrap_err().kind(), io::ErrorKind::NotFound, "{gone}");
        }
        let mode = |path: &str| fs::metadata(at.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode(""), mode("etc"), mode("opt")), (0o711, 0o2750, 0o700));
        let mut tree = seen(&at);
        // The layers were made at different times.
        for what in tree.values_mut() {
            let words: Vec<&str> = what.split(' ').collect();
            *what = [&words[..3], &words[4..]].concat().join(" ");
        }
        trees.lock().unwrap().push(tree);
        world.store.unmount(&at).unwrap();
        world.store.remove("c").unwrap();
    });
    let trees = trees.into_inner().unwrap();
    if let [overlay, copy] = &trees[..] {
        assert_eq!(overlay, copy);
    }
}

#[test]
fn writes_stay_in_the_snapshot_and_outlive_a_mount() {
    World::each(|world| {
        let chain = world.chain();
        let before = seen(&world.store.layer_tree(&chain[0]));
        world.store.prepare("c", &chain).unwrap();
        let at = world.mounted("c", Access::ReadWrite);
        fs::write(at.join("etc/keep"), "written").unwrap();
        fs::remove_file(at.join("etc/replaced")).unwrap();
        fs::remove_dir_all(at.join("opt")).unwrap();
        write(&at, "new/file", "new");
        world.store.unmount(&at).unwrap();
        world.store.unmount(&at).unwrap();
        world.store.mount("c", &at, Access::ReadWrite).unwrap();
        assert_eq!(fs::read_to_string(at.join("etc/keep")).unwrap(), "written");
        assert_eq!(fs::read_to_string(at.join("new/file")).unwrap(), "new");
        assert!(!at.join("etc/replaced").exists() && !at.join("opt").exists());
        assert_eq!(seen(&world.store.layer_tree(&chain[0])), before);
        // Another one over the same layers sees nothing of it, and neither does one that is opened anew.
        let again =
            Snapshots::open_with(&world.dir.path().join("root"), Some(world.store.snapshotter())).unwrap();
        again.prepare("d", &chain).unwrap();
        let other = world.mounted("d", Access::ReadWrite);
        assert_eq!(fs::read_to_string(other.join("etc/keep")).unwrap(), "base");
        world.store.unmount(&other).unwrap();
        world.store.unmount(&at).unwrap();
    });
}

#[test]
fn a_view_shows_the_image_in_many_places_and_takes_no_writes() {
    World::each(|world| {
        let chain = world.chain();
        world.store.view("v", &chain).unwrap();
        let places = ["one", "two"].map(|name| world.dir.path().join(name));
        for place in &places {
            fs::create_dir(place).unwrap();
            world.store.mount("v", place, Access::ReadWrite).unwrap();
            assert_eq!(fs::read_to_string(place.join("etc/keep")).unwrap(), "base");
            assert_eq!(fs::metadata(place).unwrap().mode() & 0o7777, 0o711);
            let refused = fs::write(place.join("x"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert_eq!(seen(&places[0]), seen(&places[1]));
        for place in &places {
            world.store.unmount(place).unwrap();
        }
        assert_eq!(
            world.store.remove_layer(&chain[0]).unwrap_err().kind(),
            ErrorKind::Conflict
        );
        world.store.remove("v").unwrap();
        world.store.remove_layer(&chain[0]).unwrap();
    });
}

#[test]
fn a_difference_is_the_same_each_time_and_gives_the_same_tree() {
    World::each(|world| {
        let chain = world.chain();
        world.store.prepare("c", &chain).unwrap();
        let at = world.mounted("c", Access::ReadWrite);
        write(&at, "new/deep/file", "new");
        write(&at, &format!("new/{}", "long-name-".repeat(12)), "long");
        fs::write(at.join("etc/replaced"), "third").unwrap();
        fs::remove_file(at.join("opt/above")).unwrap();
        fs::remove_file(at.join("was-dir")).unwrap();
        write(&at, "was-dir/now", "a directory again");
        fs::hard_link(at.join("etc/keep"), at.join("new/another-name")).unwrap();
        symlink("/outside/of/it", at.join("new/link")).unwrap();
        set(at.join("new/deep/file"), "user.note", b"new");
        std::os::unix::fs::chown(at.join("new/deep"), Some(3_000_000), Some(5)).unwrap();
        set_mode(&at.join("new/deep/file"), 0o4755);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at.join("new/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let old = fs::File::open(at.join("new/deep/file")).unwrap();
        let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
        old.set_modified(time).unwrap();
        drop(old);

        let (mut first, mut second) = (Vec::new(), Vec::new());
        let packed = world.store.diff("c", &mut first).unwrap();
        assert_eq!(world.store.diff("c", &mut second).unwrap(), packed);
        assert!(first == second, "the same bytes");
        assert_eq!(
            (packed.size, packed.diff_id),
            (first.len() as u64, Digest::of(&first))
        );
        assert!(packed.entries >= 10 && first.len() < 60_000, "{packed:?}");
        let expected = seen(&at);
        world.store.unmount(&at).unwrap();

        // As a layer on the same image.
        let staged = world.store.stage_layer().unwrap();
        let trees = world.store.trees(&chain).unwrap();
        let unpacked = unpack(
            &first[..],
            &staged.tree(),
            Parents::Known(&trees),
            Limits::default(),
        )
        .unwrap();
        assert_eq!(unpacked.diff_id, packed.diff_id);
        let record = LayerRecord {
            key: packed.diff_id,
            diff_id: packed.diff_id,
            size: unpacked.size,
            implicit: unpacked.implicit,
            opaque_root: unpacked.opaque_root,
        };
        world.store.commit_layer(staged, &record).unwrap();
        let more = [&chain[..], &[packed.diff_id]].concat();
        world.store.prepare("again", &more).unwrap();
        let again = world.mounted("again", Access::ReadOnly);
        let found = seen(&again);
        world.store.unmount(&again).unwrap();
        for (path, what) in &expected {
            assert_eq!(found.get(path), Some(what), "{path}");
        }
        assert_eq!(found.len(), expected.len(), "{:?}", found.keys());
    });
}

#[test]
fn what_no_layer_can_hold_is_refused() {
    World::each(|world| {
        world.store.prepare("c", &[]).unwrap();
        let at = world.mounted("c", Access::ReadWrite);
        fs::write(at.join(".wh.name"), "").unwrap();
        let error = world.store.diff("c", io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.one_line());
        fs::remove_file(at.join(".wh.name")).unwrap();
        // No overlay lets a whiteout be made in it.
        if world.store.snapshotter() == Snapshotter::Copy {
            whiteout(&at.join("device"));
            let error = world.store.diff("c", io::sink()).unwrap_err();
            assert!(error.one_line().contains("device 0:0"), "{}", error.one_line());
            fs::remove_file(at.join("device")).unwrap();
        }
        fs::write(at.join("file"), "").unwrap();
        set(at.join("file"), "user.a=b", b"c");
        let error = world.store.diff("c", io::sink()).unwrap_err();
        assert!(error.one_line().contains("user.a=b"), "{}", error.one_line());
        world.store.unmount(&at).unwrap();
        assert_eq!(
            world.store.diff("none", io::sink()).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn what_is_used_is_counted_in_bytes_and_inodes() {
    World::each(|world| {
        let chain = world.chain();
        world.store.prepare("c", &chain).unwrap();
        let before = world.store.usage("c").unwrap();
        let at = world.mounted("c", Access::ReadWrite);
        for n in 0..10 {
            fs::write(at.join(n.to_string()), vec![1; 40_000]).unwrap();
        }
        world.store.unmount(&at).unwrap();
        let after = world.store.usage("c").unwrap();
        assert_eq!(after.inodes - before.inodes, 10);
        assert!(
            (400_000..500_000).contains(&(after.bytes - before.bytes)),
            "{before:?} {after:?}"
        );
        let layer = world.store.layer_usage(&chain[0]).unwrap();
        assert!(layer.inodes >= 9 && layer.bytes > 0, "{layer:?}");
        assert_eq!(
            world.store.layer_usage(&Digest::of(b"none")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn ids_layers_and_leftovers_are_handled_alike() {
    World::each(|world| {
        let chain = world.chain();
        world.store.prepare("c", &chain).unwrap();
        assert_eq!(
            world.store.prepare("c", &chain).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        let missing = world.store.prepare("d", &[Digest::of(b"none")]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(
            world.store.remove_layer(&chain[1]).unwrap_err().kind(),
            ErrorKind::Conflict
        );
        assert_eq!(world.names("active"), ["c"]);
        world.store.remove("c").unwrap();
        world.store.remove("c").unwrap();
        for layer in &chain {
            world.store.remove_layer(layer).unwrap();
        }
        assert_eq!(world.names("layers"), Vec::<String>::new());
    });
}

#[test]
fn five_hundred_layers_are_one_image_and_one_more_is_an_error_for_overlayfs() {
    World::each(|world| {
        // Each one lies in a directory that only the lowest has an entry for.
        let layers: Vec<Digest> = (0..501)
            .map(|n| {
                let implicit: &[&str] = if n == 0 { &[] } else { &["", "d"] };
                world.layer(&format!("layer {n}"), implicit, |tree| {
                    write(tree, &format!("d/{n}"), &n.to_string());
                    write(tree, "d/last", &n.to_string());
                    if n == 0 {
                        set_mode(&tree.join("d"), 0o751);
                    }
                })
            })
            .collect();
        for (id, view) in [("c", false), ("v", true)] {
            if view {
                world.store.view(id, &layers[..500]).unwrap();
            } else {
                world.store.prepare(id, &layers[..500]).unwrap();
            }
            let at = world.mounted(id, Access::ReadWrite);
            assert_eq!(fs::read_dir(at.join("d")).unwrap().count(), 501);
            assert_eq!(fs::read_to_string(at.join("d/last")).unwrap(), "499");
            assert_eq!(fs::metadata(at.join("d")).unwrap().mode() & 0o7777, 0o751);
            world.store.unmount(&at).unwrap();
        }
        let more = world.store.prepare("more", &layers);
        match world.store.snapshotter() {
            Snapshotter::Overlay => {
                let error = more.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(
                    error.one_line().contains("501 layers: overlayfs stacks 500"),
                    "{}",
                    error.one_line()
                );
            }
            Snapshotter::Copy => {
                more.unwrap();
                let at = world.mounted("more", Access::ReadOnly);
                assert_eq!(fs::read_to_string(at.join("d/last")).unwrap(), "500");
                world.store.unmount(&at).unwrap();
            }
        }
    });
}

#[test]
fn a_store_may_hold_snapshots_of_both_kinds() {
    isolated(|| {
        let world = World::new(Snapshotter::Copy);
        let chain = world.chain();
        world.store.prepare("copied", &chain).unwrap();
        let root = world.dir.path().join("root");
        let store = Snapshots::open_with(&root, Some(Snapshotter::Overlay)).unwrap();
        store.prepare("overlaid", &chain).unwrap();
        for id in ["copied", "overlaid"] {
            let at = world.dir.path().join(id);
            fs::create_dir(&at).unwrap();
            store.mount(id, &at, Access::ReadWrite).unwrap();
            assert_eq!(
                fs::read_to_string(at.join("etc/replaced")).unwrap(),
                "top",
                "{id}"
            );
            store.unmount(&at).unwrap();
        }
        // Where overlays were mounted a moment ago the best way is overlayfs.
        assert_eq!(
            Snapshots::open_with(&root, None).unwrap().snapshotter(),
            Snapshotter::Overlay
        );
        // On a file system that cannot be an upper layer it is a copy: such is an overlay.
        let at = world.dir.path().join("nested");
        fs::create_dir(&at).unwrap();
        store.mount("overlaid", &at, Access::ReadWrite).unwrap();
        let nested = Snapshots::open_with(&at, None).unwrap();
        nested.prepare("c", &[]).unwrap();
        let inside = world.dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        nested.mount("c", &inside, Access::ReadWrite).unwrap();
        fs::write(inside.join("x"), "y").unwrap();
        nested.unmount(&inside).unwrap();
        assert_eq!(nested.usage("c").unwrap().inodes, 2, "{:?}", nested.snapshotter());
        store.unmount(&at).unwrap();
    });
}
