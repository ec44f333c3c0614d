//! Headers whose fields are no numbers, or numbers that nothing has, and extended headers that are none.

use crate::Case;
use crate::Expect::{self, Either, Harmless, Refused, Tree};
use crate::tape::{CHECKSUM, GID, MODE, MTIME, SIZE, Tape, UID, binary, header, record};

fn tape() -> Tape {
    Tape::default()
}

fn damaged() -> Expect {
    Refused("Damaged", "the archive is damaged")
}

fn field(name: &'static str) -> Expect {
    Refused("Field", name)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = fields();
    cases.extend(blocks());
    cases.extend(records());
    cases.extend(values());
    cases.extend(times());
    cases.extend(attributes());
    cases.extend(sequences());
    cases
}

fn fields() -> Vec<Case> {
    let spoilt = |name, range: std::ops::Range<usize>, text: &'static [u8], expect| {
        let tape = tape().spoilt((b'0', b"f", b""), b"", |block| {
            block[range.start..range.start + text.len()].copy_from_slice(text);
        });
        Case::tape(name, tape, expect)
    };
    let big = |name, range: std::ops::Range<usize>, number: i128, expect| {
        let tape = tape().spoilt((b'0', b"f", b""), b"", |block| binary(&mut block[range], number));
        Case::tape(name, tape, expect)
    };
    vec![
        spoilt("a size that is no number", SIZE, b"zzzzzzzzzzz\0", field("size")),
        spoilt("a size with a sign", SIZE, b"-0000000001\0", field("size")),
        spoilt("an owner that is no number", UID, b"root\0\0\0\0", field("owner")),
        spoilt("a group that is no number", GID, b"99999999", field("group")),
        spoilt("a mode that is no number", MODE, b"rwxr-xr-", field("mode")),
        spoilt(
            "a time that is no number",
            MTIME,
            b"yesterday\0\0\0",
            field("time"),
        ),
        spoilt("a mode of more bits than there are", MODE, b"7777777\0", Harmless),
        big("a negative size", SIZE, -1, Refused("Damaged", "invalid size")),
        big(
            "a size of 2^63 - 1",
            SIZE,
            i128::from(i64::MAX),
            Refused("TooLarge", "bytes"),
        ),
        big(
            "a size of 2^63",
            SIZE,
            1 << 63,
            Refused("Damaged", "invalid size"),
        ),
        big("a size of 2^90", SIZE, 1 << 90, Either("Damaged")),
        big("an owner of 2^40", UID, 1 << 40, field("owner")),
        big("an owner of 2^32 - 1", UID, (1 << 32) - 1, field("owner")),
        big("a negative owner", UID, -2, field("owner")),
        big("a negative group", GID, -1, field("group")),
        big("a time of 2^62", MTIME, 1 << 62, Harmless),
        big("a time long ago", MTIME, -(1 << 62), Harmless),
        big("a mode of 2^50", MODE, 1 << 50, Either("Field")),
    ]
}

