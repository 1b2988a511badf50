//! One actor per inbox: owns its row, what it received, its warmup, and the decision to accept a message.
//!
//! Mailbox: requests of the HTTP layer, [`Receive`] from inbound, [`Due`] from the clock. Awaits commits and
//! the vault, never the network. What it accepts for sending belongs to outbound once committed. Dies only on a
//! broken invariant; a restart reads everything back.
//!
//! - `inbox/sending.rs`: the gates and the acceptance of a message;
//! - `inbox/receiving.rs`: what comes in;
//! - `inbox/warming.rs`: the day's plan, the next turn, the band.
//!
//! [`Receive`]: InboxMsg::Receive
//! [`Due`]: InboxMsg::Due

mod face;
mod receiving;
mod sending;
mod warming;

use inboxgrove_model::{
    InboxId, PolicyTime, TenantId,
    domain::Domain,
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    inbox::{Inbox, InboxStatus, PoolMember, WarmupState},
    message::Message,
    tenant::Tenant,
};
use inboxgrove_policy::{Beliefs, Zone, evidence};
use inboxgrove_store::{Batch, Lease, Owner};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

pub(crate) use self::{
    receiving::{Incoming, holder_of},
    sending::acceptance_takes,
};
use crate::{
    context::{Context, Cx, Reply, answer},
    directory::Posted,
    platform::{IdempotencyKey, InboxChange, Made, NewMessage, ShownCredential},
    refusal::Refusal,
    vault::{self, VaultMsg},
};

/// Longest display name: it has to fit a header line with its address.
const DISPLAY_NAME_CHARS_MAX: usize = 100;

/// What an inbox is asked.
pub(crate) enum InboxMsg {
    /// Change its settings.
    Change(Box<InboxChange>, Reply<Inbox>),
    /// Delete it; its address stays taken.
    Delete(Reply<()>),
    /// Show its password, once.
    ShowCredential(Reply<ShownCredential>),
    /// Make its password anew.
    RotateCredential(Reply<ShownCredential>),
    /// Start or go on with its warmup.
    StartWarmup(Reply<Inbox>),
    /// Pause its warmup.
    PauseWarmup(Reply<Inbox>),
    /// Accept a message for sending.
    Send(
        Box<NewMessage>,
        Option<IdempotencyKey>,
        Reply<Made<Message>>,
    ),
    /// Keep a message that came in. From inbound.
    Receive(Box<Incoming>, Reply<()>),
    /// The clock says it is time.
    Due(DueRow, Reply<()>),
    /// Fail, as a bug would: supervision is tested with it, by operators too.
    Fail(String),
    /// The directory says good night.
    Sleep,
}

/// The inbox's actor.
pub(crate) struct InboxActor;

/// What it keeps in memory.
pub(crate) struct InboxState {
    cx: Cx,
    tenant: TenantId,
    id: InboxId,
    lease: Lease,
    inbox: Option<Inbox>,
}

// === impl Actor for InboxActor ===

impl Actor for InboxActor {
    type Msg = Posted<InboxMsg>;
    type State = InboxState;
    type Arguments = (Cx, TenantId, InboxId);

