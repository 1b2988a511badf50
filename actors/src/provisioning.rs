//! Jobs that make inboxes: done by the domain's actor, a chunk a wake-up, so that a restart goes on where it
//! stopped and nobody waits behind a thousand commits.

use inboxgrove_model::{
    InboxId, JobId, PolicyTime, SecretId,
    claim::{Claim, ClaimHolder, ClaimName},
    due::{DueRow, DueWork},
    event::EventKind,
    inbox::{Band, Credential, Inbox, InboxStatus, Warmup, WarmupState},
    job::{Job, JobState, JobWork, Naming},
};
use inboxgrove_store::{CommitError, records::InboxOfDomain};

use crate::{
    context::Context,
    domain::DomainState,
    naming::{self, Name},
    refusal::Refusal,
    vault::{self, VaultMsg},
};

/// Inboxes made in one commit: some hundred row writes, a few milliseconds.
const CHUNK: u32 = 25;
/// Names tried before a job gives up on one.
const NAME_TRIES: u32 = 1000;
/// Errors that a job keeps.
const ERRORS_MAX: usize = 20;

/// Does the next part of a job. The due row is moved or removed in the same commit.
pub(crate) async fn go_on(
    domain: &mut DomainState,
    due_at: PolicyTime,
    job: JobId,
) -> Result<(), Refusal> {
    let Some(mut job) = domain.cx.store.get::<Job>(&(domain.tenant, job))? else {
        return Err(Refusal::NotFound { what: "job" });
    };
    let row = DueRow {
        at: due_at,
        work: DueWork::Job(domain.tenant, domain_of(&job), job.id),
    };
    if !matches!(job.state, JobState::Pending | JobState::Running) {
        let mut batch = domain.batch();
        batch.remove::<DueRow>(&(row.at, row.work));
        domain.cx.store.commit(batch).await?;
        return Ok(());
    }
    match make_chunk(domain, &mut job, &row).await {
        Err(
            refusal @ (Refusal::NotFound { .. }
            | Refusal::Conflict { .. }
            | Refusal::Invalid { .. }),
        ) => fail(domain, job, row, &refusal).await,
        result => result,
    }
}

/// What the world hears of a job.
pub(crate) fn changed(job: &Job) -> EventKind {
    let (done, total) = job.steps.iter().fold((0, 0), |(done, total), step| {
        (done + step.done, total + step.total)
    });
    EventKind::JobChanged {
        job: job.id,
        done,
        total,
        state: job.state,
    }
}

fn domain_of(job: &Job) -> inboxgrove_model::DomainId {
    let JobWork::Provision { domain, .. } = job.work;
    domain
}

async fn make_chunk(state: &mut DomainState, job: &mut Job, row: &DueRow) -> Result<(), Refusal> {
    let JobWork::Provision {
        naming,
        start_warmup,
        ref time_zone,
        daily_limit,
        ..
    } = job.work;
    let tenant = state
        .cx
        .store
        .existing::<inboxgrove_model::tenant::Tenant>(&state.tenant)?;
    let hourly_limit = state.cx.rules.plan(&tenant.plan)?.hourly_limit(daily_limit);
    let wanted = Wanted {
        start_warmup,
        time_zone: time_zone.clone(),
        daily_limit,
        hourly_limit,
    };
    let mut domain = state.existing()?.clone();
    let step = job.steps.first_mut().ok_or(Refusal::Damaged {
        why: format!("job {} has no step", job.id),
    })?;
    let n = (step.total - step.done).min(CHUNK);
    let names = free_names(state, naming, n)?;
    let passwords = state
        .cx
        .vault
        .ask(|reply| VaultMsg::MakePasswords(state.tenant, n as usize, reply))
        .await?;
    step.done += n;
    let finished = step.done == step.total;
    job.state = if finished {
        JobState::Done
    } else {
        JobState::Running
    };
    job.changed_at = state.cx.now();
    domain.inboxes_count += n;

    let mut batch = state.batch();
    for (name, secret) in names.iter().zip(&passwords) {
        let inbox = new_inbox(&state.cx, &domain, name, *secret, &wanted);
        batch.put_new(&inbox);
        let holder = ClaimHolder::Inbox(inbox.tenant, inbox.domain, inbox.id);
        batch.put_new(&Claim {
            name: ClaimName::Address(inbox.address.key()),
            holder,
        });
        batch.put_new(&InboxOfDomain {
            tenant: inbox.tenant,
            domain: inbox.domain,
            inbox: inbox.id,
            address: inbox.address.clone(),
        });
        if wanted.start_warmup {
            batch.put(&DueRow {
                at: state.cx.now(),
                work: DueWork::Warmup(inbox.tenant, inbox.id),
            });
            batch.put(&crate::inbox::pool_member(&inbox));
        }
        batch.event(state.event(EventKind::InboxCreated { inbox: inbox.id }));
    }
    batch.put(&domain);
    batch.put(&*job);
    batch.event(state.event(changed(job)));
    batch.remove::<DueRow>(&(row.at, row.work.clone()));
    if !finished {
        batch.put(&DueRow {
            at: state.cx.now().after(std::time::Duration::from_millis(1)),
            work: row.work.clone(),
        });
    }
    let committed = state.cx.store.commit(batch).await;
    if let Err(why) = committed {
        // Nothing of the chunk happened; its passwords have no inbox. The clock offers the row again.
        vault::forget(&state.cx, state.tenant, passwords);
        return Err(match why {
            // Somebody took one of the names between our look and the commit: other names next time.
            CommitError::Taken { .. } => Refusal::Busy {
                what: "the name pool",
                retry_after: crate::refusal::RETRY_BUSY,
            },
            why => why.into(),
        });
    }
    state.domain = Some(domain);
    Ok(())
}

