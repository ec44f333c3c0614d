//! What there is: containers and images, as far as conditions let them through.

use croze_containers::Container;
use croze_images::Image;
use croze_model::{ContainerId, ErrorKind, Result};

use crate::engine::{Engine, blocking};
use crate::filters::Filter;
use crate::filters::containers::{ContainerFilters, References};
use crate::filters::images::ImageFilters;

/// Lists containers.
#[derive(Debug, Clone, Default)]
pub struct ContainersRequest {
    /// Also those that do not run.
    pub all: bool,
    /// Only so many of the newest, whether or not they run; `None`: all.
    pub limit: Option<usize>,
    /// Measure what they wrote.
    pub sizes: bool,
    /// Conditions, by docker's names.
    pub filters: Vec<Filter>,
}

/// Lists images.
#[derive(Debug, Clone, Default)]
pub struct ImagesRequest {
    /// Conditions, by docker's names.
    pub filters: Vec<Filter>,
}

/// A container of a list.
#[derive(Debug, Clone)]
pub struct ListedContainer {
    /// The record.
    pub container: Container,
    /// What it takes on disk, if that was asked for.
    pub disk_use: Option<DiskUse>,
}

/// What a container takes on disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// What it wrote.
    pub written: u64,
    /// That and its image.
    pub whole: u64,
}

impl Engine {
    /// Containers, the newest first.
    ///
    /// # Errors
    /// `InvalidArgument` for conditions that make no sense, `NotFound` if they refer to a container that is not there; else what the file system
    /// says where sizes are asked for.
    pub async fn list_containers(&self, request: &ContainersRequest) -> Result<Vec<ListedContainer>> {
        let filters = ContainerFilters::parse(&request.filters)?;
        let references = self.references(&filters).await?;
        let all = request.all || request.limit.is_some() || filters.wants_states();
        let mut selected = filters.select(self.containers().list(), &references);
        selected.retain(|container| all || container.state.is_running());
        selected.truncate(request.limit.unwrap_or(usize::MAX));
        let mut listed = Vec::with_capacity(selected.len());
        for container in selected {
            let disk_use = if request.sizes {
                self.disk_use(&container).await?
            } else {
                None
            };
            listed.push(ListedContainer { container, disk_use });
        }
        Ok(listed)
    }

    async fn references(&self, filters: &ContainerFilters) -> Result<References> {
        let meant = |name: Option<&str>| -> Result<Option<ContainerId>> {
            Ok(name.map(|name| self.containers().resolve(name)).transpose()?)
        };
        let mut references = References {
            before: meant(filters.before())?,
            since: meant(filters.since())?,
            ..References::default()
        };
        if filters.ancestors().is_empty() {
            return Ok(references);
        }
        let images = self.images().list().await?;
        for name in filters.ancestors() {
            // As with docker, no container comes from an image that is not there.
            let Ok(ancestor) = self.images().resolve(name).await else {
                continue;
            };
            let descends = |image: &&Image| {
                image.id == ancestor.id
                    || (!ancestor.layers.is_empty() && image.diff_ids().starts_with(&ancestor.diff_ids()))
            };
            let family = images.iter().filter(descends).map(|image| image.id.to_string());
            references.ancestors.extend(family);
        }
        Ok(references)
    }

    /// What a container takes on disk; `None` if it is removed meanwhile.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn disk_use(&self, container: &Container) -> Result<Option<DiskUse>> {
        let (snapshots, id) = (self.snapshots().clone(), container.id.clone());
        let written = match blocking(move || snapshots.usage(id.as_str())).await {
            Ok(usage) => usage.bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // An image that was removed by force is not counted any more.
        let image = self.images().resolve(&container.image.id).await;
        let whole = written + image.map_or(0, |image| image.size);
        Ok(Some(DiskUse { written, whole }))
    }

    /// Images, the newest first, with those of their names that fit.
    ///
    /// # Errors
    /// `InvalidArgument` for conditions that make no sense, `NotFound` if they refer to an image that is not there; else if the records cannot be
    /// read.
    pub async fn list_images(&self, request: &ImagesRequest) -> Result<Vec<Image>> {
        let filters = ImageFilters::parse(&request.filters)?;
        let (before, since) = (
            self.made(filters.before()).await?,
            self.made(filters.since()).await?,
        );
        let mut images = Vec::new();
        for image in self.images().list().await? {
            if filters.wants_labels() && !self.fits_labels(&filters, &image).await? {
                continue;
            }
            images.extend(filters.select(image, before.as_deref(), since.as_deref()));
        }
        // RFC 3339 in UTC sorts as text does; images without a time come last.
        images.sort_by(|a, b| b.created.cmp(&a.created));
        Ok(images)
    }

    /// When the image of this name was made.
    async fn made(&self, name: Option<&str>) -> Result<Option<String>> {
        Ok(match name {
            Some(name) => Some(self.images().resolve(name).await?.created.unwrap_or_default()),
            None => None,
        })
    }

    async fn fits_labels(&self, filters: &ImageFilters, image: &Image) -> Result<bool> {
        let details = match self.images().inspect(&image.id.to_string()).await {
            Ok(details) => details,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let labels = details
            .config
            .config()
            .as_ref()
            .and_then(|config| config.labels().as_ref());
        Ok(filters.fits_labels(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str)))
    }
}
