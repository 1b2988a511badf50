//! The tunable numbers of every decision, with the defaults and their reasons.

use std::time::Duration;

use inboxgrove_model::inbox::Band;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// How inboxes are warmed up.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmupRules {
    /// First day's target of a new inbox.
    pub base: u32,
    /// What each active day adds.
    pub increment: u32,
    /// Where the ramp ends.
    pub cap: u32,
    /// Smallest factor of an ordinary day.
    pub factor_low: f64,
    /// Largest factor of an ordinary day.
    pub factor_high: f64,
    /// Share of days that are quiet ones: nobody sends the same every day.
    pub quiet_share: f64,
    /// The factor of a quiet day.
    pub quiet_factor: f64,
    /// Factors of the days of the week, Monday first.
    pub weekdays: [f64; 7],
    /// How likely a send is in each local hour, relative to the others.
    pub hour_curve: [f64; 24],
    /// Nothing is sent before this minute of the local day.
    pub waking_start_minute: u32,
    /// Nothing is sent after this minute of the local day.
    pub waking_end_minute: u32,
    /// Shortest time between two sends of one inbox.
    pub gap_min: Duration,
    /// A domain younger than this gains only on every second active day.
    pub young_domain_days: u32,
    /// Active days before an inbox at the ramp's end may graduate.
    pub graduation_days: u32,
    /// What goes on each day after graduation.
    pub graduated_target: u32,
    /// Idle days after which the ramp steps back.
    pub idle_days: u32,
    /// What each further idle day takes off the level, as a share.
    pub idle_step: f64,
    /// Idle days after which the ramp begins anew, at twice its base.
    pub restart_days: u32,
    /// Smallest reply probability of a thread.
    pub reply_low: f64,
    /// Largest reply probability of a thread.
    pub reply_high: f64,
    /// Shortest median of the reply delay.
    pub reply_median_low: Duration,
    /// Longest median of the reply delay.
    pub reply_median_high: Duration,
    /// How long a partner rests before the next thread with the same inbox.
    pub partner_rest: Duration,
}

/// What is believed about one signal before there is evidence, how long evidence counts, what is too much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalRules {
    /// Bad outcomes that the prior is worth.
    pub prior_bad: f64,
    /// Good outcomes that the prior is worth.
    pub prior_good: f64,
    /// Days after which evidence counts half.
    pub half_life_days: f64,
    /// The rate above which we must act.
    pub limit: f64,
    /// The rate at which this signal costs all its points of the score.
    pub worst: f64,
    /// Points of the score that this signal is worth; the four add up to 100.
    pub points: f64,
}

/// How health is judged.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthRules {
    /// Answers that put mail off.
    pub deferral: SignalRules,
    /// Warmup mail found in spam folders.
    pub placement: SignalRules,
    /// Recipients refused for good.
    pub bounce: SignalRules,
    /// Complaints.
    pub complaint: SignalRules,
    /// Soft hold above this probability that a rate is over its limit.
    pub hold_above: f64,
    /// Throttle above this probability.
    pub throttle_above: f64,
    /// Quarantine above this probability.
    pub quarantine_above: f64,
    /// A band is left below this probability.
    pub leave_below: f64,
    /// Shortest stay in a band that is not the healthy one.
    pub dwell_min: Duration,
    /// For how many UTC days, today included, a single spam placement or complaint holds volume.
    pub fresh_days: u32,
}

/// When a message is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryRules {
    /// Wait after the first attempt; doubles with each further one.
    pub unit: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// Wait after a first answer that smells of greylisting.
    pub greylisted: Duration,
    /// Wait after an attempt of which nobody knows how it ended.
    pub uncertain: Duration,
    /// Age at which a message is given up (RFC 5321 §4.5.4.1: at least 4 to 5 days).
    pub age_max: Duration,
    /// Waits vary by this share up and down, so that a burst does not come back as a burst.
    pub jitter: f64,
}

