//! Bringing the store, the mounts and the containers together: after a start of the daemon, and whenever events were missed.
//!
//! ```text
//!   observe: records, snapshots, mounts --> plan (pure) --> execute, a budget of time per item, failures logged
//! ```
//!
//! A power cut or a crash may leave: a snapshot whose container was never recorded or is removed already, a mount of a container that no
//! longer runs, a container that wanted to be removed when it ended, one that was prepared for a client that is gone.
//!
//! Nothing is ever removed that a record names, and a record that cannot be read (damaged, of a newer version, behind an I/O error) may name
//! anything: what the containers' directory has in any form is left to the user. Nothing is unmounted under a shim.
//!
//! One hung item costs the others nothing: they are dealt with side by side, and requests are served after [`SERVE_AFTER`] at the latest,
//! while the rest goes on in the background, each action under its container's lock.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use croze_containers::{Container, Event as ContainerEvent, Remains, State};
use croze_model::{ContainerId, Error, ErrorKind, Result};
use croze_store::Durable;
use futures_util::StreamExt as _;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::engine::{Engine, blocking};

/// So long one item is waited for; what takes longer is logged, and goes on while the others get their turn.
const ITEM_BUDGET: Duration = Duration::from_secs(20);
/// So many items are dealt with at once.
pub(crate) const SIDE_BY_SIDE: usize = 16;
/// Requests are served after so long, even if recovery goes on.
const SERVE_AFTER: Duration = Duration::from_secs(5);

/// What is there.
#[derive(Debug, Default)]
struct Observed {
    containers: Vec<ObservedContainer>,
    /// Ids below the directory of records, whatever is in there.
    traces: BTreeSet<ContainerId>,
    /// Ids of active snapshots.
    snapshots: BTreeSet<ContainerId>,
    /// Ids below the directory of root file systems.
    rootfs: BTreeSet<ContainerId>,
}

#[derive(Debug)]
struct ObservedContainer {
    id: ContainerId,
    life: Life,
    auto_remove: bool,
    /// It was made to be started next by a client that is gone with the former daemon.
    start_follows: bool,
}

/// What recovery has to know of a container's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Never started, and no shim waits to start it.
    Created,
    /// Its shim waits to start it, or does not say: its root file system may be in use.
    Occupied,
    /// Its shim waits to start it, and nobody is left who would.
    Abandoned,
    Running,
    Over,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    /// Unmount, and remove what was written: no record names it.
    Discard(ContainerId),
    /// Unmount: nothing runs on it.
    Unmount(ContainerId),
    /// Take back what was prepared for a client that is gone.
    TakeBack(ContainerId),
    /// Remove the container as it asked for.
    Remove(ContainerId),
    /// A container cannot be started any more: its root file system is lost.
    Report(ContainerId),
    /// There is something of a container, and no record that can be read.
    ReportUnknown(ContainerId),
}

/// Decides what follows from what is there.
fn plan(observed: &Observed) -> Vec<Action> {
    let known: BTreeSet<&ContainerId> = observed
        .containers
        .iter()
        .map(|container| &container.id)
        .collect();
    let mut actions: Vec<Action> = observed
        .snapshots
        .union(&observed.rootfs)
        .filter(|id| !known.contains(id))
        .map(|id| match observed.traces.contains(id) {
            true => Action::ReportUnknown(id.clone()),
            false => Action::Discard(id.clone()),
        })
        .collect();
    for container in &observed.containers {
        let id = container.id.clone();
        match container.life {
            Life::Over if container.auto_remove => actions.push(Action::Remove(id)),
            Life::Created if container.auto_remove && container.start_follows => {
                actions.push(Action::Remove(id));
            }
            Life::Created | Life::Over if observed.rootfs.contains(&id) => actions.push(Action::Unmount(id)),
            Life::Abandoned => actions.push(Action::TakeBack(id)),
            Life::Created | Life::Over | Life::Occupied | Life::Running => {}
        }
        if !observed.snapshots.contains(&container.id) {
            actions.push(Action::Report(container.id.clone()));
        }
    }
    actions
}

