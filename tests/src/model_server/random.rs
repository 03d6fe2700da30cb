//! A small seeded generator: usage must vary from call to call, and be the same for the same seed.

use std::{
    hash::{BuildHasher as _, RandomState},
    ops::RangeInclusive,
};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the operating system: for what must never repeat between two servers.
    pub(super) fn from_entropy() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let span = range.end() - range.start() + 1;
        range.start() + self.next() % span
    }

    /// About half of the mean to one and a half times.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        self.within(mean.div_ceil(2)..=mean + mean / 2)
    }

    pub(super) const fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let last = u64::try_from(from.len() - 1).unwrap_or(u64::MAX);
        from[usize::try_from(self.within(0..=last)).unwrap_or(0)]
    }

    pub(super) fn letters(&mut self, length: usize) -> String {
        const ALPHABET: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        (0..length).map(|_| char::from(self.pick(ALPHABET))).collect()
    }
}
