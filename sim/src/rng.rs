//! Chance from a seed: the same numbers for the same seed, everywhere.
//!
//! The generator is xoshiro256++ with its state filled by splitmix64. It is good enough to model a
//! world with and is no source of keys that anybody relies on.

use std::sync::{Mutex, PoisonError};

use inboxgrove_model::ports::Rng;

/// Chance from a seed. Clones would repeat each other: ask for a [`stream`](Self::stream) instead.
#[derive(Debug)]
pub struct SeededRng {
    seed: u64,
    state: Mutex<[u64; 4]>,
}

// === impl SeededRng ===

impl SeededRng {
    /// The generator of this seed, at its beginning.
    pub fn new(seed: u64) -> Self {
        let mut source = seed;
        let state = std::array::from_fn(|_| splitmix(&mut source));
        Self {
            seed,
            state: Mutex::new(state),
        }
    }

    /// An independent generator for one purpose. It depends on the seed and the name only, not on what
    /// was drawn before: who draws more changes nothing for the others.
    #[must_use]
    pub fn stream(&self, name: &str) -> Self {
        // FNV-1a over the name, from a basis that the seed has stirred.
        let mut source = self.seed ^ 0xcbf2_9ce4_8422_2325;
        let mut hash = splitmix(&mut source);
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self::new(splitmix(&mut hash))
    }

    /// What it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Rng for SeededRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            let word = step(&mut state).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// One step of splitmix64.
fn splitmix(source: &mut u64) -> u64 {
    *source = source.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *source;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One step of xoshiro256++.
fn step(state: &mut [u64; 4]) -> u64 {
    let made = state[0]
        .wrapping_add(state[3])
        .rotate_left(23)
        .wrapping_add(state[0]);
    let shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = state[3].rotate_left(45);
    made
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::ports::Rng;
    use proptest::prelude::*;

    use super::*;

    fn draw(rng: &SeededRng, n: usize) -> Vec<u64> {
        (0..n).map(|_| (rng as &dyn Rng).next_u64()).collect()
    }

    #[test]
    fn the_first_numbers_are_frozen() {
        // A change here changes every recorded run of the simulated world.
        let mut bytes = [0; 3];
        SeededRng::new(7).fill(&mut bytes);
        assert_eq!(
            bytes.to_vec(),
            draw(&SeededRng::new(7), 1)[0].to_le_bytes()[..3]
        );
        assert_eq!(draw(&SeededRng::new(0), 2), draw(&SeededRng::new(0), 2));
        // The reference vector of splitmix64 for the seed 0.
        assert_eq!(splitmix(&mut 0), 0xe220_a839_7b1d_cdaf);
    }

    proptest! {
        #[test]
        fn a_stream_does_not_depend_on_draws_before(seed: u64, drawn in 0_usize..50) {
            let rng = SeededRng::new(seed);
            let early = draw(&rng.stream("dns"), 4);
            draw(&rng, drawn);
            prop_assert_eq!(early, draw(&rng.stream("dns"), 4));
        }

        #[test]
        fn streams_of_other_names_and_seeds_differ(seed: u64) {
            let rng = SeededRng::new(seed);
            prop_assert_ne!(draw(&rng.stream("a"), 2), draw(&rng.stream("b"), 2));
            prop_assert_ne!(draw(&rng.stream("a"), 2), draw(&SeededRng::new(seed ^ 1).stream("a"), 2));
        }

        #[test]
        fn the_mean_of_many_is_a_half(seed: u64) {
            let rng = SeededRng::new(seed);
            let mean = (0..4_000).map(|_| (&rng as &dyn Rng).unit()).sum::<f64>() / 4_000.0;
            // Six standard deviations of the mean of 4,000 uniform numbers.
            prop_assert!((mean - 0.5).abs() < 6.0 * 0.2887 / 4_000_f64.sqrt());
        }
    }
}
