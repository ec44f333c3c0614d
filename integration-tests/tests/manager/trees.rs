//! Odd images: the tree in a container's root is the one that umoci unpacks of the same image.
//!
//! Where umoci 0.4.7 has its own way, the test that shows it says so; these are left out of the comparison:
//!
//! | what | umoci | here |
//! |---|---|---|
//! | a directory that no layer has an entry for | has the time at which it was unpacked | has the time of the entry that needs it |
//! | `.wh.d` behind `d/x`, without an entry for `d` | `d` keeps the mode and owner of the lower one that it hides | `d` is new: 0755, root |
//! | `.wh.d` before and behind entries | counts from where it stands | counts for the layers below, as the specification has it |
//! | sparse files in the old GNU form | refuses them | unpacked |
//! | a hard link to one of several names of a lower file | all names stay one file | the linked ones are one file, the others stay one below (overlayfs) |
//! | an entry below a symbolic link that only a lower layer has | goes where the link leads | makes a directory in the link's place (as docker does) |

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{
    Crozed, Entry, ImageLayout, LayerTar, Registry, Scene, Tree, busybox, wait_until,
};
use serde_json::json;

/// What the runtime mounts things on; it is in the base layer, so that nothing has to be made.
const MOUNTED_ON: [&str; 6] = [
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];

/// The layer that every image here begins with: a program to run, and what is mounted on.
pub(crate) fn base() -> Result<Vec<u8>> {
    let mut entries = vec![Entry::dir("./"), Entry::dir("etc"), Entry::dir("bin")];
    for path in MOUNTED_ON {
        entries.push(if path.contains('/') {
            Entry::file(path, "")
        } else {
            Entry::dir(path)
        });
    }
    entries.push(Entry::file("bin/busybox", fs::read(busybox()?)?).mode(0o755));
    Ok(LayerTar::of(entries))
}

/// Pulls an image of these layers over the base from a registry, runs it, and compares its root with what umoci unpacks.
pub(crate) fn compare(
    scene: &Scene,
    registry: &Registry<'_>,
    daemon: &Crozed<'_>,
    name: &str,
    layers: &[Vec<u8>],
) -> Result<Tree> {
    compare_with(scene, registry, daemon, name, (layers, layers))
}

/// The same where umoci is shown other layers, which mean the same.
fn compare_with(
    scene: &Scene,
    registry: &Registry<'_>,
    daemon: &Crozed<'_>,
    name: &str,
    (layers, shown): (&[Vec<u8>], &[Vec<u8>]),
) -> Result<Tree> {
    let write = |layers: &[Vec<u8>], name: &str| {
        let layers = [&[base()?], layers].concat();
        ImageLayout::uncompressed(&layers, &json!({ "Cmd": ["/bin/busybox", "sleep", "1000"] }))?
            .write(scene, name, "latest")
    };
    registry.push(&write(layers, name)?, "latest", &repository(name))?;
    let shown = write(shown, &format!("{name}-shown"))?;

    let reference = registry.reference(&repository(name));
    compare_running(scene, daemon, name, &reference, &shown, &MOUNTED_ON)
}

/// Runs an image, which sleeps, and compares its root with what umoci unpacks of an OCI layout's image `latest`, but for some paths.
pub(crate) fn compare_running(
    scene: &Scene,
    daemon: &Crozed<'_>,
    name: &str,
    reference: &str,
    layout: &Path,
    but: &[&str],
) -> Result<Tree> {
    let bundle = scene.path(&format!("{name}-bundle"));
    let image = format!("{}:latest", layout.display());
    scene
        .call(&["umoci", "unpack", "--image", &image, &bundle.to_string_lossy()])?
        .success()?;
    let mut expected = Tree::survey(&bundle.join("rootfs"))?;

    daemon.ok(&["run", "-d", "--name", name, reference])?;
    let root = format!("/proc/{}/root", daemon.pid(name)?);
    // The process has its root before it is started; that it sleeps is not needed.
    let mut found = wait_until("the root was there", std::time::Duration::from_secs(10), || {
        Ok(fs::symlink_metadata(format!("{root}/bin/busybox"))
            .is_ok()
            .then(|| Tree::survey(root.as_ref())))
    })??;
    for path in but {
        expected.forget(path);
        found.forget(path);
    }
    let differences = found.differences(&expected);
    ensure!(
        differences.is_empty(),
        "{name}: croze | umoci:\n{}",
        differences.join("\n")
    );
    daemon.ok(&["rm", "-f", name])?;
    fs::remove_dir_all(&bundle)?;
    Ok(found)
}

