//! The rootfs: made a mount of its own, then `/`.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use croze_sys::mount::{self, Depth, Propagation};
use croze_sys::{Errno, fd};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result, While};
use crate::mounts::attach;
use crate::ops::RootSwitch;

/// The container's root file system, as a mount of its own.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Cuts the mount namespace off from the host's, as far as `propagation` says, and binds the rootfs on itself. Where the namespace is the
/// host's ([`RootSwitch::Change`]) nothing but the rootfs is touched.
///
/// # Errors
/// The rootfs is not there, or may not be mounted.
pub fn prepare(path: &Path, propagation: Option<(Propagation, Depth)>, switch: RootSwitch) -> Result<Root> {
    if switch != RootSwitch::Change {
        cut_off(path, propagation)?;
    }
    let root = bind_on_itself(path)?;
    if switch == RootSwitch::Change {
        // What is mounted below must not appear elsewhere.
        root.set_propagation(Propagation::Private, Depth::One)?;
    }
    Ok(root)
}

fn cut_off(path: &Path, propagation: Option<(Propagation, Depth)>) -> Result<()> {
    let (kind, depth) = propagation.unwrap_or((Propagation::Slave, Depth::Recursive));
    mount::set_propagation(c"/", kind, depth)
        .while_doing(|| "separate the container's mounts from the host's".to_owned())?;
    // Either leaves mounts shared, the one that the rootfs lies in perhaps: what is mounted below it would appear on the host.
    if kind == Propagation::Shared || depth == Depth::One {
        let cut = if kind == Propagation::Slave {
            Propagation::Slave
        } else {
            Propagation::Private
        };
        cut_parent_off(path, cut)?;
    }
    Ok(())
}

fn bind_on_itself(path: &Path) -> Result<Root> {
    let describe = || format!("bind the root file system {}", path.display());
    let directory = fd::open_path(path).while_doing(describe)?;
    let fd = match mount::clone_at(&directory, Depth::Recursive) {
        Ok(tree) => mount::attach(&tree, &directory).map(|()| tree),
        Err(error) if error.is_missing() => {
            mount::bind_on(&directory, &directory, Depth::Recursive).and_then(|()| fd::open_path(path))
        }
        Err(error) => Err(error),
    }
    .while_doing(describe)?;
    Ok(Root {
        fd,
        path: path.to_owned(),
    })
}

/// The mount that the rootfs lies in must not be shared, or the root could not be switched; the others stay as they are.
fn cut_parent_off(path: &Path, cut: Propagation) -> Result<()> {
    for ancestor in path.ancestors() {
        let name = CString::new(ancestor.as_os_str().as_bytes()).unwrap_or_default();
        match mount::set_propagation(&name, cut, Depth::One) {
            // No mount point: it lies in a mount further up.
            Err(error) if error.errno == Errno::INVAL => {}
            result => {
                return result.while_doing(|| format!("make the mount {} unshared", ancestor.display()));
            }
        }
    }
    Ok(())
}

impl Root {
    /// Takes the current root for a container's, for a process that has joined its mount namespace.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn current() -> Result<Self> {
        let path = PathBuf::from("/");
        let fd = fd::open_path(&path).while_doing(|| "open the container's root".to_owned())?;
        Ok(Self { fd, path })
    }

    /// Takes the mount and all below it away again, from a namespace that does not go with the container.
    ///
    /// # Errors
    /// The caller may not unmount.
    pub fn detach(path: &Path) -> Result<()> {
        match mount::detach(path) {
            // There is none: it was taken away already, or never made.
            Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOENT) => Ok(()),
            result => result.while_doing(|| format!("unmount {}", path.display())),
        }
    }

    /// Makes it the root of the namespace and of this process.
    ///
    /// # Errors
    /// `EINVAL`: the host runs from an initramfs, whose root cannot be switched (`--no-pivot` is for that).
    pub fn enter(&self, switch: RootSwitch) -> Result<()> {
        rustix::process::fchdir(&self.fd).while_doing(|| format!("enter {}", self.path.display()))?;
        match switch {
            RootSwitch::Pivot => mount::pivot_to_current_directory()
                .while_doing(|| format!("switch the root to {} (pivot_root)", self.path.display())),
            RootSwitch::Move => self.enter_by_move(),
            RootSwitch::Change => rustix::process::chroot(".")
                .while_doing(|| format!("change the root to {}", self.path.display())),
        }
    }

    /// The host's tree stays below the new root, out of reach only as long as nobody has kept a way to it: the mounts by which a
    /// full procfs or sysfs of the host could be reached are detached before.
    fn enter_by_move(&self) -> Result<()> {
        for foreign in host_kernel_mounts(&self.path)? {
            let name = CString::new(foreign.as_os_str().as_bytes()).unwrap_or_default();
            let hidden = mount::set_propagation(&name, Propagation::Slave, Depth::Recursive)
                .and_then(|()| mount::detach(&foreign));
            match hidden {
                // Gone with one that it was mounted on.
                Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOENT) => {}
                result => result.while_doing(|| format!("detach the host's {}", foreign.display()))?,
            }
        }
        let describe = || format!("move {} to the root", self.path.display());
        mount::move_on(c".", c"/").while_doing(describe)?;
        rustix::process::chroot(".").while_doing(describe)?;
        rustix::process::chdir("/").while_doing(describe)
    }

    /// Changes the propagation of the root, once it is `/`.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn set_propagation(&self, propagation: Propagation, depth: Depth) -> Result<()> {
        attach::set_propagation(&self.fd, propagation, depth)
            .while_doing(|| "set linux.rootfsPropagation".to_owned())
    }

    /// Makes the root mount read-only; what is mounted below it is not concerned.
    ///
    /// # Errors
    /// A more privileged namespace has locked its attributes.
    pub fn set_read_only(&self) -> Result<()> {
        attach::set_read_only(&self.fd).while_doing(|| "make the root read-only".to_owned())
    }
}

/// The mount points of procfs and sysfs outside of the rootfs, the innermost first.
fn host_kernel_mounts(rootfs: &Path) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let text = std::fs::read_to_string(&path).map_err(|source| Error::File {
        action: "read",
        path,
        source,
    })?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let kind = filesystem.split(' ').next()?;
            let point = PathBuf::from(point.replace("\\040", " "));
            (matches!(kind, "proc" | "sysfs") && !point.starts_with(rootfs)).then_some(point)
        })
        .collect();
    found.reverse();
    Ok(found)
}

/// A descriptor of the host's procfs, to be taken before the root is switched.
///
/// # Errors
/// What is at `/proc` is no procfs.
pub fn open_proc() -> Result<OwnedFd> {
    let action = || "open /proc".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).while_doing(action)?;
    if fd::is_on(&proc, fd::PROC_SUPER_MAGIC).while_doing(action)? {
        return Ok(proc);
    }
    Err(Error::Unsupported {
        what: "a host whose /proc is not a procfs",
    })
}
