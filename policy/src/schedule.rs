//! When, within a day: gaps that look like a person's.
//!
//! The remaining sends are scattered over the rest of the waking hours in proportion to the hour curve;
//! the next send is the first of them. So gaps are close to exponential, crowd at the peaks, thin out at
//! lunch, and a late start re-plans by itself. The shortest gap is kept by planning in a window that is
//! shorter by all the gaps still to come; sends that no longer fit are dropped.

use std::{ops::Range, time::Duration};

use inboxgrove_model::{PolicyTime, inbox::DayPlan};

use crate::{
    dice::Dice,
    numbers::{real, seconds, whole},
    ramp::WORKING_DAY,
    rules::WarmupRules,
    zone::{Zone, weekday},
};

/// Marks the stream of waking hours.
const WAKING: u64 = 2;
/// Marks the stream of gaps.
const GAP: u64 = 3;
/// Marks the stream of planning times.
const PLAN: u64 = 4;
/// Seconds by which a time may be moved off a round minute.
const OFF_ROUND: u32 = 300;
/// The day begins up to so many seconds after the rules' start, and ends up to so many before their end.
const ROLL: Range<u32> = 180..1_620;

/// The waking hours of one inbox on one day, in seconds of the local clock.
pub fn waking(seed: u64, local_day: i64, rules: &WarmupRules) -> Range<u32> {
    let mut dice = Dice::of(seed, &[WAKING, local_day.cast_unsigned()]);
    let start = rules.waking_start_minute.min(1440) * 60;
    let end = rules.waking_end_minute.min(1440) * 60;
    // A window too short to be rolled is taken as it is.
    if start + 4 * ROLL.end > end {
        return start..end.max(start);
    }
    let mut roll = || ROLL.start + dice.below(ROLL.end - ROLL.start);
    start + roll()..end - roll()
}

/// When the next message of a plan is due: after `now`, within the waking hours of the plan's day. `None`
/// when the plan is done or the day is.
pub fn next_send_at(
    plan: &DayPlan,
    seed: u64,
    now: PolicyTime,
    zone: &Zone,
    rules: &WarmupRules,
) -> Option<PolicyTime> {
    let left = plan.target.saturating_sub(plan.sent);
    if left == 0 || zone.local_day(now) > plan.local_day {
        return None;
    }
    let waking = waking(seed, plan.local_day, rules);
    let awake = zone.local_day(now) == plan.local_day && zone.local_second(now) >= waking.start;
    let from = if awake {
        zone.local_second(now)
    } else {
        waking.start
    };
    let mut dice = Dice::of(
        seed,
        &[GAP, plan.local_day.cast_unsigned(), u64::from(plan.sent)],
    );

    // Somebody who is awake may just have sent something: the first gap is theirs too.
    let gap = u32::try_from(rules.gap_min.as_secs()).unwrap_or(u32::MAX);
    let gaps = if awake { left } else { left - 1 };
    let reserved = gap
        .saturating_add(OFF_ROUND)
        .saturating_mul(gaps)
        .saturating_add(OFF_ROUND);
    let until = waking.end.saturating_sub(reserved);
    let drawn = if until > from {
        first_of(left, from..until, &rules.hour_curve, &mut dice)
    } else {
        from.saturating_add(dice.below(120))
    };
    let second = off_round(drawn.saturating_add(if awake { gap } else { 0 }), &mut dice);
    if second >= waking.end {
        return None;
    }
    let at = zone.at(plan.local_day, second);
    // A clock that was set back shows the same second twice: the gap is kept in real time.
    Some(if awake {
        at.max(now.after(rules.gap_min))
    } else {
        at.max(now.after(Duration::from_secs(1)))
    })
}

/// When to plan the next day: in the hour before it begins for this inbox, spread over all inboxes.
pub fn next_plan_at(seed: u64, now: PolicyTime, zone: &Zone, rules: &WarmupRules) -> PolicyTime {
    let tomorrow = zone.local_day(now) + 1;
    let early = Dice::of(seed, &[PLAN, tomorrow.cast_unsigned()]).below(3_600);
    zone.at(
        tomorrow,
        waking(seed, tomorrow, rules)
            .start
            .saturating_sub(60 + early),
    )
}

/// The same time when an inbox is awake then, otherwise soon after it next wakes on a working day.
pub fn when_awake(at: PolicyTime, seed: u64, zone: &Zone, rules: &WarmupRules) -> PolicyTime {
    let first_day = zone.local_day(at);
    let none_works = rules.weekdays.iter().all(|factor| *factor < WORKING_DAY);
    let works = |day: i64| none_works || rules.weekdays[weekday(day)] >= WORKING_DAY;
    let second = zone.local_second(at);
    let hours = waking(seed, first_day, rules);
    if works(first_day) && hours.contains(&second) {
        return at;
    }
    let next = if second < hours.start {
        first_day
    } else {
        first_day + 1
    };
    let day = (next..next + 7).find(|day| works(*day)).unwrap_or(next);
    let hours = waking(seed, day, rules);
    // People answer the night's mail in the first hour, most of it early.
    let mut dice = Dice::of(
        seed,
        &[WAKING, day.cast_unsigned(), at.as_millis().cast_unsigned()],
    );
    let late = whole(dice.exponential() * 1_200.0).min((hours.end - hours.start) / 2);
    zone.at(day, hours.start.saturating_add(late)).max(at)
}

/// How long reading takes, at 200 to 250 words a minute, within 20 and 180 seconds.
pub fn reading_time(words: u32, dice: &mut Dice) -> Duration {
    seconds((real(words) * 60.0 / dice.between(200.0, 250.0)).clamp(20.0, 180.0))
}

