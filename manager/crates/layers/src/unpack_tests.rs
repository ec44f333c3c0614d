//! Archives made in memory, friendly and hostile, against what must be on the disk afterwards.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use croze_model::Digest;

use super::*;
use crate::test_archive::Tar;
use crate::{Unpacked, unpack};

#[path = "hostile_tests.rs"]
mod hostile_tests;

/// A target directory with a file beside it that no archive may reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn unpack(&self, tar: Tar) -> Result<Unpacked, LayerError> {
        self.unpack_over(tar, Parents::Unknown)
    }

    fn unpack_over(&self, tar: Tar, parents: Parents<'_>) -> Result<Unpacked, LayerError> {
        let result = unpack(&tar.end()[..], &self.layer(), parents, Limits::default());
        assert_eq!(
            fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(),
            "untouched"
        );
        assert_eq!(fs::read_dir(self.dir.path().join("outside")).unwrap().count(), 1);
        result
    }

    /// Every path of the layer with what it is.
    fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.layer()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let kind = metadata.file_type();
                let what = if kind.is_dir() {
                    pending.push(path.clone());
                    if opaque(&path) { "opaque" } else { "dir" }.to_owned()
                } else if kind.is_char_device() && metadata.rdev() == 0 {
                    "whiteout".to_owned()
                } else if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if kind.is_file() {
                    fs::read_to_string(&path).unwrap()
                } else {
                    "special".to_owned()
                };
                found.push(format!(
                    "{} {what}",
                    path.strip_prefix(self.layer()).unwrap().display()
                ));
            }
        }
        found.sort();
        found
    }
}

fn opaque(path: &Path) -> bool {
    let mut value = [0u8; 8];
    matches!(rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]), Ok(1) if value[0] == b'y')
}

fn implicit(unpacked: &Unpacked) -> Vec<&str> {
    unpacked
        .implicit
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect()
}

#[test]
fn links_in_the_directory_part_are_followed_within_the_layer() {
    for (case, tar, tree) in [
        (
            "a merged /usr",
            Tar::default()
                .symlink("lib", "usr/lib")
                .file("lib/x86/so", "x")
                .link("lib/hard", "lib/x86/so"),
            vec![
                "lib -> usr/lib",
                "usr dir",
                "usr/lib dir",
                "usr/lib/hard x",
                "usr/lib/x86 dir",
                "usr/lib/x86/so x",
            ],
        ),
        (
            "out of the layer, relative",
            Tar::default().symlink("a", "../outside").file("a/secret", "x"),
            vec!["a -> ../outside", "outside dir", "outside/secret x"],
        ),
        (
            "out of the layer, absolute",
            Tar::default().symlink("a", "/tmp").file("a/b/secret", "x"),
            vec!["a -> /tmp", "tmp dir", "tmp/b dir", "tmp/b/secret x"],
        ),
        (
            "whiteouts",
            Tar::default()
                .symlink("a", "../outside")
                .file("a/.wh.secret", "")
                .file("a/b/.wh..wh..opq", ""),
            vec![
                "a -> ../outside",
                "outside dir",
                "outside/b opaque",
                "outside/secret whiteout",
            ],
        ),
        (
            "a directory that is a link",
            Tar::default()
                .dir("d")
                .symlink("a", "d")
                .dir("a/b")
                .file("a/../c", "x"),
            vec!["a -> d", "c x", "d dir", "d/b dir"],
        ),
    ] {
        let place = Place::new();
        let unpacked = place
            .unpack(tar)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(place.tree(), tree, "{case}");
        for path in &unpacked.implicit {
            let metadata = fs::symlink_metadata(place.layer().join(path)).unwrap();
            assert!(metadata.is_dir(), "{case}: {}", path.display());
        }
    }
}

#[test]
fn absolute_names_and_link_targets_lie_in_the_layer() {
    let place = Place::new();
    let tar = Tar::default()
        .file("/etc/passwd", "root")
        .symlink("/l", "/etc/passwd")
        .link("/h", "/etc/passwd");
    place.unpack(tar).unwrap();
    assert_eq!(
        place.tree(),
        ["etc dir", "etc/passwd root", "h root", "l -> /etc/passwd"]
    );
}

