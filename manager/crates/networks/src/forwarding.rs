//! The host's part in forwarding packets: what has to be turned on for a bridge network, and is turned off again with it.
//!
//! | what | why | restored |
//! |---|---|---|
//! | `net.ipv4.ip_forward` | the host routes for its containers | yes |
//! | `net.ipv6.conf.all.forwarding` | the same for IPv6 | yes |
//! | `net.ipv6.conf.<uplink>.accept_ra` 1 → 2 | an interface that forwards ignores router advertisements: a host that lives by them would lose its own way out | yes |
//!
//! Uplinks are the host's own devices, and what it has learned a route by from a router. Everything else stays as it is, above all `default`:
//! interfaces that come later inherit that, and containers are behind some of them.
//!
//! What was changed is recorded before it is changed. It is changed back only where it still has the value given here, and only if nobody else's
//! packet filter has rules for forwarded packets by then: they may rely on what they found.

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::foreign;
use crate::namespace::{read_sysctl, write_sysctl};
use crate::netlink::Socket;
use crate::netlink::route;

const IPV4: &str = "ipv4/ip_forward";
const IPV6: &str = "ipv6/conf/all/forwarding";

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// Below `/proc/sys/net`.
    name: String,
    was: String,
    is: String,
}

impl Changed {
    fn new(name: impl Into<String>, was: &str, is: &str) -> Self {
        Self {
            name: name.into(),
            was: was.into(),
            is: is.into(),
        }
    }
}

/// What would have to be changed.
pub(crate) fn plan(socket: &mut Socket, with_ipv6: bool) -> Result<Vec<Changed>, NetworkError> {
    let mut changes = Vec::new();
    if read_sysctl(IPV4).is_some_and(|value| value == "0") {
        changes.push(Changed::new(IPV4, "0", "1"));
    }
    if with_ipv6 && read_sysctl(IPV6).is_some_and(|value| value == "0") {
        // Before forwarding, so that there is no moment in which the host is deaf.
        changes.extend(
            listening_uplinks(socket)?
                .iter()
                .map(|interface| Changed::new(accept_ra(interface), "1", "2")),
        );
        changes.push(Changed::new(IPV6, "0", "1"));
    }
    Ok(changes)
}

fn accept_ra(interface: &str) -> String {
    format!("ipv6/conf/{interface}/accept_ra")
}

/// Uplinks that listen to router advertisements as long as they do not forward.
fn listening_uplinks(socket: &mut Socket) -> Result<Vec<String>, NetworkError> {
    let learned = route::learned_from_routers(socket)?;
    let is_uplink = |link: &route::Link| {
        // A device of its own has no kind; one that is a port of a bridge leads nowhere by itself.
        learned.contains(&link.index) || (link.kind.is_none() && link.master.is_none() && link.name != "lo")
    };
    let links = route::links(socket)?;
    Ok(links
        .into_iter()
        .filter(is_uplink)
        .map(|link| link.name)
        .filter(|name| read_sysctl(&accept_ra(name)).as_deref() == Some("1"))
        .collect())
}

/// Makes the changes; the caller has recorded them.
pub(crate) fn apply(changes: &[Changed]) -> Result<(), NetworkError> {
    for change in changes {
        match write_sysctl(&change.name, &change.is) {
            // An interface that went away meanwhile.
            Err(error) if error.is_not_found() => {}
            result => result?,
        }
    }
    Ok(())
}

/// Takes the changes back, the last first, where nobody else has come to rely on them.
pub(crate) fn restore(changes: &[Changed], own_table: &str) {
    if changes.is_empty() {
        return;
    }
    if foreign::routes_for_others(own_table) {
        tracing::info!("forwarding stays on: another packet filter has rules for forwarded packets");
        return;
    }
    for change in changes.iter().rev() {
        // One that is gone, or has another value, is somebody else's matter.
        if read_sysctl(&change.name).as_ref() == Some(&change.is)
            && let Err(error) = write_sysctl(&change.name, &change.was)
        {
            tracing::warn!(%error, "a setting of the host was not restored");
        }
    }
}
