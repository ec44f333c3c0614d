//! Destinations below the rootfs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use croze_sys::path::{self, Missing, Scope};
use croze_sys::{Errno, fd};
use rustix::fs::OFlags;

use crate::error::{Result, While};
use crate::mounts::root::Root;
use crate::spec::SpecError;

/// Whether symbolic links on the way to a destination are followed (inside of the rootfs, always).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are.
    Followed,
    /// They are an error.
    Refused,
}

/// What a mount is going to be put on.
#[derive(Debug)]
pub struct Target<'a> {
    root: &'a Root,
    path: &'a Path,
    fd: OwnedFd,
    created: bool,
}

impl<'a> Target<'a> {
    /// Opens `path` below the root; creates what is missing.
    ///
    /// # Errors
    /// There is a link where none may be, or the file system refuses.
    pub fn open(root: &'a Root, path: &'a Path, missing: Missing, links: Links) -> Result<Self> {
        let scope = match links {
            Links::Followed => Scope::InRoot,
            Links::Refused => Scope::NoSymlinks,
        };
        match path::open_below(root, path, OFlags::PATH, scope) {
            Ok(fd) => Ok(Self {
                root,
                path,
                fd,
                created: false,
            }),
            Err(error) if error.errno == Errno::NOENT => {
                let create = || format!("create {} in the root file system", path.display());
                let made = path::create_below(root, path, missing).while_doing(create)?;
                // Made by a walk that follows links: somebody may have put one there at this very moment.
                let fd = match links {
                    Links::Followed => made,
                    Links::Refused => {
                        path::open_below(root, path, OFlags::PATH, scope).while_doing(create)?
                    }
                };
                Ok(Self {
                    root,
                    path,
                    fd,
                    created: true,
                })
            }
            Err(error) if error.errno == Errno::LOOP && links == Links::Refused => Err(SpecError::Invalid {
                field: "mounts.destination".to_owned(),
                value: path.display().to_string(),
                reason: "it must be an ordinary directory in the image, and a symbolic link is there",
            }
            .into()),
            Err(error) => {
                Err(error).while_doing(|| format!("open {} in the root file system", path.display()))
            }
        }
    }

    /// Opens `path` below the root if something is there.
    ///
    /// # Errors
    /// Those of resolving, but that nothing is there.
    pub fn existing(root: &'a Root, path: &'a Path) -> Result<Option<Self>> {
        match path::open_below(root, path, OFlags::PATH, Scope::InRoot) {
            Ok(fd) => Ok(Some(Self {
                root,
                path,
                fd,
                created: false,
            })),
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error).while_doing(|| format!("open {} in the container", path.display())),
        }
    }

    /// Whether nothing was there.
    pub const fn was_created(&self) -> bool {
        self.created
    }

    /// Resolves the path once more: finds what was mounted here with a call that gives no descriptor.
    ///
    /// # Errors
    /// Those of resolving.
    pub fn reopen(&self) -> croze_sys::Result<OwnedFd> {
        path::open_below(self.root, self.path, OFlags::PATH, Scope::InRoot)
    }

    /// Opens the target itself for more than reference.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn reopen_as(&self, flags: OFlags) -> Result<OwnedFd> {
        fd::reopen(&self.fd, flags)
            .while_doing(|| format!("open {} in the root file system", self.path.display()))
    }
}

impl AsFd for Target<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
