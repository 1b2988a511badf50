//! The directory: from an id to the one actor that owns it.
//!
//! Owns the `ActorRef`s of all tenants, domains and inboxes, and nobody else holds one. Mailbox: [`Route`]
//! from everyone, [`Failed`] from the watchers of starts, [`Sweep`] from its own timer, questions of operators.
//! Never waits. An actor is spawned by the first letter to it and put to sleep when idle. A successor is
//! spawned only after its predecessor has ended; letters that come in between wait here. An actor that fails
//! beyond [`Budget::ENTITY`] is parked. The death of the directory is fatal, so it may supervise them all itself:
//! a supervisor for each tenant would stand between them, cost as much memory as an inbox, and keep nobody alive.
//!
//! `directory/census.rs` tells operators who is there.
//!
//! [`Route`]: DirectoryMsg::Route
//! [`Failed`]: DirectoryMsg::Failed
//! [`Sweep`]: DirectoryMsg::Sweep

mod census;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use inboxgrove_model::{DomainId, InboxId, TenantId, ports::Busy};
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, MessagingErr, SpawnErr,
    SupervisionEvent,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::{
    context::{Cx, Reply, answer, answer_of},
    domain::{DomainActor, DomainMsg},
    inbox::{InboxActor, InboxMsg},
    mailbox::{Mailbox, Own, Place, Told},
    memory::Pressure,
    platform::{TreePart, TreeQuery},
    refusal::{RETRY_BUSY, Refusal},
    supervision::{Budget, Record, Sentence},
    tenant::{TenantActor, TenantMsg},
};

/// An actor with no letter for this long is put to sleep. Longer than any task that an actor may wait for.
const IDLE_AFTER: Duration = Duration::from_mins(2);
/// How often idle actors are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// Actors awake at once; beyond it the idlest sleep early. At 7.9 KiB each (`benches/RESULTS.md`) this is some 160 MB.
const AWAKE_MAX: usize = 20_000;
/// While memory is tight an actor sleeps when it has been idle for this long.
const PRESSED_IDLE_AFTER: Duration = Duration::from_secs(1);
/// Parked actors that are remembered, at some 300 bytes each. Beyond it those that nobody has written to for
/// longest are forgotten: the next letter tries them again.
const PARKED_MAX: usize = 10_000;
/// Letters that may wait for one actor.
const DEPTH_MAX: usize = 128;

/// Whom a letter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    Tenant(TenantId),
    Domain(TenantId, DomainId),
    Inbox(TenantId, InboxId),
}

/// What a letter says.
pub(crate) enum Letter {
    Tenant(TenantMsg),
    Domain(DomainMsg),
    Inbox(InboxMsg),
}

/// A letter as it lies in an actor's mailbox: with the places it takes until it is handled.
pub(crate) struct Posted<M> {
    pub(crate) msg: M,
    _ticket: Option<Ticket>,
}

/// The places that a letter takes: one of all letters', one of its actor's, one among those at work.
#[expect(dead_code, reason = "places are held, and given back when dropped")]
struct Ticket {
    permit: OwnedSemaphorePermit,
    busy: Busy,
    place: Option<Place>,
}

/// What the directory is told and asked.
pub(crate) enum DirectoryMsg {
    /// Hand a letter over. From everyone, through [`route`] and [`ask`]; the refusal port is last.
    Route {
        to: Address,
        letter: Letter,
        permit: OwnedSemaphorePermit,
        busy: Busy,
        refused: oneshot::Sender<Refusal>,
    },
    /// An actor could not start. From the watcher of its start.
    Failed { actor: ActorId, why: String },
    /// Put idle actors to sleep. From the own timer.
    Sweep,
    /// Who is awake? From operators.
    Tree(TreeQuery, Reply<TreePart>),
    /// End an actor in the middle of whatever it does; its successor gets what comes next. From operators.
    Kill(String, String, Reply<()>),
    /// Free a parked actor. From operators.
    Unpark(String, Reply<()>),
}

/// The directory's actor.
pub(crate) struct Directory;

