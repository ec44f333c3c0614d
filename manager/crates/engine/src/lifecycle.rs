//! From start to removal: the verbs on one container, and what the daemon does when one ends.

use std::path::PathBuf;
use std::time::Duration;

use croze_containers::{
    Container, ContainersError, ExitStatus, Inspection, LogOptions, LogStream, Remains, State, TerminalSize,
};
use croze_model::{ContainerId, Error, ErrorKind, Result};

use crate::engine::{Engine, complete};

/// A forced removal waits so long for the kernel to end a killed container.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A shim that is about to leave gets so long before what it uses is left for later.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
const LEAVE_POLL: Duration = Duration::from_millis(20);
/// Pauses between two looks at a shim that stays: the first, and the longest.
const SETTLE_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Starts a container.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
}

/// Stops a container.
#[derive(Debug, Clone)]
pub struct StopRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// Time between the stop signal and SIGKILL; `None`: the container's own.
    pub timeout: Option<Duration>,
    /// The stop signal, name with or without SIG, or number; `None`: the container's own.
    pub signal: Option<String>,
}

/// Sends a signal to a container's first process.
#[derive(Debug, Clone)]
pub struct KillRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// Name with or without SIG, or number; empty: KILL.
    pub signal: String,
}

/// Waits for a container's end.
#[derive(Debug, Clone)]
pub struct WaitRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
}

/// Removes a container.
#[derive(Debug, Clone)]
pub struct RemoveRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// Kill it first if it runs.
    pub force: bool,
}

/// Lists containers.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Also those that do not run.
    pub all: bool,
}

/// Reads a container's log.
#[derive(Debug, Clone)]
pub struct LogsRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// Which part of it.
    pub options: LogOptions,
}

/// Changes the size of a container's terminal.
#[derive(Debug, Clone)]
pub struct ResizeRequest {
    /// Name, id or unambiguous prefix of an id.
    pub container: String,
    /// The new size.
    pub size: TerminalSize,
}

impl Engine {
    /// Starts a created or stopped container; one that runs already is left alone.
    ///
    /// # Errors
    /// `CommandNotFound` or `CommandNotExecutable`, or what the runtime says. A container that removes itself is gone then.
    pub async fn start(&self, request: StartRequest) -> Result<()> {
        let id = self.containers().resolve(&request.container)?;
        let engine = self.clone();
        complete(async move {
            let _lock = engine.locks().lock(&id).await;
            if engine.containers().get(&id)?.state.is_running() {
                return Ok(());
            }
            let result = engine
                .start_locked(&id)
                .await
                .map_err(|e| engine.name_full_disk(e));
            // Whoever waited to start it waits no more, and must not keep what has ended from being cleaned up.
            engine.waiting().over(&id);
            if result.is_err() {
                engine.settle(&id).await;
            }
            result
        })
        .await
    }

    async fn start_locked(&self, id: &ContainerId) -> Result<()> {
        let rootfs = self.prepare_locked(id).await?;
        self.containers().start(id, &rootfs).await?;
        let container = self.containers().get(id)?;
        self.bus().tell_of(&container, "start", &[]);
        Ok(())
    }

    /// Brings a container to the point where only its command is to be executed: mounted, connected, its shim waiting, its ports served. Gives
    /// the path of its root file system. One that is there already stays there. What a failure leaves is taken back by [`Engine::settle`].
    pub(crate) async fn prepare_locked(&self, id: &ContainerId) -> Result<PathBuf> {
        let container = self.containers().get(id)?;
        let rootfs = self.mount_rootfs(id).await?;
        let attachment = self.connect(&container).await?;
        self.containers().prepare(id, &rootfs, &attachment).await?;
        self.serve_ports(id).await?;
        Ok(rootfs)
    }

    /// Sends the stop signal, and SIGKILL after a time. One that does not run is no error.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a signal that does not exist; `DeadlineExceeded` if even SIGKILL did not end it.
    pub async fn stop(&self, request: StopRequest) -> Result<()> {
        let id = self.containers().resolve(&request.container)?;
        let engine = self.clone();
        complete(async move {
            // A start that is under way comes first: it is then what is stopped. The lock is not kept, as the end must be able to be dealt
            // with while this waits for it.
            drop(engine.locks().lock(&id).await);
            let container = engine.containers().get(&id)?;
            engine
                .containers()
                .stop(&id, request.signal.as_deref(), request.timeout)
                .await?;
            engine.disconnect_ended(&id).await;
            if container.state.is_running() {
                engine.bus().tell_of(&container, "stop", &[]);
            }
            Ok(())
        })
        .await
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if it does not run, `InvalidArgument` for a signal that does not exist.
    pub async fn kill(&self, request: KillRequest) -> Result<()> {
        let id = self.containers().resolve(&request.container)?;
        let signal = if request.signal.is_empty() {
            "KILL"
        } else {
            &request.signal
        };
        self.containers().kill(&id, signal).await?;
        if let Ok(container) = self.containers().get(&id) {
            self.bus().tell_of(&container, "kill", &[("signal", signal)]);
        }
        if is_sigkill(signal) {
            // The kernel ends it now; whoever asked expects it to have ended, and may remove it next.
            match self.wait_for_killed(&id).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => self.disconnect_ended(&id).await,
            }
        }
        Ok(())
    }

