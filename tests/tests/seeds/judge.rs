//! The judge is judged: whoever breaks a promise is found.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use inboxgrove_actors::Platform;
use inboxgrove_config::Config;
use inboxgrove_model::{
    DomainId, InboxId, MessageId, PolicyTime, TenantId,
    budget::{BudgetKey, Take, Window},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    inbox::Inbox,
    notice::{Notice, NoticeState},
    ports::Clock,
};
use inboxgrove_sim::world::addresses;
use inboxgrove_store::{Batch, Owner, RowChange, RowWrite, Scope, TableId, Witnessed};
use inboxgrove_tests::virtual_world::{
    house::House,
    invariants::{Past, Scene},
    neighbourhood::{Call, EPOCH, INBOUND, Neighbourhood, settings},
    people::{Account, Entries, Journal, Person, Sent},
    wire::{Heard, Transmission},
};

/// A house in which one person has moved in.
struct Court {
    around: Arc<Neighbourhood>,
    house: House,
    platform: Platform,
    account: Account,
    kept: Entries,
}

// === impl Court ===

impl Court {
    async fn opens() -> anyhow::Result<Self> {
        let around = Arc::new(Neighbourhood::build(1).await?);
        let rng = around.rng.stream("house");
        let (outside, wire) = (around.outside(), around.wire.clone());
        let mut house = House::build(settings()?, outside, wire, INBOUND, rng).await?;
        house.start().await?;
        let journal = Journal::default();
        let account = Person::new(&around, house.daemon(), &journal, 0)
            .move_in()
            .await?;
        let platform = house.daemon().platform().context("it is down")?;
        assert!(around.clock.policy().since(EPOCH) < Duration::from_hours(1));
        Ok(Self {
            kept: journal.entries(),
            around,
            house,
            platform,
            account,
        })
    }

    fn inbox(&self) -> anyhow::Result<Inbox> {
        let scope = Scope::Tenant(self.account.tenant);
        let inboxes = self.platform.store().page::<Inbox>(&scope, None, 100)?;
        inboxes.items.into_iter().next().context("no inbox")
    }

    /// What is seen, with nothing heard and nothing called.
    fn scene<'a>(&'a self, heard: &'a Heard, calls: &'a [Call]) -> Scene<'a> {
        Scene {
            store: self.platform.store(),
            config: self.house.config(),
            promised: &self.kept,
            heard,
            calls,
            now: self.platform.ports().clock.policy(),
            truth: self.around.clock.policy(),
            rotten: false,
            calm: false,
        }
    }

    /// What a look finds when this was heard.
    fn found(&self, transmissions: &[Transmission], ends: &[usize]) -> anyhow::Result<Vec<String>> {
        let heard = Heard {
            transmissions: transmissions.to_vec(),
            ends: ends.to_vec(),
        };
        let calls = self.around.vendors.calls();
        Ok(self.scene(&heard, &calls).look(&mut Past::default())?)
    }

    fn config(&self) -> &Config {
        self.house.config()
    }
}

/// A message that one of our addresses sent to the first provider at some minute after the hour.
fn sent_out(minute: u64, id: &str) -> Transmission {
    Transmission {
        began_at: EPOCH.after(Duration::from_mins(minute)),
        from: addresses::source(1),
        to: addresses::provider_host(0, 0),
        recipients: vec!["ann@friends-at-gmail.example".to_owned()],
        begun: true,
        message_id: format!("{id}@d0.company0.example"),
        complete: true,
        answer: Some(250),
        answer_seen: true,
    }
}

