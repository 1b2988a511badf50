//! How evidence is judged: `[health]`. The actors turn it into the rules of `policy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How evidence is judged.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Answers that put mail off.
    pub deferral: SignalSettings,
    /// Warmup mail found in spam folders.
    pub placement: SignalSettings,
    /// Recipients refused for good.
    pub bounce: SignalSettings,
    /// Complaints.
    pub complaint: SignalSettings,
    /// Volume is held above this probability that a rate is over its limit.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub hold_above: f64,
    /// An inbox is throttled above this probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub throttle_above: f64,
    /// An inbox is quarantined above this probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub quarantine_above: f64,
    /// A band is left below this probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub leave_below: f64,
    /// Shortest stay in a band that is not the healthy one.
    #[schemars(range(min = 0, max = 2160))]
    pub dwell_min_hours: u32,
    /// For how many UTC days, today included, a single spam placement or complaint holds volume.
    #[schemars(range(min = 0, max = 90))]
    pub fresh_days: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            deferral: SignalSettings {
                prior_bad: 1.0,
                prior_good: 4.0,
                half_life_days: 3.0,
                limit: 0.6,
                worst: 1.0,
                points: 15.0,
            },
            placement: SignalSettings {
                prior_bad: 1.0,
                prior_good: 19.0,
                half_life_days: 7.0,
                limit: 0.1,
                worst: 0.4,
                points: 35.0,
            },
            bounce: SignalSettings {
                prior_bad: 1.0,
                prior_good: 99.0,
                half_life_days: 7.0,
                limit: 0.05,
                worst: 0.1,
                points: 20.0,
            },
            complaint: SignalSettings {
                prior_bad: 0.5,
                prior_good: 999.5,
                half_life_days: 14.0,
                limit: 0.003,
                worst: 0.003,
                points: 30.0,
            },
            hold_above: 0.5,
            throttle_above: 0.8,
            quarantine_above: 0.95,
            leave_below: 0.3,
            dwell_min_hours: 72,
            fresh_days: 3,
        }
    }
}

/// What is believed about one rate before there is evidence, how long evidence counts, and what is too much.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalSettings {
    /// Bad outcomes that the prior is worth.
    #[schemars(range(min = 0.01, max = 1_000_000.0))]
    pub prior_bad: f64,
    /// Good outcomes that the prior is worth.
    #[schemars(range(min = 0.01, max = 1_000_000.0))]
    pub prior_good: f64,
    /// Days after which evidence counts half.
    #[schemars(range(min = 0.1, max = 365.0))]
    pub half_life_days: f64,
    /// The rate above which something is done.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub limit: f64,
    /// The rate at which it costs all its points of the score.
    #[schemars(range(min = 0.0001, max = 1.0))]
    pub worst: f64,
    /// Points of the score that it is worth; the four add up to 100.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub points: f64,
}
