//! What a provider thinks of a sender: a number in `[0, 1]` for each (source address, sender domain).
//!
//! It grows by days of steady volume and by people who answer, and falls with bursts, unknown users and
//! complaints. Pure: days are numbered by the caller.

use super::Rules;

/// How much of the past the usual volume keeps each day: three days make up most of it.
const USUAL_KEPT: f64 = 0.7;
/// Days without mail before a standing starts to fade towards that of a stranger.
const IDLE_DAYS: i64 = 14;
/// How much of what was earned is left after each idle day beyond those.
const IDLE_KEPT: f64 = 0.95;
/// Most that one day of pressing on beyond the allowance can cost.
const PRESSING_COST_MAX: f64 = 0.05;
/// Share of unknown users from which a day no longer counts as steady.
const UNKNOWN_SHARE_MAX: f64 = 0.05;

/// What a provider thinks of one sender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// The opinion, in `[0, 1]`.
    pub score: f64,
    /// Messages of a usual day.
    pub usual: f64,
    /// The day that is being counted.
    day: i64,
    /// The last day with mail.
    last_mail: i64,
    accepted: u32,
    engaged: u32,
    unknown: u32,
    pressing_cost: f64,
}

// === impl Standing ===

impl Standing {
    /// What is thought of somebody who was never seen before.
    pub fn of_stranger(rules: &Rules, day: i64) -> Self {
        Self {
            score: rules.start,
            usual: 0.0,
            day,
            last_mail: day,
            accepted: 0,
            engaged: 0,
            unknown: 0,
            pressing_cost: 0.0,
        }
    }

    /// Closes all days before `day`.
    pub fn roll(&mut self, rules: &Rules, day: i64) {
        if day <= self.day {
            return;
        }
        self.close_day(rules);
        let idle = (day - self.last_mail - 1).clamp(0, 3_650);
        let empty = (day - self.day - 1).clamp(0, 3_650);
        self.usual *= power(USUAL_KEPT, empty);
        let fading = (idle - IDLE_DAYS).clamp(0, empty.max(1));
        self.score = rules.start + (self.score - rules.start) * power(IDLE_KEPT, fading);
        self.day = day;
        (
            self.accepted,
            self.engaged,
            self.unknown,
            self.pressing_cost,
        ) = (0, 0, 0, 0.0);
    }

    /// How many messages it may send today.
    pub fn allowance(&self, rules: &Rules) -> u32 {
        let usual = self.usual * rules.burst_factor * (0.5 + self.score);
        whole(usual.max(f64::from(rules.floor_per_day)))
    }

    /// Whether another message today is more than it may send.
    pub fn is_over(&self, rules: &Rules) -> bool {
        self.accepted >= self.allowance(rules)
    }

    /// It was told to slow down: pressing on costs.
    pub fn pressed_on(&mut self, rules: &Rules) {
        let cost = rules.burst_cost / f64::from(self.allowance(rules).max(1));
        let cost = cost.min(PRESSING_COST_MAX - self.pressing_cost).max(0.0);
        self.pressing_cost += cost;
        self.lower(cost);
    }

    /// A message was taken.
    pub fn accepted(&mut self) {
        self.accepted += 1;
        self.last_mail = self.day;
    }

    /// It wrote to somebody who does not exist.
    pub fn unknown_user(&mut self, rules: &Rules) {
        self.unknown += 1;
        self.lower(rules.unknown_cost);
    }

    /// Somebody called its mail spam.
    pub fn complained(&mut self, rules: &Rules) {
        self.lower(rules.complaint_cost);
    }

    /// Somebody answered it, or moved its mail out of the spam folder.
    pub fn engaged(&mut self, rules: &Rules) {
        self.engaged += 1;
        // Past as many answers as messages the rest is noise.
        if self.engaged <= self.accepted.max(4) {
            let share = rules.engagement / f64::from(self.accepted.max(4));
            self.score += (1.0 - self.score) * share;
        }
    }

    /// How likely its next message lands in the spam folder.
    pub fn spam_probability(&self, rules: &Rules) -> f64 {
        1.0 / (1.0 + (rules.spam_slope * (self.score - rules.spam_middle)).exp())
    }

    fn close_day(&mut self, rules: &Rules) {
        let volume = f64::from(self.accepted);
        let steady =
            self.pressing_cost == 0.0 && f64::from(self.unknown) <= volume * UNKNOWN_SHARE_MAX;
        if self.accepted > 0 && steady {
            self.score += (1.0 - self.score) * rules.growth;
        }
        self.usual = self.usual * USUAL_KEPT + volume * (1.0 - USUAL_KEPT);
    }

    fn lower(&mut self, cost: f64) {
        self.score = (self.score - cost).clamp(0.0, 1.0);
    }
}

