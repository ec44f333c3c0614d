//! Device files of the container, and the links that stand beside them in `/dev`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use croze_sys::mount::{self, AttributeChange, Attributes, Depth};
use croze_sys::path::{Missing, Scope, open_below};
use croze_sys::{Errno, fd};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use crate::error::{Error, Result, While};
use crate::mounts::options::MountOptions;
use crate::mounts::root::Root;
use crate::mounts::target::{Links, Target};
use crate::mounts::{Sources, attach};
use crate::namespaces::IdMaps;
use crate::spec::SpecError;

/// What every container has: name, major, minor.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links in `/dev`: name and what it leads to.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A device file, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where, in the container.
    pub path: PathBuf,
    /// Character, block or fifo.
    pub kind: NodeKind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a device file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device.
    Character {
        /// The driver.
        major: u32,
        /// The device.
        minor: u32,
    },
    /// A block device.
    Block {
        /// The driver.
        major: u32,
        /// The device.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl NodeKind {
    fn file_type(self) -> FileType {
        match self {
            Self::Character { .. } => FileType::CharacterDevice,
            Self::Block { .. } => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
        }
    }

    fn device(self) -> u64 {
        match self {
            Self::Character { major, minor } | Self::Block { major, minor } => {
                rustix::fs::makedev(major, minor)
            }
            Self::Fifo => 0,
        }
    }
}

/// The default devices and those of the spec, which win; pure.
pub fn plan(devices: &[LinuxDevice]) -> Vec<DeviceNode> {
    let mut nodes: Vec<DeviceNode> = DEFAULTS
        .iter()
        .map(|(path, major, minor)| DeviceNode {
            path: PathBuf::from(path),
            kind: NodeKind::Character {
                major: *major,
                minor: *minor,
            },
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for device in devices {
        let number = |value: i64| u32::try_from(value).unwrap_or(0);
        let (major, minor) = (number(device.major()), number(device.minor()));
        let kind = match device.typ() {
            LinuxDeviceType::B => NodeKind::Block { major, minor },
            LinuxDeviceType::P => NodeKind::Fifo,
            LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => {
                NodeKind::Character { major, minor }
            }
        };
        let node = DeviceNode {
            path: device.path().clone(),
            kind,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        };
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
    }
    nodes
}

impl DeviceNode {
    /// Whether every host has it, just as it is.
    fn is_default(&self) -> bool {
        let same = |(path, major, minor): &(&str, u32, u32)| {
            self.path == Path::new(path)
                && self.kind
                    == NodeKind::Character {
                        major: *major,
                        minor: *minor,
                    }
        };
        DEFAULTS.iter().any(same) && (self.mode, self.uid, self.gid) == (0o666, 0, 0)
    }
}

/// Makes the devices of the spec that the root of a new user namespace may not make for itself, by their place in `nodes`.
///
/// Whoever is root in a user namespace only can make no device at all. The runtime may: it makes them in `directory`, with the owners
/// that the container is to see, and hands each over as a mount of its own, which the container's process attaches. Afterwards the names
/// go ([`tidy`]): a file without one cannot be attached.
///
/// A runtime that may not make devices either (another user's), and a kernel without such mounts, make none: there the host's own device
/// of that path is bound.
///
/// # Errors
/// An owner has no mapping, or the disk fails.
pub fn make_outside(directory: &Path, nodes: &[DeviceNode], maps: &IdMaps) -> Result<Sources> {
    let mut made = Sources::new();
    if !rustix::process::geteuid().is_root() {
        return Ok(made);
    }
    for (index, node) in made_here(nodes) {
        let owner = (maps.host_uid(node.uid), maps.host_gid(node.gid));
        let (Some(uid), Some(gid)) = owner else {
            return Err(no_device(node, "its owner has no id outside of the user namespace").into());
        };
        match make_one_outside(&name_outside(directory, index), node, uid, gid) {
            Ok(tree) => drop(made.insert(index, tree)),
            Err(error) if error.is_missing() || error.errno == Errno::PERM => return Ok(made),
            Err(error) => {
                return Err(error).while_doing(|| format!("make the device {}", node.path.display()));
            }
        }
    }
    Ok(made)
}

fn made_here(nodes: &[DeviceNode]) -> impl Iterator<Item = (usize, &DeviceNode)> {
    let apart = |(_, node): &(usize, &DeviceNode)| !node.is_default() && node.kind != NodeKind::Fifo;
    nodes.iter().enumerate().filter(apart)
}

fn name_outside(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("device-{index}"))
}

/// Removes the names of the devices that were made outside; those that are attached stay what they are.
///
/// # Errors
/// The disk fails.
pub fn tidy(directory: &Path, nodes: &[DeviceNode]) -> Result<()> {
    for (index, _) in made_here(nodes) {
        let path = name_outside(directory, index);
        match rustix::fs::unlink(&path) {
            Err(Errno::NOENT) => {}
            result => result.while_doing(|| format!("remove {}", path.display()))?,
        }
    }
    Ok(())
}

fn make_one_outside(path: &Path, node: &DeviceNode, uid: u32, gid: u32) -> croze_sys::Result<OwnedFd> {
    let failed = |call| move |errno| croze_sys::Error::new(call, errno);
    let mode = Mode::from_raw_mode(node.mode);
    let kind = node.kind.file_type();
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, node.kind.device()).map_err(failed("mknodat"))?;
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chown(path, Some(owner.0), Some(owner.1)).map_err(failed("chown"))?;
    // Whatever the umask has taken away.
    rustix::fs::chmod(path, mode).map_err(failed("chmod"))?;
    let tree = mount::clone_at(fd::open_path(path)?, Depth::One)?;
    let usable = AttributeChange {
        // The runtime's directory is often on a file system whose devices cannot be opened.
        clear: Attributes::NO_DEV.with(Attributes::READ_ONLY),
        ..AttributeChange::default()
    };
    mount::set_attributes(&tree, &usable, Depth::One)?;
    Ok(tree)
}

