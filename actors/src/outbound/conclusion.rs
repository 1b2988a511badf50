//! What outcomes change: one commit each, made by a task and made again when it must be. What they mean is decided in
//! `outcome.rs`.

use std::{sync::Arc, time::Duration};

use inboxgrove_model::{
    event::Event,
    message::{BounceClass, Message, QueueEntry, RecipientState},
    suppression::{Suppression, SuppressionReason},
};
use inboxgrove_store::{Batch, CommitError};
use ractor::ActorProcessingErr;

use super::{
    InFlight, Key, OutboundMsg, OutboundState,
    outcome::{NextStep, Tried, next_step},
};
use crate::metrics::ByProvider;

/// A commit that found the store's queue full, or the disk, is made again after this.
const COMMIT_AGAIN: Duration = Duration::from_millis(500);
/// An outcome that met a damaged row is committed again after this.
const HEALED_AGAIN: Duration = Duration::from_secs(2);
/// How often such an outcome is committed again, ten minutes in all: the daemon heals a row as soon as it is met, and a
/// million inboxes take some minutes. What cannot be healed may not stop the queue.
const HEALED_AGAIN_MAX: u16 = 300;

impl InFlight {
    /// Whether an outcome that could not be committed is kept for when a row was healed. Counts how often.
    fn waits_for_healing(&mut self, why: &CommitError) -> bool {
        self.unreadable += 1;
        why.may_heal() && self.unreadable <= HEALED_AGAIN_MAX
    }
}

impl OutboundState {
    pub(super) fn tried(&mut self, mut flight: InFlight, outcome: Tried) {
        flight.outbound = None;
        let key = flight.key();
        // Without the entry a restart of outbound came between: the row has been judged already.
        let (true, Some((message, _))) =
            (self.in_flight.contains_key(&key), self.messages.get(&key.0))
        else {
            return;
        };
        let (mut batch, message) = self.conclude(message.clone(), &flight.entry, &outcome);
        for take in flight.give_back.clone() {
            batch.give_back(take);
        }
        if let Some((kept, _)) = self.messages.get_mut(&key.0) {
            *kept = message;
        }
        self.commit_outcome(batch, flight, outcome, true);
    }

    /// The whole outcome cannot be a commit (a row would be too big, a row it counts in stays damaged): the queue
    /// moves on, the event says what happened, the message's own row stays as it was.
    pub(super) fn reduce(&mut self, flight: InFlight, outcome: &Tried, why: &str) {
        tracing::error!(message = %flight.entry.message, %why, "an outcome is committed without its message row");
        let now = self.cx.now();
        let next = next_step(&flight.entry, outcome, now, &self.cx.rules.retry);
        let mut batch = self.moved(&flight.entry, outcome, &next);
        if let Some(kind) = outcome.event(&flight.message, flight.recipient().clone(), &next) {
            batch.event(Event {
                at: now,
                tenant: Some(flight.message.tenant),
                kind,
            });
        }
        self.commit_outcome(batch, flight, outcome.clone(), false);
    }

    /// Hands a commit to a task. The order of commits is the order of these calls: the store takes a batch
    /// into its queue when `commit` is called, not when it is polled.
    fn commit_outcome(&self, batch: Batch, mut flight: InFlight, outcome: Tried, whole: bool) {
        let committed = self.cx.store.commit(batch);
        let (cx, me) = (Arc::clone(&self.cx), self.me.clone());
        self.cx.spawn(async move {
            let key = flight.key();
            let news = match committed.await {
                Ok(_) => {
                    cx.metrics.attempts.get_or_create(&label(&outcome)).inc();
                    OutboundMsg::Settled(key)
                }
                Err(why @ (CommitError::Busy | CommitError::DiskLow { .. })) => {
                    tracing::warn!(%why, "an outcome was not committed yet");
                    tokio::time::sleep(COMMIT_AGAIN).await;
                    OutboundMsg::Tried(flight, outcome)
                }
                Err(why @ (CommitError::Stale { .. } | CommitError::Failed { .. })) => {
                    // Somebody else owns the rows now, or nobody can write any more.
                    return me.stop(format!("an outcome was not committed: {why}"));
                }
                Err(why) if whole && flight.waits_for_healing(&why) => {
                    if flight.unreadable == 1 {
                        tracing::warn!(message = %key.0, %why, "an outcome waits until a damaged row is healed");
                    }
                    tokio::time::sleep(HEALED_AGAIN).await;
                    OutboundMsg::Tried(flight, outcome)
                }
                Err(why) if whole => OutboundMsg::Reduce(flight, outcome, why.to_string()),
                Err(why) => {
                    tracing::error!(message = %key.0, %why, "an outcome cannot be committed at all");
                    // It stays in flight, so that it is not sent again before the next start.
                    return;
                }
            };
            // An outbound that is gone finds the rows when it is back.
            me.tell(news);
        });
    }

