//! Random archives. Most changes break a header's checksum and would end there, so it is mended before the archive is read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use croze_fuzz::{Campaign, kind_of};

use crate::archive::Archive;
use crate::error::LayerError;
use crate::pax::Extensions;
use crate::test_archive::Tar;
use crate::{Limits, Parents, unpack};

const BLOCK: usize = 512;

fn seeds() -> Vec<Vec<u8>> {
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"9"),
    ];
    let attributes: &[(&str, &[u8])] = &[
        ("path", b"long/name"),
        ("mtime", b"-1.5"),
        ("uid", b"1000"),
        ("SCHILY.xattr.user.a", b"v"),
    ];
    let map = [b"1\n2\n3\n".as_slice(), &[0; 506], b"abc"].concat();
    vec![
        Tar::default()
            .dir("d")
            .file("d/f", "content")
            .link("h", "d/f")
            .end(),
        Tar::default()
            .symlink("lib", "usr/lib")
            .file("lib/a", "1")
            .symlink("up", "../../..")
            .file("up/b", "2")
            .end(),
        Tar::default()
            .file(".wh.a", "")
            .file("d/.wh..wh..opq", "")
            .dir("a")
            .file("a", "x")
            .end(),
        Tar::default()
            .pax(attributes)
            .file("x", "1")
            .pax(sparse)
            .raw(b'0', "s", "", 0o644, &map)
            .end(),
        Tar::default()
            .raw(b'L', "l", "", 0o644, b"a/long/name\0")
            .raw(b'K', "k", "", 0o644, b"target\0")
            .raw(b'2', "s", "t", 0o777, b"")
            .raw(b'3', "w", "0,0", 0o644, b"")
            .raw(b'6', "p", "", 0o644, b"")
            .end(),
        Tar::default()
            .file("below", "x")
            .link("h", "lower/file")
            .file(".wh.lower", "")
            .end(),
    ]
}

const WORDS: [&[u8]; 24] = [
    b"../",
    b"/",
    b".wh.",
    b".wh..wh..opq",
    b"..",
    b"path=",
    b"linkpath=",
    b"size=",
    b"mtime=",
    b"SCHILY.xattr.user.b=",
    b"SCHILY.xattr.trusted.overlay.opaque=",
    b"GNU.sparse.map=",
    b"GNU.sparse.size=",
    b"GNU.sparse.name=",
    b"12 path=../x\n",
    b"ustar\x0000",
    b"ustar  \0",
    b"lower/file",
    b"\x80\0\0\0\0\0\0\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"S",
    b"x",
    b"L",
    &[0; 512],
];

/// Gives every block a fitting checksum that looks as if it were a header.
fn mended(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        let looks = &block[257..262] == b"ustar" || block[156].is_ascii_graphic();
        if looks && block[0] != 0 {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// The variant of an error, and its fixed words.
fn kind(error: &LayerError) -> u64 {
    let text = format!("{error:?}");
    let variant = text.split([' ', '{', '(']).next().unwrap_or_default();
    let reason = match error {
        LayerError::Damaged { reason, .. } => *reason,
        LayerError::Field { field, .. } => *field,
        LayerError::TooLarge { unit, .. } => *unit,
        LayerError::File { call, .. } => *call,
        _ => "",
    };
    kind_of(&format!("{variant} {reason}"))
}

/// Headers and extensions alone, without a disk.
#[test]
fn fuzz_entries() {
    let outcome = Campaign::new(seeds(), &WORDS, 20_000).attack("entries", |input| {
        let bytes = mended(input);
        let mut archive = Archive::new(&bytes[..]);
        let mut count = 0;
        loop {
            match archive.next_entry() {
                Ok(None) => return count,
                Ok(Some(entry)) => {
                    count += 1;
                    assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
                    assert!(entry.mtime.1 < 1_000_000_000);
                    assert!(entry.xattrs.iter().all(|(name, _)| crate::pax::is_wanted(name)));
                    if let Some(map) = &entry.sparse {
                        assert!(map.parts.iter().all(|part| part.offset + part.length <= map.size));
                    }
                    assert!(count <= 1 + bytes.len() as u64 / 512, "more entries than blocks");
                }
                Err(error) => return kind(&error) ^ count,
            }
        }
    });
    assert!(outcome.kinds > 10, "{outcome:?}");
}

/// The records of one extended header.
#[test]
fn fuzz_extended_headers() {
    let seeds: Vec<Vec<u8>> = [
        b"21 path=from the pax\n".as_slice(),
        b"9 size=1\n14 uid=1000000\n",
        b"22 mtime=1700000000.5\n",
        b"25 SCHILY.xattr.user.a=b\n",
        b"22 GNU.sparse.size=10\n23 GNU.sparse.map=0,1\n",
    ]
    .iter()
    .map(|text| text.to_vec())
    .collect();
    let outcome = Campaign::new(seeds, &WORDS, 4000).attack("extended headers", |input| {
        match Extensions::parse(input) {
            None => 0,
            Some(found) => {
                let held: usize = found
                    .xattrs
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                assert!(held <= input.len());
                1 + u64::from(found.path.is_some())
                    + 2 * u64::from(found.size.is_some())
                    + 4 * u64::from(found.mtime.is_some())
                    + 8 * u64::from(found.sparse.is_some())
                    + 16 * (found.xattrs.len().min(3) as u64)
            }
        }
    });
    assert!(outcome.kinds > 4, "{outcome:?}");
}

/// Whole archives onto a disk: nothing beside the target changes, and the same archive gives the same answer.
#[test]
fn fuzz_unpacking() {
    // In memory where that is possible: it is made and removed again and again.
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let (outside, lower) = (dir.path().join("outside"), dir.path().join("lowest"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    fs::create_dir_all(lower.join("lower")).unwrap();
    fs::write(lower.join("lower/file"), "lower").unwrap();
    let look = || -> Vec<(i64, i64, u64, u32)> {
        [
            &outside,
            &outside.join("secret"),
            &lower.join("lower"),
            &lower.join("lower/file"),
        ]
        .iter()
        .map(|path| fs::symlink_metadata(path).unwrap())
        .map(|is| (is.ctime(), is.ctime_nsec(), is.nlink(), is.mode()))
        .collect()
    };
    let limits = Limits {
        bytes: 1 << 20,
        entries: 300,
        names: 1 << 16,
    };
    let before = look();
    let mut campaign = Campaign::new(seeds(), &WORDS, 20_000);
    campaign.seeds.push(zstd::encode_all(&seeds()[0][..], 1).unwrap());
    campaign.runs = 1000;
    let outcome = campaign.attack("unpacking", |input| {
        let bytes = mended(input);
        let once = || {
            let target = dir.path().join("target");
            fs::create_dir(&target).unwrap();
            let result = unpack(
                &bytes[..],
                &target,
                Parents::Known(std::slice::from_ref(&lower)),
                limits,
            );
            croze_sys::tree::remove_path(&target).unwrap();
            result
        };
        let (first, second) = (once(), once());
        assert_eq!(look(), before, "outside of the target");
        match (first, second) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first, second);
                first.implicit.len() as u64 + 100 * u64::from(first.opaque_root)
            }
            (Err(first), Err(second)) => {
                assert_eq!(first.to_string(), second.to_string());
                kind(&first)
            }
            (first, second) => panic!("{first:?}, then {second:?}"),
        }
    });
    assert!(outcome.kinds > 10, "{outcome:?}");
}
