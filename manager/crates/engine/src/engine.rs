//! The engine itself: what it is made of, and how it is opened.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use croze_containers::{Containers, Runtimes};
use croze_images::Images;
use croze_model::{Error, ErrorKind, Result};
use croze_networks::Networks;
use croze_registry::{Hosts, Registry};
use croze_snapshots::{Limit, Snapshots, Snapshotter};
use croze_store::{Lock, Store, StoreError, create_private_dir};
use tokio::sync::{RwLock, broadcast};

use crate::events::{Bus, Event};
use crate::locks::Locks;
use crate::network::NetworkSettings;
use crate::operations::Operations;
use crate::unsettled::Unsettled;
use crate::waiting::Waiting;

/// So many failed undos are remembered; older ones are in the log.
const REMEMBERED_LEFTOVERS: usize = 16;

/// Where things are, and which programs are used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Durable state.
    pub root: PathBuf,
    /// State that is rebuilt, or safely forgotten, after a boot.
    pub run_root: PathBuf,
    /// The OCI runtimes.
    pub runtimes: Runtimes,
    /// The shim's program.
    pub shim: PathBuf,
    /// What is special about single registries.
    pub registries: Hosts,
    /// croze-init, for containers that ask for it.
    pub init: Option<PathBuf>,
    /// What the image `croze/hello` is made of, where this build carries it.
    pub hello: Option<Hello>,
    /// How containers are connected.
    pub network: NetworkSettings,
    /// How containers' file systems are made; without it the best way of this host.
    pub snapshotter: Option<Snapshotter>,
    /// What a container may write besides its mounts, unless it asks for something else.
    pub storage_limit: Limit,
}

/// The program of the image `croze/hello`.
#[derive(Debug, Clone, Copy)]
pub struct Hello {
    /// The static program.
    pub program: &'static [u8],
    /// When it was built, seconds since 1970, where the build says so.
    pub created: Option<i64>,
}

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    images: Images,
    registry: Registry,
    snapshots: Snapshots,
    containers: Containers,
    networks: Networks,
    bus: Bus,
    operations: Operations,
    locks: Locks,
    waiting: Waiting,
    unsettled: Arc<Unsettled>,
    /// Creates hold it for reading while they use an image that no record names yet, removals of images for writing.
    image_gate: Arc<RwLock<()>>,
    /// What undos and removals had to leave behind, the newest last.
    leftovers: Mutex<VecDeque<String>>,
    /// Warnings about the host that a user has been given.
    told: Mutex<BTreeSet<String>>,
    runtime_version: String,
    /// Declared last: root and run root are given to another process only when everything above is closed.
    _store: Store,
    _run_root: Lock,
}

