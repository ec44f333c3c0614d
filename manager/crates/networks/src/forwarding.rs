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
//! A host that forwards is a router for whoever sends it packets. Where it is made one here, the interfaces that it had go on as before: what
//! arrives by one of them is not forwarded to another (the packet filter's chain `closed`). Those that come later are their makers' matter.
//!
//! What was changed is recorded before it is changed. It is changed back only where it still has the value given here, and only if nobody else's
//! packet filter has rules for forwarded packets by then: they may rely on what they found. Both switches set every single interface's own, so those
//! that were on before are turned on again.

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::foreign;
use crate::namespace::{read_sysctl, write_sysctl};
use crate::netlink::Socket;
use crate::netlink::route::{self, Link};

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

/// What was changed, and what it was like before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forwarding {
    /// In this order.
    changes: Vec<Changed>,
    /// Interfaces between which nothing was forwarded before, for IPv4 and for IPv6.
    #[serde(default)]
    closed: Closed,
    #[serde(default)]
    closed6: Closed,
    /// Switches of single interfaces, below `/proc/sys/net`, that were on before.
    #[serde(default)]
    was_on: Vec<String>,
}

/// Interfaces between which nothing is forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Closed {
    /// By which packets arrive.
    pub(crate) from: Vec<String>,
    /// By which they would leave.
    pub(crate) to: Vec<String>,
}

impl Forwarding {
    /// What would have to be changed for a bridge of this name.
    pub(crate) fn plan(socket: &mut Socket, bridge: &str, with_ipv6: bool) -> Result<Self, NetworkError> {
        let mut plan = Self::default();
        let (ipv4, ipv6) = (is_off(IPV4), with_ipv6 && is_off(IPV6));
        if !ipv4 && !ipv6 {
            return Ok(plan);
        }
        let mut links = route::links(socket)?;
        links.retain(|link| link.name != bridge);
        if ipv4 {
            plan.changes.push(Changed::new(IPV4, "0", "1"));
            plan.closed = plan.close("ipv4", &links);
        }
        if ipv6 {
            // Before forwarding, so that there is no moment in which the host is deaf.
            let listening = listening_uplinks(socket, &links)?;
            plan.changes
                .extend(listening.iter().map(|name| Changed::new(name, "1", "2")));
            plan.changes.push(Changed::new(IPV6, "0", "1"));
            plan.closed6 = plan.close("ipv6", &links);
        }
        Ok(plan)
    }

    fn close(&mut self, family: &str, links: &[Link]) -> Closed {
        let switch = |link: &Link| format!("{family}/conf/{}/forwarding", link.name);
        let (on, off): (Vec<_>, Vec<_>) = links
            .iter()
            .filter(|link| link.name != "lo")
            .partition(|link| read_sysctl(&switch(link)).as_deref() == Some("1"));
        self.was_on.extend(on.iter().map(|link| switch(link)));
        Closed {
            from: off.iter().map(|link| link.name.clone()).collect(),
            to: off.iter().chain(&on).map(|link| link.name.clone()).collect(),
        }
    }

    /// This, and what an earlier daemon of this boot has changed and not taken back yet.
    pub(crate) fn after(mut self, before: Self) -> Self {
        let is_new = |change: &Changed| !self.changes.contains(change);
        let changes = before.changes.into_iter().filter(is_new);
        let changes: Vec<_> = changes.chain(self.changes.iter().cloned()).collect();
        self.changes = changes;
        // Who closed them first knew what was there.
        for (now, then) in [
            (&mut self.closed, before.closed),
            (&mut self.closed6, before.closed6),
        ] {
            if now.from.is_empty() {
                *now = then;
            }
        }
        if self.was_on.is_empty() {
            self.was_on = before.was_on;
        }
        self
    }

    /// Interfaces between which the host does not forward although it is a router now.
    pub(crate) fn closed(&self, is_ipv4: bool) -> &Closed {
        if is_ipv4 { &self.closed } else { &self.closed6 }
    }

    /// Makes the changes; the caller has recorded them.
    pub(crate) fn apply(&self) -> Result<(), NetworkError> {
        for change in &self.changes {
            match write_sysctl(&change.name, &change.is) {
                // An interface that went away meanwhile.
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Takes the changes back, the last first, where nobody else has come to rely on them.
    pub(crate) fn restore(&self, own_table: &str) {
        if self.changes.is_empty() {
            return;
        }
        if foreign::routes_for_others(own_table) {
            tracing::info!("forwarding stays on: another packet filter has rules for forwarded packets");
            return;
        }
        for change in self.changes.iter().rev() {
            // One that is gone, or has another value, is somebody else's matter.
            if read_sysctl(&change.name).as_ref() == Some(&change.is) {
                note(write_sysctl(&change.name, &change.was));
            }
        }
        for switch in &self.was_on {
            if is_off(switch) {
                note(write_sysctl(switch, "1"));
            }
        }
    }
}

fn note(result: Result<(), NetworkError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a setting of the host was not restored");
    }
}

fn is_off(switch: &str) -> bool {
    read_sysctl(switch).as_deref() == Some("0")
}

/// The settings of uplinks that listen to router advertisements as long as they do not forward.
fn listening_uplinks(socket: &mut Socket, links: &[Link]) -> Result<Vec<String>, NetworkError> {
    let learned = route::learned_from_routers(socket)?;
    let is_uplink = |link: &&Link| {
        // A device of its own has no kind; one that is a port of a bridge leads nowhere by itself.
        learned.contains(&link.index) || (link.kind.is_none() && link.master.is_none() && link.name != "lo")
    };
    Ok(links
        .iter()
        .filter(is_uplink)
        .map(|link| format!("ipv6/conf/{}/accept_ra", link.name))
        .filter(|name| read_sysctl(name).as_deref() == Some("1"))
        .collect())
}
