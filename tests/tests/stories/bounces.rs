//! What the others' server refuses, and what the sender learns of it.

use std::time::Duration;

use anyhow::{Context, Result};
use inboxgrove_tests::{client::state_of, wait::eventually, world::World};

/// The resolver asks again and again before it gives up.
const ATTEMPT_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test]
async fn an_unknown_user_bounces_with_the_servers_own_words() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    let sent = acme
        .send(inbox, "nobody-here@post.test", "Are you there?", "Hello\n")
        .await?;

    let outcome = acme.until_state(inbox, &sent, "bounced").await?;
    assert!(outcome.to_string().contains("550"), "{outcome}");
    assert!(world.post.delivered("anna")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn mail_waits_while_the_others_name_server_is_out_and_goes_when_it_is_back() -> Result<()> {
    let mut world = World::new()
        .settings("[outbound.retry]\nunit_minutes = 1\n")
        .start()
        .await?;
    let (acme, domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    world.names.outage()?;
    let during = acme.verify(&domain).await?;
    let sent = acme
        .send(inbox, "anna@post.test", "Patience", "Hello\n")
        .await?;
    let waiting = eventually("a first attempt", ATTEMPT_WITHIN, async || {
        let seen = acme.message(inbox, &sent).await?;
        let reply = seen["recipients"][0]["last_reply"].as_str();
        let is_tried = reply.is_some_and(|reply| !reply.is_empty());
        Ok(is_tried.then_some(seen))
    })
    .await?;
    assert!(world.post.delivered("anna")?.is_empty(), "who said where?");
    world.names.outage_over()?;

    assert_eq!(
        during["status"], "active",
        "an outage of the resolver is no news about the domain: {during}"
    );
    assert_eq!(state_of(&waiting), "queued", "{waiting}");
    world.post.receives("anna", "Patience").await?;
    acme.until_state(inbox, &sent, "delivered").await?;
    assert_eq!(world.post.delivered("anna")?.len(), 1, "once, not twice");
    Ok(())
}
