//! The pace of a site: down by half at once, up by a tenth of the full pace for each quiet interval.
//!
//! The factor multiplies what the provider's pack allows. A refusal class answer halves it and holds it
//! for half an hour; a block class answer suspends the site for 2 hours, doubling up to 24 while it goes
//! on. After a suspension the site is probed at the lowest pace. Nothing snaps back: whoever goes from
//! nothing to everything is refused again.

use std::{net::IpAddr, time::Duration};

use inboxgrove_model::{PolicyTime, limits::REPLY_CHARS_MAX, site::SitePace};

use crate::{
    numbers::{real, seconds, whole},
    rules::PaceRules,
};

/// What an answer does to a site's pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaceAction {
    /// Halve it, and hold that for at least so long.
    Slow {
        /// Shortest hold; the rules' own when that is longer.
        at_least: Duration,
    },
    /// Stop for at least so long.
    Suspend {
        /// Shortest suspension; the rules' own when that is longer.
        at_least: Duration,
    },
}

/// What one source address may do at a provider's site at full pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderLimits {
    /// Connections at a time.
    pub connections: u32,
    /// Messages over one connection.
    pub messages_per_connection: u32,
    /// Messages a minute.
    pub per_minute: u32,
}

/// What a pace allows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Allowance {
    /// Connections at a time; at least one.
    pub connections: u32,
    /// Messages over one connection; at least one.
    pub messages_per_connection: u32,
    /// Time between the beginnings of two messages; at most [`GAP_MAX`].
    pub gap: Duration,
}

/// Even the slowest pace sends one message in this time: without a try nothing is learned.
pub const GAP_MAX: Duration = Duration::from_mins(10);

/// The pace of a site nothing is known about.
pub fn fresh(source: IpAddr, site: &str, now: PolicyTime) -> SitePace {
    SitePace {
        source,
        site: site.to_owned(),
        factor: 1.0,
        changed_at: now,
        suspended_until: None,
        suspensions: 0,
        why: String::new(),
    }
}

/// The pace after an answer that slows or suspends it. Answers to mail that was in flight together count
/// once: while suspended, or within the cohort's time of the last change, nothing changes.
pub fn lowered(
    pace: &SitePace,
    action: PaceAction,
    now: PolicyTime,
    why: &str,
    rules: &PaceRules,
) -> SitePace {
    let mut next = recovered(pace, now, rules).unwrap_or_else(|| pace.clone());
    let slowed =
        next.factor < 1.0 && now.since(last_slowed(pace, action, now, rules)) < rules.cohort;
    let suspended = pace.suspended_until.is_some_and(|until| now < until);
    match action {
        PaceAction::Slow { .. } if slowed || suspended => return next,
        PaceAction::Suspend { .. } if suspended => return next,
        PaceAction::Slow { at_least } => {
            next.factor = (next.factor * rules.slow_factor).max(rules.factor_min);
            // A longer hold is a later change: recovery counts from there.
            next.changed_at = now.after(at_least.saturating_sub(rules.hold));
            next.suspended_until = None;
        }
        PaceAction::Suspend { at_least } => {
            let doubled = rules
                .suspend_first
                .saturating_mul(2_u32.saturating_pow(next.suspensions.min(16)));
            let span = doubled
                .max(at_least)
                .min(rules.suspend_longest.max(at_least));
            next.suspended_until = Some(now.after(span));
            next.suspensions = next.suspensions.saturating_add(1);
            next.factor = rules.factor_min;
            next.changed_at = now.after(span);
        }
    }
    next.why = why.chars().take(REPLY_CHARS_MAX).collect();
    next
}

/// When it was last slowed. A hold that was made longer stands in the future: the answers of one site ask
/// for the same hold, so it began that much earlier.
fn last_slowed(
    pace: &SitePace,
    action: PaceAction,
    now: PolicyTime,
    rules: &PaceRules,
) -> PolicyTime {
    match action {
        PaceAction::Slow { at_least } if pace.changed_at > now => {
            pace.changed_at.before(at_least.saturating_sub(rules.hold))
        }
        PaceAction::Slow { .. } | PaceAction::Suspend { .. } => pace.changed_at,
    }
}

/// The pace after the quiet that has passed; `None` when that changes nothing.
pub fn recovered(pace: &SitePace, now: PolicyTime, rules: &PaceRules) -> Option<SitePace> {
    if pace.factor >= 1.0 || pace.suspended_until.is_some_and(|until| now < until) {
        return None;
    }
    let quiet = now.since(pace.changed_at).checked_sub(rules.hold)?;
    let intervals = whole((quiet.as_secs_f64() / rules.quiet.as_secs_f64().max(1.0)).floor());
    if intervals == 0 {
        return None;
    }
    let factor = (pace.factor + rules.recovery_step * real(intervals)).min(1.0);
    // What is left of the hold is behind us: from here each quiet interval counts by itself.
    let spent = rules.quiet.saturating_mul(intervals);
    let mut next = SitePace {
        factor,
        changed_at: pace.changed_at.after(spent),
        suspended_until: None,
        ..pace.clone()
    };
    if factor >= 1.0 {
        next.suspensions = 0;
        next.why = String::new();
    }
    Some(next)
}

/// Until when nothing may be sent to it; `None` when something may.
pub fn suspended_until(pace: &SitePace, now: PolicyTime) -> Option<PolicyTime> {
    pace.suspended_until.filter(|until| now < *until)
}

