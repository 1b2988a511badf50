//! The daemon's main job from end to end: register, domain, DNS, provision, send, reply, warmup, score.

use anyhow::{Context, Result};
use inboxgrove_tests::{
    client::state_of,
    mail_text::MailText,
    peers::{self, Envelope, Letter},
    world::World,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_company_registers_proves_its_domain_sends_receives_and_is_scored() -> Result<()> {
    let mut world = World::new().start().await?;
    let api = world.daemon.api()?;

    // It registers, and adds the domain it owns.
    let acme = api.register("acme").await?;
    let domain = acme.add_domain("acme.test").await?;
    assert_eq!(
        domain
            .records
            .iter()
            .filter(|record| record.name.contains("._domainkey."))
            .count(),
        2
    );

    // Nothing is published yet: the domain is not active, and each failed check says what to do.
    let early = acme.verify(&domain).await?;
    assert_ne!(early["status"], "active");
    let failed = checks(&early, "fail");
    assert!(!failed.is_empty(), "{early}");
    assert!(
        failed
            .iter()
            .all(|check| check["fix"].as_str().is_some_and(|fix| !fix.is_empty())),
        "{early}"
    );

    // It publishes what it was told, and is proven.
    world.publish(&domain).await?;
    let proven = acme.until_active(&domain).await?;
    assert_eq!(checks(&proven, "fail"), Vec::<Value>::new());

    // Two inboxes are made.
    let inboxes = acme.provision(&domain, 2, false).await?;
    assert_eq!(inboxes.len(), 2);
    let [first, second] = inboxes.as_slice() else {
        anyhow::bail!("two inboxes")
    };
    assert_ne!(first.address, second.address);
    assert!(first.address.ends_with("@acme.test"), "{}", first.address);

    // One of them writes to Anna, whose server is a real Postfix.
    let sent = acme
        .send(first, "anna@post.test", "Good morning", "Shall we meet?\n")
        .await?;
    let letter = world.post.receives("anna", "Good morning").await?;
    let outcome = acme.until_state(first, &sent, "delivered").await?;
    assert_eq!(state_of(&outcome), "delivered");

    // It came over TLS, with two signatures that dkimpy finds valid, from an address that pyspf finds permitted.
    assert!(
        letter
            .header("Received")
            .is_some_and(|hop| hop.contains("TLS")),
        "{}",
        letter.text()
    );
    expect_valid_signatures(&world, &letter, &first.address)?;

    // Anna replies; the reply lands in the inbox, in the same thread.
    let message_id = letter
        .header("Message-ID")
        .context("a letter has a Message-ID")?;
    let data = reply(&first.address, &message_id);
    let reply = peers::swaks(Letter {
        server: world.daemon.smtp()?,
        from_ip: world.addresses.mail_server(),
        mail_from: "anna@post.test",
        rcpt_to: &first.address,
        data: &data,
    })?;
    assert!(reply.accepted, "{}", reply.transcript);
    let received = acme.until_received(first, "Re: Good morning").await?;
    assert_eq!(
        bare(&received["in_reply_to"]),
        message_id.trim_matches(['<', '>'])
    );
    assert_eq!(
        received["thread"],
        acme.message(first, &sent).await?["thread"]
    );
    assert_eq!(acme.messages(second).await?, Vec::<Value>::new());

    // Its warmup starts, and its health is a belief with an interval.
    let started = acme
        .post("/api/v1/warmup/start", &json!({ "inbox_ids": [first.id] }))
        .await?;
    assert!(started.status.is_success(), "{}", started.body);
    let progress = acme.all("/api/v1/warmup/progress").await?;
    let states: Vec<&Value> = progress
        .iter()
        .filter(|row| row["inbox_id"] == first.id)
        .map(|row| &row["warmup"]["state"])
        .collect();
    assert_eq!(states, ["running"]);
    let health = acme.get(&first.health_path()).await?.expect(200)?;
    expect_score(&health)?;
    Ok(())
}

/// Both signatures hold for dkimpy, and the address may send for pyspf.
fn expect_valid_signatures(world: &World, letter: &MailText, from: &str) -> Result<()> {
    let envelope = Envelope {
        ip: world.source(),
        helo: "out.grove.test",
        mail_from: from,
    };
    let judged = peers::judge(letter, envelope, &world.names)?;
    assert_eq!(judged.spf, "pass", "{judged:?}");
    let mut algorithms: Vec<&str> = judged
        .signatures
        .iter()
        .map(|signature| signature.algorithm.as_str())
        .collect();
    algorithms.sort_unstable();
    assert_eq!(algorithms, ["ed25519-sha256", "rsa-sha256"], "{judged:?}");
    for signature in &judged.signatures {
        assert!(
            signature.valid && signature.domain == "acme.test",
            "{signature:?}"
        );
        assert!(
            signature.headers.iter().any(|header| header == "from"),
            "{signature:?}"
        );
    }
    Ok(())
}

fn expect_score(health: &Value) -> Result<()> {
    let [low, value, high] =
        score(health).with_context(|| format!("no score with its interval in {health}"))?;
    assert!(
        0.0 <= low && low <= value && value <= high && high <= 100.0,
        "{health}"
    );
    Ok(())
}

fn checks(domain: &Value, outcome: &str) -> Vec<Value> {
    let all = domain["checks"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .filter(|check| check["outcome"] == outcome)
        .collect()
}

fn bare(value: &Value) -> &str {
    value.as_str().unwrap_or_default().trim_matches(['<', '>'])
}

fn reply(to: &str, message_id: &str) -> String {
    format!(
        "From: Anna <anna@post.test>\nTo: {to}\nSubject: Re: Good morning\nDate: Mon, 05 Jan 2026 10:00:00 +0000\n\
         Message-ID: <reply-1@post.test>\nIn-Reply-To: {message_id}\nReferences: {message_id}\n\nYes, at ten.\n"
    )
}

/// Low, value and high.
fn score(health: &Value) -> Option<[f64; 3]> {
    let interval = &health["interval"];
    Some([
        interval["low"].as_f64()?,
        health["score"].as_f64()?,
        interval["high"].as_f64()?,
    ])
}