fn blocks() -> Vec<Case> {
    let end = [0; 1024];
    let mut wrong = tape().file("f", "x").0;
    wrong[CHECKSUM.start] ^= 1;
    let mut unsealed = header(b'0', b"f", b"", 0).to_vec();
    unsealed[CHECKSUM].copy_from_slice(b"zzzzzz\0 ");
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n * n % 251) as u8).collect();
    let kinds = |name, kind: u8| {
        let tape = tape().member(kind, "a", "", b"");
        Case::tape(name, tape, Refused("Unsupported", "\"a\" is of type"))
    };
    vec![
        Case::bytes("a wrong checksum", wrong, damaged()),
        Case::bytes("a checksum that is none", unsealed, damaged()),
        Case::bytes("noise", noise, damaged()),
        Case::bytes("nothing at all", vec![], Tree(&[])),
        Case::bytes("one byte", vec![b'x'], Refused("Truncated", "truncated")),
        Case::bytes(
            "half a header",
            vec![b'x'; 300],
            Refused("Truncated", "truncated"),
        ),
        Case::bytes(
            "half a block of zeros",
            vec![0; 300],
            Refused("Truncated", "truncated"),
        ),
        Case::bytes("nothing but zeros", vec![0; 1 << 20], Tree(&[])),
        Case::bytes(
            "an entry behind one zero block",
            [tape().file("a", "x").0, vec![0; 512], tape().file("b", "x").end()].concat(),
            Refused("Damaged", "single zero block"),
        ),
        Case::bytes(
            "an archive behind the archive's end",
            [tape().file("a", "x").end(), tape().file("../b", "x").end()].concat(),
            Tree(&["a f x"]),
        ),
        Case::bytes("text", b"<html>502 Bad Gateway</html>".repeat(100), damaged()),
        Case::bytes(
            "a member that is cut off",
            tape().file("a", &"x".repeat(2000)).0[..1500].to_vec(),
            Refused("Truncated", "truncated"),
        ),
        Case::bytes(
            "a size that nothing follows",
            {
                let head = tape().spoilt((b'0', b"f", b""), b"", |block| {
                    block[SIZE].copy_from_slice(b"00001000000\0");
                });
                [head.0, end.to_vec()].concat()
            },
            Refused("Truncated", "truncated"),
        ),
        kinds("an unknown kind", b'Q'),
        kinds("a volume's name", b'V'),
        kinds("a file that goes on from another volume", b'M'),
        kinds("a directory with a list of names", b'D'),
        kinds("a kind of zero bits but one", 0x80),
        Case::tape(
            "a contiguous file",
            tape().member(b'7', "f", "", b"x"),
            Tree(&["f f x"]),
        ),
        Case::tape(
            "a directory of a terabyte",
            tape().spoilt((b'5', b"d", b""), b"", |block| binary(&mut block[SIZE], 1 << 40)),
            Tree(&["d d"]),
        ),
        Case::tape(
            "a symbolic link with content",
            tape().member(b'2', "s", "t", &[b'x'; 512]),
            damaged(),
        ),
        Case::tape(
            "a hard link with content",
            tape().file("f", "x").member(b'1', "h", "f", &[b'x'; 512]),
            damaged(),
        ),
    ]
}

fn records() -> Vec<Case> {
    let text = |name, text: &[u8]| Case::tape(name, tape().pax_text(text).file("f", "x"), damaged());
    let fine = |name, text: &[u8]| Case::tape(name, tape().pax_text(text).file("f", "x"), Tree(&["f f x"]));
    vec![
        text("a record of no length", b" path=x\n"),
        text("a record of length zero", b"0 a=b\n"),
        text("a record of its length's length", b"2 a=b\n"),
        text("a record that is longer than the header", b"99 path=x\n"),
        text("a record that is shorter than it says", b"7 path=x\n"),
        text("a record of a negative length", b"-9 path=x\n"),
        text("a record of 2^64 bytes", b"18446744073709551616 a=b\n"),
        text("a record of 2^64 - 1 bytes", b"18446744073709551615 a=b\n"),
        text("a record of a length in hexadecimal", b"0x9 path=x\n"),
        text("a record without an equals sign", b"9 path x\n"),
        text("a record without a newline", b"9 path=xx"),
        text("a record without a space", b"path=x\n"),
        text("zeros behind the records", b"9 path=x\n\0\0\0"),
        text("a byte behind the records", b"9 path=x\n9"),
        fine("no records", b""),
        fine("a record without a key", b"5 =b\n"),
        fine("a record of nothing", b"4 =\n"),
        fine("a key with equals signs", b"8 a=b=c\n"),
        fine("a key that is no text", b"7 \xff\xfe=\xfd\n"),
        fine("a length with zeros before it", b"00010 a=b\n"),
        Case::tape(
            "a key of a megabyte",
            tape().pax(&[(&[b'k'; (1 << 20) - 100], b"v")]).file("f", "x"),
            Tree(&["f f x"]),
        ),
        Case::tape(
            "a hundred thousand records",
            tape().pax_text(&b"6 a=b\n".repeat(100_000)).file("f", "x"),
            Tree(&["f f x"]),
        ),
        Case::tape(
            "an extended header of more than a megabyte",
            tape().pax_text(&b"6 a=b\n".repeat(200_000)).file("f", "x"),
            Refused("Damaged", "more than 1 MiB"),
        ),
        Case::tape(
            "an extended header of 8 GiB",
            tape().spoilt((b'x', b"pax", b""), b"", |block| {
                binary(&mut block[SIZE], 8 << 30);
            }),
            Refused("Damaged", "more than 1 MiB"),
        ),
        Case::tape(
            "a long name of 8 GiB",
            tape().spoilt((b'L', b"long", b""), b"", |block| {
                binary(&mut block[SIZE], 8 << 30);
            }),
            Refused("Damaged", "more than 1 MiB"),
        ),
    ]
}

