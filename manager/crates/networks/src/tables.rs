//! The tables of one network in the kernel: written, looked at, changed, removed.
//!
//! Invariant: every change is one transaction; a packet sees the old rules or the new ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::netlink::filter::{self, Table, TableFamily};
use crate::netlink::{Family, Socket};
use crate::rules::{Change, Mapping, PUBLISHED, PUBLISHED_ANY, Ruleset};
use crate::service::Result;

/// The tables of one network in the kernel.
#[derive(Debug)]
pub(crate) struct Filter {
    socket: Socket,
    rulesets: Vec<Ruleset>,
    mappings: BTreeSet<Mapping>,
    /// The tables as the kernel listed them right after they were written.
    written: Option<Vec<Vec<Vec<u8>>>>,
}

impl Filter {
    /// Nothing is written yet.
    pub(crate) fn open(rulesets: Vec<Ruleset>) -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Family::Filter)?,
            rulesets,
            mappings: BTreeSet::new(),
            written: None,
        })
    }

    /// The port of the socket by which changes are made.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Writes the tables anew, with everything that is published.
    pub(crate) fn write(&mut self) -> Result<()> {
        let messages = self
            .rulesets
            .iter()
            .flat_map(|ruleset| ruleset.replace(&self.of(ruleset, &self.mappings)))
            .collect();
        filter::commit(&mut self.socket, "write the packet filter's rules", messages)?;
        self.written = Some(self.contents()?);
        Ok(())
    }

    /// Whether what is in the kernel is what was written.
    pub(crate) fn is_intact(&mut self) -> Result<bool> {
        let found = Some(self.contents()?);
        if self.written != found {
            return Ok(false);
        }
        for ruleset in &self.rulesets {
            let wanted = self.of(ruleset, &self.mappings);
            for map in [PUBLISHED, PUBLISHED_ANY] {
                let found = ruleset.table().elements_of(&mut self.socket, map)?;
                let mut wanted: Vec<_> = wanted
                    .iter()
                    .filter(|m| m.map() == map)
                    .map(Mapping::element)
                    .collect();
                wanted.sort();
                let sorted = found.map(|mut found| {
                    found.sort();
                    found
                });
                if sorted != Some(wanted) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Lets these ports lead to their containers.
    pub(crate) fn publish(&mut self, mappings: &BTreeSet<Mapping>) -> Result<()> {
        // Who holds the port's socket now is right: another one that had it has ended, and only not been taken back yet.
        let replaced: BTreeSet<Mapping> = self
            .mappings
            .iter()
            .filter(|old| mappings.iter().any(|new| new.is_same_port(old)))
            .copied()
            .collect();
        self.withdraw(&replaced)?;
        self.mappings.extend(mappings);
        self.change(mappings, Change::Add)
    }

    /// Takes these ports back; those that are not there are no error.
    pub(crate) fn withdraw(&mut self, mappings: &BTreeSet<Mapping>) -> Result<()> {
        // The kernel knows elements by their ports alone: one that leads to somebody else by now is not to be touched.
        let present: BTreeSet<Mapping> = self.mappings.intersection(mappings).copied().collect();
        self.mappings.retain(|mapping| !present.contains(mapping));
        self.change(&present, Change::Remove)
    }

    /// Sets what is published without writing it: [`Filter::write`] follows.
    pub(crate) fn expect(&mut self, mappings: BTreeSet<Mapping>) {
        self.mappings = mappings;
    }

    fn change(&mut self, mappings: &BTreeSet<Mapping>, change: Change) -> Result<()> {
        if mappings.is_empty() {
            return Ok(());
        }
        let messages = self
            .rulesets
            .iter()
            .flat_map(|ruleset| ruleset.elements(&self.of(ruleset, mappings), change))
            .collect();
        match filter::commit(&mut self.socket, "change the published ports", messages) {
            // Somebody changed the tables: written anew they are right, whatever they were.
            Err(error) if error.is_not_found() || error.exists() => self.write(),
            result => result,
        }
    }

    /// Removes the tables.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.written = None;
        let messages = self
            .rulesets
            .iter()
            .flat_map(|ruleset| [ruleset.table().add(), ruleset.table().remove()])
            .collect();
        filter::commit(&mut self.socket, "remove the packet filter's rules", messages)
    }

    fn of(&self, ruleset: &Ruleset, mappings: &BTreeSet<Mapping>) -> BTreeSet<Mapping> {
        let is_v4 = ruleset.subnet.address().is_ipv4();
        mappings
            .iter()
            .filter(|mapping| mapping.target.is_ipv4() == is_v4)
            .copied()
            .collect()
    }

    fn contents(&mut self) -> Result<Vec<Vec<Vec<u8>>>> {
        self.rulesets
            .iter()
            .map(|ruleset| ruleset.table().contents(&mut self.socket))
            .collect()
    }
}

/// What is published to a container's address, read from the kernel; loopback addresses are not in there.
pub(crate) fn published_to(socket: &mut Socket, bridge: &str, target: IpAddr) -> Result<Vec<Mapping>> {
    let family = if target.is_ipv4() {
        TableFamily::V4
    } else {
        TableFamily::V6
    };
    let table = Table { family, name: bridge };
    let mut found = Vec::new();
    for map in [PUBLISHED, PUBLISHED_ANY] {
        let elements = table.elements_of(socket, map)?.unwrap_or_default();
        found.extend(
            elements
                .iter()
                .filter_map(|element| Mapping::parse(map, element, target)),
        );
    }
    Ok(found)
}