/// Where an image is in the registry: all share a repository, so that the base is pushed once.
pub(crate) fn repository(name: &str) -> String {
    format!("trees:{name}")
}

/// Runs a test with a registry and a daemon.
pub(crate) fn on_stage(act: impl FnOnce(&Scene, &Registry<'_>, &Crozed<'_>) -> Result<()>) -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let daemon = Crozed::start(scene)?;
        act(scene, &registry, &daemon)?;
        daemon.finish()
    })
}

fn tar<const N: usize>(entries: [Entry; N]) -> Vec<u8> {
    LayerTar::of(entries)
}

#[test]
fn every_kind_of_file_with_all_that_is_said_about_it() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
        let layer = LayerTar::of([
            Entry::dir("k").mode(0o1777).mtime(1_500_000_000, 123_456_789),
            Entry::file("k/suid", "s").mode(0o4755).owner(1000, 1001),
            Entry::file("k/sgid", "s")
                .mode(0o2711)
                .owner(4_000_000_000, 2_000_000_000),
            Entry::file("k/times", "t").mtime(1_400_000_000, 1),
            Entry::file("k/old", "t").mtime(-2, 750_000_000),
            Entry::file("k/empty", "").mode(0),
            Entry::file("k/xattr", "x")
                .xattr("user.one", b"1\n=\0")
                .xattr("security.capability", &capability),
            Entry::dir("k/xdir").xattr("user.dir", b"d"),
            Entry::device("k/null", 1, 3).owner(1, 2),
            Entry::device("k/large", 300, 70_000),
            Entry::fifo("k/pipe").mode(0o622),
            Entry::symlink("k/link", "../no/where")
                .owner(7, 8)
                .mtime(1_300_000_000, 5),
            Entry::hard_link("k/again", "k/suid"),
            Entry::hard_link("k/pipe-again", "/k/pipe"),
            Entry::file("k/.wh", "no whiteout"),
            Entry::file("k/a.wh.b", "no whiteout"),
            Entry::file("k/sp ace\n\\\"", "q"),
            Entry::file("k/\u{fc}n\u{ef}c\u{f6}d\u{e9}", "u"),
            Entry::file(b"k/\xff\xfe".to_vec(), "not UTF-8"),
            Entry::dir("d".repeat(120)),
            Entry::file(long, "long"),
        ]);
        let gnu = LayerTar::default()
            .gnu_long_name(&[b'g'; 150])
            .entry(&Entry::file("short", "gnu"))
            .end();
        let tree = compare(scene, registry, daemon, "kinds", &[layer, gnu])?;
        let node = tree.0.get(Path::new("k/suid")).context("k/suid")?;
        assert_eq!((node.mode & 0o7777, node.owner), (0o4755, (1000, 1001)));
        let node = tree.0.get(Path::new("k/xattr")).context("k/xattr")?;
        assert_eq!(node.xattrs.get("security.capability"), Some(&capability.to_vec()));
        Ok(())
    })
}

