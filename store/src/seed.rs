//! Seeding: a store full of synthetic tenants, for tests and measurements.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use inboxgrove_model::{
    DomainId, DomainName, EmailAddress, InboxId, MessageId, PolicyTime, SecretId, TenantId,
    WallTime,
    domain::{Domain, DomainStatus},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    id::IdSource,
    inbox::{Band, Credential, DayCounts, Inbox, InboxStatus, PoolMember, Warmup, WarmupState},
    message::{BodyRef, Direction, Folder, Message, MessageClass, Recipient, RecipientState},
    ports::{BoxFuture, Rng},
    tenant::{Tenant, TenantStatus},
};

use crate::{Batch, CommitError, Committed, InboxOfDomain, Store};

/// Inboxes of one batch.
const BATCH_INBOXES: usize = 200;
/// Tenants of one batch: each new data key rewrites the file of them all.
const BATCH_TENANTS: usize = 200;
/// Batches under way at once: while one is applied, the next is encoded.
const UNDER_WAY: usize = 4;

/// How much to make.
#[derive(Debug, Clone)]
pub struct SeedPlan {
    /// Tenants, each with one domain.
    pub tenants: u32,
    /// Inboxes of each.
    pub inboxes_of_tenant: u32,
    /// Received messages of each inbox, with a body.
    pub messages_of_inbox: u32,
    /// Size of each body.
    pub body_bytes: usize,
    /// When all of it was made.
    pub at: PolicyTime,
    /// The inboxes' next warmup turns are due evenly over this time; none is due when there is none.
    pub wake_over: Option<Duration>,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seeded {
    /// The tenants and their domains.
    pub tenants: Vec<(TenantId, DomainId)>,
    /// All inboxes.
    pub inboxes: Vec<(TenantId, InboxId)>,
    /// All messages.
    pub messages: Vec<(TenantId, InboxId, MessageId)>,
}

/// Makes ids at one moment.
struct Ids<'a> {
    source: IdSource,
    at: WallTime,
    rng: &'a dyn Rng,
}

/// A commit that was handed over.
type Commit = BoxFuture<'static, Result<Committed, CommitError>>;

/// Commits that were handed over and not answered yet.
#[derive(Default)]
struct UnderWay {
    commits: VecDeque<Commit>,
}

// === impl Store ===

impl Store {
    /// Fills the store. The same plan and the same chance make the same store.
    pub async fn seed(&self, plan: &SeedPlan, rng: &dyn Rng) -> Result<Seeded, CommitError> {
        let ids = Ids {
            source: IdSource::new(),
            at: WallTime::from_millis(plan.at.as_millis()),
            rng,
        };
        let made: Vec<(Tenant, Domain)> = (0..plan.tenants)
            .map(|n| seed_tenant(n, plan, &ids))
            .collect();
        let mut seeded = Seeded::default();
        let mut under_way = UnderWay::default();
        for some in made.chunks(BATCH_TENANTS) {
            let mut batch = Batch::new();
            for (tenant, domain) in some {
                put_tenant(&mut batch, tenant, domain, plan.at);
                seeded.tenants.push((tenant.id, domain.id));
            }
            under_way.add(self.commit(batch)).await?;
        }
        for (tenant, domain) in &made {
            let inboxes: Vec<Inbox> = (0..plan.inboxes_of_tenant)
                .zip(seeded.inboxes.len()..)
                .map(|(n, place)| seed_inbox(n, place, domain, plan, &ids))
                .collect();
            for some in inboxes.chunks(BATCH_INBOXES) {
                let mut batch = Batch::new();
                for inbox in some {
                    put_inbox(&mut batch, inbox, plan.at);
                }
                under_way.add(self.commit(batch)).await?;
            }
            for inbox in &inboxes {
                seeded.inboxes.push((tenant.id, inbox.id));
                for _ in 0..plan.messages_of_inbox {
                    let message = seed_message(inbox, plan, &ids);
                    seeded.messages.push((tenant.id, inbox.id, message.id));
                    self.seed_message(message, plan.body_bytes).await?;
                }
            }
        }
        under_way.end().await?;
        Ok(seeded)
    }

    fn seed_message(&self, message: Message, size: usize) -> Commit {
        let mut batch = Batch::new();
        let body = batch.body(message.tenant, Bytes::from(vec![b'x'; size]));
        batch.event(Event {
            at: message.accepted_at,
            tenant: Some(message.tenant),
            kind: EventKind::MessageReceived {
                message: message.id,
                inbox: message.inbox,
                class: message.class,
                from: message.mail_from.clone(),
            },
        });
        batch.put_message(message, body);
        self.commit(batch)
    }
}

// === impl UnderWay ===

impl UnderWay {
    async fn add(&mut self, commit: Commit) -> Result<(), CommitError> {
        self.commits.push_back(commit);
        if self.commits.len() > UNDER_WAY
            && let Some(first) = self.commits.pop_front()
        {
            first.await?;
        }
        Ok(())
    }

    async fn end(self) -> Result<(), CommitError> {
        for commit in self.commits {
            commit.await?;
        }
        Ok(())
    }
}

// === impl SeedPlan ===

