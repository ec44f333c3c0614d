//! Removing images, and what nobody names any more.

use std::collections::HashSet;

use croze_model::{Digest, ErrorKind, Reference, Result};
use croze_snapshots::BuriedLayers;

use crate::error::ImageError;
use crate::image::Image;
use crate::store::{Images, Inner};

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The image's id.
    pub image: Digest,
    /// How the container is called in messages.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// How to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Remove even if a stopped container uses the image, or it has several names.
    pub force: bool,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// Images that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes of blobs and of layers' files that are gone.
    pub bytes_freed: u64,
}

/// What a removal will do.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Names to take away.
    untag: Vec<Reference>,
    /// Whether the image goes too.
    delete: bool,
}

impl Images {
    /// Removes a name, and the image when it was the last one, by docker's rules: a container that runs keeps its image (forced, only the name
    /// goes), a stopped one keeps it unless forced; an id with several names is refused unless forced. A name with a digest that the image was pulled by is a name like
    /// any other. `in_use` lists the images of all containers.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for an ambiguous id, or `Conflict`.
    pub async fn remove(&self, text: &str, options: RemoveOptions, in_use: &[ImageUse]) -> Result<Removed> {
        self.remove_holding(text, options, in_use, ()).await
    }

    /// As [`Images::remove`]; `held`, which keeps new uses away, is dropped as soon as nothing can be found any more. To give back the space of
    /// what is gone takes longer, and nobody has to wait for it.
    ///
    /// # Errors
    /// As [`Images::remove`].
    pub async fn remove_holding(
        &self,
        text: &str,
        options: RemoveOptions,
        in_use: &[ImageUse],
        held: impl Send + 'static,
    ) -> Result<Removed> {
        let guard = self.inner.gate.clone().write_owned().await;
        let (text, in_use) = (text.to_owned(), in_use.to_vec());
        self.blocking("the images", move |inner| {
            let (removed, mut swept) = inner.remove_by_name(&text, options, &in_use)?;
            drop(held);
            swept.empty();
            // Only now: a pull that begins next finds room, and whoever looks finds nothing half gone.
            drop(guard);
            Ok(removed)
        })
        .await
    }

    /// Removes layers and blobs that no image, snapshot or running pull names; returns the bytes freed. To be called after the snapshot of
    /// a container is gone whose image was removed before it. While an image's record cannot be read, nothing is removed: it may name
    /// anything.
    ///
    /// # Errors
    /// If something cannot be read or removed.
    pub async fn collect(&self) -> Result<u64> {
        let guard = self.inner.gate.clone().write_owned().await;
        self.blocking("the images", move |inner| {
            let _guard = guard;
            let mut swept = inner.collect()?;
            swept.empty();
            Ok(swept.bytes)
        })
        .await
    }
}

/// What a collection took the names of; its space is not yet given back.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Swept {
    /// Bytes of blobs and of layers' files.
    pub(crate) bytes: u64,
    layers: BuriedLayers,
}

impl Swept {
    /// Gives the space back, which may take long.
    pub(crate) fn empty(&mut self) {
        self.layers.empty();
    }
}

/// Decides by docker's rules. `names` are all of the image's names, those with digests too.
fn plan(
    text: &str,
    image: &Image,
    names: &[Reference],
    options: RemoveOptions,
    in_use: &[ImageUse],
) -> Result<Plan, ImageError> {
    let parsed = text.parse::<Reference>().ok();
    let is_digest = parsed
        .as_ref()
        .is_some_and(|reference| reference.digest().is_some());
    let named = parsed.filter(|reference| names.contains(reference));
    if named.is_none() && is_digest && !names.is_empty() && !options.force {
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        return Err(ImageError::DigestOfTag {
            name: text.to_owned(),
            tags: tags.join(", "),
        });
    }
    if let Some(reference) = &named
        && names.len() > 1
    {
        return Ok(Plan {
            untag: vec![reference.clone()],
            delete: false,
        });
    }
    let users = || in_use.iter().filter(|user| user.image == image.id);
    let refused = |user: &ImageUse| ImageError::InUse {
        image: named
            .as_ref()
            .map_or_else(|| image.id.short(), Reference::familiar),
        container: user.container.clone(),
        state: if user.running { "running" } else { "stopped" },
    };
    if let Some(user) = users().find(|user| user.running) {
        // A name can be taken from a container that runs, if that is what is wanted; its image cannot.
        return match &named {
            Some(reference) if options.force => Ok(Plan {
                untag: vec![reference.clone()],
                delete: false,
            }),
            _ => Err(refused(user)),
        };
    }
    if let Some(user) = users().next().filter(|_| !options.force) {
        return Err(refused(user));
    }
    if named.is_none() && image.references.len() > 1 && !options.force {
        let names: Vec<String> = image.references.iter().map(Reference::familiar).collect();
        return Err(ImageError::SeveralNames {
            image: image.id.short(),
            names: names.join(", "),
        });
    }
    Ok(Plan {
        untag: names.to_vec(),
        delete: true,
    })
}

