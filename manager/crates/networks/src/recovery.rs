//! After a start of the daemon: what an earlier one connected is found, repaired where its container lives, and taken back where it does not.
//!
//! ```text
//!   inherit: records ──┬── readable ─────────────▶ table, unverified
//!                      └── unreadable ── rebuild ─▶ table, unverified; or only its name is known
//!   traces ── (the engine says which of them live, or may) ──▶ recover: observe ─▶ plan (pure) ─▶ execute
//! ```
//!
//! Requests are served meanwhile. Whoever takes a container out of `unverified` first decides about it: recovery, which takes back, or
//! [`Networks::attach`], whose caller knows better. Nothing is taken from a container that lives, or may.

use std::collections::{BTreeMap, BTreeSet};

use croze_model::ContainerId;

use crate::error::NetworkError;
use crate::netlink::route;
use crate::netlink::{Family, Socket};
use crate::plan::{self, Action, Observed};
use crate::records::{Endpoint, ProcessMark};
use crate::service::{Networks, Result};
use crate::{namespace, proxy, rebuild};

/// What an earlier daemon left, until somebody has looked at it.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Connected containers.
    unverified: BTreeSet<ContainerId>,
    /// Records of earlier boots.
    past: Vec<Endpoint>,
    /// Records that cannot be read, of connections that cannot be told from anything else either.
    unreadable: BTreeSet<ContainerId>,
}

impl Inherited {
    /// Takes a container out of those that recovery decides about; false: somebody else has.
    pub(crate) fn claim(&mut self, id: &ContainerId) -> bool {
        self.unverified.remove(id)
    }
}

impl Networks {
    /// Takes over what records say, and what the kernel says where they cannot be read.
    pub(crate) fn inherit(&self) -> Result<()> {
        let listing = self.inner.endpoints.survey()?;
        let (now, past): (Vec<_>, Vec<_>) = listing
            .records
            .into_iter()
            .partition(|endpoint| endpoint.boot_id == self.inner.boot_id);
        let mut found: BTreeMap<_, _> = now
            .into_iter()
            .map(|endpoint| (endpoint.container.clone(), endpoint))
            .collect();
        let mut unreadable = BTreeSet::new();
        for file in listing.unreadable {
            let name = file.path.file_name().map(|name| name.to_string_lossy());
            let id = name.and_then(|name| name.split('.').next()?.parse::<ContainerId>().ok());
            let Some(id) = id.filter(|id| !found.contains_key(id)) else {
                continue;
            };
            match self.rebuild(&id) {
                Ok(Some(endpoint)) => {
                    tracing::warn!(container = id.short(), reason = file.reason, address = %endpoint.ipv4.address,
                        "the record of its network cannot be read; what the kernel has of it is taken instead");
                    found.insert(id, endpoint);
                }
                Ok(None) => drop(unreadable.insert(id)),
                Err(error) => {
                    tracing::error!(container = id.short(), %error, "the record of its network cannot be read, nor what the kernel has of it");
                    unreadable.insert(id);
                }
            }
        }
        let mut state = self.state();
        state.inherited = Inherited {
            unverified: found.keys().cloned().collect(),
            past,
            unreadable,
        };
        self.table_mut().endpoints = found;
        Ok(())
    }

    fn rebuild(&self, id: &ContainerId) -> Result<Option<Endpoint>> {
        let namespace = self.namespace_path(id.as_str());
        let Some(found) = rebuild::observe(&namespace)? else {
            return Ok(None);
        };
        let bridge = self
            .host_record()?
            .map_or_else(|| self.inner.settings.bridge.name.clone(), |host| host.bridge);
        rebuild::endpoint(id, &self.inner.boot_id, namespace, &bridge, &found)
    }

    /// Containers that an earlier daemon has connected, or may have: whether they live is what [`Networks::recover`] has to know.
    #[must_use]
    pub fn traces(&self) -> BTreeSet<ContainerId> {
        let state = self.state();
        let pinned = self.pinned().unwrap_or_default();
        let pinned = pinned.iter().filter_map(|name| name.parse().ok());
        state
            .inherited
            .unverified
            .iter()
            .chain(&state.inherited.unreadable)
            .cloned()
            .chain(pinned)
            .collect()
    }

