//! Network namespaces of containers: made on a thread of their own, pinned by a bind mount, configured, joined by path.
//!
//! ```text
//!   thread ── unshare(CLONE_NEWNET) ── bind mount of its namespace on <run root>/netns/<id> ── sysctls ── veth arrives ── addresses, routes ── ends
//! ```
//!
//! The thread never serves anything else: a thread that has left the daemon's namespace must not come back to a pool. The namespace lives as
//! long as the mount, also when crozed does not.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::UnmountFlags;

use crate::address::Mac;
use crate::error::NetworkError;
use crate::netlink::route::{self, Veth};
use crate::netlink::{Family, Socket};

type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// The namespace of the thread that looks.
pub(crate) const OWN: &str = "/proc/thread-self/ns/net";
/// The name of the interface in a container.
pub(crate) const INTERFACE: &str = "eth0";

/// What a namespace shall have.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Where it is pinned.
    pub(crate) path: &'a Path,
    /// The host's end of the veth pair.
    pub(crate) veth: &'a str,
    /// The bridge's number.
    pub(crate) bridge: u32,
    /// Hardware address.
    pub(crate) mac: Mac,
    /// Largest packet.
    pub(crate) mtu: u32,
    /// Addresses, with the prefix length and the gateway of each.
    pub(crate) addresses: &'a [(IpAddr, u8, IpAddr)],
}

/// Makes, pins and connects a namespace. Undo: [`remove`], and removing the interface; done here if this fails.
pub(crate) fn create(wanted: &Wanted<'_>) -> Result<()> {
    // Opened here: it stays in the host's namespace.
    let mut host = Socket::open(Family::Route)?;
    // What a container sends by it is for the bridge; should that be removed, the host is still nobody's to lead.
    let result = on_new_thread(|| make(wanted, &mut host)).and_then(|()| crate::bridge::deafen(wanted.veth));
    if result.is_err() {
        // The first failure is the one to tell; what cannot be removed is found by the next reconciliation.
        let _told = route::remove_link(&mut host, wanted.veth);
        let _told = remove(wanted.path);
    }
    result
}

fn make(wanted: &Wanted<'_>, host: &mut Socket) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Kernel {
        what: "make a network namespace".into(),
        source: errno.into(),
    })?;
    pin(wanted.path)?;
    let has_ipv6 = wanted.addresses.iter().any(|(address, ..)| address.is_ipv6());
    set_defaults(has_ipv6)?;
    let own = fs::File::open(OWN).map_err(NetworkError::file("open", OWN))?;
    let veth = Veth {
        name: wanted.veth,
        bridge: wanted.bridge,
        peer: INTERFACE,
        mac: wanted.mac,
        namespace: own.as_fd(),
        mtu: wanted.mtu,
    };
    route::add_veth(host, &veth)?;
    let find = |socket: &mut Socket, name: &str| {
        route::link_index(socket, name)?.ok_or_else(|| NetworkError::Kernel {
            what: format!("find the interface {name}"),
            source: io::ErrorKind::NotFound.into(),
        })
    };
    let port = find(host, wanted.veth)?;
    route::set_hairpin(host, wanted.veth, port)?;
    let mut inside = Socket::open(Family::Route)?;
    let loopback = find(&mut inside, "lo")?;
    route::set_up(&mut inside, "lo", loopback)?;
    let index = find(&mut inside, INTERFACE)?;
    for (address, prefix, _) in wanted.addresses {
        route::add_address(&mut inside, index, *address, *prefix)?;
    }
    route::set_up(&mut inside, INTERFACE, index)?;
    for (.., gateway) in wanted.addresses {
        route::add_default_route(&mut inside, *gateway, index)?;
    }
    Ok(())
}

fn pin(path: &Path) -> Result<()> {
    remove(path)?;
    fs::File::create(path).map_err(NetworkError::file("create", path))?;
    rustix::mount::mount_bind(OWN, path)
        .map_err(io::Error::from)
        .map_err(NetworkError::file("bind the network namespace on", path))
}

/// What interfaces of the calling thread's namespace shall begin with.
fn set_defaults(has_ipv6: bool) -> Result<()> {
    let mut values = Vec::new();
    if has_ipv6 {
        values.extend([
            // A container on the same bridge must not become the router of the others; `bridge` is where the host's own part is done.
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/autoconf", "0"),
            // What the host has for new interfaces may be inherited (net.core.devconf_inherit_init_net).
            ("ipv6/conf/default/disable_ipv6", "0"),
            // Addresses come from one pool: nobody else has them, and nobody waits a second to find that out.
            ("ipv6/conf/default/accept_dad", "0"),
        ]);
    } else if has_kernel_ipv6() {
        values.push(("ipv6/conf/default/disable_ipv6", "1"));
    }
    for (name, value) in values {
        write_sysctl(name, value)?;
    }
    Ok(())
}

/// Whether interfaces that are made on this host have IPv6.
pub(crate) fn has_ipv6_by_default() -> bool {
    ["all", "default"]
        .iter()
        .all(|which| read_sysctl(&format!("ipv6/conf/{which}/disable_ipv6")).as_deref() == Some("0"))
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_kernel_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

/// Sets a value below `/proc/sys/net`, in the calling thread's namespace.
pub(crate) fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(NetworkError::file("write", &path))
}

/// Reads a value below `/proc/sys/net`; `None`: there is none.
pub(crate) fn read_sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// Takes a pinned namespace away; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not there, or no mount point.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(NetworkError::file("unmount", path)(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a network namespace is pinned there.
pub(crate) fn is_pinned(path: &Path) -> bool {
    // `linux/magic.h`: only files of namespaces are on this file system.
    const NSFS: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == NSFS))
}

/// Does work in the namespace that is pinned there.
pub(crate) fn within<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = fs::File::open(path).map_err(NetworkError::file("open", path))?;
    on_new_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Kernel {
            what: format!("enter the network namespace {}", path.display()),
            source: errno.into(),
        })?;
        work()
    })
}

/// Runs work on a thread that ends with it.
fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|source| NetworkError::Kernel {
                what: "start a thread".into(),
                source,
            })?;
        thread.join().unwrap_or(Err(NetworkError::Interrupted))
    })
}
