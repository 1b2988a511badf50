//! Whoever is killed is back, and nothing is lost: operators' `admin kill`, which ends an actor in the middle of
//! whatever it does.

use std::{future::Future, time::Duration};

use anyhow::{Context, ensure};
use inboxgrove_actors::Refusal;
use inboxgrove_model::{
    inbox::Inbox,
    message::{Message, QueueEntry, RecipientState},
    notice::Notice,
    tenant::SuspensionReason,
};
use inboxgrove_store::Scope;
use inboxgrove_tests::virtual_world::{neighbourhood::settings, people::hand_over};
use tokio::time::{Instant, sleep};

use super::{Village, letter};

const WHY: &str = "killed by a test";
/// A service's budget forgives ten failures in a minute.
const APART: Duration = Duration::from_secs(7);
const FORGIVEN_OF_SERVICE: usize = 10;
/// Longer than any backoff of a service.
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// Longer than an uncertain or delayed message waits for its next try.
const DELIVERED_WITHIN: Duration = Duration::from_mins(30);
const STRANGERS: &[u8] =
    b"From: <stranger@strangers.example>\r\nMessage-ID: <one@strangers.example>\r\n\r\nHello.\r\n";

impl Village {
    /// Asks something that changes nothing of the actor at an address, and how long the answer took.
    async fn question(&self, address: &str, of: &Inbox) -> (Result<(), Refusal>, Duration) {
        let begun = Instant::now();
        let answer = match address.split('/').next() {
            Some("tenant") => self.platform.resume(of.tenant).await.map(drop),
            Some("inbox") => self.platform.start_warmup(of.tenant, of.id).await.map(drop),
            _ => match self.platform.remove_domain(of.tenant, of.domain).await {
                Err(Refusal::Conflict {
                    code: "domain_in_use",
                    ..
                }) => Ok(()),
                other => other,
            },
        };
        (answer, begun.elapsed())
    }

    /// What is left to send.
    fn queued(&self) -> anyhow::Result<Vec<QueueEntry>> {
        Ok(self
            .platform
            .store()
            .page::<QueueEntry>(&Scope::All, None, 500)?
            .items)
    }

    /// Recipients of an inbox's letters and how they fared.
    fn fates(&self, from: &Inbox) -> anyhow::Result<Vec<RecipientState>> {
        let scope = Scope::Inbox(from.tenant, from.id);
        let messages = self.platform.store().page::<Message>(&scope, None, 500)?;
        let letters = messages
            .items
            .into_iter()
            .filter(|message| message.subject == "A letter");
        Ok(letters
            .flat_map(|message| message.recipients)
            .map(|recipient| recipient.state)
            .collect())
    }

    fn notices(&self) -> anyhow::Result<usize> {
        let page = self
            .platform
            .store()
            .page::<Notice>(&Scope::All, None, 500)?;
        Ok(page
            .items
            .iter()
            .filter(|notice| notice.code == "tenant_suspended")
            .count())
    }
}

/// Waits for something, in simulated time.
async fn until<F: Future<Output = anyhow::Result<bool>>>(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> F,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "waited too long for {what}");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn addresses(of: &Inbox) -> [String; 3] {
    [
        format!("tenant/{}", of.tenant),
        format!("domain/{}", of.domain),
        format!("inbox/{}", of.id),
    ]
}

