//! Counters are the sums of what they count.

use std::collections::{BTreeMap, BTreeSet};

use inboxgrove_model::{
    InboxId,
    event::{EventKind, LoggedEvent},
    inbox::{DayCounts, Inbox, InboxStatus},
    job::{Job, JobState},
    message::BounceClass,
    tenant::Tenant,
};
use inboxgrove_store::{EvidenceRow, ReadError};

use super::Inspection;

/// One of the sums of a rollup.
type Sum = fn(&mut DayCounts) -> &mut u32;

impl Inspection<'_> {
    /// The rollups are the sums of their events.
    pub(super) fn rollups_equal_events(&mut self, events: &[LoggedEvent]) -> Result<(), ReadError> {
        let mut expected: BTreeMap<(InboxId, i64, String), DayCounts> = BTreeMap::new();
        let mut replies: BTreeMap<(InboxId, i64), i64> = BTreeMap::new();
        let mut expired: BTreeSet<InboxId> = BTreeSet::new();
        for logged in events {
            let day = logged.event.at.utc_day();
            match &logged.event.kind {
                EventKind::MessageReplied { inbox, .. } => {
                    *replies.entry((*inbox, day)).or_default() += 1;
                }
                EventKind::MessageExpired { inbox, .. } => drop(expired.insert(*inbox)),
                kind => {
                    if let Some((inbox, provider, counted)) = counted_by(kind) {
                        *counted(
                            expected
                                .entry((inbox, day, provider.to_owned()))
                                .or_default(),
                        ) += 1;
                    }
                }
            }
        }
        for row in self.rows::<EvidenceRow>()? {
            let key = (row.inbox, row.day.utc_day, row.day.provider.clone());
            *replies.entry((row.inbox, row.day.utc_day)).or_default() -=
                i64::from(row.day.counts.replies);
            let mut sum = expected.remove(&key).unwrap_or_default();
            sum.replies = row.day.counts.replies;
            if expired.contains(&row.inbox) {
                // The last answer before a message grew too old is told by the event of its end.
                sum.deferred = row.day.counts.deferred;
            }
            self.demand(sum == row.day.counts, || {
                format!(
                    "the rollup {key:?} is {:?}, and its events sum up to {sum:?}",
                    row.day.counts
                )
            });
        }
        for (key, sum) in expected {
            self.demand(false, || {
                format!("there is no rollup {key:?}, and its events sum up to {sum:?}")
            });
        }
        for (key, difference) in replies {
            self.demand(difference == 0, || {
                format!("replies of {key:?}: {difference} more events than in the rollups")
            });
        }
        Ok(())
    }

    /// What rows say of how many others there are.
    pub(super) fn counts_equal_rows(&mut self, inboxes: &[Inbox]) -> Result<(), ReadError> {
        let jobs = self.rows::<Job>()?;
        for tenant in self.rows::<Tenant>()? {
            let there = inboxes
                .iter()
                .filter(|i| i.tenant == tenant.id && i.status != InboxStatus::Deleted)
                .count();
            let coming: u32 = jobs
                .iter()
                .filter(|job| {
                    job.tenant == tenant.id
                        && matches!(job.state, JobState::Pending | JobState::Running)
                })
                .flat_map(|job| &job.steps)
                .map(|step| step.total - step.done)
                .sum();
            let counted = usize::try_from(tenant.inboxes_count).unwrap_or(usize::MAX);
            let known = there + usize::try_from(coming).unwrap_or(usize::MAX);
            self.demand(counted == known, || {
                format!(
                    "{} counts {counted} inboxes; {there} are there and {coming} are coming",
                    tenant.id
                )
            });
        }
        let mut addresses = BTreeSet::new();
        for inbox in inboxes {
            self.demand(addresses.insert(inbox.address.key()), || {
                format!("{} is there twice", inbox.address)
            });
        }
        Ok(())
    }
}

/// Which sum of an inbox at a provider an event belongs to.
fn counted_by(kind: &EventKind) -> Option<(InboxId, &str, Sum)> {
    Some(match kind {
        EventKind::MessageDelivered {
            inbox, provider, ..
        } => (*inbox, provider, |counts| &mut counts.delivered),
        // Only what a server said counts; a lost connection says nothing about the inbox.
        EventKind::MessageDeferred {
            inbox,
            provider,
            reply,
            ..
        } if is_answer(reply) => (*inbox, provider, |counts| &mut counts.deferred),
        EventKind::MessageBounced {
            inbox,
            provider,
            class,
            ..
        } => match class {
            BounceClass::Recipient => (*inbox, provider, |counts| &mut counts.bounced_recipient),
            BounceClass::Infrastructure | BounceClass::Content => {
                (*inbox, provider, |counts| &mut counts.bounced_policy)
            }
        },
        EventKind::MessagePlaced {
            inbox,
            provider,
            spam,
            ..
        } => match spam {
            true => (*inbox, provider, |counts| &mut counts.placed_spam),
            false => (*inbox, provider, |counts| &mut counts.placed_inbox),
        },
        _ => return None,
    })
}

/// Whether a kept reply is a server's answer: it begins with a code.
fn is_answer(reply: &str) -> bool {
    let mut chars = reply.chars();
    chars.by_ref().take(3).filter(char::is_ascii_digit).count() == 3 && chars.next() == Some(' ')
}