/// The one violation that was found.
fn only(found: &[String]) -> &str {
    match found {
        [why] => why,
        other => panic!("not one violation: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_missed() -> anyhow::Result<()> {
    let mut court = Court::opens().await?;
    assert_eq!(court.found(&[], &[])?, Vec::<String>::new());
    let inbox = court.inbox()?;
    court.kept.tenants.push(TenantId::from_bytes([9; 16]));
    court.kept.sent.push(Sent {
        tenant: court.account.tenant,
        inbox: inbox.id,
        message: MessageId::from_bytes([9; 16]),
        subject: "Lost".to_owned(),
    });
    assert_eq!(court.found(&[], &[])?.len(), 2);
    court.kept.tenants.pop();
    court.kept.sent.pop();
    let taken = Transmission {
        from: addresses::provider_host(0, 0),
        to: addresses::INBOUND,
        recipients: vec![inbox.address.key()],
        ..sent_out(0, "lost")
    };
    assert!(only(&court.found(&[taken], &[])?).contains("is lost"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cap_that_is_exceeded_is_seen_on_the_wires_and_in_the_counters() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let cap = usize::try_from(court.config().outbound.caps.source_site_per_hour)?;
    let flood: Vec<_> = (0..=cap)
        .map(|n| sent_out(20, &format!("msg{n}")))
        .collect();
    assert_eq!(court.found(&flood[..cap], &[])?, Vec::<String>::new());
    assert!(only(&court.found(&flood, &[])?).contains("the cap is"));
    // Booked in the hour before, which had room for all of them.
    let mut at_the_turn = flood;
    at_the_turn[0].began_at = EPOCH.after(Duration::from_mins(5));
    assert_eq!(court.found(&at_the_turn, &[])?, Vec::<String>::new());

    let heard = Heard::default();
    let mut config = court.config().clone();
    let window = |index| Window {
        index,
        cap: u32::MAX,
        ends_at: PolicyTime::from_millis(i64::MAX),
    };
    let now = court.platform.ports().clock.policy();
    let mut batch = Batch::new();
    batch.take(Take {
        budget: BudgetKey::Global,
        n: 100,
        hour: window(now.utc_hour()),
        day: window(now.utc_day()),
    });
    court.platform.store().commit(batch).await?;
    config.outbound.caps.global_per_hour = 99;
    let scene = Scene {
        config: &config,
        ..court.scene(&heard, &[])
    };
    let found = scene.glance(&mut Past::default(), &[])?;
    assert!(only(&found).contains("100 of 99 an hour"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn sending_twice_is_excused_by_what_nobody_could_know_alone() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let again = |seen| {
        let first = Transmission {
            answer_seen: seen,
            ..sent_out(1, "msg")
        };
        [first, sent_out(30, "msg")]
    };
    // The answer had been seen and nothing ended: both rules are broken.
    assert_eq!(court.found(&again(true), &[])?.len(), 2);
    // A run ended between the two, or the answer was never seen: still nobody has called it uncertain.
    assert!(only(&court.found(&again(true), &[1])?).contains("arrived 2 times"));
    assert!(only(&court.found(&again(false), &[])?).contains("arrived 2 times"));
    // Runs that ended before or after excuse nothing.
    assert_eq!(court.found(&again(true), &[0, 2])?.len(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn work_that_is_not_done_is_found_soon_and_in_calm() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let inbox = court.inbox()?;
    let (heard, mut past) = (Heard::default(), Past::default());
    let begun = court.scene(&heard, &[]);
    let minutes = |n| Scene {
        now: begun.now.after(Duration::from_mins(n)),
        truth: begun.truth.after(Duration::from_mins(n)),
        ..begun
    };
    // Nobody works on it: the daemon's clock stands still in this court.
    let mut batch = Batch::new();
    batch.put(&DueRow {
        at: begun.now.before(Duration::from_mins(1)),
        work: DueWork::Reply(
            inbox.tenant,
            InboxId::from_bytes([7; 16]),
            MessageId::from_bytes([7; 16]),
        ),
    });
    court.platform.store().commit(batch).await?;
    assert_eq!(begun.glance(&mut past, &[])?, Vec::<String>::new());
    assert_eq!(minutes(5).glance(&mut past, &[])?, Vec::<String>::new());
    let late = minutes(11).glance(&mut past, &[])?;
    assert!(only(&late).contains("though the house has been well"));
    // What befell the house meanwhile excuses it.
    past.unwell();
    assert_eq!(minutes(12).glance(&mut past, &[])?, Vec::<String>::new());
    // Two days later without a stroke of work.
    let calm = Scene {
        calm: true,
        ..minutes(48 * 60)
    };
    let late = calm.look(&mut Past::default())?;
    assert!(late.len() >= 2, "{late:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_than_its_owner_writes_is_found() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let heard = Heard::default();
    let written = court.house.disk().fetch_witnessed();
    assert!(written.len() > 10, "only {} commits", written.len());
    let judge = |commits: &[Witnessed]| {
        court
            .scene(&heard, &[])
            .glance(&mut Past::default(), commits)
    };
    assert_eq!(judge(&written)?, Vec::<String>::new());
    let inbox = court.inbox()?;
    let key = [*inbox.tenant.as_bytes(), *inbox.id.as_bytes()].concat();
    let change = |owners: Vec<Owner>, change| Witnessed {
        seq: 9,
        owners,
        rows: vec![RowWrite {
            table: TableId::Inbox,
            key: key.clone(),
            change,
        }],
    };
    let domain = Owner::Domain(inbox.tenant, inbox.domain);
    let stranger = Owner::Inbox(inbox.tenant, InboxId::from_bytes([9; 16]));
    let foreign = Owner::Domain(TenantId::from_bytes([9; 16]), DomainId::from_bytes([9; 16]));
    // Its domain makes it, and never touches it again.
    assert!(judge(&[change(vec![domain.clone()], RowChange::Made)])?.is_empty());
    for wrong in [
        change(vec![domain], RowChange::Written),
        change(vec![stranger], RowChange::Written),
        change(vec![foreign], RowChange::Made),
        change(vec![Owner::Outbound], RowChange::Removed),
        change(Vec::new(), RowChange::Written),
    ] {
        assert!(only(&judge(&[wrong])?).contains("a row of inboxes"));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn policy_time_that_goes_back_is_found() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let (heard, mut past) = (Heard::default(), Past::default());
    let scene = court.scene(&heard, &[]);
    let back = |seconds, heard| Scene {
        now: scene.now.before(Duration::from_secs(seconds)),
        heard,
        ..scene
    };
    assert!(scene.glance(&mut past, &[])?.is_empty());
    assert!(only(&back(1, &heard).glance(&mut past, &[])?).contains("went back"));
    // The end of a run may take it back to the last mark, of a minute ago, and not further.
    let ended = Heard {
        ends: vec![0],
        ..Heard::default()
    };
    let mut past = Past::default();
    assert!(scene.glance(&mut past, &[])?.is_empty());
    assert!(back(50, &ended).glance(&mut past, &[])?.is_empty());
    let mut past = Past::default();
    // The second look finds that there was room all the while.
    for _ in 0..2 {
        assert!(scene.glance(&mut past, &[])?.is_empty());
    }
    assert!(!back(70, &ended).glance(&mut past, &[])?.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_told_once_and_says_one_thing() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let heard = Heard::default();
    let calls = court.around.vendors.calls();
    let told = court
        .platform
        .store()
        .page::<Notice>(&Scope::All, None, 100)?;
    let told = told
        .items
        .into_iter()
        .find(|notice| notice.state == NoticeState::Told);
    let key = format!("notice-{}", told.context("no notice was told")?.id);
    let judge = |calls: &[Call]| court.scene(&heard, calls).look(&mut Past::default());
    assert_eq!(judge(&calls)?, Vec::<String>::new());
    let others: Vec<Call> = calls
        .iter()
        .filter(|call| call.key != key)
        .cloned()
        .collect();
    assert!(only(&judge(&others)?).contains("no vendor has it"));
    let mut again = calls.clone();
    again.extend(calls.iter().find(|call| call.key == key).cloned());
    assert!(only(&judge(&again)?).contains("was confirmed 2 times"));
    let last = again.last_mut().context("there are some")?;
    (last.body, last.confirmed) = (Bytes::from_static(b"something else"), false);
    assert!(only(&judge(&again)?).contains("two different things"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_log_that_loses_its_beginning_is_found() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let other = Court::opens().await?;
    // Another installation's past.
    let (heard, mut past) = (Heard::default(), Past::default());
    let mut batch = Batch::new();
    batch.event(Event {
        at: EPOCH.after(Duration::from_hours(1)),
        tenant: None,
        kind: EventKind::DomainAdded {
            domain: DomainId::from_bytes([1; 16]),
        },
    });
    other.platform.store().commit(batch).await?;
    assert!(other.scene(&heard, &[]).look(&mut past).is_ok());
    let ended = Heard {
        ends: vec![0],
        ..Heard::default()
    };
    let calls = court.around.vendors.calls();
    let found = court.scene(&ended, &calls).look(&mut past)?;
    assert!(only(&found).contains("are not what they were"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_is_not_the_sum_of_its_events_is_found() -> anyhow::Result<()> {
    let court = Court::opens().await?;
    let inbox = court.inbox()?;
    let mut batch = Batch::new();
    let counts = inboxgrove_model::inbox::DayCounts {
        delivered: 1,
        ..Default::default()
    };
    batch.count(inbox.tenant, inbox.id, EPOCH.utc_day(), "gmail", counts);
    court.platform.store().commit(batch).await?;
    assert!(only(&court.found(&[], &[])?).contains("its events sum up to"));
    Ok(())
}
