//! The containers in memory, and how they change: on disk first, then here, then for those who wait.
//!
//! What is in memory is a copy of the records. Changes of one container are made one after the other (its `changing` lock), those of different ones
//! side by side. Everything here blocks on the disk.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use croze_model::{ContainerId, ContainerName, nearest};
use croze_store::{Durable, NameTaken, Names, Records, Store, Unreadable};
use tokio::sync::{broadcast, watch};

use crate::error::ContainersError;
use crate::observe;
use crate::record::{Container, State};
use crate::request::{CreateRequest, ImageFacts};
use crate::service::{Result, now};
use crate::spec;
use crate::types::{Created, Event, Settings};

/// The file name of a record, beside everything else of its container.
const RECORD_FILE: &str = "container.json";

/// Everything that the handles of one root share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    records: Records<Container>,
    names: Names,
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
    /// Names of containers whose records are being written. Locked within `entries`; both together say who has a name, and the index, which may be
    /// filled anew from the records at any moment, only says it faster after a start.
    pending: Mutex<HashMap<ContainerName, ContainerId>>,
    pub(crate) events: broadcast::Sender<Event>,
}

/// A container in memory.
#[derive(Debug)]
struct Entry {
    container: Container,
    /// The state alone, for those who wait for it; closed when the container is removed.
    state: watch::Sender<State>,
    changing: Arc<Mutex<()>>,
    /// Held from before a start is asked for until it is recorded, so that the end of a short-lived one is recorded after it.
    starting: Arc<tokio::sync::Mutex<()>>,
    /// Which run this is: one more with every preparation. What is seen of an earlier one changes nothing.
    run: u64,
    /// Set when the start of a run failed after the shim was there: the exit code that tells so.
    failed_start: Option<(u64, u32)>,
    /// Someone watches for the end of this run.
    watched: Option<u64>,
    /// The end of this run was told.
    ended: Option<u64>,
    /// What is in memory could not be stored.
    unsaved: bool,
}

impl Entry {
    fn new(container: Container) -> Self {
        let (state, _) = watch::channel(container.state.clone());
        Self {
            container,
            state,
            changing: Arc::default(),
            starting: Arc::default(),
            run: 0,
            failed_start: None,
            watched: None,
            ended: None,
            unsaved: false,
        }
    }
}

impl Inner {
    /// Opens the records and sweeps what removals left that a crash cut short.
    pub(crate) fn open(store: &Store, settings: Settings) -> Result<Self> {
        for dir in [&settings.state_dir, &settings.run_dir, &settings.runtime_root] {
            croze_store::create_private_dir(dir)?;
        }
        let records: Records<Container> = Records::nested(&settings.state_dir, RECORD_FILE);
        let listed = records.survey()?;
        sweep_unrecorded(&settings.state_dir);
        sweep_bundles(&settings);
        let source = records.clone();
        let names = Names::open(store.index(), "container-names", move || {
            let all = source.list()?;
            Ok(all
                .into_iter()
                .map(|c| (c.name.to_string(), c.id.to_string()))
                .collect())
        })?;
        let is_held = |name: &str, holder: &str| {
            listed
                .records
                .iter()
                .any(|c| c.name.as_str() == name && c.id.as_str() == holder)
        };
        if let Err(error) = names.retain(is_held) {
            tracing::warn!(%error, "names of containers whose records are lost may stay taken");
        }
        let recorded = one_name_each(listed.records);
        let lost: Vec<Container> = listed
            .unreadable
            .iter()
            .filter_map(|record| lost_container(&settings, record))
            .collect();
        let entries = recorded
            .into_iter()
            .chain(lost)
            .map(|c| (c.id.clone(), Entry::new(c)))
            .collect();
        let (events, _) = broadcast::channel(1024);
        Ok(Self {
            settings,
            records,
            names,
            entries: Mutex::new(entries),
            pending: Mutex::default(),
            events,
        })
    }