impl Engine {
    /// Takes the durable root for this process and opens everything below it. Blocks on the file system: call it before the runtime serves,
    /// or from a blocking thread. Nothing is recovered yet: see [`Engine::recover`].
    ///
    /// # Errors
    /// `Conflict` if another daemon holds the root or the run root; `Unsupported` if containers are to have a limit and the file system knows none; else
    /// what the file system says.
    pub fn open(settings: Settings) -> Result<Self> {
        let store = Store::open(&settings.root)?;
        // A lock of its own, before anything is swept: a daemon with another root would take this one's running containers for leftovers.
        create_private_dir(&settings.run_root)?;
        let run_root = Lock::acquire(&settings.run_root.join("crozed.lock")).map_err(run_root_taken)?;
        for dir in [
            settings.run_root.join("containers"),
            settings.run_root.join("rootfs"),
            settings.run_root.join("rt"),
        ] {
            create_private_dir(&dir)?;
        }
        let snapshots = Snapshots::open_with(&settings.root, settings.snapshotter)?;
        if !settings.storage_limit.is_none() {
            // Who has asked for limits must not believe that there are any.
            snapshots.can_limit()?;
        }
        let registry = Registry::new(settings.registries.clone());
        let images = Images::open(&settings.root, snapshots.clone(), registry.clone())?;
        let containers = Containers::open(&store, container_settings(&settings))?;
        let networks = Networks::open(network_settings(&settings))?;
        let runtime_version =
            crate::host::runtime_version(&settings.runtimes.default_program(), crate::host::VERSION_LIMIT);
        let inner = Inner {
            settings,
            images,
            registry,
            snapshots,
            containers,
            networks,
            bus: Bus::default(),
            operations: Operations::default(),
            locks: Locks::default(),
            waiting: Waiting::default(),
            unsettled: Arc::default(),
            image_gate: Arc::default(),
            leftovers: Mutex::default(),
            told: Mutex::default(),
            runtime_version,
            _store: store,
            _run_root: run_root,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.bus.subscribe()
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn images(&self) -> &Images {
        &self.inner.images
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    pub(crate) fn containers(&self) -> &Containers {
        &self.inner.containers
    }

    pub(crate) fn networks(&self) -> &Networks {
        &self.inner.networks
    }

    pub(crate) fn operations(&self) -> &Operations {
        &self.inner.operations
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.inner.locks
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.inner.waiting
    }

    pub(crate) fn unsettled(&self) -> &Arc<Unsettled> {
        &self.inner.unsettled
    }

    pub(crate) fn image_gate(&self) -> &Arc<RwLock<()>> {
        &self.inner.image_gate
    }

    pub(crate) fn known_runtime_version(&self) -> &str {
        &self.inner.runtime_version
    }

    /// Remembers something that could not be cleaned up, beside its line in the log, for users to see. It is no list of things to do: what stays
    /// (a snapshot without its record, a mount, a bundle, an endpoint) is found by itself at the next start, and swept then.
    pub(crate) fn leave(&self, what: String) {
        let mut leftovers = self
            .inner
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if leftovers.len() == REMEMBERED_LEFTOVERS {
            leftovers.pop_front();
        }
        leftovers.push_back(what);
    }

    /// Whether nobody has been told this since the daemon was started: what is so of the host is said once, and always by `info`.
    pub(crate) fn is_news(&self, warning: &str) -> bool {
        let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(warning.to_owned())
    }

    pub(crate) fn leftovers(&self) -> Vec<String> {
        self.inner
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

impl Engine {
    /// Runtime and shim say that a disk is full in words of their own, which name neither the file system nor how full it is.
    pub(crate) fn name_full_disk(&self, error: Error) -> Error {
        // A runtime says nothing at all where there is no room for its log.
        const WORDS: [&str; 3] = [
            "no space left on device",
            "disk quota exceeded",
            "and said nothing",
        ];
        let said = error.one_line().to_ascii_lowercase();
        if error.advice().is_some() || !WORDS.iter().any(|words| said.contains(words)) {
            return error;
        }
        let settings = self.settings();
        match croze_store::full_disk_among(&[&settings.run_root, &settings.root]) {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }
}

/// The store's words, with the advice that fits a run root.
fn run_root_taken(error: StoreError) -> Error {
    let taken = matches!(error, StoreError::Locked { .. });
    let error = Error::from(error);
    if taken {
        error.hint(
            "daemons share nothing: give each its own --root, --run-root, --socket and --bridge, or stop the other one",
        )
    } else {
        error
    }
}

fn network_settings(settings: &Settings) -> croze_networks::Settings {
    croze_networks::Settings {
        root: settings.root.clone(),
        run_root: settings.run_root.clone(),
        shim: settings.shim.clone(),
        bridge: settings.network.bridge.clone(),
    }
}

fn container_settings(settings: &Settings) -> croze_containers::Settings {
    croze_containers::Settings {
        state_dir: settings.root.join("containers"),
        run_dir: settings.run_root.join("containers"),
        runtimes: settings.runtimes.clone(),
        runtime_root: settings.run_root.join("rt"),
        shim: settings.shim.clone(),
        init: settings.init.clone(),
    }
}

/// Runs work to its end even if the caller stops waiting for it.
pub(crate) async fn complete<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::new(ErrorKind::Internal, "run", "the work was interrupted").because(panic)),
    }
}

/// Runs work that blocks on the file system away from the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::new(ErrorKind::Internal, "run", "the work was interrupted").because(panic)),
    }
}
