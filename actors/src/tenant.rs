//! One actor per account: owns the tenant's row, its users and its log-ins.
//!
//! Mailbox: requests of the HTTP layer and of operators (through [`Platform`]), [`Due`] from the clock.
//! Awaits nothing but commits. Dies only on a broken invariant; a restart reads everything back. New domains
//! and jobs are *created* here, because they count against the plan; once committed they belong to their own
//! actors.
//!
//! [`Due`]: TenantMsg::Due

mod additions;
mod face;
mod sessions;
mod upkeep;

use std::net::IpAddr;

use inboxgrove_model::{
    SessionId, TenantId, UserId, WallTime,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::{DkimSelector, Domain},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    job::Job,
    tenant::{Role, Session, Suspension, SuspensionReason, Tenant, TenantStatus, User},
};
use inboxgrove_store::{Batch, CommitError, Lease, Owner};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use secrecy::SecretString;

use self::upkeep::next_look;
use crate::{
    context::{Cx, Reply, answer},
    directory::Posted,
    notifier::{self, NoticeCode},
    outbound::OutboundMsg,
    platform::{IdempotencyKey, Made, NewAccount, NewDomain, Provision},
    refusal::Refusal,
    rules::Plan,
};

/// What a tenant is asked.
pub(crate) enum TenantMsg {
    /// Make this account, with its first user. From the HTTP layer.
    Register(Box<NewAccount>, UserId, Reply<(Tenant, User)>),
    /// A log-in succeeded: start a family of refresh tokens.
    OpenSession {
        user: UserId,
        refresh_hash: [u8; 32],
        expires_at: WallTime,
        from: Option<IpAddr>,
        reply: Reply<Session>,
    },
    /// Exchange a refresh token. A spent one revokes the family.
    RotateSession {
        session: SessionId,
        spent: [u8; 32],
        fresh: [u8; 32],
        expires_at: WallTime,
        reply: Reply<Session>,
    },
    /// Log out.
    EndSession(SessionId, Reply<()>),
    /// Keep a better hash of the same password.
    UpgradePassword(UserId, SecretString, Reply<()>),
    /// Stop the account. From operators and triggers.
    Suspend(SuspensionReason, String, Reply<Tenant>),
    /// Give the account back what it was.
    Resume(Reply<Tenant>),
    /// Add a domain whose keys are made.
    AddDomain(
        Box<NewDomain>,
        Vec<DkimSelector>,
        Option<IdempotencyKey>,
        Reply<Made<Domain>>,
    ),
    /// Make inboxes, as a job.
    Provision(Box<Provision>, Option<IdempotencyKey>, Reply<Made<Job>>),
    /// The clock says it is time.
    Due(DueRow, Reply<()>),
    /// The directory says good night.
    Sleep,
}

/// The tenant's actor.
pub(crate) struct TenantActor;

/// What it keeps in memory.
pub(crate) struct TenantState {
    cx: Cx,
    id: TenantId,
    lease: Lease,
    tenant: Option<Tenant>,
}

// === impl Actor for TenantActor ===

impl Actor for TenantActor {
    type Msg = Posted<TenantMsg>;
    type State = TenantState;
    type Arguments = (Cx, TenantId);

