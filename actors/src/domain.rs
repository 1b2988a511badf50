//! One actor per sending domain: owns the domain's row, what we believe about its DNS, and the jobs that make
//! inboxes on it.
//!
//! Mailbox: [`Verify`], [`Remove`], [`CancelJob`] from the HTTP layer; [`Due`] from the clock; [`Looked`] from
//! the one task that a look starts, exactly once, also when it panics. Awaits commits and the vault, never the
//! network. Dies only on a broken invariant; a restart reads everything back, and a look that was under way is
//! started again by its due row.
//!
//! [`Verify`]: DomainMsg::Verify
//! [`Remove`]: DomainMsg::Remove
//! [`CancelJob`]: DomainMsg::CancelJob
//! [`Due`]: DomainMsg::Due
//! [`Looked`]: DomainMsg::Looked

mod face;

use std::{sync::Arc, time::Duration};

use inboxgrove_mail::dns;
use inboxgrove_model::{
    DomainId, DomainName, JobId, PolicyTime, TenantId,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::{Check, CheckKind, CheckOutcome, Domain, DomainStatus},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    inbox::{Inbox, InboxStatus},
    job::{Job, JobState},
};
use inboxgrove_store::{Batch, CommitError, Lease, Owner, Scope, records::InboxOfDomain};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::{
    context::{Context, Cx, Reply, answer, pages},
    directory::{self, Address, Letter, Posted},
    notifier::{self, NoticeCode},
    provisioning,
    refusal::Refusal,
};

/// An unproven domain gives its name back after this long (DESIGN §4).
const UNPROVEN_FOR: Duration = Duration::from_hours(168);
/// A look asks some ten names at every authoritative server, 5 s each at most, several at once.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a finished look is told before it is given up, a second apart: nothing is full for so long.
const TELL_TRIES_MAX: usize = 60;
/// What somebody is told to wait when too many looks are under way.
const RETRY_LOOK: Duration = Duration::from_secs(30);
/// People who wait for one look.
const WAITING_MAX: usize = 16;

/// What a domain is asked and told.
pub(crate) enum DomainMsg {
    /// Ask DNS now. From the HTTP layer; answered when the look has ended and is committed.
    Verify(Reply<Domain>),
    /// A look ended; `None` when it was cut off. From the task that it ran in.
    Looked(Option<Vec<Check>>),
    /// Remove the domain. From the HTTP layer.
    Remove(Reply<()>),
    /// Stop a job. From the HTTP layer.
    CancelJob(JobId, Reply<Job>),
    /// The clock says it is time.
    Due(DueRow, Reply<()>),
    /// The directory says good night.
    Sleep,
}

/// The domain's actor.
pub(crate) struct DomainActor;

/// What it keeps in memory.
pub(crate) struct DomainState {
    pub(crate) cx: Cx,
    pub(crate) tenant: TenantId,
    id: DomainId,
    lease: Lease,
    pub(crate) domain: Option<Domain>,
    /// Whether a look is under way, and who waits for it.
    looking: bool,
    waiting: Vec<Reply<Domain>>,
    /// The due row that the look under way was started for.
    due: Option<DueRow>,
}

// === impl Actor for DomainActor ===

impl Actor for DomainActor {
    type Msg = Posted<DomainMsg>;
    type State = DomainState;
    type Arguments = (Cx, TenantId, DomainId);

