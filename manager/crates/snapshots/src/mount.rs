//! Mounting a snapshot with overlayfs.
//!
//! Since Linux 6.8 the layers are handed over one by one (`lowerdir+` of the new mount API), so that their number and the length of their
//! names do not matter. Before that all must fit into one page of options: then the layers get names of one to three digits in a
//! directory of links, and a thread with a working directory of its own mounts from there.
//!
//! Before 6.5 the new API takes any word for overlayfs, and finds only when the mount is made that it means nothing (`fs/fs_context.c`,
//! `legacy_parse_param`): whether a word is known is asked with one that no overlayfs has.
//!
//! A view has no upper layer: its own directory, which only holds the root's metadata, is one more lower layer, and so it can be mounted in many places
//! (but not where that would be one layer too many).
//!
//! `index`, `metacopy` and `redirect_dir` are switched off: layers are shared and may be copied, and what a container writes must be
//! readable without knowing overlayfs' shortcuts.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use croze_model::Result;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::chain::MAX_LAYERS;
use crate::driver::mount_copy;
use crate::error::SnapshotError;
use crate::records::SnapshotRecord;
use crate::store::{Snapshots, TREE};

/// Texts of fsconfig(2) are at most this long, with their final zero byte.
const FSCONFIG_MAX: usize = 256;
/// How the kernel names our mounts in /proc/mounts.
const SOURCE: &str = "croze";
/// The options every mount has.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];

/// Whether a mounted snapshot can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes go to the snapshot's own directory.
    ReadWrite,
    /// A view: the mount refuses writes.
    ReadOnly,
}

/// What is to be mounted, with every path resolved.
pub(crate) struct Plan {
    pub(crate) id: String,
    /// Topmost first, one at least.
    pub(crate) lowers: Vec<PathBuf>,
    /// Where `upper` and `work` are.
    pub(crate) base: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) access: Access,
    /// Whether the snapshot's own directory is what is written to; else it is one of the lower ones.
    pub(crate) has_upper: bool,
}

impl Snapshots {
    /// Mounts the snapshot `id` at `target`, an existing directory, in this process's mount namespace.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id; as [`Snapshots::can_limit`] if it has a limit; `Internal` with the step that failed if overlayfs refuses.
    pub fn mount(&self, id: &str, target: &Path, access: Access) -> Result<()> {
        let record = self.load_snapshot(id)?;
        let access = if record.view { Access::ReadOnly } else { access };
        let base = self.dir("active").join(id);
        Ok(self.with_limits_off(&record, target, || {
            if !record.snapshotter.is_overlay() {
                return mount_copy(id, &base.join("upper"), target, access);
            }
            let plan = self.plan(&record, target, access);
            match mount_each(&plan) {
                Ok(()) => Ok(()),
                // No new mount API (before 5.2, or behind a seccomp filter), or no `lowerdir+`.
                Err(Refusal::Unsupported) => mount_page(&plan),
                Err(Refusal::Failed(error)) => Err(error),
            }
        })?)
    }

    /// Unmounts what is mounted at `target`. A target that is not there or not mounted is no error, so that an undo may run twice. A busy
    /// mount is detached: it goes when its last user does.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub fn unmount(&self, target: &Path) -> Result<()> {
        let plain = unmount(target, UnmountFlags::NOFOLLOW);
        let result = match plain {
            Err(Errno::BUSY) => unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            other => other,
        };
        match result {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(errno) => Err(SnapshotError::Unmount {
                target: target.to_owned(),
                source: errno.into(),
            }
            .into()),
        }
    }

    fn plan(&self, record: &SnapshotRecord, target: &Path, access: Access) -> Plan {
        let base = self.dir("active").join(&record.id);
        let mut lowers = self.lower_paths(record);
        // A view's directory holds the root's metadata and nothing more. As a lower layer it can be mounted many times; where there is no place for one
        // more, it is an upper layer that nobody can write to.
        let has_upper = !record.view || lowers.len() == MAX_LAYERS;
        if !has_upper {
            lowers.insert(0, base.join("upper"));
        }
        Plan {
            id: record.id.clone(),
            lowers,
            base,
            target: target.to_owned(),
            access,
            has_upper,
        }
    }

    fn lower_paths(&self, record: &SnapshotRecord) -> Vec<PathBuf> {
        let implicit = record
            .implicit
            .iter()
            .map(|chain| self.chain_dir(chain).join(TREE));
        let layers = record.layers.iter().map(|key| self.layer_tree(key));
        let mut paths: Vec<PathBuf> = implicit.chain(layers).collect();
        if paths.is_empty() {
            // overlayfs wants one lower layer at least.
            paths.push(self.dir("empty"));
        }
        paths
    }
}

enum Refusal {
    Unsupported,
    Failed(SnapshotError),
}

