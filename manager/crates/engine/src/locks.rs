//! One lock per container: what is done to one container happens in some order, different containers do not wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use croze_model::ContainerId;
use tokio::sync::OwnedMutexGuard;

/// The locks that somebody holds or waits for.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for the lock of one container.
    pub(crate) async fn lock(&self, id: &ContainerId) -> OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    fn of(&self, id: &ContainerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        // The map would grow with every container ever touched.
        held.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        held.insert(id.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_per_container_and_nothing_kept() {
        let locks = Locks::default();
        let (a, b) = (
            ContainerId::from_random([1; 32]),
            ContainerId::from_random([2; 32]),
        );
        let first = locks.lock(&a).await;
        assert!(locks.of(&a).try_lock().is_err());
        drop(locks.lock(&b).await);
        drop(first);
        drop(locks.lock(&a).await);
        drop(locks.lock(&b).await);
        assert!(locks.held.lock().unwrap().len() <= 2);
        assert_eq!(
            locks
                .held
                .lock()
                .unwrap()
                .values()
                .filter(|lock| lock.strong_count() > 0)
                .count(),
            0
        );
    }
}
