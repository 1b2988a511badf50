//! The tree from outside: who notices a neighbour's failures (nobody), and when an answer may come (after its commit).
//!
//! - `tree/supervision.rs`: whoever is killed is back, and nothing is lost;
//! - `tree/bounds.rs`: what is refused at which limit, and that it is taken again.

mod bounds;
mod supervision;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use inboxgrove_actors::{
    Platform, Refusal,
    platform::{NewAccount, NewDomain, NewMessage, TreeNode, TreeQuery},
};
use inboxgrove_config::Config;
use inboxgrove_model::{DomainName, EmailAddress, TenantId, inbox::Inbox};
use inboxgrove_store::Scope;
use inboxgrove_tests::virtual_world::{
    house::House,
    neighbourhood::{INBOUND, Neighbourhood, friend, settings},
    people::{Journal, Person, hand_over},
};
use tokio::{task::JoinHandle, time::Instant};

/// Failures that an inbox's budget forgives within ten seconds; the next one parks it.
const FORGIVEN: usize = 5;
/// Longer than anything that answers without its commit could take.
const WITHHELD: Duration = Duration::from_secs(5);

/// A world in calm with some people in it.
struct Village {
    around: Arc<Neighbourhood>,
    house: House,
    platform: Platform,
    inboxes: Vec<Vec<Inbox>>,
}

impl Village {
    async fn build(people: usize) -> anyhow::Result<Self> {
        Self::build_with(people, settings()?).await
    }

    async fn build_with(people: usize, config: Config) -> anyhow::Result<Self> {
        let around = Arc::new(Neighbourhood::build(1).await?);
        let rng = around.rng.stream("house");
        let (outside, wire) = (around.outside(), around.wire.clone());
        let mut house = House::build(config, outside, wire, INBOUND, rng).await?;
        house.start().await?;
        let (journal, platform) = (
            Journal::default(),
            house.daemon().platform().context("it is down")?,
        );
        let mut inboxes = Vec::new();
        for n in 0..people {
            let account = Person::new(&around, house.daemon(), &journal, n)
                .move_in()
                .await?;
            let scope = Scope::Tenant(account.tenant);
            inboxes.push(platform.store().page::<Inbox>(&scope, None, 100)?.items);
        }
        Ok(Self {
            around,
            house,
            platform,
            inboxes,
        })
    }

    /// The node of this address, if it is in the tree.
    async fn node(&self, address: &str) -> Option<TreeNode> {
        let nodes = self.platform.tree(&address.into()).await.nodes;
        nodes.into_iter().find(|node| node.address == address)
    }

    /// Sends a letter, and how long that took.
    async fn send(&self, from: &Inbox) -> (Result<(), Refusal>, Duration) {
        let begun = Instant::now();
        let sent = self
            .platform
            .send(from.tenant, from.id, letter(), None)
            .await;
        (sent.map(drop), begun.elapsed())
    }
}

fn letter() -> NewMessage {
    NewMessage {
        to: vec![friend("gmail", 0).expect("an address")],
        subject: "A letter".to_owned(),
        text: "All is well.\n".to_owned(),
        html: None,
        in_reply_to: None,
        list_unsubscribe: None,
    }
}

