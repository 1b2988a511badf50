//! Bands: what we do at what we believe.
//!
//! Down at once, up slowly. Weak evidence (one fresh spam placement or complaint, or a rate more probably
//! over its limit than not) holds volume; a probability above 0.8 throttles; above 0.95 quarantines. A
//! band is left one step at a time, when every probability is below 0.3, no fresh bad sign is left, and it
//! has lasted at least 72 hours. The composite score never decides anything.
//!
//! Deferrals alone never quarantine: one receiver that is down defers everything, and that says little about
//! the sender.

use std::time::Duration;

use inboxgrove_model::{PolicyTime, inbox::Band};

use crate::evidence::{Belief, Beliefs, Signal};

/// The band that an inbox belongs in now, and why, in a sentence for its owner.
pub fn band(beliefs: &Beliefs, was: Band, since: PolicyTime, now: PolicyTime) -> (Band, String) {
    let (called_for, why) = called_for(beliefs);
    if called_for >= was {
        return (called_for, why);
    }
    let (worst, belief) = worst(beliefs);
    let probability = belief.over_limit();
    if probability >= beliefs.rules.leave_below {
        let why = format!(
            "the {} is over {} with probability {probability:.2}; this ends below {:.2}",
            worst.rate_name(),
            percent(belief.rules.limit),
            beliefs.rules.leave_below,
        );
        return (was, why);
    }
    // What calls for a hold keeps a hold, and also whatever is stricter: quiet comes first.
    if called_for > Band::Healthy {
        return (was, why);
    }
    let left = beliefs.rules.dwell_min.saturating_sub(now.since(since));
    if left > Duration::ZERO {
        return (
            was,
            format!(
                "nothing speaks against it any more; it lasts for {} more",
                hours(left)
            ),
        );
    }
    let why = format!(
        "every rate is over its limit with a probability below {:.2}, and it has been quiet for {}",
        beliefs.rules.leave_below,
        hours(beliefs.rules.dwell_min),
    );
    (one_better(was), why)
}

/// The band that the evidence alone calls for.
fn called_for(beliefs: &Beliefs) -> (Band, String) {
    let (signal, belief) = worst(beliefs);
    let probability = belief.over_limit();
    let rules = &beliefs.rules;
    if probability > rules.throttle_above {
        let certain = Signal::ALL
            .into_iter()
            .filter(|signal| *signal != Signal::Deferral)
            .map(|signal| (signal, beliefs.of(signal)))
            .find(|(_, belief)| belief.over_limit() > rules.quarantine_above);
        return match certain {
            Some((signal, belief)) => (Band::Quarantined, sentence(signal, &belief)),
            None => (Band::Throttled, sentence(signal, &belief)),
        };
    }
    for signal in [Signal::Complaint, Signal::Placement] {
        let fresh = beliefs.of(signal).fresh_bad;
        if fresh > 0 {
            let what = if signal == Signal::Complaint {
                "complaints"
            } else {
                "spam placements"
            };
            return (
                Band::SoftHold,
                format!("{what} in the last {} days: {fresh}", rules.fresh_days),
            );
        }
    }
    if probability > rules.hold_above {
        return (Band::SoftHold, sentence(signal, &belief));
    }
    (Band::Healthy, "nothing speaks against it".into())
}

/// What is believed about a signal, for people.
fn sentence(signal: Signal, belief: &Belief) -> String {
    format!(
        "the {} is over {} with probability {:.2} (about {}, on {:.0} outcomes)",
        signal.rate_name(),
        percent(belief.rules.limit),
        belief.over_limit(),
        percent(belief.posterior.mean()),
        belief.samples,
    )
}

/// The signal most probably over its limit.
fn worst(beliefs: &Beliefs) -> (Signal, Belief) {
    Signal::ALL
        .map(|signal| (signal, beliefs.of(signal)))
        .into_iter()
        .max_by(|a, b| a.1.over_limit().total_cmp(&b.1.over_limit()))
        .expect("there are four signals")
}

fn one_better(band: Band) -> Band {
    match band {
        Band::Healthy | Band::SoftHold => Band::Healthy,
        Band::Throttled => Band::SoftHold,
        Band::Quarantined => Band::Throttled,
    }
}

/// A rate for people: enough digits to see a complaint rate.
pub(crate) fn percent(rate: f64) -> String {
    if rate < 0.01 {
        format!("{:.2} %", rate * 100.0)
    } else {
        format!("{:.1} %", rate * 100.0)
    }
}

