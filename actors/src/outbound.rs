//! Outbound: envelopes in flight. Owns the rows of accepted messages and of the queue, and the sites.
//!
//! `outbound/queue.rs` takes up what is due, `sites.rs` sends it on its way, `outcome.rs` decides what came of it, and
//! `conclusion.rs` commits that.
//!
//! Mailbox: [`Look`] from its own timer and from commits that add to the queue; [`Routed`] and [`Tried`] from
//! tasks, each once; [`Returned`] when a delivery was dropped without an outcome (a site died, a task
//! panicked); [`Drain`] when the platform drains; [`Release`] from tenants; questions of operators. Never waits
//! for the network, nor for commits: it decides from what it holds in memory, hands the commit to a task, and
//! the committer keeps the order. A commit that could not be made is made again, for a while also one that met a
//! damaged row; a row that cannot be read is reported, stepped over, and looked at again when it may have been healed.
//! Restarts within [`Budget::SERVICE`]; a restart finds everything in the queue, and what was being tried is then
//! *uncertain*, unless its message's row says already how it ended. Memory holds [`IN_FLIGHT_MAX`] recipients at most,
//! however long the queue is.
//!
//! [`Look`]: OutboundMsg::Look
//! [`Routed`]: OutboundMsg::Routed
//! [`Tried`]: OutboundMsg::Tried
//! [`Returned`]: OutboundMsg::Returned
//! [`Drain`]: OutboundMsg::Drain
//! [`Release`]: OutboundMsg::Release
//! [`Budget::SERVICE`]: crate::supervision::Budget::SERVICE

mod conclusion;
mod outcome;
mod queue;
mod sites;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use inboxgrove_mail::dns::MxHost;
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime, TenantId,
    budget::Take,
    message::{Message, QueueEntry},
    ports::{Busy, DnsError},
};
use inboxgrove_store::{Lease, Owner};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

pub(crate) use self::outcome::Tried;
use self::sites::Site;
use crate::{
    context::{Cx, Nudge, Reply, answer, watch_commits},
    mailbox::{Own, Place, Told},
    platform::{TreePart, TreeQuery},
};

/// Recipients being routed or tried at once. Each holds some kilobytes; bodies are read for the attempt only.
pub(crate) const IN_FLIGHT_MAX: usize = 512;

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
    /// How often the commit of its outcome has met a damaged row.
    unreadable: u16,
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
    /// Recipients whose rows could not be read, and when: reported, and looked at again when they may have been healed.
    bad: BTreeMap<Key, Instant>,
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
            bad: BTreeMap::new(),
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