impl Plan {
    fn error(&self, step: &'static str, source: impl Into<io::Error>) -> SnapshotError {
        SnapshotError::Mount {
            id: self.id.clone(),
            target: self.target.clone(),
            step,
            source: source.into(),
        }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(Errno) -> Refusal {
        move |errno| Refusal::Failed(self.error(step, errno))
    }
}

/// A path as fsconfig takes it: itself, or the name of an open descriptor if it is too long. The descriptor must live until the mount is made.
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() < FSCONFIG_MAX {
        return Ok((path.to_owned(), None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    Ok((
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        Some(file),
    ))
}

/// Whether overlayfs looks at each option as it is set (Linux 6.5); asked of a context that is lost afterwards.
///
/// # Errors
/// Where the kernel could not answer now, for want of descriptors or memory: only answers are remembered.
fn options_are_looked_at() -> Result<bool, Errno> {
    static LOOKED_AT: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = LOOKED_AT.get() {
        return Ok(*answer);
    }
    let asked = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|context| fsconfig_set_string(context.as_fd(), "no-such-option", "x"));
    let answer = match asked {
        Err(Errno::INVAL) => true,
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => false,
        Err(errno) => return Err(errno),
    };
    Ok(*LOOKED_AT.get_or_init(|| answer))
}

/// Makes an overlay that nobody sees, and gives it up again, in both ways if need be.
///
/// # Errors
/// What the kernel says against it.
pub(crate) fn try_out(plan: &Plan) -> Result<(), SnapshotError> {
    match create_each(plan) {
        Ok(_context) => Ok(()),
        Err(Refusal::Failed(error)) => Err(error),
        Err(Refusal::Unsupported) => std::thread::scope(|scope| {
            let tried = scope.spawn(|| {
                // The mount goes with this thread, and with the one that makes it.
                unshare(CloneFlags::CLONE_NEWNS)
                    .map_err(|errno| plan.error("leave the mount namespace", errno))?;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                    .map_err(|errno| plan.error("leave the mount namespace", errno))?;
                mount_page(plan)
            });
            tried.join().unwrap_or_else(|_| {
                Err(plan.error("mount", io::Error::other("the mounting thread panicked")))
            })
        }),
    }
}

fn mount_each(plan: &Plan) -> Result<(), Refusal> {
    let context = create_each(plan)?;
    let attributes = match plan.access {
        Access::ReadWrite => MountAttrFlags::empty(),
        Access::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let mounted = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(plan.failed("make the mount"))?;
    move_mount(
        mounted.as_fd(),
        "",
        rustix::fs::CWD,
        &plan.target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(plan.failed("attach the mount"))
}

/// An overlay that is mounted nowhere, with the new mount API.
fn create_each(plan: &Plan) -> Result<OwnedFd, Refusal> {
    if !options_are_looked_at().map_err(plan.failed("open overlayfs"))? {
        return Err(Refusal::Unsupported);
    }
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NOSYS | Errno::PERM) => return Err(Refusal::Unsupported),
        Err(errno) => return Err(Refusal::Failed(plan.error("open overlayfs", errno))),
    };
    let mut held = Vec::new();
    let mut set = |key: &str, path: &Path, step: &'static str| -> Result<Result<(), Errno>, Refusal> {
        let (path, file) = short_path(path).map_err(|source| Refusal::Failed(plan.error(step, source)))?;
        held.extend(file);
        Ok(fsconfig_set_string(context.as_fd(), key, &path))
    };
    for (index, lower) in plan.lowers.iter().enumerate() {
        match set("lowerdir+", lower, "add a lower layer")? {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return Err(Refusal::Unsupported),
            Err(errno) => return Err(Refusal::Failed(plan.error("add a lower layer", errno))),
        }
    }
    let own: &[(&str, &str)] = if plan.has_upper {
        &[("upperdir", "upper"), ("workdir", "work")]
    } else {
        &[]
    };
    for (key, name) in own {
        set(key, &plan.base.join(name), "set the upper layer")?
            .map_err(plan.failed("set the upper layer"))?;
    }
    fsconfig_set_string(context.as_fd(), "source", SOURCE).map_err(plan.failed("set an option"))?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(context.as_fd(), key, value).map_err(plan.failed("set an option"))?;
    }
    fsconfig_create(context.as_fd()).map_err(plan.failed("create the overlay"))?;
    Ok(context)
}

/// mount(2) with short relative names, from a thread that has a working directory of its own.
fn mount_page(plan: &Plan) -> Result<(), SnapshotError> {
    let links = plan.base.join("lower");
    link_lowers(&links, &plan.lowers).map_err(|source| plan.error("link the lower layers", source))?;
    let target =
        std::path::absolute(&plan.target).map_err(|source| plan.error("resolve the target", source))?;
    let names: Vec<String> = (0..plan.lowers.len()).map(|n| n.to_string()).collect();
    let mut data = format!("lowerdir={}", names.join(":"));
    if plan.has_upper {
        data.push_str(",upperdir=../upper,workdir=../work");
    }
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    let flags = match plan.access {
        Access::ReadWrite => MsFlags::empty(),
        Access::ReadOnly => MsFlags::MS_RDONLY,
    };
    let mounted = std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<(), (&'static str, io::Error)> {
                let at = |step| move |errno: nix::Error| (step, io::Error::from(errno));
                // From here on this thread's working directory is its own; the thread ends with this closure.
                unshare(CloneFlags::CLONE_FS).map_err(at("leave the working directory"))?;
                nix::unistd::chdir(&links).map_err(at("enter the lower layers' directory"))?;
                mount(Some(SOURCE), &target, Some("overlay"), flags, Some(data.as_str())).map_err(at("mount"))
            })
            .join()
            .unwrap_or_else(|_| Err(("mount", io::Error::other("the mounting thread panicked"))))
    });
    mounted.map_err(|(step, source)| plan.error(step, source))
}

fn link_lowers(links: &Path, lowers: &[PathBuf]) -> io::Result<()> {
    match fs::remove_dir_all(links) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir(links)?;
    for (n, lower) in lowers.iter().enumerate() {
        symlink(std::path::absolute(lower)?, links.join(n.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "mount_tests.rs"]
pub(crate) mod tests;
