//! A directory as an archive: what a container changed, as a layer.
//!
//! ```text
//!   overlayfs' upper directory ──────────► everything in it; device 0:0 -> .wh.NAME, opaque directory -> DIR/.wh..wh..opq
//!   a plain tree and what it was before ─► what differs; what is gone -> .wh.NAME
//! ```
//!
//! Invariants:
//! - The same tree gives the same bytes, wherever and whenever: entries are sorted by their names' bytes, and nothing of this host (names of
//!   users, inode numbers, access times) is in them.
//! - What [`crate::unpack()`] makes of the archive over the same layers shows the same files: type, mode, owner, times, attributes, content, links.
//! - The tree may be in use and hostile: it is walked by descriptors, no symbolic link is followed, and a file that changes meanwhile gives
//!   just as many bytes as its header says.
//!
//! What it leaves out: sockets (no archive has them), attributes that no layer may set, holes (they become zeros).

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use croze_model::{Digest, DigestWriter};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::error::{LayerError, shown};
use crate::lower::{is_opaque_fd, is_whiteout};
use crate::root::{self, file_type};
use crate::xattrs::{read_xattrs, read_xattrs_at};

/// How deep a tree may be to become an archive: deeper ones could not be unpacked again.
const MAX_DEPTH: usize = 512;
/// How many entries an archive may get.
const MAX_ENTRIES: u64 = 8_000_000;
/// The largest number in a header's field of eight, and of twelve octal digits.
const MAX_SHORT: u64 = 0o7_777_777;
const MAX_LONG: u64 = 0o77_777_777_777;
const PIECE: usize = 128 * 1024;