#[test]
fn sparse_files_of_every_form() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let size = 3_000_000;
        let many: Vec<(u64, Vec<u8>)> = (0_u8..30)
            .map(|n| (u64::from(n) * 100_000 + 512, vec![n + 1; 700]))
            .collect();
        let few = &many[..3];
        let file = |name: &str| Entry::file(name, "").mode(0o640).owner(3, 4);
        let after = Entry::file("after", "the archive goes on");
        let pax = LayerTar::default()
            .pax_sparse((0, 0), &file("few"), few, size)
            .pax_sparse((0, 1), &file("many"), &many, size)
            .pax_sparse((1, 0), &file("many-1.0"), &many, size)
            .pax_sparse((1, 0), &file("hole"), &[], size)
            .entry(&after)
            .end();
        let tree = compare(scene, registry, daemon, "pax", std::slice::from_ref(&pax))?;
        let content = |name: &str| Some(tree.0.get(Path::new(name))?.content.clone());
        assert_eq!(content("many"), content("many-1.0"));
        ensure!(content("few") != content("hole"), "there is something in it");

        // umoci takes the old form for a type of file that it does not know: it is shown the same files in PAX.
        let gnu = LayerTar::default()
            .gnu_sparse(&file("few"), few, size)
            .gnu_sparse(&file("many"), &many, size)
            .gnu_sparse(&file("many-1.0"), &many, size)
            .gnu_sparse(&file("hole"), &[], size)
            .entry(&after)
            .end();
        compare_with(scene, registry, daemon, "gnu", (&[gnu], &[pax])).map(drop)
    })
}

#[test]
fn whiteouts_in_every_position() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let lower = tar([
            Entry::dir("w").mode(0o750).owner(5, 5),
            Entry::file("w/file", "1"),
            Entry::dir("w/dir"),
            Entry::file("w/dir/in", "1"),
            Entry::symlink("w/link", "file"),
            Entry::file("w/kept", "1"),
            Entry::dir("first").mode(0o711),
            Entry::file("first/old", "1"),
            Entry::dir("first/sub"),
            Entry::file("first/sub/old", "1"),
            Entry::dir("middle"),
            Entry::file("middle/old", "1"),
            Entry::dir("last"),
            Entry::file("last/old", "1"),
            Entry::dir("anew"),
            Entry::file("anew/old", "1"),
            Entry::file("again", "1"),
            Entry::dir("deep"),
            Entry::dir("deep/er"),
            Entry::file("deep/er/x", "1"),
            Entry::file("deep/er/y", "1"),
        ]);
        let upper = tar([
            Entry::file("w/.wh.file", ""),
            Entry::file("w/.wh.dir", ""),
            Entry::file("w/.wh.link", ""),
            Entry::file("w/.wh.never-was", ""),
            Entry::file("w/.wh..wh.plnk", ""),
            Entry::file("first/.wh..wh..opq", ""),
            Entry::file("first/new", "2"),
            Entry::file("middle/new-1", "2"),
            Entry::file("middle/.wh..wh..opq", ""),
            Entry::file("middle/new-2", "2"),
            Entry::file("last/new", "2"),
            Entry::file("last/.wh..wh..opq", ""),
            // Gone and there again in one layer: only what is new stays.
            Entry::file(".wh.anew", ""),
            Entry::dir("anew").mode(0o700),
            Entry::file("anew/new", "2"),
            Entry::file("again", "2").mode(0o600),
            Entry::file(".wh.again", ""),
            Entry::file("deep/er/.wh.x", ""),
            // A whiteout where there was never anything, in a directory of this layer only.
            Entry::dir("own"),
            Entry::file("own/.wh.ghost", ""),
            Entry::file("own/body", "2"),
        ]);
        let third = tar([
            // What a whiteout hid comes back.
            Entry::file("w/file", "3"),
            Entry::dir("w/dir").mode(0o701),
            Entry::file("w/dir/other", "3"),
            // A whiteout of what another layer put back, of a whole tree, and of a directory that only has whiteouts.
            Entry::file(".wh.deep", ""),
            Entry::file("own/.wh.body", ""),
            Entry::file("first/.wh.new", ""),
        ]);
        let tree = compare(scene, registry, daemon, "whiteouts", &[lower, upper, third])?;
        let has = |path: &str| tree.0.contains_key(Path::new(path));
        ensure!(has("w/file") && has("w/dir/other") && has("anew/new") && has("own"));
        for gone in [
            "w/dir/in",
            "w/link",
            "first/old",
            "first/new",
            "middle/old",
            "last/old",
            "anew/old",
            "deep",
            "own/ghost",
        ] {
            ensure!(!has(gone), "{gone} is there");
        }
        Ok(())
    })
}

