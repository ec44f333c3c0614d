//! Why the kernel does not execute a file that is there: its first bytes tell.
//!
//! `execve` says "no such file or directory" of a script that is there and whose interpreter is not, and "exec format error" of everything
//! that it does not understand. What is told here is the file's, so it is bounded, quoted, and believed by nobody but a person.

use std::path::Path;

use croze_sys::Errno;
use rustix::fs::{FileType, Mode, OFlags};

/// So much of a file is read: the header of a program, its table of segments and, nearly always, the name of its loader stand in it.
const HEAD: usize = 4096;
/// The longest name that is told.
const NAME: usize = 255;

/// The calls that it takes to read a file's head.
const CALLS: [&str; 4] = ["openat", "fstat", "read", "close"];

/// Whether a process with this filter can ask for a reason and be none the worse for it.
pub fn may_ask(filter: Option<&croze_seccomp::Program>) -> bool {
    filter.is_none_or(|filter| CALLS.iter().all(|call| filter.leaves_in_peace(call)))
}

/// Why `execve` of this file ended with this error, if the file shows it.
pub fn reason(path: &Path, errno: Errno) -> Option<String> {
    if !matches!(errno, Errno::NOENT | Errno::NOEXEC) {
        return None;
    }
    judge(&head(path)?, errno, std::env::consts::ARCH)
}

/// The first bytes of a regular file.
fn head(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = vec![0; HEAD];
    let length = rustix::io::read(&file, bytes.as_mut_slice()).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

fn judge(head: &[u8], errno: Errno, here: &str) -> Option<String> {
    match (errno, Elf::parse(head)) {
        (Errno::NOENT, Some(elf)) => {
            let loader = shown(elf.loader()?);
            Some(format!("its loader {loader} is not there"))
        }
        (Errno::NOENT, None) => {
            let interpreter = interpreter(head)?;
            let name = shown(interpreter);
            Some(if interpreter.ends_with(b"\r") {
                format!("its first line ends in CR LF, so the interpreter it names is {name}")
            } else {
                format!("its interpreter {name} is not there")
            })
        }
        (_, Some(elf)) => {
            let (built_for, here) = (elf.architecture()?, architecture(here));
            (built_for != here).then(|| format!("it is built for {built_for}, this machine is {here}"))
        }
        (_, None) if head.is_empty() => Some("it is empty".to_owned()),
        (_, None) if head.starts_with(b"\xef\xbb\xbf#!") => {
            Some("a byte order mark stands before its #!".to_owned())
        }
        (_, None) if head.starts_with(b"#!") => None,
        (_, None) => Some("it is neither a program nor a script that begins with #!".to_owned()),
    }
}

/// The interpreter that a script's first line names, as the kernel reads it: up to the first blank or the line's end.
fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t' | 0))
        .find(|word| !word.is_empty())
}

/// A name out of a file, quoted, with what does not print written out.
fn shown(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&name[..name.len().min(NAME)]))
}

/// What images call the architecture that Rust calls so.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The head of an ELF file; see elf(5). Every number in it is the file's claim.
struct Elf<'a> {
    head: &'a [u8],
    wide: bool,
    big_endian: bool,
}