impl Engine {
    /// Finds out what still runs, sweeps what was left half made, installs the embedded image, and from here on deals with containers that
    /// end. To be called once, after [`Engine::open`] and before requests are served. What takes long goes on in the background.
    ///
    /// # Errors
    /// Only if the records cannot be listed at all; one bad container is logged and left alone.
    pub async fn recover(&self) -> Result<()> {
        // First, so that the ends that recovery finds are heard.
        let ends = self.containers().events();
        tokio::spawn(watch_ends(self.clone(), ends));
        let engine = self.clone();
        let containers = tokio::spawn(async move { engine.recover_containers().await });
        match tokio::time::timeout(SERVE_AFTER, containers).await {
            Ok(Ok(recovered)) => recovered?,
            // Better served with what is known than not at all, at this start and every other.
            Ok(Err(error)) => {
                tracing::error!(%error, "recovery was interrupted; what it has not come to is left as it is");
            }
            Err(_) => tracing::warn!(
                "recovery takes longer than {} s; it goes on while requests are served",
                SERVE_AFTER.as_secs()
            ),
        }
        match self.settings().hello {
            Some(_) => {
                if let Err(error) = self.install_hello().await {
                    tracing::error!("cannot install croze/hello: {}", error.one_line());
                }
            }
            None => tracing::info!("this build carries no hello program"),
        }
        Ok(())
    }

    async fn recover_containers(&self) -> Result<()> {
        let report = self
            .containers()
            .recover(|id| {
                let engine = self.clone();
                async move { engine.locks().lock(&id).await }
            })
            .await?;
        for (id, reason) in &report.failed {
            tracing::error!(
                container = id.short(),
                reason,
                "a container could not be looked at; it is left as it is"
            );
        }
        tracing::info!(
            running = report.running.len(),
            ended = report.ended.len(),
            failed = report.failed.len(),
            "containers recovered"
        );
        self.recover_network().await;
        self.reconcile().await;
        Ok(())
    }