    async fn pre_start(
        &self,
        _me: ActorRef<Self::Msg>,
        (cx, id): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Tenant(id)).await?;
        let tenant = cx.store.get::<Tenant>(&id)?;
        Ok(TenantState {
            cx,
            id,
            lease,
            tenant,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        posted: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // On the heap for as long as it lasts, as in an inbox.
        Box::pin(state.hear(me, posted.msg)).await;
        Ok(())
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

// === impl TenantState ===

impl TenantState {
    async fn hear(&mut self, me: ActorRef<Posted<TenantMsg>>, msg: TenantMsg) {
        match msg {
            TenantMsg::Register(new, user, reply) => {
                answer(reply, self.register(*new, user).await);
            }
            TenantMsg::OpenSession {
                user,
                refresh_hash,
                expires_at,
                from,
                reply,
            } => {
                answer(
                    reply,
                    self.open_session(user, refresh_hash, expires_at, from)
                        .await,
                );
            }
            TenantMsg::RotateSession {
                session,
                spent,
                fresh,
                expires_at,
                reply,
            } => {
                answer(
                    reply,
                    self.rotate_session(session, spent, fresh, expires_at).await,
                );
            }
            TenantMsg::EndSession(session, reply) => answer(reply, self.end_session(session).await),
            TenantMsg::UpgradePassword(user, hash, reply) => {
                answer(reply, self.upgrade_password(user, hash).await);
            }
            TenantMsg::Suspend(reason, note, reply) => {
                answer(reply, self.suspend(reason, note).await);
            }
            TenantMsg::Resume(reply) => answer(reply, self.resume().await),
            TenantMsg::AddDomain(new, keys, key, reply) => {
                answer(reply, self.add_domain(*new, keys, key).await);
            }
            TenantMsg::Provision(wanted, key, reply) => {
                answer(reply, self.provision(*wanted, key).await);
            }
            TenantMsg::Due(row, reply) => answer(reply, self.due(row).await),
            TenantMsg::Sleep => me.stop(None),
        }
    }

    fn existing(&self) -> Result<&Tenant, Refusal> {
        self.tenant
            .as_ref()
            .ok_or(Refusal::NotFound { what: "tenant" })
    }

    /// The tenant, when it may change anything.
    fn acting(&self) -> Result<&Tenant, Refusal> {
        let tenant = self.existing()?;
        may_act(tenant)?;
        Ok(tenant)
    }

    fn plan(&self, tenant: &Tenant) -> Result<&Plan, Refusal> {
        self.cx.rules.plan(&tenant.plan)
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch
    }

    fn event(&self, kind: EventKind) -> Event {
        Event {
            at: self.cx.now(),
            tenant: Some(self.id),
            kind,
        }
    }

    async fn register(&mut self, new: NewAccount, user: UserId) -> Result<(Tenant, User), Refusal> {
        if self.tenant.is_some() {
            return Err(Refusal::Conflict {
                code: "tenant_exists",
                why: "this account exists".to_owned(),
            });
        }
        let now = self.cx.now();
        let plan = self.cx.rules.first_plan()?;
        let trial_ends_at = plan.trial.map(|trial| now.after(trial));
        let tenant = Tenant {
            id: self.id,
            company: new.company,
            plan: plan.key.clone(),
            status: if trial_ends_at.is_some() {
                TenantStatus::Trial
            } else {
                TenantStatus::Active
            },
            suspension: None,
            time_zone: new.time_zone,
            created_at: now,
            trial_ends_at,
            domains_count: 0,
            inboxes_count: 0,
        };
        let user = User {
            id: user,
            tenant: self.id,
            email: new.email,
            password_hash: new.password_hash,
            role: Role::Owner,
            created_at: self.cx.ports.clock.wall(),
            last_login_at: None,
        };
        let name = ClaimName::UserEmail(user.email.key());
        let mut batch = self.batch();
        batch.put_new(&tenant);
        batch.put_new(&user);
        batch.put_new(&Claim {
            name,
            holder: ClaimHolder::User(self.id, user.id),
        });
        batch.put(&DueRow {
            at: next_look(&tenant, now),
            work: DueWork::Tenant(self.id),
        });
        batch.event(self.event(EventKind::TenantRegistered { user: user.id }));
        self.cx.store.commit(batch).await.map_err(|why| {
            taken(
                why,
                "email_taken",
                "an account with this e-mail address exists".to_owned(),
            )
        })?;
        self.tenant = Some(tenant.clone());
        Ok((tenant, user))
    }

    async fn suspend(&mut self, reason: SuspensionReason, note: String) -> Result<Tenant, Refusal> {
        let mut tenant = self.existing()?.clone();
        if tenant.status == TenantStatus::Suspended {
            return Ok(tenant);
        }
        let former = tenant.status;
        tenant.status = TenantStatus::Suspended;
        tenant.suspension = Some(Suspension {
            reason,
            note: note.clone(),
            since: self.cx.now(),
            former,
        });
        self.change_status(tenant.clone(), Some(reason), note)
            .await?;
        notifier::tell(
            &self.cx,
            Some(self.id),
            NoticeCode::TenantSuspended,
            &tenant.company,
            "the account was suspended; its mail is held",
        );
        Ok(tenant)
    }

    async fn resume(&mut self) -> Result<Tenant, Refusal> {
        let mut tenant = self.existing()?.clone();
        let Some(suspension) = tenant.suspension.take() else {
            return Ok(tenant);
        };
        tenant.status = match suspension.former {
            // An operator who lifts an ended trial means the account to work.
            TenantStatus::Trial if suspension.reason == SuspensionReason::TrialExpired => {
                TenantStatus::Active
            }
            former => former,
        };
        self.change_status(tenant.clone(), None, "resumed".to_owned())
            .await?;
        if let Err(why) = self.cx.outbound.tell(OutboundMsg::Release(self.id)) {
            // An outbound that is just restarting releases what may go anyway.
            tracing::warn!(tenant = %self.id, %why, "held mail is looked at again in hours");
        }
        Ok(tenant)
    }

    async fn change_status(
        &mut self,
        tenant: Tenant,
        reason: Option<SuspensionReason>,
        note: String,
    ) -> Result<(), Refusal> {
        let mut batch = self.batch();
        // Also when the disk is nearly full: that is when somebody may have to be stopped.
        batch.put(&tenant).essential();
        batch.event(self.event(EventKind::TenantStatusChanged {
            status: tenant.status,
            reason,
            note,
        }));
        self.cx.store.commit(batch).await?;
        self.tenant = Some(tenant);
        Ok(())
    }
}

/// Refuses what a suspended or closed account asks for.
pub(crate) fn may_act(tenant: &Tenant) -> Result<(), Refusal> {
    if tenant.status.may_act() {
        return Ok(());
    }
    let why = match &tenant.suspension {
        Some(suspension) => format!(
            "the account is suspended since {}: {}",
            suspension.since, suspension.note
        ),
        None => "the account is closed".to_owned(),
    };
    Err(Refusal::Gated {
        gate: "tenant",
        why,
        lifts_at: None,
    })
}

/// Turns a taken name into the conflict that its asker understands.
pub(crate) fn taken(error: CommitError, code: &'static str, why: String) -> Refusal {
    match error {
        CommitError::Taken { .. } => Refusal::Conflict { code, why },
        other => other.into(),
    }
}
