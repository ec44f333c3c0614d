//! Pulling an image.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use croze_model::{Credentials, Digest, ErrorKind, Platform, Reference, Result};
use croze_registry::{Registry, Resolved, parse_digest};
use croze_snapshots::chain_ids;
use futures_util::future::try_join_all;
use oci_spec::image::{Descriptor, ImageConfiguration};

use crate::error::ImageError;
use crate::flight::{Flight, Trace};
use crate::layer::{Stand, Stored};
use crate::pins::Pinned;
use crate::progress::{LayerProgress, LayerState, Progress, PullPhase};
use crate::records::{ImageLayer, ImageRecord, TagRecord};
use crate::store::{Images, Inner, MAX_CONFIG};

/// The media types of configs of images that can be run.
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The most layers an image may have, repeated ones counted: twice what can be stacked.
const MAX_LAYERS: usize = 1000;

/// How to pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Which platform the image must be for. `None`: this machine's is chosen from an index, and an image that there is for one platform only
    /// is taken with a warning.
    pub platform: Option<Platform>,
    /// On whose behalf the registry is asked.
    pub credentials: Credentials,
    /// On whose behalf its mirrors are asked, by their names, `host[:port][/path]`.
    pub mirror_credentials: BTreeMap<String, Credentials>,
}

/// Where a layer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerOrigin {
    /// It was fetched by this pull.
    Downloaded,
    /// It was here before.
    Existed,
    /// Another pull was fetching it at the same time, or the image has it twice.
    Shared,
}

/// One layer of a pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledLayer {
    /// The digest of the blob.
    pub blob: Digest,
    /// The digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Where it came from.
    pub origin: LayerOrigin,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The reference that was pulled.
    pub reference: Reference,
    /// What the registry's name resolved to: the digest of an index or of the manifest.
    pub digest: Digest,
    /// The image id: the digest of the config.
    pub id: Digest,
    /// The layers, base first.
    pub layers: Vec<PulledLayer>,
    /// Bytes of layers, config and manifest that this pull fetched.
    pub bytes_downloaded: u64,
    /// Bytes of layers and config that were here already, or that another pull fetched.
    pub bytes_existing: u64,
    /// Whether the name pointed at this very image before.
    pub up_to_date: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// An image that is being pulled: everything known before its layers are looked at.
struct Plan {
    reference: Reference,
    resolved: Resolved,
    config_digest: Digest,
    config_bytes: Vec<u8>,
    config: ImageConfiguration,
    config_fetched: bool,
    warnings: Vec<String>,
    layers: Vec<ImageLayer>,
    diff_ids: Vec<Digest>,
}