/// `base` to the power of a number of days.
fn power(base: f64, days: i64) -> f64 {
    base.powi(i32::try_from(days).expect("callers clamp days to ten years"))
}

/// A count from a product that is never negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and counts are far below its end"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A sender that sends `volume(day)` and is answered at a rate.
    fn live(
        rules: &Rules,
        days: i64,
        volume: impl Fn(i64) -> u32,
        answered_every: u32,
    ) -> Standing {
        let mut standing = Standing::of_stranger(rules, 0);
        for day in 0..days {
            standing.roll(rules, day);
            for n in 0..volume(day) {
                if standing.is_over(rules) {
                    standing.pressed_on(rules);
                    continue;
                }
                standing.accepted();
                if answered_every > 0 && n % answered_every == 0 {
                    standing.engaged(rules);
                }
            }
        }
        standing.roll(rules, days);
        standing
    }

    fn presets() -> [Rules; 3] {
        [
            Rules::gmail_like(),
            Rules::outlook_like(),
            Rules::yahoo_like(),
        ]
    }

    #[test]
    fn a_slow_ramp_with_answers_earns_the_inbox() {
        for rules in presets() {
            let stranger = Standing::of_stranger(&rules, 0).spam_probability(&rules);
            let ramp = |day| u32::try_from(5 + day * 2).unwrap();
            let warm = live(&rules, 30, ramp, 3);
            assert!(warm.score > 0.8, "{}: {warm:?}", rules.name);
            assert!(
                warm.spam_probability(&rules) < 0.05,
                "{}: {warm:?}",
                rules.name
            );
            assert!(stranger > 0.2, "{}: {stranger}", rules.name);
            assert!(warm.allowance(&rules) > 65, "{}: {warm:?}", rules.name);
            let silent = live(&rules, 30, ramp, 0);
            assert!(silent.score < warm.score, "answers count");
        }
    }

    #[test]
    fn a_blast_from_the_cold_loses_it() {
        for rules in presets() {
            let blast = live(&rules, 5, |_| 2_000, 0);
            assert!(blast.score < rules.start, "{}: {blast:?}", rules.name);
            assert!(
                blast.spam_probability(&rules) > 0.5,
                "{}: {blast:?}",
                rules.name
            );
        }
    }

    #[test]
    fn what_was_earned_fades_when_nothing_comes() {
        let rules = Rules::gmail_like();
        let warm = live(&rules, 40, |_| 15, 2);
        let mut rested = warm;
        rested.roll(&rules, 50);
        assert!(
            (rested.score - warm.score).abs() < 0.05,
            "ten days are forgiven"
        );
        let mut gone = warm;
        gone.roll(&rules, 400);
        assert!((gone.score - rules.start).abs() < 0.01);
        assert_eq!(gone.allowance(&rules), rules.floor_per_day);
    }

    #[test]
    fn rolling_day_by_day_never_ends_above_rolling_at_once() {
        let rules = Rules::gmail_like();
        let (mut at_once, mut daily) = (live(&rules, 20, |_| 10, 2), live(&rules, 20, |_| 10, 2));
        at_once.roll(&rules, 60);
        (21..=60).for_each(|day| daily.roll(&rules, day));
        assert!((at_once.score - daily.score).abs() < 1e-9);
        assert!((at_once.usual - daily.usual).abs() < 1e-9);
    }

    #[derive(Debug, Clone, Copy)]
    enum Deed {
        Accept,
        Press,
        Unknown,
        Complaint,
        Answer,
        Wait(i64),
    }

    proptest! {
        #[test]
        fn the_score_stays_a_share_and_bad_deeds_never_help(deeds in prop::collection::vec(prop_oneof![
            Just(Deed::Accept), Just(Deed::Press), Just(Deed::Unknown), Just(Deed::Complaint), Just(Deed::Answer), (1_i64..400).prop_map(Deed::Wait),
        ], 0..200)) {
            for rules in presets() {
                let mut standing = Standing::of_stranger(&rules, 100);
                for deed in &deeds {
                    let before = standing.score;
                    match *deed {
                        Deed::Accept => standing.accepted(),
                        Deed::Press => standing.pressed_on(&rules),
                        Deed::Unknown => standing.unknown_user(&rules),
                        Deed::Complaint => standing.complained(&rules),
                        Deed::Answer => standing.engaged(&rules),
                        Deed::Wait(days) => standing.roll(&rules, standing.day + days),
                    }
                    prop_assert!((0.0..=1.0).contains(&standing.score));
                    prop_assert!((0.0..=1.0).contains(&standing.spam_probability(&rules)));
                    prop_assert!(standing.allowance(&rules) >= rules.floor_per_day);
                    if matches!(deed, Deed::Press | Deed::Unknown | Deed::Complaint) {
                        prop_assert!(standing.score <= before);
                    }
                }
            }
        }
    }
}
