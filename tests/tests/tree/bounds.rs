//! What is refused at which limit, with which answer, and that it is taken again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use inboxgrove_actors::{
    Refusal,
    platform::{NewMessage, TreeQuery},
};
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime,
    event::{EventKind, LoggedEvent},
    inbox::{EvidenceDay, Inbox},
    message::{Message, QueueEntry, RecipientState},
    ports::{Clock, Net},
};
use inboxgrove_store::{Batch, Owner, Scope, TableId};
use inboxgrove_tests::virtual_world::{
    neighbourhood::{INBOUND, friend, settings},
    people::hand_over,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    sync::broadcast::Receiver,
    time::{sleep, timeout},
};

use super::{Village, letter};

/// Letters that may wait for one actor.
const DEPTH_MAX: usize = 128;
const CEILING: u64 = 1000;
/// Sooner than any connection is tired of idling.
const SOON: Duration = Duration::from_secs(10);

/// A message from a stranger of so many KiB.
fn mail(kib: usize) -> Vec<u8> {
    let mut text =
        b"From: <stranger@strangers.example>\r\nMessage-ID: <big@strangers.example>\r\n\r\n"
            .to_vec();
    let line = [b"x".repeat(62), b"\r\n".to_vec()].concat();
    text.extend(line.repeat(kib * 16));
    text
}

/// Resolves when a message has been tried once more.
async fn tried_within(
    within: Duration,
    events: &mut Receiver<Arc<Vec<LoggedEvent>>>,
    sent: MessageId,
) -> anyhow::Result<()> {
    let tried = |logged: &LoggedEvent| {
        matches!(
            logged.event.kind,
            EventKind::MessageDelivered { message, .. } | EventKind::MessageDeferred { message, .. }
                if message == sent
        )
    };
    let heard = timeout(within, async {
        while !events.recv().await?.iter().any(tried) {}
        anyhow::Ok(())
    });
    heard.await.with_context(|| format!("{sent} waits"))?
}

impl Village {
    /// Sends a letter to somebody, and resolves when it has been tried, which must be soon.
    async fn try_soon(&self, from: &Inbox, to: EmailAddress) -> anyhow::Result<MessageId> {
        let mut events = self.platform.store().subscribe();
        let letter = NewMessage {
            to: vec![to],
            ..letter()
        };
        let sent = self.platform.send(from.tenant, from.id, letter, None);
        let sent = sent.await?.value.id;
        tried_within(SOON, &mut events, sent).await?;
        Ok(sent)
    }

    /// Flips a bit of a row of this table whose key has these bytes.
    fn flip_row(&self, table: TableId, of: &[u8]) -> anyhow::Result<()> {
        let disk = self.house.disk();
        let is_it =
            |key: &&Vec<u8>| key[0] == table.byte() && key.windows(of.len()).any(|part| part == of);
        let keys = disk.row_keys();
        let key = keys.iter().find(is_it).context("there is such a row")?;
        ensure!(disk.flip_row(key, 30), "it is too short");
        Ok(())
    }

    /// How the last stranger's message was answered at its final dot.
    fn last_answer(&self) -> Option<u16> {
        let seen = self.around.wire.seen();
        let last = seen
            .transmissions
            .iter()
            .rfind(|seen| seen.to == INBOUND.ip() && seen.message_id == "big@strangers.example");
        last.and_then(|seen| seen.answer)
    }
}

#[tokio::test(start_paused = true)]
async fn an_actors_mailbox_is_full_at_its_limit_and_its_neighbours_is_not() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let (busy, idle) = (village.inboxes[0][0].clone(), village.inboxes[0][1].clone());
    let disk = village.house.disk().clone();
    disk.hold_syncs();
    let ask = || {
        let (platform, tenant, id) = (village.platform.clone(), busy.tenant, busy.id);
        tokio::spawn(async move { platform.send(tenant, id, letter(), None).await })
    };
    let asked: Vec<_> = (0..DEPTH_MAX + 10).map(|_| ask()).collect();
    sleep(Duration::from_secs(1)).await;
    let mut refused = 0;
    let mut waiting = Vec::new();
    for asked in asked {
        if asked.is_finished() {
            let answer = asked.await?;
            assert!(matches!(answer, Err(Refusal::Busy { .. })), "{answer:?}");
            refused += 1;
        } else {
            waiting.push(asked);
        }
    }
    assert_eq!((refused, waiting.len()), (10, DEPTH_MAX));
    let node = village.node(&format!("inbox/{}", busy.id)).await;
    assert_eq!(node.map(|node| node.depth), Some(DEPTH_MAX));
    let tree = village.platform.tree(&TreeQuery::default()).await;
    assert!(tree.letters.0 >= DEPTH_MAX && tree.letters.0 < tree.letters.1);
    disk.release_syncs();
    for asked in waiting {
        let answer = asked.await?;
        assert!(
            matches!(answer, Ok(_) | Err(Refusal::Budget(_))),
            "{answer:?}"
        );
    }
    let sent = village.send(&idle).await.0;
    assert!(matches!(sent, Ok(()) | Err(Refusal::Budget(_))), "{sent:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_idles_keeps_no_other_site_waiting() -> anyhow::Result<()> {
    let mut config = settings()?;
    config.outbound.concurrency.connections = 1;
    let village = Village::build_with(1, config).await?;
    let from = &village.inboxes[0][0];
    for provider in ["gmail", "yahoo", "outlook"] {
        village.try_soon(from, friend(provider, 0)?).await?;
    }
    Ok(())
}

