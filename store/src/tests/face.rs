//! What callers rely on: leases, preconditions, takes, reads, watches, limits.

use bytes::Bytes;
use inboxgrove_model::{
    DomainId, InboxId, PolicyTime, TenantId,
    claim::{Claim, ClaimHolder, ClaimName},
    due::{DueRow, DueWork},
    inbox::{DayCounts, Inbox},
    message::Message,
    notice::Notice,
    tenant::Tenant,
};
use proptest::prelude::*;

use super::{NOW, commit, event, notice, open, options, put, rng, take, wait};
use crate::{
    Batch, CommitError, DueMark, Keys, MemDisk, OpenError, Owner, ReadError, Record, Scope,
    SeedPlan, Seeded, Store, StoreHealth, TableId, batch::whole_key,
};

fn seeded(disk: &MemDisk) -> (Store, Seeded) {
    let (store, _) = open(disk);
    let plan = SeedPlan {
        tenants: 2,
        inboxes_of_tenant: 3,
        messages_of_inbox: 2,
        body_bytes: 700,
        at: NOW,
        wake_over: None,
    };
    let made = wait(store.seed(&plan, rng().as_ref())).expect("seeded");
    (store, made)
}

#[test]
fn a_lease_ends_when_a_newer_one_is_taken() {
    let (store, _) = open(&MemDisk::new());
    let old = wait(store.own(Owner::Outbound)).expect("granted");
    let other = wait(store.own(Owner::Clock)).expect("granted");
    let by = |lease, id| {
        let mut batch = put(id, "x");
        batch.by(lease);
        commit(&store, batch)
    };
    by(&old, 1).expect("current");
    let new = wait(store.own(Owner::Outbound)).expect("granted");
    assert_eq!(
        by(&old, 2),
        Err(CommitError::Stale {
            owner: Owner::Outbound
        })
    );
    by(&new, 3).expect("current");
    by(&other, 4).expect("of somebody else");
    assert!(store.get::<Notice>(&2).expect("read").is_none());
}

#[test]
fn preconditions_hold_or_nothing_happens() {
    let (store, _) = open(&MemDisk::new());
    let mut batch = Batch::new();
    batch.put_new(&notice(1, "one"));
    commit(&store, batch).expect("it is new");
    let mut batch = Batch::new();
    batch.put(&notice(2, "beside")).put_new(&notice(1, "again"));
    let why = commit(&store, batch).expect_err("taken");
    let taken = matches!(
        &why,
        CommitError::Taken {
            table: TableId::Notice,
            ..
        }
    );
    assert!(taken, "{why}");
    let mut batch = Batch::new();
    batch.expect(&notice(1, "other")).put(&notice(2, "beside"));
    assert!(matches!(
        commit(&store, batch),
        Err(CommitError::Changed { .. })
    ));
    assert!(store.get::<Notice>(&2).expect("read").is_none());
    let mut batch = Batch::new();
    batch.expect(&notice(1, "one")).put(&notice(1, "two"));
    commit(&store, batch).expect("as expected");
    let mut batch = Batch::new();
    batch.put_new(&notice(3, "a")).put_new(&notice(3, "b"));
    assert!(matches!(
        commit(&store, batch),
        Err(CommitError::Taken { .. })
    ));
}

#[test]
fn a_kept_row_is_as_new_as_the_last_commit() {
    let (store, made) = seeded(&MemDisk::new());
    let (first, second) = (made.tenants[0].0, made.tenants[1].0);
    let company = |id| {
        let row = store.hot::<Tenant>(&id);
        row.map(|row| row.map(|tenant| tenant.company.clone()))
    };
    for name in ["One", "Two"] {
        let mut tenant = store.existing::<Tenant>(&first).expect("read");
        name.clone_into(&mut tenant.company);
        let mut batch = Batch::new();
        batch.put(&tenant);
        commit(&store, batch).expect("committed");
        for _ in 0..2 {
            assert_eq!(company(first).expect("read").as_deref(), Some(name));
        }
    }
    let mut batch = Batch::new();
    batch.remove::<Tenant>(&first);
    commit(&store, batch).expect("committed");
    assert_eq!(company(first).expect("read"), None);
    assert!(company(second).expect("read").is_some());
    assert_eq!(store.erase_tenant_key(second), Ok(true));
    assert!(company(second).is_err(), "its key is erased");
}