#[test]
fn whiteouts_hide_lower_layers_only_wherever_they_stand() {
    for (case, tar, tree) in [
        (
            "nothing of the name",
            Tar::default().file(".wh.x", ""),
            vec!["x whiteout"],
        ),
        (
            "a file, before",
            Tar::default().file(".wh.x", "").file("x", "new"),
            vec!["x new"],
        ),
        (
            "a file, after",
            Tar::default().file("x", "new").file(".wh.x", ""),
            vec!["x new"],
        ),
        (
            "a directory, before",
            Tar::default().file(".wh.d", "").file("d/f", "new"),
            vec!["d opaque", "d/f new"],
        ),
        (
            "a directory, after",
            Tar::default().dir("d").file("d/f", "new").file(".wh.d", ""),
            vec!["d opaque", "d/f new"],
        ),
        (
            "opaque, after",
            Tar::default().file("d/f", "new").file("d/.wh..wh..opq", ""),
            vec!["d opaque", "d/f new"],
        ),
        (
            "opaque alone",
            Tar::default().file("d/.wh..wh..opq", ""),
            vec!["d opaque"],
        ),
        (
            "a whiteout in an opaque directory",
            Tar::default()
                .file("d/.wh.x", "")
                .file("d/e/.wh.y", "")
                .file("d/.wh..wh..opq", ""),
            vec!["d opaque", "d/e dir"],
        ),
        (
            "a whiteout of a directory that the layer has a whiteout in",
            Tar::default().file(".wh.a", "").file("a/.wh.b", ""),
            vec!["a opaque"],
        ),
        (
            "below another whiteout",
            Tar::default().file("d/.wh.x", "").file(".wh.d", ""),
            vec!["d opaque"],
        ),
        (
            "below what becomes a file",
            Tar::default()
                .file("a/.wh.x", "")
                .file("a/b/.wh..wh..opq", "")
                .file("a", "new"),
            vec!["a new"],
        ),
        (
            "below what becomes a link",
            Tar::default()
                .dir("a")
                .file("a/.wh.x", "")
                .file("a/b/.wh..wh..opq", "")
                .symlink("a", "t"),
            vec!["a -> t"],
        ),
        (
            "a device that overlayfs takes as one",
            Tar::default().raw(b'3', "x", "0,0", 0o666, b""),
            vec!["x whiteout"],
        ),
        (
            "bookkeeping",
            Tar::default()
                .file(".wh..wh.aufs", "")
                .file(".wh..wh.plnk/1.2", ""),
            vec![],
        ),
        (
            "twice",
            Tar::default().file("d/.wh.x", "").file("d/.wh.x", ""),
            vec!["d dir", "d/x whiteout"],
        ),
    ] {
        let place = Place::new();
        place
            .unpack(tar)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(place.tree(), tree, "{case}");
    }
}

#[test]
fn an_opaque_root_is_told_to_the_caller() {
    let place = Place::new();
    let unpacked = place
        .unpack(
            Tar::default()
                .file(".wh.x", "")
                .file(".wh..wh..opq", "")
                .file("f", ""),
        )
        .unwrap();
    assert!(unpacked.opaque_root);
    assert_eq!(place.tree(), ["f "]);
}

