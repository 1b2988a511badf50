//! One actor per account: owns the tenant's row, its users and its log-ins.
//!
//! Mailbox: requests of the HTTP layer and of operators (through [`Platform`]), [`Due`] from the clock.
//! Awaits nothing but commits. Dies only on a broken invariant; a restart reads everything back. New domains
//! and jobs are *created* here, because they count against the plan; once committed they belong to their own
//! actors.
//!
//! [`Due`]: TenantMsg::Due

mod face;

use std::{net::IpAddr, time::Duration};

use data_encoding::BASE32_NOPAD;
use inboxgrove_model::{
    DomainId, DomainName, JobId, PolicyTime, SessionId, TenantId, UserId, WallTime,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::{DkimSelector, Domain, DomainStatus},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    idempotency::IdempotentAnswer,
    job::{Job, JobState, JobStep, JobWork},
    tenant::{Role, Session, Suspension, SuspensionReason, Tenant, TenantStatus, User},
};
use inboxgrove_store::{Batch, CommitError, Lease, Owner, Scope};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use secrecy::SecretString;

use crate::{
    context::{Context, Cx, Reply, answer},
    directory::Posted,
    idempotency,
    notifier::{self, NoticeCode},
    outbound::OutboundMsg,
    platform::{IdempotencyKey, Made, NewAccount, NewDomain, Provision},
    refusal::Refusal,
    rules::Plan,
};

/// Inboxes in one job: an hour of commits at the very most, and a CSV that people can still open.
pub const PROVISION_MAX: u32 = 1000;
/// Milliseconds of a day: an account's counts are compared with its rows once in each.
const DAY_MILLIS: i64 = 86_400_000;
/// Rows of a kind forgotten in one clean-up: a commit holds 10,000 rows at most.
const FORGET_MAX: usize = 2000;
/// When a clean-up was full, the next one comes after this.
const FORGET_AGAIN: Duration = Duration::from_mins(1);
/// A log-in that was ended stays this long, for who wants to know why.
const REVOKED_KEPT: Duration = Duration::from_hours(7 * 24);
/// A refresh token that was exchanged may come once more within this time: its answer may have been lost, or
/// two windows of one browser asked at once. Later it is a copy.
const EXCHANGE_AGAIN: Duration = Duration::from_secs(10);
/// Longest log-in, however often its token is exchanged.
const SESSION_LONGEST: Duration = Duration::from_hours(90 * 24);
/// An unproven domain gives its name back after this long (DESIGN §4).
pub(crate) const UNPROVEN_FOR: Duration = Duration::from_hours(168);

