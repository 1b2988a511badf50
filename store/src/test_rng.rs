//! Chance for tests: different bytes every time, the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

use inboxgrove_model::ports::Rng;

/// Counts, and mixes what it counted.
pub(crate) struct CountingRng(AtomicU64);

impl CountingRng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

impl Rng for CountingRng {
    fn fill(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let mut word = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^= word >> 31;
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
    }
}
