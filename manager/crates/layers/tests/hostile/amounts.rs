//! Too much of everything: bytes, entries, names, members of a compressed file, and entries that fight for one name.

use std::io::{self, Read, Write as _};

use croze_layers::Limits;

use crate::Case;
use crate::Expect::{self, Harmless, Refused, Tree};
use crate::tape::{Tape, record};

fn tape() -> Tape {
    Tape::default()
}

fn too_many(unit: &'static str) -> Expect {
    Refused("TooLarge", unit)
}

fn unreadable() -> Expect {
    Refused("Source", "cannot decompress")
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = bombs();
    cases.extend(streams());
    cases.extend(endless());
    cases.extend(fights());
    cases
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The same bytes for ever.
struct Again {
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Again {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at = (self.at + n) % self.bytes.len();
        Ok(n)
    }
}

fn again(name: &'static str, bytes: Vec<u8>, expect: Expect) -> Case {
    Case::stream(name, expect, move || {
        Box::new(Again {
            bytes: bytes.clone(),
            at: 0,
        })
    })
}

fn bombs() -> Vec<Case> {
    let large = vec![0; 5 << 20];
    let tar = tape().file("f", &"x".repeat(1000)).end();
    let mut file = tape().spoilt((b'0', b"f", b""), b"", |block| {
        crate::tape::binary(&mut block[crate::tape::SIZE], 1 << 30);
    });
    file.0.resize(5 << 20, 0);
    vec![
        Case::bytes("zeros in gzip", gzip(&large), too_many("bytes")),
        Case::bytes("zeros in zstd", zstd(&large), too_many("bytes")),
        Case::bytes("a file in gzip", gzip(&file.0), too_many("bytes")),
        Case::bytes("a file in zstd", zstd(&file.0), too_many("bytes")),
        Case::bytes(
            "gzip in gzip",
            gzip(&gzip(&tar)),
            Refused("Truncated", "truncated"),
        ),
        Case::bytes(
            "zstd in gzip",
            gzip(&zstd(&tar)),
            Refused("Truncated", "truncated"),
        ),
        Case::bytes(
            "a bomb in a bomb",
            gzip(&gzip(&large)),
            Refused("Damaged", "checksum"),
        ),
        Case::bytes(
            "a bomb behind the archive's end",
            gzip(&[tar.clone(), large.clone()].concat()),
            too_many("bytes"),
        ),
        Case::bytes(
            "a bomb in the second member",
            [gzip(&tar), gzip(&large)].concat(),
            too_many("bytes"),
        ),
        again("gzip for ever", gzip(&vec![0; 1 << 20]), too_many("bytes")),
        again("zstd for ever", zstd(&vec![0; 1 << 20]), too_many("bytes")),
    ]
}

fn streams() -> Vec<Case> {
    let tar = tape().file("f", &"words ".repeat(2000)).end();
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    let mut wrong_sum = gz.clone();
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let mut flipped = gz.clone();
    flipped[gz.len() / 2] ^= 0x55;
    let mut flipped_zst = zst.clone();
    flipped_zst[zst.len() / 2] ^= 0x55;
    // A name in the header that does not end.
    let name = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], &vec![b'n'; 4 << 20]].concat();
    // Window of 2 GiB, no content size, one raw block.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let skip = [&[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff][..], &[0; 5000]].concat();
    let empty = gzip(b"");
    vec![
        Case::bytes("gzip cut off", gz[..gz.len() - 3].to_vec(), unreadable()),
        Case::bytes("gzip's header alone", gz[..10].to_vec(), unreadable()),
        Case::bytes("gzip with a wrong checksum", wrong_sum, unreadable()),
        Case::bytes("gzip with a wrong byte", flipped, Expect::Either("Source")),
        Case::bytes("gzip with a name that does not end", name, unreadable()),
        Case::bytes(
            "gzip with noise behind it",
            [&gz[..], b"noise noise noise"].concat(),
            unreadable(),
        ),
        Case::bytes("20,000 empty members of gzip", empty.repeat(20_000), Tree(&[])),
        Case::bytes("zstd cut off", zst[..zst.len() - 3].to_vec(), unreadable()),
        Case::bytes("zstd's magic alone", zst[..4].to_vec(), unreadable()),
        Case::bytes("zstd with a wrong byte", flipped_zst, Expect::Either("Damaged")),
        Case::bytes("zstd with a window of 2 GiB", window.to_vec(), unreadable()),
        Case::bytes("zstd with 4 GiB to skip", skip, unreadable()),
        Case::bytes(
            "zstd with noise behind it",
            [&zst[..], b"noise noise noise"].concat(),
            unreadable(),
        ),
        Case::bytes(
            "bzip2",
            b"BZh91AY&SYnothing".to_vec(),
            Refused("Source", "decompress"),
        ),
        Case::bytes(
            "xz",
            b"\xfd7zXZ\0nothing".to_vec(),
            Refused("Source", "decompress"),
        ),
    ]
}

