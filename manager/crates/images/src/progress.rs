//! Progress of a pull, as a state that can be watched.
//!
//! The work writes its newest state into a `watch` channel and never waits: a slow watcher skips states, it misses no outcome.

use croze_model::Digest;
use tokio::sync::watch;

/// What a pull is doing as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPhase {
    /// The reference is being resolved to a manifest and config.
    #[default]
    Resolving,
    /// Layers are being fetched and unpacked.
    Layers,
    /// Records are being written.
    Recording,
    /// The image is there.
    Done,
}

/// What is happening to one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// Bytes are arriving; they are unpacked while they arrive.
    Downloading,
    /// All bytes are here; the rest is unpacked and made durable.
    Unpacking,
    /// It was here already; nothing is fetched.
    Exists,
    /// Fetched, verified and stored.
    Done,
}

/// One layer's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The digest of the compressed blob.
    pub digest: Digest,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Where the work on it stands.
    pub state: LayerState,
    /// Compressed bytes received so far.
    pub received: u64,
    /// Compressed bytes in all.
    pub total: u64,
}

/// The state of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullState {
    /// What is being done.
    pub phase: PullPhase,
    /// The layers, base first; empty while resolving.
    pub layers: Vec<LayerProgress>,
}

/// The writing end, given to [`crate::Images::pull`].
#[derive(Debug, Clone)]
pub struct Progress {
    sender: watch::Sender<PullState>,
}

impl Progress {
    /// A progress and the receiver that watches it.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<PullState>) {
        let (sender, receiver) = watch::channel(PullState::default());
        (Self { sender }, receiver)
    }

    /// A progress that nobody watches.
    #[must_use]
    pub fn ignored() -> Self {
        Self::new().0
    }

    pub(crate) fn phase(&self, phase: PullPhase) {
        self.sender.send_modify(|state| state.phase = phase);
    }

    pub(crate) fn layers(&self, layers: Vec<LayerProgress>) {
        self.sender.send_modify(|state| {
            state.phase = PullPhase::Layers;
            state.layers = layers;
        });
    }

    pub(crate) fn layer(&self, index: usize, state: LayerState, received: u64) {
        self.sender.send_modify(|pull| {
            if let Some(layer) = pull.layers.get_mut(index) {
                layer.state = state;
                layer.received = received;
            }
        });
    }
}
