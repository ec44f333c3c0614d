//! Unique names: a name is reserved for one holder, before the holder's record exists.

use crate::StoreError;
use crate::index::{Index, Tree};

/// Someone else has the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name {name:?} is in use by {holder}")]
pub struct NameTaken {
    /// The name.
    pub name: String,
    /// The identifier of its holder.
    pub holder: String,
}

/// A tree of the index that maps each name to its holder's identifier.
///
/// A reservation is durable through the holder's record alone: one that never got a record is gone with the index, which is
/// what it should be.
#[derive(Clone, Debug)]
pub struct Names {
    tree: Tree<String, String>,
}

impl Names {
    /// Declares the tree; `source` lists `(name, holder)` for every record.
    ///
    /// # Errors
    ///
    /// As [`Index::tree`].
    pub fn open(
        index: &Index,
        tree: &'static str,
        source: impl Fn() -> Result<Vec<(String, String)>, StoreError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            tree: index.tree(tree, source)?,
        })
    }

    /// Reserves `name` for `holder`; reserving it again for the same holder is no error.
    ///
    /// # Errors
    ///
    /// The outer result is the index's failure, the inner one says who has the name.
    pub fn reserve(&self, name: &str, holder: &str) -> Result<Result<(), NameTaken>, StoreError> {
        let present = self.tree.put_new(&name.to_owned(), &holder.to_owned())?;
        Ok(match present {
            Some(other) if other != holder => Err(NameTaken {
                name: name.into(),
                holder: other,
            }),
            _ => Ok(()),
        })
    }

    /// The holder of `name`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`].
    pub fn holder(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.tree.get(&name.to_owned())
    }

    /// Frees every name that `is_held` denies: an index that was closed well remembers holders whose records were lost since.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`].
    pub fn retain(&self, is_held: impl Fn(&str, &str) -> bool) -> Result<(), StoreError> {
        for (name, holder) in self.tree.scan(b"")? {
            if !is_held(&name, &holder) {
                self.release(&name, &holder)?;
            }
        }
        Ok(())
    }

    /// Frees `name` if `holder` has it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`].
    pub fn release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        if self.holder(name)?.as_deref() == Some(holder) {
            self.tree.remove(&name.to_owned())?;
        }
        Ok(())
    }
}