/// A fast clock stands still while anybody is at work, and a drain waits for them.
#[tokio::test(start_paused = true)]
async fn a_stranger_who_stays_connected_is_no_work() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let activity = &village.platform.ports().activity;
    let net = &*village.around.tapped;
    let mut stream = BufStream::new(net.connect(None, INBOUND).await?);
    let to = &village.inboxes[0][0].address;
    let mut line = String::new();
    for (said, answer) in [
        (String::new(), "220 "),
        ("EHLO strangers.example\r\n".to_owned(), "250 "),
        (
            "MAIL FROM:<stranger@strangers.example>\r\n".to_owned(),
            "250 ",
        ),
        (format!("RCPT TO:<{to}>\r\n"), "250 "),
        ("DATA\r\n".to_owned(), "354 "),
        (
            "From: <stranger@strangers.example>\r\n\r\nHello.\r\n.\r\n".to_owned(),
            "250 ",
        ),
    ] {
        stream.write_all(said.as_bytes()).await?;
        stream.flush().await?;
        while !line.starts_with(answer) {
            line.clear();
            let read = stream.read_line(&mut line).await?;
            ensure!(read > 0, "it hung up");
        }
        line.clear();
        assert!(
            !said.starts_with("RCPT") || activity.busy() > 0,
            "it is at work"
        );
    }
    timeout(SOON, activity.idle())
        .await
        .context("it stays at work")?;
    stream.write_all(b"NOOP\r\n").await?;
    stream.flush().await?;
    stream.read_line(&mut line).await?;
    assert!(line.starts_with("250 "), "{line}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_outcome_waits_until_the_row_that_it_counts_in_is_healed() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let from = &village.inboxes[0][0];
    let store = village.platform.store();
    let counts = |what: &str| -> anyhow::Result<u32> {
        let days = store.evidence(from.tenant, from.id, 0);
        let days = days.with_context(|| what.to_owned())?;
        let tried = |day: &EvidenceDay| day.counts.delivered + day.counts.deferred;
        Ok(days.iter().map(tried).sum())
    };
    let friend = friend("gmail", 0)?;
    village.try_soon(from, friend.clone()).await?;
    assert_eq!(counts("the first")?, 1);
    village.flip_row(TableId::Evidence, from.id.as_bytes())?;
    village.try_soon(from, friend).await?;
    assert_eq!(counts("after it was healed")?, 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn mail_whose_row_was_met_damaged_goes_on_once_it_is_healed() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let mut events = village.platform.store().subscribe();
    let sent = village.try_soon(&village.inboxes[0][0], friend("yahoo", 0)?);
    let sent = sent.await?;
    tried_within(SOON, &mut events, sent).await?;
    // It was greylisted: its row is read again when it is due.
    village.flip_row(TableId::Message, sent.as_bytes())?;
    tried_within(Duration::from_hours(2), &mut events, sent).await
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_only_the_messages_row_knows_is_told_and_counted() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let (from, store) = (&village.inboxes[0][0], village.platform.store());
    // It is greylisted, and waits.
    let sent = village.try_soon(from, friend("yahoo", 0)?).await?;
    let key = (from.tenant, from.id, sent);
    let mut message = store.get::<Message>(&key)?.context("its row")?;
    let queue = store.page::<QueueEntry>(&Scope::All, None, 10)?.items;
    let [waiting] = &queue[..] else {
        anyhow::bail!("{queue:?}");
    };
    message.recipients[0].state = RecipientState::Delivered;
    message.recipients[0].attempts += 1;
    message.recipients[0].last_reply = "250 kept".to_owned();
    let lease = store.own(Owner::Outbound).await?;
    let mut batch = Batch::new();
    batch.by(&lease).put(&message).put(&QueueEntry {
        attempting: true,
        ..waiting.clone()
    });
    store.commit(batch).await?;
    let mut events = store.subscribe();
    village.platform.kill("outbound", "a test").await?;
    tried_within(Duration::from_hours(2), &mut events, sent).await?;
    let days = store.evidence(from.tenant, from.id, 0)?;
    let delivered = days
        .iter()
        .map(|day| (&*day.provider, day.counts.delivered));
    let delivered: Vec<_> = delivered.filter(|(_, count)| *count > 0).collect();
    assert_eq!(delivered, [("unknown", 1)]);
    assert_eq!(store.get::<Message>(&key)?, Some(message));
    assert!(
        store
            .page::<QueueEntry>(&Scope::All, None, 10)?
            .items
            .is_empty()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_stranger_fills_no_inbox_beyond_its_day() -> anyhow::Result<()> {
    let mut config = settings()?;
    config.inbound.limits.inbox_mib_per_day = 1;
    let village = Village::build_with(1, config).await?;
    let (full, other) = (&village.inboxes[0][0], &village.inboxes[0][1]);
    let net = &*village.around.tapped;
    for n in 0..3 {
        assert!(
            hand_over(net, &full.address, &mail(300)).await?,
            "message {n}"
        );
    }
    assert!(
        !hand_over(net, &full.address, &mail(300)).await?,
        "it has received 900 KiB of 1,024"
    );
    assert_eq!(village.last_answer(), Some(452));
    assert!(hand_over(net, &full.address, &mail(90)).await?);
    assert!(!hand_over(net, &full.address, &mail(100)).await?);
    assert!(
        hand_over(net, &other.address, &mail(300)).await?,
        "its neighbour has a day of its own"
    );
    let clock = &village.around.clock;
    let tomorrow = PolicyTime::from_millis((clock.policy().utc_day() + 1) * 86_400_000);
    clock
        .sleep_until(tomorrow.after(Duration::from_secs(1)))
        .await;
    assert!(hand_over(net, &full.address, &mail(300)).await?);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn while_memory_is_short_no_new_work_is_taken_and_then_it_is_again() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let to = &village.inboxes[0][0];
    let net = &*village.around.tapped;
    let memory = || {
        let parts = village.platform.components();
        parts.into_iter().find(|part| part.name == "memory")
    };
    assert!(memory().is_none(), "nobody reads it yet");
    village.platform.press(950, CEILING);
    let refused = village.platform.has_room();
    let now = village.around.clock.policy();
    assert!(
        refused.is_err_and(|why| why.retry_after(now).is_some()),
        "the edge says when to come again"
    );
    assert!(!hand_over(net, &to.address, &mail(1)).await?);
    assert!(memory().is_some_and(|part| !part.ok));
    village.platform.press(500, CEILING);
    assert_eq!(village.platform.has_room(), Ok(()));
    assert!(hand_over(net, &to.address, &mail(1)).await?);
    assert!(memory().is_some_and(|part| part.ok));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn while_memory_is_tight_idle_actors_sleep_early() -> anyhow::Result<()> {
    let village = Village::build(1).await?;
    let from = &village.inboxes[0][0];
    assert_eq!(village.send(from).await.0, Ok(()));
    let awake = async || {
        let tree = village.platform.tree(&"running".into()).await;
        tree.nodes
            .iter()
            .filter(|node| node.address.starts_with("inbox/"))
            .count()
    };
    assert!(awake().await > 0);
    sleep(Duration::from_secs(2)).await;
    village.platform.press(750, CEILING);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(awake().await, 0);
    assert_eq!(village.platform.has_room(), Ok(()), "work is still taken");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn operators_see_a_bounded_tree_with_the_deepest_first() -> anyhow::Result<()> {
    let village = Village::build(2).await?;
    for inbox in village.inboxes.iter().flatten() {
        assert_eq!(village.send(inbox).await.0, Ok(()));
    }
    let sick = &village.inboxes[1][0];
    village
        .platform
        .kill(&format!("inbox/{}", sick.id), "a test")
        .await?;
    assert_eq!(village.send(sick).await.0, Ok(()));
    let all = village.platform.tree(&"inbox".into()).await;
    let inboxes: usize = village.inboxes.iter().map(Vec::len).sum();
    assert_eq!((all.nodes.len(), all.left_out), (inboxes, 0));
    assert!(all.nodes.iter().all(|node| node.recent > 0));
    assert!(
        all.nodes
            .windows(2)
            .all(|pair| pair[0].recent >= pair[1].recent),
        "none waits, so the busiest come first: {:?}",
        all.nodes
    );
    let two = TreeQuery {
        limit: 2,
        .."inbox".into()
    };
    let some = village.platform.tree(&two).await;
    assert_eq!((some.nodes.len(), some.left_out), (2, inboxes - 2));
    let failed = village.platform.tree(&TreeQuery::FAILED.into()).await;
    assert_eq!(failed.nodes.len(), 1);
    assert_eq!(failed.nodes[0].last_failure.as_deref(), Some("a test"));
    let of_tenant = village
        .platform
        .tree(&sick.tenant.to_string().as_str().into())
        .await;
    assert!(of_tenant.nodes.len() > village.inboxes[1].len());
    for service in [
        "vault",
        "directory",
        "notifier",
        "outbound",
        "clock",
        "inbound",
    ] {
        assert!(village.node(service).await.is_some(), "{service}");
    }
    Ok(())
}
