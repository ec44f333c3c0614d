//! Giving an image another name.

use croze_model::{Reference, Result};

use crate::error::ImageError;
use crate::image::Image;
use crate::records::TagRecord;
use crate::store::Images;

impl Images {
    /// Gives the image that `text` means the name `target`, which another image may have had until now: that one keeps its other names, or
    /// stays without any. Gives the image as it is named then.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `ImageError::TagWithDigest` for a name that is a digest: such a name says itself which image it means.
    pub async fn tag(&self, text: &str, target: &Reference) -> Result<Image> {
        if target.digest().is_some() {
            return Err(ImageError::TagWithDigest {
                name: target.familiar(),
            }
            .into());
        }
        // A removal either comes first, and the image is not found, or finds the name.
        let guard = self.inner.gate.clone().write_owned().await;
        let (text, reference) = (text.to_owned(), target.clone());
        self.blocking("the images", move |inner| {
            let _guard = guard;
            let image = inner.resolve(&text)?;
            // What the registry called it there holds for its other names in that repository too.
            let beside = inner.tag_records()?.into_iter().find(|tag| {
                tag.image == image.id
                    && tag.reference.repository() == reference.repository()
                    && tag.resolved.is_some()
            });
            let record = TagRecord {
                reference: reference.clone(),
                image: image.id,
                resolved: beside.and_then(|tag| tag.resolved),
            };
            let name = reference.to_string();
            inner
                .tags
                .save(&record)
                .map_err(ImageError::record("write", name))?;
            inner.resolve(&image.id.to_string())
        })
        .await
    }
}