    /// Repairs the connections of what lives, and takes back those of what does not; to be called once, when it is known which of the
    /// [`Networks::traces`] live, or may live: of those the process is `None`, and nothing is taken from them. What fails of one container
    /// is logged.
    ///
    /// # Errors
    /// If interfaces cannot be listed.
    pub fn recover(&self, live: BTreeMap<ContainerId, Option<ProcessMark>>) -> Result<()> {
        let observed = self.observe(live)?;
        let actions = plan::plan(&observed);
        // Those that are gone first, so that nothing of theirs is written into the rules.
        for action in &actions {
            if let Action::Release(id) = action
                && self.state().inherited.claim(id)
            {
                tracing::info!(
                    container = id.short(),
                    "its network is taken back: it ended meanwhile"
                );
                self.release(id);
            }
        }
        let keeps = actions.iter().any(|action| matches!(action, Action::Keep(_)));
        let up = if keeps {
            self.bring_up(&mut self.state())
        } else {
            Ok(())
        };
        if let Err(error) = &up {
            tracing::error!(%error, "the network of running containers cannot be repaired");
        }
        for action in actions {
            self.execute(&action, &observed);
        }
        self.take_down_unused();
        Ok(())
    }

    fn observe(&self, live: BTreeMap<ContainerId, Option<ProcessMark>>) -> Result<Observed> {
        // What was connected since this daemon was opened is no leftover, whatever is known of its container.
        let (mut endpoints, unreadable, new_names) = {
            let mut state = self.state();
            let inherited = &mut state.inherited;
            let (old, new): (Vec<Endpoint>, Vec<Endpoint>) = self
                .connected()
                .into_iter()
                .partition(|endpoint| inherited.unverified.contains(&endpoint.container));
            let new_names: BTreeSet<String> = new
                .into_iter()
                .flat_map(|endpoint| [endpoint.interface, endpoint.container.to_string()])
                .collect();
            (old, std::mem::take(&mut inherited.unreadable), new_names)
        };
        endpoints.append(&mut self.state().inherited.past);
        let links = Socket::open(Family::Route).and_then(|mut socket| route::links(&mut socket))?;
        // Ports of a bridge that is another's are no leftovers of ours, whatever their names.
        let bridge = links
            .iter()
            .find(|link| link.name == self.inner.settings.bridge.name && self.inner.mark.is_on(link))
            .map(|link| link.index);
        Ok(Observed {
            boot_id: self.inner.boot_id.clone(),
            proxies: endpoints
                .iter()
                .filter(|endpoint| endpoint.proxy.and_then(proxy::open_process).is_some())
                .map(|endpoint| endpoint.container.clone())
                .collect(),
            endpoints,
            unreadable,
            live,
            namespaces: self.pinned()?.difference(&new_names).cloned().collect(),
            bridge_ports: links
                .iter()
                .filter(|link| bridge.is_some() && link.master == bridge && !new_names.contains(&link.name))
                .map(|link| link.name.clone())
                .collect(),
            interfaces: links.into_iter().map(|link| link.name).collect(),
        })
    }

    fn execute(&self, action: &Action, observed: &Observed) {
        let result = match action {
            Action::Release(_) => Ok(()),
            Action::Keep(id) => {
                self.keep(id, observed);
                Ok(())
            }
            Action::Forget(id) => self.forget_record(id),
            Action::Reconnect(id) => self.reconnect(id),
            Action::ServeAgain(id) => match observed.live.get(id) {
                Some(Some(process)) => self.serve_inherited(id, *process),
                Some(None) | None => Ok(()),
            },
            Action::Unpin(name) => {
                self.unless_connected(name, |networks| namespace::remove(&networks.namespace_path(name)))
            }
            Action::RemoveInterface(name) => self.unless_connected(name, |_| {
                Socket::open(Family::Route).and_then(|mut socket| route::remove_link(&mut socket, name))
            }),
        };
        match (result, action) {
            (Ok(()), Action::Keep(_) | Action::Release(_)) => {}
            (Ok(()), _) => tracing::info!(?action, "network recovered"),
            (Err(error), _) => tracing::error!(?action, %error, "cannot recover the network"),
        }
    }

    fn keep(&self, id: &ContainerId, observed: &Observed) {
        self.state().inherited.claim(id);
        let proxy = self.endpoint(id).and_then(|endpoint| endpoint.proxy);
        if let (true, Some(proxy), Some(Some(container))) =
            (observed.proxies.contains(id), proxy, observed.live.get(id))
        {
            self.look_after_inherited(id, proxy, *container);
        }
    }

    fn forget_record(&self, id: &ContainerId) -> Result<()> {
        let state = self.state();
        if self.endpoint(id).is_some() {
            // Connected anew meanwhile: the record is that connection's.
            return Ok(());
        }
        let removed = self.inner.endpoints.remove(id.as_str());
        drop(state);
        removed.map(drop).map_err(NetworkError::from)
    }

    /// Removes what has this name, unless a container was given it since it was looked at: with the lock that a lease takes.
    fn unless_connected(&self, name: &str, remove: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _state = self.state();
        let is_taken =
            |endpoint: &Endpoint| endpoint.interface == name || endpoint.container.as_str() == name;
        if self.connected().iter().any(is_taken) {
            return Ok(());
        }
        remove(self)
    }
}
