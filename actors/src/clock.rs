//! The clock: wakes actors from the durable `due` table.
//!
//! Owns the policy high-water mark. Mailbox: [`Tick`] from its own timer and from commits that add due rows,
//! [`Woken`] from the tasks that carried a wake-up. Reads rows, never waits. A due row stays until the actor
//! it names removes or moves it in the commit that does the work; a row whose actor failed is offered again
//! after [`AGAIN_AFTER`]. Its death is fatal; a restart finds every row again.
//!
//! [`Tick`]: ClockMsg::Tick
//! [`Woken`]: ClockMsg::Woken

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use inboxgrove_model::{
    PolicyTime,
    due::{DueRow, DueWork},
    ports::Busy,
};
use inboxgrove_store::{Batch, Lease, Owner, Scope, records::PolicyMark};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use crate::{
    context::{Cx, Nudge, watch_commits},
    directory::{self, Address, Letter},
    domain::DomainMsg,
    inbox::InboxMsg,
    mailbox::{Own, Told},
    notifier::NotifierMsg,
    tenant::TenantMsg,
};

/// Wake-ups under way at once: enough to keep the committer's groups full, few enough to leave letters free.
const UNDER_WAY_MAX: usize = 256;
/// Rows handed out and not done, those that wait for another try included, at some 150 bytes each. Beyond it the
/// clock waits for the oldest of them.
const HANDED_MAX: usize = 65_536;
/// A row that is still there this long after its actor was woken is offered again.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// The high-water mark of policy time is stored at the first look when it is this old (in policy time): with the time
/// between two looks that is a minute, what a crash may set policy time back.
const MARK_EVERY: Duration = Duration::from_secs(30);
/// The clock looks at least this often, so that a lost wake-up of its own heals.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the clock is told.
pub(crate) enum ClockMsg {
    /// Look for due rows. Whoever says so is at work until it is done: a fast clock must not run on meanwhile.
    Tick(Busy),
    /// The actor of this row has answered, or could not be reached.
    Woken(DueRow),
}

/// The clock's actor.
pub(crate) struct Clock;

/// What it keeps in memory.
pub(crate) struct ClockState {
    cx: Cx,
    lease: Lease,
    /// Rows handed out, and when they may be offered again.
    handed: BTreeMap<DueRow, Handed>,
    marked: PolicyTime,
    timer: Option<tokio::task::AbortHandle>,
    nudge: Nudge,
    /// Whether the last look left due rows behind for lack of room.
    backlog: bool,
}

enum Handed {
    UnderWay,
    Until(Instant),
}

// === impl Actor for Clock ===

