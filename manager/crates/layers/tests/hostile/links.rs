//! Links, devices and pipes that lead out of the layer, and entries behind them.

use crate::Case;
use crate::Expect::{self, Harmless, Refused, Tree};
use crate::tape::{MAJOR, MODE, Tape, binary};

const CIRCLE: Expect = Refused("BehindLink", "which is no directory in this layer");
const NOWHERE: Expect = Refused("NoLinkTarget", "which neither this layer nor one below has");

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = symbolic();
    cases.extend(resolved());
    cases.extend(hard());
    cases.extend(devices());
    cases
}

fn tape() -> Tape {
    Tape::default()
}

fn symbolic() -> Vec<Case> {
    vec![
        Case::aimed(
            "a file behind an absolute link",
            |outside| tape().symlink("s", outside).file("s/secret", "x"),
            Harmless,
        ),
        Case::aimed(
            "a whiteout behind an absolute link",
            |outside| tape().symlink("s", outside).file("s/.wh.secret", ""),
            Harmless,
        ),
        Case::aimed(
            "an opaque mark behind an absolute link",
            |outside| tape().symlink("s", outside).file("s/.wh..wh..opq", ""),
            Harmless,
        ),
        Case::aimed(
            "a file in place of a link to a file",
            |outside| {
                tape()
                    .symlink("s", &format!("{outside}/secret"))
                    .file("s", "written")
            },
            Tree(&["s f written"]),
        ),
        Case::aimed(
            "a directory in place of a link to a directory",
            |outside| tape().symlink("s", outside).dir("s").file("s/secret", "x"),
            Tree(&["s D", "s/secret f x"]),
        ),
        Case::aimed(
            "a link in place of a directory",
            |outside| {
                tape()
                    .dir("s")
                    .file("s/f", "x")
                    .symlink("s", outside)
                    .file("s/secret", "x")
            },
            Harmless,
        ),
        Case::aimed(
            "a hard link to a link out of the layer",
            |outside| {
                tape()
                    .symlink("s", &format!("{outside}/secret"))
                    .link("h", "s")
                    .file("h", "written")
            },
            Harmless,
        ),
        Case::aimed(
            "a hard link behind a link out of the layer",
            |outside| tape().symlink("s", outside).link("h", "s/secret"),
            NOWHERE,
        ),
        Case::aimed(
            "a link to a link to the outside",
            |outside| {
                tape()
                    .symlink("a", outside)
                    .symlink("b", "a")
                    .file("b/secret", "x")
            },
            Harmless,
        ),
    ]
}

fn resolved() -> Vec<Case> {
    let through = |name, target: &'static str, expect| {
        Case::tape(name, tape().symlink("s", target).file("s/x", "y"), expect)
    };
    let mut chain = tape();
    for n in 0..50 {
        chain = chain.symlink(&format!("s{n}"), &format!("s{}", n + 1));
    }
    vec![
        through("a link to the parent", "../outside", Harmless),
        through(
            "a link to many parents",
            "../../../../../../../../outside",
            Harmless,
        ),
        through("a link to the root", "/", Tree(&["s l /", "x f y"])),
        through("a link to the process's root", "/proc/self/root", Harmless),
        through("a link to the process's descriptors", "/proc/self/fd/3", Harmless),
        through(
            "a link to the process's working directory",
            "/proc/self/cwd/..",
            Harmless,
        ),
        through("a link to itself", "s", CIRCLE),
        through("a link to itself, in disguise", "./../s/.", CIRCLE),
        through("a link to nothing", "", Refused("Field", "link target")),
        through("a link to dots", "././.", Tree(&["s l ././.", "x f y"])),
        Case::tape(
            "links in a circle",
            tape().symlink("a", "b").symlink("b", "a").file("a/x", "x"),
            CIRCLE,
        ),
        Case::tape(
            "links that grow",
            tape().symlink("a", "a/a/a/a").file("a/x", "x"),
            CIRCLE,
        ),
        Case::tape(
            "more links than may be followed",
            chain.dir("s50").file("s0/x", "x"),
            CIRCLE,
        ),
        Case::tape(
            "a target of 5000 bytes",
            tape().long(b'K', &[b't'; 5000]).member(b'2', "s", "", b""),
            Refused("File", "cannot create the symbolic link"),
        ),
        Case::tape(
            "a target with a zero byte",
            tape().symlink("s", "a\0b"),
            Refused("File", "cannot create the symbolic link"),
        ),
        Case::tape(
            "a target that is no text",
            tape().pax(&[(b"linkpath", b"\xff\n")]).member(b'2', "s", "", b""),
            Harmless,
        ),
    ]
}

