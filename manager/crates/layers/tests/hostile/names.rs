//! Names that lead out of the layer, name its root, or can be no name.

use crate::Expect::{Harmless, Refused, Tree};
use crate::tape::{PREFIX, Tape};
use crate::{Case, Expect};

const OUT: Expect = Refused("Escape", "leads out of the layer");
const NO_NAME: Expect = Refused("Name", "a name that no file can have");

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = leaving();
    cases.extend(roots());
    cases.extend(odd());
    cases
}

fn tape() -> Tape {
    Tape::default()
}

fn leaving() -> Vec<Case> {
    let plain = |name, path: &str| Case::tape(name, tape().file(path, "x"), OUT);
    vec![
        plain("the parent", "../outside/secret"),
        plain("the parent, hidden", "a/../../outside/secret"),
        plain("the parent of the root", "/../outside/secret"),
        plain("dots before the parent", "././../outside/secret"),
        plain("more parents than directories", "a/b/../../../outside/secret"),
        plain("only the parent", ".."),
        plain("the parent in the end", "a/../.."),
        Case::tape(
            "the parent behind a directory that is there",
            tape().dir("a").file("a/../../x", "x"),
            OUT,
        ),
        Case::tape("a directory outside", tape().dir("../outside"), OUT),
        Case::tape(
            "a symbolic link outside",
            tape().symlink("../outside/s", "x"),
            OUT,
        ),
        Case::tape(
            "a hard link outside",
            tape().file("f", "x").link("../outside/h", "f"),
            OUT,
        ),
        Case::tape(
            "a device outside",
            tape().device(b'3', "../outside/null", 1, 3),
            OUT,
        ),
        Case::tape("a pipe outside", tape().fifo("../outside/p"), OUT),
        Case::tape(
            "a whiteout outside",
            tape().file("../outside/.wh.secret", ""),
            OUT,
        ),
        Case::tape(
            "an opaque mark outside",
            tape().file("../outside/.wh..wh..opq", ""),
            OUT,
        ),
        Case::tape(
            "the parent in the prefix",
            tape().spoilt((b'0', b"secret", b""), b"x", |block| {
                block[PREFIX][..10].copy_from_slice(b"../outside");
            }),
            OUT,
        ),
        Case::tape(
            "the parent in an extended header",
            tape().pax(&[(b"path", b"../outside/secret")]).file("x", "x"),
            OUT,
        ),
        Case::tape(
            "the parent in a long name",
            tape().long(b'L', b"../outside/secret").file("x", "x"),
            OUT,
        ),
        Case::tape(
            "the parent in a sparse file's name",
            tape()
                .pax(&[
                    (b"GNU.sparse.name", b"../outside/secret"),
                    (b"GNU.sparse.size", b"0"),
                    (b"GNU.sparse.map", b"0,0"),
                ])
                .file("x", ""),
            OUT,
        ),
        Case::tape(
            "the second of two paths",
            tape()
                .pax(&[(b"path", b"a"), (b"path", b"../outside/secret")])
                .file("x", "x"),
            OUT,
        ),
        Case::aimed(
            "an absolute name",
            |outside| {
                let path = format!("{outside}/secret");
                tape().pax(&[(b"path", path.as_bytes())]).file("x", "x")
            },
            Harmless,
        ),
        Case::tape("a parent within", tape().file("a/../b", "x"), Tree(&["b f x"])),
    ]
}

fn roots() -> Vec<Case> {
    vec![
        Case::tape("no name", tape().file("", "x"), NO_NAME),
        Case::tape("a file as the root", tape().file("/", "x"), NO_NAME),
        Case::tape("a file as this directory", tape().file("./", "x"), NO_NAME),
        Case::tape("a file as a root in disguise", tape().file("a/..", "x"), NO_NAME),
        Case::tape("a symbolic link as the root", tape().symlink("./", "/"), NO_NAME),
        Case::tape("a hard link as the root", tape().link("/", "x"), NO_NAME),
        Case::tape("a device as the root", tape().device(b'4', ".", 8, 0), NO_NAME),
        Case::tape(
            "a whiteout device as the root",
            tape().device(b'3', ".", 0, 0),
            NO_NAME,
        ),
        Case::tape("a pipe as the root", tape().fifo("//"), NO_NAME),
        Case::tape(
            "the root, again and again",
            tape().dir("./").dir("/").dir("a/..").file("f", "x"),
            Tree(&["f f x"]),
        ),
    ]
}

fn odd() -> Vec<Case> {
    let pax =
        |name, path: &[u8], expect| Case::tape(name, tape().pax(&[(b"path", path)]).file("x", "y"), expect);
    vec![
        pax("a zero byte", b"a\0b", NO_NAME),
        pax("a zero byte before the parent", b"a\0/../../x", NO_NAME),
        pax("5000 bytes", &[b'n'; 5000], NO_NAME),
        pax("a megabyte", &[b'n'; 1 << 20], Refused("Damaged", "1 MiB")),
        pax("300 bytes", &[b'n'; 300], Refused("File", "cannot create")),
        pax(
            "513 directories",
            "a/".repeat(513).as_bytes(),
            Refused("Unsupported", "in more than 512 directories"),
        ),
        pax(
            "401 directories",
            format!("{}f", "a/".repeat(401)).as_bytes(),
            Harmless,
        ),
        pax("slashes", b"///a////b//", Tree(&["a d", "a/b f y"])),
        pax(
            "bytes that are no text",
            b"\xff\xfe/\x80",
            Tree(&["\\xff\\xfe d", "\\xff\\xfe/\\x80 f y"]),
        ),
        pax(
            "control characters",
            b"\x1b[2J\n\r\t",
            Tree(&["\\x1b[2J\\n\\r\\t f y"]),
        ),
        pax(
            "three dots",
            b".../..a/a..",
            Tree(&["... d", ".../..a d", ".../..a/a.. f y"]),
        ),
        pax("backslashes", b"..\\..\\x", Tree(&["..\\\\..\\\\x f y"])),
        pax("a drive", b"C:\\x", Tree(&["C:\\\\x f y"])),
        pax("a path of nothing", b"", Tree(&["x f y"])),
        Case::tape(
            "a file that ends in a slash",
            tape().file("f/", "x"),
            Tree(&["f f x"]),
        ),
        Case::tape(
            "what shells expand",
            tape().file("$(reboot)", "x").file("-rf", "x").file("*", "x"),
            Tree(&["$(reboot) f x", "* f x", "-rf f x"]),
        ),
    ]
}
