//! The ramp: how many warmup messages an inbox should send on a day.
//!
//! `target = round(daily factor × min(cap, base + increment × active days) × weekday × band)`, where the
//! daily factor follows from the inbox's seed and the day. A working day of a running warmup is never
//! empty unless the inbox is quarantined: without data nothing could ever improve.

use inboxgrove_model::{
    PolicyTime,
    inbox::{Band, DayPlan, Warmup, WarmupState},
};

use crate::{
    dice::Dice,
    numbers::{real, real_days, whole},
    rules::WarmupRules,
    schedule,
    zone::{Zone, weekday},
};

/// Marks the stream of daily factors.
const DAILY: u64 = 1;
/// A day of the week with at least this factor is a working day: something is sent on it.
pub const WORKING_DAY: f64 = 0.3;

/// The factor of one day: uniform between the rules' bounds, or the quiet one.
pub fn daily_factor(seed: u64, local_day: i64, rules: &WarmupRules) -> f64 {
    let mut dice = Dice::of(seed, &[DAILY, local_day.cast_unsigned()]);
    if dice.unit() < rules.quiet_share {
        rules.quiet_factor
    } else {
        dice.between(rules.factor_low, rules.factor_high)
    }
}

/// The level of the ramp before the day's factors: what an ordinary day aims at.
///
/// A domain known to be young gains only on every second active day; `None` means old enough.
pub fn level(warmup: &Warmup, domain_age_days: Option<u32>, rules: &WarmupRules) -> u32 {
    if warmup.state == WarmupState::Graduated {
        return rules.graduated_target.min(warmup.cap);
    }
    let young = domain_age_days.is_some_and(|days| days < rules.young_domain_days);
    let steps = warmup.active_days / if young { 2 } else { 1 };
    let grown = warmup
        .base
        .saturating_add(warmup.increment.saturating_mul(steps));
    grown.min(warmup.cap)
}

/// How many warmup messages an inbox should send on a local day, replies included.
pub fn target(warmup: &Warmup, local_day: i64, rules: &WarmupRules) -> u32 {
    target_of_domain(warmup, local_day, None, rules)
}

/// [`target`], for an inbox on a domain of a known age.
pub fn target_of_domain(
    warmup: &Warmup,
    local_day: i64,
    domain_age_days: Option<u32>,
    rules: &WarmupRules,
) -> u32 {
    if matches!(warmup.state, WarmupState::Off | WarmupState::Paused) {
        return 0;
    }
    let level = level(warmup, domain_age_days, rules);
    let day = rules.weekdays[weekday(local_day)];
    let band = WarmupRules::band_factor(warmup.band);
    let target = whole(daily_factor(warmup.seed, local_day, rules) * real(level) * day * band);
    let least = u32::from(level > 0 && day >= WORKING_DAY && warmup.band != Band::Quarantined);
    target.max(least).min(warmup.cap)
}

/// The plan of the day that `now` is in. Called again on the same day it keeps what was sent, lets the
/// target only fall (an inbox that gets worse sends less at once, one that gets better waits for
/// tomorrow), and finds the next time anew, so that missed sends are not caught up in a burst.
pub fn plan_day(
    warmup: &Warmup,
    now: PolicyTime,
    zone: &Zone,
    domain_age_days: Option<u32>,
    rules: &WarmupRules,
) -> DayPlan {
    let local_day = zone.local_day(now);
    let fresh = target_of_domain(warmup, local_day, domain_age_days, rules);
    let before = warmup
        .today
        .as_ref()
        .filter(|plan| plan.local_day == local_day);
    let mut plan = DayPlan {
        local_day,
        target: before.map_or(fresh, |plan| plan.target.min(fresh)),
        sent: before.map_or(0, |plan| plan.sent),
        next_at: None,
    };
    plan.next_at = schedule::next_send_at(&plan, warmup.seed, now, zone, rules);
    plan
}

/// Whether a day on which something was sent moves the ramp on. Any doubt freezes it where it is.
pub fn advances(band: Band) -> bool {
    band == Band::Healthy
}

/// The active days that still count after a rest: call it before planning the first day after one.
///
/// Reputation fades: after a week of silence each further day takes a tenth off the level; after a month
/// the ramp begins anew, at twice its base.
pub fn active_days_after_rest(warmup: &Warmup, local_day: i64, rules: &WarmupRules) -> u32 {
    let Some(last) = &warmup.today else {
        return warmup.active_days;
    };
    let idle = local_day - last.local_day - 1;
    let step = real(warmup.increment.max(1));
    if idle >= i64::from(rules.restart_days) {
        return whole(real(warmup.base) / step).min(warmup.active_days);
    }
    let beyond = idle - i64::from(rules.idle_days);
    if beyond <= 0 {
        return warmup.active_days;
    }
    let kept = (1.0 - rules.idle_step).powf(real_days(beyond));
    let level = real(level(warmup, None, rules)) * kept;
    let days = ((level - real(warmup.base)) / step).floor();
    whole(days).min(warmup.active_days)
}

/// Whether the ramp is at its end: full level, long enough, and nothing speaks against it.
pub fn may_graduate(warmup: &Warmup, domain_age_days: Option<u32>, rules: &WarmupRules) -> bool {
    warmup.state == WarmupState::Running
        && warmup.band == Band::Healthy
        && warmup.active_days >= rules.graduation_days
        && level(warmup, domain_age_days, rules) >= warmup.cap
}