    async fn pre_start(
        &self,
        _me: ActorRef<Self::Msg>,
        (cx, tenant, id): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Domain(tenant, id)).await?;
        let domain = cx.store.get::<Domain>(&(tenant, id))?;
        Ok(DomainState {
            cx,
            tenant,
            id,
            lease,
            domain,
            looking: false,
            waiting: Vec::new(),
            due: None,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        posted: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match posted.msg {
            DomainMsg::Verify(reply) => state.verify(reply),
            DomainMsg::Looked(checks) => state.looked(checks).await,
            DomainMsg::Remove(reply) => answer(reply, state.remove().await),
            DomainMsg::CancelJob(job, reply) => answer(reply, state.cancel_job(job).await),
            DomainMsg::Due(row, reply) => answer(reply, state.on_due(row).await),
            DomainMsg::Sleep => me.stop(None),
        }
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

// === impl DomainState ===

impl DomainState {
    pub(crate) fn existing(&self) -> Result<&Domain, Refusal> {
        self.domain
            .as_ref()
            .ok_or(Refusal::NotFound { what: "domain" })
    }

    pub(crate) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.by(&self.lease);
        batch
    }

    pub(crate) fn event(&self, kind: EventKind) -> Event {
        Event {
            at: self.cx.now(),
            tenant: Some(self.tenant),
            kind,
        }
    }

    fn verify(&mut self, reply: Reply<Domain>) {
        if let Err(refusal) = self.existing() {
            return answer(reply, Err(refusal));
        }
        if self.waiting.len() >= WAITING_MAX {
            return answer(
                reply,
                Err(Refusal::Busy {
                    what: "this domain",
                    retry_after: Duration::from_secs(5),
                }),
            );
        }
        match self.look() {
            Ok(()) => self.waiting.push(reply),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    async fn on_due(&mut self, row: DueRow) -> Result<(), Refusal> {
        match row.work {
            DueWork::Job(_, _, job) => provisioning::go_on(self, row.at, job).await,
            _ if self
                .domain
                .as_ref()
                .is_some_and(|domain| domain.status != DomainStatus::Expired) =>
            {
                // The row is moved in the commit that ends the look. Until then it stays, as does the work.
                self.due = Some(row);
                self.look()
            }
            _ => {
                let mut batch = self.batch();
                batch.remove::<DueRow>(&(row.at, row.work));
                self.cx.store.commit(batch).await?;
                Ok(())
            }
        }
    }

    /// Starts a look, unless one is under way.
    fn look(&mut self) -> Result<(), Refusal> {
        let Some(domain) = self.domain.clone().filter(|_| !self.looking) else {
            return Ok(());
        };
        let place = Arc::clone(&self.cx.look_queue).try_acquire_owned();
        let place = place.map_err(|_| Refusal::Busy {
            what: "the DNS",
            retry_after: RETRY_LOOK,
        })?;
        self.looking = true;
        let cx = Arc::clone(&self.cx);
        let to = Address::Domain(self.tenant, self.id);
        self.cx.spawn(async move {
            // A permit of a semaphore that is never closed.
            let turn = cx.looks.acquire().await;
            let input = check_input(&cx, &domain);
            let dns = Arc::clone(&cx.ports.dns);
            let look = tokio::spawn(async move {
                tokio::time::timeout(LOOK_TIMEOUT, dns::check_domain(&input, &*dns))
                    .await
                    .ok()
            });
            // A look that panicked has found out nothing.
            let checks = look.await.ok().flatten();
            drop((turn, place));
            // Until it is told the domain takes the look for unfinished, so a full mailbox is tried again.
            for _ in 0..TELL_TRIES_MAX {
                let looked = Letter::Domain(DomainMsg::Looked(checks.clone()));
                match directory::route(&cx, to, looked) {
                    Err(Refusal::Busy { retry_after, .. }) => tokio::time::sleep(retry_after).await,
                    _ => return,
                }
            }
            tracing::error!(domain = %domain.name, "the result of a look was lost");
        });
        Ok(())
    }

    async fn looked(&mut self, checks: Option<Vec<Check>>) {
        self.looking = false;
        let committed = match (checks, self.domain.clone()) {
            (Some(checks), Some(domain)) => self.conclude(domain, checks).await,
            (None, Some(_)) => Err(Refusal::Unavailable {
                why: "DNS did not answer in time".to_owned(),
            }),
            (_, None) => Err(Refusal::NotFound { what: "domain" }),
        };
        for reply in std::mem::take(&mut self.waiting) {
            answer(reply, committed.clone());
        }
    }

    /// Commits what a look found, and when to look again. A name that another account has proven is not
    /// proven here too: that is committed as well, or the look would be made again and again.
    async fn conclude(&mut self, was: Domain, checks: Vec<Check>) -> Result<Domain, Refusal> {
        let now = self.cx.now();
        let found = next_standing(&was, checks, now);
        let newly_proven = was.verified_at.is_none() && found.verified_at.is_some();
        if newly_proven && self.is_claimed_by_another(&found.name)? {
            return self.lose(&was, found).await;
        }
        match self.settle(&was, found.clone()).await? {
            Ok(domain) => Ok(domain),
            // Somebody was quicker between our look and the commit.
            Err(CommitError::Taken { .. }) if newly_proven => self.lose(&was, found).await,
            Err(why) => Err(why.into()),
        }
    }

    /// Commits that the name belongs to somebody else, and says so.
    async fn lose(&mut self, was: &Domain, found: Domain) -> Result<Domain, Refusal> {
        let lost = unproven(was, found, self.cx.now());
        let why = lost.reason.clone();
        self.settle(was, lost).await??;
        Err(Refusal::Conflict {
            code: "domain_claimed",
            why,
        })
    }

    /// Commits a domain's new standing with all that follows from it.
    async fn settle(
        &mut self,
        was: &Domain,
        mut domain: Domain,
    ) -> Result<Result<Domain, CommitError>, Refusal> {
        let now = self.cx.now();
        let mut batch = self.batch();
        if was.verified_at.is_none() && domain.verified_at.is_some() {
            let name = ClaimName::Domain(domain.name.as_str().to_owned());
            batch.put_new(&Claim {
                name,
                holder: ClaimHolder::Domain(self.tenant, self.id),
            });
        }
        if domain.status == DomainStatus::Expired {
            self.give_name_back(&mut batch, &domain.name)?;
        }
        domain.inboxes_count = self.count_inboxes()?;
        batch.put(&domain);
        if domain.status != was.status {
            let (status, reason) = (domain.status, domain.reason.clone());
            batch.event(self.event(EventKind::DomainStatusChanged {
                domain: self.id,
                status,
                reason,
            }));
        }
        if let Some(row) = &self.due {
            batch.remove::<DueRow>(&(row.at, row.work.clone()));
            if domain.status != DomainStatus::Expired {
                let wait = self.cx.rules.checks.every(domain.status);
                batch.put(&DueRow {
                    at: now.after(wait),
                    work: row.work.clone(),
                });
            }
        }
        if let Err(why) = self.cx.store.commit(batch).await {
            return Ok(Err(why));
        }
        self.due = None;
        if domain.status != was.status {
            self.tell_of(&domain);
        }
        self.domain = Some(domain.clone());
        Ok(Ok(domain))
    }

    /// Frees the name within the account, unless a newer row of the same name holds it.
    fn give_name_back(&self, batch: &mut Batch, name: &DomainName) -> Result<(), Refusal> {
        let name = ClaimName::DomainOfTenant(self.tenant, name.as_str().to_owned());
        let claim = self.cx.store.get::<Claim>(&name)?;
        if claim.is_some_and(|claim| claim.holder == ClaimHolder::Domain(self.tenant, self.id)) {
            batch.remove::<Claim>(&name);
        }
        Ok(())
    }

    fn tell_of(&self, domain: &Domain) {
        let code = match domain.status {
            DomainStatus::Active => NoticeCode::DomainVerified,
            DomainStatus::Degraded => NoticeCode::DomainDegraded,
            DomainStatus::Expired => NoticeCode::DomainExpired,
            _ => return,
        };
        notifier::tell(
            &self.cx,
            Some(self.tenant),
            code,
            domain.name.as_str(),
            &domain.reason,
        );
    }

    /// Whether another tenant has proven this name, one above it or one below it.
    fn is_claimed_by_another(&self, name: &DomainName) -> Result<bool, Refusal> {
        let above = name
            .parents()
            .map(|above| ClaimName::Domain(above.as_str().to_owned()));
        let above = above.map(|above| self.cx.store.get::<Claim>(&above));
        let above = above.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        let mut claims = above.chain(self.cx.store.claims_within(name)?);
        Ok(claims.any(|claim| claim.holder.tenant() != self.tenant))
    }

    fn count_inboxes(&self) -> Result<u32, Refusal> {
        let mut count = 0;
        for entry in pages::<InboxOfDomain>(&self.cx, &Scope::Domain(self.tenant, self.id)) {
            let inbox = self.cx.store.get::<Inbox>(&(self.tenant, entry?.inbox))?;
            if inbox.is_some_and(|inbox| inbox.status != InboxStatus::Deleted) {
                count += 1;
            }
        }
        Ok(count)
    }

    async fn remove(&mut self) -> Result<(), Refusal> {
        let domain = self.existing()?.clone();
        let inboxes = self.count_inboxes()?;
        if inboxes > 0 {
            let why = format!("{} has {inboxes} inboxes; delete them first", domain.name);
            return Err(Refusal::Conflict {
                code: "domain_in_use",
                why,
            });
        }
        let mut batch = self.batch();
        batch.remove::<Domain>(&(self.tenant, self.id));
        self.give_name_back(&mut batch, &domain.name)?;
        if domain.verified_at.is_some() {
            batch.remove::<Claim>(&ClaimName::Domain(domain.name.as_str().to_owned()));
        }
        batch.event(self.event(EventKind::DomainRemoved { domain: self.id }));
        // The tenant counts its rows again.
        batch.put(&DueRow {
            at: self.cx.now(),
            work: DueWork::Tenant(self.tenant),
        });
        self.cx.store.commit(batch).await?;
        let secrets = domain
            .selectors
            .iter()
            .map(|selector| selector.secret)
            .collect();
        crate::vault::forget(&self.cx, self.tenant, secrets);
        self.domain = None;
        Ok(())
    }

    async fn cancel_job(&mut self, job: JobId) -> Result<Job, Refusal> {
        let mut job = self
            .cx
            .store
            .get::<Job>(&(self.tenant, job))?
            .ok_or(Refusal::NotFound { what: "job" })?;
        if !matches!(job.state, JobState::Pending | JobState::Running) {
            return Ok(job);
        }
        job.state = JobState::Cancelled;
        job.changed_at = self.cx.now();
        let mut batch = self.batch();
        batch.put(&job);
        batch.event(self.event(provisioning::changed(&job)));
        batch.put(&DueRow {
            at: self.cx.now(),
            work: DueWork::Tenant(self.tenant),
        });
        self.cx.store.commit(batch).await?;
        Ok(job)
    }
}

/// The whole policy of a domain's standing, pure. An outage changes nothing; a sure failure of a required
/// record degrades; only a look that passes everything required proves or restores.
fn next_standing(was: &Domain, checks: Vec<Check>, now: PolicyTime) -> Domain {
    let mut domain = was.clone();
    domain.checks = checks;
    domain.checked_at = Some(now);
    let required: Vec<_> = domain
        .checks
        .iter()
        .filter(|check| is_required(&check.kind))
        .collect();
    let failed = required
        .iter()
        .find(|check| check.outcome == CheckOutcome::Fail);
    let unknown = required
        .iter()
        .find(|check| check.outcome == CheckOutcome::Unknown);
    let (status, reason) = match (was.status, failed, unknown) {
        (DomainStatus::PendingDns, None, None) => (
            DomainStatus::Active,
            "all required records are published".to_owned(),
        ),
        (DomainStatus::PendingDns, _, _) if now.since(was.created_at) >= UNPROVEN_FOR => (
            DomainStatus::Expired,
            "its records were not published within 7 days".to_owned(),
        ),
        (DomainStatus::Degraded, None, None) => (
            DomainStatus::Active,
            "all required records are published again".to_owned(),
        ),
        (DomainStatus::Active | DomainStatus::Degraded, Some(check), _) => (
            DomainStatus::Degraded,
            format!("{} {}: {}", check.kind, check.subject, check.fix),
        ),
        (DomainStatus::PendingDns, Some(check), _) => (
            DomainStatus::PendingDns,
            format!("{} {}: {}", check.kind, check.subject, check.fix),
        ),
        (status, _, _) => (status, was.reason.clone()),
    };
    if status == DomainStatus::Active && domain.verified_at.is_none() {
        domain.verified_at = Some(now);
    }
    domain.status = status;
    domain.reason = reason;
    domain
}

/// The standing of a domain whose records are right but whose name another account has proven.
fn unproven(was: &Domain, found: Domain, now: PolicyTime) -> Domain {
    let (status, reason) = if now.since(was.created_at) >= UNPROVEN_FOR {
        (
            DomainStatus::Expired,
            format!(
                "another account has proven {}, or a name above or below it, and 7 days have passed",
                was.name
            ),
        )
    } else {
        (
            DomainStatus::PendingDns,
            format!(
                "another account has proven {}, or a name above or below it",
                was.name
            ),
        )
    };
    Domain {
        status,
        reason,
        verified_at: None,
        ..found
    }
}

/// What mail waits for: proof of ownership, a way for replies to come back, and both authentications.
fn is_required(kind: &CheckKind) -> bool {
    matches!(
        kind,
        CheckKind::Ownership | CheckKind::Mx | CheckKind::Spf | CheckKind::Dkim(_)
    )
}

fn check_input(cx: &Context, domain: &Domain) -> dns::CheckInput {
    dns::CheckInput {
        wanted: wanted(cx, domain),
        before: domain.checks.clone(),
        at: cx.now(),
        allow_private: cx.rules.outbound.allow_private,
    }
}

/// What the domain should publish.
fn wanted(cx: &Context, domain: &Domain) -> dns::Wanted {
    dns::Wanted {
        domain: domain.name.clone(),
        ownership_token: domain.ownership_token.clone(),
        mail_hosts: mail_hosts(cx, domain),
        selectors: domain.selectors.clone(),
        sources: cx
            .rules
            .sources
            .iter()
            // Chosen by the system: nobody can publish it.
            .filter(|source| !source.address.is_unspecified())
            .map(|source| dns::Source {
                address: source.address,
                ehlo_name: source.ehlo_name.to_string(),
            })
            .collect(),
        dmarc_reports: None,
    }
}

fn mail_hosts(cx: &Context, domain: &Domain) -> Vec<String> {
    if domain.mail_hosts.is_empty() {
        vec![cx.rules.hostname.clone()]
    } else {
        domain.mail_hosts.clone()
    }
}

#[cfg(test)]
mod tests;
