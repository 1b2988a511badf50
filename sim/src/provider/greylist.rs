//! Greylisting (RFC 6647): whoever comes for the first time has to come again.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use inboxgrove_model::PolicyTime;

/// How long a triplet that has waited is let through without its being seen (RFC 6647 §5 has a week and more).
const KNOWN_FOR: Duration = Duration::from_hours(36 * 24);
/// A triplet that has not come again by then starts anew.
const RETRY_WITHIN: Duration = Duration::from_hours(48);
/// Triplets remembered; the oldest are forgotten first.
const TRIPLETS_MAX: usize = 100_000;

/// Address, sender and recipient.
pub(super) type Triplet = (IpAddr, String, String);

/// Who has been here.
#[derive(Debug, Default)]
pub(super) struct Greylist {
    seen: BTreeMap<Triplet, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: PolicyTime,
    passed: Option<PolicyTime>,
}

// === impl Greylist ===

impl Greylist {
    /// Whether a triplet has waited long enough; remembers it.
    pub(super) fn may_pass(&mut self, triplet: Triplet, delay: Duration, now: PolicyTime) -> bool {
        self.make_room();
        let fresh = Seen {
            first: now,
            passed: None,
        };
        let seen = self.seen.entry(triplet).or_insert(fresh);
        let kept_until = match seen.passed {
            Some(passed) => passed.after(KNOWN_FOR),
            None => seen.first.after(RETRY_WITHIN),
        };
        if now > kept_until {
            *seen = fresh;
        }
        if seen.passed.is_none() && now < seen.first.after(delay) {
            return false;
        }
        seen.passed = Some(now);
        true
    }

    fn make_room(&mut self) {
        if self.seen.len() < TRIPLETS_MAX {
            return;
        }
        let mut times: Vec<PolicyTime> = self
            .seen
            .values()
            .map(|seen| seen.passed.unwrap_or(seen.first))
            .collect();
        times.sort_unstable();
        let oldest_kept = times[times.len() / 2];
        self.seen
            .retain(|_, seen| seen.passed.unwrap_or(seen.first) > oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_mins(5);

    #[test]
    fn only_who_comes_again_in_time_may_pass() {
        let start = PolicyTime::from_millis(0);
        let triplet = || {
            (
                IpAddr::from([127, 0, 2, 1]),
                "a@example.org".to_owned(),
                "b@example.com".to_owned(),
            )
        };
        let hours = |n| Duration::from_hours(n);
        for (visits, passed) in [
            (
                vec![Duration::ZERO, DELAY / 2, DELAY],
                vec![false, false, true],
            ),
            (
                vec![Duration::ZERO, hours(49), hours(49) + DELAY],
                vec![false, false, true],
            ),
            (
                vec![Duration::ZERO, DELAY, hours(24 * 30)],
                vec![false, true, true],
            ),
            (
                vec![Duration::ZERO, DELAY, hours(24 * 40)],
                vec![false, true, false],
            ),
        ] {
            let mut greylist = Greylist::default();
            let got: Vec<bool> = visits
                .iter()
                .map(|wait| greylist.may_pass(triplet(), DELAY, start.after(*wait)))
                .collect();
            assert_eq!(got, passed, "{visits:?}");
        }
    }

    #[test]
    fn another_sender_waits_for_itself() {
        let mut greylist = Greylist::default();
        let now = PolicyTime::from_millis(0);
        let triplet = |from: &str| {
            (
                IpAddr::from([127, 0, 2, 1]),
                from.to_owned(),
                "b@example.com".to_owned(),
            )
        };
        assert!(!greylist.may_pass(triplet("a"), DELAY, now));
        assert!(greylist.may_pass(triplet("a"), DELAY, now.after(DELAY)));
        assert!(!greylist.may_pass(triplet("z"), DELAY, now.after(DELAY)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut greylist = Greylist::default();
        for n in 0..150_000_i64 {
            let triplet = (IpAddr::from([127, 0, 2, 1]), n.to_string(), String::new());
            greylist.may_pass(triplet, DELAY, PolicyTime::from_millis(n));
        }
        assert!(greylist.seen.len() <= TRIPLETS_MAX);
    }
}
