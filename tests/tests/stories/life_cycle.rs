//! Start, stop, start again: what users and systemd see.

use anyhow::{Context, Result};
use inboxgrove_tests::world::World;

#[tokio::test]
async fn a_stop_drains_in_time_and_everything_is_there_after_the_next_start() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, domain, inboxes) = world.tenant("acme", "acme.test", 3).await?;
    let inbox = inboxes.first().context("an inbox")?;
    let sent = acme
        .send(inbox, "anna@post.test", "Before the stop", "Hello\n")
        .await?;

    let status = world.daemon.stop().await?;
    world.daemon.start_again().await?;

    assert!(status.success(), "{status}\n{}", world.daemon.log());
    let mut acme = acme;
    acme.api = world.daemon.api()?;
    acme.log_in().await?;
    assert_eq!(acme.inboxes(&domain).await?.len(), 3);
    acme.until_state(inbox, &sent, "delivered").await?;
    // The mail server has taken it, and puts it into the mailbox a moment later.
    world.post.receives("anna", "Before the stop").await?;
    assert_eq!(world.post.delivered("anna")?.len(), 1, "once, not twice");
    Ok(())
}

#[tokio::test]
async fn the_operator_sees_the_tree_and_why_a_domain_may_send() -> Result<()> {
    let mut world = World::new().start().await?;
    let (_acme, domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    let tree = world.daemon.admin(&["tree"])?;
    let status = world.daemon.admin(&["status"])?;
    let why_domain = world.daemon.admin(&["why", &domain.name])?;
    let why_inbox = world.daemon.admin(&["why", &inbox.address])?;

    for actor in [
        "vault",
        "clock",
        "directory",
        "outbound",
        "inbound",
        "notifier",
    ] {
        assert!(tree.contains(actor), "{actor} is missing in:\n{tree}");
    }
    assert!(!status.trim().is_empty());
    assert!(!why_domain.trim().is_empty() && !why_inbox.trim().is_empty());
    Ok(())
}

#[tokio::test]
async fn secrets_are_in_no_log() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;
    acme.send(inbox, "anna@post.test", "Quiet", "Hello\n")
        .await?;
    world.post.receives("anna", "Quiet").await?;

    let log = world.daemon.log();

    for secret in [&acme.password, &acme.token, &acme.refresh_token] {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
    }
    assert!(!log.contains("PRIVATE KEY"));
    Ok(())
}

#[tokio::test]
async fn a_plan_that_is_no_trial_does_not_end() -> Result<()> {
    let world = World::new().plan("growth").start().await?;

    let acme = world.daemon.api()?.register("acme").await?;

    let me = acme.get("/api/v1/auth/me").await?.expect(200)?;
    assert_eq!(me["tenant"]["status"], "active", "{me}");
    acme.add_domain("acme.test").await?;
    Ok(())
}
