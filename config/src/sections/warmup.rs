//! How inboxes are warmed up: `[warmup]`. The actors turn it into the rules of `policy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How inboxes are warmed up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Warmup {
    /// First day's target of a new inbox.
    #[schemars(range(min = 1, max = 100))]
    pub base: u32,
    /// What each active day adds.
    #[schemars(range(min = 0, max = 50))]
    pub increment: u32,
    /// Where the ramp ends.
    #[schemars(range(min = 1, max = 500))]
    pub cap: u32,
    /// Smallest factor of an ordinary day.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub factor_low: f64,
    /// Largest factor of an ordinary day.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub factor_high: f64,
    /// Share of days that are quiet ones.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub quiet_share: f64,
    /// The factor of a quiet day.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub quiet_factor: f64,
    /// Factors of the days of the week, Monday first.
    #[schemars(inner(range(min = 0.0, max = 2.0)))]
    pub weekdays: [f64; 7],
    /// How likely a send is in each local hour from 0 to 23, relative to the others.
    #[schemars(inner(range(min = 0.0, max = 1000.0)))]
    pub hour_curve: [f64; 24],
    /// Nothing is sent before this minute of the local day.
    #[schemars(range(min = 0, max = 1439))]
    pub waking_start_minute: u32,
    /// Nothing is sent after this minute of the local day.
    #[schemars(range(min = 1, max = 1440))]
    pub waking_end_minute: u32,
    /// Shortest time between two sends of one inbox.
    #[schemars(range(min = 1, max = 240))]
    pub gap_min_minutes: u32,
    /// A domain younger than this gains only on every second active day.
    #[schemars(range(min = 0, max = 365))]
    pub young_domain_days: u32,
    /// Active days before an inbox at the ramp's end may graduate.
    #[schemars(range(min = 1, max = 365))]
    pub graduation_days: u32,
    /// What goes on each day after graduation.
    #[schemars(range(min = 0, max = 500))]
    pub graduated_target: u32,
    /// Idle days after which the ramp steps back.
    #[schemars(range(min = 1, max = 365))]
    pub idle_days: u32,
    /// What each further idle day takes off the level, as a share.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub idle_step: f64,
    /// Idle days after which the ramp begins anew, at twice its base.
    #[schemars(range(min = 1, max = 3650))]
    pub restart_days: u32,
    /// Smallest reply probability of a thread.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub reply_low: f64,
    /// Largest reply probability of a thread.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub reply_high: f64,
    /// Shortest median of the reply delay.
    #[schemars(range(min = 5, max = 2880))]
    pub reply_median_low_minutes: u32,
    /// Longest median of the reply delay.
    #[schemars(range(min = 5, max = 2880))]
    pub reply_median_high_minutes: u32,
    /// How long a partner rests before the next thread with the same inbox.
    #[schemars(range(min = 0, max = 720))]
    pub partner_rest_hours: u32,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            base: 4,
            increment: 1,
            cap: 20,
            factor_low: 0.75,
            factor_high: 1.1,
            quiet_share: 0.15,
            quiet_factor: 0.6,
            weekdays: [0.9, 1.0, 1.0, 1.0, 0.8, 0.10, 0.05],
            hour_curve: hour_curve(),
            waking_start_minute: 540,
            waking_end_minute: 1_080,
            gap_min_minutes: 10,
            young_domain_days: 30,
            graduation_days: 21,
            graduated_target: 5,
            idle_days: 7,
            idle_step: 0.1,
            restart_days: 30,
            reply_low: 0.3,
            reply_high: 0.4,
            reply_median_low_minutes: 60,
            reply_median_high_minutes: 180,
            partner_rest_hours: 72,
        }
    }
}

/// Two peaks, at 10 and at 14, with a dip at lunch.
fn hour_curve() -> [f64; 24] {
    let mut curve = [0.0; 24];
    let day = [
        0.15, 0.35, 0.80, 1.00, 0.80, 0.35, 0.65, 1.00, 0.80, 0.60, 0.40, 0.15,
    ];
    curve[7..19].copy_from_slice(&day);
    curve
}
