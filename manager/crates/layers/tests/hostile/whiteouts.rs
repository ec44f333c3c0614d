//! Whiteouts of what cannot be hidden, in places where none can be, of kinds that none has.

use crate::Case;
use crate::Expect::{self, Harmless, Refused, Tree};
use crate::tape::Tape;

const MALFORMED: Expect = Refused("Whiteout", "is a malformed whiteout");

fn tape() -> Tape {
    Tape::default()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(places());
    cases.extend(kinds());
    cases
}

fn names() -> Vec<Case> {
    let named = |name, path: &'static str, expect| Case::tape(name, tape().file(path, ""), expect);
    let pax =
        |name, path: &[u8], expect| Case::tape(name, tape().pax(&[(b"path", path)]).file("x", ""), expect);
    vec![
        named("a whiteout of nothing", ".wh.", MALFORMED),
        named("a whiteout of nothing, below", "a/.wh.", MALFORMED),
        named("a whiteout of this directory", ".wh..", MALFORMED),
        named("a whiteout of this directory, below", "a/.wh..", MALFORMED),
        named("a whiteout of the parent", ".wh...", MALFORMED),
        named("a whiteout of the parent, below", "a/b/.wh...", MALFORMED),
        named("a whiteout of the root", "/.wh./", MALFORMED),
        named("a whiteout of three dots", ".wh....", Tree(&["... w"])),
        named("a whiteout of a name with a slash", ".wh.a/b", MALFORMED),
        named("a whiteout of a name with a slash, below", "d/.wh.a/b", MALFORMED),
        pax(
            "a whiteout of a name with a slash, in PAX",
            b"d/.wh./b",
            MALFORMED,
        ),
        pax(
            "a whiteout of a zero byte",
            b".wh.\0",
            Refused("Name", "no file can have"),
        ),
        pax(
            "a whiteout of bytes that are no text",
            b".wh.\xff\n",
            Tree(&["\\xff\\n w"]),
        ),
        pax(
            "a whiteout of 251 bytes",
            &[b".wh.".as_slice(), &[b'n'; 251]].concat(),
            Harmless,
        ),
        pax(
            "a whiteout of 255 bytes",
            &[b".wh.".as_slice(), &[b'n'; 255]].concat(),
            Harmless,
        ),
        pax(
            "a whiteout of 256 bytes",
            &[b".wh.".as_slice(), &[b'n'; 256]].concat(),
            Refused("File", "cannot"),
        ),
        named("a whiteout of a whiteout", ".wh..wh.a", Tree(&[])),
        named("AUFS' own, nothing more", ".wh..wh.", Tree(&[])),
        named("AUFS' own", ".wh..wh.aufs", Tree(&[])),
        named("AUFS' own directory", ".wh..wh.plnk/1.2", Tree(&[])),
        named(
            "AUFS' own directory, deeper",
            "d/.wh..wh.plnk/../../x",
            Tree(&["x f"]),
        ),
        named("nearly an opaque mark", ".wh..opq", Tree(&[".opq w"])),
        named("more than an opaque mark", ".wh..wh..opq.", Tree(&[])),
        named("letters in another case", ".WH.a", Tree(&[".WH.a f"])),
        named("a name that only holds it", "a.wh.b", Tree(&["a.wh.b f"])),
        named("two dots before it", "..wh.a", Tree(&["..wh.a f"])),
    ]
}

