//! The queue: what is due is taken into flight, within limits, and what was held is let go.

use std::{sync::Arc, time::Duration};

use inboxgrove_model::{
    PolicyTime, TenantId,
    message::{Message, QueueEntry},
    tenant::Tenant,
};
use inboxgrove_store::{Batch, ReadError, Scope};
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::{InFlight, Key, OutboundMsg, OutboundState, outcome::Tried};
use crate::mailbox::Own;

/// How many recipients in flight one tenant may have: no account with slow destinations stops the others.
const IN_FLIGHT_OF_TENANT_MAX: usize = 128;
/// Queue rows read at a time.
const PAGE: usize = 256;
/// Held mail is looked at again this often; a resumed account releases it at once.
const HELD_AGAIN: Duration = Duration::from_hours(6);
/// Outbound looks at least this often, so that a lost wake-up of its own heals.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Recipients whose rows cannot be read which are remembered; beyond it they are reported again.
const BAD_MAX: usize = 4096;
/// They are looked at again after this: the daemon heals damaged rows.
const BAD_AGAIN: Duration = Duration::from_mins(10);

impl OutboundState {
    /// Takes what is due into flight, people's mail first within a page.
    pub(super) fn look(&mut self) -> Result<(), ActorProcessingErr> {
        if self.cx.draining() {
            return Ok(());
        }
        let now = self.cx.now();
        let mut after: Option<Vec<u8>> = None;
        // While memory is short the queue waits on disk; the timer looks again.
        let room = if self.cx.memory.is_short() {
            0
        } else {
            self.in_flight_max
        };
        self.backlog = self.in_flight.len() >= room;
        while self.in_flight.len() < room {
            let (page, damaged) = self.cx.store.sound_page::<QueueEntry>(
                &Scope::Before(now),
                after.as_deref(),
                PAGE,
            )?;
            for why in damaged {
                tracing::error!(%why, "a queue row cannot be read; its recipient waits until it is healed");
            }
            let mut entries: Vec<_> = page
                .items
                .into_iter()
                .filter(|entry| self.is_free(entry))
                .collect();
            entries.sort_by_key(|entry| entry.class);
            for entry in entries {
                self.take_up_within_limits(entry);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.put_idle_sites_to_sleep();
        self.cx
            .metrics
            .in_flight
            .set(i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX));
        self.set_timer(now)
    }

    fn is_free(&self, entry: &QueueEntry) -> bool {
        let key = (entry.message, entry.recipient);
        let is_bad = |since: &Instant| since.elapsed() < BAD_AGAIN;
        !self.in_flight.contains_key(&key) && !self.bad.get(&key).is_some_and(is_bad)
    }

    fn take_up_within_limits(&mut self, entry: QueueEntry) {
        let of_tenant = self.of_tenant.get(&entry.tenant).copied().unwrap_or(0);
        if self.in_flight.len() >= self.in_flight_max || of_tenant >= IN_FLIGHT_OF_TENANT_MAX {
            self.backlog = true;
            return;
        }
        let key = (entry.message, entry.recipient);
        self.bad.remove(&key);
        if let Err(why) = self.take_up(entry) {
            tracing::error!(message = %key.0, %why, "a message cannot be read; it waits until it is healed");
            if self.bad.len() >= BAD_MAX {
                self.bad.clear();
            }
            self.bad.insert(key, Instant::now());
        }
    }

    fn set_timer(&mut self, now: PolicyTime) -> Result<(), ActorProcessingErr> {
        let (coming, _) = self
            .cx
            .store
            .sound_page::<QueueEntry>(&Scope::After(now), None, 1)?;
        let next = coming
            .items
            .first()
            .map_or(PolicyTime::from_millis(i64::MAX), |entry| entry.due_at);
        let sleep = self.cx.ports.clock.sleep_until(next);
        let me = self.me.clone();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let activity = self.cx.ports.activity.clone();
        let timer = self.cx.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = sleep => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // An outbound that is gone looks when it is back.
            me.tell(OutboundMsg::Look(activity.begin()));
        });
        self.timer = Some(timer.abort_handle());
        Ok(())
    }

    fn take_up(&mut self, entry: QueueEntry) -> Result<(), ReadError> {
        let stored = match self.messages.get(&entry.message) {
            Some((message, _)) => Some(message.clone()),
            None => self
                .cx
                .store
                .get::<Message>(&(entry.tenant, entry.inbox, entry.message))?,
        };
        let place = usize::from(entry.recipient);
        let Some(message) = stored.filter(|message| place < message.recipients.len()) else {
            // Its inbox's rows were erased: there is nothing to send.
            self.forget(&entry);
            return Ok(());
        };
        let recipient = &message.recipients[place];
        if recipient.state.is_final() {
            // The outcome of another recipient came onto the disk with the message's row, this one's own did not before
            // the daemon ended: what it would have counted and told is made up for.
            match Tried::as_recorded(recipient, entry.due_at) {
                Some(outcome) => self.begin_flight(entry, message).end(outcome),
                None => self.forget(&entry),
            }
            return Ok(());
        }
        let tenant = self.cx.store.get::<Tenant>(&entry.tenant)?;
        let held = !tenant.is_some_and(|tenant| tenant.status.may_act());
        let flight = self.begin_flight(entry, message);
        if flight.entry.attempting {
            // A crash, or the end of this actor, came between the takes and the outcome: it may have been sent.
            let reply = "the daemon was stopped during an attempt".to_owned();
            flight.end(Tried::uncertain(reply));
        } else if held {
            flight.end(Tried::Held {
                until: self.cx.now().after(HELD_AGAIN),
            });
        } else {
            self.route(flight);
        }
        Ok(())
    }

    fn begin_flight(&mut self, entry: QueueEntry, message: Message) -> InFlight {
        let open = self
            .messages
            .entry(entry.message)
            .or_insert_with(|| (message.clone(), 0));
        open.1 += 1;
        self.in_flight.insert(
            (entry.message, entry.recipient),
            (entry.due_at, entry.tenant),
        );
        *self.of_tenant.entry(entry.tenant).or_default() += 1;
        self.flight(entry, message, Some(self.me.clone()))
    }

    pub(super) fn flight(
        &self,
        entry: QueueEntry,
        message: Message,
        outbound: Option<Own<OutboundMsg>>,
    ) -> InFlight {
        InFlight {
            entry,
            message: Arc::new(message),
            lease: self.lease.clone(),
            give_back: Vec::new(),
            unreadable: 0,
            busy: Some(self.cx.ports.activity.begin()),
            place: None,
            outbound,
        }
    }

    /// Nobody works on this recipient any more.
    pub(super) fn end_flight(&mut self, key: Key) {
        let Some((_, tenant)) = self.in_flight.remove(&key) else {
            return;
        };
        if let Some(count) = self.of_tenant.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.of_tenant.remove(&tenant);
            }
        }
        if let Some((_, open)) = self.messages.get_mut(&key.0) {
            *open -= 1;
            if *open == 0 {
                self.messages.remove(&key.0);
            }
        }
    }

    fn forget(&self, entry: &QueueEntry) {
        tracing::warn!(message = %entry.message, "a queue row with nothing to send is removed");
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch.remove::<QueueEntry>(&(entry.due_at, entry.message, entry.recipient));
        let removed = self.cx.store.commit(batch);
        self.cx.spawn(async move {
            if let Err(why) = removed.await {
                tracing::warn!(%why, "it was not removed; it is found again");
            }
        });
    }

    /// Moves the held mail of a tenant, or of all that may send, to now, a page at a time. Its age begins anew:
    /// it was not its fault.
    pub(super) fn release(
        &mut self,
        tenant: Option<TenantId>,
        after: &[u8],
    ) -> Result<(), ActorProcessingErr> {
        let now = self.cx.now();
        let after = Some(after).filter(|after| !after.is_empty());
        let (page, _) = self
            .cx
            .store
            .sound_page::<QueueEntry>(&Scope::All, after, PAGE)?;
        let mut batch = Batch::new();
        batch.by(&self.lease);
        let mut keys = Vec::new();
        let held = page
            .items
            .into_iter()
            .filter(|entry| entry.held && self.is_free(entry) && self.is_released(tenant, entry));
        for entry in held.collect::<Vec<_>>() {
            let key = (entry.message, entry.recipient);
            // Nobody may take it up from its old place while its row moves.
            self.in_flight.insert(key, (entry.due_at, entry.tenant));
            *self.of_tenant.entry(entry.tenant).or_default() += 1;
            keys.push(key);
            batch.remove::<QueueEntry>(&(entry.due_at, entry.message, entry.recipient));
            batch.put(&QueueEntry {
                due_at: now,
                accepted_at: now,
                held: false,
                ..entry
            });
        }
        if !keys.is_empty() {
            let (committed, me) = (self.cx.store.commit(batch), self.me.clone());
            self.cx.spawn(async move {
                if let Err(why) = committed.await {
                    tracing::warn!(%why, "held mail was not released; it is looked at again in hours");
                }
                // An outbound that is gone releases it when it is back.
                me.tell(OutboundMsg::Released(keys));
            });
        }
        if let Some(next) = page.next {
            self.me.tell(OutboundMsg::ReleaseFrom(tenant, next));
        }
        Ok(())
    }

    fn is_released(&self, tenant: Option<TenantId>, entry: &QueueEntry) -> bool {
        if let Some(tenant) = tenant {
            return entry.tenant == tenant;
        }
        let tenant = self.cx.store.get::<Tenant>(&entry.tenant).ok().flatten();
        tenant.is_some_and(|tenant| tenant.status.may_act())
    }

    pub(super) fn released(&mut self, keys: &[Key]) -> Result<(), ActorProcessingErr> {
        for key in keys {
            self.end_flight(*key);
        }
        self.look()
    }
}
