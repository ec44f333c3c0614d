//! Flights: the work on one layer, shared by everybody who wants it.
//!
//! ```text
//!   pull A --.                      .--> download (async) --pieces--> unpack (blocking) --.
//!             >-- one flight -------                                                       >-- outcome, told to all
//!   pull B --'                      '--> or: nothing to fetch, the blob is here ----------'
//! ```
//!
//! A flight runs as a task of its own. It lives as long as somebody waits for it; when the last one goes, the download stops, the unpacking
//! thread sees the end of its input, fails, and removes what it had made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use croze_model::{Digest, Error, ErrorKind, Reference, Result};
use croze_registry::Registry;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::error::{ImageError, copy};
use crate::layer::{Blame, Failed, Stored};
use crate::progress::LayerState;
use crate::records::ImageLayer;
use crate::store::Images;

/// How many layers of one registry are fetched and unpacked at once, by all pulls together.
const PARALLEL_LAYERS: usize = 4;
/// How many pieces of a download may wait for the unpacking thread.
const WAITING_PIECES: usize = 32;
/// How long a failed pull waits for its cancelled flights before it says that it failed.
const CLEANING: Duration = Duration::from_secs(10);

/// Who may begin, by registry: one that is slow holds up its own layers only.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    of_registry: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Slots {
    fn of(&self, registry: &str) -> Arc<Semaphore> {
        let mut slots = self.of_registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has a slot, or waits for one, holds them.
        slots.retain(|name, slots| name == registry || Arc::strong_count(slots) > 1);
        slots
            .entry(registry.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(PARALLEL_LAYERS)))
            .clone()
    }
}

/// The flights in the air, by blob and diff id.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flying: Mutex<HashMap<(Digest, Digest), Weak<Flight>>>,
}

/// A flight that somebody waits for.
#[derive(Debug)]
pub(crate) struct Flight {
    state: watch::Receiver<FlightState>,
    /// Dropped with the last waiter, which the flight's task sees.
    _wanted: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Default)]
struct FlightState {
    layer: LayerState,
    received: u64,
    outcome: Option<Outcome>,
}

type Outcome = Result<Landed, Arc<Lost>>;

/// Why a flight brought nothing.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// Whether it is about where the layer was to come from, and not about this host or the layer itself: from elsewhere it may come.
    pub(crate) is_the_sources: bool,
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        let is_the_sources = matches!(
            error.kind(),
            ErrorKind::Unavailable
                | ErrorKind::Unauthenticated
                | ErrorKind::PermissionDenied
                | ErrorKind::Corrupt
        );
        Self {
            error,
            is_the_sources,
        }
    }
}

impl From<Failed> for Lost {
    fn from(Failed { error, blame }: Failed) -> Self {
        Self {
            error,
            is_the_sources: blame == Blame::Source,
        }
    }
}

/// What a flight brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landed {
    pub(crate) stored: Stored,
    /// Bytes that came over the network.
    pub(crate) fetched: u64,
}

/// A flight, and whether the caller began it.
pub(crate) struct Boarded {
    pub(crate) flight: Arc<Flight>,
    pub(crate) began: bool,
}

impl Images {
    /// Joins the flight of a layer, or begins one.
    pub(crate) fn board(&self, registry: &Registry, reference: &Reference, layer: &ImageLayer) -> Boarded {
        let key = (layer.blob, layer.diff_id);
        let mut flying = self
            .inner
            .flights
            .flying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flying.get(&key).and_then(Weak::upgrade) {
            let over = flight.state.borrow().outcome.is_some();
            if !over {
                return Boarded { flight, began: false };
            }
        }
        let (sender, state) = watch::channel(FlightState::default());
        let (wanted, unwanted) = oneshot::channel();
        let flight = Arc::new(Flight {
            state,
            _wanted: wanted,
        });
        flying.retain(|_, flight| flight.strong_count() > 0);
        flying.insert(key, Arc::downgrade(&flight));
        let task = FlightTask {
            images: self.clone(),
            registry: registry.clone(),
            reference: reference.clone(),
            layer: layer.clone(),
            state: sender,
        };
        tokio::spawn(task.run(unwanted));
        Boarded { flight, began: true }
    }
}

impl Flight {
    /// Waits for the outcome, and tells every change on the way.
    pub(crate) async fn wait(&self, mut tell: impl FnMut(LayerState, u64)) -> Result<Landed, Lost> {
        let mut state = self.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            tell(now.layer, now.received);
            match now.outcome {
                Some(Ok(landed)) => return Ok(landed),
                Some(Err(lost)) => {
                    return Err(Lost {
                        error: copy(&lost.error),
                        is_the_sources: lost.is_the_sources,
                    });
                }
                None => {}
            }
            if state.changed().await.is_err() {
                // The task ended without an outcome: it panicked, or the runtime is going down.
                let cut_off = ImageError::CutOff {
                    what: "a layer".to_owned(),
                };
                return Err(Error::from(cut_off).into());
            }
        }
    }
}

/// A flight seen from outside: it does not keep the flight in the air.
#[derive(Debug)]
pub(crate) struct Trace {
    flight: Weak<Flight>,
    state: watch::Receiver<FlightState>,
}

impl Trace {
    pub(crate) fn of(flight: &Arc<Flight>) -> Self {
        Self {
            flight: Arc::downgrade(flight),
            state: flight.state.clone(),
        }
    }