    async fn pre_start(
        &self,
        _me: ActorRef<Self::Msg>,
        (cx, tenant, id): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Inbox(tenant, id)).await?;
        let inbox = cx.store.get::<Inbox>(&(tenant, id))?;
        Ok(InboxState {
            cx,
            tenant,
            id,
            lease,
            inbox,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        posted: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // On the heap for as long as it lasts: what the largest handler needs would otherwise lie in the task of
        // every inbox that is awake.
        Box::pin(state.hear(me, posted.msg)).await
    }

    async fn post_stop(
        &self,
        _me: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.cx.store.release(state.lease.clone());
        Ok(())
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

// === impl InboxState ===

impl InboxState {
    async fn hear(
        &mut self,
        me: ActorRef<Posted<InboxMsg>>,
        msg: InboxMsg,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            InboxMsg::Change(change, reply) => answer(reply, self.change(*change).await),
            InboxMsg::Delete(reply) => answer(reply, self.delete().await),
            InboxMsg::ShowCredential(reply) => answer(reply, self.show_credential().await),
            InboxMsg::RotateCredential(reply) => answer(reply, self.rotate_credential().await),
            InboxMsg::StartWarmup(reply) => answer(reply, self.start_warmup().await),
            InboxMsg::PauseWarmup(reply) => answer(reply, self.pause_warmup().await),
            InboxMsg::Send(message, key, reply) => answer(reply, self.send(*message, key).await),
            InboxMsg::Receive(incoming, reply) => answer(reply, self.receive(*incoming).await),
            InboxMsg::Due(row, reply) => answer(reply, self.due(row).await),
            InboxMsg::Fail(why) => return Err(why.into()),
            InboxMsg::Sleep => me.stop(None),
        }
        Ok(())
    }

    /// The inbox, unless it is deleted.
    fn existing(&self) -> Result<&Inbox, Refusal> {
        let alive = self
            .inbox
            .as_ref()
            .filter(|inbox| inbox.status != InboxStatus::Deleted);
        alive.ok_or(Refusal::NotFound { what: "inbox" })
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch
    }

    fn event(&self, kind: EventKind) -> Event {
        Event {
            at: self.cx.now(),
            tenant: Some(self.tenant),
            kind,
        }
    }

    fn tenant_row(&self) -> Result<Tenant, Refusal> {
        self.cx
            .store
            .get::<Tenant>(&self.tenant)?
            .ok_or(Refusal::NotFound { what: "tenant" })
    }

    fn domain_row(&self, inbox: &Inbox) -> Result<Domain, Refusal> {
        self.cx
            .store
            .get::<Domain>(&(self.tenant, inbox.domain))?
            .ok_or(Refusal::NotFound { what: "domain" })
    }

    /// Commits the inbox's row with what else the batch holds, and then believes it.
    async fn commit(&mut self, mut batch: Batch, inbox: Inbox) -> Result<Inbox, Refusal> {
        batch.put(&inbox);
        self.cx.store.commit(batch).await?;
        self.inbox = Some(inbox.clone());
        Ok(inbox)
    }

    async fn change(&mut self, change: InboxChange) -> Result<Inbox, Refusal> {
        let mut inbox = self.existing()?.clone();
        let tenant = self.tenant_row()?;
        crate::tenant::may_act(&tenant)?;
        let plan = self.cx.rules.plan(&tenant.plan)?;
        let mut what = Vec::new();
        if let Some(name) = change.display_name {
            inbox.display_name = display_name(name)?;
            what.push("display_name");
        }
        if let Some(limit) = change.daily_limit {
            inbox.daily_limit = within("daily_limit", limit, plan.inbox_day)?;
            inbox.hourly_limit = inbox.hourly_limit.min(limit);
            what.push("daily_limit");
        }
        if let Some(limit) = change.hourly_limit {
            inbox.hourly_limit = within("hourly_limit", limit, inbox.daily_limit)?;
            what.push("hourly_limit");
        }
        if let Some(zone) = change.time_zone {
            Zone::named(&zone).map_err(|why| Refusal::Invalid {
                field: "time_zone",
                why: why.to_string(),
            })?;
            inbox.time_zone = zone;
            what.push("time_zone");
        }
        if let Some(paused) = change.paused {
            set_paused(&mut inbox, paused)?;
            what.push("paused");
        }
        let mut batch = self.batch();
        settle_pool(&mut batch, &inbox);
        batch.event(self.event(EventKind::InboxChanged {
            inbox: self.id,
            what: what.join(", "),
        }));
        self.commit(batch, inbox).await
    }

    async fn delete(&mut self) -> Result<(), Refusal> {
        let mut inbox = self.existing()?.clone();
        inbox.status = InboxStatus::Deleted;
        "deleted by its owner".clone_into(&mut inbox.reason);
        inbox.warmup.state = WarmupState::Paused;
        let mut batch = self.batch();
        settle_pool(&mut batch, &inbox);
        self.unschedule(&mut batch, &mut inbox);
        batch.event(self.event(EventKind::InboxDeleted { inbox: self.id }));
        // The tenant counts its rows again. (Its address claim stays: nobody shall get another's replies.)
        batch.put(&DueRow {
            at: self.cx.now(),
            work: DueWork::Tenant(self.tenant),
        });
        let secret = inbox.credential.secret;
        self.commit(batch, inbox).await?;
        vault::forget(&self.cx, self.tenant, vec![secret]);
        Ok(())
    }

    async fn show_credential(&mut self) -> Result<ShownCredential, Refusal> {
        let mut inbox = self.existing()?.clone();
        let (tenant, secret) = (self.tenant, inbox.credential.secret);
        let password = self
            .cx
            .vault
            .ask(|reply| VaultMsg::ShowPassword(tenant, secret, reply))
            .await?;
        inbox.credential.shown = true;
        let mut batch = self.batch();
        batch.event(self.event(EventKind::InboxChanged {
            inbox: self.id,
            what: "credential shown".to_owned(),
        }));
        let inbox = self.commit(batch, inbox).await?;
        Ok(ShownCredential {
            username: inbox.address,
            password,
        })
    }

    async fn rotate_credential(&mut self) -> Result<ShownCredential, Refusal> {
        let mut inbox = self.existing()?.clone();
        let (tenant, secret) = (self.tenant, inbox.credential.secret);
        let password = self
            .cx
            .vault
            .ask(|reply| VaultMsg::RotatePassword(tenant, secret, reply))
            .await?;
        inbox.credential.shown = true;
        inbox.credential.rotated_at = self.cx.now();
        let mut batch = self.batch();
        batch.event(self.event(EventKind::CredentialRotated { inbox: self.id }));
        let inbox = self.commit(batch, inbox).await?;
        Ok(ShownCredential {
            username: inbox.address,
            password,
        })
    }

    async fn start_warmup(&mut self) -> Result<Inbox, Refusal> {
        let mut inbox = self.existing()?.clone();
        crate::tenant::may_act(&self.tenant_row()?)?;
        if inbox.warmup.state == WarmupState::Running {
            return Ok(inbox);
        }
        if inbox.status == InboxStatus::Suspended {
            return Err(Refusal::Gated {
                gate: "inbox",
                why: inbox.reason,
                lifts_at: None,
            });
        }
        let now = self.cx.now();
        inbox.status = InboxStatus::Warming;
        "warming up".clone_into(&mut inbox.reason);
        inbox.warmup.state = WarmupState::Running;
        inbox.warmup.started_at.get_or_insert(now);
        let mut batch = self.batch();
        self.schedule(&mut batch, &mut inbox, now);
        settle_pool(&mut batch, &inbox);
        batch.event(self.event(EventKind::WarmupChanged {
            inbox: self.id,
            state: WarmupState::Running,
        }));
        self.commit(batch, inbox).await
    }

    async fn pause_warmup(&mut self) -> Result<Inbox, Refusal> {
        let mut inbox = self.existing()?.clone();
        if !matches!(
            inbox.warmup.state,
            WarmupState::Running | WarmupState::Graduated
        ) {
            return Ok(inbox);
        }
        if inbox.status == InboxStatus::Warming {
            inbox.status = InboxStatus::Pending;
            "warmup is paused".clone_into(&mut inbox.reason);
        }
        inbox.warmup.state = WarmupState::Paused;
        let mut batch = self.batch();
        self.unschedule(&mut batch, &mut inbox);
        settle_pool(&mut batch, &inbox);
        batch.event(self.event(EventKind::WarmupChanged {
            inbox: self.id,
            state: WarmupState::Paused,
        }));
        self.commit(batch, inbox).await
    }

    async fn due(&mut self, row: DueRow) -> Result<(), Refusal> {
        match row.work {
            DueWork::Reply(_, _, message) => self.reply_due(row.clone(), message).await,
            _ => self.warmup_due(row).await,
        }
    }

    /// Moves the one warmup due row.
    fn schedule(&self, batch: &mut Batch, inbox: &mut Inbox, at: PolicyTime) {
        self.unschedule(batch, inbox);
        inbox.wake_at = Some(at);
        batch.put(&DueRow {
            at,
            work: DueWork::Warmup(self.tenant, self.id),
        });
    }

    fn unschedule(&self, batch: &mut Batch, inbox: &mut Inbox) {
        if let Some(at) = inbox.wake_at.take() {
            batch.remove::<DueRow>(&(at, DueWork::Warmup(self.tenant, self.id)));
        }
    }
}

/// What others see of an inbox in the pool.
pub(crate) fn pool_member(inbox: &Inbox) -> PoolMember {
    PoolMember {
        inbox: inbox.id,
        tenant: inbox.tenant,
        domain: inbox.domain,
        address: inbox.address.clone(),
        display_name: inbox.display_name.clone(),
    }
}

/// An inbox whose warmup runs and that may send is in the pool, no other.
fn settle_pool(batch: &mut Batch, inbox: &Inbox) {
    if takes_part(inbox) {
        batch.put(&pool_member(inbox));
    } else {
        batch.remove::<PoolMember>(&inbox.id);
    }
}

fn takes_part(inbox: &Inbox) -> bool {
    matches!(
        inbox.warmup.state,
        WarmupState::Running | WarmupState::Graduated
    ) && matches!(inbox.status, InboxStatus::Warming | InboxStatus::Active)
}

fn display_name(name: String) -> Result<String, Refusal> {
    let count = name.chars().count();
    if count > DISPLAY_NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let why = format!(
            "expected at most {DISPLAY_NAME_CHARS_MAX} characters without control characters, found {count}"
        );
        return Err(Refusal::Invalid {
            field: "display_name",
            why,
        });
    }
    Ok(name)
}

fn within(field: &'static str, found: u32, max: u32) -> Result<u32, Refusal> {
    if found > max {
        return Err(Refusal::Invalid {
            field,
            why: format!("expected at most {max}, found {found}"),
        });
    }
    Ok(found)
}

fn set_paused(inbox: &mut Inbox, paused: bool) -> Result<(), Refusal> {
    match (inbox.status, paused) {
        (InboxStatus::Suspended | InboxStatus::Deleted, _) => {
            return Err(Refusal::Gated {
                gate: "inbox",
                why: inbox.reason.clone(),
                lifts_at: None,
            });
        }
        (InboxStatus::Paused, false) => {
            inbox.status = match inbox.warmup.state {
                WarmupState::Running => InboxStatus::Warming,
                WarmupState::Graduated => InboxStatus::Active,
                WarmupState::Off | WarmupState::Paused => InboxStatus::Pending,
            };
            "resumed by its owner".clone_into(&mut inbox.reason);
        }
        (_, true) => {
            inbox.status = InboxStatus::Paused;
            "paused by its owner".clone_into(&mut inbox.reason);
        }
        (_, false) => {}
    }
    Ok(())
}

/// What is believed about an inbox, from the rollups that the committer keeps.
pub(crate) fn beliefs(cx: &Context, tenant: TenantId, inbox: InboxId) -> Result<Beliefs, Refusal> {
    let today = cx.now().utc_day();
    let rules = &cx.rules.health;
    let days = cx
        .store
        .evidence(tenant, inbox, today - evidence::days_that_count(rules))?;
    Ok(Beliefs::from_days(&days, today, rules))
}
