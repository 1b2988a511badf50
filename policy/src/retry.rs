//! When a message is tried again: 20 minutes after the first attempt, doubling, for five days.

use std::time::Duration;

use inboxgrove_model::PolicyTime;

use crate::{dice::Dice, rules::RetryRules};

/// Why the last attempt did not settle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The server, or the way to it, put it off.
    Deferred,
    /// The answer smelled of greylisting: the first retry comes sooner.
    Greylisted,
    /// Nobody knows how it ended.
    Uncertain,
}

/// How long to wait after the `attempts`-th attempt (the first is 1), or `None` when the message has
/// expired. The last attempt comes at the full age. `seed` names the recipient, so that waits vary between
/// recipients and not between restarts.
pub fn next_attempt(
    attempts: u16,
    accepted_at: PolicyTime,
    now: PolicyTime,
    cause: Cause,
    seed: u64,
    rules: &RetryRules,
) -> Option<Duration> {
    let left = rules
        .age_max
        .checked_sub(now.since(accepted_at))
        .filter(|left| !left.is_zero())?;
    let doublings = u32::from(attempts.saturating_sub(1)).min(30);
    let doubled = rules
        .unit
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(rules.longest);
    let wait = match cause {
        Cause::Greylisted if attempts <= 1 => rules.greylisted.min(doubled),
        Cause::Uncertain if attempts <= 1 => rules.uncertain,
        Cause::Deferred | Cause::Greylisted | Cause::Uncertain => doubled,
    };
    let jitter = rules.jitter.clamp(0.0, 0.9);
    let factor = Dice::of(seed, &[u64::from(attempts)]).between(1.0 - jitter, 1.0 + jitter);
    Some(wait.mul_f64(factor).max(Duration::from_secs(1)).min(left))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steady() -> RetryRules {
        RetryRules {
            jitter: 0.0,
            ..RetryRules::default()
        }
    }

    fn minutes(attempts: u16, cause: Cause) -> u64 {
        let start = PolicyTime::from_millis(0);
        next_attempt(attempts, start, start, cause, 1, &steady())
            .unwrap()
            .as_secs()
            / 60
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [1, 2, 3, 4, 5, 6, 60].map(|attempts| minutes(attempts, Cause::Deferred));
        assert_eq!(waits, [20, 40, 80, 160, 320, 480, 480]);
    }

    #[test]
    fn greylisting_and_uncertainty_come_back_sooner_once() {
        assert_eq!([1, 2].map(|n| minutes(n, Cause::Greylisted)), [6, 40]);
        assert_eq!([1, 2].map(|n| minutes(n, Cause::Uncertain)), [5, 40]);
    }

    #[test]
    fn the_last_attempt_comes_at_the_full_age() {
        let (start, rules) = (PolicyTime::from_millis(0), RetryRules::default());
        let late = start.after(rules.age_max).before(Duration::from_mins(1));
        let wait = next_attempt(20, start, late, Cause::Deferred, 1, &rules);
        assert_eq!(wait, Some(Duration::from_mins(1)));
        let end = start.after(rules.age_max);
        assert_eq!(
            next_attempt(21, start, end, Cause::Deferred, 1, &rules),
            None
        );
    }

    proptest! {
        #[test]
        fn every_message_ends(seed: u64) {
            let (start, rules) = (PolicyTime::from_millis(0), RetryRules::default());
            let (mut now, mut attempts) = (start, 1);
            while let Some(wait) = next_attempt(attempts, start, now, Cause::Greylisted, seed, &rules) {
                now = now.after(wait);
                attempts += 1;
                prop_assert!(attempts < 60);
            }
            prop_assert_eq!(now.since(start), rules.age_max);
        }
    }
}