fn hours(span: Duration) -> String {
    format!("{} h", span.as_secs().div_ceil(3600))
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::inbox::{DayCounts, EvidenceDay};

    use super::*;
    use crate::{dice::Dice, rules::HealthRules};

    const HOUR: Duration = Duration::from_hours(1);

    fn start() -> PolicyTime {
        PolicyTime::from_millis(100 * 86_400_000)
    }

    fn beliefs(counts: DayCounts, age: i64) -> Beliefs {
        let day = EvidenceDay {
            utc_day: 100 - age,
            provider: "google".into(),
            counts,
        };
        Beliefs::from_days(&[day], 100, &HealthRules::default())
    }

    fn placed(inbox: u32, spam: u32) -> DayCounts {
        DayCounts {
            delivered: inbox + spam,
            placed_inbox: inbox,
            placed_spam: spam,
            ..DayCounts::default()
        }
    }

    #[test]
    fn worse_evidence_calls_for_a_stricter_band() {
        let table = [
            (placed(40, 0), Band::Healthy),
            (placed(39, 1), Band::SoftHold),
            (placed(15, 5), Band::Throttled),
            (placed(10, 10), Band::Quarantined),
        ];
        for (counts, expected) in table {
            let (found, why) = band(&beliefs(counts, 0), Band::Healthy, start(), start());
            assert_eq!(found, expected, "{counts:?}: {why}");
        }
    }

    #[test]
    fn a_receiver_that_is_down_throttles_and_never_quarantines() {
        let counts = DayCounts {
            delivered: 5,
            deferred: 500,
            ..DayCounts::default()
        };
        let (found, why) = band(&beliefs(counts, 0), Band::Healthy, start(), start());
        assert_eq!(found, Band::Throttled, "{why}");
        assert!(why.contains("deferral rate"), "{why}");
    }

    #[test]
    fn a_band_is_left_one_step_at_a_time_after_its_dwell() {
        let clean = beliefs(placed(60, 0), 0);
        let after = |hours: u32| {
            band(
                &clean,
                Band::Quarantined,
                start(),
                start().after(HOUR * hours),
            )
        };
        assert_eq!(after(71).0, Band::Quarantined);
        assert!(after(71).1.contains("1 h more"), "{}", after(71).1);
        assert_eq!(after(72).0, Band::Throttled);
    }

    #[test]
    fn doubt_keeps_a_band_that_it_would_not_have_entered() {
        // Probability about 0.44: neither bad enough to throttle nor good enough to leave.
        let doubt = beliefs(placed(17, 3), 0);
        let late = start().after(HOUR * 1000);
        assert_eq!(
            band(&doubt, Band::Throttled, start(), late).0,
            Band::Throttled
        );
        assert_eq!(band(&doubt, Band::Healthy, start(), late).0, Band::SoftHold);
    }

    #[test]
    fn a_fresh_sign_ends_after_its_days() {
        assert_eq!(
            band(&beliefs(placed(39, 1), 2), Band::Healthy, start(), start()).0,
            Band::SoftHold
        );
        assert_eq!(
            band(&beliefs(placed(39, 1), 3), Band::Healthy, start(), start()).0,
            Band::Healthy
        );
    }

    /// 60 days of 30 sends at a true bounce rate; the first day on which it is throttled or worse.
    fn first_hard_day(rate: f64, seed: u64) -> Option<i64> {
        let (mut dice, rules) = (Dice::new(seed), HealthRules::default());
        let mut days = Vec::new();
        (0..60).find(|today| {
            let mut counts = DayCounts::default();
            for _ in 0..30 {
                if dice.unit() < rate {
                    counts.bounced_recipient += 1;
                } else {
                    counts.delivered += 1;
                }
            }
            days.push(EvidenceDay {
                utc_day: *today,
                provider: "google".into(),
                counts,
            });
            let found = band(
                &Beliefs::from_days(&days, *today, &rules),
                Band::Healthy,
                start(),
                start(),
            );
            found.0 >= Band::Throttled
        })
    }

    #[test]
    fn a_sender_at_half_the_limit_is_left_alone_and_one_far_above_is_caught() {
        let falsely = (0..200)
            .filter(|seed| first_hard_day(0.025, *seed).is_some())
            .count();
        assert!(falsely <= 2, "{falsely} of 200");
        let mut caught: Vec<i64> = (0..100)
            .map(|seed| first_hard_day(0.12, seed).expect("it is caught"))
            .collect();
        caught.sort_unstable();
        assert!(caught[50] <= 5, "median day {}", caught[50]);
    }
}
