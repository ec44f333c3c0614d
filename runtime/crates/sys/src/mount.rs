//! Mounts: the calls that work on descriptors, and the classic ones for kernels and filters that lack them.
//!
//! ```text
//! open_tree(CLONE) ─┐                         ┌─▶ move_mount ─▶ attached
//!                   ├─▶ detached mount (fd) ──┤
//! fsopen … fsmount ─┘      mount_setattr      └─▶ dropped with the descriptor
//! ```
//!
//! A detached mount belongs to nobody: it is configured, looked into and filled before anything can see it, and it
//! vanishes with its descriptor if a later step fails.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount as raw;

use crate::error::Named;
use crate::fd::proc_path;
use crate::{Errno, Error, Result};

/// Attributes of a mount point (not of its file system): the kernel's `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Nothing set.
    pub const NONE: Self = Self(0);
    /// No writes.
    pub const READ_ONLY: Self = Self(0x1);
    /// Set-user-id bits have no effect.
    pub const NO_SUID: Self = Self(0x2);
    /// Device files cannot be opened.
    pub const NO_DEV: Self = Self(0x4);
    /// Nothing can be executed.
    pub const NO_EXEC: Self = Self(0x8);
    /// The bits that choose how access times are kept; `relatime` is their zero.
    pub const ATIME_MASK: Self = Self(0x70);
    /// Access times are never updated.
    pub const NO_ATIME: Self = Self(0x10);
    /// Access times are always updated.
    pub const STRICT_ATIME: Self = Self(0x20);
    /// Access times of directories are never updated.
    pub const NO_DIR_ATIME: Self = Self(0x80);
    /// Ids are mapped as in a user namespace.
    pub const ID_MAPPED: Self = Self(0x10_0000);
    /// Symbolic links are not followed.
    pub const NO_SYMLINK_FOLLOW: Self = Self(0x20_0000);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the bits of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kernel's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The same attributes as flags of `mount(2)`.
    fn as_mount_flags(self) -> libc::c_ulong {
        const PAIRS: [(Attributes, libc::c_ulong); 7] = [
            (Attributes::READ_ONLY, libc::MS_RDONLY),
            (Attributes::NO_SUID, libc::MS_NOSUID),
            (Attributes::NO_DEV, libc::MS_NODEV),
            (Attributes::NO_EXEC, libc::MS_NOEXEC),
            (Attributes::NO_DIR_ATIME, libc::MS_NODIRATIME),
            (Attributes::NO_ATIME, libc::MS_NOATIME),
            (Attributes::STRICT_ATIME, libc::MS_STRICTATIME),
        ];
        let mut flags = PAIRS
            .iter()
            .filter(|(attr, _)| self.contains(*attr))
            .fold(0, |flags, (_, ms)| flags | ms);
        if self.contains(Self::NO_SYMLINK_FOLLOW) {
            flags |= 256; // MS_NOSYMFOLLOW, Linux 5.10; not in libc for every target
        }
        flags
    }
}

/// How mount events travel between this mount and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing travels.
    Private,
    /// Events come in, none go out.
    Slave,
    /// Events travel both ways.
    Shared,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

impl Propagation {
    const fn bits(self) -> libc::c_ulong {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Whether a call is about one mount or about it and all below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount itself.
    One,
    /// The mount and all mounts below it.
    Recursive,
}

/// A change of attributes for [`set_attributes`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AttributeChange<'a> {
    /// Attributes to set.
    pub set: Attributes,
    /// Attributes to clear; [`Attributes::ATIME_MASK`] is cleared as a whole or not at all.
    pub clear: Attributes,
    /// The propagation to change to.
    pub propagation: Option<Propagation>,
    /// The user namespace whose id maps the mount takes (with [`Attributes::ID_MAPPED`]).
    pub id_map: Option<BorrowedFd<'a>>,
}

impl AttributeChange<'_> {
    /// Whether the change changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty() && self.propagation.is_none()
    }
}

/// A detached copy of the mount at `path` (below `dir`; an absolute path ignores it); empty means `dir` itself.
///
/// # Errors
/// `ENOSYS` before Linux 5.2; `EINVAL` for an unbindable mount.
pub fn clone_tree(dir: impl AsFd, path: &Path, depth: Depth) -> Result<OwnedFd> {
    let mut flags = raw::OpenTreeFlags::OPEN_TREE_CLONE
        | raw::OpenTreeFlags::OPEN_TREE_CLOEXEC
        | raw::OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::Recursive {
        flags |= raw::OpenTreeFlags::AT_RECURSIVE;
    }
    raw::open_tree(dir, path, flags).named("open_tree")
}