    /// An outcome is on disk: only now may the queue be looked at for this recipient again.
    pub(super) fn settled(&mut self, key: Key) -> Result<(), ActorProcessingErr> {
        self.end_flight(key);
        // A look reads every row in flight again, so it waits until there is room for many.
        if self.backlog && self.in_flight.len() <= self.in_flight_max / 2 {
            self.look()
        } else {
            Ok(())
        }
    }

    /// A delivery came back without an outcome: its site died, a task panicked, or a drain began. Unless its
    /// takes were spent nothing has happened to it, and its row says when it is due.
    pub(super) fn returned(&mut self, key: Key) -> Result<(), ActorProcessingErr> {
        let Some((due_at, _)) = self.in_flight.get(&key).copied() else {
            return Ok(());
        };
        let entry = self.cx.store.get::<QueueEntry>(&(due_at, key.0, key.1))?;
        let message = self
            .messages
            .get(&key.0)
            .map(|(message, _)| message.clone());
        match (entry, message) {
            (Some(entry), Some(message)) if entry.attempting => {
                let reply = "the attempt was cut off".to_owned();
                let flight = self.flight(entry, message, None);
                self.tried(flight, Tried::uncertain(reply));
                Ok(())
            }
            _ => {
                self.end_flight(key);
                self.look()
            }
        }
    }

    /// Everything that an outcome changes, as one batch, and the message as it then is.
    fn conclude(
        &self,
        mut message: Message,
        entry: &QueueEntry,
        outcome: &Tried,
    ) -> (Batch, Message) {
        let now = self.cx.now();
        let next = next_step(entry, outcome, now, &self.cx.rules.retry);
        let mut batch = self.moved(entry, outcome, &next);
        let recipient = &mut message.recipients[usize::from(entry.recipient)];
        let address = recipient.address.clone();
        // A wait that no server caused changes nothing that people see.
        if next.state.is_final() || outcome.is_seen() {
            recipient.state = next.state;
            recipient.attempts = next.attempts;
            recipient.last_reply = outcome.reply();
            batch.put(&message);
        }
        if let Some(counts) = outcome.counts() {
            batch.count(
                message.tenant,
                message.inbox,
                now.utc_day(),
                outcome.provider(),
                counts,
            );
        }
        if let Some(kind) = outcome.event(&message, address.clone(), &next) {
            batch.event(Event {
                at: now,
                tenant: Some(message.tenant),
                kind,
            });
        }
        if next.state == RecipientState::Bounced(BounceClass::Recipient) {
            let reason = SuppressionReason::HardBounce;
            batch.put(&Suppression {
                tenant: message.tenant,
                address,
                reason,
                since: now,
            });
        }
        (batch, message)
    }

    /// A batch that takes a recipient's row from its place in the queue, and puts it where it belongs next.
    fn moved(&self, entry: &QueueEntry, outcome: &Tried, next: &NextStep) -> Batch {
        let mut batch = Batch::new();
        // It has happened already: a disk that is nearly full must still learn of it.
        batch.by(&self.lease).essential();
        batch.remove::<QueueEntry>(&(entry.due_at, entry.message, entry.recipient));
        if let Some(due_at) = next.due_at {
            let held = matches!(outcome, Tried::Held { .. });
            batch.put(&QueueEntry {
                due_at,
                attempts: next.attempts,
                attempting: false,
                held,
                ..entry.clone()
            });
        }
        batch
    }
}

/// How the metrics name an outcome. The known providers have a word for a name; a stranger's site has dots, and there
/// are too many of them.
fn label(outcome: &Tried) -> ByProvider {
    let provider = match outcome.provider() {
        known if !known.contains('.') => known.to_owned(),
        _ => "other".to_owned(),
    };
    ByProvider {
        provider,
        outcome: outcome.name(),
    }
}