fn newcomer(name: &str) -> NewAccount {
    NewAccount {
        company: name.to_owned(),
        email: EmailAddress::parse(&format!("{name}@customers.example")).expect("an address"),
        password_hash: "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
            .to_owned()
            .into(),
        time_zone: "UTC".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_fails_in_a_loop_is_parked_and_its_neighbours_notice_nothing()
-> anyhow::Result<()> {
    let village = Village::build(2).await?;
    let (ours, theirs) = (&village.inboxes[0], &village.inboxes[1]);
    let (sick, sibling, stranger) = (&ours[0], &ours[1], &theirs[0]);
    let usual = village.send(sibling).await;
    assert_eq!(usual.0, Ok(()));
    for n in 0..=FORGIVEN {
        village
            .platform
            .fail_inbox(sick.tenant, sick.id, "a bug that always strikes")?;
        for neighbour in [sibling, stranger] {
            let (sent, took) = village.send(neighbour).await;
            // Budgets are met, too, in this loop; that is an answer as quick as any.
            assert!(
                matches!(sent, Ok(()) | Err(Refusal::Budget(_))),
                "after {n} failures: {sent:?}"
            );
            assert!(
                took <= usual.1,
                "after {n} failures it took {took:?}, usually {:?}",
                usual.1
            );
        }
    }
    let parked = village.send(sick).await.0;
    assert!(matches!(parked, Err(Refusal::Parked { .. })), "{parked:?}");
    let address = format!("inbox/{}", sick.id);
    let node = village.node(&address).await.context("it is in the tree")?;
    assert_eq!((node.state, node.restarts), ("parked", 6));
    assert!(
        node.last_failure
            .is_some_and(|why| why.contains("a bug that always strikes"))
    );
    for node in village.platform.tree(&TreeQuery::default()).await.nodes {
        assert!(
            node.address == address || node.restarts == 0,
            "{node:?} has noticed"
        );
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    let still = village.send(sick).await.0;
    assert!(
        matches!(still, Err(Refusal::Parked { .. })),
        "time alone frees nobody: {still:?}"
    );
    village.platform.unpark(&address).await?;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(village.send(sick).await.0, Ok(()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn mail_to_a_parked_inbox_waits_at_its_sender() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let sick = &village.inboxes[0][0];
    for _ in 0..=FORGIVEN {
        village.platform.fail_inbox(sick.tenant, sick.id, "again")?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let text = b"From: <stranger@strangers.example>\r\nMessage-ID: <one@strangers.example>\r\n\r\nHello.\r\n";
    assert!(
        !hand_over(&*village.around.tapped, &sick.address, text).await?,
        "it is told to come again"
    );
    village
        .platform
        .unpark(&format!("inbox/{}", sick.id))
        .await?;
    assert!(hand_over(&*village.around.tapped, &sick.address, text).await?);
    let answers: Vec<_> = village
        .around
        .wire
        .seen()
        .transmissions
        .into_iter()
        .filter(|seen| seen.to == INBOUND.ip())
        .collect();
    let codes: Vec<_> = answers.iter().map(|seen| seen.answer).collect();
    assert_eq!(codes, [Some(451), Some(250)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_call_is_answered_before_its_commit() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let inbox = village.inboxes[0][0].clone();
    let domain = DomainName::parse("another.example")?;
    let (tenant, id) = (inbox.tenant, inbox.id);
    withheld(&village, "register", |platform| async move {
        platform.register(newcomer("newcomer")).await.map(drop)
    })
    .await?;
    withheld(&village, "add_domain", |platform| async move {
        let new = NewDomain {
            name: domain,
            mail_hosts: Vec::new(),
        };
        platform.add_domain(tenant, new, None).await.map(drop)
    })
    .await?;
    withheld(&village, "send", |platform| async move {
        platform.send(tenant, id, letter(), None).await.map(drop)
    })
    .await?;
    withheld(&village, "pause_warmup", |platform| async move {
        platform.pause_warmup(tenant, id).await.map(drop)
    })
    .await?;
    withheld(&village, "start_warmup", |platform| async move {
        platform.start_warmup(tenant, id).await.map(drop)
    })
    .await?;
    withheld(&village, "rotate_credential", |platform| async move {
        platform.rotate_credential(tenant, id).await.map(drop)
    })
    .await?;
    withheld(&village, "delete_inbox", |platform| async move {
        platform.delete_inbox(tenant, id).await
    })
    .await?;
    Ok(())
}

/// Asks while no sync comes back: there is no answer. Syncs come back: there is one.
async fn withheld<F>(
    village: &Village,
    what: &str,
    ask: impl FnOnce(Platform) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Refusal>> + Send + 'static,
{
    let disk = village.house.disk();
    disk.hold_syncs();
    let asked: JoinHandle<Result<(), Refusal>> = tokio::spawn(ask(village.platform.clone()));
    tokio::time::sleep(WITHHELD).await;
    assert!(disk.held_syncs() > 0, "{what} commits nothing");
    assert!(
        !asked.is_finished(),
        "{what} was answered before its commit: {:?}",
        asked.await
    );
    // A call may need several commits, one after the other: each of them is withheld, too.
    let mut rounds = 0;
    while !asked.is_finished() {
        disk.release_syncs();
        disk.hold_syncs();
        tokio::time::sleep(Duration::from_millis(10)).await;
        rounds += 1;
        assert!(rounds < 100, "{what} is never answered");
    }
    disk.release_syncs();
    asked.await?.with_context(|| what.to_owned())
}

#[tokio::test(start_paused = true)]
async fn smtp_says_250_after_the_commit_and_not_before() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let to = village.inboxes[0][0].address.clone();
    let disk = village.house.disk();
    disk.hold_syncs();
    let net = Arc::clone(&village.around.tapped);
    let handing = tokio::spawn(async move {
        let text = b"From: <stranger@strangers.example>\r\nMessage-ID: <slow@strangers.example>\r\n\r\nHello.\r\n";
        hand_over(&*net, &to, text).await
    });
    tokio::time::sleep(WITHHELD).await;
    let seen = |village: &Village| {
        village
            .around
            .wire
            .seen()
            .transmissions
            .into_iter()
            .find(|seen| seen.message_id == "slow@strangers.example")
    };
    let waiting = seen(&village).context("nothing was sent")?;
    assert_eq!(
        (waiting.complete, waiting.answer),
        (true, None),
        "the final dot has no answer yet"
    );
    assert!(disk.held_syncs() > 0);
    disk.release_syncs();
    assert!(handing.await??);
    assert_eq!(seen(&village).and_then(|seen| seen.answer), Some(250));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_commit_is_no_answer() -> anyhow::Result<()> {
    let mut village = Village::build(1).await?;
    let inbox = village.inboxes[0][0].clone();
    let disk = village.house.disk().clone();
    disk.hold_syncs();
    let platform = village.platform.clone();
    let (tenant, id): (TenantId, _) = (inbox.tenant, inbox.id);
    let asked = tokio::spawn(async move { platform.send(tenant, id, letter(), None).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let accident = inboxgrove_store::Stop::Power { kept: 0 };
    village.house.accident(accident).await;
    let answer = asked.await?;
    assert!(answer.is_err(), "{answer:?}");
    village.house.start().await?;
    let platform = village.house.daemon().platform().context("it is down")?;
    let page = platform
        .store()
        .page::<inboxgrove_model::message::Message>(&Scope::Inbox(tenant, id), None, 500)?;
    assert!(
        page.items
            .iter()
            .all(|message| message.subject != "A letter"),
        "it was never acknowledged"
    );
    Ok(())
}
