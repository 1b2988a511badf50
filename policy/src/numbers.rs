//! Casts between whole and real numbers, each with its reason in one place.

use std::time::Duration;

/// A count as a real number.
pub(crate) fn real(count: u32) -> f64 {
    f64::from(count)
}

/// A span of days as a real number; exact below 2^53 days.
#[expect(clippy::cast_precision_loss, reason = "days are far below 2^53")]
pub(crate) fn real_days(days: i64) -> f64 {
    days as f64
}

/// The nearest count; negative numbers and NaN become 0, what is too big the largest count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clipped before, and a float cast saturates"
)]
pub(crate) fn whole(x: f64) -> u32 {
    x.round().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// So many seconds; negative numbers and NaN become zero.
pub(crate) fn seconds(x: f64) -> Duration {
    Duration::try_from_secs_f64(x.max(0.0)).unwrap_or(Duration::MAX)
}