const BAD_REFRESH: Refusal = Refusal::Unauthenticated {
    why: "this refresh token is not good",
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

/// What a refresh token is to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    /// The one that is good, or the one before it within the time in which that is no harm.
    Good,
    /// The one before, too late: somebody has a copy.
    Reused,
    /// Never issued, or long ago: no reason to end the log-in, or anybody could.
    Foreign,
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

    async fn open_session(
        &self,
        user: UserId,
        refresh_hash: [u8; 32],
        expires_at: WallTime,
        from: Option<IpAddr>,
    ) -> Result<Session, Refusal> {
        let mut user = self
            .cx
            .store
            .get::<User>(&(self.id, user))?
            .ok_or(Refusal::NotFound { what: "user" })?;
        let now = self.cx.ports.clock.wall();
        user.last_login_at = Some(now);
        let session = Session {
            id: SessionId::from_bytes(self.cx.new_id()),
            tenant: self.id,
            user: user.id,
            refresh_hash,
            previous_hash: None,
            rotated_at: None,
            expires_at: expires_at.min(now.after(SESSION_LONGEST)),
            created_at: now,
            revoked_at: None,
        };
        let mut batch = self.batch();
        batch.put(&user);
        batch.put_new(&session);
        batch.event(self.event(EventKind::UserLoggedIn {
            user: user.id,
            from,
        }));
        self.cx.store.commit(batch).await?;
        Ok(session)
    }

    async fn rotate_session(
        &self,
        session: SessionId,
        spent: [u8; 32],
        fresh: [u8; 32],
        expires_at: WallTime,
    ) -> Result<Session, Refusal> {
        let mut session = live_session(&self.cx, self.id, session)?;
        let now = self.cx.ports.clock.wall();
        let mut batch = self.batch();
        match refresh_of(&session, &spent, now) {
            Refresh::Foreign => Err(BAD_REFRESH),
            Refresh::Reused => {
                // Somebody holds a token that was exchanged before: either of the two is a thief.
                session.revoked_at = Some(now);
                batch.event(self.event(EventKind::RefreshReused { user: session.user }));
                batch.put(&session).essential();
                self.cx.store.commit(batch).await?;
                Err(BAD_REFRESH)
            }
            Refresh::Good => {
                session.previous_hash = Some(session.refresh_hash);
                session.rotated_at = Some(now);
                session.refresh_hash = fresh;
                session.expires_at = expires_at.min(session.created_at.after(SESSION_LONGEST));
                batch.put(&session);
                self.cx.store.commit(batch).await?;
                Ok(session)
            }
        }
    }

    async fn end_session(&self, session: SessionId) -> Result<(), Refusal> {
        let Some(mut session) = self.cx.store.get::<Session>(&(self.id, session))? else {
            return Ok(());
        };
        session.revoked_at = Some(self.cx.ports.clock.wall());
        let mut batch = self.batch();
        batch.put(&session);
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    async fn upgrade_password(&self, user: UserId, hash: SecretString) -> Result<(), Refusal> {
        let mut user = self
            .cx
            .store
            .get::<User>(&(self.id, user))?
            .ok_or(Refusal::NotFound { what: "user" })?;
        user.password_hash = hash;
        let mut batch = self.batch();
        batch.put(&user);
        self.cx.store.commit(batch).await?;
        Ok(())
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

    async fn add_domain(
        &mut self,
        new: NewDomain,
        selectors: Vec<DkimSelector>,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Domain>, Refusal> {
        let mut tenant = self.acting()?.clone();
        if let Some(before) = may_add_domain(&self.cx, &tenant, &new, key)? {
            return Ok(before);
        }
        let now = self.cx.now();
        let domain = Domain {
            id: DomainId::from_bytes(self.cx.new_id()),
            tenant: self.id,
            name: new.name,
            status: DomainStatus::PendingDns,
            reason: "waits for its DNS records to be published".to_owned(),
            selectors,
            ownership_token: self.ownership_token(),
            mail_hosts: new.mail_hosts,
            checks: Vec::new(),
            created_at: now,
            verified_at: None,
            checked_at: None,
            inboxes_count: 0,
        };
        tenant.domains_count += 1;
        let name = ClaimName::DomainOfTenant(self.id, domain.name.as_str().to_owned());
        let mut batch = self.batch();
        batch.put(&tenant);
        batch.put_new(&domain);
        batch.put_new(&Claim {
            name,
            holder: ClaimHolder::Domain(self.id, domain.id),
        });
        batch.put(&DueRow {
            at: now.after(self.cx.rules.checks.pending_every),
            work: DueWork::CheckDomain(self.id, domain.id),
        });
        batch.event(self.event(EventKind::DomainAdded { domain: domain.id }));
        idempotency::remember(&self.cx, &mut batch, self.id, key, 201, &domain.id);
        self.cx
            .store
            .commit(batch)
            .await
            .map_err(|why| taken(why, "domain_exists", exists_already(&domain.name)))?;
        self.tenant = Some(tenant);
        Ok(Made {
            value: domain,
            replayed: false,
        })
    }

    fn ownership_token(&self) -> String {
        let mut bytes = [0; 20];
        self.cx.ports.rng.fill(&mut bytes);
        format!(
            "inboxgrove-verification={}",
            BASE32_NOPAD.encode(&bytes).to_lowercase()
        )
    }

    async fn provision(
        &mut self,
        wanted: Provision,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Job>, Refusal> {
        let mut tenant = self.acting()?.clone();
        if let Some(made) = idempotency::seen::<JobId>(&self.cx, self.id, key)? {
            return idempotency::replay(self.cx.store.get::<Job>(&(self.id, made))?);
        }
        if !(1..=PROVISION_MAX).contains(&wanted.count) {
            let why = format!("expected 1 to {PROVISION_MAX}, found {}", wanted.count);
            return Err(Refusal::Invalid {
                field: "count",
                why,
            });
        }
        let domain = self
            .cx
            .store
            .get::<Domain>(&(self.id, wanted.domain))?
            .ok_or(Refusal::NotFound { what: "domain" })?;
        let plan = self.plan(&tenant)?;
        within_plan(
            plan,
            "inboxes",
            plan.inboxes_max,
            tenant.inboxes_count,
            wanted.count,
        )?;
        let daily_limit = wanted
            .daily_limit
            .unwrap_or(plan.inbox_day)
            .min(plan.inbox_day);
        let time_zone = wanted
            .time_zone
            .clone()
            .unwrap_or_else(|| tenant.time_zone.clone());
        let job = self.provision_job(&wanted, domain.id, daily_limit, time_zone);
        tenant.inboxes_count += wanted.count;
        let mut batch = self.batch();
        batch.put(&tenant);
        batch.put_new(&job);
        batch.put(&DueRow {
            at: self.cx.now(),
            work: DueWork::Job(self.id, domain.id, job.id),
        });
        batch.event(self.event(EventKind::JobChanged {
            job: job.id,
            done: 0,
            total: wanted.count,
            state: job.state,
        }));
        idempotency::remember(&self.cx, &mut batch, self.id, key, 202, &job.id);
        self.cx.store.commit(batch).await?;
        self.tenant = Some(tenant);
        Ok(Made {
            value: job,
            replayed: false,
        })
    }

    fn provision_job(
        &self,
        wanted: &Provision,
        domain: DomainId,
        daily_limit: u32,
        time_zone: String,
    ) -> Job {
        let now = self.cx.now();
        Job {
            id: JobId::from_bytes(self.cx.new_id()),
            tenant: self.id,
            work: JobWork::Provision {
                domain,
                count: wanted.count,
                naming: wanted.naming,
                start_warmup: wanted.start_warmup,
                time_zone,
                daily_limit,
            },
            state: JobState::Pending,
            steps: vec![JobStep {
                name: "create inboxes".to_owned(),
                done: 0,
                total: wanted.count,
            }],
            errors: Vec::new(),
            created_at: now,
            changed_at: now,
        }
    }

    /// Ends a trial whose time is up, and compares the counts with the rows.
    async fn due(&mut self, row: DueRow) -> Result<(), Refusal> {
        let Some(tenant) = self.tenant.clone() else {
            let mut batch = self.batch();
            batch.remove::<DueRow>(&(row.at, row.work));
            self.cx.store.commit(batch).await?;
            return Ok(());
        };
        let now = self.cx.now();
        if tenant.status == TenantStatus::Trial && tenant.trial_ends_at.is_some_and(|at| at <= now)
        {
            self.suspend(
                SuspensionReason::TrialExpired,
                "the trial has ended".to_owned(),
            )
            .await?;
        }
        let mut tenant = self.existing()?.clone();
        (tenant.domains_count, tenant.inboxes_count) = self.count()?;
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work));
        // Also after a recount out of turn: the row is there already then, under the same key.
        batch.put(&DueRow {
            at: next_look(&tenant, now),
            work: DueWork::Tenant(self.id),
        });
        batch.put(&tenant);
        self.cx.store.commit(batch).await?;
        self.tenant = Some(tenant);
        self.forget_expired().await
    }

    /// Log-ins and idempotency keys whose time is over.
    async fn forget_expired(&self) -> Result<(), Refusal> {
        let now = self.cx.ports.clock.wall();
        let sessions = first_of(
            pages::<Session>(&self.cx, &Scope::Tenant(self.id)),
            |session| is_over(session, now),
        )?;
        let answers = first_of(
            pages::<IdempotentAnswer>(&self.cx, &Scope::Tenant(self.id)),
            |answer| answer.expires_at <= now,
        )?;
        if sessions.is_empty() && answers.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch();
        for session in &sessions {
            batch.remove::<Session>(&(self.id, session.id));
        }
        for answer in &answers {
            batch.remove::<IdempotentAnswer>(&(self.id, answer.key));
        }
        if sessions.len() == FORGET_MAX || answers.len() == FORGET_MAX {
            batch.put(&DueRow {
                at: self.cx.now().after(FORGET_AGAIN),
                work: DueWork::Tenant(self.id),
            });
        }
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    /// Domains and inboxes by their rows. What jobs have still to make is counted as made: before the inboxes,
    /// so that what a job makes in between is counted twice rather than not at all, and no plan is exceeded.
    fn count(&self) -> Result<(u32, u32), Refusal> {
        let (mut domains, mut inboxes) = (0, 0);
        for job in pages::<Job>(&self.cx, &Scope::Tenant(self.id)) {
            let job = job?;
            if matches!(job.state, JobState::Pending | JobState::Running) {
                inboxes += job
                    .steps
                    .iter()
                    .map(|step| step.total - step.done)
                    .sum::<u32>();
            }
        }
        for domain in pages::<Domain>(&self.cx, &Scope::Tenant(self.id)) {
            domain?;
            domains += 1;
        }
        for inbox in pages::<inboxgrove_model::inbox::Inbox>(&self.cx, &Scope::Tenant(self.id)) {
            if inbox?.status != inboxgrove_model::inbox::InboxStatus::Deleted {
                inboxes += 1;
            }
        }
        Ok((domains, inboxes))
    }
}

/// All rows of a scope, page by page, so that memory holds one page at a time.
pub(crate) fn pages<'a, R: inboxgrove_store::Record>(
    cx: &'a Context,
    scope: &'a Scope,
) -> impl Iterator<Item = Result<R, Refusal>> + 'a {
    let mut after: Option<Vec<u8>> = None;
    let mut ended = false;
    let mut rows = Vec::new().into_iter();
    std::iter::from_fn(move || {
        loop {
            if let Some(row) = rows.next() {
                return Some(Ok(row));
            }
            if ended {
                return None;
            }
            match cx
                .store
                .page::<R>(scope, after.as_deref(), inboxgrove_model::limits::PAGE_MAX)
            {
                Ok(page) => {
                    ended = page.next.is_none();
                    after = page.next;
                    rows = page.items.into_iter();
                }
                Err(why) => {
                    ended = true;
                    return Some(Err(why.into()));
                }
            }
        }
    })
}

/// The first rows that are meant, [`FORGET_MAX`] at most.
fn first_of<R>(
    rows: impl Iterator<Item = Result<R, Refusal>>,
    is_meant: impl Fn(&R) -> bool,
) -> Result<Vec<R>, Refusal> {
    rows.filter(|row| row.as_ref().map_or(true, &is_meant))
        .take(FORGET_MAX)
        .collect()
}

/// When an account is next looked at: once a UTC day at a time of its own, and when its trial ends. It follows
/// from the account and the day alone, so that a look out of turn comes to the same due row.
fn next_look(tenant: &Tenant, now: PolicyTime) -> PolicyTime {
    let seed = u64::from_be_bytes(
        *tenant
            .id
            .as_bytes()
            .last_chunk()
            .expect("an id has 16 bytes"),
    );
    let own_time = (seed % DAY_MILLIS.unsigned_abs()).cast_signed();
    let daily = PolicyTime::from_millis((now.utc_day() + 1) * DAY_MILLIS + own_time);
    match tenant.trial_ends_at {
        Some(ends_at) if tenant.status == TenantStatus::Trial && ends_at > now => {
            daily.min(ends_at)
        }
        _ => daily,
    }
}

/// Whether a log-in may be forgotten.
fn is_over(session: &Session, now: WallTime) -> bool {
    session.expires_at <= now
        || session
            .revoked_at
            .is_some_and(|at| at.after(REVOKED_KEPT) <= now)
}

/// What a refresh token that hashes to `spent` is to a live session.
fn refresh_of(session: &Session, spent: &[u8; 32], now: WallTime) -> Refresh {
    if session.refresh_hash == *spent {
        return Refresh::Good;
    }
    if session.previous_hash != Some(*spent) {
        return Refresh::Foreign;
    }
    match session.rotated_at {
        Some(at) if now <= at.after(EXCHANGE_AGAIN) => Refresh::Good,
        _ => Refresh::Reused,
    }
}

/// A session that is neither ended nor over.
fn live_session(cx: &Context, tenant: TenantId, id: SessionId) -> Result<Session, Refusal> {
    let now = cx.ports.clock.wall();
    let session = cx.store.get::<Session>(&(tenant, id))?;
    session
        .filter(|session| {
            session.revoked_at.is_none()
                && session.expires_at > now
                && session.created_at.after(SESSION_LONGEST) > now
        })
        .ok_or(BAD_REFRESH)
}

/// Everything that speaks against a new domain and can be read: asked before keys are made for it, and again
/// by the tenant's actor. What the same request made before, if it is a repetition.
fn may_add_domain(
    cx: &Context,
    tenant: &Tenant,
    new: &NewDomain,
    key: Option<IdempotencyKey>,
) -> Result<Option<Made<Domain>>, Refusal> {
    may_act(tenant)?;
    if let Some(made) = idempotency::seen::<DomainId>(cx, tenant.id, key)? {
        return idempotency::replay(cx.store.get::<Domain>(&(tenant.id, made))?).map(Some);
    }
    let plan = cx.rules.plan(&tenant.plan)?;
    within_plan(plan, "domains", plan.domains_max, tenant.domains_count, 1)?;
    not_within_anothers(cx, tenant.id, &new.name)?;
    let name = ClaimName::DomainOfTenant(tenant.id, new.name.as_str().to_owned());
    if cx.store.get::<Claim>(&name)?.is_some() {
        return Err(Refusal::Conflict {
            code: "domain_exists",
            why: exists_already(&new.name),
        });
    }
    Ok(None)
}

fn exists_already(name: &DomainName) -> String {
    format!("the domain {name} has been added already")
}

/// A proven domain bars other tenants from its name and from all names above and below it that are proven;
/// names below it are asked about when this one is to be proven (`domain.rs`).
fn not_within_anothers(cx: &Context, tenant: TenantId, new: &DomainName) -> Result<(), Refusal> {
    for name in std::iter::once(new.clone()).chain(new.parents()) {
        let claim = cx
            .store
            .get::<Claim>(&ClaimName::Domain(name.as_str().to_owned()))?;
        if claim.is_some_and(|claim| claim.holder.tenant() != tenant) {
            return Err(Refusal::Conflict {
                code: "domain_claimed",
                why: format!("{new} belongs to another account, which has proven {name}"),
            });
        }
    }
    Ok(())
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

fn within_plan(
    plan: &Plan,
    what: &'static str,
    limit: u32,
    used: u32,
    more: u32,
) -> Result<(), Refusal> {
    if used.saturating_add(more) > limit {
        return Err(Refusal::PlanLimit {
            plan: plan.key.clone(),
            what,
            limit,
            used,
        });
    }
    Ok(())
}

/// Turns a taken name into the conflict that its asker understands.
pub(crate) fn taken(error: CommitError, code: &'static str, why: String) -> Refusal {
    match error {
        CommitError::Taken { .. } => Refusal::Conflict { code, why },
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime::from_millis(1_000_000_000);

    fn session() -> Session {
        Session {
            id: SessionId::from_bytes([1; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            user: UserId::from_bytes([3; 16]),
            refresh_hash: [2; 32],
            previous_hash: Some([1; 32]),
            rotated_at: Some(NOW),
            expires_at: NOW.after(Duration::from_hours(24)),
            created_at: NOW,
            revoked_at: None,
        }
    }

    #[test]
    fn only_a_token_that_was_issued_and_exchanged_long_ago_is_a_copy() {
        let soon = NOW.after(EXCHANGE_AGAIN);
        let late = NOW.after(EXCHANGE_AGAIN + Duration::from_millis(1));
        for (spent, at, expected) in [
            ([2; 32], NOW, Refresh::Good),
            ([2; 32], late, Refresh::Good),
            ([1; 32], soon, Refresh::Good),
            ([1; 32], late, Refresh::Reused),
            ([9; 32], soon, Refresh::Foreign),
            ([9; 32], late, Refresh::Foreign),
        ] {
            assert_eq!(refresh_of(&session(), &spent, at), expected, "{spent:?}");
        }
        let first = Session {
            previous_hash: None,
            rotated_at: None,
            ..session()
        };
        assert_eq!(refresh_of(&first, &[1; 32], late), Refresh::Foreign);
    }

    #[test]
    fn log_ins_are_forgotten_when_over_or_ended_a_week_ago() {
        let ended = |at| Session {
            revoked_at: Some(at),
            ..session()
        };
        assert!(!is_over(&session(), NOW));
        assert!(is_over(&session(), session().expires_at));
        assert!(!is_over(&ended(NOW), NOW));
        assert!(is_over(&ended(NOW.before(REVOKED_KEPT)), NOW));
    }

    fn tenant(last_byte: u8) -> Tenant {
        let mut id = [7; 16];
        id[15] = last_byte;
        Tenant {
            id: TenantId::from_bytes(id),
            company: "Acme".into(),
            plan: "trial".into(),
            status: TenantStatus::Active,
            suspension: None,
            time_zone: "UTC".into(),
            created_at: PolicyTime::from_millis(0),
            trial_ends_at: None,
            domains_count: 0,
            inboxes_count: 0,
        }
    }

    #[test]
    fn looks_out_of_turn_come_to_the_same_due_row() {
        for last_byte in 0..=255 {
            let tenant = tenant(last_byte);
            let mut row = next_look(&tenant, PolicyTime::from_millis(12_345));
            for _ in 0..5 {
                let after = next_look(&tenant, row);
                let out_of_turn = row.after(Duration::from_mins(1));
                assert!(after > row);
                if out_of_turn.utc_day() == row.utc_day() {
                    assert_eq!(next_look(&tenant, out_of_turn), after);
                }
                row = after;
            }
        }
    }

    #[test]
    fn a_trials_end_is_not_missed() {
        let now = PolicyTime::from_millis(12_345);
        let ends_at = now.after(Duration::from_mins(3));
        let trial = Tenant {
            status: TenantStatus::Trial,
            trial_ends_at: Some(ends_at),
            ..tenant(1)
        };
        assert_eq!(next_look(&trial, now), ends_at);
        assert!(next_look(&trial, ends_at) > ends_at);
    }

    #[test]
    fn of_many_rows_only_the_expired_count_against_the_limit() {
        let rows = (0..10_000).map(Ok::<u32, Refusal>);
        let found = first_of(rows, |row| *row >= 9_990).expect("all are read");
        assert_eq!(found.len(), 10);
        let many = first_of((0..10_000).map(Ok::<u32, Refusal>), |_| true).expect("all are read");
        assert_eq!(many.len(), FORGET_MAX);
    }
}