/// What of a tree goes into the archive.
#[derive(Debug, Clone, Copy)]
pub enum Changes<'a> {
    /// Everything: it is an upper directory of overlayfs.
    Upper,
    /// What differs from this tree, which is plain as well.
    Since(&'a Path),
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// The digest of the archive.
    pub diff_id: Digest,
    /// Its bytes.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// Writes what changed in `tree` as an uncompressed archive to `out`.
///
/// # Errors
/// [`LayerError::File`] if something cannot be read, [`LayerError::Sink`] if the archive cannot be written, [`LayerError::Unsupported`] for what no
/// layer can hold: a file whose name begins with `.wh.`, a device 0:0, an extended attribute with `=` in its name, a tree of more than 512 levels.
pub fn pack(tree: &Path, changes: Changes<'_>, out: impl Write) -> Result<Packed, LayerError> {
    let open = |path: &Path| open_root(path);
    let top = open(tree)?;
    let (before, moved) = match changes {
        Changes::Upper => (None, HashSet::new()),
        Changes::Since(before) => {
            let before = open(before)?;
            let mut moved = HashSet::new();
            changed_links(&top, Some(&before), Path::new(""), 0, &mut moved)?;
            (Some(before), moved)
        }
    };
    let mut packer = Packer {
        out: DigestWriter::new(out),
        links: HashMap::new(),
        moved,
        is_upper: before.is_none(),
        entries: 0,
    };
    let stat = fstat(&top, Path::new(""))?;
    if before.as_ref().is_none_or(|before| differs(&top, before)) {
        packer.directory_entry(&top, Path::new(""), &stat)?;
    }
    packer.directory(&top, before.as_ref(), Path::new(""), 0)?;
    packer.write(&[0; 1024])?;
    let (mut out, diff_id, size) = packer.out.finish();
    out.flush().map_err(|source| LayerError::Sink { source })?;
    Ok(Packed {
        diff_id,
        size,
        entries: packer.entries,
    })
}

struct Packer<W: Write> {
    out: DigestWriter<W>,
    /// Files of several names that are in the archive, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Files of several names one of which is new or other than before: then all of them are told.
    moved: HashSet<(u64, u64)>,
    is_upper: bool,
    entries: u64,
}

impl<W: Write> Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out
            .write_all(bytes)
            .map_err(|source| LayerError::Sink { source })
    }

    /// Everything in a directory; its own entry is written.
    fn directory(
        &mut self,
        dir: &OwnedFd,
        before: Option<&OwnedFd>,
        path: &Path,
        depth: usize,
    ) -> Result<(), LayerError> {
        check_depth(path, depth)?;
        if self.is_upper && is_opaque_fd(dir).map_err(LayerError::file("read the mark of", path))? {
            self.whiteout(path, OsStr::new(".wh..wh..opq"), &fstat(dir, path)?)?;
        }
        let mut names = list(dir, path)?;
        if let Some(before) = before {
            names.extend(list(before, path)?);
            names.sort_unstable();
            names.dedup();
        }
        for name in names {
            let at = path.join(&name);
            let now = root::stat(dir.as_fd(), &name).map_err(LayerError::file("stat", &at))?;
            let then = match before {
                Some(before) => root::stat(before.as_fd(), &name).map_err(LayerError::file("stat", &at))?,
                None => None,
            };
            match (now, then) {
                // It went while we looked.
                (None, None) => {}
                (None, Some(gone)) => self.whiteout(path, &hiding(&name), &gone)?,
                (Some(now), _) if self.is_upper && is_whiteout(&now) => {
                    self.whiteout(path, &hiding(&name), &now)?;
                }
                (Some(now), then) => self.present((dir, before), &name, &at, (&now, then.as_ref()), depth)?,
            }
        }
        Ok(())
    }

    fn present(
        &mut self,
        (dir, before): (&OwnedFd, Option<&OwnedFd>),
        name: &OsStr,
        at: &Path,
        (now, then): (&Stat, Option<&Stat>),
        depth: usize,
    ) -> Result<(), LayerError> {
        if name.as_bytes().starts_with(b".wh.") {
            return Err(LayerError::Unsupported {
                entry: shown(at),
                what: "a file whose name means a whiteout in a layer".to_owned(),
            });
        }
        if file_type(now) == FileType::Directory {
            let Some(inside) = open_directory(dir, name, at)? else {
                return Ok(());
            };
            let was = match (before, then) {
                (Some(before), Some(then)) if file_type(then) == FileType::Directory => {
                    open_directory(before, name, at)?
                }
                _ => None,
            };
            if was.as_ref().is_none_or(|was| differs(&inside, was)) {
                self.directory_entry(&inside, at, now)?;
            }
            return match (&was, before) {
                (Some(was), _) => self.directory(&inside, Some(was), at, depth + 1),
                // All of it is new: nothing that was there before is seen through it.
                (None, Some(_)) => self.new_directory(&inside, at, depth + 1),
                (None, None) => self.directory(&inside, None, at, depth + 1),
            };
        }
        let is_same = match (before, then) {
            (Some(before), Some(then)) => same(dir, before, name, at, (now, then))?,
            _ => false,
        };
        if is_same && !self.moved.contains(&identity(now)) {
            return Ok(());
        }
        self.entry(dir, name, at, now)
    }

    /// A directory that was not there before.
    fn new_directory(&mut self, dir: &OwnedFd, path: &Path, depth: usize) -> Result<(), LayerError> {
        check_depth(path, depth)?;
        for name in list(dir, path)? {
            let at = path.join(&name);
            if let Some(now) = root::stat(dir.as_fd(), &name).map_err(LayerError::file("stat", &at))? {
                // Not with an empty directory as what was before: there is none.
                if file_type(&now) == FileType::Directory {
                    if let Some(inside) = open_directory(dir, &name, &at)? {
                        self.directory_entry(&inside, &at, &now)?;
                        self.new_directory(&inside, &at, depth + 1)?;
                    }
                } else {
                    self.present((dir, None), &name, &at, (&now, None), depth)?;
                }
            }
        }
        Ok(())
    }

    fn directory_entry(&mut self, dir: &OwnedFd, path: &Path, stat: &Stat) -> Result<(), LayerError> {
        let xattrs = read_xattrs(dir).map_err(LayerError::file("read the attributes of", path))?;
        self.header(path, (EntryType::Directory, &[]), stat, 0, &xattrs)
    }

    /// Anything but a directory.
    fn entry(&mut self, dir: &OwnedFd, name: &OsStr, at: &Path, stat: &Stat) -> Result<(), LayerError> {
        let kind = file_type(stat);
        if stat.st_nlink > 1 && kind != FileType::Socket {
            if let Some(first) = self.links.get(&identity(stat)).cloned() {
                return self.header(at, (EntryType::Link, first.as_os_str().as_bytes()), stat, 0, &[]);
            }
            self.links.insert(identity(stat), at.to_owned());
        }
        if kind == FileType::RegularFile {
            return self.regular(dir, name, at);
        }
        let xattrs = read_xattrs_at(dir, name).map_err(LayerError::file("read the attributes of", at))?;
        match kind {
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(dir, name, Vec::new()).map_err(LayerError::file("read", at))?;
                self.header(at, (EntryType::Symlink, target.as_bytes()), stat, 0, &xattrs)
            }
            // Whoever unpacks it would take it for a whiteout; overlayfs itself lets nobody make one.
            FileType::CharacterDevice if stat.st_rdev == 0 => Err(LayerError::Unsupported {
                entry: shown(at),
                what: "the character device 0:0, which means a whiteout in a layer".to_owned(),
            }),
            FileType::CharacterDevice => self.header(at, (EntryType::Char, &[]), stat, 0, &xattrs),
            FileType::BlockDevice => self.header(at, (EntryType::Block, &[]), stat, 0, &xattrs),
            FileType::Fifo => self.header(at, (EntryType::Fifo, &[]), stat, 0, &xattrs),
            _ => Ok(()),
        }
    }

    fn regular(&mut self, dir: &OwnedFd, name: &OsStr, at: &Path) -> Result<(), LayerError> {
        // Not blocking: it may have become a pipe since it was looked at.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(LayerError::file("open", at)(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(LayerError::file("stat", at))?;
        if file_type(&stat) != FileType::RegularFile {
            return Ok(());
        }
        let xattrs = read_xattrs(&file).map_err(LayerError::file("read the attributes of", at))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(at, (EntryType::Regular, &[]), &stat, size, &xattrs)?;
        let mut rest = size;
        let mut piece = vec![0; PIECE];
        while rest > 0 {
            let most = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let mut n = file
                .read(&mut piece[..most])
                .map_err(LayerError::file("read", at))?;
            if n == 0 {
                // It became shorter: the header has promised more.
                piece[..most].fill(0);
                n = most;
            }
            let bytes = std::mem::take(&mut piece);
            self.write(&bytes[..n])?;
            piece = bytes;
            rest -= n as u64;
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
        self.write(&[0; 512][..padding])
    }

    fn whiteout(&mut self, dir: &Path, name: &OsStr, hidden: &Stat) -> Result<(), LayerError> {
        // Of what is hidden only the time is of use: the owner and the mode of a whiteout mean nothing.
        let mut stat = *hidden;
        (stat.st_mode, stat.st_uid, stat.st_gid) = (0, 0, 0);
        self.header(&dir.join(name), (EntryType::Regular, &[]), &stat, 0, &[])
    }

    fn header(
        &mut self,
        path: &Path,
        (kind, link): (EntryType, &[u8]),
        stat: &Stat,
        size: u64,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(LayerError::TooLarge {
                limit: MAX_ENTRIES,
                unit: "entries",
            });
        }
        let mut name = path.as_os_str().as_bytes().to_vec();
        if kind == EntryType::Directory {
            name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
        }
        let mut extended = Vec::new();
        let mut header = Header::new_ustar();
        let mut block = |header: &mut Header, range: std::ops::Range<usize>, key: &str, bytes: &[u8]| {
            let n = bytes.len().min(range.len());
            header.as_mut_bytes()[range.start..range.start + n].copy_from_slice(&bytes[..n]);
            if bytes.len() > range.len() {
                record(&mut extended, key.as_bytes(), bytes);
            }
        };
        block(&mut header, 0..100, "path", &name);
        block(&mut header, 157..257, "linkpath", link);
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                record(&mut extended, key.as_bytes(), value.to_string().as_bytes());
                return 0;
            }
            value
        };
        header.set_size(number("size", size, MAX_LONG));
        header.set_uid(number("uid", stat.st_uid.into(), MAX_SHORT));
        header.set_gid(number("gid", stat.st_gid.into(), MAX_SHORT));
        let (seconds, nanoseconds) = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        match u64::try_from(seconds) {
            Ok(plain) if plain <= MAX_LONG => header.set_mtime(plain),
            _ => header.set_mtime(0),
        }
        if nanoseconds != 0 || u64::try_from(seconds).is_ok_and(|plain| plain > MAX_LONG) || seconds < 0 {
            record(&mut extended, b"mtime", time(seconds, nanoseconds).as_bytes());
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let failed = |source| LayerError::file("describe the device", path)(io::Error::other(source));
            header
                .set_device_major(rustix::fs::major(stat.st_rdev))
                .map_err(failed)?;
            header
                .set_device_minor(rustix::fs::minor(stat.st_rdev))
                .map_err(failed)?;
        }
        for (key, value) in xattrs {
            // It ends the name in a record; Go's archive/tar writes none either.
            if key.contains(&b'=') {
                return Err(LayerError::Unsupported {
                    entry: shown(path),
                    what: format!(
                        "a file whose extended attribute {} has a name with `=`",
                        String::from_utf8_lossy(key).escape_debug()
                    ),
                });
            }
            record(&mut extended, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !extended.is_empty() {
            let mut before = Header::new_ustar();
            before.as_mut_bytes()[..11].copy_from_slice(b"PaxHeader/x");
            before.set_entry_type(EntryType::XHeader);
            before.set_size(extended.len() as u64);
            before.set_mode(0o644);
            before.set_uid(0);
            before.set_gid(0);
            before.set_mtime(0);
            before.set_cksum();
            self.write(before.as_bytes())?;
            self.write(&extended)?;
            self.pad(extended.len() as u64)?;
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }
}

/// A record of an extended header: its length counts itself.
fn record(extended: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    extended.extend_from_slice(format!("{length} ").as_bytes());
    extended.extend_from_slice(key);
    extended.push(b'=');
    extended.extend_from_slice(value);
    extended.push(b'\n');
}

/// A time as an extended header has it; nanoseconds count forward also before the epoch.
fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

fn hiding(name: &OsStr) -> OsString {
    OsString::from_vec([b".wh.", name.as_bytes()].concat())
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn check_depth(path: &Path, depth: usize) -> Result<(), LayerError> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(LayerError::Unsupported {
        entry: shown(path).chars().take(100).collect(),
        what: format!("in more than {MAX_DEPTH} directories"),
    })
}

fn open_root(path: &Path) -> Result<OwnedFd, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| LayerError::Target {
        path: path.to_owned(),
        source: errno.into(),
    })
}

