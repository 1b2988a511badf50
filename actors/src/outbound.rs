//! Outbound: envelopes in flight. Owns the rows of accepted messages and of the queue, and the sites.
//!
//! `outbound/outcome.rs` decides what an outcome means; here it is committed.
//!
//! Mailbox: [`Look`] from its own timer and from commits that add to the queue; [`Routed`] and [`Tried`] from
//! tasks, each once; [`Returned`] when a delivery was dropped without an outcome (a site died, a task
//! panicked); [`Drain`] when the platform drains; [`Release`] from tenants; questions of operators. Never waits
//! for the network, nor for commits: it decides from what it holds in memory, hands the commit to a task, and
//! the committer keeps the order. A commit that could not be made is made again; a row that cannot be read is
//! reported and stepped over. Restarts within
//! [`Budget::SERVICE`]; a restart finds everything in the queue, and what was being tried is then
//! *uncertain*. Memory holds [`IN_FLIGHT_MAX`] recipients at most, however long the queue is.
//!
//! [`Look`]: OutboundMsg::Look
//! [`Routed`]: OutboundMsg::Routed
//! [`Tried`]: OutboundMsg::Tried
//! [`Returned`]: OutboundMsg::Returned
//! [`Drain`]: OutboundMsg::Drain
//! [`Release`]: OutboundMsg::Release
//! [`Budget::SERVICE`]: crate::supervision::Budget::SERVICE

mod outcome;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use inboxgrove_mail::dns::{self, MxHost};
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime, TenantId,
    budget::Take,
    event::Event,
    message::{BounceClass, Message, QueueEntry, RecipientState},
    ports::{Busy, DnsError, RecordType},
    suppression::{Suppression, SuppressionReason},
    tenant::Tenant,
};
use inboxgrove_policy::{provider_of, retry::Cause, site_of};
use inboxgrove_store::{Batch, CommitError, Lease, Owner, ReadError, Scope};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent};
use tokio::time::Instant;

pub(crate) use self::outcome::Tried;
use self::outcome::next_step;
use crate::{
    context::{Cx, Nudge, Reply, answer, watch_commits},
    mailbox::{Mailbox, Own, Place, Told},
    platform::{TreeNode, TreePart, TreeQuery},
    refusal::Refusal,
    site::{SiteActor, SiteMsg},
    supervision::{Budget, Record, Sentence},
};

/// Recipients being routed or tried at once. Each holds some kilobytes; bodies are read for the attempt only.
pub(crate) const IN_FLIGHT_MAX: usize = 512;
/// How many of them one tenant may have: no account with slow destinations stops the others.
const IN_FLIGHT_OF_TENANT_MAX: usize = 128;
/// Queue rows read at a time.
const PAGE: usize = 256;
/// Held mail is looked at again this often; a resumed account releases it at once.
const HELD_AGAIN: Duration = Duration::from_hours(6);
/// Mail for a parked site waits this long.
const SITE_AGAIN: Duration = Duration::from_mins(10);
/// Outbound looks at least this often, so that a lost wake-up of its own heals.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A resolver asks for 5 s a question, and an MX set needs a few.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(30);
/// A commit that found the store's queue full, or the disk, is made again after this.
const COMMIT_AGAIN: Duration = Duration::from_millis(500);
/// Sites that are awake at once, at some 12 KB each: mail for more of them waits until some have been idle.
const SITES_MAX: usize = 4096;
/// Mail for a site that has no place waits this long.
const SITE_FULL_AGAIN: Duration = Duration::from_mins(1);
/// While there is no place for another, a site is put to sleep when it has been idle for this long.
const SITE_IDLE_WHEN_FULL: Duration = Duration::from_secs(1);
/// Rows that cannot be read or written which are remembered; beyond it they are reported again.
const BAD_MAX: usize = 4096;
/// What sites have handled is marked this often, so that `admin tree` can tell what is recent.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// A site without work for this long is put to sleep.
const SITE_IDLE: Duration = Duration::from_mins(10);

/// A recipient's name in the queue.
pub(crate) type Key = (MessageId, u16);