/// A detached copy of the mount that `fd` stands in, its root being what `fd` refers to.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_at(fd: impl AsFd, depth: Depth) -> Result<OwnedFd> {
    clone_tree(fd, Path::new(""), depth)
}

/// Attaches the detached mount `mount` on top of what `target` refers to.
///
/// # Errors
/// `ENOSYS` before Linux 5.2; `EINVAL` for a directory on a file and the reverse (`ENOTDIR`), or a shared parent.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = raw::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | raw::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    raw::move_mount(mount, "", target, "", flags).named("move_mount")
}

/// A new file system of `kind` as a detached mount. `options` are `name` or `name=value` of that file system.
///
/// # Errors
/// `ENOSYS` before Linux 5.2, `ENODEV` for an unknown file system, `EINVAL` for an option that it does not know.
pub fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[&str],
    attributes: Attributes,
) -> Result<OwnedFd> {
    let context = raw::fsopen(kind, raw::FsOpenFlags::FSOPEN_CLOEXEC).named("fsopen")?;
    if let Some(source) = source {
        raw::fsconfig_set_string(context.as_fd(), "source", source).named("fsconfig(source)")?;
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => raw::fsconfig_set_string(context.as_fd(), key, value),
            None => raw::fsconfig_set_flag(context.as_fd(), *option),
        }
        .named("fsconfig")?;
    }
    raw::fsconfig_create(context.as_fd()).named("fsconfig(create)")?;
    let attributes = raw::MountAttrFlags::from_bits_retain(attributes.bits() as _);
    raw::fsmount(context.as_fd(), raw::FsMountFlags::FSMOUNT_CLOEXEC, attributes).named("fsmount")
}

/// The kernel's `struct mount_attr` (`MOUNT_ATTR_SIZE_VER0`).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes of the mount whose root `mount` is.
///
/// # Errors
/// `ENOSYS` before Linux 5.12 ([`remount`] is what remains then); `EPERM` for an attribute locked by a more privileged
/// namespace; `EINVAL` if `mount` is not the root of a mount.
pub fn set_attributes(mount: impl AsFd, change: &AttributeChange<'_>, depth: Depth) -> Result<()> {
    let attr = MountAttr {
        set: change.set.bits(),
        clear: change.clear.bits(),
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: change.id_map.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = match depth {
        Depth::One => libc::AT_EMPTY_PATH,
        Depth::Recursive => libc::AT_EMPTY_PATH | AT_RECURSIVE,
    };
    // SAFETY: the path is a NUL-terminated empty string and `attr` has the layout and size that are passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Error::check("mount_setattr", result).map(drop)
}

/// `mount(2)` onto what `target` refers to, through the calling process's own descriptor link (needs a `/proc`).
///
/// # Errors
/// Whatever the file system says.
pub fn mount_on(
    target: impl AsFd,
    kind: &str,
    source: &str,
    attributes: Attributes,
    options: &str,
) -> Result<()> {
    let target = proc_path(target.as_fd());
    let kind = cstring(kind)?;
    let source = cstring(source)?;
    let options = cstring(options)?;
    classic(&source, &target, &kind, attributes.as_mount_flags(), &options)
}

/// Bind mounts what `source` refers to onto what `target` refers to with `mount(2)`.
///
/// # Errors
/// As [`attach`].
pub fn bind_on(source: impl AsFd, target: impl AsFd, depth: Depth) -> Result<()> {
    let flags = match depth {
        Depth::One => libc::MS_BIND,
        Depth::Recursive => libc::MS_BIND | libc::MS_REC,
    };
    classic(
        &proc_path(source.as_fd()),
        &proc_path(target.as_fd()),
        c"",
        flags,
        c"",
    )
}

/// Replaces the attributes of one attached mount with `mount(2)`.
///
/// # Errors
/// `EPERM` for an attribute locked by a more privileged namespace.
pub fn remount(mount: impl AsFd, attributes: Attributes) -> Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | attributes.as_mount_flags();
    classic(c"", &proc_path(mount.as_fd()), c"", flags, c"")
}

/// Changes the propagation of the mount at `path`.
///
/// # Errors
/// `EINVAL` if nothing is mounted there.
pub fn set_propagation(path: &CStr, propagation: Propagation, depth: Depth) -> Result<()> {
    let flags = match depth {
        Depth::One => propagation.bits(),
        Depth::Recursive => propagation.bits() | libc::MS_REC,
    };
    classic(c"", path, c"", flags, c"")
}