fn fstat(dir: &OwnedFd, path: &Path) -> Result<Stat, LayerError> {
    rustix::fs::fstat(dir).map_err(LayerError::file("stat", path))
}

/// A directory in a directory; `None` if it is gone or none any more.
pub(crate) fn open_directory(dir: &OwnedFd, name: &OsStr, at: &Path) -> Result<Option<OwnedFd>, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(LayerError::file("open directory", at)(errno)),
    }
}

/// The names in a directory, sorted by their bytes.
pub(crate) fn list(dir: &OwnedFd, path: &Path) -> Result<Vec<OsString>, LayerError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(LayerError::file("list", path))? {
        let entry = entry.map_err(LayerError::file("list", path))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether the metadata of two open directories differ.
fn differs(now: &OwnedFd, then: &OwnedFd) -> bool {
    let (Ok(a), Ok(b)) = (rustix::fs::fstat(now), rustix::fs::fstat(then)) else {
        return true;
    };
    !same_metadata(&a, &b) || !matches!((read_xattrs(now), read_xattrs(then)), (Ok(a), Ok(b)) if a == b)
}

fn same_metadata(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
        && (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec)
}

/// Whether something that is no directory is as it was. Files are compared to their last byte: times can be set back.
fn same(
    now: &OwnedFd,
    then: &OwnedFd,
    name: &OsStr,
    at: &Path,
    (a, b): (&Stat, &Stat),
) -> Result<bool, LayerError> {
    let failed = || LayerError::file("compare", at);
    if !same_metadata(a, b) || a.st_rdev != b.st_rdev || (a.st_nlink > 1) != (b.st_nlink > 1) {
        return Ok(false);
    }
    match file_type(a) {
        FileType::Symlink => {
            let read = |dir: &OwnedFd| rustix::fs::readlinkat(dir, name, Vec::new());
            Ok(read(now).map_err(failed())? == read(then).map_err(failed())?)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let open = |dir: &OwnedFd| rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from);
            let (now, then) = (open(now).map_err(failed())?, open(then).map_err(failed())?);
            let broken = || LayerError::file::<io::Error>("compare", at);
            Ok(a.st_size == b.st_size
                && read_xattrs(&now).map_err(broken())? == read_xattrs(&then).map_err(broken())?
                && same_bytes(now, then).map_err(broken())?)
        }
        _ => Ok(true),
    }
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        match b.read_exact(&mut right[..n]) {
            Ok(()) if left[..n] == right[..n] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Files of several names of which one is not as it was.
fn changed_links(
    dir: &OwnedFd,
    before: Option<&OwnedFd>,
    path: &Path,
    depth: usize,
    moved: &mut HashSet<(u64, u64)>,
) -> Result<(), LayerError> {
    check_depth(path, depth)?;
    for name in list(dir, path)? {
        let at = path.join(&name);
        let look = |dir: &OwnedFd| root::stat(dir.as_fd(), &name).map_err(LayerError::file("stat", &at));
        let Some(now) = look(dir)? else { continue };
        let then = before.map(look).transpose()?.flatten();
        if file_type(&now) == FileType::Directory {
            let Some(inside) = open_directory(dir, &name, &at)? else {
                continue;
            };
            let was = match (before, then) {
                (Some(before), Some(then)) if file_type(&then) == FileType::Directory => {
                    open_directory(before, &name, &at)?
                }
                _ => None,
            };
            changed_links(&inside, was.as_ref(), &at, depth + 1, moved)?;
        } else if now.st_nlink > 1 && !moved.contains(&identity(&now)) {
            let is_same = match (before, then) {
                (Some(before), Some(then)) => {
                    now.st_nlink == then.st_nlink && same(dir, before, &name, &at, (&now, &then))?
                }
                _ => false,
            };
            if !is_same {
                moved.insert(identity(&now));
            }
        }
    }
    Ok(())
}

/// The path of an open directory's entry, for calls that take paths only: it goes through our own descriptor.
pub(crate) fn by_descriptor(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}