impl Images {
    /// Pulls an image. Dropping the future cancels the pull and removes what it had made, except what others wait for.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or platform, `Unavailable` for a registry that cannot be reached, `Unauthenticated`, `Corrupt` for
    /// content that is not what its digest or size promised, `ResourceExhausted` for a full disk.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Pulled> {
        let mut leftovers = Leftovers {
            images: Some(self.clone()),
        };
        let begun = Begun::default();
        let result = self.pull_layers(reference, options, progress, &begun).await;
        let Begun { flights, recording } = begun;
        let flights = flights.into_inner().unwrap_or_else(PoisonError::into_inner);
        if result.is_err() && (!flights.is_empty() || recording.into_inner()) {
            // Cleaned up before the error is told: whoever looks next finds nothing.
            for flight in flights {
                flight.gone().await;
            }
            if let Err(error) = self.collect().await {
                tracing::warn!(error = %error.one_line(), "what a failed pull left stays for now");
            }
        }
        leftovers.images = None;
        result
    }

    async fn pull_layers(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
        begun: &Begun,
    ) -> Result<Pulled> {
        progress.phase(PullPhase::Resolving);
        let registry = self
            .inner
            .registry
            .asking_as(options.credentials.clone())
            .showing_mirrors(options.mirror_credentials.clone());
        let wanted = options.platform.clone().unwrap_or_else(Platform::detected);
        let resolved = registry.resolve(reference, &wanted).await?;
        let (plan, pinned) = self.plan(&registry, reference, resolved, options).await?;
        // Work on blocking threads outlives this future if it is dropped, and needs its pins to the end.
        let pinned = Arc::new(pinned);
        let (layers, fetched) = self
            .fetch_layers(&registry, &plan, progress, begun, &pinned)
            .await?;

        // The guard goes into the closure: it must outlive this future if that is dropped then. Until it is to be had nothing is recorded, and who waits
        // for a removal to end can be cancelled.
        let guard = self.inner.gate.clone().read_owned().await;
        progress.phase(PullPhase::Recording);
        // Whoever cancelled it before this phase has done so: from here on it is recorded, and nobody can.
        tokio::task::yield_now().await;
        begun.recording.store(true, Ordering::Relaxed);
        let own = plan.resolved.bytes.len() as u64;
        let config_size = plan.config_bytes.len() as u64;
        let existing: u64 = layers.iter().map(|layer| layer.size).sum::<u64>() - fetched;
        let (config_fetched, config_existing) = if plan.config_fetched {
            (config_size, 0)
        } else {
            (0, config_size)
        };
        let mut pulled = Pulled {
            reference: reference.clone(),
            digest: plan.resolved.digest,
            id: plan.config_digest,
            layers,
            bytes_downloaded: fetched + own + config_fetched,
            bytes_existing: existing + config_existing,
            up_to_date: false,
            warnings: plan.warnings.clone(),
        };
        pulled.up_to_date = self
            .blocking("the records", move |inner| {
                let _held = (guard, pinned);
                inner.record(&plan)
            })
            .await?;
        progress.phase(PullPhase::Done);
        Ok(pulled)
    }

    /// Reads and checks the config, and pins everything the image consists of.
    async fn plan(
        &self,
        registry: &Registry,
        reference: &Reference,
        resolved: Resolved,
        options: &PullOptions,
    ) -> Result<(Plan, Vec<Pinned>)> {
        let what = reference.familiar();
        let descriptor = resolved.manifest.config();
        let media_type = descriptor.media_type().to_string();
        if !CONFIG_TYPES.contains(&media_type.as_str()) {
            return Err(ImageError::ConfigType {
                reference: what,
                media_type,
            }
            .into());
        }
        let config_digest = parse_digest(descriptor.digest(), &what)?;
        let mut blobs = vec![config_digest, resolved.manifest_digest];
        blobs.extend(layer_blobs(resolved.manifest.layers(), &what)?);
        let mut pinned = vec![self.pin(blobs.clone()).await];

        let here = self
            .blocking("the config", move |inner| inner.whole_config(&config_digest))
            .await?;
        let config_fetched = here.is_none();
        let config_bytes = match here {
            Some(bytes) => bytes,
            None => {
                registry
                    .small_blob(reference, &config_digest, descriptor.size(), MAX_CONFIG)
                    .await?
            }
        };
        let config: ImageConfiguration =
            serde_json::from_slice(&config_bytes).map_err(|source| ImageError::Config {
                config: config_digest,
                source,
            })?;
        let warnings = check_platform(&config, options.platform.as_ref(), &what)?;
        let diff_ids = diff_ids(&config, config_digest)?;
        let layers: Vec<ImageLayer> = resolved
            .manifest
            .layers()
            .iter()
            .zip(blobs.iter().skip(2))
            .zip(&diff_ids)
            .map(|((layer, blob), diff_id)| ImageLayer {
                diff_id: *diff_id,
                blob: *blob,
                media_type: layer.media_type().to_string(),
                blob_size: layer.size(),
            })
            .collect();
        let count = resolved.manifest.layers().len();
        if count != diff_ids.len() {
            return Err(ImageError::LayerCount {
                layers: count,
                diff_ids: diff_ids.len(),
            }
            .into());
        }
        let chains = chain_ids(&diff_ids);
        pinned.push(self.pin(diff_ids.iter().copied().chain(chains).collect()).await);
        let reference = reference.clone();
        let plan = Plan {
            reference,
            resolved,
            config_digest,
            config_bytes,
            config,
            config_fetched,
            warnings,
            layers,
            diff_ids,
        };
        Ok((plan, pinned))
    }

    /// Fetches what is missing, largest first; returns where each layer came from, and the bytes fetched.
    async fn fetch_layers(
        &self,
        registry: &Registry,
        plan: &Plan,
        progress: &Progress,
        begun: &Begun,
        pinned: &Arc<Vec<Pinned>>,
    ) -> Result<(Vec<PulledLayer>, u64)> {
        let (layers, diff_ids) = (plan.layers.clone(), plan.diff_ids.clone());
        let stands: Vec<Stand> = self
            .blocking("the layers", move |inner| {
                layers
                    .iter()
                    .enumerate()
                    .map(|(n, layer)| inner.stand(layer, &diff_ids[..=n]))
                    .collect()
            })
            .await?;
        progress.layers(
            plan.layers
                .iter()
                .zip(&stands)
                .map(|(layer, stand)| announced(layer, *stand))
                .collect(),
        );

        let mut missing: Vec<usize> = (0..stands.len())
            .filter(|&n| stands[n] != Stand::Complete)
            .collect();
        missing.sort_by_key(|&n| std::cmp::Reverse(plan.layers[n].blob_size));
        let flights = missing.into_iter().map(|n| {
            let board = move || {
                let boarded = self.board(registry, &plan.reference, &plan.layers[n]);
                begun.note(&boarded.flight);
                boarded
            };
            let mut boarded = board();
            async move {
                loop {
                    let tell = |state, received| progress.layer(n, state, received);
                    match boarded.flight.wait(tell).await {
                        Ok(landed) => return Ok::<_, croze_model::Error>((n, landed, boarded.began)),
                        // It flew from another registry, whose failure is not ours: the next one flies from here.
                        Err(lost) if !boarded.began && lost.is_the_sources => boarded = board(),
                        Err(lost) => return Err(lost.error),
                    }
                }
            }
        });
        let landed = try_join_all(flights.collect::<Vec<_>>()).await?;

        let mut origins = vec![LayerOrigin::Existed; stands.len()];
        let mut fetched = 0;
        let mut over_parents = Vec::new();
        for (n, landed, began) in landed {
            match (landed.fetched, began) {
                (0, _) => {}
                (_, false) => origins[n] = LayerOrigin::Shared,
                (bytes, true) => {
                    origins[n] = LayerOrigin::Downloaded;
                    fetched += bytes;
                }
            }
            if landed.stored == Stored::NeedsParents {
                over_parents.push(n);
            }
        }
        // From the base up: each may need the one below it.
        over_parents.sort_unstable();
        for n in over_parents {
            let (layer, diff_ids) = (plan.layers[n].clone(), plan.diff_ids[..=n].to_vec());
            let pinned = pinned.clone();
            self.blocking("a layer", move |inner| {
                let _pinned = pinned;
                inner.store_over_parents(&layer, &diff_ids)
            })
            .await?;
        }
        let pulled = plan
            .layers
            .iter()
            .zip(origins)
            .map(|(layer, origin)| PulledLayer {
                blob: layer.blob,
                diff_id: layer.diff_id,
                size: layer.blob_size,
                origin,
            });
        Ok((pulled.collect(), fetched))
    }

    async fn pin(&self, digests: Vec<Digest>) -> Pinned {
        // Waits for a removal that is under way: after this, whatever is still here stays.
        let _gate = self.inner.gate.read().await;
        self.inner.pins.pin(digests)
    }
}

