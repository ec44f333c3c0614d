//! `linux.netDevices`: network devices of the host that become the container's.
//!
//! ```text
//! the host's namespace                      the container's
//!   eth1, up, 192.0.2.7/24 ── moved ──────▶ eth1 or another name, 192.0.2.7/24, up
//! ```
//!
//! A move takes the device's addresses away and sets it down; MTU and hardware address stay. So its permanent addresses of global scope are
//! read before and given back afterwards. From then on the device is the container's own business: when its namespace goes the
//! kernel puts a physical device back and destroys a virtual one.
//!
//! If the container cannot be made after all, what was moved is moved back, with its addresses: a virtual device would be lost otherwise.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use croze_sys::Errno;
use croze_sys::clone::{self, Namespaces};
use croze_sys::netlink::{CREATE, EXCLUSIVE, Family, Message, Reply, Socket};
use oci_spec::runtime::LinuxNetDevice;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result, While};
use crate::spec::SpecError;

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// `IFF_UP`.
const UP: u32 = 1;
/// `IFA_F_PERMANENT`: not from a router or a lease.
const PERMANENT: u32 = 0x80;
/// `RT_SCOPE_UNIVERSE`.
const GLOBAL: u8 = 0;
/// Length of `struct ifinfomsg` and of `struct ifaddrmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// A device to move, decided: its name on the host, and in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// On the host.
    pub host: String,
    /// In the container; with `%d` in it the kernel takes the first number that is free.
    pub inside: String,
}

/// Decides about all devices, by name; pure.
pub fn plan<'a>(devices: impl IntoIterator<Item = (&'a String, &'a LinuxNetDevice)>) -> Vec<NetDevice> {
    let sorted: BTreeMap<_, _> = devices.into_iter().collect();
    let named = |(host, device): (&String, &LinuxNetDevice)| NetDevice {
        host: host.clone(),
        inside: device
            .name()
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| host.clone()),
    };
    sorted.into_iter().map(named).collect()
}

/// Whether a device can have this name.
pub fn is_name(name: &str) -> bool {
    /// `IFNAMSIZ` without the terminating zero.
    const LONGEST: usize = 15;
    let is_plain = |byte: u8| !matches!(byte, b'/' | b':' | 0) && !byte.is_ascii_whitespace();
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST && name.bytes().all(is_plain)
}

/// Devices that were moved.
#[derive(Debug)]
pub struct Moved {
    own: OwnedFd,
    host: Socket,
    container: Socket,
    devices: Vec<MovedDevice>,
}

#[derive(Debug)]
struct MovedDevice {
    host: String,
    inside: String,
    was_up: bool,
    addresses: Vec<Reply>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: u32,
    flags: u32,
    name: String,
}

/// Moves devices into the network namespace of a container; `joined` is the one it joins by path, and `pid` its first process, which is in
/// its new one otherwise. Without devices nothing is done.
///
/// # Errors
/// The device that cannot be moved, or whose name is taken. What was moved is back then.
pub fn move_in(devices: &[NetDevice], pid: i32, joined: Option<&OwnedFd>) -> Result<Option<Moved>> {
    if devices.is_empty() {
        return Ok(None);
    }
    let own = open_namespace(Path::new("/proc/self/ns/net"))?;
    let opened;
    let namespace = match joined {
        Some(joined) => joined,
        None => {
            opened = open_namespace(&PathBuf::from(format!("/proc/{pid}/ns/net")))?;
            &opened
        }
    };
    let action = || "talk to the kernel about linux.netDevices".to_owned();
    let host = Socket::open(Family::Route).while_doing(action)?;
    clone::join(namespace.as_fd(), Namespaces::NETWORK).while_doing(action)?;
    let container = Socket::open(Family::Route);
    clone::join(own.as_fd(), Namespaces::NETWORK).while_doing(action)?;
    let mut moved = Moved {
        own,
        host,
        container: container.while_doing(action)?,
        devices: Vec::new(),
    };
    for device in devices {
        if let Err(error) = moved.take(device, namespace) {
            return Err(match moved.give_back() {
                Ok(()) => error,
                Err(left) => Error::Undo {
                    source: Box::new(error),
                    left: crate::error::chain(&left),
                },
            });
        }
    }
    Ok(Some(moved))
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .while_doing(|| format!("open the namespace {}", path.display()))
}

