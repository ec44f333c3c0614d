//! The operations on containers.
//!
//! Each is a short list of steps over the other modules; everything that waits for the disk runs on blocking threads. Verbs on one container
//! that exclude each other (two starts) are kept apart by the caller, the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use croze_model::{ContainerId, ErrorKind};
use croze_proto::shim::{self as wire, request};
use croze_store::Store;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::ending::is_conflict;
use crate::entries::Inner;
use crate::error::ContainersError;
use crate::features;
use crate::joining::JoinedNamespace;
use crate::launch;
use crate::link::{DialError, Link};
use crate::logs;
use crate::networking::Attachment;
use crate::observe;
use crate::record::{Container, ExitStatus, ProcessIdentity, State, Transition};
use crate::relay::{self, AttachedLog};
use crate::request::{CreateRequest, ExecRequest, ImageFacts, TerminalSize};
use crate::spec;
use crate::streams::ProcessStream;
pub use crate::types::{
    Created, Event, Inspection, LogEntry, LogOptions, LogStream, RecoveryReport, Settings,
};

pub(crate) type Result<T, E = ContainersError> = std::result::Result<T, E>;

/// Time between the stop signal and SIGKILL when nobody says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// All containers of one root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Containers {
    pub(crate) inner: Arc<Inner>,
}