fn places() -> Vec<Case> {
    vec![
        Case::tape("an opaque root", tape().file(".wh..wh..opq", ""), Tree(&[])),
        Case::tape(
            "an opaque directory that has no entry",
            tape().file("a/b/.wh..wh..opq", ""),
            Tree(&["a d", "a/b D"]),
        ),
        Case::tape(
            "an opaque file",
            tape().file("a/.wh..wh..opq", "").file("x", "").symlink("a", "x"),
            Harmless,
        ),
        Case::tape(
            "an opaque mark behind a file",
            tape().file("a", "x").file("a/.wh..wh..opq", ""),
            Harmless,
        ),
        Case::tape(
            "a whiteout behind a file",
            tape().file("a", "x").file("a/.wh.b", ""),
            Tree(&["a f x"]),
        ),
        Case::tape(
            "a file in place of a directory with whiteouts",
            tape().file("a/.wh.b", "").file("a", "x"),
            Tree(&["a f x"]),
        ),
        Case::tape(
            "whiteouts below a whiteout",
            tape().file(".wh.a", "").file("a/.wh.b", "").file("a/b/.wh.c", ""),
            Harmless,
        ),
        Case::tape(
            "a whiteout and its file",
            tape().file("a", "x").file(".wh.a", ""),
            Tree(&["a f x"]),
        ),
        Case::tape(
            "a whiteout and its directory",
            tape().file(".wh.a", "").dir("a").file("a/f", "x"),
            Tree(&["a D", "a/f f x"]),
        ),
        Case::tape(
            "a whiteout of a directory and in it",
            tape().file(".wh.a", "").dir("a").file("a/.wh.f", ""),
            Tree(&["a D"]),
        ),
        Case::tape(
            "a whiteout and its symbolic link",
            tape().file(".wh.a", "").symlink("a", "/outside"),
            Tree(&["a l /outside"]),
        ),
        Case::tape(
            "a whiteout behind a circle",
            tape().symlink("s", "s").file("s/.wh.x", ""),
            Refused("BehindLink", "no directory"),
        ),
        Case::tape(
            "the same whiteout a hundred times",
            (0..100).fold(tape(), |tape, _| tape.file(".wh.a", "")),
            Tree(&["a w"]),
        ),
        Case::tape(
            "opaque marks everywhere",
            (0..200).fold(tape(), |tape, n| {
                tape.file(&format!("d{n}/.wh..wh..opq", n = n % 7), "")
                    .file(&format!("d{n}/f", n = n % 7), "x")
            }),
            Harmless,
        ),
        Case::tape(
            "more whiteouts than may be remembered",
            (0..15_000).fold(tape(), |tape, n| tape.file(&format!(".wh.{n:090}"), "")),
            Refused("TooLarge", "bytes of names"),
        ),
    ]
}

fn kinds() -> Vec<Case> {
    let of = |name, kind: u8, link: &str, expect| {
        Case::tape(name, tape().member(kind, ".wh.a", link, b""), expect)
    };
    let hidden = || Tree(&["a w"]);
    vec![
        of("a directory as a whiteout", b'5', "", hidden()),
        of("a symbolic link as a whiteout", b'2', "/etc", hidden()),
        of("a hard link as a whiteout", b'1', "../outside/secret", hidden()),
        of("a device as a whiteout", b'3', "", hidden()),
        of("a pipe as a whiteout", b'6', "", hidden()),
        of("an unknown kind as a whiteout", b'Q', "", hidden()),
        Case::tape(
            "a whiteout with content",
            tape().file(".wh.a", &"x".repeat(5000)),
            hidden(),
        ),
        Case::tape(
            "a directory as a whiteout, with something in it",
            tape().dir(".wh.a").file(".wh.a/f", "x"),
            MALFORMED,
        ),
        Case::tape(
            "a directory as an opaque mark",
            tape().dir("a/.wh..wh..opq").file("a/.wh..wh..opq/f", "x"),
            Tree(&["a D"]),
        ),
        Case::tape(
            "a whiteout with attributes and an owner",
            tape()
                .pax(&[(b"SCHILY.xattr.user.a", b"1"), (b"uid", b"77")])
                .file(".wh.a", ""),
            hidden(),
        ),
        Case::tape(
            "a link to a whiteout's name",
            tape().file(".wh.a", "").link("b", ".wh.a"),
            Refused("NoLinkTarget", "hard link"),
        ),
    ]
}