impl Moved {
    fn take(&mut self, device: &NetDevice, namespace: &OwnedFd) -> Result<()> {
        let NetDevice { host, inside } = device;
        let invalid = |value: &str, reason| SpecError::Invalid {
            field: "linux.netDevices".to_owned(),
            value: value.to_owned(),
            reason,
        };
        let list = || "list the network devices".to_owned();
        let link = link(&mut self.host, host)
            .while_doing(list)?
            .ok_or_else(|| invalid(host, "the host has no network device of this name"))?;
        let before = links(&mut self.container).while_doing(list)?;
        if before.iter().any(|other| other.name == *inside) {
            let reason = "the container's network namespace has a device of this name already";
            return Err(invalid(inside, reason).into());
        }
        let addresses = addresses(&mut self.host, link.index)
            .while_doing(|| format!("list the addresses of the network device {host}"))?;
        let record = |name: String| MovedDevice {
            host: host.clone(),
            inside: name,
            was_up: link.flags & UP != 0,
            addresses: addresses.clone(),
        };
        if let Err(source) = move_link(&mut self.host, link.index, namespace, inside) {
            // It can have been moved and not renamed.
            let arrived = links(&mut self.container).unwrap_or_default();
            if let Some(arrived) = arrived.into_iter().find(|link| !before.contains(link)) {
                self.devices.push(record(arrived.name));
            }
            let action = if source.errno == Errno::INVAL {
                format!("move linux.netDevices {host}: devices of its kind stay in their namespace")
            } else {
                format!("move linux.netDevices {host} into the container as {inside}")
            };
            return Err(Error::System { action, source });
        }
        let describe = || format!("set linux.netDevices {host} up in the container");
        let after = links(&mut self.container).while_doing(describe)?;
        // By its name, or by being new where the kernel has chosen it.
        let arrived = after
            .iter()
            .find(|link| link.name == *inside)
            .or_else(|| after.iter().find(|link| !before.contains(link)))
            .cloned()
            .ok_or(croze_sys::Error::new("netlink", Errno::NODEV))
            .while_doing(describe)?;
        self.devices.push(record(arrived.name));
        restore(&mut self.container, arrived.index, &addresses)
            .and_then(|()| set_up(&mut self.container, arrived.index))
            .while_doing(describe)
    }

    /// Moves everything back where it was, in the state it was in. What fails does not keep the rest from coming back.
    ///
    /// # Errors
    /// The first device that is lost.
    pub fn give_back(mut self) -> Result<()> {
        let devices = std::mem::take(&mut self.devices);
        let results: Vec<Result<()>> = devices.iter().map(|device| self.put_back(device)).collect();
        results.into_iter().collect()
    }