/// What outbound is told.
pub(crate) enum OutboundMsg {
    /// Look for queue rows that are due. Whoever says so is at work until it is done.
    Look(Busy),
    /// Where a recipient's mail goes is known, or not. From the task that asked DNS.
    Routed(InFlight, Result<Vec<MxHost>, DnsError>),
    /// An attempt ended. From the task that made it, and again from a commit that has to be made again.
    Tried(InFlight, Tried),
    /// The outcome of this recipient cannot be committed whole: commit what is needed to go on.
    Reduce(InFlight, Tried, String),
    /// An outcome is committed. From the task that waited for it.
    Settled(Key),
    /// A delivery was dropped without an outcome.
    Returned(Key),
    /// A drain has begun: what waits for a site goes back to the queue as it is.
    Drain,
    /// A tenant may send again: look at its held mail now.
    Release(TenantId),
    /// Go on releasing the mail of this tenant, or of all that may send, behind this place of the queue.
    ReleaseFrom(Option<TenantId>, Vec<u8>),
    /// Rows of released mail are on disk.
    Released(Vec<Key>),
    /// A site did not start. From the watcher of its start.
    SiteFailed(ActorId, String),
    /// Who waits and where? From operators.
    Sites(TreeQuery, Reply<TreePart>),
    /// End a site in the middle of whatever it does. From operators.
    Kill(String, String, Reply<()>),
    /// Free a parked site. From operators.
    Unpark(String, Reply<()>),
}

/// A recipient that somebody is working on. Dropped without [`InFlight::end`], it goes back to the queue.
pub(crate) struct InFlight {
    pub(crate) entry: QueueEntry,
    pub(crate) message: Arc<Message>,
    pub(crate) lease: Lease,
    /// Takes of an attempt whose DATA provably was not sent: the outcome's commit gives them back.
    pub(crate) give_back: Vec<Take>,
    /// Whether somebody is at work on it. While it waits for its turn nobody is.
    pub(crate) busy: Option<Busy>,
    /// Its place at a site, from when it is handed over until it ends.
    place: Option<Place>,
    outbound: Option<Own<OutboundMsg>>,
}

/// Outbound's actor.
pub(crate) struct Outbound;

/// What it keeps in memory.
pub(crate) struct OutboundState {
    cx: Cx,
    lease: Lease,
    me: Own<OutboundMsg>,
    /// Whom somebody works on, where its row lies, and whose it is.
    in_flight: BTreeMap<Key, (PolicyTime, TenantId)>,
    /// How many of them each tenant has.
    of_tenant: BTreeMap<TenantId, usize>,
    /// Messages with recipients in flight, as their rows will be once all commits are done.
    messages: BTreeMap<MessageId, (Message, usize)>,
    /// Recipients whose rows cannot be read or written: reported, and left for an operator.
    bad: BTreeSet<Key>,
    sites: BTreeMap<(IpAddr, String), Site>,
    timer: Option<tokio::task::AbortHandle>,
    nudge: Nudge,
    /// Whether the last look left due rows behind for lack of room.
    backlog: bool,
    /// How many recipients may be in flight, over all tenants.
    in_flight_max: usize,
    /// When what sites have handled was last marked.
    counted_at: Instant,
}

struct Site {
    actor: Option<ActorRef<SiteMsg>>,
    record: Record,
    parked: Option<String>,
    last_used: Instant,
    /// Deliveries that wait there or are under way.
    deliveries: Arc<Mailbox>,
    /// Why an operator has ended it, until it has.
    killed: Option<String>,
}

// === impl InFlight ===

impl InFlight {
    pub(crate) fn key(&self) -> Key {
        (self.entry.message, self.entry.recipient)
    }

    /// The address it goes to.
    pub(crate) fn recipient(&self) -> &EmailAddress {
        &self.message.recipients[usize::from(self.entry.recipient)].address
    }

