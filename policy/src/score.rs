//! The health score: 0 to 100, with the interval that the evidence allows, the drivers behind it, and what
//! would move it.
//!
//! Each signal is worth a number of points (complaints 30, spam placement 35, bounces 20, deferrals 15 by
//! default) and loses them in proportion to its rate, all of them at its worst rate. The score is 100 less
//! what is lost. The interval comes from the posteriors: their quantiles are swept together along a fixed
//! lattice, so the same evidence always gives the same score. It is for people: bands are decided by
//! [`band`](crate::band), never by the score.

use std::collections::BTreeMap;

use crate::{
    band::percent,
    evidence::{Belief, Beliefs, Posterior, Signal},
    numbers::real,
};

/// How healthy, between which bounds, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Expected score, 0 to 100.
    pub value: f64,
    /// With a probability of 0.9 it is not below this …
    pub low: f64,
    /// … and not above this.
    pub high: f64,
    /// What cost most, most first; at most three.
    pub drivers: Vec<Driver>,
    /// What would move it, one sentence for each driver.
    pub advice: Vec<String>,
}

/// A signal that cost points.
#[derive(Debug, Clone, PartialEq)]
pub struct Driver {
    /// Which.
    pub signal: Signal,
    /// Points it cost, on expectation.
    pub points: f64,
    /// The expected rate.
    pub rate: f64,
    /// With a probability of 0.95 the rate is not below this …
    pub rate_low: f64,
    /// … and not above this.
    pub rate_high: f64,
    /// The rate above which we act.
    pub limit: f64,
    /// The probability that the rate is above its limit.
    pub over_limit: f64,
    /// Decayed number of outcomes behind it.
    pub samples: f64,
    /// The provider it is worst at, when one stands out.
    pub provider: Option<String>,
}

/// Points of the lattice. Its standard error is far below a tenth of a score point.
const SWEEP: u32 = 128;
/// Quantiles tabulated for each posterior; between them the sweep goes straight.
const KNOTS: u32 = 24;
/// Probability on each side outside the score's interval.
const TAIL: f64 = 0.05;
/// Drivers that are shown.
const DRIVERS_MAX: usize = 3;
/// Points below which a signal is no driver.
const DRIVER_POINTS_MIN: f64 = 0.5;
/// Good outcomes beyond which the advice no longer counts.
const ADVICE_COUNT_MAX: u32 = 100_000;

/// The score of these beliefs.
pub fn score(beliefs: &Beliefs) -> Score {
    let mut swept = sweep(beliefs);
    swept.sort_by(f64::total_cmp);
    let value = swept.iter().sum::<f64>() / real(SWEEP);
    let rank = |p: f64| swept[(crate::numbers::whole(p * real(SWEEP - 1))) as usize];
    let drivers = drivers(beliefs);
    let advice = drivers
        .iter()
        .map(|driver| advice(beliefs, driver))
        .collect();
    Score {
        value,
        low: rank(TAIL).min(value),
        high: rank(1.0 - TAIL).max(value),
        drivers,
        advice,
    }
}

/// The score at each provider alone: a good average may hide one provider that refuses everything.
pub fn by_provider(beliefs: &Beliefs) -> BTreeMap<String, Score> {
    let providers = beliefs.providers.keys();
    providers
        .map(|provider| (provider.clone(), score(&beliefs.at(provider))))
        .collect()
}

