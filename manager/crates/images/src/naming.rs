//! An image and its name are two files: how they come and go so that a crash between them leaves either both or none.
//!
//! | change | order | a crash between leaves | at the next start |
//! |---|---|---|---|
//! | a new image under a new name | name, image | a name without its image | the name goes (see [`Inner::collect`]) |
//! | a new image under a name that another image has | image with [`ImageRecord::naming`], name, image without it | an image that says which name it waits for | the image goes, unless it has got the name or any other |
//! | an image that is here under any name | name | | |
//! | the last name and its image go | image, names | names without their image | they go |
//!
//! An image without a name alone says nothing: whose name was moved to another image stays until it is removed.

use std::collections::HashSet;

use croze_model::{Digest, Result};

use crate::error::ImageError;
use crate::records::{ImageRecord, TagRecord};
use crate::store::Inner;

impl Inner {
    /// Writes the image and the name. Says whether both were just so before.
    pub(crate) fn save(&self, image: &ImageRecord, tag: &TagRecord) -> Result<bool> {
        let name = tag.reference.to_string();
        let before = self.tags.load(&name).map_err(ImageError::record("read", &name))?;
        let known = self
            .images
            .load(&image.config.hex())
            .map_err(ImageError::record("read", describe(image)))?;
        let is_named = before.as_ref() == Some(tag);
        match (known, before) {
            (Some(known), _) => {
                // Another pull may be about to name it.
                self.save_image(image, known.naming)?;
                if !is_named {
                    self.save_tag(tag)?;
                }
                return Ok(is_named);
            }
            (None, Some(before)) if before.image != tag.image => {
                self.save_image(image, Some(tag.clone()))?;
                self.save_tag(tag).inspect_err(|_| self.take_back_image(image))?;
                // The name is there: that the image still says it waits for it does no harm.
                if let Err(error) = self.save_image(image, None) {
                    tracing::warn!(image = %image.config, error = %error.one_line(), "its record is tidied up at the next start");
                }
            }
            (None, _) => {
                self.save_tag(tag)?;
                self.save_image(image, None).inspect_err(|_| {
                    self.take_back_image(image);
                    if let Err(error) = self.tags.remove(&name) {
                        tracing::warn!(name, %error, "a name without its image stays until the next cleaning");
                    }
                })?;
            }
        }
        Ok(false)
    }

    fn save_image(&self, image: &ImageRecord, naming: Option<TagRecord>) -> Result<()> {
        let record = ImageRecord {
            naming,
            ..image.clone()
        };
        let saved = self.images.save(&record);
        Ok(saved.map_err(ImageError::record("write", describe(image)))?)
    }

    fn save_tag(&self, tag: &TagRecord) -> Result<()> {
        let saved = self.tags.save(tag);
        Ok(saved.map_err(ImageError::record("write", tag.reference.to_string()))?)
    }

    /// Without its name a new image would stay for ever, and nobody asked for it.
    fn take_back_image(&self, image: &ImageRecord) {
        if let Err(error) = self.images.remove(&image.config.hex()) {
            tracing::warn!(image = %image.config, %error, "an image without a name stays");
        }
    }

    /// Comes to the end of what a crash has cut: an image that waits for a name has got it, or goes. To be called before anything else uses
    /// the records.
    pub(crate) fn finish_namings(&self) -> Result<()> {
        let listing = self
            .images
            .survey()
            .map_err(ImageError::record("list", "images"))?;
        let tags = self.tag_records()?;
        let named: HashSet<Digest> = tags.iter().map(|tag| tag.image).collect();
        for image in listing.records.iter().filter(|image| image.naming.is_some()) {
            if named.contains(&image.config) {
                self.save_image(image, None)?;
            } else {
                tracing::warn!(image = %image.config, "an image that was cut off before it had its name is removed");
                self.images
                    .remove(&image.config.hex())
                    .map_err(ImageError::record("remove", describe(image)))?;
            }
        }
        Ok(())
    }
}

fn describe(image: &ImageRecord) -> String {
    format!("image {}", image.config)
}