#[test]
fn implicit_directories_are_recorded_until_their_entry_comes() {
    let place = Place::new();
    let tar = Tar::default()
        .file("a/b/c/f", "")
        .raw(b'5', "a/b", "", 0o2750, b"")
        .file("w/.wh.x", "")
        .file(".wh.n", "")
        .file("n/f", "");
    let unpacked = place.unpack(tar).unwrap();
    // `n` replaces whatever was below, so it is no longer a question of what its metadata was there.
    assert_eq!(implicit(&unpacked), ["", "a", "a/b/c", "w"]);
    let mode = |path: &str| fs::metadata(place.layer().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b"), mode("n")), (0o755, 0o2750, 0o755));
    assert_eq!(
        fs::metadata(place.layer().join("a")).unwrap().mtime(),
        1000,
        "no time of today"
    );
    let explicit = Place::new()
        .unpack(Tar::default().dir("./").file("f", ""))
        .unwrap();
    assert_eq!(implicit(&explicit), [] as [&str; 0]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = Place::new();
    let tar = Tar::default()
        .file("f", "one")
        .link("h", "f")
        .file("f", "two")
        .dir("d")
        .file("d/deep/inside", "x")
        .file("d", "now a file")
        .file("e", "x")
        .dir("e")
        .file("e/f", "x")
        .symlink("s", "one")
        .symlink("s", "two")
        .file("a/.wh.b", "")
        .link("f", "f");
    let unpacked = place.unpack(tar).unwrap();
    assert_eq!(
        place.tree(),
        [
            "a dir",
            "a/b whiteout",
            "d now a file",
            "e opaque",
            "e/f x",
            "f two",
            "h one",
            "s -> two"
        ]
    );
    assert_eq!(implicit(&unpacked), ["", "a"]);
}

#[test]
fn metadata_is_the_archives() {
    let place = Place::new();
    let capability = b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let tar = Tar::default()
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("uid", b"100000"),
            ("gid", b"200000"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.note", b"a\nb=c"),
        ])
        .raw(b'0', "bin/tool", "", 0o6755, b"#!")
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.dir", b"1"),
        ])
        .dir("bin")
        .raw(b'3', "null", "1,3", 0o666, b"")
        .raw(b'6', "pipe", "", 0o600, b"")
        .symlink("link", "anywhere/../at all");
    place.unpack(tar).unwrap();
    let tool = place.layer().join("bin/tool");
    let metadata = fs::metadata(&tool).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o6755);
    assert_eq!((metadata.uid(), metadata.gid()), (100_000, 200_000));
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    let xattr = |path: &Path, name: &str| {
        let mut value = [0u8; 64];
        rustix::fs::lgetxattr(path, name, &mut value[..])
            .map(|n| value[..n].to_vec())
            .ok()
    };
    assert_eq!(
        xattr(&tool, "security.capability").as_deref(),
        Some(capability.as_slice())
    );
    assert_eq!(xattr(&tool, "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&tool, "user.overlay.opaque"), None);
    let dir = place.layer().join("bin");
    if xattr(&dir, "user.dir").is_some() {
        assert_eq!(xattr(&tool, "user.note").as_deref(), Some(b"a\nb=c".as_slice()));
    }
    assert!(!opaque(&dir));
    assert_eq!(
        fs::metadata(&dir).unwrap().mtime(),
        1000,
        "set after what is in it"
    );
    let null = fs::symlink_metadata(place.layer().join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.permissions().mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    assert!(
        fs::symlink_metadata(place.layer().join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(
        fs::symlink_metadata(place.layer().join("link")).unwrap().mtime(),
        1000
    );
}

#[test]
fn a_hard_links_header_does_not_change_the_file() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .raw(b'0', "f", "", 0o600, b"x")
                .raw(b'1', "h", "f", 0o4777, b""),
        )
        .unwrap();
    let metadata = fs::metadata(place.layer().join("f")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 2));
}

#[test]
fn a_hard_link_into_a_lower_layer_copies_and_links() {
    let lower = Place::new();
    lower
        .unpack(
            Tar::default()
                .raw(b'0', "usr/f", "", 0o640, b"low")
                .file("gone", "x")
                .file("hidden", "x"),
        )
        .unwrap();
    let middle = Place::new();
    middle.unpack(Tar::default().file(".wh.hidden", "")).unwrap();
    let trees = [middle.layer(), lower.layer()];

    let alone = Place::new();
    let tar = || {
        Tar::default()
            .link("a/h", "usr/f")
            .file(".wh.gone", "")
            .link("g", "gone")
    };
    let unpacked = alone.unpack(tar()).unwrap();
    assert_eq!(unpacked.needs_parents.as_deref(), Some("a/h"));

    let place = Place::new();
    let over = place.unpack_over(tar(), Parents::Known(&trees)).unwrap();
    assert_eq!(over.needs_parents, None);
    assert_eq!(over.diff_id, unpacked.diff_id);
    assert_eq!(
        place.tree(),
        ["a dir", "a/h low", "g x", "gone whiteout", "usr dir", "usr/f low"]
    );
    assert_eq!(implicit(&over), ["", "a", "usr"]);
    let metadata = fs::metadata(place.layer().join("usr/f")).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.nlink(), metadata.mtime()),
        (0o640, 2, 1000)
    );

    for target in ["hidden", "nowhere", "nowhere/at/all"] {
        let error = Place::new()
            .unpack_over(Tar::default().link("h", target), Parents::Known(&trees))
            .unwrap_err();
        assert!(
            matches!(error, LayerError::NoLinkTarget { .. }),
            "{target}: {error}"
        );
    }
}