    /// Takes a name for a container whose record is about to be written.
    fn take_name(&self, name: &ContainerName, id: &ContainerId) -> Result<PendingName<'_>> {
        let entries = self.entries();
        let mut pending = self.pending();
        let holder = entries
            .values()
            .map(|entry| (&entry.container.name, &entry.container.id))
            .chain(pending.iter())
            .find(|(taken, holder)| *taken == name && *holder != id);
        if let Some((_, holder)) = holder {
            return Err(NameTaken {
                name: name.to_string(),
                holder: holder.to_string(),
            }
            .into());
        }
        pending.insert(name.clone(), id.clone());
        Ok(PendingName {
            of: self,
            name: name.clone(),
        })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<ContainerName, ContainerId>> {
        // Nothing panics while it is held.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        // Nothing panics while it is held, and a half-made change of a map entry does not exist.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of this name, id, or unambiguous beginning of an id.
    pub(crate) fn resolve(&self, text: &str) -> Result<ContainerId> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let entries = self.entries();
        let exact = entries
            .values()
            .find(|e| e.container.name.as_str() == name || e.container.id.as_str() == name);
        if let Some(entry) = exact {
            return Ok(entry.container.id.clone());
        }
        let mut matching = entries
            .values()
            .map(|entry| &entry.container)
            .filter(|container| !name.is_empty() && container.id.as_str().starts_with(name));
        let first = matching.next().ok_or_else(|| ContainersError::NotFound {
            name: text.into(),
            near: nearest(name, entries.values().map(|entry| entry.container.name.as_str()))
                .map(str::to_owned),
        })?;
        let shown = |container: &Container| format!("{} ({})", container.id.short(), container.name);
        let others: Vec<String> = matching.map(shown).collect();
        if others.is_empty() {
            return Ok(first.id.clone());
        }
        Err(ContainersError::Ambiguous {
            prefix: text.into(),
            candidates: [vec![shown(first)], others].concat().join(", "),
        })
    }

    /// All records, the newest first.
    pub(crate) fn list(&self) -> Vec<Container> {
        let mut all: Vec<Container> = self.entries().values().map(|e| e.container.clone()).collect();
        all.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        all
    }

    /// One record.
    pub(crate) fn get(&self, id: &ContainerId) -> Result<Container> {
        let entries = self.entries();
        let entry = entries.get(id).ok_or_else(|| ContainersError::gone(id))?;
        Ok(entry.container.clone())
    }

    /// The state of a container as it changes.
    pub(crate) fn state_of(&self, id: &ContainerId) -> Result<watch::Receiver<State>> {
        let entries = self.entries();
        let entry = entries.get(id).ok_or_else(|| ContainersError::gone(id))?;
        Ok(entry.state.subscribe())
    }

    /// Keeps the record of a start before the record of the end that follows it.
    pub(crate) fn starting(&self, id: &ContainerId) -> Result<Arc<tokio::sync::Mutex<()>>> {
        let entries = self.entries();
        let entry = entries.get(id).ok_or_else(|| ContainersError::gone(id))?;
        Ok(Arc::clone(&entry.starting))
    }

