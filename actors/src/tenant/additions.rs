//! What an account adds: domains, and inboxes by a job. Both count against its plan.

use data_encoding::BASE32_NOPAD;
use inboxgrove_model::{
    DomainId, DomainName, JobId, TenantId,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::{DkimSelector, Domain, DomainStatus},
    due::{DueRow, DueWork},
    event::EventKind,
    job::{Job, JobState, JobStep, JobWork},
    tenant::Tenant,
};

use super::{TenantState, may_act, taken};
use crate::{
    context::Context,
    idempotency,
    platform::{IdempotencyKey, Made, NewDomain, Provision},
    refusal::Refusal,
    rules::Plan,
};

/// Inboxes in one job: an hour of commits at the very most, and a CSV that people can still open.
const PROVISION_MAX: u32 = 1000;

impl TenantState {
    pub(super) async fn add_domain(
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

    pub(super) async fn provision(
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
}

/// Everything that speaks against a new domain and can be read: asked before keys are made for it, and again
/// by the tenant's actor. What the same request made before, if it is a repetition.
pub(super) fn may_add_domain(
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