    /// Waits until a container does not run; one that was never started does not, and its code is 0.
    ///
    /// # Errors
    /// `NotFound`, also when it is removed meanwhile.
    pub async fn wait(&self, request: WaitRequest) -> Result<ExitStatus> {
        let id = self.containers().resolve(&request.container)?;
        if self.containers().get(&id)?.state == State::Created {
            return Ok(never_started());
        }
        let status = self.containers().wait(&id).await?;
        self.disconnect_ended(&id).await;
        Ok(status)
    }

    /// Removes a container with its log and what it wrote; gives its id.
    ///
    /// # Errors
    /// `Conflict` if it runs and the request does not force it.
    pub async fn remove(&self, request: RemoveRequest) -> Result<ContainerId> {
        let id = self.containers().resolve(&request.container)?;
        let engine = self.clone();
        complete(async move {
            let _lock = engine.locks().lock(&id).await;
            let container = engine.containers().get(&id)?;
            if container.state.is_running() {
                if !request.force {
                    return Err(still_running(&container));
                }
                engine.kill_and_wait(&id).await?;
            } else if request.force && matches!(container.state, State::Dead { .. }) {
                engine.containers().end_unrecorded(&id).await?;
            }
            engine.remove_locked(&container).await?;
            Ok(id)
        })
        .await
    }

    async fn kill_and_wait(&self, id: &ContainerId) -> Result<()> {
        match self.containers().kill(id, "KILL").await.map_err(Error::from) {
            // It may have ended by itself since it was looked at.
            Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
            _ => {}
        }
        self.wait_for_killed(id).await
    }

    async fn wait_for_killed(&self, id: &ContainerId) -> Result<()> {
        match tokio::time::timeout(KILL_PATIENCE, self.containers().wait(id)).await {
            Ok(ended) => Ok(ended.map(|_| ())?),
            Err(_) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                "kill",
                format!(
                    "container {} did not end within {} s of SIGKILL",
                    id.short(),
                    KILL_PATIENCE.as_secs()
                ),
            )
            .hint("a process in uninterruptible sleep cannot be killed: look at the storage it waits for")),
        }
    }

    /// Removes record, then root file system; what of the latter stays is swept at the next start.
    async fn remove_locked(&self, container: &Container) -> Result<()> {
        let id = &container.id;
        self.containers().remove(id).await?;
        self.waiting().over(id);
        self.disconnect(id).await;
        if let Err(error) = self.discard_rootfs(id, container.request.durable()).await {
            let line = format!(
                "cannot remove the root file system of container {}: {}",
                id.short(),
                error.one_line()
            );
            tracing::error!("{line}");
            self.leave(line);
        }
        self.bus().tell_of(container, "destroy", &[]);
        self.collect_if_image_is_gone(container).await;
        Ok(())
    }

    /// Layers of an image that was removed by force while this container still used it.
    async fn collect_if_image_is_gone(&self, container: &Container) {
        let known = self.images().resolve(&container.image.id).await;
        if known.is_err_and(|error| error.kind() == ErrorKind::NotFound)
            && let Err(error) = self.images().collect().await
        {
            tracing::warn!("cannot remove unused layers: {}", error.one_line());
        }
    }

    /// Containers, the newest first.
    #[must_use]
    pub fn list(&self, request: &ListRequest) -> Vec<Container> {
        let mut containers = self.containers().list();
        containers.retain(|container| request.all || container.state.is_running());
        containers
    }

    /// Everything about one container.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for an ambiguous prefix.
    pub async fn inspect(&self, container: &str) -> Result<Inspection> {
        let id = self.containers().resolve(container)?;
        Ok(self.containers().inspect(&id).await?)
    }

    /// A container's log.
    ///
    /// # Errors
    /// `NotFound`, or what the file system says.
    pub async fn logs(&self, request: LogsRequest) -> Result<LogStream> {
        let id = self.containers().resolve(&request.container)?;
        Ok(self.containers().logs(&id, request.options).await?)
    }

    /// Changes the size of a container's terminal.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if it does not run.
    pub async fn resize(&self, request: ResizeRequest) -> Result<()> {
        let id = self.containers().resolve(&request.container)?;
        Ok(self.containers().resize(&id, request.size).await?)
    }

    /// What follows from a container not running (any more): its root file system is unmounted, and it is removed if it asked for that.
    /// With the container's lock held. What fails is logged: nobody waits for this.
    pub(crate) async fn settle(&self, id: &ContainerId) {
        let Ok(container) = self.containers().get(id) else {
            // Somebody removed it.
            return;
        };
        if container.state.is_running() || self.waiting().any(id) {
            // Somebody started it again, or is about to.
            return;
        }
        match self.vacate(&container).await {
            Vacated::Free => {}
            Vacated::Gone => return,
            Vacated::Occupied => {
                self.settle_later(id);
                return;
            }
        }
        self.disconnect(id).await;
        let result = if container.request.auto_remove {
            self.remove_locked(&container).await
        } else {
            self.unmount_rootfs(id).await
        };
        if let Err(error) = result {
            let line = format!(
                "cannot clean up after container {}: {}",
                container.name,
                error.one_line()
            );
            tracing::error!("{line}");
            self.leave(line);
        }
    }
}