/// An extended header with one record, before a file.
fn with(name: &'static str, key: &[u8], value: &[u8], expect: Expect) -> Case {
    Case::tape(name, tape().pax(&[(key, value)]).file("f", "x"), expect)
}

fn values() -> Vec<Case> {
    vec![
        with("a negative size in PAX", b"size", b"-1", damaged()),
        with("a size with a point in PAX", b"size", b"1.0", damaged()),
        with(
            "a size of 2^64 in PAX",
            b"size",
            b"18446744073709551616",
            damaged(),
        ),
        with(
            "a size of 2^64 - 1 in PAX",
            b"size",
            b"18446744073709551615",
            damaged(),
        ),
        with(
            "a size of 2^63 - 1 in PAX",
            b"size",
            b"9223372036854775807",
            Refused("TooLarge", "bytes"),
        ),
        with(
            "a size in PAX that is not the header's",
            b"size",
            b"100000",
            Refused("Truncated", "truncated"),
        ),
        with("a size of nothing in PAX", b"size", b"", Tree(&["f f x"])),
        with("a negative owner in PAX", b"uid", b"-1", damaged()),
        with("an owner of 2^32 in PAX", b"uid", b"4294967296", field("owner")),
        with(
            "an owner of 2^32 - 1 in PAX",
            b"uid",
            b"4294967295",
            field("owner"),
        ),
        with(
            "a group of 2^32 - 1 in PAX",
            b"gid",
            b"4294967295",
            field("group"),
        ),
        with("a group that is no number in PAX", b"gid", b"wheel", damaged()),
        Case::tape(
            "a size in PAX that the data has",
            tape()
                .pax(&[(b"size", b"1")])
                .spoilt((b'0', b"f", b""), b"", |_| ())
                .bytes(b"x")
                .file("g", "y"),
            Tree(&["f f x", "g f y"]),
        ),
    ]
}

fn times() -> Vec<Case> {
    vec![
        with(
            "the largest time in PAX",
            b"mtime",
            b"9223372036854775807",
            Harmless,
        ),
        with(
            "the smallest time in PAX",
            b"mtime",
            b"-9223372036854775807.9",
            Harmless,
        ),
        with(
            "a time of 2^63 in PAX",
            b"mtime",
            b"9223372036854775808",
            damaged(),
        ),
        with(
            "a time of -2^63 in PAX",
            b"mtime",
            b"-9223372036854775808",
            damaged(),
        ),
        with("a time that is no number in PAX", b"mtime", b"nan", damaged()),
        with("a time of a thousand digits", b"mtime", &[b'9'; 1000], damaged()),
        with(
            "a time with a thousand places",
            b"mtime",
            &[b"1.".as_slice(), &[b'9'; 1000]].concat(),
            Harmless,
        ),
        with("a time with two points", b"mtime", b"1.2.3", damaged()),
        with("other times of nonsense", b"atime", b"nan", Tree(&["f f x"])),
        with(
            "a name of the owner that is none",
            b"uname",
            b"\0../..",
            Tree(&["f f x"]),
        ),
        with(
            "a character set of nonsense",
            b"hdrcharset",
            b"\xff",
            Tree(&["f f x"]),
        ),
    ]
}