/// What it knows.
pub(crate) struct DirectoryState {
    cx: Cx,
    me: Own<DirectoryMsg>,
    entries: BTreeMap<Address, Entry>,
    /// Who is behind an actor id: supervision events know no more.
    addresses: BTreeMap<u64, Address>,
    /// When handled letters were last marked.
    counted_at: Instant,
}

/// One actor, awake or of bad record.
struct Entry {
    life: Life,
    mailbox: Arc<Mailbox>,
    last_used: Instant,
    record: Record,
    /// Why an operator has ended it, until it has.
    killed: Option<String>,
}

enum Life {
    Awake(Awake),
    /// Asked to sleep, killed, or failing; its successor gets these letters.
    Ending(ActorCell, VecDeque<(Letter, Ticket)>),
    /// Ended; only its record is kept.
    Gone,
    Parked(String),
}

enum Awake {
    Tenant(ActorRef<Posted<TenantMsg>>),
    Domain(ActorRef<Posted<DomainMsg>>),
    Inbox(ActorRef<Posted<InboxMsg>>),
}

/// The outcome of an actor's start, and then of its life.
type Start = tokio::task::JoinHandle<Result<tokio::task::JoinHandle<()>, SpawnErr>>;

// === what others call ===

/// Asks the actor at `to`, spawning it when it sleeps. Waits [`crate::context::CALL_TIMEOUT`] at most.
pub(crate) async fn ask<T>(
    cx: &Cx,
    to: Address,
    letter: impl FnOnce(Reply<T>) -> Letter,
) -> Result<T, Refusal> {
    let (reply, answered) = oneshot::channel();
    let mut refused = route(cx, to, letter(reply))?;
    let result = answer_of(&to.to_string(), answered).await;
    match (result, refused.try_recv()) {
        (Err(Refusal::Unknown { .. }), Ok(refusal)) => Err(refusal),
        (result, _) => result,
    }
}

/// Posts a letter. The receiver tells when the directory itself refused it.
pub(crate) fn route(
    cx: &Cx,
    to: Address,
    letter: Letter,
) -> Result<oneshot::Receiver<Refusal>, Refusal> {
    let permit = Arc::clone(&cx.letters).try_acquire_owned().map_err(|_| {
        cx.metrics.refused_as_full.inc();
        Refusal::Busy {
            what: "the tree",
            retry_after: RETRY_BUSY,
        }
    })?;
    let (refused, refusal) = oneshot::channel();
    let route = DirectoryMsg::Route {
        to,
        letter,
        permit,
        busy: cx.ports.activity.begin(),
        refused,
    };
    cx.directory.tell(route)?;
    Ok(refusal)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => write!(f, "tenant/{id}"),
            Self::Domain(_, id) => write!(f, "domain/{id}"),
            Self::Inbox(_, id) => write!(f, "inbox/{id}"),
        }
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn tenant(&self) -> TenantId {
        match self {
            Self::Tenant(tenant) | Self::Domain(tenant, _) | Self::Inbox(tenant, _) => *tenant,
        }
    }
}

// === impl Actor for Directory ===

impl Actor for Directory {
    type Msg = Told<DirectoryMsg>;
    type State = DirectoryState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let me = cx.directory.own(me);
        let timer = me.clone();
        cx.spawn_waiting(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                if !timer.tell(DirectoryMsg::Sweep) {
                    return;
                }
            }
        });
        Ok(DirectoryState {
            cx,
            me,
            entries: BTreeMap::new(),
            addresses: BTreeMap::new(),
            counted_at: Instant::now(),
        })
    }

    async fn handle(
        &self,
        _me: ActorRef<Self::Msg>,
        told: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match told.msg {
            DirectoryMsg::Route {
                to,
                letter,
                permit,
                busy,
                refused,
            } => {
                let ticket = Ticket {
                    permit,
                    busy,
                    place: None,
                };
                if let Err(refusal) = state.post(to, letter, ticket) {
                    // An asker that went away no longer wants to know.
                    drop(refused.send(refusal));
                }
            }
            DirectoryMsg::Failed { actor, why } => state.ended(actor, Some(why)),
            DirectoryMsg::Sweep => state.sweep(),
            DirectoryMsg::Tree(query, reply) => answer(reply, Ok(state.tree(&query))),
            DirectoryMsg::Kill(address, why, reply) => answer(reply, state.kill(&address, why)),
            DirectoryMsg::Unpark(address, reply) => answer(reply, state.unpark(&address)),
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
            // Who goes to sleep gives no reason; who was killed has one.
            SupervisionEvent::ActorTerminated(who, _, why) => state.ended(who.get_id(), why),
            SupervisionEvent::ActorFailed(who, why) => {
                state.ended(who.get_id(), Some(why.to_string()));
            }
            _ => {}
        }
        Ok(())
    }
}