impl Engine {
    /// Sees to it that no shim uses the root file system of a container that does not run.
    async fn vacate(&self, container: &Container) -> Vacated {
        let id = &container.id;
        let free = async {
            loop {
                match self.containers().remains(id).await {
                    Err(ContainersError::NotFound { .. }) => return Ok::<_, ContainersError>(Vacated::Gone),
                    Err(error) => return Err(error),
                    Ok(Remains::Nothing) => return Ok(Vacated::Free),
                    Ok(Remains::Prepared) => {
                        self.containers().discard(id).await?;
                    }
                    Ok(Remains::Busy) => tokio::time::sleep(LEAVE_POLL).await,
                }
            }
        };
        let why = match tokio::time::timeout(LEAVE_PATIENCE, free).await {
            Ok(Ok(free)) => return free,
            Ok(Err(error)) => Error::from(error).one_line(),
            Err(_) => "its shim is still there".to_owned(),
        };
        let line = format!(
            "the root file system of container {} stays mounted for now: {why}",
            id.short()
        );
        // It is tried again and again, and told once.
        if !self.leftovers().contains(&line) {
            tracing::error!("{line}");
            self.leave(line);
        }
        Vacated::Occupied
    }

    /// Settles a container as soon as its shim has left. Nobody hears of that, as the container itself has ended before.
    fn settle_later(&self, id: &ContainerId) {
        let Some(turn) = self.unsettled().enter(id) else {
            // Somebody does already.
            return;
        };
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let (mut pause, longest) = SETTLE_AGAIN;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
                match engine.containers().remains(&id).await {
                    Ok(Remains::Busy) => {}
                    Err(ContainersError::NotFound { .. }) => return,
                    Ok(Remains::Nothing | Remains::Prepared) | Err(_) => break,
                }
            }
            let _lock = engine.locks().lock(&id).await;
            // Before it is tried: what fails again is tried again.
            drop(turn);
            engine.settle(&id).await;
        });
    }

    /// The last client that was about to start a container went away.
    pub(crate) async fn abandoned(&self, id: &ContainerId) {
        let _lock = self.locks().lock(id).await;
        tracing::info!(
            container = id.short(),
            "its client went away before it was started"
        );
        self.settle(id).await;
    }
}

/// What was found of the shim of a container that is to be cleaned up.
enum Vacated {
    /// Nothing uses its root file system.
    Free,
    /// Somebody removed the container.
    Gone,
    /// A shim does, and nothing may be cleaned up under it.
    Occupied,
}

/// docker's answer for what does not run.
fn never_started() -> ExitStatus {
    ExitStatus {
        code: 0,
        signal: None,
        oom_killed: false,
        finished_at: String::new(),
        log_lines_dropped: 0,
        log_end: None,
        unknown: false,
    }
}

/// Whether this is how users write SIGKILL.
fn is_sigkill(signal: &str) -> bool {
    let upper = signal.to_ascii_uppercase();
    matches!(upper.strip_prefix("SIG").unwrap_or(&upper), "KILL" | "9")
}

/// docker's words, which scripts look for.
fn still_running(container: &Container) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "remove",
        format!(
            "cannot remove container \"/{}\": container is running",
            container.name
        ),
    )
    .because("stop the container before removing or force remove".to_owned())
    .hint("`croze stop` it first, or remove it with -f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigkill_is_known_by_all_its_names() {
        for (signal, kills) in [
            ("KILL", true),
            ("SIGKILL", true),
            ("sigkill", true),
            ("9", true),
            ("TERM", false),
            ("19", false),
        ] {
            assert_eq!(is_sigkill(signal), kills, "{signal}");
        }
    }
}
