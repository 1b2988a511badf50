//! The commits of a message's life, as the daemon makes them: accepted with its body, attempted, delivered.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime, TenantId,
    budget::{BudgetKey, Take, Window},
    event::{Event, EventKind},
    inbox::{DayCounts, Inbox},
    message::{Message, MessageClass, QueueEntry, RecipientState},
};
use inboxgrove_store::{Batch, Keys, Options, SeedPlan, Store};
use nix::time::ClockId;
use tokio::runtime::Runtime;

use super::{Series, SystemRng, append, gather, ratio};
use crate::{
    Effort,
    installation::beside_the_binary,
    measure::{Samples, count, read},
    report::{Bound, Section},
};

/// How many messages are on their way at a time.
const WRITERS: [usize; 2] = [16, 256];
/// Bytes of a body.
const BODY_BYTES: usize = 4096;
/// Commits of a life.
const COMMITS: u64 = 3;
/// Row writes of a life, at most.
const ROWS_MAX: f64 = 12.0;
const AT: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);
/// Nothing is ever full.
const CAP: u32 = u32::MAX;
const SOURCE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SITE: &str = "mx.example.com";

/// An inbox that sends, and a message it has.
#[derive(Clone)]
struct Sender {
    inbox: Inbox,
    message: Message,
    body: Vec<u8>,
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let folder = beside_the_binary()?;
    let options = Options::new(folder.path().join("store"), Keys::from_bytes([7; 32]));
    let (store, _report) = Store::open(options, Arc::new(SystemRng))?;
    let senders = senders(&runtime, &store)?;
    let next = Arc::new(AtomicU64::new(1));
    let mut section = section();
    for writers in WRITERS {
        let (mut ours, mut theirs) = (Series::default(), Series::default());
        let [mut cpu, mut grouped, mut syncs, mut kibibytes] = [(); 4].map(|()| Samples::default());
        for round in 0..effort.rounds {
            let before = store.stats();
            let cpu_before = read(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
            let mut at = 0;
            let found = gather(&runtime, writers, effort.sample, || {
                at += 1;
                let sender = senders[at % senders.len()].clone();
                let (store, next) = (store.clone(), Arc::clone(&next));
                move || {
                    live(
                        store.clone(),
                        sender.clone(),
                        next.fetch_add(1, Ordering::Relaxed),
                    )
                }
            })?;
            let spent = read(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.saturating_sub(cpu_before);
            let after = store.stats();
            let commits = after.commits - before.commits;
            let lives = count(usize::try_from(commits / COMMITS)?);
            let bytes = after.committed_bytes - before.committed_bytes;
            cpu.push(spent.as_secs_f64() * 1e3 / lives);
            grouped.push(ratio(commits, after.groups - before.groups));
            syncs.push(ratio(after.groups - before.groups, commits / COMMITS));
            kibibytes.push(ratio(bytes, commits / COMMITS) / 1024.0);
            ours.push(&found);
            let file = folder.path().join(format!("raw-{writers}-{round}"));
            let each = usize::try_from(bytes / commits.max(1))?;
            theirs.push(&append(&runtime, &file, writers, effort.sample, each)?);
        }
        let rates = ours.per_second.times(count(usize::try_from(COMMITS)?));
        let rates = rates.over(&theirs.per_second);
        section.row(&[
            &writers,
            &ours.per_second,
            &rates,
            &ours.p50_ms,
            &ours.p99_ms,
            &cpu,
            &kibibytes,
            &grouped,
            &syncs,
        ]);
    }
    let mut rows = Samples::default();
    rows.push(count(rows_of_a_life(&senders[0])));
    section.goal("row writes of a life", rows, Bound::AtMost(ROWS_MAX));
    store.close();
    Ok(section)
}

fn section() -> Section {
    let about = format!(
        "Three commits a message with a body of {BODY_BYTES} bytes: accepted (body, message, queue entry, takes from inbox, \
         domain and tenant, event), attempted (queue entry, takes from source address, site and all), delivered (message, queue \
         entry gone, rollup, event); rows, events and bodies sealed. Each writer has one message on its way. `ratio`: its \
         commits against raw appends of as many bytes each, with fdatasync. CPU is the process, the writers included."
    );
    let header = [
        "writers",
        "lives/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "CPU ms a life",
        "KiB of log a life",
        "commits a sync",
        "syncs a life",
    ];
    Section::new("The commits of a message's life", &about, &header)
}

/// Inboxes with a message each, to be lived again and again under other ids.
fn senders(runtime: &Runtime, store: &Store) -> Result<Vec<Sender>> {
    let plan = SeedPlan {
        tenants: 16,
        inboxes_of_tenant: 1,
        messages_of_inbox: 1,
        body_bytes: 1,
        at: AT,
        wake_over: None,
    };
    let seeded = runtime.block_on(store.seed(&plan, &SystemRng))?;
    let pairs = seeded.inboxes.iter().zip(&seeded.messages);
    pairs
        .map(|(inbox, message)| {
            Ok(Sender {
                inbox: store.existing(inbox)?,
                message: store.existing(message)?,
                body: vec![b'x'; BODY_BYTES],
            })
        })
        .collect()
}

async fn live(store: Store, sender: Sender, number: u64) -> Result<()> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let message = Message {
        id: MessageId::from_bytes(id),
        ..sender.message.clone()
    };
    let accepted = store.commit(accept(&sender, &message)).await?;
    let body = *accepted.bodies.first().context("it has a body")?;
    store.commit(attempt(&message)).await?;
    let message = Message { body, ..message };
    store.commit(deliver(&sender.inbox, message)).await?;
    Ok(())
}

fn accept(sender: &Sender, message: &Message) -> Batch {
    let (tenant, inbox) = (message.tenant, message.inbox);
    let mut batch = Batch::new();
    batch.put_new(&entry(message));
    for budget in [
        BudgetKey::Inbox(tenant, inbox),
        BudgetKey::Domain(tenant, sender.inbox.domain),
        BudgetKey::Tenant(tenant),
    ] {
        batch.take(take(budget));
    }
    let slot = batch.body(tenant, sender.body.clone().into());
    batch.put_message(message.clone(), slot);
    batch.event(event(
        tenant,
        EventKind::MessageAccepted {
            message: message.id,
            inbox,
            class: MessageClass::Person,
            recipients: 1,
        },
    ));
    batch
}

fn attempt(message: &Message) -> Batch {
    let mut batch = Batch::new();
    batch.put(&QueueEntry {
        attempting: true,
        attempts: 1,
        source: Some(SOURCE),
        ..entry(message)
    });
    for budget in [
        BudgetKey::Source(SOURCE),
        BudgetKey::SourceSite(SOURCE, SITE.to_owned()),
        BudgetKey::Global,
    ] {
        batch.take(take(budget));
    }
    batch
}

fn deliver(inbox: &Inbox, mut message: Message) -> Batch {
    let mut batch = Batch::new();
    batch.remove::<QueueEntry>(&(AT, message.id, 0));
    for recipient in &mut message.recipients {
        recipient.state = RecipientState::Delivered;
        "250 2.0.0 queued".clone_into(&mut recipient.last_reply);
    }
    batch.put(&message);
    let delivered = DayCounts {
        delivered: 1,
        ..DayCounts::default()
    };
    batch.count(inbox.tenant, inbox.id, AT.utc_day(), SITE, delivered);
    batch.event(event(
        message.tenant,
        EventKind::MessageDelivered {
            message: message.id,
            inbox: message.inbox,
            recipient: recipient_of(&message),
            provider: SITE.to_owned(),
            reply: "250 2.0.0 queued".to_owned(),
        },
    ));
    batch
}

fn entry(message: &Message) -> QueueEntry {
    QueueEntry {
        message: message.id,
        recipient: 0,
        tenant: message.tenant,
        inbox: message.inbox,
        due_at: AT,
        accepted_at: AT,
        attempts: 0,
        class: MessageClass::Person,
        attempting: false,
        source: None,
        held: false,
    }
}

fn take(budget: BudgetKey) -> Take {
    let window = Window {
        index: 1,
        cap: CAP,
        ends_at: AT,
    };
    Take {
        budget,
        n: 1,
        hour: window,
        day: window,
    }
}

fn event(tenant: TenantId, kind: EventKind) -> Event {
    Event {
        at: AT,
        tenant: Some(tenant),
        kind,
    }
}

fn recipient_of(message: &Message) -> EmailAddress {
    let first = message.recipients.first();
    first
        .expect("a seeded message has a recipient")
        .address
        .clone()
}

/// Rows, budgets and rollups that a life writes or removes.
fn rows_of_a_life(sender: &Sender) -> usize {
    let message = sender.message.clone();
    let batches = [
        accept(sender, &message),
        attempt(&message),
        deliver(&sender.inbox, message),
    ];
    batches.iter().map(Batch::row_writes).sum()
}