// === impl DirectoryState ===

impl DirectoryState {
    fn post(&mut self, to: Address, letter: Letter, mut ticket: Ticket) -> Result<(), Refusal> {
        let now = Instant::now();
        let entry = self.entries.entry(to).or_insert_with(|| Entry {
            life: Life::Gone,
            mailbox: Arc::default(),
            last_used: now,
            record: Record::default(),
            killed: None,
        });
        if let Life::Parked(why) = &entry.life {
            return Err(Refusal::Parked {
                who: to.to_string(),
                why: why.clone(),
            });
        }
        let Some(place) = entry.mailbox.take(DEPTH_MAX) else {
            self.cx.metrics.refused_as_full.inc();
            return Err(Refusal::Busy {
                what: "this actor",
                retry_after: RETRY_BUSY,
            });
        };
        ticket.place = Some(place);
        entry.last_used = now;
        if matches!(entry.life, Life::Gone) {
            let awake = self.spawn(to)?;
            self.entries.get_mut(&to).expect("inserted above").life = Life::Awake(awake);
        }
        self.deliver(to, letter, ticket);
        Ok(())
    }

    /// Gives a letter to the actor, or keeps it for its successor.
    fn deliver(&mut self, to: Address, letter: Letter, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&to) else {
            return;
        };
        match &mut entry.life {
            Life::Awake(awake) => {
                if let Some((letter, ticket)) = awake.send(letter, ticket) {
                    // It has just ended and the news is under way: the letter is routed once more then.
                    entry.life = Life::Ending(awake.cell(), VecDeque::from([(letter, ticket)]));
                }
            }
            Life::Ending(_, waiting) => waiting.push_back((letter, ticket)),
            // Dropping the letter drops its reply port: the asker learns that the answer is lost.
            Life::Gone | Life::Parked(_) => drop((letter, ticket)),
        }
    }

    fn spawn(&mut self, to: Address) -> Result<Awake, Refusal> {
        let (cx, me) = (Arc::clone(&self.cx), self.me.cell());
        let (awake, start) = match to {
            Address::Tenant(id) => {
                let (actor, start) = spawned(TenantActor, (cx, id), me)?;
                (Awake::Tenant(actor), start)
            }
            Address::Domain(tenant, id) => {
                let (actor, start) = spawned(DomainActor, (cx, tenant, id), me)?;
                (Awake::Domain(actor), start)
            }
            Address::Inbox(tenant, id) => {
                let (actor, start) = spawned(InboxActor, (cx, tenant, id), me)?;
                (Awake::Inbox(actor), start)
            }
        };
        self.cx.metrics.activations.inc();
        self.addresses.insert(awake.id().pid(), to);
        self.watch_start(awake.id(), start);
        Ok(awake)
    }

    /// An actor whose `pre_start` fails is not linked yet, so no supervision event tells of it.
    fn watch_start(&self, actor: ActorId, start: Start) {
        let me = self.me.clone();
        self.cx.spawn_waiting(async move {
            let why = match start.await {
                Ok(Ok(_running)) => return,
                Ok(Err(why)) => why.to_string(),
                Err(_) => "its start was cut off".to_owned(),
            };
            // A directory that is gone has ended the process already.
            me.tell(DirectoryMsg::Failed { actor, why });
        });
    }

    fn ended(&mut self, actor: ActorId, failure: Option<String>) {
        let Some(address) = self.addresses.remove(&actor.pid()) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        let waiting = match std::mem::replace(&mut entry.life, Life::Gone) {
            Life::Ending(_, waiting) => waiting,
            _ => VecDeque::new(),
        };
        let killed = entry.killed.take();
        if let Some(why) = failure.map(|why| killed.unwrap_or(why)) {
            self.cx.metrics.failures.inc();
            tracing::warn!(%address, %why, "an actor failed");
            if entry
                .record
                .fail(why.clone(), Instant::now(), &Budget::ENTITY)
                == Sentence::Park
            {
                tracing::error!(%address, %why, "an actor failed too often and is parked");
                entry.life = Life::Parked(why);
                return;
            }
        }
        if waiting.is_empty() {
            if entry.record.total() == 0 {
                self.entries.remove(&address);
            }
            return;
        }
        match self.spawn(address) {
            Ok(awake) => {
                self.entries
                    .get_mut(&address)
                    .expect("looked up above")
                    .life = Life::Awake(awake);
                for (letter, ticket) in waiting {
                    self.deliver(address, letter, ticket);
                }
            }
            Err(refusal) => tracing::error!(%address, %refusal, "no successor could be started"),
        }
    }

    /// Puts idle actors to sleep; when too many are awake or memory is tight, also those that have just become
    /// idle.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.count(now);
        let awake = self
            .entries
            .values()
            .filter(|entry| matches!(entry.life, Life::Awake(_)))
            .count();
        self.cx
            .metrics
            .awake
            .set(i64::try_from(awake).unwrap_or(i64::MAX));
        let patience = match self.cx.memory.pressure() {
            Pressure::None if awake > AWAKE_MAX => SWEEP_EVERY,
            Pressure::None => IDLE_AFTER,
            Pressure::Soft | Pressure::Hard => PRESSED_IDLE_AFTER,
        };
        for entry in self.entries.values_mut() {
            let Life::Awake(actor) = &entry.life else {
                continue;
            };
            let idle =
                entry.mailbox.depth() == 0 && now.duration_since(entry.last_used) >= patience;
            if idle {
                actor.send_to_sleep();
                entry.life = Life::Ending(actor.cell(), VecDeque::new());
            }
        }
        self.entries.retain(|_, entry| {
            !matches!(entry.life, Life::Gone) || now.duration_since(entry.last_used) < IDLE_AFTER
        });
        self.forget_parked();
    }

    /// Forgets parked actors when there are too many.
    fn forget_parked(&mut self) {
        let parked = |entry: &Entry| matches!(entry.life, Life::Parked(_));
        let mut since: Vec<_> = self
            .entries
            .values()
            .filter(|entry| parked(entry))
            .map(|entry| entry.last_used)
            .collect();
        let Some(beyond) = since.len().checked_sub(PARKED_MAX + 1) else {
            return;
        };
        let (_, latest_dropped, _) = since.select_nth_unstable(beyond);
        let latest_dropped = *latest_dropped;
        self.entries
            .retain(|_, entry| !parked(entry) || entry.last_used > latest_dropped);
    }

    /// Ends an actor at once: its handler is dropped where it waits, which a hanging one does for ever. What lay
    /// in its mailbox is lost, as in a failure; what comes now waits for its successor.
    fn kill(&mut self, address: &str, why: String) -> Result<(), Refusal> {
        let entry = self
            .named(address)
            .and_then(|known| self.entries.get_mut(&known));
        let Some(entry) = entry else {
            return Err(Refusal::NotFound {
                what: "running actor",
            });
        };
        let (cell, waiting) = match std::mem::replace(&mut entry.life, Life::Gone) {
            Life::Awake(awake) => (awake.cell(), VecDeque::new()),
            Life::Ending(cell, waiting) => (cell, waiting),
            other => {
                entry.life = other;
                return Err(Refusal::NotFound {
                    what: "running actor",
                });
            }
        };
        cell.kill();
        entry.life = Life::Ending(cell, waiting);
        entry.killed = Some(why);
        Ok(())
    }

    /// Whom this address of the tree names, if the directory knows them.
    fn named(&self, address: &str) -> Option<Address> {
        let (kind, id) = address.split_once('/')?;
        match kind {
            "tenant" => Some(Address::Tenant(id.parse().ok()?)),
            "domain" => {
                let id: DomainId = id.parse().ok()?;
                let is_it =
                    |known: &&Address| matches!(known, Address::Domain(_, domain) if *domain == id);
                self.entries.keys().find(is_it).copied()
            }
            "inbox" => {
                let id: InboxId = id.parse().ok()?;
                let is_it =
                    |known: &&Address| matches!(known, Address::Inbox(_, inbox) if *inbox == id);
                self.entries.keys().find(is_it).copied()
            }
            _ => None,
        }
    }

    fn unpark(&mut self, address: &str) -> Result<(), Refusal> {
        let entry = self
            .named(address)
            .and_then(|known| self.entries.get_mut(&known))
            .filter(|entry| matches!(entry.life, Life::Parked(_)))
            .ok_or(Refusal::NotFound {
                what: "parked actor",
            })?;
        entry.record.forgive();
        entry.life = Life::Gone;
        Ok(())
    }
}