#[test]
fn files_and_directories_take_each_others_place() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let first = tar([
            Entry::dir("a"),
            Entry::file("a/x", "1"),
            Entry::file("b", "1"),
            Entry::dir("c"),
            Entry::file("c/x", "1"),
            Entry::symlink("d", "a"),
        ]);
        let second = tar([
            Entry::file("a", "2"),
            Entry::dir("b"),
            Entry::file("b/x", "2"),
            Entry::symlink("c", "b"),
            Entry::dir("d").mode(0o700),
            Entry::file("d/x", "2"),
        ]);
        let third = tar([
            Entry::dir("a").mode(0o711),
            Entry::file("a/y", "3"),
            Entry::fifo("b"),
            Entry::dir("c"),
            Entry::file("c/y", "3"),
            Entry::file(".wh.d", ""),
        ]);
        compare(scene, registry, daemon, "places", &[first, second, third]).map(drop)
    })
}

#[test]
fn repeated_empty_and_many_layers() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let one = tar([Entry::file("f", "1"), Entry::file("one", "1")]);
        let two = tar([Entry::file("f", "2"), Entry::file(".wh.one", "")]);
        let empty = LayerTar::of([]);
        let repeated = [
            one.clone(),
            two.clone(),
            empty.clone(),
            one,
            empty.clone(),
            two,
            empty,
        ];
        compare(scene, registry, daemon, "repeated", &repeated)?;
        let many: Vec<Vec<u8>> = (0..130)
            .map(|n| {
                tar([
                    Entry::file("count", format!("{n}")),
                    Entry::file(format!("n{n}"), ""),
                ])
            })
            .collect();
        compare(scene, registry, daemon, "many", &many).map(drop)
    })
}

#[test]
fn directories_without_entries_keep_what_lower_layers_say() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let lower = tar([
            Entry::dir("./").mode(0o751).owner(9, 9).mtime(1_111_111_111, 5),
            Entry::dir("p").mode(0o2770).owner(1, 2).mtime(1_222_222_222, 6),
            Entry::dir("p/q")
                .mode(0o500)
                .owner(3, 4)
                .xattr("user.kept", b"yes"),
            Entry::file("p/q/low", "1"),
        ]);
        // Neither `/` nor `p` nor `p/q` has an entry here.
        let upper = tar([Entry::file("p/q/high", "2"), Entry::file("p/.wh.none", "")]);
        let tree = compare(scene, registry, daemon, "implicit", &[lower, upper])?;
        let node = tree.0.get(Path::new("p/q")).context("p/q")?;
        assert_eq!((node.mode & 0o7777, node.owner), (0o500, (3, 4)));
        Ok(())
    })
}

#[test]
fn hard_links_reach_into_lower_layers() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let lower = tar([
            Entry::dir("h"),
            Entry::file("h/one", "shared")
                .mode(0o4711)
                .owner(6, 7)
                .mtime(1_333_333_333, 9),
            Entry::file("h/two", "moved"),
            Entry::file("h/alone", "single").mode(0o640),
            Entry::symlink("h/sym", "one"),
        ]);
        let upper = tar([
            // Headers of links say other things than the file: they do not count.
            Entry::hard_link("h/one-again", "h/one").mode(0o600).owner(99, 99),
            Entry::hard_link("h/sym-again", "h/sym"),
            Entry::hard_link("two-moved", "h/two"),
            Entry::file("h/.wh.two", ""),
        ]);
        let third = tar([
            Entry::hard_link("h/third", "h/alone"),
            Entry::hard_link("h/fourth", "h/third"),
        ]);
        let tree = compare(scene, registry, daemon, "links", &[lower, upper, third])?;
        let node = tree.0.get(Path::new("h/one-again")).context("h/one-again")?;
        assert_eq!((node.mode & 0o7777, node.owner), (0o4711, (6, 7)));
        Ok(())
    })
}
