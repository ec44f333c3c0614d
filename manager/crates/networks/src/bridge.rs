//! The bridge itself: whose it is, how it is made, and what it never does.
//!
//! ```text
//!   none ── made under a passing name, down ── marked ── deaf to routers ── named ── addresses ── up
//! ```
//!
//! A bridge of crozed bears a mark, its alias (`ip link` shows it): `croze` and the run root of the daemon that made it. Two daemons share no run
//! root, so the mark says of each bridge whose it is, also when that daemon does not live. One without the mark is somebody else's: it gets no
//! address, no port, no rules, and is never removed.
//!
//! Invariants:
//! - No bridge has the configured name before it has the mark: the kernel takes no alias with the request that makes an interface, so it is made
//!   under a name that nobody else uses.
//! - No interface made here listens to router advertisements. Containers can send them (`CAP_NET_RAW` is theirs by default), and a host that
//!   believed one would send its traffic into the container (CVE-2020-13401).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::Path;

use crate::address::{Mac, Pool, Subnet};
use crate::error::NetworkError;
use crate::namespace::{has_kernel_ipv6, write_sysctl};
use crate::netlink::Socket;
use crate::netlink::route::{self, Link};
use crate::service::Result;

/// The longest alias the kernel keeps, bytes.
const ALIAS_LIMIT: usize = 255;
const MARK: &str = "croze ";

/// What a daemon's bridge is marked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark(String);

impl Mark {
    /// The mark of the daemon with this run root.
    pub(crate) fn of(run_root: &Path) -> Self {
        let path = run_root.to_string_lossy();
        // Ends of paths differ more than beginnings.
        let mut start = path.len().saturating_sub(ALIAS_LIMIT - MARK.len());
        while !path.is_char_boundary(start) {
            start += 1;
        }
        Self(format!("{MARK}{}", &path[start..]))
    }

    /// Whether the interface is a bridge of this daemon.
    pub(crate) fn is_on(&self, link: &Link) -> bool {
        link.kind.as_deref() == Some("bridge") && link.alias.as_ref() == Some(&self.0)
    }

    /// Whether it is a bridge of another daemon.
    pub(crate) fn is_of_another(&self, link: &Link) -> bool {
        link.kind.as_deref() == Some("bridge")
            && link.alias.as_ref().is_some_and(|alias| alias.starts_with(MARK))
            && !self.is_on(link)
    }

    /// The name of a bridge that is being made: always the same, so that what a killed daemon left is found.
    fn passing_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("czb{:011x}", hasher.finish() & 0xfff_ffff_ffff)
    }
}

/// The bridge of this name, if it is there.
///
/// # Errors
/// [`NetworkError::NotABridge`], [`NetworkError::ForeignBridge`] if the name is taken.
pub(crate) fn find(socket: &mut Socket, name: &str, mark: &Mark) -> Result<Option<Link>> {
    let Some(link) = route::link(socket, name)? else {
        return Ok(None);
    };
    if mark.is_on(&link) {
        return Ok(Some(link));
    }
    Err(if link.kind.as_deref() != Some("bridge") {
        NetworkError::NotABridge { name: name.into() }
    } else {
        NetworkError::ForeignBridge {
            name: name.into(),
            other: link
                .alias
                .and_then(|alias| alias.strip_prefix(MARK).map(Into::into)),
        }
    })
}

/// Sees to it that the bridge is there, with these addresses; gives its number.
pub(crate) fn ensure(
    socket: &mut Socket,
    name: &str,
    mark: &Mark,
    mtu: u32,
    subnets: &[Subnet],
) -> Result<u32> {
    let gateways: Vec<(IpAddr, u8)> = subnets
        .iter()
        .map(|subnet| (Pool::new(*subnet).gateway(), subnet.prefix()))
        .collect();
    let index = match find(socket, name, mark)? {
        Some(link) => link.index,
        None => {
            let mac = gateways.iter().find_map(|(address, _)| match address {
                IpAddr::V4(address) => Some(Mac::of(*address)),
                IpAddr::V6(_) => None,
            });
            make(socket, name, mark, mac.unwrap_or(Mac([2; 6])), mtu)?
        }
    };
    deafen(name)?;
    if subnets.iter().any(|subnet| subnet.address().is_ipv6()) {
        // IPv6 was asked for by its subnet: the host's default for new interfaces does not decide.
        write_sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
    }
    for (address, prefix) in gateways {
        route::add_address(socket, index, address, prefix)?;
    }
    route::set_up(socket, name, index)?;
    Ok(index)
}