impl Inner {
    fn remove_by_name(
        &self,
        text: &str,
        options: RemoveOptions,
        in_use: &[ImageUse],
    ) -> Result<(Removed, Swept)> {
        let image = match self.resolve(text) {
            Err(unknown) if unknown.kind() == ErrorKind::NotFound => {
                let removed = self.remove_unreadable(text, options, in_use)?;
                return removed.ok_or(unknown);
            }
            resolved => resolved?,
        };
        let tags = self.tag_records()?.into_iter();
        let names: Vec<Reference> = tags
            .filter(|tag| tag.image == image.id)
            .map(|tag| tag.reference)
            .collect();
        let plan = plan(text, &image, &names, options, in_use)?;
        self.remove(&image, &plan)
    }

    fn remove(&self, image: &Image, plan: &Plan) -> Result<(Removed, Swept)> {
        let (mut removed, mut swept) = (Removed::default(), Swept::default());
        // The image before its names: see `naming`.
        if plan.delete {
            let what = format!("image {}", image.id);
            self.images
                .remove(&image.id.hex())
                .map_err(ImageError::record("remove", what))?;
            removed.deleted.push(image.id);
        }
        for tag in self
            .tag_records()?
            .into_iter()
            .filter(|tag| tag.image == image.id)
        {
            if plan.delete || plan.untag.contains(&tag.reference) {
                let name = tag.reference.to_string();
                self.tags
                    .remove(&name)
                    .map_err(ImageError::record("remove", &name))?;
                removed.untagged.push(tag.reference);
            }
        }
        if plan.delete {
            swept = self.collect()?;
            removed.bytes_freed = swept.bytes;
        }
        Ok((removed, swept))
    }