    /// Begins another run.
    pub(crate) fn begin_run(&self, id: &ContainerId) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.run += 1;
        }
    }

    /// The present run; `None` if the container is gone.
    pub(crate) fn run(&self, id: &ContainerId) -> Option<u64> {
        self.entries().get(id).map(|entry| entry.run)
    }

    /// Notes that the start of the present run failed although the shim was there: the end that it will report has this code. `None`: it did not
    /// fail after all.
    pub(crate) fn note_failed_start(&self, id: &ContainerId, code: Option<u32>) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.failed_start = code.map(|code| (entry.run, code));
        }
    }

    /// Marks the present run as watched and returns it; `None` if it was already.
    pub(crate) fn begin_watch(&self, id: &ContainerId) -> Option<u64> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id)?;
        let run = entry.run;
        (entry.watched.replace(run) != Some(run)).then_some(run)
    }

    /// Ends the watch of a run; returns the exit code if its start failed.
    pub(crate) fn end_watch(&self, id: &ContainerId, run: u64) -> Option<u32> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id)?;
        entry.watched.take_if(|watched| *watched == run);
        let failed = entry.failed_start.take_if(|(of, _)| *of == run);
        failed.map(|(_, code)| code)
    }

    /// Notes that the end of a run is told; false if it was told before.
    pub(crate) fn first_end(&self, id: &ContainerId, run: u64) -> bool {
        let mut entries = self.entries();
        let entry = entries.get_mut(id);
        entry.is_some_and(|entry| entry.ended.replace(run) != Some(run))
    }

    /// See [`crate::Containers::create`].
    pub(crate) fn create(
        &self,
        id: ContainerId,
        request: CreateRequest,
        image: ImageFacts,
    ) -> Result<Created> {
        let name = match &request.name {
            Some(name) => name.clone(),
            None => fallback_name(&id)?,
        };
        let container = Container {
            id: id.clone(),
            name: name.clone(),
            created_at: now(),
            request,
            image,
            state: State::Created,
            started_at: None,
            error: None,
        };
        let warnings = spec::validate(&container, &spec::host::HostFacts::observe())?;
        crate::bundle::check_sources(&container)?;
        let options = &container.request.options;
        self.settings.runtimes.find(options.runtime.as_deref())?;
        if options.init && self.settings.init.is_none() {
            return Err(spec::SpecError::NoInit.into());
        }
        // Until its entry is there, which then has the name.
        let _name = self.take_name(&name, &id)?;
        self.names.reserve(name.as_str(), id.as_str())??;
        if let Err(error) = self.records.save_when(&container, container.request.durable()) {
            self.take_back_record(&container);
            self.release_name(&container);
            return Err(error.into());
        }
        self.entries().insert(id.clone(), Entry::new(container));
        Ok(Created { id, name, warnings })
    }

    /// Changes one record: on disk, then in memory, then for those who wait.
    pub(crate) fn change(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container) -> Result<()>,
    ) -> Result<()> {
        let changing = self.changing(id)?;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut container = self.get(id)?;
        change(&mut container)?;
        self.records.save_when(&container, container.request.durable())?;
        self.replace(container, false);
        Ok(())
    }

    /// Makes a change that has happened already: in memory whether it can be stored or not. Returns why it could not; then it is the caller's to try
    /// [`Inner::save_again`].
    pub(crate) fn change_live(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container) -> Result<()>,
    ) -> Result<Option<ContainersError>> {
        let changing = self.changing(id)?;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut container = self.get(id)?;
        change(&mut container)?;
        let ended = matches!(container.state, State::Exited { .. });
        let unsaved = if container.request.auto_remove && ended {
            // It is removed next. If that is cut short, the shim's exit record says the same at the next start.
            None
        } else {
            self.records
                .save_when(&container, container.request.durable())
                .err()
        };
        self.replace(container, unsaved.is_some());
        Ok(unsaved.map(ContainersError::from))
    }

    /// Stores what could not be stored before, if nobody has meanwhile.
    pub(crate) fn save_again(&self, id: &ContainerId) -> Result<()> {
        let changing = self.changing(id)?;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let container = self.get(id)?;
        if self.entries().get(id).is_some_and(|e| e.unsaved) {
            self.records.save(&container)?;
            self.replace(container, false);
        }
        Ok(())
    }

    fn changing(&self, id: &ContainerId) -> Result<Arc<Mutex<()>>> {
        let entries = self.entries();
        let entry = entries.get(id).ok_or_else(|| ContainersError::gone(id))?;
        Ok(Arc::clone(&entry.changing))
    }

    fn replace(&self, container: Container, unsaved: bool) {
        if let Some(entry) = self.entries().get_mut(&container.id) {
            entry.unsaved = unsaved;
            entry.state.send_replace(container.state.clone());
            entry.container = container;
        }
    }

    /// The record goes first, as durably as it was written (see [`CreateRequest::durable`]): what is left after a crash then belongs to nobody
    /// and is swept.
    pub(crate) fn remove_files(&self, container: &Container) -> Result<()> {
        let changing = self.entries().get(&container.id).map(|e| Arc::clone(&e.changing));
        let _one_at_a_time = changing
            .as_ref()
            .map(|c| c.lock().unwrap_or_else(PoisonError::into_inner));
        self.records
            .remove_when(container.id.as_str(), container.request.durable())?;
        // Before the lock is given back: a change that waits for it must not write the record again.
        self.entries().remove(&container.id);
        self.release_name(container);
        for dir in [
            self.settings.container_dir(&container.id),
            self.settings.bundle_path(&container.id),
        ] {
            // The container is gone; what is left of its files is swept at the next start.
            if let Err(error) = remove_tree(&dir) {
                tracing::warn!(container = container.id.short(), %error, "a leftover directory stays");
            }
        }
        Ok(())
    }
}

impl Inner {
    /// What was refused must not be there after the next start: the disk may have failed after the record got its name.
    fn take_back_record(&self, container: &Container) {
        if let Err(error) = self.records.remove_when(container.id.as_str(), Durable::Soon) {
            tracing::warn!(container = container.id.short(), %error, "the record of a container that was not made may stay");
        }
    }