/// The first of `n` points scattered over a window with the density of the hour curve.
fn first_of(n: u32, window: Range<u32>, curve: &[f64; 24], dice: &mut Dice) -> u32 {
    // The smallest of n uniform numbers, drawn directly.
    let share = 1.0 - (1.0 - dice.unit()).powf(1.0 / real(n));
    let weight = |hour: u32| {
        let from = window.start.max(hour * 3600);
        let to = window.end.min((hour + 1) * 3600);
        curve[hour as usize % 24].max(0.0) * real(to.saturating_sub(from))
    };
    let hours = window.start / 3600..=(window.end - 1) / 3600;
    let sum: f64 = hours.clone().map(weight).sum();
    if sum <= 0.0 {
        return window.start + whole(share * real(window.end - window.start));
    }
    let mut left = share * sum;
    for hour in hours {
        let here = weight(hour);
        if left < here {
            let from = window.start.max(hour * 3600);
            return from + whole(left / curve[hour as usize % 24]);
        }
        left -= here;
    }
    window.end - 1
}

/// Moves a time off minutes that end in 0 or 5; never earlier.
fn off_round(second: u32, dice: &mut Dice) -> u32 {
    let into = second % OFF_ROUND;
    if into >= 60 {
        second
    } else {
        second - into + 60 + dice.below(OFF_ROUND - 60)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TUESDAY: i64 = 20_781;

    /// All sends of a day, each at the very time it was due.
    fn day(seed: u64, target: u32, wakes_at: PolicyTime, zone: &Zone) -> Vec<PolicyTime> {
        let rules = WarmupRules::default();
        let mut plan = DayPlan {
            local_day: zone.local_day(wakes_at),
            target,
            sent: 0,
            next_at: None,
        };
        let (mut now, mut sends) = (wakes_at, Vec::new());
        while let Some(at) = next_send_at(&plan, seed, now, zone, &rules) {
            assert!(at > now);
            sends.push(at);
            plan.sent += 1;
            now = at;
        }
        sends
    }

    fn zones() -> [Zone; 4] {
        [
            "Europe/Berlin",
            "America/New_York",
            "Asia/Kolkata",
            "Australia/Lord_Howe",
        ]
        .map(|name| Zone::named(name).unwrap())
    }

    #[test]
    fn sends_crowd_at_the_peaks_and_thin_out_at_lunch() {
        let zone = Zone::utc();
        let mut hours = [0_u32; 24];
        for seed in 0..400 {
            for at in day(seed, 12, zone.day_starts(TUESDAY), &zone) {
                hours[(zone.local_second(at) / 3600) as usize] += 1;
            }
        }
        assert!(hours[10] > hours[12] && hours[14] > hours[12], "{hours:?}");
        assert_eq!(
            hours[..9].iter().sum::<u32>() + hours[18..].iter().sum::<u32>(),
            0
        );
    }

    #[test]
    fn a_late_start_sends_less_and_not_faster() {
        let zone = Zone::utc();
        let late = zone.at(TUESDAY, 16 * 3600 + 1800);
        let sends = day(7, 20, late, &zone);
        assert!(!sends.is_empty() && sends.len() < 10, "{}", sends.len());
    }

    #[test]
    fn a_finished_plan_and_a_finished_day_have_no_next() {
        let (zone, rules) = (Zone::utc(), WarmupRules::default());
        let plan = DayPlan {
            local_day: TUESDAY,
            target: 3,
            sent: 3,
            next_at: None,
        };
        assert_eq!(
            next_send_at(&plan, 1, zone.day_starts(TUESDAY), &zone, &rules),
            None
        );
        let plan = DayPlan { sent: 0, ..plan };
        assert_eq!(
            next_send_at(&plan, 1, zone.at(TUESDAY, 20 * 3600), &zone, &rules),
            None
        );
        assert_eq!(
            next_send_at(&plan, 1, zone.day_starts(TUESDAY + 1), &zone, &rules),
            None
        );
    }

    #[test]
    fn nobody_answers_at_night_or_on_sunday() {
        let (zone, rules) = (Zone::utc(), WarmupRules::default());
        let saturday_night = zone.at(TUESDAY + 4, 23 * 3600);
        let at = when_awake(saturday_night, 3, &zone, &rules);
        assert_eq!(zone.local_day(at), TUESDAY + 6, "Monday");
        let noon = zone.at(TUESDAY, 12 * 3600);
        assert_eq!(when_awake(noon, 3, &zone, &rules), noon);
    }

    #[test]
    fn the_next_day_is_planned_before_it_begins() {
        let rules = WarmupRules::default();
        for zone in zones() {
            let now = zone.at(TUESDAY, 15 * 3600);
            let at = next_plan_at(5, now, &zone, &rules);
            assert_eq!(zone.local_day(at), TUESDAY + 1);
            assert!(zone.local_second(at) < waking(5, TUESDAY + 1, &rules).start);
        }
    }

    proptest! {
        #[test]
        fn every_day_keeps_the_rules(seed: u64, target in 0_u32..31, which in 0_usize..4, offset in 0_i64..3000) {
            let (zone, rules) = (&zones()[which], WarmupRules::default());
            let local_day = 20_000 + offset;
            let sends = day(seed, target, zone.day_starts(local_day), zone);
            prop_assert_eq!(sends.len(), target as usize, "an early start sends all");
            for at in &sends {
                prop_assert_eq!(zone.local_day(*at), local_day);
                prop_assert!(waking(seed, local_day, &rules).contains(&zone.local_second(*at)));
                prop_assert!(zone.local_second(*at) / 60 % 5 != 0, "a round minute");
            }
            for pair in sends.windows(2) {
                prop_assert!(pair[1].since(pair[0]) >= rules.gap_min);
            }
        }
    }
}