#[test]
fn a_copy_that_is_hidden_with_its_directory_goes_with_it() {
    for hide in ["d/.wh.t", "d/.wh..wh..opq", ".wh.d"] {
        let lower = Place::new();
        lower
            .unpack(Tar::default().dir("d").file("d/t", "lower"))
            .unwrap();
        let upper = Place::new();
        let tar = Tar::default().link("g", "d/t").file(hide, "");
        upper.unpack_over(tar, Parents::Known(&[lower.layer()])).unwrap();
        assert_eq!(fs::read_to_string(upper.layer().join("g")).unwrap(), "lower");
        let kept = fs::symlink_metadata(upper.layer().join("d/t"));
        assert!(
            kept.is_err() || kept.unwrap().file_type().is_char_device(),
            "{hide}"
        );
        let directory = fs::symlink_metadata(upper.layer().join("d")).unwrap();
        assert_eq!(directory.is_dir(), hide != ".wh.d", "{hide}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_of_its_layer_is_new() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .file("a", "")
                .dir("a")
                .dir("b")
                .file("b", "")
                .dir("b")
                .dir("c")
                .dir("c"),
        )
        .unwrap();
    let made = |name: &str| opaque(&place.layer().join(name));
    assert_eq!((made("a"), made("b"), made("c")), (true, true, false));
}

#[test]
fn a_second_entry_of_a_directory_takes_the_attributes_of_the_first_away() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .pax(&[("SCHILY.xattr.user.one", b"1")])
                .dir("a")
                .dir("a"),
        )
        .unwrap();
    let mut value = [0; 8];
    assert!(rustix::fs::lgetxattr(place.layer().join("a"), "user.one", &mut value[..]).is_err());
}

#[test]
fn a_directory_with_whiteouts_is_listed_as_if_it_were_merged() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .dir("with")
                .file("with/.wh.x", "")
                .dir("without")
                .file(".wh.y", ""),
        )
        .unwrap();
    let marked = |name: &str| {
        let mut value = [0; 1];
        rustix::fs::lgetxattr(place.layer().join(name), "trusted.overlay.origin", &mut value[..]).is_ok()
    };
    assert_eq!(
        (marked("with"), marked("without"), marked("")),
        (true, false, false)
    );
}

#[test]
fn the_diff_id_covers_what_follows_the_archive() {
    let place = Place::new();
    let mut bytes = Tar::default().file("f", "x").end();
    bytes.extend_from_slice(&[0; 10240]);
    let unpacked = unpack(&bytes[..], &place.layer(), Parents::Unknown, Limits::default()).unwrap();
    assert_eq!(
        (unpacked.diff_id, unpacked.archive_size),
        (Digest::of(&bytes), bytes.len() as u64)
    );
    assert_eq!(
        crate::hash(&bytes[..], Limits::default()).unwrap(),
        (Digest::of(&bytes), bytes.len() as u64)
    );
    assert_eq!(unpacked.size, 1);
}
