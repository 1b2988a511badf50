//! Dice that follow from a seed: habits, texts and gaps must come out the same after a restart.
//!
//! Not for secrets: what must be unguessable comes from the `Rng` port.

/// A stream of numbers that follows from its seed.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

/// The odd constant nearest to 2^64 divided by the golden ratio: successive multiples of it spread evenly.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// The stream of one seed.
    pub fn new(seed: u64) -> Self {
        Self {
            state: scramble(seed),
        }
    }

    /// The stream of a seed for one purpose, day, turn …: each path gives a stream of its own.
    pub fn of(seed: u64, path: &[u64]) -> Self {
        let state = path.iter().fold(scramble(seed), |state, step| {
            scramble(state ^ scramble(step.wrapping_add(STRIDE)))
        });
        Self { state }
    }

    /// The next number, over the whole range.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STRIDE);
        scramble(self.state)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let product = u64::from(u32::try_from(self.next_u64() >> 32).expect("32 bits are left"))
            * u64::from(bound);
        u32::try_from(product >> 32).expect("the high half of a product of 32-bit numbers fits")
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller's first number).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// One of several; the list must not be empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let len = u32::try_from(from.len()).expect("lists of choices are short");
        &from[self.below(len) as usize]
    }

    /// The place of one of several weights, drawn in proportion; `None` when none is positive.
    pub fn weighted(&mut self, weights: &[f64]) -> Option<usize> {
        let positive = |weight: &f64| if *weight > 0.0 { *weight } else { 0.0 };
        let sum: f64 = weights.iter().map(positive).sum();
        let mut left = self.unit() * sum;
        let mut last = None;
        for (place, weight) in weights.iter().map(positive).enumerate() {
            if weight > 0.0 {
                last = Some(place);
                if left < weight {
                    return last;
                }
                left -= weight;
            }
        }
        last
    }
}

/// A seed from a text, the same on every machine and in every version (FNV-1a, then scrambled).
pub fn seed_of(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    scramble(hash)
}

/// A bijection after which near inputs have nothing in common (the finaliser of SplitMix64).
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_path_others() {
        let draw = |mut dice: Dice| [dice.next_u64(), dice.next_u64()];
        assert_eq!(draw(Dice::of(7, &[1, 2])), draw(Dice::of(7, &[1, 2])));
        assert_ne!(draw(Dice::of(7, &[1, 2])), draw(Dice::of(7, &[2, 1])));
        assert_ne!(draw(Dice::of(7, &[1])), draw(Dice::of(8, &[1])));
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mut dice = Dice::new(0);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[dice.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }

    #[test]
    fn normal_and_exponential_have_their_moments() {
        let mut dice = Dice::new(3);
        let normals: Vec<f64> = (0..20_000).map(|_| dice.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05,
            "{mean} {variance}"
        );
        let waits: f64 = (0..20_000).map(|_| dice.exponential()).sum();
        assert!((waits / 20_000.0 - 1.0).abs() < 0.03);
    }

    #[test]
    fn weights_are_drawn_in_proportion() {
        let mut dice = Dice::new(5);
        let mut counts = [0_u32; 3];
        for _ in 0..10_000 {
            counts[dice.weighted(&[1.0, 0.0, 3.0]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_200..2_800).contains(&counts[0]), "{counts:?}");
        assert_eq!(dice.weighted(&[0.0, -1.0]), None);
    }
}