    fn put_back(&mut self, device: &MovedDevice) -> Result<()> {
        let describe = || format!("move the network device {} back", device.host);
        let missing = croze_sys::Error::new("netlink", Errno::NODEV);
        let inside = link(&mut self.container, &device.inside)
            .and_then(|link| link.ok_or(missing))
            .while_doing(describe)?;
        move_link(&mut self.container, inside.index, &self.own, &device.host).while_doing(describe)?;
        let back = link(&mut self.host, &device.host)
            .and_then(|link| link.ok_or(missing))
            .while_doing(describe)?;
        restore(&mut self.host, back.index, &device.addresses).while_doing(describe)?;
        if device.was_up {
            set_up(&mut self.host, back.index).while_doing(describe)?;
        }
        Ok(())
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn links(socket: &mut Socket) -> croze_sys::Result<Vec<Link>> {
    let replies = socket.dump(&Message::new(GETLINK, 0, &link_header(0, 0, 0)))?;
    let read = |reply: &Reply| {
        let word = |at: usize| Some(u32::from_ne_bytes(reply.body.get(at..at + 4)?.try_into().ok()?));
        Some(Link {
            index: word(4)?,
            flags: word(8)?,
            name: reply.attributes(LINK_HEADER).text(IFLA_IFNAME)?,
        })
    };
    Ok(replies.iter().filter_map(read).collect())
}

fn link(socket: &mut Socket, name: &str) -> croze_sys::Result<Option<Link>> {
    Ok(links(socket)?.into_iter().find(|link| link.name == name))
}

/// The permanent global addresses of a device.
fn addresses(socket: &mut Socket, index: u32) -> croze_sys::Result<Vec<Reply>> {
    let replies = socket.dump(&Message::new(GETADDR, 0, &[0; ADDRESS_HEADER]))?;
    Ok(replies
        .into_iter()
        .filter(|reply| is_kept(reply, index))
        .collect())
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, a byte each; then the device's number.
fn is_kept(reply: &Reply, index: u32) -> bool {
    let of = reply.body.get(4..8).and_then(|bytes| bytes.try_into().ok());
    let scope = reply.body.get(3).copied();
    of.map(u32::from_ne_bytes) == Some(index) && scope == Some(GLOBAL) && flags_of(reply) & PERMANENT != 0
}

fn flags_of(reply: &Reply) -> u32 {
    let short = reply.body.get(2).copied().map(u32::from);
    let long = reply.attributes(ADDRESS_HEADER).number(IFA_FLAGS);
    long.or(short).unwrap_or(0)
}

/// Gives a device addresses that it, or another one, once had.
fn restore(socket: &mut Socket, index: u32, addresses: &[Reply]) -> croze_sys::Result<()> {
    for address in addresses {
        let Some(header) = address.body.get(..4) else {
            continue;
        };
        let header = [header, &index.to_ne_bytes()[..]].concat();
        let mut message = Message::new(NEWADDR, CREATE | EXCLUSIVE, &header);
        for (kind, value) in address.attributes(ADDRESS_HEADER) {
            // A label begins with the device's name, which may be another one; the rest is how old the address is.
            if !matches!(kind, IFA_LABEL | IFA_CACHEINFO) {
                message = message.attribute(kind, value);
            }
        }
        match socket.request(message) {
            Err(error) if error.errno == Errno::EXIST => {}
            result => result?,
        }
    }
    Ok(())
}

fn move_link(socket: &mut Socket, index: u32, to: &OwnedFd, name: &str) -> croze_sys::Result<()> {
    let fd = u32::try_from(to.as_raw_fd()).unwrap_or_default();
    let message = Message::new(NEWLINK, 0, &link_header(index, 0, 0))
        .number(IFLA_NET_NS_FD, fd)
        .text(IFLA_IFNAME, name);
    socket.request(message)
}

fn set_up(socket: &mut Socket, index: u32) -> croze_sys::Result<()> {
    socket.request(Message::new(NEWLINK, 0, &link_header(index, UP, UP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another_one() {
        let devices: BTreeMap<String, LinuxNetDevice> =
            serde_json::from_value(json!({"eth1": {"name": "net%d"}, "eth0": {}, "eth2": {"name": ""}}))
                .expect("devices");
        let planned: Vec<_> = plan(&devices)
            .into_iter()
            .map(|device| (device.host, device.inside))
            .collect();
        let expected = [("eth0", "eth0"), ("eth1", "net%d"), ("eth2", "eth2")];
        assert_eq!(planned, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn names_are_those_the_kernel_takes() {
        for name in ["eth0", "a", "net%d", "exactly-15-long"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:b", "exactly-16-chars", "a\0"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
