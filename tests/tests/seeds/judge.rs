//! The judge is judged: whoever breaks a promise is found.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use inboxgrove_config::Config;
use inboxgrove_model::{MessageId, TenantId, inbox::Inbox, ports::Clock};
use inboxgrove_sim::world::addresses;
use inboxgrove_store::{Scope, Store};
use inboxgrove_tests::virtual_world::{
    house::House,
    invariants::{Inspection, Past},
    neighbourhood::{EPOCH, INBOUND, Neighbourhood, settings},
    people::{Entries, Journal, Person, Sent},
    wire::Transmission,
};

/// What an inspection of this store finds when it is told these things.
fn found(
    store: &Store,
    config: &Config,
    promised: &Entries,
    heard: &[Transmission],
    hours: u64,
) -> anyhow::Result<Vec<String>> {
    let now = EPOCH.after(Duration::from_hours(hours));
    let inspection = Inspection::new(store, config, promised, heard, now, hours > 1);
    Ok(inspection.look(&mut Past::default())?)
}

/// A message that one of our addresses sent to the first provider at some minute after the hour.
fn sent_out(minute: u64, id: &str) -> Transmission {
    Transmission {
        began_at: EPOCH.after(Duration::from_mins(minute)),
        from: addresses::source(1),
        to: addresses::provider_host(0, 0),
        recipients: vec!["ann@friends-at-gmail.example".to_owned()],
        message_id: format!("{id}@d0.company0.example"),
        complete: true,
        answer: Some(250),
    }
}

#[tokio::test(start_paused = true)]
async fn every_broken_promise_is_found() -> anyhow::Result<()> {
    let around = Arc::new(Neighbourhood::build(1).await?);
    let rng = around.rng.stream("house");
    let mut house = House::build(settings()?, around.outside(), INBOUND, rng).await?;
    house.start().await?;
    let journal = Journal::default();
    let account = Person::new(&around, house.daemon(), &journal, 0)
        .move_in()
        .await?;
    let platform = house.daemon().platform().context("it is down")?;
    let (store, config) = (platform.store(), house.config());
    let inboxes = store.page::<Inbox>(&Scope::Tenant(account.tenant), None, 100)?;
    let inbox = inboxes.items.first().context("no inbox")?;
    let (kept, calm_at) = (journal.entries(), around.clock.policy().since(EPOCH));
    assert!(calm_at < Duration::from_hours(1));
    assert_eq!(found(store, config, &kept, &[], 0)?, Vec::<String>::new());

    let mut lost = kept.clone();
    lost.tenants.push(TenantId::from_bytes([9; 16]));
    lost.sent.push(Sent {
        tenant: account.tenant,
        inbox: inbox.id,
        message: MessageId::from_bytes([9; 16]),
        subject: "Lost".to_owned(),
    });
    assert_eq!(found(store, config, &lost, &[], 0)?.len(), 2);

    let taken = Transmission {
        from: addresses::provider_host(0, 0),
        to: addresses::INBOUND,
        recipients: vec![inbox.address.key()],
        ..sent_out(0, "lost")
    };
    assert!(
        matches!(&*found(store, config, &kept, &[taken], 0)?, [why] if why.contains("is lost"))
    );

    let cap = usize::try_from(config.outbound.caps.source_site_per_hour)?;
    let flood: Vec<_> = (0..=cap)
        .map(|n| sent_out(20, &format!("msg{n}")))
        .collect();
    assert_eq!(
        found(store, config, &kept, &flood[..cap], 0)?,
        Vec::<String>::new()
    );
    assert!(
        matches!(&*found(store, config, &kept, &flood, 0)?, [why] if why.contains("the cap is"))
    );
    // Booked in the hour before, which had room for all of them.
    let mut at_the_turn = flood;
    at_the_turn[0].began_at = EPOCH.after(Duration::from_mins(5));
    assert_eq!(
        found(store, config, &kept, &at_the_turn, 0)?,
        Vec::<String>::new()
    );

    let twice = [sent_out(1, "msg"), sent_out(30, "msg")];
    assert!(
        matches!(&*found(store, config, &kept, &twice, 0)?, [why] if why.contains("arrived 2 times"))
    );

    // Two days later without a stroke of work.
    let late = found(store, config, &kept, &[], 48)?;
    assert!(late.len() >= inboxes.items.len(), "{late:?}");
    Ok(())
}
