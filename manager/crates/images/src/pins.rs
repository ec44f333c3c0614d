//! What running pulls need: digests of blobs, layers and chains that must not be removed although no record names them yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use croze_model::Digest;

/// Digests and how many pulls need each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins {
    counts: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Pins {
    /// Pins these digests until the guard is dropped.
    pub(crate) fn pin(&self, digests: Vec<Digest>) -> Pinned {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &digests {
            *counts.entry(*digest).or_default() += 1;
        }
        Pinned {
            pins: self.clone(),
            digests,
        }
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(digest)
    }
}

/// Pinned digests.
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Pins,
    digests: Vec<Digest>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut counts = self.pins.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_held_as_long_as_somebody_needs_it() {
        let (pins, a, b) = (Pins::default(), Digest::of(b"a"), Digest::of(b"b"));
        let first = pins.pin(vec![a, b, a]);
        let second = pins.pin(vec![a]);
        drop(first);
        assert!(pins.holds(&a) && !pins.holds(&b));
        drop(second);
        assert!(!pins.holds(&a));
    }
}