fn endless() -> Vec<Case> {
    vec![
        again("files for ever", tape().file("f", "").0, too_many("entries")),
        again(
            "directories for ever",
            tape().dir("d").0,
            too_many("bytes of names"),
        ),
        again(
            "links for ever",
            tape().member(b'2', "s", "t", b"").0,
            too_many("entries"),
        ),
        again(
            "content for ever",
            tape().file("f", &"x".repeat(60_000)).0,
            too_many("bytes"),
        ),
        again(
            "defaults for ever",
            tape().member(b'g', "g", "", &record(b"a", &[b'v'; 400])).0,
            too_many("bytes"),
        ),
        again(
            "extended headers for ever",
            tape().pax(&[(b"a", b"b")]).0,
            Refused("Damaged", "two extensions"),
        ),
        again(
            "long names for ever",
            tape().long(b'L', b"a").0,
            Refused("Damaged", "two extensions"),
        ),
        again("zeros for ever", vec![0], too_many("bytes")),
        Case::tape(
            "directories that have no entry",
            (0..50).fold(tape(), |tape, n| {
                let path = format!("{n}/{}f", "d/".repeat(450));
                tape.pax(&[(b"path", path.as_bytes())]).file("x", "")
            }),
            too_many("bytes of names"),
        ),
        Case::tape(
            "names that are remembered",
            (0..400).fold(tape(), |tape, n| {
                let path = format!("{n}/{}", "long-name/".repeat(350));
                tape.pax(&[(b"path", path.as_bytes())]).dir("x")
            }),
            too_many("bytes of names"),
        ),
        Case::tape(
            "access lists that are remembered",
            (0..40).fold(tape(), |tape, n| {
                let key = b"SCHILY.xattr.system.posix_acl_default";
                tape.pax(&[(key, &[0; 60_000])]).dir(&format!("d{n}"))
            }),
            too_many("bytes of names"),
        ),
        Case::tape(
            "a size below every bound",
            tape().file("f", &"x".repeat(1 << 20)),
            Harmless,
        ),
    ]
}

fn fights() -> Vec<Case> {
    let kinds = |tape: Tape, n: usize| match n % 6 {
        0 => tape.file("a", "x"),
        1 => tape.dir("a"),
        2 => tape.symlink("a", "/outside"),
        3 => tape.fifo("a"),
        4 => tape.device(b'3', "a", 1, 3),
        _ => tape.file(".wh.a", ""),
    };
    vec![
        Case::tape(
            "2500 files of one name",
            (0..2500).fold(tape(), |tape, n| tape.file("a", &n.to_string())),
            Tree(&["a f 2499"]),
        ),
        Case::tape(
            "every kind under one name, again and again",
            (0..300).fold(tape(), kinds),
            Harmless,
        ),
        Case::tape(
            "a tree that is replaced by a file, again and again",
            (0..25).fold(tape(), |tape, _| {
                (0..50)
                    .fold(tape.dir("a"), |tape, n| {
                        tape.dir(&format!("a/{n}")).file(&format!("a/{n}/f"), "x")
                    })
                    .file("a", "y")
            }),
            Tree(&["a f y"]),
        ),
        Case::tape(
            "a directory that becomes a file that becomes a directory",
            tape()
                .dir("a")
                .file("a/f", "x")
                .file("a", "x")
                .dir("a")
                .file("a/g", "y"),
            Tree(&["a D", "a/g f y"]),
        ),
        Case::tape(
            "a file, then what would be in it",
            tape().file("a", "x").file("a/b/c", "x"),
            Refused("BehindLink", "lies in"),
        ),
        Case::tape(
            "a directory twice, with other owners",
            tape()
                .pax(&[(b"uid", b"1"), (b"SCHILY.xattr.user.a", b"1")])
                .dir("a")
                .pax(&[(b"uid", b"2")])
                .dir("a/"),
            Tree(&["a d"]),
        ),
        Case::tape(
            "names that differ in what the file system may not tell apart",
            tape()
                .file("A", "1")
                .file("a", "2")
                .file("\u{e4}", "3")
                .file("a\u{308}", "4"),
            Harmless,
        ),
        Case::tape(
            "a thousand directories, each replaced by a link to the next",
            (0..500).fold(tape(), |tape, n| {
                tape.dir(&format!("d{n}"))
                    .symlink(&format!("d{n}"), &format!("d{}", n + 1))
            }),
            Harmless,
        ),
    ]
}

/// The table's bounds are the small ones; those in force are what pulls have.
const _: () = assert!(crate::SMALL.bytes < 1 << 30);

/// Kept so that a change of the defaults is looked at here: bombs of the default size would take too long to make.
#[test]
fn the_bounds_in_force_are_finite() {
    let limits = Limits::default();
    assert!(limits.bytes <= 1 << 40 && limits.entries <= 10_000_000 && limits.names <= 1 << 30);
}
