//! Fingerprints of late, and whether two of them are nearly the same.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// The last fingerprints, and when they were seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(VecDeque<(u64, Timestamp)>);

/// Fingerprints that are remembered per account and kind.
pub(super) const KEPT: usize = 256;

impl Recent {
    /// Takes one in. Returns how many like it, itself included, were seen within that time before it.
    pub fn note(
        &mut self,
        fingerprint: u64,
        at: Timestamp,
        within: SignedDuration,
        is_like: impl Fn(&u64, &u64) -> bool,
    ) -> u32 {
        while self.0.front().is_some_and(|(_, seen)| self.0.len() >= KEPT || at.duration_since(*seen) > within) {
            self.0.pop_front();
        }
        self.0.push_back((fingerprint, at));
        let like = self.0.iter().filter(|(other, _)| is_like(&fingerprint, other)).count();
        u32::try_from(like).unwrap_or(u32::MAX)
    }
}

/// A hash in which similar sets have similar values (Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms"): each bit is what
/// most of the pieces have there. `None` for nothing at all.
pub(super) fn simhash(pieces: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut votes = [0_i32; u64::BITS as usize];
    let mut has_any = false;
    for piece in pieces.into_iter().take(PIECES) {
        has_any = true;
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if piece >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    let hash = votes.iter().rev().fold(0, |hash, &vote| hash << 1 | u64::from(vote > 0));
    has_any.then_some(hash)
}

/// Pieces of a prompt that are looked at: a long one repeats what came before it anyway.
const PIECES: usize = 1 << 16;

/// Bits in which simhashes of near duplicates may differ. Among billions of web pages it is three (Manku, Jain and Das Sarma 2007, "Detecting
/// Near-Duplicates for Web Crawling"); among a few hundred prompts, of which two others come as near as this once in 10^11 times, it can be more.
const SIMILAR_BITS: u32 = 6;

pub(super) fn is_similar(a: &u64, b: &u64) -> bool {
    (a ^ b).count_ones() <= SIMILAR_BITS
}
