//! What the daemon takes in on port 25, and what it refuses: never a relay, never backscatter.

use anyhow::{Context, Result};
use inboxgrove_tests::{
    client::Inbox,
    peers::{self, Letter},
    world::World,
};
use serde_json::json;

#[tokio::test]
async fn mail_for_strangers_and_unknown_users_is_refused_at_the_door() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    for (recipient, why) in [
        ("anna@post.test", "a relay"),
        ("nobody-here@acme.test", "an unknown user"),
        ("inbox1@other.test", "not hosted"),
    ] {
        let sent = peers::swaks(letter(&world, "anna@post.test", recipient, &text("no"))?)?;
        assert!(!sent.accepted, "{why}: {}", sent.transcript);
        assert!(
            sent.refusal().is_some_and(|line| line.starts_with("55")),
            "{why}: {}",
            sent.transcript
        );
    }

    let kept = acme.messages(inbox).await?;
    assert!(kept.is_empty(), "{kept:?}");
    assert!(
        world.post.delivered("anna")?.is_empty(),
        "a bounce went out to a sender that may be forged"
    );
    Ok(())
}

#[tokio::test]
async fn a_letter_is_kept_as_it_came_and_is_still_there_after_a_kill() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?.clone();
    let sent = peers::swaks(letter(
        &world,
        "anna@post.test",
        &inbox.address,
        &text("keep me"),
    )?)?;
    assert!(sent.accepted, "{}", sent.transcript);

    world.daemon.kill()?;
    world.daemon.start_again().await?;

    let acme = again(&world, &acme).await?;
    let kept = acme.until_received(&inbox, "keep me").await?;
    let whole = acme
        .raw(&inbox, kept["id"].as_str().context("a message has an id")?)
        .await?;
    assert!(
        whole
            .text()
            .contains("A letter of some lines.\n\n..with dots\n"),
        "{}",
        whole.text()
    );
    Ok(())
}

#[tokio::test]
async fn a_report_of_a_bounce_reaches_the_message_it_is_about() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?.clone();
    let sent = acme
        .send(&inbox, "anna@post.test", "Will bounce later", "Hello\n")
        .await?;
    let received = world.post.receives("anna", "Will bounce later").await?;
    acme.until_state(&inbox, &sent, "delivered").await?;

    let report = report(
        &inbox,
        &received.header("Message-ID").context("a Message-ID")?,
    );
    let taken = peers::swaks(letter(&world, "", &inbox.address, &report)?)?;

    assert!(taken.accepted, "{}", taken.transcript);
    let kept = acme
        .until_received(&inbox, "Undelivered Mail Returned to Sender")
        .await?;
    assert_eq!(kept["class"], "bounce", "{kept}");
    // What was delivered stays delivered; the bounce is evidence, and the address is spared from now on.
    let again = json!({ "to": ["anna@post.test"], "subject": "Again", "text": "Hello" });
    let refused = acme.post(&inbox.messages_path(), &again).await?;
    assert_eq!(refused.status.as_u16(), 422, "{}", refused.body);
    assert!(refused.code().contains("suppress"), "{}", refused.body);
    Ok(())
}

/// The same account after a restart: another port, the same tokens.
async fn again(
    world: &World,
    account: &inboxgrove_tests::client::Account,
) -> Result<inboxgrove_tests::client::Account> {
    let mut account = account.clone();
    account.api = world.daemon.api()?;
    account.log_in().await?;
    Ok(account)
}

fn letter<'a>(
    world: &World,
    mail_from: &'a str,
    rcpt_to: &'a str,
    data: &'a str,
) -> Result<Letter<'a>> {
    let (server, from_ip) = (world.daemon.smtp()?, world.addresses.mail_server());
    Ok(Letter {
        server,
        from_ip,
        mail_from,
        rcpt_to,
        data,
    })
}

fn text(subject: &str) -> String {
    format!(
        "From: anna@post.test\nTo: somebody@acme.test\nSubject: {subject}\nDate: Mon, 05 Jan 2026 10:00:00 +0000\n\
         Message-ID: <{}@post.test>\n\nA letter of some lines.\n\n..with dots\n",
        subject.replace(' ', "-")
    )
}

/// A delivery status notification (RFC 3464) as Postfix writes them.
fn report(inbox: &Inbox, message_id: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mail.post.test\nTo: {to}\nSubject: Undelivered Mail Returned to Sender\n\
         Date: Mon, 05 Jan 2026 10:00:00 +0000\nMessage-ID: <dsn-1@mail.post.test>\nAuto-Submitted: auto-replied\n\
         MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"part\"\n\n\
         --part\nContent-Type: text/plain\n\nSorry.\n\n\
         --part\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mail.post.test\n\n\
         Final-Recipient: rfc822; anna@post.test\nAction: failed\nStatus: 5.1.1\n\
         Diagnostic-Code: smtp; 550 5.1.1 user unknown\n\n\
         --part\nContent-Type: text/rfc822-headers\n\nMessage-ID: {message_id}\nFrom: {to}\n\n--part--\n",
        to = inbox.address
    )
}
