//! `list`: every container of a root directory.

use super::Settings;
use super::state::{Snapshot, snapshot};
use crate::error::{Error, Result};
use crate::state::{Id, Store, StoreError};

/// Every container that could be looked at, and those that could not.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by id.
    pub containers: Vec<Snapshot>,
    /// Containers whose record or processes cannot be read: one damaged container does not hide the others.
    pub damaged: Vec<(Id, Error)>,
}

/// Looks at every container.
///
/// # Errors
/// The root directory cannot be read.
pub fn list(settings: &Settings) -> Result<Listing> {
    let store = Store::new(&settings.root)?;
    let mut listing = Listing::default();
    for id in store.list()? {
        let found = store
            .find(&id)
            .map_err(Error::from)
            .and_then(|entry| snapshot(&entry));
        match found {
            Ok(container) => listing.containers.push(container),
            // Deleted between the listing and the look.
            Err(Error::Store(StoreError::NotFound { .. })) => {}
            Err(error) => listing.damaged.push((id, error)),
        }
    }
    Ok(listing)
}
