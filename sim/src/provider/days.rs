//! What a provider did, day by day.

use std::collections::BTreeMap;

use serde::Serialize;

/// Days kept: more than a year of simulated time.
const DAYS_KEPT: usize = 400;

/// What a provider did with the mail of one UTC day, counted by recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ProviderDay {
    /// Days since the epoch.
    pub day: i64,
    /// Taken: the sum of the next two.
    pub accepted: u32,
    /// Put into the inbox.
    pub inbox: u32,
    /// Put into the spam folder.
    pub spam: u32,
    /// Told to come again: greylisted, too fast, or because the domain's own host put it off.
    pub deferred: u32,
    /// Refused for good.
    pub bounced: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Inbox,
    Spam,
    Deferred,
    Bounced,
}

/// The days, by number.
#[derive(Debug, Default)]
pub(super) struct Days {
    days: BTreeMap<i64, ProviderDay>,
}

// === impl Days ===

impl Days {
    pub(super) fn count(&mut self, day: i64, what: Count, n: u32) {
        let counts = self.days.entry(day).or_insert_with(|| ProviderDay {
            day,
            ..ProviderDay::default()
        });
        let count = match what {
            Count::Inbox => &mut counts.inbox,
            Count::Spam => &mut counts.spam,
            Count::Deferred => &mut counts.deferred,
            Count::Bounced => &mut counts.bounced,
        };
        *count = count.saturating_add(n);
        counts.accepted = counts.inbox.saturating_add(counts.spam);
        while self.days.len() > DAYS_KEPT {
            self.days.pop_first();
        }
    }

    /// All days with mail, in their order.
    pub(super) fn all(&self) -> Vec<ProviderDay> {
        self.days.values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_is_the_sum_of_both_folders_and_old_days_go() {
        let mut days = Days::default();
        for day in 0..500 {
            days.count(day, Count::Inbox, 3);
            days.count(day, Count::Spam, 2);
            days.count(day, Count::Deferred, 1);
        }
        let all = days.all();
        assert_eq!(all.len(), DAYS_KEPT);
        assert_eq!(
            all.last()
                .map(|day| (day.day, day.accepted, day.deferred, day.bounced)),
            Some((499, 5, 1, 0))
        );
    }
}