/// What a pull began, to be cleaned up if it fails.
#[derive(Default)]
struct Begun {
    flights: Mutex<Vec<Trace>>,
    /// Whether it came to writing records.
    recording: AtomicBool,
}

impl Begun {
    fn note(&self, flight: &Arc<Flight>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.push(Trace::of(flight));
    }
}

/// The digests of the layers' blobs, if these are layers that can be fetched and unpacked.
fn layer_blobs(layers: &[Descriptor], reference: &str) -> Result<Vec<Digest>> {
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers {
            reference: reference.to_owned(),
            count: layers.len(),
            limit: MAX_LAYERS,
        }
        .into());
    }
    let limit = croze_layers::Limits::default().bytes;
    let mut blobs = Vec::with_capacity(layers.len());
    for layer in layers {
        let blob = parse_digest(layer.digest(), reference)?;
        if layer.size() > limit {
            return Err(ImageError::LayerSize {
                reference: reference.to_owned(),
                blob,
                size: layer.size(),
                limit,
            }
            .into());
        }
        if layer.media_type().to_string().ends_with("+encrypted") {
            let reference = reference.to_owned();
            return Err(ImageError::Encrypted { reference, blob }.into());
        }
        blobs.push(blob);
    }
    Ok(blobs)
}

impl Inner {
    /// The config if it is here and whole. A damaged one is removed, so that it is fetched again.
    fn whole_config(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        match self.content.read(digest, MAX_CONFIG) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(config = %digest, "a damaged config is fetched again");
                match self.content.verify(digest) {
                    Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Writes blobs, then image and tag. Says whether the tag pointed at this very image before.
    fn record(&self, plan: &Plan) -> Result<bool> {
        self.content.put(&plan.config_bytes)?;
        self.content.put(&plan.resolved.bytes)?;
        let mut size = 0;
        for n in 0..plan.diff_ids.len() {
            size += self
                .snapshots
                .top_layer(&plan.diff_ids[..=n])?
                .map_or(0, |layer| layer.size);
        }
        let image = ImageRecord {
            config: plan.config_digest,
            manifest: plan.resolved.manifest_digest,
            layers: plan.layers.clone(),
            size,
            created: plan.config.created().clone(),
            architecture: plan.config.architecture().to_string(),
            os: plan.config.os().to_string(),
            variant: plan.config.variant().clone(),
            naming: None,
        };
        let tag = TagRecord {
            reference: plan.reference.clone(),
            image: plan.config_digest,
            resolved: Some(plan.resolved.digest),
        };
        self.save(&image, &tag)
    }
}

fn diff_ids(config: &ImageConfiguration, digest: Digest) -> Result<Vec<Digest>, ImageError> {
    config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| {
            text.parse().map_err(|_| ImageError::DiffIdForm {
                config: digest,
                diff_id: text.chars().take(100).collect(),
            })
        })
        .collect()
}

/// Compares what the image is made for with what was asked for by name, which must fit, or with this machine, of which the user is warned.
fn check_platform(
    config: &ImageConfiguration,
    asked: Option<&Platform>,
    reference: &str,
) -> Result<Vec<String>, ImageError> {
    let mut made_for = made_for(config);
    let Some(asked) = asked else {
        return Ok(made_for.mismatch(&Platform::detected()).into_iter().collect());
    };
    if made_for.variant.is_none() && made_for.architecture == asked.architecture {
        // Many configs leave out the variant that their index tells.
        made_for.variant.clone_from(&asked.variant);
    }
    if made_for.satisfies(asked) {
        return Ok(Vec::new());
    }
    Err(ImageError::Platform {
        reference: reference.to_owned(),
        platform: made_for.to_string(),
        wanted: asked.to_string(),
    })
}

/// The platform by the config: an index only repeats what the config says, and a single manifest says nothing.
fn made_for(config: &ImageConfiguration) -> Platform {
    Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    }
}

fn announced(layer: &ImageLayer, stand: Stand) -> LayerProgress {
    let state = match stand {
        Stand::Complete => LayerState::Exists,
        Stand::BlobOnly | Stand::Nothing => LayerState::Waiting,
    };
    LayerProgress {
        digest: layer.blob,
        diff_id: layer.diff_id,
        state,
        received: 0,
        total: layer.blob_size,
    }
}

/// Sweeps what a pull made when its future is dropped before the end.
struct Leftovers {
    images: Option<Images>,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if let (Some(images), Ok(runtime)) = (self.images.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = images.collect().await {
                    tracing::warn!(error = %error.one_line(), "what a cancelled pull left stays for now");
                }
            });
        }
    }
}