    /// Removes what nobody names. The caller keeps pulls from pinning meanwhile.
    pub(crate) fn collect(&self) -> Result<Swept> {
        let listing = self
            .images
            .survey()
            .map_err(ImageError::record("list", "images"))?;
        if let Some(unknown) = listing.unreadable.first() {
            tracing::warn!(
                path = %unknown.path.display(),
                reason = unknown.reason,
                "nothing is cleaned up, because this image cannot be read: pull it again, or remove it (croze info names it)"
            );
            return Ok(Swept::default());
        }
        let images = listing.records;
        let mut blobs = HashSet::new();
        let mut layers = HashSet::new();
        let known: HashSet<Digest> = images.iter().map(|image| image.config).collect();
        for image in &images {
            blobs.extend([image.config, image.manifest]);
            blobs.extend(image.layers.iter().map(|layer| layer.blob));
            let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id).collect();
            layers.extend(diff_ids.iter().copied());
            layers.extend(croze_snapshots::chain_ids(&diff_ids));
        }
        for tag in self
            .tag_records()?
            .into_iter()
            .filter(|tag| !known.contains(&tag.image))
        {
            tracing::warn!(name = %tag.reference, "a name without its image is removed");
            let name = tag.reference.to_string();
            self.tags
                .remove(&name)
                .map_err(ImageError::record("remove", &name))?;
        }
        for pair in self.pairs.list().map_err(ImageError::record("list", "pairs"))? {
            if !blobs.contains(&pair.blob) && !self.pins.holds(&pair.blob) {
                let name = pair.blob.hex();
                self.pairs
                    .remove(&name)
                    .map_err(ImageError::record("remove", &name))?;
            }
        }
        let unused: Vec<Digest> = self
            .snapshots
            .layers()?
            .into_iter()
            .map(|layer| layer.key)
            .filter(|key| !layers.contains(key) && !self.pins.holds(key))
            .collect();
        // One that a container still stands on stays; the next collection after it is gone takes it.
        let layers = self.snapshots.bury_layers(&unused)?;
        let mut bytes = layers.bytes;
        for blob in self.content.list()? {
            if !blobs.contains(&blob.digest) && !self.pins.holds(&blob.digest) {
                bytes += self.content.remove(&blob.digest)?;
            }
        }
        Ok(Swept { bytes, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str]) -> Image {
        Image {
            id: Digest::of(b"image"),
            manifest: Digest::of(b"manifest"),
            references: names.iter().map(|name| name.parse().unwrap()).collect(),
            repo_digests: vec![],
            layers: vec![],
            size: 0,
            created: None,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }

    fn user(running: bool) -> ImageUse {
        ImageUse {
            image: Digest::of(b"image"),
            container: "web".to_owned(),
            running,
        }
    }

    #[test]
    fn a_digest_is_a_name_only_if_the_image_was_pulled_by_it() {
        let options = RemoveOptions::default();
        let by_digest = format!("a@{}", Digest::of(b"manifest"));
        let names = |texts: &[&str]| -> Vec<Reference> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let image = image(&["a:1"]);
        for (held, expected) in [
            (vec!["a:1", &*by_digest], Some((1, false))),
            (vec![&*by_digest], Some((1, true))),
            (vec!["a:1"], None),
        ] {
            let plan = plan(&by_digest, &image, &names(&held), options, &[]);
            match (plan, expected) {
                (Ok(plan), Some(expected)) => {
                    assert_eq!((plan.untag.len(), plan.delete), expected, "{held:?}");
                    assert!(plan.untag.contains(&by_digest.parse().unwrap()), "{held:?}");
                }
                (Err(ImageError::DigestOfTag { .. }), None) => {}
                (plan, _) => panic!("{held:?}: {plan:?}"),
            }
        }
    }

    #[test]
    fn names_and_images_go_by_dockers_rules() {
        let (forced, plain) = (RemoveOptions { force: true }, RemoveOptions::default());
        let id = Digest::of(b"image").short();
        let stranger = ImageUse {
            image: Digest::of(b"other"),
            container: "x".to_owned(),
            running: true,
        };
        type Case<'a> = (
            &'a str,
            &'a [&'a str],
            RemoveOptions,
            Vec<ImageUse>,
            Result<(usize, bool), &'a str>,
        );
        let cases: Vec<Case<'_>> = vec![
            ("a:1", &["a:1"], plain, vec![stranger], Ok((1, true))),
            ("a:1", &["a:1", "b:1"], plain, vec![user(true)], Ok((1, false))),
            (
                "a:1",
                &["a:1"],
                plain,
                vec![user(true)],
                Err("running container web"),
            ),
            ("a:1", &["a:1"], forced, vec![user(true)], Ok((1, false))),
            (
                &id,
                &["a:1"],
                forced,
                vec![user(true)],
                Err("running container web"),
            ),
            (
                "a:1",
                &["a:1"],
                plain,
                vec![user(false)],
                Err("stopped container web"),
            ),
            ("a:1", &["a:1"], forced, vec![user(false)], Ok((1, true))),
            (&id, &["a:1"], plain, vec![], Ok((1, true))),
            (&id, &[], plain, vec![], Ok((0, true))),
            (
                &id,
                &["a:1", "b:1"],
                plain,
                vec![],
                Err("several names: a:1, b:1"),
            ),
            (&id, &["a:1", "b:1"], forced, vec![], Ok((2, true))),
        ];
        for (text, names, options, in_use, expected) in cases {
            let image = image(names);
            let plan = plan(text, &image, &image.references, options, &in_use);
            match (plan, expected) {
                (Ok(plan), Ok(expected)) => {
                    assert_eq!((plan.untag.len(), plan.delete), expected, "{text} {names:?}");
                }
                (Err(error), Err(message)) => assert!(error.to_string().contains(message), "{error}"),
                (plan, expected) => panic!("{text} {names:?}: {plan:?} instead of {expected:?}"),
            }
        }
    }
}
