//! Verbs on images.

use std::collections::BTreeMap;
use std::sync::Arc;

use croze_images::{
    Image, ImageDetails, ImageUse, Progress, PullOptions, PullState, Pulled, RemoveOptions, Removed,
};
use croze_model::{Credentials, Error, ErrorKind, Platform, Reference, Result};
use croze_registry::LoggedIn;

use crate::engine::{Engine, complete};
use crate::events::EventKind;
use crate::hello;
use crate::operation::Operation;

/// Fetches an image.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// `[registry[:port]/]name[:tag][@digest]`.
    pub reference: String,
    /// `os/architecture[/variant]`; `None`: this machine's.
    pub platform: Option<String>,
    /// On whose behalf.
    pub credentials: Credentials,
    /// On whose behalf mirrors of the registry are asked, by their names.
    pub mirror_credentials: BTreeMap<String, Credentials>,
}

/// Asks a registry whether it takes credentials.
#[derive(Debug, Clone)]
pub struct LoginRequest {
    /// `host[:port]`.
    pub server: String,
    /// Whose.
    pub credentials: Credentials,
}

/// Removes a name of an image, or an image.
#[derive(Debug, Clone)]
pub struct RemoveImageRequest {
    /// Reference, id or unambiguous prefix of an id.
    pub image: String,
    /// Also if a stopped container uses it, or it has several names.
    pub force: bool,
}

/// Gives an image another name.
#[derive(Debug, Clone)]
pub struct TagImageRequest {
    /// Which image: reference, id or unambiguous prefix of an id.
    pub source: String,
    /// Its new name: `[registry[:port]/]name[:tag]`.
    pub target: String,
}

impl Engine {
    /// Begins to fetch an image. Dropping the operation cancels it.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference or platform; all else comes as the operation's result.
    pub fn pull(&self, request: &PullRequest) -> Result<Operation<PullState, Pulled>> {
        let reference = parse_reference(&request.reference)?;
        let platform = request.platform.as_deref().map(parse_platform).transpose()?;
        let options = PullOptions {
            platform,
            credentials: request.credentials.clone(),
            mirror_credentials: request.mirror_credentials.clone(),
        };
        let (progress, watched) = Progress::new();
        let (engine, subject) = (self.clone(), reference.familiar());
        let work = tokio::spawn(async move {
            if hello::is_hello(&reference) {
                return engine.install_hello().await;
            }
            let pulled = match engine.images().pull(&reference, &options, &progress).await {
                Ok(pulled) => pulled,
                Err(error) => return Err(engine.with_names_that_are_near(error, &reference).await),
            };
            let (id, name) = (pulled.id.to_string(), reference.familiar_repository());
            engine.bus().tell(
                EventKind::Image,
                "pull",
                reference.familiar(),
                &[("id", &id), ("name", &name)],
            );
            Ok(pulled)
        });
        let entry = self
            .operations()
            .enter("pull", subject, watched.clone(), work.abort_handle());
        Ok(Operation::new(watched, work, entry))
    }