/// How a site's pace moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceRules {
    /// What a refusal leaves of the factor.
    pub slow_factor: f64,
    /// Smallest factor.
    pub factor_min: f64,
    /// Answers within this time of the last change belong to the same refusal: in-flight mail counts once.
    pub cohort: Duration,
    /// How long a slowed pace is held before it recovers.
    pub hold: Duration,
    /// One quiet interval.
    pub quiet: Duration,
    /// What each quiet interval gives back, as a share of the full pace.
    pub recovery_step: f64,
    /// The first suspension; doubles with each one in a row.
    pub suspend_first: Duration,
    /// The longest suspension.
    pub suspend_longest: Duration,
}

// === impl Default ===

impl Default for WarmupRules {
    fn default() -> Self {
        let mut hour_curve = [0.0; 24];
        // Two peaks, at 10 and at 14, with a dip at lunch.
        let day = [
            0.15, 0.35, 0.80, 1.00, 0.80, 0.35, 0.65, 1.00, 0.80, 0.60, 0.40, 0.15,
        ];
        hour_curve[7..19].copy_from_slice(&day);
        Self {
            base: 4,
            increment: 1,
            cap: 20,
            factor_low: 0.75,
            factor_high: 1.10,
            quiet_share: 0.15,
            quiet_factor: 0.60,
            weekdays: [0.9, 1.0, 1.0, 1.0, 0.8, 0.10, 0.05],
            hour_curve,
            waking_start_minute: 9 * 60,
            waking_end_minute: 18 * 60,
            gap_min: 10 * MINUTE,
            young_domain_days: 30,
            graduation_days: 21,
            graduated_target: 5,
            idle_days: 7,
            idle_step: 0.10,
            restart_days: 30,
            reply_low: 0.30,
            reply_high: 0.40,
            reply_median_low: HOUR,
            reply_median_high: 3 * HOUR,
            partner_rest: 72 * HOUR,
        }
    }
}

impl WarmupRules {
    /// What a band leaves of the volume.
    pub fn band_factor(band: Band) -> f64 {
        match band {
            Band::Healthy => 1.0,
            Band::SoftHold => 0.75,
            Band::Throttled => 0.5,
            Band::Quarantined => 0.0,
        }
    }
}

impl Default for HealthRules {
    fn default() -> Self {
        Self {
            // Greylisting puts off every first attempt (a rate of one half), so only more than that is bad.
            deferral: SignalRules {
                prior_bad: 1.0,
                prior_good: 4.0,
                half_life_days: 3.0,
                limit: 0.60,
                worst: 1.0,
                points: 15.0,
            },
            placement: SignalRules {
                prior_bad: 1.0,
                prior_good: 19.0,
                half_life_days: 7.0,
                limit: 0.10,
                worst: 0.40,
                points: 35.0,
            },
            bounce: SignalRules {
                prior_bad: 1.0,
                prior_good: 99.0,
                half_life_days: 7.0,
                limit: 0.05,
                worst: 0.10,
                points: 20.0,
            },
            // Complaints are rare: a prior worth 1,000 deliveries keeps one of them from deciding anything.
            complaint: SignalRules {
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
            dwell_min: 72 * HOUR,
            fresh_days: 3,
        }
    }
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            unit: 20 * MINUTE,
            longest: 8 * HOUR,
            greylisted: 6 * MINUTE,
            uncertain: 5 * MINUTE,
            age_max: 5 * DAY,
            jitter: 0.10,
        }
    }
}

impl Default for PaceRules {
    fn default() -> Self {
        Self {
            slow_factor: 0.5,
            factor_min: 1.0 / 64.0,
            cohort: MINUTE,
            hold: 30 * MINUTE,
            quiet: 30 * MINUTE,
            recovery_step: 0.10,
            suspend_first: 2 * HOUR,
            suspend_longest: DAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_of_the_score_add_up_to_a_hundred() {
        let rules = HealthRules::default();
        let points = [
            rules.deferral,
            rules.placement,
            rules.bounce,
            rules.complaint,
        ]
        .map(|s| s.points);
        assert!((points.iter().sum::<f64>() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn each_band_allows_less_than_the_one_before() {
        let bands = [
            Band::Healthy,
            Band::SoftHold,
            Band::Throttled,
            Band::Quarantined,
        ];
        assert!(
            bands
                .map(WarmupRules::band_factor)
                .is_sorted_by(|a, b| a > b)
        );
    }
}
