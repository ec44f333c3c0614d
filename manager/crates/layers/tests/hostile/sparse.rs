//! Sparse files whose maps do not fit: the four forms of GNU tar.

use crate::Case;
use crate::Expect::{self, Refused, Tree};
use crate::tape::{Tape, binary};

fn tape() -> Tape {
    Tape::default()
}

fn damaged() -> Expect {
    Refused("Damaged", "sparse")
}

fn unknown() -> Expect {
    Refused("Unsupported", "a sparse file of an unknown form")
}

/// A member of the old form: its parts, its whole size, and whether a block with more is said to follow.
fn old(parts: &[(u64, u64)], size: u64, goes_on: bool, data: &[u8]) -> Tape {
    tape().spoilt((b'S', b"f", b""), data, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        for (n, (offset, length)) in parts.iter().enumerate() {
            let at = 386 + 24 * n;
            binary(&mut block[at..at + 12], i128::from(*offset));
            binary(&mut block[at + 12..at + 24], i128::from(*length));
        }
        block[482] = u8::from(goes_on);
        binary(&mut block[483..495], i128::from(size));
    })
}

/// A member whose map is in extended records.
fn pax(records: &[(&str, &str)], data: &str) -> Tape {
    let records: Vec<(String, &str)> = records
        .iter()
        .map(|(key, value)| (format!("GNU.sparse.{key}"), *value))
        .collect();
    let records: Vec<(&[u8], &[u8])> = records
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
        .collect();
    tape().pax(&records).file("f", data)
}

/// A member whose map stands before its bytes.
fn inside(size: &str, map: &str, data: &str) -> Tape {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(data.as_bytes());
    let records: [(&[u8], &[u8]); 3] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", size.as_bytes()),
    ];
    tape().pax(&records).member(b'0', "f", "", &content)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(records());
    cases.extend(maps());
    cases
}

fn headers() -> Vec<Case> {
    let more = |blocks: usize| {
        let mut block = [0_u8; 512];
        block[504] = 1;
        let blocks = block.repeat(blocks);
        old(&[], 0, true, b"").bytes(&blocks)
    };
    vec![
        Case::tape(
            "a hole of 2^63 bytes",
            old(&[], i64::MAX as u64, false, b""),
            Refused("TooLarge", "bytes"),
        ),
        Case::tape(
            "holes of 200 GiB, one after another",
            (0..3).fold(tape(), |whole, _| {
                Tape([whole.0, old(&[], 200 << 30, false, b"").0].concat())
            }),
            Refused("TooLarge", "bytes"),
        )
        .default_limits(),
        Case::tape(
            "a hole of 2^64 bytes",
            old(&[], u64::MAX, false, b""),
            Refused("Damaged", "sparse"),
        ),
        Case::tape(
            "parts that overlap",
            old(&[(0, 4), (2, 4)], 10, false, b"abcdefgh"),
            damaged(),
        ),
        Case::tape(
            "parts in the wrong order",
            old(&[(6, 4), (0, 4)], 10, false, b"abcdefgh"),
            damaged(),
        ),
        Case::tape(
            "a part beyond the end",
            old(&[(8, 4)], 10, false, b"abcd"),
            damaged(),
        ),
        Case::tape(
            "a part whose end overflows",
            old(&[(u64::MAX - 1, 4)], 10, false, b"abcd"),
            damaged(),
        ),
        Case::tape(
            "more in the parts than there is",
            old(&[(0, 10)], 10, false, b"abcd"),
            damaged(),
        ),
        Case::tape(
            "less in the parts than there is",
            old(&[(0, 1)], 10, false, b"abcd"),
            damaged(),
        ),
        Case::tape(
            "a map that goes on and does not",
            old(&[], 0, true, b""),
            Tree(&["f f"]),
        ),
        Case::bytes(
            "a map that goes on for ever",
            more(2000).0,
            Refused("Truncated", "truncated"),
        ),
        Case::tape(
            "a sparse file of another format",
            tape().spoilt((b'S', b"f", b""), b"", |_| ()),
            damaged(),
        ),
        Case::tape(
            "an honest one",
            old(&[(2, 4), (10, 0)], 10, false, b"abcd"),
            Tree(&["f f \0\0abcd\0\0\0\0"]),
        ),
    ]
}