    /// The failure of a pull, with the images here that may have been meant: a registry that has no such repository often asks for a login instead
    /// of saying so, and a misspelled name is asked for at a registry that may not be reached from here.
    async fn with_names_that_are_near(&self, error: Error, reference: &Reference) -> Error {
        let spelling = matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::Unauthenticated
                | ErrorKind::PermissionDenied
                | ErrorKind::Unavailable
        );
        if !spelling {
            return error;
        }
        let near = self.images().near(reference).await;
        if near.is_empty() {
            return error;
        }
        let already = error
            .advice()
            .map(|advice| format!("{advice}; "))
            .unwrap_or_default();
        let hint = format!("{already}there is {} on this machine", near.join(" and "));
        error.hint(hint)
    }

    /// Whom a pull of this reference would ask, in order: mirrors (`host[:port][/path]`), and last the registry itself.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference.
    pub fn sources(&self, reference: &str) -> Result<Vec<String>> {
        let reference = parse_reference(reference)?;
        Ok(self.registry().sources_of(reference.domain()))
    }

    /// Asks a registry whether it takes credentials. Nothing is kept.
    ///
    /// # Errors
    /// `Unauthenticated` if it does not; `Unavailable`, `NotFound` if there is no registry; `InvalidArgument` for what is no registry's name.
    pub async fn login(&self, request: LoginRequest) -> Result<LoggedIn> {
        self.registry()
            .asking_as(request.credentials)
            .login(&request.server)
            .await
    }

    /// Which image a text means.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for an ambiguous prefix.
    pub async fn resolve_image(&self, text: &str) -> Result<Image> {
        self.images().resolve(text).await
    }

    /// Everything about one image.
    ///
    /// # Errors
    /// As [`Engine::resolve_image`].
    pub async fn inspect_image(&self, text: &str) -> Result<ImageDetails> {
        self.images().inspect(text).await
    }

    /// Bytes that each of an image's layers takes on disk, base first.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub async fn layer_sizes(&self, image: &Image) -> Result<Vec<u64>> {
        self.images().layer_sizes(image).await
    }

    /// Removes a name, and the image with the last one. Waits for creates in flight, whose containers then count as users.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if a container uses it.
    pub async fn remove_image(&self, request: RemoveImageRequest) -> Result<Removed> {
        let engine = self.clone();
        complete(async move {
            let no_create = Arc::clone(engine.image_gate()).write_owned().await;
            let options = RemoveOptions { force: request.force };
            // An image whose record is damaged has no id to be told; it can be removed all the same.
            let meant = match engine.images().resolve(&request.image).await {
                Ok(image) => image.id.to_string(),
                Err(_) => request.image.clone(),
            };
            let removed = engine
                .images()
                .remove_holding(&request.image, options, &engine.image_uses(), no_create)
                .await?;
            for reference in &removed.untagged {
                let name = reference.familiar();
                engine
                    .bus()
                    .tell(EventKind::Image, "untag", meant.as_str(), &[("name", &name)]);
            }
            for id in &removed.deleted {
                let id = id.to_string();
                engine
                    .bus()
                    .tell(EventKind::Image, "delete", id.as_str(), &[("name", &id)]);
            }
            Ok(removed)
        })
        .await
    }

    /// Gives an image another name, which another image may have had until now.
    ///
    /// # Errors
    /// `NotFound` if there is no such image; `InvalidArgument` for a name that no image can be given.
    pub async fn tag_image(&self, request: TagImageRequest) -> Result<()> {
        let target = request
            .target
            .parse()
            .map_err(|source: croze_model::ReferenceError| {
                let what = format!("cannot tag {:?} as {:?}", request.source, request.target);
                Error::new(ErrorKind::InvalidArgument, "tag", what).because(source)
            })?;
        let engine = self.clone();
        complete(async move {
            let image = engine.images().tag(&request.source, &target).await?;
            let (id, name) = (image.id.to_string(), target.familiar());
            engine.bus().tell(EventKind::Image, "tag", id, &[("name", &name)]);
            Ok(())
        })
        .await
    }

    /// The images that containers use.
    pub(crate) fn image_uses(&self) -> Vec<ImageUse> {
        self.containers()
            .list()
            .into_iter()
            .filter_map(|container| {
                let image = container.image.id.parse().ok()?;
                Some(ImageUse {
                    image,
                    container: container.name.to_string(),
                    running: container.state.is_running(),
                })
            })
            .collect()
    }
}

fn parse_reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|source: croze_model::ReferenceError| {
        invalid(format!("cannot pull {text:?}"), Arc::new(source))
    })
}

fn parse_platform(text: &str) -> Result<Platform> {
    text.parse().map_err(|source: croze_model::PlatformError| {
        invalid(format!("cannot pull for {text:?}"), Arc::new(source))
    })
}

fn invalid(what: String, source: Arc<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::InvalidArgument, "pull", what).because(source)
}