    /// Waits until a flight that nobody wants any more has cleaned up; one that others want is not waited for.
    pub(crate) async fn gone(mut self) {
        if self.flight.strong_count() > 0 {
            return;
        }
        let landed = self.state.wait_for(|state| state.outcome.is_some());
        if tokio::time::timeout(CLEANING, landed).await.is_err() {
            tracing::warn!("a cancelled download takes long to clean up");
        }
    }
}

struct FlightTask {
    images: Images,
    /// Asks on behalf of who began the flight.
    registry: Registry,
    reference: Reference,
    layer: ImageLayer,
    state: watch::Sender<FlightState>,
}

impl FlightTask {
    async fn run(self, mut unwanted: oneshot::Receiver<()>) {
        // Held until the end, so that nothing of this layer is swept while it is made, whoever still waits.
        let pinned = self
            .images
            .inner
            .pins
            .pin(vec![self.layer.blob, self.layer.diff_id]);
        let outcome = self.fly(&mut unwanted).await;
        let complete = outcome.is_ok();
        self.state.send_modify(|state| {
            if outcome.is_ok() {
                state.layer = LayerState::Done;
            }
            state.outcome = Some(outcome.map_err(Arc::new));
        });
        drop(pinned);
        let cancelled = matches!(unwanted.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        if cancelled && complete {
            // It was finished when the last one went: no image will name it, unless a pull pinned it.
            if let Err(error) = self.images.collect().await {
                tracing::warn!(error = %error.one_line(), "what a cancelled download left stays for now");
            }
        }
    }

    async fn fly(&self, unwanted: &mut oneshot::Receiver<()>) -> Result<Landed, Lost> {
        let cancelled = || {
            Error::from(ImageError::CutOff {
                what: format!("layer {}", self.layer.blob),
            })
        };
        let slots = self.images.inner.slots.of(self.reference.domain());
        let _slot = tokio::select! {
            slot = slots.acquire_owned() => slot.map_err(|_| cancelled())?,
            _ = &mut *unwanted => return Err(cancelled().into()),
        };
        if let Some(stored) = self.use_blob().await? {
            return Ok(Landed { stored, fetched: 0 });
        }
        let mut suspects = Vec::new();
        loop {
            self.tell(LayerState::Downloading, 0);
            let (sender, pieces) = mpsc::channel(WAITING_PIECES);
            let layer = self.layer.clone();
            let inner = self.images.inner.clone();
            let unpacking = tokio::task::spawn_blocking(move || inner.store_arriving(&layer, pieces));
            let fetched = tokio::select! {
                fetched = self.fetch(sender, &suspects) => fetched,
                _ = &mut *unwanted => Err(cancelled()),
            };
            // Whatever happened, the sender is gone by now and the thread comes to an end.
            let stored = unpacking.await.map_err(|_| cancelled());
            let suspect = fetched?;
            match (stored?, suspect) {
                (
                    Err(Failed {
                        error,
                        blame: Blame::Source,
                    }),
                    Some(suspect),
                ) => {
                    tracing::warn!(
                        blob = %self.layer.blob, mirror = suspect, error = %error.one_line(),
                        "a mirror may have served something else, the next source is asked"
                    );
                    suspects.push(suspect);
                }
                (Err(failed), _) => return Err(failed.into()),
                (Ok(stored), _) => {
                    return Ok(Landed {
                        stored,
                        fetched: self.layer.blob_size,
                    });
                }
            }
        }
    }

    /// Uses the blob if it is here. One that turns out damaged was removed, and is fetched again.
    async fn use_blob(&self) -> Result<Option<Stored>> {
        let layer = self.layer.clone();
        let state = self.state.clone();
        self.images
            .blocking("a layer", move |inner| {
                if inner.content.size(&layer.blob)? != Some(layer.blob_size) {
                    return Ok(None);
                }
                state.send_modify(|state| {
                    state.layer = LayerState::Unpacking;
                    state.received = layer.blob_size;
                });
                match inner.store_blob(&layer) {
                    Ok(stored) => Ok(Some(stored)),
                    Err(error)
                        if error.kind() == ErrorKind::Corrupt
                            && inner.content.size(&layer.blob)?.is_none() =>
                    {
                        tracing::warn!(blob = %layer.blob, "a damaged blob was removed and is fetched again");
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// Downloads into the channel, from none of the suspects. Returns whom to suspect should the content be another. That nobody listens any
    /// more ends it at once, however silent the source is, and is no error here: the listener has one.
    async fn fetch(&self, pieces: mpsc::Sender<Bytes>, suspects: &[String]) -> Result<Option<String>> {
        let (blob, size) = (&self.layer.blob, self.layer.blob_size);
        let opening = self.registry.blob_except(&self.reference, blob, size, suspects);
        let mut blob = tokio::select! {
            opened = opening => opened?,
            () = pieces.closed() => return Ok(None),
        };
        let mut received = 0;
        loop {
            let piece = tokio::select! {
                piece = blob.next() => piece?,
                () = pieces.closed() => return Ok(blob.suspect()),
            };
            let Some(piece) = piece else { break };
            received += piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                return Ok(blob.suspect());
            }
            self.tell(LayerState::Downloading, received);
        }
        self.tell(LayerState::Unpacking, received);
        Ok(blob.suspect())
    }

    fn tell(&self, layer: LayerState, received: u64) {
        self.state.send_modify(|state| {
            state.layer = layer;
            state.received = received;
        });
    }
}