/// A directory that was opened for a device and is kept for its neighbours.
struct Parent {
    path: PathBuf,
    fd: OwnedFd,
}

/// Whether the container's `/dev` is, by whatever way, the host's own: nothing is to be changed in there.
///
/// # Errors
/// Those of resolving.
pub fn is_hosts_dev(root: &Root) -> Result<bool> {
    let path = Path::new("/dev");
    let describe = || "look at /dev".to_owned();
    let inside = match open_below(root, path, OFlags::PATH, Scope::InRoot) {
        Ok(inside) => rustix::fs::fstat(inside).while_doing(describe)?,
        Err(error) if error.errno == Errno::NOENT => return Ok(false),
        Err(error) => return Err(error).while_doing(describe),
    };
    let host = rustix::fs::stat(path).while_doing(describe)?;
    Ok((inside.st_dev, inside.st_ino) == (host.st_dev, host.st_ino))
}

/// Makes the device files; those that were made outside are attached. The umask must be zero.
///
/// # Errors
/// Which device could not be made, and why.
pub fn create(root: &Root, nodes: &[DeviceNode], outside: &Sources) -> Result<()> {
    let mut parent: Option<Parent> = None;
    for (index, node) in nodes.iter().enumerate() {
        if let Some(tree) = outside.get(&index) {
            let target = Target::open(root, &node.path, Missing::File, Links::Followed)?;
            let describe = || format!("attach the device {}", node.path.display());
            mount::attach(tree, &target).while_doing(describe)?;
            continue;
        }
        let (directory, name) = match (node.path.parent(), node.path.file_name()) {
            (Some(directory), Some(name)) => (directory, Path::new(name)),
            _ => return Err(no_device(node, "a device needs a name").into()),
        };
        let here = match parent.take() {
            Some(kept) if kept.path == directory => kept,
            _ => Parent {
                path: directory.to_owned(),
                fd: open_directory(root, directory)?,
            },
        };
        create_one(root, &here.fd, name, node)?;
        parent = Some(here);
    }
    Ok(())
}

fn open_directory(root: &Root, path: &Path) -> Result<OwnedFd> {
    croze_sys::path::create_below(root, path, Missing::Directory)
        .while_doing(|| format!("open {} in the root file system", path.display()))
}

