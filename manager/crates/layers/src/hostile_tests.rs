//! Archives that are refused: by the name of their entry, by a bound, or because they are cut off.

use super::*;

/// Each archive (named by the first text) is refused with a message that holds the last.
fn refused(cases: Vec<(&str, Tar, &str)>) {
    for (case, tar, message) in cases {
        let place = Place::new();
        let error = place.unpack(tar).unwrap_err().to_string();
        assert!(error.contains(message), "{case}: {error}");
    }
}

#[test]
fn hostile_archives_are_refused_by_the_name_of_their_entry() {
    let cases: Vec<(&str, Tar, &str)> = vec![
        (
            "parent",
            Tar::default().file("../outside/secret", "x"),
            "\"../outside/secret\" leads out",
        ),
        (
            "hidden parent",
            Tar::default().dir("a").file("a/../../outside/x", "x"),
            "\"a/../../outside/x\" leads out",
        ),
        (
            "whiteout parent",
            Tar::default().file("../outside/.wh.secret", ""),
            "leads out",
        ),
        ("directory parent", Tar::default().dir("../outside"), "leads out"),
        (
            "through links in a circle",
            Tar::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", "x"),
            "\"a/x\" lies in \"a\"",
        ),
        (
            "through a file",
            Tar::default().file("a", "x").file("a/b", "x"),
            "\"a/b\" lies in \"a\"",
        ),
    ];
    refused(cases);
}

#[test]
fn hostile_links_and_whiteouts_are_refused_by_the_name_of_their_entry() {
    let cases: Vec<(&str, Tar, &str)> = vec![
        (
            "link out",
            Tar::default().link("a", "../outside/secret"),
            "\"a\" is a hard link to \"../outside/secret\"",
        ),
        (
            "link through a circle",
            Tar::default().symlink("a", "a").link("b", "a/secret"),
            "\"a/secret\" lies in \"a\"",
        ),
        (
            "link to a directory",
            Tar::default().dir("a").link("b", "a"),
            "\"b\" is a hard link to \"a\"",
        ),
        (
            "link that replaces what holds its target",
            Tar::default().file("a/b", "x").link("a", "a/b"),
            "\"a\" is a hard link to \"a/b\"",
        ),
        (
            "link to the root",
            Tar::default().link("b", "/"),
            "\"b\" is a hard link to \"/\"",
        ),
        (
            "whiteout of nothing",
            Tar::default().file("a/.wh.", ""),
            "\"a/.wh.\" is a malformed whiteout",
        ),
        (
            "whiteout of the directory",
            Tar::default().file("a/.wh..", ""),
            "malformed whiteout",
        ),
        (
            "whiteout of the parent",
            Tar::default().file(".wh...", ""),
            "malformed whiteout",
        ),
        (
            "below a whiteout",
            Tar::default().file(".wh.a/b", ""),
            "malformed whiteout",
        ),
        (
            "a file as the root",
            Tar::default().file("./", "").raw(b'0', ".", "", 0o644, b"x"),
            "a name that no file can have",
        ),
        (
            "unknown",
            Tar::default().raw(b'Q', "a", "", 0o644, b""),
            "\"a\" is of type 'Q'",
        ),
        (
            "sparse",
            Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("a", "x"),
            "a sparse file of an unknown form",
        ),
        (
            "empty symlink",
            Tar::default().symlink("a", ""),
            "\"a\" has an invalid link target",
        ),
    ];
    refused(cases);
}

#[test]
fn bounds_hold() {
    let bytes = Tar::default().file("a", "x").file("b", "x").end();
    let place = Place::new();
    let limits = Limits {
        bytes: bytes.len() as u64 - 1,
        entries: 10,
        ..Limits::default()
    };
    let error = unpack(&bytes[..], &place.layer(), Parents::Unknown, limits).unwrap_err();
    assert!(
        matches!(error, LayerError::TooLarge { unit: "bytes", .. }),
        "{error}"
    );
    let place = Place::new();
    let limits = Limits {
        bytes: bytes.len() as u64,
        entries: 1,
        ..Limits::default()
    };
    let error = unpack(&bytes[..], &place.layer(), Parents::Unknown, limits).unwrap_err();
    assert!(
        matches!(error, LayerError::TooLarge { unit: "entries", .. }),
        "{error}"
    );
}

#[test]
fn what_an_archive_does_not_hold_is_bounded_too() {
    let unpack_within = |tar: Tar, limits: Limits| {
        let place = Place::new();
        unpack(&tar.end()[..], &place.layer(), Parents::Unknown, limits).unwrap_err()
    };
    let few = Limits {
        entries: 20,
        ..Limits::default()
    };
    let error = unpack_within(Tar::default().file(&"a/".repeat(49), "x"), few);
    assert!(
        matches!(error, LayerError::TooLarge { unit: "entries", .. }),
        "directories without an entry: {error}"
    );
    let names = Limits {
        names: 10_000,
        ..Limits::default()
    };
    let many = (0..100).fold(Tar::default(), |tar, n| tar.file(&format!(".wh.{n}"), ""));
    let error = unpack_within(many, names);
    assert!(
        matches!(
            error,
            LayerError::TooLarge {
                unit: "bytes of names",
                ..
            }
        ),
        "whiteouts: {error}"
    );
    let acl = Tar::default()
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &[0; 60_000])])
        .dir("d");
    let error = unpack_within(acl, names);
    assert!(
        matches!(error, LayerError::TooLarge { .. } | LayerError::File { .. }),
        "attributes: {error}"
    );
    let deep = Tar::default()
        .pax(&[("path", "a/".repeat(513).as_bytes())])
        .dir("x");
    let error = unpack_within(deep, Limits::default());
    assert!(matches!(error, LayerError::Unsupported { .. }), "{error}");
    let wide = Tar::default()
        .pax(&[("SCHILY.xattr.user.a", &[0; 65_537])])
        .file("f", "");
    let error = unpack_within(wide, Limits::default());
    assert!(matches!(error, LayerError::Field { .. }), "{error}");
}

#[test]
fn a_name_no_file_system_stores_is_the_archives_fault() {
    let place = Place::new();
    let long = "n".repeat(300);
    let error = place
        .unpack(Tar::default().pax(&[("path", long.as_bytes())]).file("x", ""))
        .unwrap_err();
    assert_eq!(
        croze_model::Error::from(error).kind(),
        croze_model::ErrorKind::Unsupported
    );
}

#[test]
fn a_truncated_gzip_is_told_as_such() {
    use std::io::Write as _;
    let bytes = Tar::default().file("a", &"croze ".repeat(10_000)).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let gzip = gzip.finish().unwrap();
    for cut in [10, gzip.len() / 2, gzip.len() - 1] {
        let place = Place::new();
        let error = unpack(&gzip[..cut], &place.layer(), Parents::Unknown, Limits::default()).unwrap_err();
        assert!(
            matches!(error, LayerError::Source { .. } | LayerError::Truncated),
            "{cut}: {error}"
        );
    }
}