/// How many warmup messages an inbox should receive on a day at most: about twice what it sends, so that
/// giving and taking stay in balance.
pub fn inbound_cap(target: u32) -> u32 {
    target.saturating_mul(2).clamp(10, 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running(active_days: u32) -> Warmup {
        Warmup {
            state: WarmupState::Running,
            started_at: Some(PolicyTime::from_millis(0)),
            active_days,
            base: 4,
            increment: 1,
            cap: 20,
            seed: 42,
            today: None,
            band: Band::Healthy,
            band_since: PolicyTime::from_millis(0),
        }
    }

    /// A Tuesday.
    const TUESDAY: i64 = 20_781;

    fn mean_target(warmup: &Warmup) -> f64 {
        let rules = WarmupRules::default();
        let weeks = 0..400;
        weeks
            .clone()
            .map(|week| real(target(warmup, TUESDAY + 7 * week, &rules)))
            .sum::<f64>()
            / real_days(weeks.end)
    }

    #[test]
    fn the_ramp_rises_to_its_cap() {
        let levels: Vec<u32> = [0, 1, 5, 16, 100]
            .map(|days| level(&running(days), None, &WarmupRules::default()))
            .into();
        assert_eq!(levels, [4, 5, 9, 20, 20]);
    }

    #[test]
    fn a_young_domain_rises_half_as_fast() {
        let rules = WarmupRules::default();
        assert_eq!(level(&running(10), Some(12), &rules), 9);
        assert_eq!(level(&running(10), Some(30), &rules), 14);
    }

    #[test]
    fn days_differ_within_their_bounds_and_some_are_quiet() {
        let rules = WarmupRules::default();
        let factors: Vec<f64> = (0..4000).map(|day| daily_factor(9, day, &rules)).collect();
        let quiet = factors.iter().filter(|f| **f < 0.7).count();
        assert!((480..720).contains(&quiet), "{quiet} of 4000");
        assert!(factors.iter().all(|f| (0.6..1.1).contains(f)));
    }

    #[test]
    fn bands_and_states_lower_the_target() {
        let healthy = mean_target(&running(30));
        let banded = |band| {
            mean_target(&Warmup {
                band,
                ..running(30)
            }) / healthy
        };
        assert!((banded(Band::SoftHold) - 0.75).abs() < 0.02);
        assert!((banded(Band::Throttled) - 0.5).abs() < 0.02);
        assert!(banded(Band::Quarantined) < 1e-9);
        let paused = Warmup {
            state: WarmupState::Paused,
            ..running(30)
        };
        assert!(mean_target(&paused) < 1e-9);
    }

    #[test]
    fn a_working_day_is_never_empty_and_a_sunday_may_be() {
        let rules = WarmupRules::default();
        let small = Warmup {
            base: 1,
            increment: 0,
            band: Band::Throttled,
            ..running(0)
        };
        assert!((0..100).all(|week| target(&small, TUESDAY + 7 * week, &rules) == 1));
        assert_eq!(target(&small, TUESDAY + 5, &rules), 0);
    }

    #[test]
    fn graduates_keep_a_little_going() {
        let rules = WarmupRules::default();
        assert!(may_graduate(&running(21), None, &rules));
        assert!(!may_graduate(&running(20), None, &rules));
        assert!(!may_graduate(
            &Warmup {
                band: Band::SoftHold,
                ..running(30)
            },
            None,
            &rules
        ));
        assert_eq!(
            level(
                &Warmup {
                    state: WarmupState::Graduated,
                    ..running(30)
                },
                None,
                &rules
            ),
            5
        );
    }

    #[test]
    fn a_rest_steps_the_ramp_back() {
        let rules = WarmupRules::default();
        let after = |idle: i64| {
            let last = DayPlan {
                local_day: 100,
                target: 20,
                sent: 20,
                next_at: None,
            };
            let warmup = Warmup {
                today: Some(last),
                ..running(30)
            };
            active_days_after_rest(&warmup, 101 + idle, &rules)
        };
        assert_eq!([after(0), after(7)], [30, 30]);
        assert_eq!(after(9), 12, "20 × 0.81 = 16.2, less the base of 4");
        assert_eq!([after(30), after(300)], [4, 4], "twice the base");
    }

    #[test]
    fn planning_again_keeps_what_was_sent_and_never_raises_the_target() {
        let (zone, rules) = (Zone::utc(), WarmupRules::default());
        let noon = PolicyTime::from_millis(TUESDAY * 86_400_000 + 12 * 3_600_000);
        let mut warmup = running(30);
        warmup.today = Some(DayPlan {
            local_day: TUESDAY,
            target: 3,
            sent: 2,
            next_at: None,
        });
        let plan = plan_day(&warmup, noon, &zone, None, &rules);
        assert_eq!((plan.target, plan.sent), (3, 2));
        assert!(plan.next_at.is_some_and(|at| at > noon));
    }

    proptest! {
        #[test]
        fn no_target_exceeds_the_cap(base in 0_u32..100, increment in 0_u32..50, cap in 0_u32..60,
            active_days: u32, seed: u64, day in -10_000_i64..100_000) {
            let warmup = Warmup { base, increment, cap, seed, ..running(active_days) };
            prop_assert!(target(&warmup, day, &WarmupRules::default()) <= cap);
        }
    }
}
