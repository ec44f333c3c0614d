//! Containers that wait for their shim to leave before they are cleaned up: each is waited for once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use croze_model::ContainerId;

/// Which containers are waited for.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    ids: Mutex<HashSet<ContainerId>>,
}

impl Unsettled {
    /// Begins to wait; `None` if somebody does already.
    pub(crate) fn enter(self: &Arc<Self>, id: &ContainerId) -> Option<Turn> {
        self.lock().insert(id.clone()).then(|| Turn {
            of: Arc::clone(self),
            id: id.clone(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<ContainerId>> {
        // Nothing panics while it is held.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Turn {
    of: Arc<Unsettled>,
    id: ContainerId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_each_container() {
        let unsettled = Arc::new(Unsettled::default());
        let (a, b) = (
            ContainerId::from_random([1; 32]),
            ContainerId::from_random([2; 32]),
        );
        let turn = unsettled.enter(&a).unwrap();
        assert!(unsettled.enter(&a).is_none());
        assert!(unsettled.enter(&b).is_some());
        drop(turn);
        assert!(unsettled.enter(&a).is_some());
    }
}