    /// Says how it ended. Nothing goes back to the queue but by that outcome.
    pub(crate) fn end(mut self, outcome: Tried) {
        self.place = None;
        if let Some(outbound) = self.outbound.take() {
            // An outbound that is gone finds the row again when it is back.
            outbound.tell(OutboundMsg::Tried(self, outcome));
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(outbound) = self.outbound.take() {
            // An outbound that is gone finds the row again when it is back.
            outbound.tell(OutboundMsg::Returned(self.key()));
        }
    }
}

// === impl Actor for Outbound ===

impl Actor for Outbound {
    type Msg = Told<OutboundMsg>;
    type State = OutboundState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Outbound).await?;
        let me = cx.outbound.own(me);
        let wanted = usize::try_from(cx.config.outbound.concurrency.queue_messages);
        let state = OutboundState {
            in_flight_max: wanted.unwrap_or(IN_FLIGHT_MAX).min(IN_FLIGHT_MAX),
            counted_at: Instant::now(),
            cx,
            lease,
            me: me.clone(),
            in_flight: BTreeMap::new(),
            of_tenant: BTreeMap::new(),
            messages: BTreeMap::new(),
            bad: BTreeSet::new(),
            sites: BTreeMap::new(),
            timer: None,
            nudge: Nudge::default(),
            backlog: false,
        };
        watch_commits(
            &state.cx,
            state.nudge.clone(),
            me.clone(),
            OutboundMsg::Look,
        );
        // A release that was told to a predecessor and not done would leave mail held for hours.
        me.tell(OutboundMsg::ReleaseFrom(None, Vec::new()));
        me.tell(OutboundMsg::Look(state.cx.ports.activity.begin()));
        Ok(state)
    }

    async fn handle(
        &self,
        _me: ActorRef<Self::Msg>,
        told: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match told.msg {
            OutboundMsg::Look(_busy) => {
                state.nudge.heard();
                state.look()?;
            }
            OutboundMsg::Routed(flight, route) => state.routed(flight, route),
            OutboundMsg::Tried(flight, outcome) => state.tried(flight, outcome),
            OutboundMsg::Reduce(flight, outcome, why) => state.reduce(flight, &outcome, &why),
            OutboundMsg::Settled(key) => state.settled(key)?,
            OutboundMsg::Returned(key) => state.returned(key)?,
            OutboundMsg::Drain => state.drain(),
            OutboundMsg::Release(tenant) => state.release(Some(tenant), &[])?,
            OutboundMsg::ReleaseFrom(tenant, after) => state.release(tenant, &after)?,
            OutboundMsg::Released(keys) => state.released(&keys)?,
            OutboundMsg::SiteFailed(actor, why) => state.site_ended(actor, Some(why)),
            OutboundMsg::Sites(query, reply) => answer(reply, Ok(state.tree(&query))),
            OutboundMsg::Kill(address, why, reply) => answer(reply, state.kill(&address, why)),
            OutboundMsg::Unpark(address, reply) => answer(reply, state.unpark(&address)),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, why) => {
                state.site_ended(who.get_id(), Some(why.to_string()));
            }
            // Who rests gives no reason; who was killed has one.
            SupervisionEvent::ActorTerminated(who, _, why) => state.site_ended(who.get_id(), why),
            _ => {}
        }
        Ok(())
    }
}

// === impl OutboundState: the queue ===

impl OutboundState {
    /// Takes what is due into flight, people's mail first within a page.
    fn look(&mut self) -> Result<(), ActorProcessingErr> {
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
                tracing::error!(%why, "a queue row cannot be read; its recipient waits for an operator");
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
        !self.in_flight.contains_key(&key) && !self.bad.contains(&key)
    }