fn make(socket: &mut Socket, name: &str, mark: &Mark, mac: Mac, mtu: u32) -> Result<u32> {
    let passing = mark.passing_name();
    route::remove_link(socket, &passing)?;
    route::add_bridge(socket, &passing, mac, mtu)?;
    let made = name_it(socket, &passing, name, mark);
    if made.is_err() {
        // The first failure is the one to tell; what stays is removed by the next that makes a bridge.
        let _told = route::remove_link(socket, &passing);
        // Somebody else may have taken the name meanwhile: that says more than the kernel's words.
        find(socket, name, mark)?;
    }
    made
}

fn name_it(socket: &mut Socket, passing: &str, name: &str, mark: &Mark) -> Result<u32> {
    let link = route::link(socket, passing)?.ok_or(NetworkError::Interrupted)?;
    route::set_alias(socket, passing, link.index, &mark.0)?;
    deafen(passing)?;
    route::rename(socket, passing, link.index, name)?;
    Ok(link.index)
}

/// Has the host believe nothing that arrives by this interface about routers; whether or not it forwards.
pub(crate) fn deafen(interface: &str) -> Result<()> {
    if !has_kernel_ipv6() {
        return Ok(());
    }
    for setting in ["accept_ra", "accept_redirects", "autoconf"] {
        match write_sysctl(&format!("ipv6/conf/{interface}/{setting}"), "0") {
            // The kernel gives no IPv6 to an interface whose packets are too small for it.
            Err(error) if error.is_not_found() => {}
            result => result?,
        }
    }
    Ok(())
}

/// Removes the bridge of this name, if it is this daemon's.
pub(crate) fn remove(socket: &mut Socket, name: &str, mark: &Mark) -> Result<()> {
    match route::link(socket, name)? {
        Some(link) if mark.is_on(&link) => route::remove_link(socket, name),
        Some(_) => {
            tracing::warn!(
                bridge = name,
                "an interface of the bridge's name is somebody else's: it stays"
            );
            Ok(())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_one_run_root_and_fits_into_an_alias() {
        let long = |end: &str| Mark::of(Path::new(&format!("/{}/{end}", "ö".repeat(200))));
        let (one, other) = (long("one"), long("other"));
        assert!(one.0.len() <= ALIAS_LIMIT && one.0.starts_with(MARK));
        assert_ne!(one, other);
        let short = Mark::of(Path::new("/run/croze"));
        assert_eq!(short.0, "croze /run/croze");
        assert_ne!(one.passing_name(), other.passing_name());
        assert!(short.passing_name().len() <= 15);
    }

    #[test]
    fn only_a_marked_bridge_is_its_daemons() {
        let mark = Mark::of(Path::new("/run/croze"));
        let link = |kind: &str, alias: Option<&str>| Link {
            index: 7,
            name: "croze0".into(),
            kind: Some(kind.into()),
            master: None,
            alias: alias.map(Into::into),
            mac: None,
        };
        for (kind, alias, own, others) in [
            ("bridge", Some("croze /run/croze"), true, false),
            ("veth", Some("croze /run/croze"), false, false),
            ("bridge", Some("croze /run/other"), false, true),
            ("bridge", Some("my own"), false, false),
            ("bridge", None, false, false),
        ] {
            let link = link(kind, alias);
            assert_eq!(
                (mark.is_on(&link), mark.is_of_another(&link)),
                (own, others),
                "{link:?}"
            );
        }
    }
}