    /// Observes, plans, executes.
    async fn reconcile(&self) {
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::error!("cannot look for leftovers: {}", error.one_line());
                return;
            }
        };
        let execute = |action: Action| async move {
            let (engine, what) = (self.clone(), action.clone());
            // In a task of its own: what has begun comes to its end under its container's lock, however long that takes, and a panic ends
            // nothing but itself.
            let mut task = tokio::spawn(async move {
                match engine.execute(&what).await {
                    Ok(()) => tracing::info!(action = ?what, "recovered"),
                    Err(error) => tracing::error!(action = ?what, "cannot recover: {}", error.one_line()),
                }
            });
            match tokio::time::timeout(ITEM_BUDGET, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(?action, %error, "cannot recover: it was interrupted"),
                Err(_) => tracing::warn!(
                    ?action,
                    "takes longer than {} s; it goes on in the background",
                    ITEM_BUDGET.as_secs()
                ),
            }
        };
        futures_util::stream::iter(plan(&observed))
            .for_each_concurrent(SIDE_BY_SIDE, execute)
            .await;
    }

    async fn observe(&self) -> Result<Observed> {
        let containers = futures_util::stream::iter(self.containers().list())
            .map(|container| async move { self.observe_container(&container).await })
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        let (snapshots, rootfs, records) = (self.snapshots().clone(), self.rootfs_dir(), self.records_dir());
        blocking(move || {
            let snapshots = snapshots
                .list()?
                .iter()
                .filter_map(|snapshot| snapshot.id.parse().ok())
                .collect();
            Ok(Observed {
                containers,
                traces: ids_below(&records)?,
                snapshots,
                rootfs: ids_below(&rootfs)?,
            })
        })
        .await
    }

    async fn observe_container(&self, container: &Container) -> ObservedContainer {
        let life = if container.state.is_running() {
            Life::Running
        } else {
            // One that has ended may have been prepared again.
            let remains = tokio::time::timeout(ITEM_BUDGET, self.containers().remains(&container.id)).await;
            match (remains, &container.state) {
                _ if self.waiting().any(&container.id) => Life::Occupied,
                (Ok(Ok(Remains::Nothing)), State::Created) => Life::Created,
                (Ok(Ok(Remains::Nothing)), _) => Life::Over,
                // Its record may be unreadable, and who knows what it waits for.
                (_, State::Dead { .. }) => Life::Occupied,
                (Ok(Ok(Remains::Prepared)), _) => Life::Abandoned,
                // In doubt nothing is unmounted.
                _ => Life::Occupied,
            }
        };
        ObservedContainer {
            id: container.id.clone(),
            life,
            auto_remove: container.request.auto_remove,
            start_follows: container.request.start_follows,
        }
    }

    /// Whether something may still use what a container has that does not run by its record.
    pub(crate) async fn may_be_in_use(&self, container: &Container) -> bool {
        match self.observe_container(container).await.life {
            Life::Running | Life::Occupied | Life::Abandoned => true,
            Life::Created | Life::Over => false,
        }
    }

    async fn execute(&self, action: &Action) -> Result<()> {
        match action {
            Action::Discard(id) => {
                let _lock = self.locks().lock(id).await;
                // A create may have come to its end since the plan was made.
                if self.containers().get(id).is_ok() || self.has_traces(id) {
                    Ok(())
                } else {
                    self.discard_rootfs(id, Durable::Now).await
                }
            }
            Action::Unmount(id) | Action::TakeBack(id) | Action::Remove(id) => {
                let _lock = self.locks().lock(id).await;
                self.settle(id).await;
                Ok(())
            }
            Action::Report(id) => {
                tracing::error!(
                    container = id.short(),
                    "the root file system is lost; the container can only be removed"
                );
                Ok(())
            }
            Action::ReportUnknown(id) => {
                tracing::error!(
                    container = id.short(),
                    "its record cannot be read; what it has written is kept"
                );
                Ok(())
            }
        }
    }
}

impl Engine {
    /// Whether anything is there of a container's records, readable or not.
    pub(crate) fn has_traces(&self, id: &ContainerId) -> bool {
        self.records_dir().join(id.as_str()).symlink_metadata().is_ok()
    }

    /// Where containers have their records, one directory each.
    fn records_dir(&self) -> std::path::PathBuf {
        self.settings().root.join("containers")
    }
}

/// Container ids that directories below `dir` are named by. A directory that cannot be read is an error: what is in it is unknown then.
fn ids_below(dir: &Path) -> Result<BTreeSet<ContainerId>> {
    let failed = |source: io::Error| {
        Error::new(
            ErrorKind::Internal,
            "recover",
            format!("cannot list {}", dir.display()),
        )
        .because(source)
    };
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        ids.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(ids)
}