    /// Gives a name back. The records say who has it: an index that cannot be written now (a full disk) is filled from them before it is
    /// believed again, so its failure is no reason to fail.
    fn release_name(&self, container: &Container) {
        if let Err(error) = self.names.release(container.name.as_str(), container.id.as_str()) {
            tracing::warn!(container = container.id.short(), %error, "the index does not know yet that a name is free");
        }
    }
}

/// A name that is taken for as long as this lives.
struct PendingName<'a> {
    of: &'a Inner,
    name: ContainerName,
}

impl Drop for PendingName<'_> {
    fn drop(&mut self) {
        self.of.pending().remove(&self.name);
    }
}

/// Two records may claim one name, where an older version of this program freed the names of records that it could not read. The one that was
/// made first keeps it; the other is known by its short id from now on, and loses nothing else.
fn one_name_each(mut records: Vec<Container>) -> Vec<Container> {
    records.sort_by(|a, b| a.created_at.cmp(&b.created_at));
    let mut taken = BTreeMap::new();
    for container in &mut records {
        match taken.insert(container.name.to_string(), container.id.clone()) {
            None => {}
            Some(first) => {
                tracing::error!(
                    container = container.id.short(),
                    name = container.name.as_str(),
                    holder = first.short(),
                    "its name is another container's: it is known by its short id"
                );
                taken.insert(container.name.to_string(), first);
                if let Ok(name) = fallback_name(&container.id) {
                    container.name = name;
                }
            }
        }
    }
    records
}

impl Settings {
    /// Everything durable of one container.
    pub(crate) fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.state_dir.join(id.as_str())
    }

    /// Its bundle, which is also the shim's directory.
    pub(crate) fn bundle_path(&self, id: &ContainerId) -> PathBuf {
        self.run_dir.join(id.as_str())
    }

    pub(crate) fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.container_dir(id).join("container.log")
    }

    pub(crate) fn exit_path(&self, id: &ContainerId) -> PathBuf {
        self.container_dir(id).join("exit.json")
    }
}

pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ContainersError::File {
            call: "remove",
            path: dir.into(),
            source: e,
        }),
        _ => Ok(()),
    }
}

/// Removes directories in which no record is (nor one that was set aside): a removal that a crash cut short.
fn sweep_unrecorded(state_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(state_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let is_container = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.parse::<ContainerId>().is_ok());
        let Ok(files) = std::fs::read_dir(entry.path()) else {
            continue;
        };
        let recorded = files
            .flatten()
            .any(|f| f.file_name().to_string_lossy().starts_with(RECORD_FILE));
        if is_container
            && !recorded
            && let Err(error) = remove_tree(&entry.path())
        {
            tracing::warn!(%error, "a leftover directory stays");
        }
    }
}

/// Removes bundles of containers that are gone: the end of a removal that a crash cut short. One whose shim or process lives is somebody's: of
/// another daemon, or of a root that is not mounted now.
fn sweep_bundles(settings: &Settings) {
    let Ok(entries) = std::fs::read_dir(&settings.run_dir) else {
        return;
    };
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerId>().ok());
    for id in ids.filter(|id| !settings.container_dir(id).exists()) {
        let bundle = settings.bundle_path(&id);
        if observe::is_held(&bundle, &id) {
            tracing::warn!(
                container = id.short(),
                "it runs here and belongs to no container of this root"
            );
        } else if let Err(error) = remove_tree(&bundle) {
            tracing::warn!(%error, "a leftover bundle stays");
        }
    }
}

/// What is known of a container whose record cannot be read: that it is there. Users see it, and decide whether it goes with all it wrote.
fn lost_container(settings: &Settings, record: &Unreadable) -> Option<Container> {
    let named = |path: &Path| path.file_name()?.to_str()?.parse::<ContainerId>().ok();
    let id = named(&record.path).or_else(|| named(record.path.parent()?))?;
    // One without any record was half removed, and is swept by now.
    if !settings.container_dir(&id).exists() {
        return None;
    }
    tracing::warn!(
        container = id.as_str(),
        reason = record.reason,
        "its record cannot be read: it can only be removed"
    );
    Some(Container {
        name: fallback_name(&id).ok()?,
        id,
        created_at: String::new(),
        request: CreateRequest::default(),
        image: ImageFacts::default(),
        state: State::Dead {
            reason: format!("its record cannot be read: {}", record.reason),
        },
        started_at: None,
        error: None,
    })
}

fn fallback_name(id: &ContainerId) -> Result<ContainerName> {
    // Twelve hexadecimal digits are always a valid name.
    id.short().parse().map_err(|_| ContainersError::Interrupted)
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