impl SeedPlan {
    /// When an inbox wakes next. Neighbours lie far apart in time: their multiples of the golden ratio, less
    /// what is whole, are spread evenly.
    fn wake_at(&self, place: usize) -> Option<PolicyTime> {
        const RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
        let share = (place as u64).wrapping_mul(RATIO);
        let over = self.wake_over?.as_nanos();
        // The high half of the product: `over` times a number in [0, 1).
        let nanos = (over >> 32).saturating_mul(u128::from(share)) >> 32;
        let after = Duration::from_nanos(u64::try_from(nanos).ok()?);
        Some(self.at.after(after))
    }
}

// === impl Ids ===

impl Ids<'_> {
    fn next(&self) -> [u8; 16] {
        self.source.next(self.at, self.rng)
    }

    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.rng.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

fn seed_tenant(n: u32, plan: &SeedPlan, ids: &Ids<'_>) -> (Tenant, Domain) {
    let tenant = Tenant {
        id: TenantId::from_bytes(ids.next()),
        company: format!("Company {n}"),
        plan: "trial".to_owned(),
        status: TenantStatus::Active,
        suspension: None,
        time_zone: "UTC".to_owned(),
        created_at: plan.at,
        trial_ends_at: None,
        domains_count: 1,
        inboxes_count: plan.inboxes_of_tenant,
    };
    let domain = Domain {
        id: DomainId::from_bytes(ids.next()),
        tenant: tenant.id,
        name: DomainName::parse(&format!("company{n}.example")).expect("it is a domain name"),
        status: DomainStatus::Active,
        reason: String::new(),
        selectors: Vec::new(),
        ownership_token: format!("token-{n}"),
        mail_hosts: Vec::new(),
        checks: Vec::new(),
        created_at: plan.at,
        verified_at: Some(plan.at),
        checked_at: Some(plan.at),
        inboxes_count: plan.inboxes_of_tenant,
    };
    (tenant, domain)
}

fn put_tenant(batch: &mut Batch, tenant: &Tenant, domain: &Domain, at: PolicyTime) {
    batch.put(tenant).put(domain).event(Event {
        at,
        tenant: Some(tenant.id),
        kind: EventKind::DomainAdded { domain: domain.id },
    });
}

/// `place` is its place among all inboxes.
fn seed_inbox(n: u32, place: usize, domain: &Domain, plan: &SeedPlan, ids: &Ids<'_>) -> Inbox {
    Inbox {
        id: InboxId::from_bytes(ids.next()),
        tenant: domain.tenant,
        domain: domain.id,
        address: EmailAddress::new(&format!("inbox{n}"), &domain.name).expect("it is an address"),
        display_name: format!("Inbox {n}"),
        status: InboxStatus::Warming,
        reason: String::new(),
        daily_limit: 40,
        hourly_limit: 10,
        time_zone: "UTC".to_owned(),
        credential: Credential {
            secret: SecretId::from_bytes(ids.next()),
            shown: false,
            rotated_at: plan.at,
        },
        warmup: Warmup {
            state: WarmupState::Running,
            started_at: Some(plan.at),
            active_days: 0,
            base: 5,
            increment: 2,
            cap: 40,
            seed: ids.number(),
            today: None,
            band: Band::Healthy,
            band_since: plan.at,
        },
        wake_at: plan.wake_at(place),
        partners: Vec::new(),
        created_at: plan.at,
    }
}

fn put_inbox(batch: &mut Batch, inbox: &Inbox, at: PolicyTime) {
    batch.put(inbox);
    batch.put(&InboxOfDomain {
        tenant: inbox.tenant,
        domain: inbox.domain,
        inbox: inbox.id,
        address: inbox.address.clone(),
    });
    batch.put(&PoolMember {
        inbox: inbox.id,
        tenant: inbox.tenant,
        domain: inbox.domain,
        address: inbox.address.clone(),
        display_name: inbox.display_name.clone(),
    });
    if let Some(at) = inbox.wake_at {
        batch.put(&DueRow {
            at,
            work: DueWork::Warmup(inbox.tenant, inbox.id),
        });
    }
    let counts = DayCounts {
        delivered: 1,
        ..DayCounts::default()
    };
    batch.count(inbox.tenant, inbox.id, at.utc_day(), "example", counts);
    batch.event(Event {
        at,
        tenant: Some(inbox.tenant),
        kind: EventKind::InboxCreated { inbox: inbox.id },
    });
}

fn seed_message(inbox: &Inbox, plan: &SeedPlan, ids: &Ids<'_>) -> Message {
    let id = MessageId::from_bytes(ids.next());
    Message {
        id,
        tenant: inbox.tenant,
        inbox: inbox.id,
        direction: Direction::In,
        class: MessageClass::Person,
        mail_from: Some(inbox.address.clone()),
        recipients: vec![Recipient {
            address: inbox.address.clone(),
            state: RecipientState::Received,
            attempts: 0,
            last_reply: String::new(),
        }],
        subject: "A message".to_owned(),
        message_id: format!("{id}@example.com"),
        in_reply_to: None,
        thread: format!("{id}@example.com"),
        body: BodyRef {
            seq: 0,
            index: 0,
            size: 0,
        },
        accepted_at: plan.at,
        folder: Folder::Inbox,
    }
}
