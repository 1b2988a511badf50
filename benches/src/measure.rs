//! Clocks, and samples with their middle and their spread.

use std::{fmt, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// Measurements of one thing, one of each round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

/// Time passed on a wall, unmoved by who sets it.
pub(crate) fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock")
}

/// How long ago a moment of [`monotonic`] was.
pub(crate) fn since(moment: Duration) -> Duration {
    monotonic().saturating_sub(moment)
}

/// Time that this thread has spent on a core.
pub(crate) fn thread_cpu() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock")
}

/// A clock, perhaps of another process.
pub(crate) fn read(clock: ClockId) -> nix::Result<Duration> {
    clock_gettime(clock).map(Duration::from)
}

// === impl Samples ===

impl Samples {
    /// What was measured once.
    pub(crate) fn of(sample: f64) -> Self {
        Self(vec![sample])
    }

    /// Adds the samples of further rounds.
    pub(crate) fn append(&mut self, further: Self) {
        self.0.extend(further.0);
    }

    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The middle one; of an even number the lower of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted
            .get(sorted.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// Round by round: what was measured at the same moment met the same load.
    pub(crate) fn over(&self, reference: &Self) -> Self {
        let pairs = self.0.iter().zip(&reference.0);
        Self(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Each so many times as much.
    pub(crate) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|sample| sample * factor).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The middle, and from where to where: `1,234 [1,200..1,300]`.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return f.write_str("–");
        };
        if self.0.len() == 1 {
            return f.write_str(&figure(*least));
        }
        write!(
            f,
            "{} [{}..{}]",
            figure(self.median()),
            figure(*least),
            figure(*most)
        )
    }
}

/// A number with as many digits as mean something here.
pub(crate) fn figure(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    let whole_len = text.find('.').unwrap_or(text.len());
    let digits = text[..whole_len].trim_start_matches('-').len();
    let mut grouped = String::new();
    for (at, c) in text.char_indices() {
        let left = whole_len.saturating_sub(at);
        if at < whole_len && left < digits && left.is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(c);
    }
    grouped
}

/// What lies at this share of a sorted list, as in 0.99 for p99.
pub(crate) fn at_share(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below 2^53"
    )]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_taken_and_the_spread_is_shown() {
        let mut samples = Samples::default();
        for sample in [1200.0, 1000.0, 1_000_000.0] {
            samples.push(sample);
        }
        assert_eq!(samples.to_string(), "1,200 [1,000..1,000,000]");
        assert_eq!(Samples::default().to_string(), "–");
    }

    #[test]
    fn figures_have_the_digits_that_mean_something() {
        for (number, text) in [
            (0.123, "0.12"),
            (12.34, "12.3"),
            (123.4, "123"),
            (-1234.5, "-1,234"),
            (999.9, "1,000"),
        ] {
            assert_eq!(figure(number), text);
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (ours, theirs) = (Samples(vec![2.0, 30.0]), Samples(vec![1.0, 10.0]));
        assert_eq!(ours.over(&theirs).0, [2.0, 3.0]);
    }
}