/// Points that a signal loses at a rate.
fn lost(belief: &Belief, rate: f64) -> f64 {
    belief.rules.points * (rate / belief.rules.worst.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
}

/// The scores along the lattice.
fn sweep(beliefs: &Beliefs) -> Vec<f64> {
    let tables = Signal::ALL.map(|signal| {
        let belief = beliefs.of(signal);
        (belief, knots(&belief.posterior))
    });
    // Fractional parts of multiples of these (square roots of primes) fill the cube evenly.
    let strides = [2.0_f64, 3.0, 5.0, 7.0].map(f64::sqrt);
    (0..SWEEP)
        .map(|point| {
            let losses = tables.iter().zip(strides).map(|((belief, knots), stride)| {
                let p = (0.5 + real(point) * stride).fract();
                lost(belief, between_knots(knots, p))
            });
            (100.0 - losses.sum::<f64>()).clamp(0.0, 100.0)
        })
        .collect()
}

/// Quantiles at evenly spaced probabilities, from the middle of the first part to that of the last.
fn knots(posterior: &Posterior) -> Vec<f64> {
    (0..KNOTS)
        .map(|knot| posterior.quantile((real(knot) + 0.5) / real(KNOTS)))
        .collect()
}

fn between_knots(knots: &[f64], p: f64) -> f64 {
    let place = (p * real(KNOTS) - 0.5).clamp(0.0, real(KNOTS - 1));
    let below = crate::numbers::whole(place.floor()) as usize;
    let above = (below + 1).min(knots.len() - 1);
    knots[below] + (knots[above] - knots[below]) * place.fract()
}

fn drivers(beliefs: &Beliefs) -> Vec<Driver> {
    let mut drivers: Vec<Driver> = Signal::ALL
        .map(|signal| {
            let belief = beliefs.of(signal);
            let (rate_low, rate_high) = belief.posterior.interval(0.95);
            let rate = belief.posterior.mean();
            Driver {
                signal,
                points: lost(&belief, rate),
                rate,
                rate_low,
                rate_high,
                limit: belief.rules.limit,
                over_limit: belief.over_limit(),
                samples: belief.samples,
                provider: beliefs.worst_provider(signal).map(str::to_owned),
            }
        })
        .into();
    drivers.retain(|driver| driver.points >= DRIVER_POINTS_MIN);
    drivers.sort_by(|a, b| b.points.total_cmp(&a.points));
    drivers.truncate(DRIVERS_MAX);
    drivers
}

/// What would move a driver.
fn advice(beliefs: &Beliefs, driver: &Driver) -> String {
    let belief = beliefs.of(driver.signal);
    let at = driver
        .provider
        .as_ref()
        .map(|at| format!(" It is worst at {at}."))
        .unwrap_or_default();
    let (rate, limit) = (driver.signal.rate_name(), percent(driver.limit));
    let good = driver.signal.good_outcomes();
    let leave = beliefs.rules.leave_below;
    if driver.over_limit > leave {
        return match outcomes_until(&belief, |posterior| posterior.above(driver.limit) <= leave) {
            Some(n) => format!(
                "About {n} more {good} would bring the probability that the {rate} is over {limit} down from {:.2} to {leave:.2}.{at}",
                driver.over_limit
            ),
            None => format!(
                "The {rate} is far over {limit}: stop the cause first; good outcomes alone will not undo it soon.{at}"
            ),
        };
    }
    let goal = driver.points / 2.0;
    let halved = outcomes_until(&belief, |posterior| lost(&belief, posterior.mean()) <= goal);
    match halved {
        Some(n) => format!(
            "About {n} more {good} would win back {goal:.1} points; the {rate} is believed to be {} on {:.0} outcomes.{at}",
            percent(driver.rate),
            driver.samples,
        ),
        None => format!(
            "The {rate} of {} weighs {:.1} points; only time will move it.{at}",
            percent(driver.rate),
            driver.points
        ),
    }
}

/// How many good outcomes it takes, rounded up to two digits; `None` when it is too many to name.
fn outcomes_until(belief: &Belief, reached: impl Fn(&Posterior) -> bool) -> Option<u32> {
    let with = |n: u32| Posterior {
        good: belief.posterior.good + real(n),
        ..belief.posterior
    };
    let mut high = 1;
    while !reached(&with(high)) {
        high *= 2;
        if high > ADVICE_COUNT_MAX {
            return None;
        }
    }
    let mut low = high / 2;
    while low + 1 < high {
        let middle = low.midpoint(high);
        if reached(&with(middle)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    let digit = 10_u32.pow(high.ilog10().saturating_sub(1));
    Some(high.div_ceil(digit) * digit)
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::inbox::{DayCounts, EvidenceDay};
    use proptest::prelude::*;

    use super::*;
    use crate::rules::HealthRules;

    fn of(counts: DayCounts) -> Score {
        let day = EvidenceDay {
            utc_day: 100,
            provider: "google".into(),
            counts,
        };
        score(&Beliefs::from_days(&[day], 100, &HealthRules::default()))
    }

    fn clean(n: u32) -> DayCounts {
        DayCounts {
            delivered: n,
            placed_inbox: n,
            ..DayCounts::default()
        }
    }

    #[test]
    fn nothing_known_is_a_wide_interval_and_much_known_a_narrow_one() {
        let (new, old) = (of(DayCounts::default()), of(clean(5_000)));
        assert!(new.high - new.low > 15.0, "{new:?}");
        assert!(old.high - old.low < 5.0 && old.value > 98.0, "{old:?}");
        assert!(new.value < old.value);
    }

    #[test]
    fn what_hurts_most_leads_and_says_what_would_help() {
        let counts = DayCounts {
            placed_spam: 10,
            placed_inbox: 20,
            ..clean(200)
        };
        let score = of(DayCounts {
            placed_inbox: 20,
            ..counts
        });
        assert_eq!(score.drivers[0].signal, Signal::Placement);
        assert!(score.drivers[0].over_limit > 0.9);
        assert!(
            score.advice[0].starts_with("About ") && score.advice[0].contains("found in the inbox"),
            "{:?}",
            score.advice
        );
        assert_eq!(score.advice.len(), score.drivers.len());
    }

    #[test]
    fn the_advice_is_right() {
        let counts = DayCounts {
            bounced_recipient: 20,
            ..clean(180)
        };
        let day = EvidenceDay {
            utc_day: 100,
            provider: "google".into(),
            counts,
        };
        let belief = Beliefs::from_days(&[day], 100, &HealthRules::default()).of(Signal::Bounce);
        let n = outcomes_until(&belief, |posterior| posterior.above(0.05) <= 0.3).unwrap();
        let after = Posterior {
            good: belief.posterior.good + real(n),
            ..belief.posterior
        };
        assert!(
            after.above(0.05) <= 0.3 && after.above(0.05) > 0.2,
            "{n}: {}",
            after.above(0.05)
        );
    }

    #[test]
    fn providers_are_scored_apart() {
        let day = |provider: &str, counts| EvidenceDay {
            utc_day: 100,
            provider: provider.into(),
            counts,
        };
        let bad = DayCounts {
            delivered: 40,
            placed_inbox: 16,
            placed_spam: 24,
            ..DayCounts::default()
        };
        let days = [day("google", clean(40)), day("microsoft", bad)];
        let scores = by_provider(&Beliefs::from_days(&days, 100, &HealthRules::default()));
        assert!(scores["google"].value > scores["microsoft"].value + 20.0);
    }

    proptest! {
        #[test]
        fn it_stays_in_its_bounds(delivered in 0_u32..3000, deferred in 0_u32..500, bounced in 0_u32..300,
            inbox in 0_u32..300, spam in 0_u32..300, complaints in 0_u32..30) {
            let score = of(DayCounts { delivered, deferred, bounced_recipient: bounced, placed_inbox: inbox,
                placed_spam: spam, complaints, ..DayCounts::default() });
            prop_assert!(0.0 <= score.low && score.low <= score.value);
            prop_assert!(score.value <= score.high && score.high <= 100.0);
        }

        #[test]
        fn one_more_spam_placement_never_helps(inbox in 0_u32..100, spam in 0_u32..50) {
            let with = |spam| of(DayCounts { placed_spam: spam, placed_inbox: inbox, ..clean(100) }).value;
            prop_assert!(with(spam + 1) <= with(spam) + 1e-6);
        }
    }
}