fn hard() -> Vec<Case> {
    let to = |name, target: &'static str, expect| {
        Case::tape(name, tape().dir("d").file("f", "x").link("h", target), expect)
    };
    let out = || Refused("LinkEscape", "which leads out of the layer");
    vec![
        to("a hard link to the parent", "../outside/secret", out()),
        to(
            "a hard link to the parent, hidden",
            "d/../../outside/secret",
            out(),
        ),
        to("a hard link to only the parent", "..", out()),
        to("a hard link to a directory", "d", NOWHERE),
        to("a hard link to the root", "/", NOWHERE),
        to("a hard link to this directory", ".", NOWHERE),
        to("a hard link to nothing", "", NOWHERE),
        to("a hard link to what is not there", "no/where", NOWHERE),
        to("a hard link to itself", "h", Harmless),
        to("a hard link behind a file", "f/x", CIRCLE),
        to("a hard link with a zero byte", "f\0x", out()),
        to("a hard link to the layer below", "below", Harmless),
        Case::aimed(
            "a hard link to an absolute name",
            |outside| tape().link("h", &format!("{outside}/secret")),
            NOWHERE,
        ),
        Case::tape(
            "hard links in a circle",
            tape().link("a", "b").link("b", "a"),
            NOWHERE,
        ),
        Case::tape(
            "a hard link that replaces what holds its target",
            tape().file("a/b", "x").link("a", "a/b"),
            NOWHERE,
        ),
        Case::tape(
            "a hard link behind a circle",
            tape().symlink("s", "s").link("h", "s/x"),
            CIRCLE,
        ),
        Case::tape(
            "a hard link to a whiteout",
            tape().device(b'3', "w", 0, 0).link("h", "w"),
            NOWHERE,
        ),
        Case::tape(
            "a hard link to what was whited out below",
            tape().file(".wh.below", "").link("h", "below"),
            Tree(&["below w", "h f lower"]),
        ),
        Case::tape(
            "a hard link whose header would change its target",
            tape()
                .file("f", "x")
                .pax(&[(b"linkpath", b"f"), (b"uid", b"1234")])
                .spoilt((b'1', b"h", b""), b"", |block| {
                    block[MODE].copy_from_slice(b"0006777\0");
                }),
            Tree(&["f f x", "h f x"]),
        ),
        Case::tape(
            "a file written through a hard link",
            tape().file("f", "one").link("h", "f").file("h", "two"),
            Tree(&["f f one", "h f two"]),
        ),
        Case::tape(
            "2000 names of one file",
            (0..2000).fold(tape().file("f", "x"), |tape, n| tape.link(&format!("h{n}"), "f")),
            Harmless,
        ),
    ]
}

fn devices() -> Vec<Case> {
    vec![
        Case::tape(
            "a file behind a file",
            tape().file("f", "x").file("f/x", "y"),
            CIRCLE,
        ),
        Case::tape(
            "a directory behind a file",
            tape().file("f", "x").dir("f/x/y"),
            CIRCLE,
        ),
        Case::tape("a device", tape().device(b'3', "null", 1, 3), Tree(&["null c"])),
        Case::tape(
            "a file in place of a disk",
            tape().device(b'4', "sda", 8, 0).file("sda", "x"),
            Tree(&["sda f x"]),
        ),
        Case::tape(
            "a hard link to a disk, written to",
            tape().device(b'4', "sda", 8, 0).link("h", "sda").file("h", "x"),
            Tree(&["h f x", "sda b"]),
        ),
        Case::tape(
            "a file behind a device",
            tape().device(b'3', "null", 1, 3).file("null/x", "y"),
            CIRCLE,
        ),
        Case::tape("a file behind a pipe", tape().fifo("p").file("p/x", "y"), CIRCLE),
        Case::tape(
            "a file in place of a pipe",
            tape().fifo("p").file("p", "x"),
            Tree(&["p f x"]),
        ),
        Case::tape(
            "a device in place of a directory",
            tape().dir("d").file("d/f", "x").device(b'3', "d", 1, 3),
            Tree(&["d c"]),
        ),
        Case::tape(
            "the device that is a whiteout",
            tape().device(b'3', "w", 0, 0),
            Tree(&["w w"]),
        ),
        Case::tape(
            "the device that is a whiteout, and a file",
            tape().device(b'3', "w", 0, 0).file("w", "x"),
            Tree(&["w f x"]),
        ),
        Case::tape(
            "a block device 0:0",
            tape().device(b'4', "b", 0, 0),
            Tree(&["b b"]),
        ),
        Case::tape(
            "a device's number that no kernel has",
            tape().device(b'3', "n", 0o7_777_777, 0o7_777_777),
            Expect::Either("File"),
        ),
        Case::tape(
            "a device's number that is none",
            tape().spoilt((b'3', b"n", b""), b"", |block| {
                block[MAJOR].copy_from_slice(b"zzzzzzz\0");
            }),
            Refused("Field", "device number"),
        ),
        Case::tape(
            "a device's number of 40 bits",
            tape().spoilt((b'3', b"n", b""), b"", |block| binary(&mut block[MAJOR], 1 << 40)),
            Expect::Either("Field"),
        ),
        Case::tape(
            "a device with content",
            tape().member(b'3', "n", "", &[b'x'; 512]),
            Refused("Damaged", "checksum"),
        ),
        Case::tape(
            "a pipe with content",
            tape().member(b'6', "p", "", &[b'x'; 512]),
            Refused("Damaged", "checksum"),
        ),
    ]
}