fn attributes() -> Vec<Case> {
    let with = |name, key: &str, value: &[u8], expect| {
        let key = format!("SCHILY.xattr.{key}");
        let tape = tape().pax(&[(key.as_bytes(), value)]);
        Case::tape(name, tape.dir("d"), expect)
    };
    let plain = || Tree(&["d d"]);
    let many: Vec<u8> = (0..2000)
        .flat_map(|n| record(format!("SCHILY.xattr.user.{n}").as_bytes(), b"v"))
        .collect();
    let large: Vec<u8> = (0..4)
        .flat_map(|n| record(format!("SCHILY.xattr.user.{n}").as_bytes(), &[0; 60_000]))
        .collect();
    vec![
        with(
            "an opaque mark as an attribute",
            "trusted.overlay.opaque",
            b"y",
            plain(),
        ),
        with(
            "a redirection as an attribute",
            "trusted.overlay.redirect",
            b"/etc",
            plain(),
        ),
        with(
            "a metacopy as an attribute",
            "trusted.overlay.metacopy",
            b"",
            plain(),
        ),
        with("a user's opaque mark", "user.overlay.opaque", b"y", plain()),
        with("a label of SELinux", "security.selinux", b"u:r:t:s0\0", plain()),
        with("an attribute of the kernel's", "security.ima", &[3; 40], plain()),
        with("an attribute of no space", "nospace", b"x", plain()),
        with("an attribute without a name", "", b"x", plain()),
        with(
            "an attribute of a user's without a name",
            "user.",
            b"x",
            Either("File"),
        ),
        with(
            "an attribute with a zero byte",
            "user.a\0b",
            b"x",
            Refused("File", "attributes"),
        ),
        with(
            "an attribute of a long name",
            &format!("user.{}", "n".repeat(300)),
            b"x",
            field("extended attribute"),
        ),
        with(
            "a large attribute",
            "user.a",
            &[0; 65_537],
            field("extended attribute"),
        ),
        with(
            "capabilities that are none",
            "security.capability",
            b"all",
            Refused("File", "attributes"),
        ),
        with(
            "an access list that is none",
            "system.posix_acl_access",
            b"rwx",
            Either("File"),
        ),
        with(
            "a default access list that is none",
            "system.posix_acl_default",
            &[0xff; 100],
            Either("File"),
        ),
        Case::tape(
            "more attributes than a file can have",
            tape().pax_text(&many).file("f", ""),
            field("extended attribute"),
        ),
        Case::tape(
            "larger attributes than a file can have",
            tape().pax_text(&large).file("f", ""),
            field("extended attribute"),
        ),
    ]
}

fn sequences() -> Vec<Case> {
    let twice = || Refused("Damaged", "two extensions of the same kind");
    let alone = || Refused("Damaged", "an extension without its entry");
    vec![
        Case::tape(
            "two long names",
            tape().long(b'L', b"a").long(b'L', b"b").file("f", ""),
            twice(),
        ),
        Case::tape(
            "two long targets",
            tape().long(b'K', b"a").long(b'K', b"b").file("f", ""),
            twice(),
        ),
        Case::tape(
            "two extended headers",
            tape()
                .pax(&[(b"path", b"a")])
                .pax(&[(b"path", b"b")])
                .file("f", ""),
            twice(),
        ),
        Case::tape(
            "a long name of a long name",
            tape().long(b'L', b"a").long(b'K', b"b").long(b'L', b"c"),
            twice(),
        ),
        Case::tape("a long name of nothing", tape().long(b'L', b"a"), alone()),
        Case::tape(
            "an extended header of nothing",
            tape().pax(&[(b"path", b"a")]),
            alone(),
        ),
        Case::tape(
            "a long name that is empty",
            tape().long(b'L', b"").file("f", ""),
            Refused("Name", "no file"),
        ),
        Case::tape(
            "a long name with a tail",
            tape()
                .member(b'L', "l", "", b"a\0/../../etc/passwd\0")
                .file("f", "x"),
            Tree(&["a f x"]),
        ),
        Case::tape(
            "a long name and another in PAX",
            tape()
                .long(b'L', b"../long")
                .pax(&[(b"path", b"pax")])
                .file("f", "x"),
            Tree(&["pax f x"]),
        ),
        Case::tape(
            "defaults for all entries",
            tape()
                .member(b'g', "g", "", &record(b"path", b"../all"))
                .member(b'g', "g", "", &record(b"size", b"-1"))
                .member(b'g', "g", "", b"not a record")
                .file("f", "x"),
            Tree(&["f f x"]),
        ),
        Case::tape(
            "defaults of 2^63 bytes",
            tape().spoilt((b'g', b"g", b""), b"", |block| binary(&mut block[SIZE], 1 << 63)),
            damaged(),
        ),
    ]
}