/// As [`set_propagation`], for the attached mount whose root `mount` is.
///
/// # Errors
/// `EINVAL` if it is not the root of a mount.
pub fn set_propagation_of(mount: impl AsFd, propagation: Propagation, depth: Depth) -> Result<()> {
    set_propagation(&proc_path(mount.as_fd()), propagation, depth)
}

/// The attributes that the mount of `fd` has now.
///
/// # Errors
/// None that is to be expected of an open descriptor.
pub fn attributes_of(fd: impl AsFd) -> Result<Attributes> {
    const PAIRS: [(u64, Attributes); 6] = [
        (libc::ST_RDONLY, Attributes::READ_ONLY),
        (libc::ST_NOSUID, Attributes::NO_SUID),
        (libc::ST_NODEV, Attributes::NO_DEV),
        (libc::ST_NOEXEC, Attributes::NO_EXEC),
        (libc::ST_NOATIME, Attributes::NO_ATIME),
        (libc::ST_NODIRATIME, Attributes::NO_DIR_ATIME),
    ];
    const ST_RELATIME: u64 = 4096;
    let flags = rustix::fs::fstatvfs(fd).named("statfs")?.f_flag.bits();
    let known = PAIRS
        .iter()
        .filter(|(st, _)| flags & st != 0)
        .fold(Attributes::NONE, |all, (_, attr)| all.with(*attr));
    if flags & (ST_RELATIME | libc::ST_NOATIME) == 0 {
        return Ok(known.with(Attributes::STRICT_ATIME));
    }
    Ok(known)
}

/// Makes the current directory the root of the mount namespace and detaches the old root.
///
/// The old root is stacked on the new one for a moment (`pivot_root(".", ".")`): no directory is needed for it.
///
/// # Errors
/// `EINVAL` if the directory is no mount of its own, or a mount involved is shared.
pub fn pivot_to_current_directory() -> Result<()> {
    let old = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .named("open(/)")?;
    rustix::process::pivot_root(".", ".").named("pivot_root")?;
    // The current directory is the new root still, with the old one on top of it. The old one is entered by its descriptor, so that what
    // follows is about it and not about the container's mounts. As slaves its mounts can go without the host's going as well.
    rustix::process::fchdir(&old).named("fchdir")?;
    set_propagation(c".", Propagation::Slave, Depth::Recursive)?;
    raw::unmount(".", raw::UnmountFlags::DETACH).named("umount2")?;
    rustix::process::chdir("/").named("chdir")
}

/// Moves the mount at `from` onto `to` with `mount(2)`.
///
/// # Errors
/// `EINVAL` if `from` is no mount or its parent is shared.
pub fn move_on(from: &CStr, to: &CStr) -> Result<()> {
    classic(from, to, c"", libc::MS_MOVE, c"")
}

/// Detaches the mount that `path` names, without following a link at its end.
///
/// # Errors
/// `EINVAL` if nothing is mounted there.
pub fn detach(path: &Path) -> Result<()> {
    raw::unmount(path, raw::UnmountFlags::DETACH | raw::UnmountFlags::NOFOLLOW).named("umount2")
}

fn classic(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, options: &CStr) -> Result<()> {
    // SAFETY: all four strings are NUL-terminated and live through the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    Error::check("mount", result.into()).map(drop)
}

fn cstring(text: &str) -> Result<std::ffi::CString> {
    std::ffi::CString::new(text).map_err(|_| Error::new("mount", Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_translate_to_flags_of_the_classic_call() {
        let cases = [
            (Attributes::NONE, 0),
            (Attributes::READ_ONLY, libc::MS_RDONLY),
            (
                Attributes::NO_SUID.with(Attributes::NO_DEV),
                libc::MS_NOSUID | libc::MS_NODEV,
            ),
            (Attributes::STRICT_ATIME, libc::MS_STRICTATIME),
            (
                Attributes::NO_ATIME.with(Attributes::NO_DIR_ATIME),
                libc::MS_NOATIME | libc::MS_NODIRATIME,
            ),
            (Attributes::NO_SYMLINK_FOLLOW, 256),
        ];
        for (attributes, flags) in cases {
            assert_eq!(attributes.as_mount_flags(), flags, "{attributes:?}");
        }
    }

    #[test]
    fn attributes_of_an_open_file_are_those_of_its_mount() {
        let proc = std::fs::File::open("/proc").expect("a /proc");
        let attributes = attributes_of(&proc).expect("statfs");
        assert!(!attributes.contains(Attributes::READ_ONLY));
    }
}
