//! Bad input at the API: a clear problem each, no panic, no leak of another tenant's things.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::{
    client::{Account, Answer},
    programs,
    wait::eventually,
    world::World,
};
use reqwest::Method;
use serde_json::{Value, json};

/// So many examples of each operation take about a minute; a server that hangs must not hold up the other stories.
const SCHEMATHESIS_WITHIN: Duration = Duration::from_mins(4);

/// A pair of keys is made in a second or two.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_refusal_is_a_problem_with_a_stable_code() -> Result<()> {
    let world = World::new().start().await?;
    let api = world.daemon.api()?;
    let acme = api.register("acme").await?;

    let refusals = [
        ("no token", api.get("/api/v1/domains").await?, 401),
        (
            "a forged token",
            api.call(Method::GET, "/api/v1/domains", Some("x.y.z"), None)
                .await?,
            401,
        ),
        ("no such route", acme.get("/api/v1/nothing").await?, 404),
        (
            "a wrong method",
            acme.call(Method::DELETE, "/api/v1/auth/register", None)
                .await?,
            405,
        ),
        (
            "a wrong type",
            acme.post("/api/v1/domains", &json!({ "name": 7 })).await?,
            422,
        ),
        (
            "an unknown field",
            acme.post("/api/v1/domains", &json!({ "name": "a.test", "x": 1 }))
                .await?,
            422,
        ),
        (
            "no domain name",
            acme.post("/api/v1/domains", &json!({ "name": "not a name" }))
                .await?,
            422,
        ),
        (
            "a foreign id",
            acme.get("/api/v1/domains/dom_00000000000000000000000000")
                .await?,
            404,
        ),
    ];

    for (what, answer, status) in refusals {
        let alike = [400, 422].contains(&status) && [400, 422].contains(&answer.status.as_u16());
        assert!(
            answer.status.as_u16() == status || alike,
            "{what}: {} {}",
            answer.status,
            answer.body
        );
        assert!(
            answer.content_type.starts_with("application/problem+json"),
            "{what}: {}",
            answer.content_type
        );
        assert!(!answer.code().is_empty(), "{what}: {}", answer.body);
        assert!(
            answer.body["request_id"].is_string(),
            "{what}: {}",
            answer.body
        );
    }
    Ok(())
}

#[tokio::test]
async fn another_tenants_things_look_like_things_that_do_not_exist() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;
    let sent = acme
        .send(inbox, "anna@post.test", "Private", "Hello\n")
        .await?;
    let other = world.daemon.api()?.register("other").await?;

    for path in [
        format!("/api/v1/domains/{}", domain.id),
        inbox.path(),
        inbox.messages_path(),
        inbox.message_path(&sent),
        inbox.health_path(),
    ] {
        let theirs = other.get(&path).await?;
        assert_eq!(theirs.status.as_u16(), 404, "{path}: {}", theirs.body);
        assert!(
            acme.get(&path).await?.status.is_success(),
            "{path} is its owner's"
        );
    }
    let path = inbox.messages_path();
    let forged = other
        .post(
            &path,
            &json!({ "to": ["a@b.test"], "subject": "x", "text": "x" }),
        )
        .await?;
    assert_eq!(forged.status.as_u16(), 404, "{}", forged.body);
    assert_eq!(other.all("/api/v1/domains").await?, Vec::<Value>::new());
    Ok(())
}

#[tokio::test]
async fn a_name_asked_for_in_parallel_is_given_once() -> Result<()> {
    let world = World::new().start().await?;
    let acme = world.daemon.api()?.register("acme").await?;

    let wanted = json!({ "name": "acme.test" });
    let (a, b, c) = tokio::join!(
        until_heard(&acme, &wanted),
        until_heard(&acme, &wanted),
        until_heard(&acme, &wanted)
    );

    let answers = [a?, b?, c?];
    let mut statuses = answers.each_ref().map(|answer| answer.status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409], "{answers:?}");
    assert_eq!(acme.all("/api/v1/domains").await?.len(), 1);
    Ok(())
}

/// Adds a domain as a patient customer does: keys are made two pairs at a time, and who comes third is asked to try again.
async fn until_heard(account: &Account, wanted: &Value) -> Result<Answer> {
    eventually("an answer that is not busy", HEARD_WITHIN, async || {
        let answer = account.post("/api/v1/domains", wanted).await?;
        Ok((answer.code() != "busy").then_some(answer))
    })
    .await
}

#[tokio::test]
async fn schemathesis_finds_no_answer_that_the_document_does_not_know() -> Result<()> {
    let world = World::new()
        // It asks faster than any customer may.
        .settings("[api.limits]\nrequests_per_minute = 1000000\nlogins_per_minute = 10000\n")
        .start()
        .await?;
    let acme = world.daemon.api()?.register("acme").await?;

    let mut command = Command::new(programs::system("timeout")?);
    command
        .arg(SCHEMATHESIS_WITHIN.as_secs().to_string())
        .arg(programs::schemathesis()?)
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", acme.api.base()))
        .args(["--header", &format!("Authorization: Bearer {}", acme.token)])
        .args([
            "--checks",
            "not_a_server_error,content_type_conformance,response_schema_conformance",
        ])
        .args([
            "--exclude-path-regex",
            "/events|/auth/logout",
            "--max-examples",
            "15",
            "--request-timeout",
            "10",
            "--seed",
            "1",
        ])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(world.folder());
    // It takes minutes: the runtime must go on.
    let output = tokio::task::spawn_blocking(move || command.output()).await??;

    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{report}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