#[test]
fn seeded_turns_are_spread_over_their_time() {
    let (store, _) = open(&MemDisk::new());
    let over = std::time::Duration::from_hours(24);
    let plan = SeedPlan {
        tenants: 4,
        inboxes_of_tenant: 25,
        messages_of_inbox: 0,
        body_bytes: 0,
        at: NOW,
        wake_over: Some(over),
    };
    wait(store.seed(&plan, rng().as_ref())).expect("seeded");
    let due = store.page::<DueRow>(&Scope::All, None, 500).expect("read");
    let quarter = |n: u32| {
        let (from, to) = (NOW.after(over / 4 * n), NOW.after(over / 4 * (n + 1)));
        due.items
            .iter()
            .filter(|row| from <= row.at && row.at < to)
            .count()
    };
    let quarters = [0, 1, 2, 3].map(quarter);
    assert_eq!(quarters.iter().sum::<usize>(), 100, "{quarters:?}");
    assert!(
        quarters.iter().all(|rows| (20..=30).contains(rows)),
        "{quarters:?}"
    );
    for row in due.items {
        let DueWork::Warmup(tenant, inbox) = row.work else {
            panic!("other work: {row:?}");
        };
        let inbox = store.existing::<Inbox>(&(tenant, inbox)).expect("read");
        assert_eq!(inbox.wake_at, Some(row.at));
    }
}

#[test]
fn a_name_is_claimed_once() {
    let disk = MemDisk::new();
    let (store, made) = seeded(&disk);
    let claim = |(tenant, inbox): (TenantId, InboxId)| Claim {
        name: ClaimName::Address("ada@company0.example".to_owned()),
        holder: ClaimHolder::Inbox(tenant, DomainId::from_bytes([1; 16]), inbox),
    };
    let claims = [claim(made.inboxes[0]), claim(made.inboxes[4])];
    let results = claims.each_ref().map(|claim| {
        let mut batch = Batch::new();
        batch.put_new(claim);
        commit(&store, batch).is_ok()
    });
    assert_eq!(results, [true, false]);
    assert_eq!(
        store.get(&claims[0].name).expect("read"),
        Some(claims[0].clone())
    );
    let rows = disk.read("data.keys").expect("there");
    assert!(!rows.windows(3).any(|part| part == b"ada"));
}

#[test]
fn the_last_write_of_a_key_counts() {
    let (store, _) = open(&MemDisk::new());
    let mut batch = Batch::new();
    batch.put(&notice(1, "a")).remove::<Notice>(&1);
    batch.remove::<Notice>(&2).put(&notice(2, "b"));
    commit(&store, batch).expect("committed");
    assert!(store.get::<Notice>(&1).expect("read").is_none());
    assert_eq!(store.existing::<Notice>(&2).expect("there").text, "b");
    let why = store.existing::<Notice>(&1).expect_err("gone");
    assert!(matches!(
        why,
        ReadError::Missing {
            table: TableId::Notice,
            ..
        }
    ));
}