fn records() -> Vec<Case> {
    let many = (0..140_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    vec![
        Case::tape(
            "a version that nobody knows",
            pax(&[("major", "9"), ("minor", "9")], "x"),
            unknown(),
        ),
        Case::tape("a map without a size", pax(&[("map", "0,1")], "x"), unknown()),
        Case::tape("a size without a map", pax(&[("size", "10")], "x"), unknown()),
        Case::tape(
            "an offset without a length",
            pax(&[("size", "10"), ("map", "0")], "x"),
            unknown(),
        ),
        Case::tape(
            "a length without an offset",
            pax(&[("size", "10"), ("numbytes", "1")], "x"),
            Refused("Damaged", "extended header"),
        ),
        Case::tape(
            "two offsets",
            pax(&[("size", "10"), ("offset", "0"), ("offset", "1")], "x"),
            Refused("Damaged", "extended header"),
        ),
        Case::tape(
            "a map of no numbers",
            pax(&[("size", "10"), ("map", "a,b")], "x"),
            Refused("Damaged", "extended header"),
        ),
        Case::tape(
            "a map of negative numbers",
            pax(&[("size", "10"), ("map", "-1,2")], "x"),
            Refused("Damaged", "extended header"),
        ),
        Case::tape(
            "a map of 70,000 parts in disorder",
            pax(&[("size", "10"), ("map", &many)], "x"),
            damaged(),
        ),
        Case::tape(
            "a size of 2^64 - 1",
            pax(&[("size", "18446744073709551615"), ("map", "0,1")], "x"),
            damaged(),
        ),
        Case::tape(
            "a size of 2^63 - 1, all of it a hole",
            pax(&[("size", "9223372036854775807"), ("map", "0,1")], "x"),
            Refused("TooLarge", "bytes"),
        ),
        Case::tape(
            "holes in a directory",
            tape()
                .pax(&[(b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"0,0")])
                .dir("d"),
            Refused("Damaged", "holes in something that is no file"),
        ),
        Case::tape(
            "holes in a symbolic link",
            tape()
                .pax(&[(b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"0,0")])
                .member(b'2', "s", "t", b""),
            Refused("Damaged", "holes in something that is no file"),
        ),
    ]
}

fn maps() -> Vec<Case> {
    vec![
        Case::tape(
            "an honest map inside",
            inside("6", "1\n1\n4\n", "abcd"),
            Tree(&["f f \0abcd\0"]),
        ),
        Case::tape("a map that is none", inside("6", "one\n", "abcd"), damaged()),
        Case::tape("a map that is empty", inside("6", "", ""), damaged()),
        Case::tape("a map of empty lines", inside("6", "\n\n\n", "abcd"), damaged()),
        Case::tape(
            "a map of more parts than are there",
            inside("6", "3\n1\n4\n", "abcd"),
            damaged(),
        ),
        Case::tape(
            "a map of 2^64 parts",
            inside("6", "18446744073709551616\n", "abcd"),
            damaged(),
        ),
        Case::tape(
            "a map of a billion parts",
            inside("6", "1000000000\n", "abcd"),
            damaged(),
        ),
        Case::tape(
            "a map of no parts, with bytes",
            inside("6", "0\n", "abcd"),
            damaged(),
        ),
        Case::tape(
            "a map of a negative part",
            inside("6", "1\n-1\n4\n", "abcd"),
            damaged(),
        ),
        Case::tape(
            "a number of ten thousand digits",
            inside("6", &format!("1\n{}\n4\n", "0".repeat(10_000)), "abcd"),
            Tree(&["f f abcd\0\0"]),
        ),
    ]
}
