//! Choices that look random and can be drawn again: everything follows from one number.

use std::str::FromStr;

use anyhow::{Context, Result};

/// A variable's value. One that says nothing sensible is an error: a run that is not the one that was asked for would look like it.
pub fn from_environment<T: FromStr>(name: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name} is {text:?}"))?)),
        Err(_) => Ok(None),
    }
}

/// A generator (splitmix64: small, and good enough to choose among few).
#[derive(Debug)]
pub struct Seed {
    state: u64,
}

impl Seed {
    /// All choices that follow from this number.
    pub fn new(number: u64) -> Self {
        Self { state: number }
    }

    /// `$CROZE_TORTURE_SEED`, or else a number that no run before had.
    pub fn number_from_environment() -> Result<u64> {
        Ok(from_environment("CROZE_TORTURE_SEED")?.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            // Few digits: somebody may have to type it.
            now.map_or(1, |time| u64::from(time.subsec_micros()) + 1)
        }))
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'list, T>(&mut self, list: &'list [T]) -> &'list T {
        &list[self.below(list.len())]
    }

    /// Bytes that no compression makes smaller.
    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