struct Wanted {
    start_warmup: bool,
    time_zone: String,
    daily_limit: u32,
    hourly_limit: u32,
}

fn new_inbox(
    cx: &Context,
    domain: &inboxgrove_model::domain::Domain,
    name: &Name,
    secret: SecretId,
    wanted: &Wanted,
) -> Inbox {
    let now = cx.now();
    let ramp = &cx.rules.warmup;
    Inbox {
        id: InboxId::from_bytes(cx.new_id()),
        tenant: domain.tenant,
        domain: domain.id,
        address: name.address.clone(),
        display_name: name.display.clone(),
        status: if wanted.start_warmup {
            InboxStatus::Warming
        } else {
            InboxStatus::Pending
        },
        reason: if wanted.start_warmup {
            "warming up".to_owned()
        } else {
            "warmup is not started".to_owned()
        },
        daily_limit: wanted.daily_limit,
        hourly_limit: wanted.hourly_limit,
        time_zone: wanted.time_zone.clone(),
        credential: Credential {
            secret,
            shown: false,
            rotated_at: now,
        },
        warmup: Warmup {
            state: if wanted.start_warmup {
                WarmupState::Running
            } else {
                WarmupState::Off
            },
            started_at: wanted.start_warmup.then_some(now),
            active_days: 0,
            base: ramp.base,
            increment: ramp.increment,
            cap: ramp.cap,
            seed: cx.ports.rng.next_u64(),
            today: None,
            band: Band::Healthy,
            band_since: now,
        },
        wake_at: wanted.start_warmup.then_some(now),
        partners: Vec::new(),
        created_at: now,
    }
}

/// Names that nobody has yet. The commit makes sure of it; this only avoids most conflicts.
fn free_names(state: &DomainState, naming: Naming, n: u32) -> Result<Vec<Name>, Refusal> {
    let domain = state.existing()?;
    let mut names: Vec<Name> = Vec::with_capacity(n as usize);
    let mut tries = 0;
    let mut number = domain.inboxes_count;
    while names.len() < n as usize {
        tries += 1;
        if tries > n + NAME_TRIES {
            let why = format!(
                "no free name was found on {} in {NAME_TRIES} tries",
                domain.name
            );
            return Err(Refusal::Conflict {
                code: "names_exhausted",
                why,
            });
        }
        number += 1;
        let name = naming::propose(naming, &domain.name, number, tries, &*state.cx.ports.rng)?;
        let new_here = names
            .iter()
            .all(|other| other.address.key() != name.address.key());
        let claim = ClaimName::Address(name.address.key());
        if new_here && state.cx.store.get::<Claim>(&claim)?.is_none() {
            names.push(name);
        }
    }
    Ok(names)
}

async fn fail(
    state: &mut DomainState,
    mut job: Job,
    row: DueRow,
    why: &Refusal,
) -> Result<(), Refusal> {
    job.state = JobState::Failed;
    job.changed_at = state.cx.now();
    job.errors.push(why.to_string());
    job.errors.truncate(ERRORS_MAX);
    let mut batch = state.batch();
    batch.put(&job);
    batch.event(state.event(changed(&job)));
    batch.remove::<DueRow>(&(row.at, row.work));
    // The account gets back what the job has not made.
    batch.put(&DueRow {
        at: state.cx.now(),
        work: DueWork::Tenant(state.tenant),
    });
    state.cx.store.commit(batch).await?;
    Ok(())
}