impl Actor for Clock {
    type Msg = Told<ClockMsg>;
    type State = ClockState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Clock).await?;
        let marked = cx
            .store
            .get::<PolicyMark>(&())?
            .map_or(PolicyTime::default(), |mark| mark.at);
        let nudge = Nudge::default();
        let me = cx.clock.own(me);
        watch_commits(&cx, nudge.clone(), me.clone(), ClockMsg::Tick);
        me.tell(ClockMsg::Tick(cx.ports.activity.begin()));
        Ok(ClockState {
            cx,
            lease,
            handed: BTreeMap::new(),
            marked,
            timer: None,
            nudge,
            backlog: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        told: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let me = state.cx.clock.own(me);
        match told.msg {
            ClockMsg::Tick(_busy) => {
                state.nudge.heard();
                state.mark().await;
                state.look(&me)
            }
            ClockMsg::Woken(row) => {
                let left = state.woken(row);
                // A look reads every row handed out again, so it waits until there is room for many.
                let room = state.backlog && state.under_way() <= UNDER_WAY_MAX / 2;
                if left || room {
                    state.look(&me)
                } else {
                    Ok(())
                }
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // It has no children.
    }
}

// === impl ClockState ===

impl ClockState {
    /// Stores how far policy time has come, so that a restart never goes back by more than a minute.
    async fn mark(&mut self) {
        let now = self.cx.now();
        if now.since(self.marked) < MARK_EVERY {
            return;
        }
        let mut batch = Batch::new();
        // Also when the disk is nearly full: without it a crash would take policy time back to before that.
        batch.by(&self.lease).essential();
        batch.put(&PolicyMark { at: now });
        match self.cx.store.commit(batch).await {
            Ok(_) => self.marked = now,
            Err(why) => tracing::warn!(%why, "the policy high-water mark was not stored"),
        }
    }

    /// Whether the row is still there, to be offered again.
    fn woken(&mut self, row: DueRow) -> bool {
        let still_there = matches!(
            self.cx.store.get::<DueRow>(&(row.at, row.work.clone())),
            Ok(Some(_))
        );
        if still_there {
            self.handed
                .insert(row, Handed::Until(Instant::now() + AGAIN_AFTER));
        } else {
            self.handed.remove(&row);
        }
        still_there
    }

    fn under_way(&self) -> usize {
        self.handed
            .values()
            .filter(|handed| matches!(handed, Handed::UnderWay))
            .count()
    }

    /// Hands out what is due and not handed out, then sets the timer to what comes next.
    fn look(&mut self, me: &Own<ClockMsg>) -> Result<(), ActorProcessingErr> {
        if self.cx.draining() {
            return Ok(());
        }
        let (now, mono) = (self.cx.now(), Instant::now());
        // Those whose wait is over are offered again if they are still there, and forgotten if not.
        self.handed
            .retain(|_, handed| !matches!(handed, Handed::Until(at) if *at <= mono));
        let mut under_way = self.under_way();
        // While memory is short due work waits on disk; the timer looks again.
        let room = if self.cx.memory.is_short() || self.handed.len() >= HANDED_MAX {
            0
        } else {
            UNDER_WAY_MAX
        };
        self.backlog = under_way >= room;
        let mut after: Option<Vec<u8>> = None;
        let mut retry: Option<Instant> = None;
        'pages: while under_way < room {
            let (page, damaged) = self.cx.store.sound_page::<DueRow>(
                &Scope::Before(now),
                after.as_deref(),
                UNDER_WAY_MAX,
            )?;
            for why in damaged {
                tracing::error!(%why, "a due row cannot be read; its work waits for an operator");
            }
            for row in page.items {
                match self.handed.get(&row) {
                    Some(Handed::UnderWay) => continue,
                    Some(Handed::Until(at)) => {
                        retry = Some(retry.map_or(*at, |soonest| soonest.min(*at)));
                        continue;
                    }
                    None => {}
                }
                self.handed.insert(row.clone(), Handed::UnderWay);
                self.wake(row, me.clone());
                under_way += 1;
                if under_way >= room || self.handed.len() >= HANDED_MAX {
                    self.backlog = true;
                    break 'pages;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.set_timer(now, retry, me)
    }

    fn wake(&self, row: DueRow, me: Own<ClockMsg>) {
        self.cx.metrics.due_woken.inc();
        tracing::debug!(?row, "due work is offered");
        let cx = Arc::clone(&self.cx);
        self.cx.spawn(async move {
            if let Err(why) = carry(&cx, row.clone()).await {
                tracing::warn!(?row, %why, "due work was not done; it is offered again");
            }
            // A clock that is gone has ended the process already.
            me.tell(ClockMsg::Woken(row));
        });
    }

    fn set_timer(
        &mut self,
        now: PolicyTime,
        retry: Option<Instant>,
        me: &Own<ClockMsg>,
    ) -> Result<(), ActorProcessingErr> {
        let beyond = PolicyTime::from_millis(i64::MAX);
        let (coming, _) = self
            .cx
            .store
            .sound_page::<DueRow>(&Scope::After(now), None, 1)?;
        let next = coming.items.first().map_or(beyond, |row| row.at);
        let sleep = self.cx.ports.clock.sleep_until(next);
        let latest = Instant::now() + LOOK_EVERY;
        let again = tokio::time::sleep_until(retry.map_or(latest, |at| at.min(latest)));
        let me = me.clone();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let activity = self.cx.ports.activity.clone();
        let timer = self.cx.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = sleep => {}
                () = again => {}
            }
            // A clock that is gone has ended the process already.
            me.tell(ClockMsg::Tick(activity.begin()));
        });
        self.timer = Some(timer.abort_handle());
        Ok(())
    }
}

/// Brings a due row to its actor and waits until the actor has answered.
async fn carry(cx: &Cx, row: DueRow) -> Result<(), crate::Refusal> {
    match row.work.clone() {
        DueWork::Warmup(tenant, inbox) | DueWork::Reply(tenant, inbox, _) => {
            directory::ask(cx, Address::Inbox(tenant, inbox), |reply| {
                Letter::Inbox(InboxMsg::Due(row, reply))
            })
            .await
        }
        DueWork::CheckDomain(tenant, domain) | DueWork::Job(tenant, domain, _) => {
            directory::ask(cx, Address::Domain(tenant, domain), |reply| {
                Letter::Domain(DomainMsg::Due(row, reply))
            })
            .await
        }
        DueWork::Tenant(tenant) => {
            directory::ask(cx, Address::Tenant(tenant), |reply| {
                Letter::Tenant(TenantMsg::Due(row, reply))
            })
            .await
        }
        DueWork::Notice(_) => cx.notifier.ask(|reply| NotifierMsg::Due(row, reply)).await,
    }
}