/// What a pace allows of a provider's limits.
pub fn allowance(pace: &SitePace, limits: &ProviderLimits) -> Allowance {
    let factor = pace.factor.clamp(f64::MIN_POSITIVE, 1.0);
    let share = |limit: u32| whole((real(limit) * factor).floor()).max(1);
    Allowance {
        connections: share(limits.connections),
        messages_per_connection: share(limits.messages_per_connection),
        gap: seconds(60.0 / (real(limits.per_minute.max(1)) * factor)).min(GAP_MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const SLOW: PaceAction = PaceAction::Slow {
        at_least: Duration::ZERO,
    };
    const SUSPEND: PaceAction = PaceAction::Suspend {
        at_least: Duration::ZERO,
    };

    fn minutes(n: u64) -> PolicyTime {
        PolicyTime::from_millis(0).after(Duration::from_secs(60 * n))
    }

    fn new() -> SitePace {
        fresh(IpAddr::V4(Ipv4Addr::LOCALHOST), "example.net", minutes(0))
    }

    fn rules() -> PaceRules {
        PaceRules::default()
    }

    #[test]
    fn a_refusal_halves_and_a_cohort_counts_once() {
        let one = lowered(&new(), SLOW, minutes(10), "421 slow down", &rules());
        assert!((one.factor - 0.5).abs() < 1e-9 && one.why == "421 slow down");
        let in_flight = lowered(
            &one,
            SLOW,
            minutes(10).after(Duration::from_secs(20)),
            "421",
            &rules(),
        );
        assert_eq!(in_flight, one);
        let two = lowered(&one, SLOW, minutes(12), "421 again", &rules());
        assert!((two.factor - 0.25).abs() < 1e-9);
    }

    #[test]
    fn quiet_gives_back_a_tenth_at_a_time() {
        let slow = lowered(&new(), SLOW, minutes(0), "421", &rules());
        assert_eq!(
            recovered(&slow, minutes(59), &rules()),
            None,
            "held, then a whole interval"
        );
        let after = |n| recovered(&slow, minutes(n), &rules()).unwrap();
        assert!((after(60).factor - 0.6).abs() < 1e-9);
        assert!((after(90).factor - 0.7).abs() < 1e-9);
        // In steps or at once, it comes to the same.
        assert!(
            (recovered(&after(60), minutes(90), &rules()).unwrap().factor - after(90).factor).abs()
                < 1e-9
        );
        let full = after(500);
        assert!((full.factor - 1.0).abs() < 1e-9 && full.why.is_empty());
    }

    #[test]
    fn a_longer_hold_is_kept() {
        let action = PaceAction::Slow {
            at_least: Duration::from_mins(90),
        };
        let slow = lowered(&new(), action, minutes(0), "421", &rules());
        assert_eq!(recovered(&slow, minutes(119), &rules()), None);
        assert!(recovered(&slow, minutes(120), &rules()).is_some());
    }

    #[test]
    fn suspensions_double_up_to_a_day_and_are_forgotten_at_full_pace() {
        let mut pace = new();
        let mut now = minutes(0);
        let mut hours = Vec::new();
        for _ in 0..6 {
            pace = lowered(&pace, SUSPEND, now, "554 blocked", &rules());
            let until = suspended_until(&pace, now).unwrap();
            assert_eq!(
                lowered(
                    &pace,
                    SUSPEND,
                    now.after(Duration::from_mins(5)),
                    "554",
                    &rules()
                ),
                pace
            );
            hours.push(until.since(now).as_secs() / 3600);
            now = until;
            assert_eq!(suspended_until(&pace, now), None);
        }
        assert_eq!(hours, [2, 4, 8, 16, 24, 24]);
        let healed = recovered(&pace, now.after(Duration::from_hours(24)), &rules()).unwrap();
        assert_eq!((healed.suspensions, healed.suspended_until), (0, None));
    }

    #[test]
    fn the_slowest_pace_still_tries() {
        let limits = ProviderLimits {
            connections: 5,
            messages_per_connection: 50,
            per_minute: 60,
        };
        let full = allowance(&new(), &limits);
        assert_eq!((full.connections, full.gap), (5, Duration::from_secs(1)));
        let slowest = allowance(
            &SitePace {
                factor: 1e-9,
                ..new()
            },
            &limits,
        );
        assert_eq!(
            (
                slowest.connections,
                slowest.messages_per_connection,
                slowest.gap
            ),
            (1, 1, GAP_MAX)
        );
    }

    proptest! {
        #[test]
        fn the_factor_stays_in_its_bounds(steps in prop::collection::vec((0_u8..3, 0_u64..300), 0..60)) {
            let (mut pace, mut now) = (new(), 0);
            for (what, wait) in steps {
                now += wait;
                match what {
                    0 => pace = lowered(&pace, SLOW, minutes(now), "421", &rules()),
                    1 => pace = lowered(&pace, SUSPEND, minutes(now), "554", &rules()),
                    _ => pace = recovered(&pace, minutes(now), &rules()).unwrap_or(pace),
                }
                prop_assert!(pace.factor >= rules().factor_min && pace.factor <= 1.0);
            }
            let healed = recovered(&pace, minutes(now + 10_000), &rules()).unwrap_or(pace);
            prop_assert!((healed.factor - 1.0).abs() < 1e-9, "everything heals");
        }
    }
}
