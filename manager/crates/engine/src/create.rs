//! `create`: an image and a request become a container.
//!
//! | step | undo |
//! |---|---|
//! | hold the image against removal | released when the verb ends |
//! | check what is asked of the network and of the storage | none: only read |
//! | find the image on this machine | none: only read |
//! | make the snapshot | remove it |
//! | store the record, which takes the name | none: it is the last step, and gives the name back itself when it fails |

use std::future::Future;

use croze_containers::{ContainersError, CreateRequest, Created, ImageFacts};
use croze_images::ImageDetails;
use croze_model::{ContainerId, Error, ErrorKind, Platform, Result};
use croze_snapshots::Limit;
use croze_store::Durable;

use crate::engine::{Engine, blocking, complete};
use crate::undo::Undo;
use crate::waiting::WaitingClient;
use crate::{hello, names, storage};

/// So many made-up names are tried before the machine is declared full of containers.
const NAME_ATTEMPTS: usize = 16;

impl Engine {
    /// Makes a container; nothing runs yet.
    ///
    /// # Errors
    /// `NotFound` if the image is not on this machine, `AlreadyExists` if the name is taken, `InvalidArgument` for what cannot be run.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        self.create_for(request, std::future::pending()).await
    }

    /// As [`Engine::create`], for a client that is gone when `client_gone` ends. If it has said that it starts the container next and goes away
    /// before, a container that removes itself is removed.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn create_for(
        &self,
        request: CreateRequest,
        client_gone: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Created> {
        let engine = self.clone();
        complete(async move {
            let is_bound = request.start_follows && request.auto_remove;
            let created = engine.create_to_the_end(request).await?;
            if is_bound {
                let mut client = WaitingClient::new(&engine, &created.id);
                tokio::spawn(async move {
                    // A connection may outlive thousands of containers.
                    tokio::select! {
                        () = client.over() => {}
                        () = client_gone => {}
                    }
                });
            }
            Ok(created)
        })
        .await
    }

    async fn create_to_the_end(&self, mut request: CreateRequest) -> Result<Created> {
        let limit = storage::limit_of_request(&request.options.storage_opt, self.settings().storage_limit)?;
        storage::show_limit(&mut request.options.storage_opt, limit);
        let warnings = self.resolve_network(&mut request).await?;
        let _image_stays = self.image_gate().read().await;
        let image = self.image_to_run(&request.image).await?;
        let warning = check_platform(&request, &image)?;
        let id = self.containers().new_id()?;
        // Recovery must not take a snapshot without a record for a leftover while its record is being made.
        let _lock = self.locks().lock(&id).await;
        let mut undo = Undo::new(format!("container {}", id.short()));

        let durable = request.durable();
        self.make_snapshot(&id, &image, limit, durable).await?;
        let engine = self.clone();
        let snapshot = id.clone();
        undo.push("remove the snapshot", async move {
            engine.discard_rootfs(&snapshot, durable).await
        });

        match self.store_record(&id, request, &image).await {
            Ok(mut created) => {
                created.warnings.extend(warnings);
                created.warnings.extend(warning);
                if let Ok(container) = self.containers().get(&created.id) {
                    self.bus().tell_of(&container, "create", &[]);
                }
                Ok(created)
            }
            Err(error) => {
                undo.run(self).await;
                Err(error)
            }
        }
    }

    async fn image_to_run(&self, text: &str) -> Result<ImageDetails> {
        match self.images().inspect(text).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(hello::explain(text, self.settings().hello).unwrap_or(error))
            }
            other => other,
        }
    }

    async fn make_snapshot(
        &self,
        id: &ContainerId,
        image: &ImageDetails,
        limit: Limit,
        durable: Durable,
    ) -> Result<()> {
        let (snapshots, id, diff_ids) = (self.snapshots().clone(), id.clone(), image.image.diff_ids());
        blocking(move || {
            snapshots
                .prepare_when(id.as_str(), &diff_ids, limit, durable)
                .map(|_| ())
        })
        .await
    }

    /// Stores the record under the wanted name, or under the first made-up one that is free.
    async fn store_record(
        &self,
        id: &ContainerId,
        request: CreateRequest,
        image: &ImageDetails,
    ) -> Result<Created> {
        let facts = ImageFacts::from_config(image.image.id.to_string(), &image.config);
        if request.name.is_some() {
            return Ok(self.containers().create(id.clone(), request, facts).await?);
        }
        for attempt in 0..NAME_ATTEMPTS {
            let named = CreateRequest {
                name: names::for_id(id, attempt),
                ..request.clone()
            };
            match self.containers().create(id.clone(), named, facts.clone()).await {
                Err(ContainersError::NameTaken(_)) => {}
                other => return Ok(other?),
            }
        }
        Err(
            Error::new(ErrorKind::ResourceExhausted, "create", "no made-up name is free")
                .hint("choose one with --name"),
        )
    }
}

/// Compares what the image is made for with what was asked for by name, which must fit, or with this machine, of which the user is warned.
fn check_platform(request: &CreateRequest, details: &ImageDetails) -> Result<Option<String>> {
    let made_for = details.image.platform();
    let Some(asked) = &request.platform else {
        return Ok(made_for.mismatch(&Platform::detected()));
    };
    // Many configs leave out the variant that their index tells.
    let unsaid = made_for.variant.is_none() && made_for.architecture == asked.architecture;
    if unsaid || made_for.satisfies(asked) {
        return Ok(None);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        "create",
        format!(
            "image {} was found but does not match the specified platform: wanted {asked}, actual {made_for}",
            request.image
        ),
    )
    .hint(format!(
        "pull the one for that platform: croze pull --platform {asked} {}",
        request.image
    )))
}