/// Runs what waits for the disk elsewhere.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(ContainersError::Interrupted))
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Containers {
    /// Opens the records; blocking (call it from a blocking thread or before the runtime serves).
    ///
    /// # Errors
    ///
    /// [`ContainersError::Store`] if the directories or the index cannot be used.
    pub fn open(store: &Store, settings: Settings) -> Result<Self> {
        let inner = Inner::open(store, settings)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// A new random identifier, for the snapshot that must exist before the container does.
    ///
    /// # Errors
    ///
    /// [`ContainersError::File`] if the kernel gives no random bytes.
    pub fn new_id(&self) -> Result<ContainerId> {
        loop {
            let id = ContainerId::from_random(random()?);
            // An all-decimal short form would be taken for a number where it is used as a hostname.
            if !id.is_numeric() {
                return Ok(id);
            }
        }
    }

    /// The container of this name, id, or unambiguous beginning of an id.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`], [`ContainersError::Ambiguous`].
    pub fn resolve(&self, text: &str) -> Result<ContainerId> {
        self.inner.resolve(text)
    }

    /// Checks the request, reserves the name and stores the record. Nothing runs yet.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NameTaken`], [`ContainersError::Spec`], [`ContainersError::Store`].
    pub async fn create(
        &self,
        id: ContainerId,
        request: CreateRequest,
        image: ImageFacts,
    ) -> Result<Created> {
        let request = self.with_full_ids(request)?;
        let inner = Arc::clone(&self.inner);
        let created = blocking(move || inner.create(id, request, image)).await?;
        Ok(self.with_warnings_of_binds(created).await)
    }

    /// What was created, with what there is to say about its read-only binds.
    async fn with_warnings_of_binds(&self, mut created: Created) -> Created {
        if let Ok(container) = self.get(&created.id) {
            let depth = features::read_only_depth(&self.inner.settings, &container).await;
            let warnings = blocking(move || Ok(crate::bundle::writable_below(&container, depth))).await;
            // It is created, whatever can be said about it.
            created.warnings.extend(warnings.unwrap_or_default());
        }
        created
    }

    /// Makes the bundle over the mounted root file system and has the shim create the container, up to the point where its command is
    /// executed. A container that is prepared already stays as it is.
    ///
    /// # Errors
    ///
    /// [`ContainersError::Runtime`] with the runtime's words, [`ContainersError::Spec`], [`ContainersError::WrongState`] while it runs.
    pub async fn prepare(&self, id: &ContainerId, rootfs: &Path, attachment: &Attachment) -> Result<()> {
        let container = self.get(id)?;
        if container.state.is_running() {
            return Err(wrong_state(&container, "it must not run"));
        }
        if let State::Dead { .. } = container.state {
            return Err(wrong_state(&container, "it can only be removed"));
        }
        match Link::dial(&self.run_dir(id), container.name.as_str()).await {
            Ok(mut link) => {
                return match link.status().await?.phase() {
                    wire::Phase::Created => {
                        self.watch_end(id);
                        Ok(())
                    }
                    _ => Err(wrong_state(
                        &container,
                        "its former run is still being cleaned up",
                    )),
                };
            }
            // What a dead shim left running, it must not be built upon.
            Err(DialError::Absent) => self.put_away(&container).await?,
            Err(error) => return Err(error.of(container.name.as_str())),
        }
        // Held until the runtime has joined it.
        let joined = self.pid_namespace(&container)?;
        let joined_path = joined.as_ref().map(JoinedNamespace::path);
        let depth = features::read_only_depth(&self.inner.settings, &container).await;
        self.inner.begin_run(id);
        let (inner, rootfs, of) = (Arc::clone(&self.inner), rootfs.to_path_buf(), container.clone());
        let attachment = attachment.clone();
        let write = move || {
            let settings = &inner.settings;
            crate::bundle::write(settings, &of, &rootfs, joined_path.as_deref(), depth, &attachment)
        };
        let launched = match blocking(write).await {
            Ok(message) => launch::launch(&self.inner.settings, &message).await,
            Err(error) => Err(error),
        };
        drop(joined);
        if let Err(error) = launched {
            self.record_failed_start(id, &error).await?;
            return Err(error);
        }
        self.watch_end(id);
        Ok(())
    }

    /// The first process of a container that is prepared or runs; `None` where there is none, or its shim does not say.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`].
    pub async fn process(&self, id: &ContainerId) -> Result<Option<ProcessIdentity>> {
        let container = self.get(id)?;
        let Ok(mut link) = Link::dial(&self.run_dir(id), container.name.as_str()).await else {
            return Ok(None);
        };
        let Ok(status) = link.status().await else {
            return Ok(None);
        };
        Ok((status.pid > 0).then(|| observe::identity(status.pid, status.pid_start_ticks)))
    }

    /// Executes the command; prepares first, without a network to join, if nobody has. Durable when it returns.
    ///
    /// # Errors
    ///
    /// As [`Containers::prepare`]; the container is then `Exited` with code 127, 126 or 128.
    pub async fn start(&self, id: &ContainerId, rootfs: &Path) -> Result<()> {
        self.prepare(id, rootfs, &Attachment::default()).await?;
        let container = self.get(id)?;
        let starting = self.inner.starting(id)?;
        let _end_is_recorded_later = starting.lock().await;
        let mut link = Link::to(&self.run_dir(id), container.name.as_str()).await?;
        let status = link.status().await?;
        let process = observe::identity(status.pid, status.pid_start_ticks);
        if let Err(error) = link.ask_runtime(request::Body::Start(wire::Start {})).await {
            if is_conflict(&error) {
                // The shim is busy with another call: nothing was done.
                return Err(error);
            }
            // Refused, or nobody knows: only when nothing is left is the root file system free.
            return Err(self.abandon_start(&container, process, error).await);
        }
        let (started_at, recorded) = (now(), process.clone());
        let changed = self
            .change(id, move |container| {
                container.state = container.state.after(Transition::Started { process: recorded })?;
                container.started_at = Some(started_at);
                container.error = None;
                Ok(())
            })
            .await;
        if let Err(error) = changed {
            return Err(self.abandon_start(&container, process, error).await);
        }
        self.tell(Event::Started { id: id.clone() });
        Ok(())
    }

    /// Waits until the container has ended; at once if it has already.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`], also when it is removed meanwhile.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        let mut state = self.inner.state_of(id)?;
        loop {
            match &*state.borrow_and_update() {
                State::Exited { status } => return Ok(status.clone()),
                State::Dead { .. } => return Ok(unknown_end()),
                State::Created | State::Running { .. } => {}
            }
            if state.changed().await.is_err() {
                return Err(ContainersError::gone(id));
            }
        }
    }

    /// Sends the stop signal, and SIGKILL after `grace` (`None`, of both: the container's own). One that does not run is no error, and neither is a
    /// shim that does not answer: SIGKILL gets past it.
    ///
    /// # Errors
    ///
    /// [`ContainersError::Spec`] for a signal that does not exist; [`ContainersError::StillRunning`] if even SIGKILL did not end it.
    pub async fn stop(&self, id: &ContainerId, signal: Option<&str>, grace: Option<Duration>) -> Result<()> {
        let asked = signal.map(spec::signal::parse).transpose()?;
        let container = self.get(id)?;
        if !container.state.is_running() {
            return Ok(());
        }
        let grace = grace.or(container.request.stop_timeout).unwrap_or(STOP_TIMEOUT);
        let number = asked.unwrap_or_else(|| stop_signal(&container));
        match self.signal_or_ended(&container, number).await {
            // It may send it yet when it comes to itself.
            Err(ContainersError::ShimSilent { .. }) => {}
            result => result?,
        }
        if timeout(grace, self.wait(id)).await.is_ok() {
            return Ok(());
        }
        self.signal_or_ended(&container, SIGKILL).await?;
        match timeout(KILL_TIMEOUT, self.wait(id)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ContainersError::StillRunning {
                name: container.name.to_string(),
                seconds: KILL_TIMEOUT.as_secs(),
            }),
        }
    }

    /// Sends a signal (`KILL`, `SIGTERM`, `9`) to the first process.
    ///
    /// # Errors
    ///
    /// [`ContainersError::WrongState`] if it does not run, [`ContainersError::Spec`] for a signal that does not exist.
    pub async fn kill(&self, id: &ContainerId, signal: &str) -> Result<()> {
        let number = spec::signal::parse(signal)?;
        let container = self.get(id)?;
        if !container.state.is_running() {
            return Err(wrong_state(&container, "it must run"));
        }
        self.signal(&container, number).await
    }

    /// Removes record, log and run state of a container that does not run (any state but `Running`; a prepared one is discarded). The root file
    /// system is the engine's to remove afterwards.
    ///
    /// # Errors
    ///
    /// [`ContainersError::WrongState`] while it runs; [`ContainersError::Shim`], [`ContainersError::ShimSilent`], [`ContainersError::StillRunning`] if
    /// it is not known to be gone: then nothing is removed.
    pub async fn remove(&self, id: &ContainerId) -> Result<()> {
        let container = self.get(id)?;
        if container.state.is_running() {
            return Err(wrong_state(&container, "stop it first"));
        }
        self.put_away(&container).await?;
        let (inner, of) = (Arc::clone(&self.inner), container.clone());
        blocking(move || inner.remove_files(&of)).await?;
        self.tell(Event::Removed { id: id.clone() });
        Ok(())
    }

    /// All records, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Container> {
        self.inner.list()
    }

    /// One record.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`].
    pub fn get(&self, id: &ContainerId) -> Result<Container> {
        self.inner.get(id)
    }

    /// Everything about one container; asks the shim if there is one.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`].
    pub async fn inspect(&self, id: &ContainerId) -> Result<Inspection> {
        let container = self.get(id)?;
        let run_dir = self.run_dir(id);
        let settings = self.inner.settings.clone();
        let mut inspection = blocking(move || Ok(observe::inspection(&settings, container))).await?;
        if let Ok(mut link) = Link::dial(&run_dir, inspection.container.name.as_str()).await
            && let Ok(status) = link.status().await
        {
            inspection.shim_pid = observe::shim_pid(&run_dir);
            inspection.log_lines_dropped = status.log_lines_dropped;
            if inspection.container.state.is_running() && status.exit.is_none() {
                inspection.pid = Some(status.pid);
            }
        }
        Ok(inspection)
    }

    /// Reads the log from its file.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`]; what goes wrong in reading is in the stream.
    pub async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream> {
        let state = self.inner.state_of(id)?;
        Ok(logs::open(self.inner.settings.log_path(id), options, state))
    }

    /// Connects to the streams of a container that is prepared or runs.
    ///
    /// # Errors
    ///
    /// [`ContainersError::WrongState`] if it is neither, [`ContainersError::Shim`], [`ContainersError::ShimSilent`].
    pub async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<ProcessStream> {
        let container = self.get(id)?;
        let log = AttachedLog {
            path: self.inner.settings.log_path(id),
            state: self.inner.state_of(id)?,
        };
        let link = match Link::dial(&self.run_dir(id), container.name.as_str()).await {
            Ok(link) => link,
            Err(DialError::Absent) => return Err(wrong_state(&container, "it must run")),
            Err(error) => return Err(error.of(container.name.as_str())),
        };
        let stdin = stdin && (container.request.io.open_stdin || container.request.io.tty);
        link.into_stream(request::Body::Attach(wire::Attach { stdin }), Some(log))
            .await
    }

    /// Runs a further process in a running container; returns its id and its streams when it runs. A detached one's stream is
    /// empty.
    ///
    /// # Errors
    ///
    /// [`ContainersError::WrongState`], [`ContainersError::Runtime`] with the runtime's words.
    pub async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<(String, ProcessStream)> {
        let container = self.get(id)?;
        if !container.state.is_running() {
            return Err(wrong_state(&container, "it must run"));
        }
        let (settings, of, wanted) = (self.inner.settings.clone(), container.clone(), request.clone());
        let process = blocking(move || crate::bundle::exec_process(&settings, &of, &wanted)).await?;
        let exec_id: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let exec = wire::Exec {
            exec_id: exec_id.clone(),
            process_json: process.to_string().into_bytes(),
            tty: request.tty,
            stdin: request.stdin,
            detach: request.detach,
            rows: request.size.map_or(0, |s| s.rows.into()),
            columns: request.size.map_or(0, |s| s.columns.into()),
        };
        let mut link = Link::to(&self.run_dir(id), container.name.as_str()).await?;
        if request.detach {
            link.ask_runtime(request::Body::Exec(exec)).await?;
            return Ok((exec_id, relay::empty_stream()));
        }
        Ok((exec_id, link.into_stream(request::Body::Exec(exec), None).await?))
    }

    /// Changes the size of the container's terminal.
    ///
    /// # Errors
    ///
    /// [`ContainersError::WrongState`] if it does not run.
    pub async fn resize(&self, id: &ContainerId, size: TerminalSize) -> Result<()> {
        let container = self.get(id)?;
        if !container.state.is_running() {
            return Err(wrong_state(&container, "it must run"));
        }
        let mut link = Link::to(&self.run_dir(id), container.name.as_str()).await?;
        let resize = wire::Resize {
            exec_id: String::new(),
            rows: size.rows.into(),
            columns: size.columns.into(),
        };
        link.ask(request::Body::Resize(resize)).await?;
        Ok(())
    }

    // --- what the other modules of the crate use ---------------------------------------------------------------------

    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.inner.settings.bundle_path(id)
    }

    pub(crate) fn tell(&self, event: Event) {
        // Without listeners there is nobody to tell.
        let _nobody_listens = self.inner.events.send(event);
    }

    /// Changes one record: on disk, then in memory, then for those who wait.
    pub(crate) async fn change(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || inner.change(&id, change)).await
    }

    async fn signal_or_ended(&self, container: &Container, number: u32) -> Result<()> {
        match self.signal(container, number).await {
            Err(error) if is_conflict(&error) || matches!(error, ContainersError::WrongState { .. }) => {
                Ok(())
            }
            other => other,
        }
    }

    /// Signals through the shim; if that is dead or silent, through the process's own descriptor.
    async fn signal(&self, container: &Container, number: u32) -> Result<()> {
        if let Ok(mut link) = Link::dial(&self.run_dir(&container.id), container.name.as_str()).await {
            let signal = wire::Signal {
                number,
                exec_id: String::new(),
            };
            match link.ask(request::Body::Signal(signal)).await {
                Ok(_) => return Ok(()),
                // It left between the two: its container has ended, unless the shim was killed.
                Err(ContainersError::Shim { .. }) if self.shim_leaves(container).await => {}
                // It may signal once it comes to itself. That a process dies twice does no harm.
                Err(ContainersError::ShimSilent { .. }) if number == SIGKILL => {}
                Err(error) => return Err(error),
            }
        }
        match &container.state {
            State::Running { process } if observe::signal(process, number) => Ok(()),
            _ => Err(wrong_state(container, "it must run")),
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        let n = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| ContainersError::File {
                call: "getrandom",
                path: PathBuf::new(),
                source: e.into(),
            })?;
        filled += n;
    }
    Ok(bytes)
}

fn stop_signal(container: &Container) -> u32 {
    // It was checked when the container was created.
    spec::stop_signal_text(container)
        .and_then(|text| spec::signal::parse(text).ok())
        .unwrap_or(SIGTERM)
}

pub(crate) fn wrong_state(container: &Container, needs: &'static str) -> ContainersError {
    ContainersError::WrongState {
        name: container.name.to_string(),
        state: container.state.name(),
        needs,
    }
}

/// The exit code that tells of a failed start: docker's.
pub(crate) fn exit_code_of(error: &ContainersError) -> u32 {
    match error {
        ContainersError::Runtime {
            kind: ErrorKind::CommandNotFound,
            ..
        } => 127,
        ContainersError::Runtime {
            kind: ErrorKind::CommandNotExecutable,
            ..
        } => 126,
        _ => 128,
    }
}

/// An end that nobody saw.
pub(crate) fn unknown_end() -> ExitStatus {
    ExitStatus {
        code: 255,
        signal: None,
        oom_killed: false,
        finished_at: now(),
        log_lines_dropped: 0,
        log_end: None,
        unknown: true,
    }
}