#[tokio::test(start_paused = true)]
async fn whoever_is_killed_answers_the_next_question_and_no_neighbour_waits() -> anyhow::Result<()>
{
    let village = Village::build(3).await?;
    let neighbour = &village.inboxes[2][0];
    let mut usual = Vec::new();
    for address in addresses(neighbour) {
        usual.push(village.question(&address, neighbour).await.1);
    }
    for of in village.inboxes[..2].iter().flatten() {
        for address in addresses(of) {
            let (before, took) = village.question(&address, of).await;
            assert_eq!(before, Ok(()), "{address}");
            let restarts = village.node(&address).await.map_or(0, |node| node.restarts);
            village.platform.kill(&address, WHY).await?;
            let after = village.question(&address, of).await;
            assert_eq!(after.0, Ok(()), "{address} after it was killed");
            assert!(
                after.1 <= took,
                "{address} needed {:?}, usually {took:?}",
                after.1
            );
            for (address, usual) in addresses(neighbour).iter().zip(&usual) {
                let asked = village.question(address, neighbour).await;
                assert_eq!(asked.0, Ok(()), "{address}");
                assert!(asked.1 <= *usual, "{address} waited {:?}", asked.1);
            }
            let node = village.node(&address).await.context("it is in the tree")?;
            assert_eq!(
                (node.state, node.restarts, node.last_failure.as_deref()),
                ("running", restarts + 1, Some(WHY)),
                "{address}"
            );
            // Its budget counts what happens within ten seconds.
            sleep(Duration::from_secs(11)).await;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_hangs_can_be_killed_and_its_late_commit_is_no_answer() -> anyhow::Result<()>
{
    let village = Village::build(1).await?;
    let inbox = village.inboxes[0][0].clone();
    let disk = village.house.disk().clone();
    disk.hold_syncs();
    let (platform, tenant, id) = (village.platform.clone(), inbox.tenant, inbox.id);
    let asked = tokio::spawn(async move { platform.send(tenant, id, letter(), None).await });
    sleep(Duration::from_secs(1)).await;
    assert!(!asked.is_finished(), "it hangs in its commit");
    village
        .platform
        .kill(&format!("inbox/{}", inbox.id), WHY)
        .await?;
    let answer = asked.await?;
    assert!(matches!(answer, Err(Refusal::Unknown { .. })), "{answer:?}");
    disk.release_syncs();
    assert_eq!(village.send(&inbox).await.0, Ok(()), "its successor works");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_killed_for_ever_is_parked_alone() -> anyhow::Result<()> {
    let village = Village::build(2).await?;
    let (sick, well) = (&village.inboxes[0][0], &village.inboxes[1][0]);
    let address = format!("tenant/{}", sick.tenant);
    for _ in 0..=super::FORGIVEN {
        assert_eq!(village.question(&address, sick).await.0, Ok(()));
        village.platform.kill(&address, WHY).await?;
        let others = format!("tenant/{}", well.tenant);
        assert_eq!(village.question(&others, well).await.0, Ok(()));
    }
    let parked = village.question(&address, sick).await.0;
    assert!(matches!(parked, Err(Refusal::Parked { .. })), "{parked:?}");
    assert_eq!(
        village.send(sick).await.0,
        Ok(()),
        "its inboxes are actors of their own"
    );
    village.platform.unpark(&address).await?;
    assert_eq!(village.question(&address, sick).await.0, Ok(()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_killed_puts_its_mail_back_and_none_is_lost() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let from = &village.inboxes[0][0];
    for _ in 0..3 {
        assert_eq!(village.send(from).await.0, Ok(()));
    }
    until("a site", Duration::from_mins(1), async || {
        Ok(village
            .platform
            .tree(&"site".into())
            .await
            .nodes
            .iter()
            .any(|node| node.state == "running"))
    })
    .await?;
    let mut killed = 0;
    for node in village.platform.tree(&"site".into()).await.nodes {
        if village.platform.kill(&node.address, WHY).await.is_ok() {
            killed += 1;
        }
    }
    assert!(killed > 0);
    until("the letters", DELIVERED_WITHIN, async || {
        let fates = village.fates(from)?;
        Ok(fates.len() == 3 && fates.iter().all(|fate| *fate == RecipientState::Delivered))
    })
    .await?;
    let failed = village.platform.tree(&"failed".into()).await;
    assert_eq!(failed.nodes.len(), killed, "{:?}", failed.nodes);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn services_that_are_killed_apart_are_back_each_time_and_lose_nothing() -> anyhow::Result<()>
{
    let village = Village::build(2).await?;
    let (ours, theirs) = (&village.inboxes[0], &village.inboxes[1]);
    let tenant = theirs[0].tenant;
    let (mut sent, mut told) = (0, 0);
    // More often than the budget forgives at once.
    for round in 0..FORGIVEN_OF_SERVICE + 2 {
        let from = &ours[round % ours.len()];
        match village.send(from).await.0 {
            Ok(()) => sent += 1,
            // Budgets and bands are met, too, in these days.
            Err(Refusal::Budget(_) | Refusal::Gated { .. }) => {}
            Err(why) => anyhow::bail!("round {round}: {why}"),
        }
        for service in ["outbound", "notifier", "inbound"] {
            village.platform.kill(service, WHY).await?;
        }
        if round % 4 == 0 {
            // It is told while nobody listens, of a subject that has not been told of today.
            village
                .platform
                .suspend(tenant, SuspensionReason::Manual, "a test".to_owned())
                .await?;
            village.platform.resume(tenant).await?;
            told += 1;
            sleep(Duration::from_hours(25)).await;
        } else {
            sleep(APART).await;
        }
        for service in ["outbound", "notifier", "inbound"] {
            let node = village.node(service).await.context(service)?;
            assert_eq!(node.state, "running", "{service} in round {round}");
            assert_eq!(node.restarts as usize, round + 1, "{service}");
        }
        assert_eq!(village.notices()?, told, "round {round}");
        let kept = hand_over(&*village.around.tapped, &theirs[0].address, STRANGERS).await?;
        assert!(kept, "inbound in round {round}");
    }
    until("the letters", Duration::from_hours(48), async || {
        let mut fates = Vec::new();
        for inbox in ours {
            fates.extend(village.fates(inbox)?);
        }
        Ok(fates.len() == sent && fates.iter().all(|fate| fate.is_final()))
    })
    .await?;
    ensure!(sent > 4, "too few letters to prove anything: {sent}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn services_that_are_killed_in_a_loop_are_parked_reported_and_can_be_freed()
-> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let inbox = village.inboxes[0][0].clone();
    for service in ["outbound", "notifier", "inbound"] {
        let mut kills = 0;
        while village.node(service).await.context(service)?.state != "parked" {
            // It may just wait to be started again.
            if village.platform.kill(service, WHY).await.is_ok() {
                kills += 1;
            }
            assert!(kills < 20, "{service} is never parked");
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(kills, FORGIVEN_OF_SERVICE + 1, "{service}");
        let unwell: Vec<_> = village
            .platform
            .components()
            .into_iter()
            .filter(|part| !part.ok)
            .map(|part| part.name)
            .collect();
        assert_eq!(unwell, [service]);
        assert_eq!(village.send(&inbox).await.0, Ok(()), "others go on");
        sleep(Duration::from_hours(1)).await;
        village.platform.unpark(service).await?;
        sleep(BACK_WITHIN).await;
        assert_eq!(
            village.node(service).await.context(service)?.state,
            "running"
        );
    }
    until("an empty queue", DELIVERED_WITHIN, async || {
        Ok(village.queued()?.is_empty())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn who_may_not_be_killed_is_not_and_who_sleeps_has_nothing_to_end() -> anyhow::Result<()> {
    let village = Village::build_with(1, settings()?).await?;
    for service in ["vault", "directory", "clock"] {
        let refused = village.platform.kill(service, WHY).await;
        assert!(
            matches!(
                refused,
                Err(Refusal::Conflict {
                    code: "fatal_service",
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    let nobody = format!("inbox/{}", inboxgrove_model::InboxId::from_bytes([9; 16]));
    for address in [nobody.as_str(), "site/127.0.0.1/nowhere", "nonsense"] {
        let refused = village.platform.kill(address, WHY).await;
        assert!(
            matches!(refused, Err(Refusal::NotFound { .. })),
            "{refused:?}"
        );
    }
    Ok(())
}