fn create_one(root: &Root, directory: &OwnedFd, name: &Path, node: &DeviceNode) -> Result<()> {
    let describe = || format!("make the device {}", node.path.display());
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(directory, name, node.kind.file_type(), mode, node.kind.device()) {
        Ok(()) if node.uid == 0 && node.gid == 0 => Ok(()),
        Ok(()) => {
            let owner = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
            rustix::fs::chownat(directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .while_doing(describe)
        }
        Err(Errno::EXIST) => accept_existing(directory, name, node),
        // No right to make devices (a user namespace): the host's own is bound.
        Err(Errno::PERM) => bind_from_host(root, node),
        Err(errno) => Err(errno).while_doing(describe),
    }
}

/// What the image brought along is good only if it is the same device, and no link to one.
fn accept_existing(directory: &OwnedFd, name: &Path, node: &DeviceNode) -> Result<()> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .while_doing(|| format!("look at {}", node.path.display()))?;
    let is_same =
        FileType::from_raw_mode(stat.st_mode) == node.kind.file_type() && stat.st_rdev == node.kind.device();
    if is_same {
        Ok(())
    } else {
        Err(no_device(node, "something else is there in the image").into())
    }
}

fn bind_from_host(root: &Root, node: &DeviceNode) -> Result<()> {
    let describe = || format!("bind the host's device {}", node.path.display());
    let host = fd::open_path(&node.path).while_doing(describe)?;
    let stat = rustix::fs::fstat(&host).while_doing(describe)?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind.file_type() || stat.st_rdev != node.kind.device() {
        return Err(no_device(node, "the host has another device there, and none can be made").into());
    }
    let target = Target::open(root, &node.path, Missing::File, Links::Followed)?;
    attach::bind(&host, &target, Depth::One, &MountOptions::default())
        .map(drop)
        .while_doing(describe)
}

/// Makes the links beside the devices. One that is there already stays.
///
/// # Errors
/// `/dev` cannot be written.
pub fn link(root: &Root) -> Result<()> {
    let directory = open_directory(root, Path::new("/dev"))?;
    let core = Path::new("/proc/kcore")
        .exists()
        .then_some(("core", "/proc/kcore"));
    for (name, leads_to) in LINKS.into_iter().chain(core) {
        let describe = || format!("make the link /dev/{name}");
        match rustix::fs::symlinkat(leads_to, &directory, name) {
            // An image's own ptmx is a device of the host's instance; any other instance's is found in pts.
            Err(Errno::EXIST) if name == "ptmx" => {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty()).while_doing(describe)?;
                rustix::fs::symlinkat(leads_to, &directory, name).while_doing(describe)?;
            }
            Err(Errno::EXIST) => {}
            result => result.while_doing(describe)?,
        }
    }
    Ok(())
}

/// The multiplexer of the container's own devpts, opened: a terminal without a name yet.
///
/// It is looked at before it is opened, for opening something else could do harm, and what was opened is looked at again. Nothing is
/// reached through `/proc`, which may be forged in a container that one is added to.
///
/// # Errors
/// There is none at `/dev/pts`, or something else is there.
pub fn open_multiplexer(root: &Root) -> Result<OwnedFd> {
    let path = Path::new("/dev/pts/ptmx");
    let describe = || "open /dev/pts/ptmx: a terminal needs a devpts mount there".to_owned();
    for flags in [OFlags::PATH, OFlags::RDWR | OFlags::NOCTTY] {
        let found = open_below(root, path, flags, Scope::NoSymlinks).while_doing(describe)?;
        let is_ours = fd::is_on(&found, fd::DEVPTS_SUPER_MAGIC)
            .and_then(|on_devpts| Ok(on_devpts && fd::is_character_device(&found, 5, 2)?))
            .while_doing(describe)?;
        if !is_ours {
            break;
        }
        if flags != OFlags::PATH {
            return Ok(found);
        }
    }
    Err(Error::Unsupported {
        what: "a terminal without a devpts at /dev/pts",
    })
}

fn no_device(node: &DeviceNode, reason: &'static str) -> SpecError {
    SpecError::Invalid {
        field: "linux.devices".to_owned(),
        value: node.path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceBuilder;

    #[test]
    fn a_device_of_the_spec_replaces_a_default_one() {
        let device = LinuxDeviceBuilder::default()
            .path("/dev/null")
            .typ(LinuxDeviceType::C)
            .major(1_i64)
            .minor(3_i64)
            .file_mode(0o100_600_u32)
            .uid(7_u32)
            .build()
            .expect("complete");
        let nodes = plan(&[device]);
        assert_eq!(nodes.len(), 6);
        let null = nodes
            .iter()
            .find(|node| node.path == Path::new("/dev/null"))
            .expect("there");
        assert_eq!((null.mode, null.uid), (0o600, 7));
        assert_eq!(null.kind, NodeKind::Character { major: 1, minor: 3 });
    }
}
