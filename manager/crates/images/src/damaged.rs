//! What cannot be read: told to users, and removable like everything else.
//!
//! A record that is damaged (then it was set aside) or of a newer version names its image by its file name at least. So nobody has to look for a
//! file by hand, let alone give up the store.

use std::path::Path;

use croze_model::{Digest, Reference, Result};

use crate::error::ImageError;
use crate::remove::{ImageUse, RemoveOptions, Removed, Swept};
use crate::store::{Images, Inner};

/// Hexadecimal digits of a digest, with which the file of an image's record begins.
const ID_DIGITS: usize = 64;
/// The shortest prefix of an id that is taken for one.
const MIN_PREFIX: usize = 3;

impl Images {
    /// One line for each image, name, layer and root file system that is there and cannot be read, with what to do about it.
    ///
    /// # Errors
    /// If a directory of records cannot be read.
    pub async fn unreadable(&self) -> Result<Vec<String>> {
        self.blocking("the records", Inner::unreadable).await
    }
}

impl Inner {
    fn unreadable(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let images = self
            .images
            .survey()
            .map_err(ImageError::record("list", "images"))?;
        for lost in images.unreadable {
            let advice = match id_of(&lost.path) {
                Some(id) => format!("pull it again, or remove it: croze rmi {}", id.short()),
                None => "remove the file".to_owned(),
            };
            lines.push(line("an image", &lost.path, &lost.reason, &advice));
        }
        let tags = self.tags.survey().map_err(ImageError::record("list", "tags"))?;
        for lost in tags.unreadable {
            let advice = "pull or tag that name again, or remove it: croze rmi NAME";
            lines.push(line("a name of an image", &lost.path, &lost.reason, advice));
        }
        for (path, reason) in self.snapshots.unreadable_layers()? {
            let advice = "pull the images again that have it";
            lines.push(line("a layer", &path, &reason, advice));
        }
        for (path, reason) in self.snapshots.unreadable_snapshots()? {
            let advice = "remove the container of that id";
            lines.push(line("a root file system", &path, &reason, advice));
        }
        Ok(lines)
    }

    /// Removes an image whose record cannot be read, with its names; or a name whose record cannot be read. `None`: `text` means neither.
    pub(crate) fn remove_unreadable(
        &self,
        text: &str,
        options: RemoveOptions,
        in_use: &[ImageUse],
    ) -> Result<Option<(Removed, Swept)>> {
        let listing = self
            .images
            .survey()
            .map_err(ImageError::record("list", "images"))?;
        let lost: Vec<Digest> = listing
            .unreadable
            .iter()
            .filter_map(|lost| id_of(&lost.path))
            .collect();
        let reference = text.parse::<Reference>().ok();
        let tags = self.tag_records()?;
        let named = tags
            .iter()
            .find(|tag| Some(&tag.reference) == reference.as_ref())
            .map(|tag| tag.image);
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut meant: Vec<Digest> = lost
            .into_iter()
            .filter(|id| named == Some(*id) || (digits.len() >= MIN_PREFIX && id.hex().starts_with(digits)))
            .collect();
        meant.dedup();
        let id = match meant.as_slice() {
            [id] => *id,
            [] => {
                let removed = self.remove_unreadable_name(reference.as_ref())?;
                return Ok(removed.map(|removed| (removed, Swept::default())));
            }
            several => {
                let candidates: Vec<String> = several.iter().map(Digest::short).collect();
                return Err(ImageError::Ambiguous {
                    name: text.to_owned(),
                    candidates: candidates.join(", "),
                }
                .into());
            }
        };
        let user = in_use
            .iter()
            .find(|user| user.image == id && (user.running || !options.force));
        if let Some(user) = user {
            return Err(ImageError::InUse {
                image: id.short(),
                container: user.container.clone(),
                state: if user.running { "running" } else { "stopped" },
            }
            .into());
        }
        let mut removed = Removed::default();
        for tag in tags.into_iter().filter(|tag| tag.image == id) {
            let name = tag.reference.to_string();
            self.tags
                .remove(&name)
                .map_err(ImageError::record("remove", &name))?;
            removed.untagged.push(tag.reference);
        }
        self.images
            .remove(&id.hex())
            .map_err(ImageError::record("remove", format!("image {id}")))?;
        removed.deleted.push(id);
        let swept = self.collect()?;
        removed.bytes_freed = swept.bytes;
        Ok(Some((removed, swept)))
    }

    fn remove_unreadable_name(&self, reference: Option<&Reference>) -> Result<Option<Removed>> {
        let Some(reference) = reference else {
            return Ok(None);
        };
        let name = reference.to_string();
        let was_there = self
            .tags
            .remove(&name)
            .map_err(ImageError::record("remove", &name))?;
        Ok(was_there.then(|| Removed {
            untagged: vec![reference.clone()],
            ..Removed::default()
        }))
    }
}

/// The image that a record's file is named by, set aside or not.
fn id_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    Digest::from_hex(name.get(..ID_DIGITS)?).ok()
}

fn line(what: &str, path: &Path, reason: &str, advice: &str) -> String {
    format!("{what} cannot be read ({}: {reason}): {advice}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_file_names_its_image_also_when_it_was_set_aside() {
        let id = Digest::of(b"x");
        for suffix in [".json", ".json.corrupt-1700000000", ".json.corrupt-1700000000-1"] {
            let path = format!("/root/images/{}{suffix}", id.hex());
            assert_eq!(id_of(Path::new(&path)), Some(id));
        }
        assert_eq!(id_of(Path::new("/root/images/short.json")), None);
    }
}