#[test]
fn pages_go_through_a_scope_and_stay_in_it() {
    let (store, made) = seeded(&MemDisk::new());
    let (tenant, _) = made.tenants[0];
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let scope = Scope::Tenant(tenant);
        let page = store
            .page::<Inbox>(&scope, after.as_deref(), 2)
            .expect("read");
        assert!(page.items.len() <= 2);
        found.extend(page.items.iter().map(|inbox| (inbox.tenant, inbox.id)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, made.inboxes[..3]);
    let all = store.page::<Inbox>(&Scope::All, None, 500).expect("read");
    assert_eq!((all.items.len(), all.next), (6, None));
    let (tenant, inbox) = made.inboxes[4];
    let of_inbox = store.page::<Message>(&Scope::Inbox(tenant, inbox), None, 9);
    assert_eq!(of_inbox.expect("read").items.len(), 2);
}

#[test]
fn due_rows_come_in_the_order_of_time_and_wake_the_clock() {
    let (store, _) = open(&MemDisk::new());
    let watch = store.due_watch();
    assert_eq!(*watch.borrow(), DueMark::NOTHING);
    let due = |n: i64| DueRow {
        at: PolicyTime::from_millis(NOW.as_millis() + n),
        work: DueWork::Notice(7),
    };
    let mut batch = Batch::new();
    batch.put(&due(9)).put(&due(-3)).put(&due(4));
    commit(&store, batch).expect("committed");
    let mark = *watch.borrow();
    assert_eq!((mark.earliest_due, mark.version), (due(-3).at, 1));
    assert_eq!(mark.earliest_queue, DueMark::NOTHING.earliest_queue);
    let ripe = store.page::<DueRow>(&Scope::Before(due(4).at), None, 10);
    assert_eq!(ripe.expect("read").items, [due(-3), due(4)]);
}

/// Two tasks waited at one channel, which woke them in an order of chance: a simulated day was not the same twice.
#[tokio::test]
async fn who_watched_first_is_woken_first() {
    for _ in 0..32 {
        let (store, _) = open(&MemDisk::new());
        let woken = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let watchers: Vec<_> = (0..3)
            .map(|n| {
                let (mut watch, woken) = (store.due_watch(), std::sync::Arc::clone(&woken));
                tokio::spawn(async move {
                    watch.changed().await.expect("the store is open");
                    woken.lock().expect("nobody panics").push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let mut batch = Batch::new();
        batch.put(&DueRow {
            at: NOW,
            work: DueWork::Notice(7),
        });
        store.commit(batch).await.expect("committed");
        for watcher in watchers {
            watcher.await.expect("woken");
        }
        assert_eq!(*woken.lock().expect("nobody panics"), [0, 1, 2]);
    }
}

#[test]
fn bodies_and_messages_come_back_for_their_tenant_only() {
    let disk = MemDisk::new();
    let (store, made) = seeded(&disk);
    let read = |store: &Store| {
        for key in &made.messages {
            let message = store.existing::<Message>(key).expect("there");
            let body = store.body(message.tenant, &message.body).expect("there");
            assert_eq!(body, Bytes::from(vec![b'x'; 700]));
            assert_eq!(message.body.size, 700);
            let other = made
                .tenants
                .iter()
                .find(|(tenant, _)| *tenant != message.tenant);
            let (other, _) = other.expect("there are two");
            assert!(matches!(
                store.body(*other, &message.body),
                Err(ReadError::NoBody { .. })
            ));
        }
    };
    read(&store);
    disk.crash();
    read(&open(&disk).0);
    let sealed = disk.names().iter().all(|name| {
        let bytes = disk.read(name).expect("there");
        !bytes.windows(20).any(|part| part == [b'x'; 20])
    });
    assert!(sealed, "no body lies in clear on the disk");
}

#[test]
fn events_come_by_id_by_tenant_and_live() {
    let (store, made) = seeded(&MemDisk::new());
    let mut live = store.subscribe();
    let (tenant, _) = made.tenants[1];
    let mut batch = Batch::new();
    batch
        .event(event(Some(tenant), "a"))
        .event(event(None, "b"));
    let seq = commit(&store, batch).expect("committed").seq;
    let told = live.try_recv().expect("told");
    let ids: Vec<u64> = told.iter().map(|event| event.id).collect();
    assert_eq!(ids, [seq * 1024, seq * 1024 + 1]);
    assert_eq!(store.events(seq * 1024 - 1, 10, None).expect("read"), *told);
    assert_eq!(store.events(seq * 1024, 10, None).expect("read"), told[1..]);
    let of_tenant = store.events(0, 1000, Some(tenant)).expect("read");
    assert!(
        of_tenant
            .iter()
            .all(|event| event.event.tenant == Some(tenant))
    );
    assert_eq!(of_tenant.len(), 1 + 3 + 6 + 1);
    let all = store.events(0, 1000, None).expect("read");
    assert!(all.is_sorted_by(|a, b| a.id < b.id));
    let (mut paged, mut after) = (Vec::new(), 0);
    while let Some(last) = store.events(after, 3, None).expect("read").last().cloned() {
        paged.extend(store.events(after, 3, None).expect("read"));
        after = last.id;
    }
    assert_eq!(paged, all);
}

#[test]
fn a_step_of_events_is_bounded_and_steps_add_up() {
    let (store, made) = seeded(&MemDisk::new());
    let (tenant, _) = made.tenants[1];
    for n in 0..12 {
        let mut batch = Batch::new();
        batch.event(event(Some(tenant), &format!("{n}")));
        batch.body(tenant, Bytes::from(vec![b'x'; 1_100_000]));
        commit(&store, batch).expect("committed");
    }
    for (limit, wanted) in [(3, Some(tenant)), (1000, Some(tenant)), (1000, None)] {
        let (mut found, mut after, mut steps) = (Vec::new(), 0, 0);
        loop {
            let step = store.events_step(after, limit, wanted).expect("read");
            assert!(step.events.len() <= limit && step.bytes < 3 * 1024 * 1024);
            assert!(step.end || step.after > after, "a step goes on");
            found.extend(step.events);
            (after, steps) = (step.after, steps + 1);
            if step.end {
                break;
            }
        }
        assert_eq!(found, store.events(0, 10_000, wanted).expect("read"));
        assert!(steps > 5, "{steps}");
        assert!(found.last().expect("some").id <= store.events_end());
    }
}

#[test]
fn an_erased_tenant_can_be_read_no_more_and_gets_no_new_key() {
    let disk = MemDisk::new();
    let (store, made) = seeded(&disk);
    let [(gone, _), (kept, _)] = made.tenants[..] else {
        panic!("there are two");
    };
    let message = store.existing::<Message>(&made.messages[0]).expect("there");
    let tenant = store.existing::<Tenant>(&gone).expect("there");
    assert_eq!(store.erase_tenant_key(gone), Ok(true));
    assert_eq!(store.erase_tenant_key(gone), Ok(false));
    let check = |store: &Store| {
        let why = store.get::<Tenant>(&gone).expect_err("sealed for ever");
        assert!(
            matches!(
                why,
                ReadError::Damaged {
                    table: TableId::Tenant,
                    ..
                }
            ),
            "{why}"
        );
        assert!(store.body(gone, &message.body).is_err());
        assert_eq!(store.events(0, 1000, Some(gone)).expect("read"), []);
        assert!(store.existing::<Tenant>(&kept).is_ok());
        let mut batch = Batch::new();
        batch.put(&tenant);
        assert_eq!(
            commit(store, batch),
            Err(CommitError::NoTenantKey { tenant: gone })
        );
    };
    check(&store);
    disk.crash();
    check(&open(&disk).0);
}

#[test]
fn counts_add_up_by_inbox_day_and_provider() {
    let (store, _) = open(&MemDisk::new());
    let (tenant, inbox) = (TenantId::from_bytes([1; 16]), InboxId::from_bytes([2; 16]));
    let counts = |delivered, replies| DayCounts {
        delivered,
        replies,
        ..DayCounts::default()
    };
    for day in [5, 6, 6] {
        let mut batch = Batch::new();
        batch.count(tenant, inbox, day, "google", counts(2, 1));
        batch.count(tenant, inbox, day, "google", counts(1, 0));
        batch.count(tenant, inbox, day, "aol", counts(0, 4));
        commit(&store, batch).expect("committed");
    }
    let days = store.evidence(tenant, inbox, 6).expect("read");
    let found: Vec<_> = days
        .iter()
        .map(|day| (day.utc_day, day.provider.as_str(), day.counts))
        .collect();
    assert_eq!(
        found,
        [(6, "aol", counts(0, 8)), (6, "google", counts(6, 2))]
    );
    assert_eq!(store.evidence(tenant, inbox, -9).expect("read").len(), 4);
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let (store, _) = open(&MemDisk::new());
    let spend = |n| {
        let mut batch = Batch::new();
        batch.take(take(n, 5));
        commit(&store, batch)
    };
    spend(3).expect("room");
    spend(2).expect("room");
    assert!(matches!(spend(1), Err(CommitError::BudgetFull(_))));
    let mut batch = Batch::new();
    batch.give_back(take(2, 5));
    commit(&store, batch).expect("given back");
    assert!(matches!(spend(3), Err(CommitError::BudgetFull(_))));
    spend(2).expect("room");
}

#[test]
fn what_is_too_big_is_refused_before_anything_happens() {
    let (store, _) = open(&MemDisk::new());
    let (tenant, inbox) = (TenantId::from_bytes([1; 16]), InboxId::from_bytes([2; 16]));
    let mut batch = put(1, "beside");
    batch.count(tenant, inbox, 1, &"x".repeat(5000), DayCounts::default());
    let why = commit(&store, batch).expect_err("too big");
    assert!(
        matches!(&why, CommitError::TooBig { max: 4096, .. }),
        "{why}"
    );
    assert!(store.get::<Notice>(&1).expect("read").is_none());
    let mut batch = Batch::new();
    for _ in 0..1025 {
        batch.event(event(None, "x"));
    }
    assert!(matches!(
        commit(&store, batch),
        Err(CommitError::TooBig { .. })
    ));
    let mut batch = Batch::new();
    batch.body(
        TenantId::from_bytes([1; 16]),
        Bytes::from(vec![0; (64 << 20) + 1]),
    );
    assert!(matches!(
        commit(&store, batch),
        Err(CommitError::TooBig { .. })
    ));
    assert_eq!(store.health(), StoreHealth::Ok);
    commit(&store, put(1, "small")).expect("goes on");
}

#[test]
fn a_full_disk_refuses_new_work_first() {
    let disk = MemDisk::new();
    let mut low = options(std::path::Path::new(""));
    low.free_floor_bytes = 1000;
    let (store, _) = Store::in_memory_with(&disk, &low, rng()).expect("opens");
    disk.set_free_bytes(999);
    let refused = CommitError::DiskLow {
        free: 999,
        floor: 1000,
    };
    assert_eq!(commit(&store, put(1, "new")), Err(refused));
    let mut outcome = put(2, "outcome");
    outcome.essential();
    commit(&store, outcome).expect("what has happened is noted");
    disk.set_free_bytes(100);
    let mut outcome = put(3, "outcome");
    outcome.essential();
    assert!(commit(&store, outcome).is_err());
    disk.set_free_bytes(1000);
    commit(&store, put(1, "new")).expect("room again");
}

#[test]
fn another_installations_key_opens_nothing_and_changes_nothing() {
    let disk = MemDisk::new();
    let (store, _) = seeded(&disk);
    let before = disk.read("data.keys");
    drop(store);
    let other = Keys::from_bytes([8; 32]);
    let why = Store::in_memory(disk.clone(), other, rng()).expect_err("refused");
    assert!(matches!(why, OpenError::WrongKey(_)), "{why}");
    assert_eq!(disk.read("data.keys"), before);
    assert_eq!(open(&disk).1.replayed, 0);
}

#[test]
fn a_damaged_row_names_its_table_and_key_and_stops_nothing_else() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(0xAB, "one")).expect("committed");
    commit(&store, put(2, "two")).expect("committed");
    let names = store.inner.shared.data_keys.names();
    let key = whole_key::<Notice>(&notice(0xAB, "").key(), names);
    assert!(disk.flip_row(&key, 30));
    let why = store.get::<Notice>(&0xAB).expect_err("damaged").to_string();
    assert!(why.contains("notices/00000000000000ab"), "{why}");
    assert!(store.page::<Notice>(&Scope::All, None, 10).is_err());
    assert_eq!(store.existing::<Notice>(&2).expect("there").text, "two");
    let report = store.verify();
    assert_eq!(report.problems_count, 1);
    assert!(
        report.problems[0].contains("notices/"),
        "{:?}",
        report.problems
    );
    commit(&store, put(0xAB, "written anew")).expect("goes on");
    assert!(store.verify().is_clean());
}

#[test]
fn the_pool_is_read_around_its_end() {
    let (store, made) = seeded(&MemDisk::new());
    for start in [0, u64::MAX / 2, u64::MAX] {
        let mut found = store.pool_from(start, 10).expect("read");
        assert_eq!(found.len(), made.inboxes.len());
        found.sort_by_key(|member| member.inbox);
        found.dedup_by_key(|member| member.inbox);
        assert_eq!(found.len(), made.inboxes.len(), "nobody twice");
    }
    assert_eq!(store.pool_from(5, 2).expect("read").len(), 2);
}

proptest! {
    #[test]
    fn takes_of_many_batches_never_exceed_a_cap(takes in prop::collection::vec(0_u32..7, 1..30)) {
        let (store, _) = open(&MemDisk::new());
        let mut sum = 0;
        for n in takes {
            let mut batch = Batch::new();
            batch.take(take(n, 20)).take(take(n, 20));
            match commit(&store, batch) {
                Ok(_) => sum += 2 * n,
                Err(CommitError::BudgetFull(full)) => {
                    prop_assert!(sum + 2 * n > 20);
                    prop_assert_eq!(full.cap, 20);
                }
                Err(why) => panic!("{why}"),
            }
            prop_assert!(sum <= 20);
            let used = store.budget(&inboxgrove_model::budget::BudgetKey::Global);
            prop_assert_eq!(used.expect("read").hour_used, sum);
        }
    }
}