// === impl Awake ===

impl Awake {
    fn cell(&self) -> ActorCell {
        match self {
            Self::Tenant(actor) => actor.get_cell(),
            Self::Domain(actor) => actor.get_cell(),
            Self::Inbox(actor) => actor.get_cell(),
        }
    }

    fn id(&self) -> ActorId {
        self.cell().get_id()
    }

    fn send(&self, letter: Letter, ticket: Ticket) -> Option<(Letter, Ticket)> {
        match (self, letter) {
            (Self::Tenant(actor), Letter::Tenant(msg)) => post(actor, msg, ticket, Letter::Tenant),
            (Self::Domain(actor), Letter::Domain(msg)) => post(actor, msg, ticket, Letter::Domain),
            (Self::Inbox(actor), Letter::Inbox(msg)) => post(actor, msg, ticket, Letter::Inbox),
            (_, letter) => {
                // The doors below are typed, so this is a bug of ours: the asker learns that its answer is lost.
                tracing::error!("a letter was addressed to an actor of another kind");
                drop(letter);
                None
            }
        }
    }

    /// The last letter an actor gets. It stops when it comes to it, after all that came before.
    fn send_to_sleep(&self) {
        // An actor that has just ended needs no sleep.
        match self {
            Self::Tenant(actor) => drop(actor.send_message(Posted {
                msg: TenantMsg::Sleep,
                _ticket: None,
            })),
            Self::Domain(actor) => drop(actor.send_message(Posted {
                msg: DomainMsg::Sleep,
                _ticket: None,
            })),
            Self::Inbox(actor) => drop(actor.send_message(Posted {
                msg: InboxMsg::Sleep,
                _ticket: None,
            })),
        }
    }
}

fn post<M: Send + 'static>(
    actor: &ActorRef<Posted<M>>,
    msg: M,
    ticket: Ticket,
    letter: impl FnOnce(M) -> Letter,
) -> Option<(Letter, Ticket)> {
    match actor.send_message(Posted {
        msg,
        _ticket: Some(ticket),
    }) {
        Err(MessagingErr::SendErr(Posted {
            msg,
            _ticket: Some(ticket),
        })) => Some((letter(msg), ticket)),
        // Any other error has dropped the letter and with it the reply port.
        Ok(()) | Err(_) => None,
    }
}

/// Starts an actor under the directory. It may be written to at once, before it has started.
fn spawned<A: Actor>(
    actor: A,
    arguments: A::Arguments,
    directory: ActorCell,
) -> Result<(ActorRef<A::Msg>, Start), Refusal> {
    ActorRuntime::spawn_linked_instant(None, actor, arguments, directory).map_err(|why| {
        Refusal::Unavailable {
            why: format!("an actor could not be spawned: {why}"),
        }
    })
}