    fn take_up_within_limits(&mut self, entry: QueueEntry) {
        let of_tenant = self.of_tenant.get(&entry.tenant).copied().unwrap_or(0);
        if self.in_flight.len() >= self.in_flight_max || of_tenant >= IN_FLIGHT_OF_TENANT_MAX {
            self.backlog = true;
            return;
        }
        let key = (entry.message, entry.recipient);
        if let Err(why) = self.take_up(entry) {
            tracing::error!(message = %key.0, %why, "a message cannot be read; it waits for an operator");
            if self.bad.len() >= BAD_MAX {
                self.bad.clear();
            }
            self.bad.insert(key);
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
        let recipient = |message: &Message| {
            message
                .recipients
                .get(usize::from(entry.recipient))
                .map(|r| r.state)
        };
        let Some(message) =
            stored.filter(|message| recipient(message).is_some_and(|state| !state.is_final()))
        else {
            // Its inbox's rows were erased, or it has come to its end: there is nothing to send.
            self.forget(&entry);
            return Ok(());
        };
        let tenant = self.cx.store.get::<Tenant>(&entry.tenant)?;
        let held = !tenant.is_some_and(|tenant| tenant.status.may_act());
        let flight = self.begin_flight(entry, message);
        if flight.entry.attempting {
            // A crash, or the end of this actor, came between the takes and the outcome: it may have been sent.
            let reply = "the daemon was stopped during an attempt".to_owned();
            flight.end(Tried::Uncertain {
                provider: "unknown".to_owned(),
                reply,
            });
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

    fn flight(
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
            busy: Some(self.cx.ports.activity.begin()),
            place: None,
            outbound,
        }
    }

    /// Nobody works on this recipient any more.
    fn end_flight(&mut self, key: Key) {
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
    fn release(
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

    fn released(&mut self, keys: &[Key]) -> Result<(), ActorProcessingErr> {
        for key in keys {
            self.end_flight(*key);
        }
        self.look()
    }
}

// === impl OutboundState: the outcome ===

impl OutboundState {
    fn tried(&mut self, mut flight: InFlight, outcome: Tried) {
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

    /// The whole outcome cannot be a commit (a row would be too big, a row it counts in is damaged): the queue
    /// moves on, the event says what happened, the message's own row stays as it was.
    fn reduce(&mut self, flight: InFlight, outcome: &Tried, why: &str) {
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
    fn commit_outcome(&self, batch: Batch, flight: InFlight, outcome: Tried, whole: bool) {
        let committed = self.cx.store.commit(batch);
        let me = self.me.clone();
        self.cx.spawn(async move {
            let key = flight.key();
            let news = match committed.await {
                Ok(_) => OutboundMsg::Settled(key),
                Err(why @ (CommitError::Busy | CommitError::DiskLow { .. })) => {
                    tracing::warn!(%why, "an outcome was not committed yet");
                    tokio::time::sleep(COMMIT_AGAIN).await;
                    OutboundMsg::Tried(flight, outcome)
                }
                Err(why @ (CommitError::Stale { .. } | CommitError::Failed { .. })) => {
                    // Somebody else owns the rows now, or nobody can write any more.
                    return me.stop(format!("an outcome was not committed: {why}"));
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
    fn settled(&mut self, key: Key) -> Result<(), ActorProcessingErr> {
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
    fn returned(&mut self, key: Key) -> Result<(), ActorProcessingErr> {
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
                self.tried(
                    flight,
                    Tried::Uncertain {
                        provider: "unknown".to_owned(),
                        reply,
                    },
                );
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
    fn moved(&self, entry: &QueueEntry, outcome: &Tried, next: &outcome::NextStep) -> Batch {
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
        // The known providers have a word for a name; a stranger's site has dots, and there are too many of them.
        let provider = match outcome.provider() {
            known if !known.contains('.') => known.to_owned(),
            _ => "other".to_owned(),
        };
        let label = crate::metrics::ByProvider {
            provider,
            outcome: outcome.name(),
        };
        self.cx.metrics.attempts.get_or_create(&label).inc();
        batch
    }
}

// === impl OutboundState: the sites ===

impl OutboundState {
    fn route(&self, flight: InFlight) {
        let cx = Arc::clone(&self.cx);
        let me = self.me.clone();
        self.cx.spawn(async move {
            let domain = flight.recipient().domain();
            let asked =
                tokio::time::timeout(ROUTE_TIMEOUT, dns::mx_hosts(&domain, &*cx.ports.dns)).await;
            let hosts = asked.unwrap_or_else(|_| {
                let why = "no answer in time".to_owned();
                Err(DnsError::Unknown {
                    name: domain.to_string(),
                    kind: RecordType::Mx,
                    why,
                })
            });
            // An outbound that is gone finds the row again when it is back.
            me.tell(OutboundMsg::Routed(flight, hosts));
        });
    }

    fn routed(&mut self, mut flight: InFlight, route: Result<Vec<MxHost>, DnsError>) {
        if self.cx.draining() {
            return drop(flight);
        }
        let hosts = match route {
            Ok(hosts) if hosts.iter().any(|host| !host.addresses.is_empty()) => hosts,
            Ok(hosts) if hosts.is_empty() => {
                let reply = "it takes no mail (a null MX, RFC 7505)".to_owned();
                let class = BounceClass::Recipient;
                return flight.end(Tried::Bounced {
                    provider: "none".to_owned(),
                    reply,
                    class,
                });
            }
            Ok(_) => {
                return flight.end(no_route("none of its mail hosts has an address".to_owned()));
            }
            Err(why) if why.is_absence() => {
                let class = BounceClass::Recipient;
                return flight.end(Tried::Bounced {
                    provider: "none".to_owned(),
                    reply: why.to_string(),
                    class,
                });
            }
            Err(why) => return flight.end(no_route(why.to_string())),
        };
        let names: Vec<_> = hosts.iter().map(|host| host.host.as_str()).collect();
        let provider = provider_of(names[0]);
        let source = self.cx.rules.source_for(&flight.entry);
        let site = (source.address, site_of(&names));
        match self.site(&site, &provider) {
            Ok((actor, place)) => {
                flight.place = Some(place);
                let delivery = SiteMsg::Deliver {
                    flight,
                    hosts,
                    provider,
                };
                // A site that is just ending drops the letter, and with it the delivery comes back.
                drop(actor.send_message(delivery));
            }
            Err((why, again)) => {
                let until = self.cx.now().after(again);
                flight.end(Tried::Waiting {
                    provider,
                    why,
                    until,
                });
            }
        }
    }

    /// The actor of a site and a place there, or why there is none and when to try again.
    fn site(
        &mut self,
        key: &(IpAddr, String),
        provider: &str,
    ) -> Result<(ActorRef<SiteMsg>, Place), (String, Duration)> {
        if !self.sites.contains_key(key) && !self.has_place_for_a_site() {
            let why = format!("mail for {SITES_MAX} sites is under way");
            return Err((why, SITE_FULL_AGAIN));
        }
        let new = || Site {
            actor: None,
            record: Record::default(),
            parked: None,
            last_used: Instant::now(),
            deliveries: Arc::default(),
            killed: None,
        };
        let site = self.sites.entry(key.clone()).or_insert_with(new);
        site.last_used = Instant::now();
        let place = site.deliveries.own();
        if let Some(why) = &site.parked {
            return Err((format!("the site {} is parked: {why}", key.1), SITE_AGAIN));
        }
        if let Some(actor) = &site.actor {
            return Ok((actor.clone(), place));
        }
        let args = (
            Arc::clone(&self.cx),
            key.0,
            key.1.clone(),
            provider.to_owned(),
        );
        let (actor, start) =
            ActorRuntime::spawn_linked_instant(None, SiteActor, args, self.me.cell()).map_err(
                |why| {
                    (
                        format!("the site {} did not start: {why}", key.1),
                        SITE_AGAIN,
                    )
                },
            )?;
        site.actor = Some(actor.clone());
        let (me, id) = (self.me.clone(), actor.get_id());
        self.cx.spawn_waiting(async move {
            // A site that fails to start is not linked yet: no supervision event tells of it.
            if let Ok(Err(why)) = start.await {
                me.tell(OutboundMsg::SiteFailed(id, why.to_string()));
            }
        });
        Ok((actor, place))
    }

    /// Whether another site may be awake. When there are too many the idle ones are sent to sleep.
    fn has_place_for_a_site(&mut self) -> bool {
        if self.sites.len() >= SITES_MAX {
            self.put_to_sleep(SITE_IDLE_WHEN_FULL);
        }
        self.sites.len() < SITES_MAX
    }

    fn site_ended(&mut self, actor: ActorId, failure: Option<String>) {
        let is_it = |site: &Site| {
            site.actor
                .as_ref()
                .is_some_and(|running| running.get_id() == actor)
        };
        let Some((key, site)) = self.sites.iter_mut().find(|(_, site)| is_it(site)) else {
            return;
        };
        site.actor = None;
        let killed = site.killed.take();
        let Some(why) = failure.map(|why| killed.unwrap_or(why)) else {
            return;
        };
        self.cx.metrics.failures.inc();
        tracing::warn!(site = %key.1, source = %key.0, %why, "a site failed");
        if site
            .record
            .fail(why.clone(), Instant::now(), &Budget::ENTITY)
            == Sentence::Park
        {
            tracing::error!(site = %key.1, source = %key.0, %why, "a site failed too often and is parked");
            site.parked = Some(why);
        }
    }

    fn put_idle_sites_to_sleep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.counted_at) >= COUNT_EVERY {
            self.counted_at = now;
            self.sites.values().for_each(|site| site.deliveries.mark());
        }
        self.put_to_sleep(SITE_IDLE);
    }

    /// A site that has been idle for long ends itself when it is told to rest; its row knows its pace.
    fn put_to_sleep(&mut self, idle: Duration) {
        let now = Instant::now();
        for site in self.sites.values_mut() {
            if now.duration_since(site.last_used) >= idle
                && site.deliveries.depth() == 0
                && let Some(actor) = &site.actor
            {
                site.last_used = now;
                // A site that is gone rests already.
                drop(actor.send_message(SiteMsg::Rest));
            }
        }
        // A record is kept for as long as its failures count.
        let kept = idle.max(Budget::ENTITY.within);
        self.sites.retain(|_, site| {
            site.actor.is_some()
                || site.parked.is_some()
                || now.duration_since(site.last_used) < kept
        });
    }

    /// Ends a site at once. What waited there goes back to the queue; what is under way ends by itself.
    fn kill(&mut self, address: &str, why: String) -> Result<(), Refusal> {
        let awake = self
            .sites
            .iter_mut()
            .filter(|(key, _)| site_address(key) == address)
            .find_map(|(_, site)| Some((site.actor.clone()?, site)));
        let (actor, site) = awake.ok_or(Refusal::NotFound {
            what: "running actor",
        })?;
        site.killed = Some(why);
        actor.kill();
        Ok(())
    }

    fn drain(&self) {
        for site in self.sites.values().filter_map(|site| site.actor.as_ref()) {
            // A site that is gone has dropped what waited there.
            drop(site.send_message(SiteMsg::Go));
        }
    }

    fn unpark(&mut self, address: &str) -> Result<(), Refusal> {
        let parked = |(key, site): &(&(IpAddr, String), &mut Site)| {
            site.parked.is_some() && site_address(key) == address
        };
        let (_, site) = self
            .sites
            .iter_mut()
            .find(parked)
            .ok_or(Refusal::NotFound {
                what: "parked actor",
            })?;
        site.record.forgive();
        site.parked = None;
        Ok(())
    }

    fn tree(&self, query: &TreeQuery) -> TreePart {
        let of = query.of.as_str();
        let is_asked_for = |(key, site): &(&(IpAddr, String), &Site)| {
            of.is_empty()
                || of == "site"
                || of == site.state()
                || (of == TreeQuery::FAILED && site.record.total() > 0)
                || (of.contains('/') && site_address(key) == of)
        };
        let mut matching: Vec<_> = self.sites.iter().filter(is_asked_for).collect();
        let count = matching.len();
        matching.sort_by_key(|(_, site)| site.rank());
        matching.truncate(query.limit);
        let node = |(key, site): (&(IpAddr, String), &Site)| TreeNode {
            address: site_address(key),
            state: site.state(),
            depth: site.deliveries.depth(),
            recent: site.deliveries.recent(),
            restarts: site.record.total(),
            last_failure: site.record.last().map(str::to_owned),
        };
        TreePart {
            nodes: matching.into_iter().map(node).collect(),
            matching: count,
        }
    }
}

// === impl Site ===

impl Site {
    fn state(&self) -> &'static str {
        match (&self.parked, &self.actor) {
            (Some(_), _) => "parked",
            (None, Some(_)) => "running",
            (None, None) => "asleep",
        }
    }

    /// What comes first for an operator: small is early.
    fn rank(&self) -> impl Ord + use<> {
        let (depth, recent) = (self.deliveries.depth(), self.deliveries.recent());
        (self.parked.is_none(), usize::MAX - depth, u64::MAX - recent)
    }
}

fn site_address(key: &(IpAddr, String)) -> String {
    format!("site/{}/{}", key.0, key.1)
}

fn no_route(reply: String) -> Tried {
    Tried::Deferred {
        provider: "none".to_owned(),
        reply,
        cause: Cause::Deferred,
        counted: false,
    }
}
