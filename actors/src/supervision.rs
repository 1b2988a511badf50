//! Restart budgets: how often something may fail before it is parked, and how long to wait between tries.
//!
//! Two tempers only (DESIGN §3). *Fatal*: the death of the store, vault, clock or directory ends the process,
//! with a reason. *Budgeted*: everything else fails at most [`Budget::failures`] times within
//! [`Budget::within`]; one more, and it is parked: its rows stay, its callers get a clear error, its
//! siblings notice nothing.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How often something may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// This many failures are forgiven …
    pub failures: usize,
    /// … within this long.
    pub within: Duration,
    /// The wait before the second restart in a row; doubles after each. The first restart does not wait.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

impl Budget {
    /// Tenants, domains, inboxes, sites. Erlang's supervisors forgive 1 in 5 s by default; 5 in 10 s forgives a
    /// burst of bad letters and still stops a loop within a second.
    pub const ENTITY: Self = Self {
        failures: 5,
        within: Duration::from_secs(10),
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
    };

    /// Outbound, inbound, notifier: everyone depends on them, so they are tried for longer.
    pub const SERVICE: Self = Self {
        failures: 10,
        within: Duration::from_mins(1),
        backoff: Duration::from_millis(100),
        backoff_max: Duration::from_secs(5),
    };
}

/// What happened to one actor so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    recent: VecDeque<Instant>,
    total: u32,
    last: Option<String>,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sentence {
    /// Start it again after this wait.
    Restart(Duration),
    /// Take it out of service.
    Park,
}

// === impl Record ===

impl Record {
    /// Counts a failure and passes sentence.
    pub(crate) fn fail(&mut self, why: String, now: Instant, budget: &Budget) -> Sentence {
        self.total = self.total.saturating_add(1);
        self.last = Some(why);
        while self
            .recent
            .front()
            .is_some_and(|at| now.duration_since(*at) > budget.within)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let in_a_row = self.recent.len();
        if in_a_row > budget.failures {
            return Sentence::Park;
        }
        let doublings = u32::try_from(in_a_row.saturating_sub(2))
            .unwrap_or(u32::MAX)
            .min(16);
        match in_a_row {
            1 => Sentence::Restart(Duration::ZERO),
            _ => Sentence::Restart((budget.backoff * 2_u32.pow(doublings)).min(budget.backoff_max)),
        }
    }

    /// Forgives everything but the counts: an operator freed it.
    pub(crate) fn forgive(&mut self) {
        self.recent.clear();
    }

    /// Failures since the start.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// The last failure.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn the_sixth_failure_in_ten_seconds_parks() {
        let (start, mut record) = (Instant::now(), Record::default());
        for n in 0..5 {
            let sentence = record.fail("boom".into(), after(start, n), &Budget::ENTITY);
            assert_eq!(sentence, Sentence::Restart(Duration::ZERO));
        }
        assert_eq!(
            record.fail("boom".into(), after(start, 6), &Budget::ENTITY),
            Sentence::Park
        );
        assert_eq!(record.total(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_apart_are_forgiven_for_ever() {
        let (start, mut record) = (Instant::now(), Record::default());
        for n in 0..100 {
            let sentence = record.fail("boom".into(), after(start, n * 10_001), &Budget::ENTITY);
            assert_eq!(sentence, Sentence::Restart(Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_waits_longer_each_time_but_not_the_first() {
        let (start, mut record) = (Instant::now(), Record::default());
        let waits: Vec<_> = (0..10)
            .map(|n| record.fail("boom".into(), after(start, n), &Budget::SERVICE))
            .collect();
        let millis = [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000];
        assert_eq!(
            waits,
            millis.map(|ms| Sentence::Restart(Duration::from_millis(ms)))
        );
        assert_eq!(
            record.fail("boom".into(), after(start, 11), &Budget::SERVICE),
            Sentence::Park
        );
    }
}
