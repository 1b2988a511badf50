//! Evidence: decayed counts, and what they let us believe about four rates.
//!
//! Each signal has a beta prior and a half-life; a day's counts weigh `0.5^(age / half-life)`. What comes
//! out is not a percentage but a distribution, so that one bounce of thirteen decides nothing.

use std::{collections::BTreeMap, fmt};

use inboxgrove_model::inbox::{DayCounts, EvidenceDay};

use crate::{
    beta,
    numbers::{real, real_days},
    rules::{HealthRules, SignalRules},
};

/// A rate that we have beliefs about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Answers that put mail off, of all answers that did not refuse it.
    Deferral,
    /// Warmup mail found in spam folders, of all that was found.
    Placement,
    /// Recipients refused for good, of all that were answered for good.
    Bounce,
    /// Complaints, of all that was delivered.
    Complaint,
}

/// What is believed about a rate: a beta distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Bad outcomes, the prior's included.
    pub bad: f64,
    /// Good outcomes, the prior's included.
    pub good: f64,
}

/// What is believed about one signal, and on how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    /// The rate.
    pub posterior: Posterior,
    /// Decayed number of outcomes behind it, the prior left out.
    pub samples: f64,
    /// Bad outcomes of the fresh days, undecayed.
    pub fresh_bad: u32,
    /// The rules it is judged by.
    pub rules: SignalRules,
}

/// What is believed about an inbox, a domain, or anything else that has evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Beliefs {
    /// Over all providers.
    pub signals: BTreeMap<Signal, Belief>,
    /// At each provider alone.
    pub providers: BTreeMap<String, BTreeMap<Signal, Belief>>,
    /// The rules they are judged by.
    pub rules: HealthRules,
}

// === impl Signal ===