impl<'a> Elf<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let rest = head.strip_prefix(b"\x7fELF")?;
        Some(Self {
            head,
            wide: *rest.first()? == 2,
            big_endian: *rest.get(1)? == 2,
        })
    }

    /// The architecture it is built for, as images call it.
    fn architecture(&self) -> Option<String> {
        let known = match self.number(18, 2)? {
            62 => "amd64",
            3 => "386",
            183 => "arm64",
            40 => "arm",
            243 => "riscv64",
            21 => "ppc64le",
            22 => "s390x",
            8 => "mips64",
            258 => "loong64",
            other => return Some(format!("machine number {other}")),
        };
        Some(known.to_owned())
    }

    /// The program that is to load it (the segment `PT_INTERP`), if it is linked dynamically.
    fn loader(&self) -> Option<&'a [u8]> {
        /// The segment that holds the loader's name.
        const PT_INTERP: usize = 3;
        let (table, size, count, offset, length) = if self.wide {
            (
                self.number(32, 8)?,
                self.number(54, 2)?,
                self.number(56, 2)?,
                (8, 8),
                (32, 8),
            )
        } else {
            (
                self.number(28, 4)?,
                self.number(42, 2)?,
                self.number(44, 2)?,
                (4, 4),
                (16, 4),
            )
        };
        let segment = (0..count)
            .map(|index| table.checked_add(index * size))
            .find(|at| at.and_then(|at| self.number(at, 4)) == Some(PT_INTERP))??;
        let field = |(at, width): (usize, usize)| self.number(segment.checked_add(at)?, width);
        let (from, long) = (field(offset)?, field(length)?);
        let name = self.head.get(from..from.checked_add(long)?)?;
        name.split(|byte| *byte == 0)
            .next()
            .filter(|name| !name.is_empty())
    }

    fn number(&self, at: usize, width: usize) -> Option<usize> {
        let bytes = self.head.get(at..at.checked_add(width)?)?;
        let fold = |sum: usize, byte: &u8| sum.checked_mul(256)?.checked_add(usize::from(*byte));
        if self.big_endian {
            bytes.iter().try_fold(0, fold)
        } else {
            bytes.iter().rev().try_fold(0, fold)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian program for this machine number, with one segment if it has a loader.
    fn elf(machine: u8, loader: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = machine;
        file[32] = 64;
        file[54] = 56;
        file[56] = u8::from(!loader.is_empty());
        file[64] = 3;
        file[64 + 8] = 64 + 56;
        file[64 + 32] = u8::try_from(loader.len()).expect("short");
        file.extend_from_slice(loader);
        file
    }

    #[test]
    fn the_first_bytes_tell_why() {
        let missing = "its interpreter \"/bin/bash\" is not there";
        let text = "it is neither a program nor a script that begins with #!";
        let cases: [(&[u8], Errno, Option<&str>); 15] = [
            (b"#!/bin/bash\n", Errno::NOENT, Some(missing)),
            (b"#! /bin/bash -e\nx", Errno::NOENT, Some(missing)),
            (b"#!/bin/bash", Errno::NOENT, Some(missing)),
            (
                b"#!/bin/sh\r\nx\r\n",
                Errno::NOENT,
                Some("its first line ends in CR LF, so the interpreter it names is \"/bin/sh\\r\""),
            ),
            (b"#!\n", Errno::NOENT, None),
            (b"x", Errno::NOENT, None),
            (
                &elf(62, b"/lib/ld-musl-x86_64.so.1\0"),
                Errno::NOENT,
                Some("its loader \"/lib/ld-musl-x86_64.so.1\" is not there"),
            ),
            (&elf(62, b""), Errno::NOENT, None),
            (
                &elf(183, b""),
                Errno::NOEXEC,
                Some("it is built for arm64, this machine is amd64"),
            ),
            (&elf(62, b""), Errno::NOEXEC, None),
            (b"\x7fELF\x02\x01", Errno::NOEXEC, None),
            (b"", Errno::NOEXEC, Some("it is empty")),
            (
                b"\xef\xbb\xbf#!/bin/sh\n",
                Errno::NOEXEC,
                Some("a byte order mark stands before its #!"),
            ),
            (b"echo hello\n", Errno::NOEXEC, Some(text)),
            (b"#!/bin/sh\n", Errno::NOEXEC, None),
        ];
        for (head, errno, expected) in cases {
            assert_eq!(judge(head, errno, "x86_64").as_deref(), expected, "{head:?}");
        }
    }

    #[test]
    fn a_header_that_lies_is_no_harm() {
        let mut file = elf(62, b"/lib/ld.so\0");
        for at in 0..file.len() {
            let kept = std::mem::replace(&mut file[at], 0xff);
            judge(&file, Errno::NOENT, "x86_64");
            judge(&file[..at], Errno::NOENT, "x86_64");
            judge(&file, Errno::NOEXEC, "x86_64");
            file[at] = kept;
        }
    }

    #[test]
    fn only_files_are_read_and_only_where_they_can_tell() {
        assert_eq!(reason(Path::new("/dev/zero"), Errno::NOEXEC), None);
        assert_eq!(reason(Path::new("/no/such"), Errno::NOENT), None);
        assert_eq!(reason(Path::new("/bin/sh"), Errno::ACCESS), None);
    }
}