/// Deals with every container that ends, for as long as the daemon lives.
async fn watch_ends(engine: Engine, mut ends: broadcast::Receiver<ContainerEvent>) {
    loop {
        match ends.recv().await {
            Ok(ContainerEvent::Exited { id, status, .. }) => {
                let engine = engine.clone();
                tokio::spawn(async move { engine.ended(&id, status.code).await });
            }
            Ok(ContainerEvent::TakenBack { id }) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    let _lock = engine.locks().lock(&id).await;
                    engine.settle(&id).await;
                });
            }
            Ok(ContainerEvent::Started { .. } | ContainerEvent::Removed { .. }) => {}
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "events of containers were missed");
                engine.reconcile().await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Engine {
    async fn ended(&self, id: &ContainerId, code: u32) {
        let _lock = self.locks().lock(id).await;
        let Ok(container) = self.containers().get(id) else {
            // Somebody removed it, and said so.
            return;
        };
        let code = code.to_string();
        let die = || {
            if matches!(&container.state, State::Exited { status } if status.oom_killed) {
                self.bus().tell_of(&container, "oom", &[]);
            }
            self.bus().tell_of(&container, "die", &[("exitCode", &code)]);
        };
        // A self-removing one dies before it is destroyed; for the others `die` says that they are settled.
        if container.request.auto_remove {
            die();
            self.settle(id).await;
        } else {
            self.settle(id).await;
            die();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_random([n; 32])
    }

    fn observed(containers: &[(u8, Life, bool)], snapshots: &[u8], rootfs: &[u8]) -> Observed {
        Observed {
            containers: containers
                .iter()
                .map(|&(n, life, auto_remove)| ObservedContainer {
                    id: id(n),
                    life,
                    auto_remove,
                    start_follows: false,
                })
                .collect(),
            traces: containers.iter().map(|&(n, ..)| id(n)).collect(),
            snapshots: snapshots.iter().map(|&n| id(n)).collect(),
            rootfs: rootfs.iter().map(|&n| id(n)).collect(),
        }
    }

    #[test]
    fn what_was_left_behind_decides_what_is_done() {
        for (words, seen, expected) in [
            ("nothing there", observed(&[], &[], &[]), vec![]),
            (
                "a half-made create",
                observed(&[], &[1], &[]),
                vec![Action::Discard(id(1))],
            ),
            (
                "a half-made removal, still mounted",
                observed(&[], &[1], &[1]),
                vec![Action::Discard(id(1))],
            ),
            (
                "a mount without anything",
                observed(&[], &[], &[1]),
                vec![Action::Discard(id(1))],
            ),
            (
                "running, mounted",
                observed(&[(1, Life::Running, true)], &[1], &[1]),
                vec![],
            ),
            (
                "prepared for a client that is there, or with a shim that does not answer",
                observed(&[(1, Life::Occupied, true)], &[1], &[1]),
                vec![],
            ),
            (
                "prepared, and nobody is left to start it",
                observed(&[(1, Life::Abandoned, true)], &[1], &[1]),
                vec![Action::TakeBack(id(1))],
            ),
            (
                "its record is there and cannot be read",
                Observed {
                    traces: BTreeSet::from([id(1)]),
                    ..observed(&[], &[1], &[1])
                },
                vec![Action::ReportUnknown(id(1))],
            ),
            (
                "created, mounted",
                observed(&[(1, Life::Created, false)], &[1], &[1]),
                vec![Action::Unmount(id(1))],
            ),
            (
                "over, mounted",
                observed(&[(1, Life::Over, false)], &[1], &[1]),
                vec![Action::Unmount(id(1))],
            ),
            (
                "over, unmounted",
                observed(&[(1, Life::Over, false)], &[1], &[]),
                vec![],
            ),
            (
                "over, removes itself",
                observed(&[(1, Life::Over, true)], &[1], &[]),
                vec![Action::Remove(id(1))],
            ),
            (
                "created, removes itself once run",
                observed(&[(1, Life::Created, true)], &[1], &[]),
                vec![],
            ),
            (
                "created by a run that was cut off, removes itself",
                Observed {
                    containers: vec![ObservedContainer {
                        id: id(1),
                        life: Life::Created,
                        auto_remove: true,
                        start_follows: true,
                    }],
                    ..observed(&[], &[1], &[])
                },
                vec![Action::Remove(id(1))],
            ),
            (
                "without its snapshot",
                observed(&[(1, Life::Over, false)], &[], &[]),
                vec![Action::Report(id(1))],
            ),
            (
                "one's leftovers do not touch another",
                observed(
                    &[(1, Life::Running, false), (2, Life::Over, false)],
                    &[1, 2, 3],
                    &[1, 2, 4],
                ),
                vec![
                    Action::Discard(id(3)),
                    Action::Discard(id(4)),
                    Action::Unmount(id(2)),
                ],
            ),
        ] {
            assert_eq!(plan(&seen), expected, "{words}");
        }
    }
}