impl Signal {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Deferral,
        Self::Placement,
        Self::Bounce,
        Self::Complaint,
    ];

    /// Its stable name, as in API and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deferral => "deferral",
            Self::Placement => "placement",
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
        }
    }

    /// The rate in words.
    pub fn rate_name(self) -> &'static str {
        match self {
            Self::Deferral => "deferral rate",
            Self::Placement => "spam placement rate",
            Self::Bounce => "bounce rate",
            Self::Complaint => "complaint rate",
        }
    }

    /// What a good outcome is called, in the plural.
    pub fn good_outcomes(self) -> &'static str {
        match self {
            Self::Deferral => "deliveries at the first attempt",
            Self::Placement => "messages found in the inbox",
            Self::Bounce => "clean deliveries",
            Self::Complaint => "deliveries without a complaint",
        }
    }

    /// The rules of this signal.
    pub fn rules(self, rules: &HealthRules) -> SignalRules {
        match self {
            Self::Deferral => rules.deferral,
            Self::Placement => rules.placement,
            Self::Bounce => rules.bounce,
            Self::Complaint => rules.complaint,
        }
    }

    /// Bad and good outcomes of a day.
    fn outcomes(self, counts: &DayCounts) -> (u32, u32) {
        match self {
            Self::Deferral => (counts.deferred, counts.delivered),
            Self::Placement => (counts.placed_spam, counts.placed_inbox),
            Self::Bounce => (
                counts
                    .bounced_recipient
                    .saturating_add(counts.bounced_policy),
                counts.delivered,
            ),
            Self::Complaint => (
                counts.complaints,
                counts.delivered.saturating_sub(counts.complaints),
            ),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Posterior ===

impl Posterior {
    /// The expected rate.
    pub fn mean(&self) -> f64 {
        self.bad / (self.bad + self.good)
    }

    /// The probability that the rate is above a limit.
    pub fn above(&self, limit: f64) -> f64 {
        beta::above(limit, self.bad, self.good)
    }

    /// The rate below which it lies with probability `p`.
    pub fn quantile(&self, p: f64) -> f64 {
        beta::quantile(p, self.bad, self.good)
    }

    /// The interval that holds the rate with probability `mass`, with equal tails.
    pub fn interval(&self, mass: f64) -> (f64, f64) {
        let tail = (1.0 - mass.clamp(0.0, 1.0)) / 2.0;
        (self.quantile(tail), self.quantile(1.0 - tail))
    }
}

// === impl Belief ===

impl Belief {
    /// What is believed before there is any evidence.
    pub fn prior(rules: SignalRules) -> Self {
        Self {
            posterior: Posterior {
                bad: rules.prior_bad,
                good: rules.prior_good,
            },
            samples: 0.0,
            fresh_bad: 0,
            rules,
        }
    }

    /// The probability that the rate is above its limit.
    pub fn over_limit(&self) -> f64 {
        self.posterior.above(self.rules.limit)
    }

    fn add(&mut self, bad: u32, good: u32, age_days: i64, fresh_days: u32) {
        let age = real_days(age_days.max(0));
        let weight = 0.5_f64.powf(age / self.rules.half_life_days.max(0.01));
        self.posterior.bad += weight * real(bad);
        self.posterior.good += weight * real(good);
        self.samples += weight * (real(bad) + real(good));
        if age_days < i64::from(fresh_days) {
            self.fresh_bad = self.fresh_bad.saturating_add(bad);
        }
    }
}

// === impl Beliefs ===

impl Beliefs {
    /// What the evidence up to `today` (a UTC day) lets us believe. Days may come in any order; one from
    /// the future counts as today's.
    pub fn from_days(days: &[EvidenceDay], today: i64, rules: &HealthRules) -> Self {
        let mut beliefs = Self {
            signals: priors(rules),
            providers: BTreeMap::new(),
            rules: rules.clone(),
        };
        for day in days {
            let age = today.saturating_sub(day.utc_day);
            let there = beliefs
                .providers
                .entry(day.provider.clone())
                .or_insert_with(|| priors(rules));
            for signal in Signal::ALL {
                let (bad, good) = signal.outcomes(&day.counts);
                for signals in [&mut beliefs.signals, &mut *there] {
                    if let Some(belief) = signals.get_mut(&signal) {
                        belief.add(bad, good, age, rules.fresh_days);
                    }
                }
            }
        }
        beliefs
    }

    /// What is believed about one signal over all providers.
    pub fn of(&self, signal: Signal) -> Belief {
        self.signals
            .get(&signal)
            .copied()
            .unwrap_or_else(|| Belief::prior(signal.rules(&self.rules)))
    }

    /// The same beliefs about one provider alone; the priors when nothing was sent there.
    #[must_use]
    pub fn at(&self, provider: &str) -> Self {
        let signals = self
            .providers
            .get(provider)
            .cloned()
            .unwrap_or_else(|| priors(&self.rules));
        Self {
            providers: BTreeMap::from([(provider.to_owned(), signals.clone())]),
            signals,
            rules: self.rules.clone(),
        }
    }

    /// The provider that a signal is worst at, when one of several stands out.
    pub fn worst_provider(&self, signal: Signal) -> Option<&str> {
        let overall = self.of(signal).posterior.mean();
        let rate = |signals: &BTreeMap<Signal, Belief>| {
            signals
                .get(&signal)
                .map_or(0.0, |belief| belief.posterior.mean())
        };
        let worst = self
            .providers
            .iter()
            .max_by(|a, b| rate(a.1).total_cmp(&rate(b.1)))?;
        (self.providers.len() > 1 && rate(worst.1) > overall).then_some(worst.0.as_str())
    }

    /// Rules whose priors lean on these beliefs, for a child without evidence of its own: a new inbox
    /// inherits its domain's luck, at no more weight than the plain prior had.
    pub fn as_priors(&self) -> HealthRules {
        let lean = |signal: Signal| {
            let (rules, mean) = (signal.rules(&self.rules), self.of(signal).posterior.mean());
            let weight = rules.prior_bad + rules.prior_good;
            SignalRules {
                prior_bad: mean * weight,
                prior_good: (1.0 - mean) * weight,
                ..rules
            }
        };
        HealthRules {
            deferral: lean(Signal::Deferral),
            placement: lean(Signal::Placement),
            bounce: lean(Signal::Bounce),
            complaint: lean(Signal::Complaint),
            ..self.rules.clone()
        }
    }
}

/// How many days back evidence still matters: beyond it less than a thousandth of it is left.
pub fn days_that_count(rules: &HealthRules) -> i64 {
    let longest = Signal::ALL
        .map(|signal| signal.rules(rules).half_life_days)
        .into_iter()
        .fold(1.0, f64::max);
    i64::from(crate::numbers::whole((longest * 10.0).ceil().min(3650.0)))
}

fn priors(rules: &HealthRules) -> BTreeMap<Signal, Belief> {
    Signal::ALL
        .map(|signal| (signal, Belief::prior(signal.rules(rules))))
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(utc_day: i64, provider: &str, counts: DayCounts) -> EvidenceDay {
        EvidenceDay {
            utc_day,
            provider: provider.into(),
            counts,
        }
    }

    #[test]
    fn no_evidence_leaves_the_priors() {
        let beliefs = Beliefs::from_days(&[], 100, &HealthRules::default());
        assert!((beliefs.of(Signal::Bounce).posterior.mean() - 0.01).abs() < 1e-12);
        assert!(beliefs.of(Signal::Complaint).over_limit() < 0.05);
    }

    #[test]
    fn evidence_halves_with_each_half_life() {
        let counts = DayCounts {
            delivered: 70,
            bounced_recipient: 10,
            ..DayCounts::default()
        };
        let rules = HealthRules::default();
        let samples = |today| {
            Beliefs::from_days(&[day(100, "google", counts)], today, &rules)
                .of(Signal::Bounce)
                .samples
        };
        assert!((samples(100) - 80.0).abs() < 1e-9);
        assert!((samples(107) - 40.0).abs() < 1e-9);
        assert!((samples(114) - 20.0).abs() < 1e-9);
        assert!((samples(90) - 80.0).abs() < 1e-9, "the future is today");
    }

    #[test]
    fn one_bounce_of_thirteen_decides_nothing() {
        let counts = DayCounts {
            delivered: 12,
            bounced_recipient: 1,
            ..DayCounts::default()
        };
        let beliefs = Beliefs::from_days(&[day(5, "google", counts)], 5, &HealthRules::default());
        assert!(beliefs.of(Signal::Bounce).over_limit() < 0.05);
    }

    #[test]
    fn the_worst_provider_is_named() {
        let good = DayCounts {
            placed_inbox: 20,
            ..DayCounts::default()
        };
        let bad = DayCounts {
            placed_inbox: 8,
            placed_spam: 12,
            ..DayCounts::default()
        };
        let days = [day(5, "google", good), day(5, "microsoft", bad)];
        let beliefs = Beliefs::from_days(&days, 5, &HealthRules::default());
        assert_eq!(beliefs.worst_provider(Signal::Placement), Some("microsoft"));
        assert!(beliefs.at("microsoft").of(Signal::Placement).over_limit() > 0.95);
        assert!(beliefs.at("google").of(Signal::Placement).over_limit() < 0.05);
        assert!(beliefs.at("nobody").of(Signal::Placement).samples < 1e-9);
    }

    #[test]
    fn a_child_inherits_its_parents_luck() {
        let bad = DayCounts {
            delivered: 100,
            bounced_recipient: 20,
            ..DayCounts::default()
        };
        let parent = Beliefs::from_days(&[day(5, "google", bad)], 5, &HealthRules::default());
        let child = Beliefs::from_days(&[], 5, &parent.as_priors());
        let (mean, of) = (
            child.of(Signal::Bounce).posterior.mean(),
            parent.of(Signal::Bounce),
        );
        assert!((mean - of.posterior.mean()).abs() < 1e-12);
        assert!(child.of(Signal::Bounce).posterior.good < 100.0);
    }

    #[test]
    fn intervals_narrow_with_evidence() {
        let few = Posterior {
            bad: 1.0,
            good: 12.0,
        }
        .interval(0.95);
        let many = Posterior {
            bad: 100.0,
            good: 1200.0,
        }
        .interval(0.95);
        assert!(few.0 < many.0 && many.1 < few.1, "{few:?} {many:?}");
    }

    proptest! {
        #[test]
        fn order_does_not_matter(counts in prop::collection::vec((0_u32..50, 0_u32..9, 90_i64..101), 0..12)) {
            let mut days: Vec<_> = counts.iter().map(|(delivered, bounced, at)| {
                let counts = DayCounts { delivered: *delivered, bounced_policy: *bounced, ..DayCounts::default() };
                day(*at, "google", counts)
            }).collect();
            let rules = HealthRules::default();
            let forward = Beliefs::from_days(&days, 100, &rules).of(Signal::Bounce).over_limit();
            days.reverse();
            let backward = Beliefs::from_days(&days, 100, &rules).of(Signal::Bounce).over_limit();
            prop_assert!((forward - backward).abs() < 1e-9);
        }
    }
}
