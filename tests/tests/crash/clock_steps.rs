//! Somebody sets the wall clock by a day, forward and back, while the daemon runs and while it does not: policy time never
//! goes back, no cap is exceeded, a jump is held for five minutes and told, and due work is done once, and not lost.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::{
    client::{Account, Answer},
    daemon::Daemon,
    faults::ShiftedClock,
    prepared::{self, Prepared},
    wait::eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Somebody mistook the date.
const DAY_SECONDS: i64 = 86_400;
/// A jump is held for five minutes, and believed at the first look after them.
const HELD_FOR: Duration = Duration::from_secs(310);
/// What the customer may send a day.
const CAP: usize = 3;
/// What a step of a test takes, on a loaded machine; far from a day.
const MOMENT_SECONDS: i64 = 120;
/// The mark of policy time is stored every minute: what a kill may set it back.
const MARK_SECONDS: i64 = 60;
/// A due row is looked for every half a minute at least.
const DUE_WITHIN: Duration = Duration::from_secs(40);

/// How the log tells of a due row that is offered.
const OFFERED: &str = "due work is offered row=";

/// A daemon whose clocks are the test's.
struct Clocked<'a> {
    prepared: &'a Prepared,
    clock: ShiftedClock,
    daemon: Daemon,
    account: Account,
}

/// What `admin status` says of time.
#[derive(Debug)]
struct Seen {
    /// Policy time, in seconds.
    policy: i64,
    clock: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_set_back_by_a_day_gives_no_second_budget() -> Result<()> {
    let prepared = Prepared::new().await?;
    let mut clocked = Clocked::start(&prepared, "back").await?;
    clocked.spend_the_cap().await?;
    let before = clocked.look()?;

    clocked.clock.step(-DAY_SECONDS)?;
    clocked.log_in().await?;
    clocked.expect_cap_spent().await?;
    let after = clocked.look()?;
    assert!(after.policy >= before.policy, "{after:?} after {before:?}");
    assert!(after.clock.contains("behind policy time"), "{after:?}");
    assert!(clocked.daemon.log().contains("was set back"));

    clocked.restart().await?;
    clocked.expect_cap_spent().await?;
    let restarted = clocked.look()?;
    assert!(
        restarted.policy >= after.policy - MARK_SECONDS,
        "{restarted:?} after {after:?}"
    );

    // Set right again: it jumps to where policy time is, so nothing is held.
    clocked.clock.step(DAY_SECONDS)?;
    clocked.log_in().await?;
    clocked.expect_cap_spent().await?;
    let right = clocked.look()?;
    assert_eq!(right.clock, "ok", "{right:?}");
    assert!(right.policy - before.policy < MOMENT_SECONDS, "{right:?}");
    clocked.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_set_forward_by_a_day_is_held_then_believed() -> Result<()> {
    let prepared = Prepared::new().await?;
    let mut clocked = Clocked::start(&prepared, "forward").await?;
    clocked.spend_the_cap().await?;
    let before = clocked.look()?;
    let checked = clocked.checked_at().await?;

    // Mended in time, it never happened.
    clocked.clock.step(DAY_SECONDS)?;
    assert!(clocked.look()?.clock.contains("jumped forward"));
    clocked.clock.step(-DAY_SECONDS)?;
    assert_eq!(clocked.look()?.clock, "ok");

    clocked.clock.step(DAY_SECONDS)?;
    // The token of yesterday is over; a fresh one holds.
    let refused = clocked.send("over").await?;
    assert_eq!(refused.status.as_u16(), 401, "{}", refused.body);
    clocked.log_in().await?;
    clocked.expect_cap_spent().await?;
    let held = clocked.look()?;
    assert!(held.clock.contains("jumped forward"), "{held:?}");
    assert!(held.policy - before.policy < MOMENT_SECONDS, "{held:?}");
    assert!(
        clocked
            .daemon
            .log()
            .contains("the wall clock jumped forward")
    );
    assert_eq!(
        clocked.checked_at().await?,
        checked,
        "no work before its time"
    );

    clocked.clock.pass(HELD_FOR)?;
    let believed = clocked.look()?;
    assert_eq!(believed.clock, "ok", "{believed:?}");
    assert!(
        believed.policy >= before.policy + DAY_SECONDS,
        "{believed:?}"
    );
    // A day has passed for budgets and for due work alike.
    clocked.send("tomorrow").await?.expect(202)?;
    let again = eventually("the domain's daily check", DUE_WITHIN, async || {
        let now = clocked.checked_at().await?;
        Ok((now != checked).then_some(now))
    })
    .await?;
    // The account's own sweep lies somewhere in the day, too.
    let offered = clocked.offered();

    // Once more, while the daemon does not run.
    clocked.daemon.stop().await?;
    clocked.clock.step(DAY_SECONDS)?;
    clocked.daemon.start_again().await?;
    clocked.log_in().await?;
    let held = clocked.look()?;
    assert!(held.clock.contains("jumped forward"), "{held:?}");
    assert!(held.policy - believed.policy < MOMENT_SECONDS, "{held:?}");
    assert_eq!(clocked.checked_at().await?, again, "the work was done once");
    let checks = offered.iter().filter(|row| row.contains("CheckDomain"));
    assert_eq!(checks.count(), 1, "{offered:#?}");
    let different: BTreeSet<&String> = offered.iter().collect();
    assert_eq!(different.len(), offered.len(), "{offered:#?}");
    clocked.clock.pass(HELD_FOR)?;
    assert!(clocked.look()?.policy >= believed.policy + DAY_SECONDS);
    clocked.verify().await
}

impl<'a> Clocked<'a> {
    async fn start(prepared: &'a Prepared, name: &str) -> Result<Self> {
        let scratch = prepared.scratch(name)?;
        let mut clock = ShiftedClock::new(&scratch)?;
        let mut settings = prepared.settings(&scratch, &scratch)?;
        prepared.lay_out(&settings)?;
        settings.env = clock.env();
        let daemon = Daemon::start(settings).await?;
        daemon.admin(&["log-level", "info,inboxgrove_actors::clock=debug"])?;
        let account = prepared.account(&daemon.api()?);
        // A day that ends in the middle of the test would give a budget by right.
        if daemon_time(&daemon)?.policy % DAY_SECONDS > DAY_SECONDS - 2 * MOMENT_SECONDS {
            clock.pass(HELD_FOR)?;
        }
        Ok(Self {
            prepared,
            clock,
            daemon,
            account,
        })
    }

    async fn restart(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.start_again().await?;
        self.log_in().await
    }

    async fn log_in(&mut self) -> Result<()> {
        self.account.api = self.daemon.api()?;
        self.account.log_in().await
    }

    async fn send(&self, subject: &str) -> Result<Answer> {
        let wanted = json!({ "to": [prepared::STRANGER], "subject": subject, "text": "hello" });
        let path = self.prepared.inbox.messages_path();
        self.account.post(&path, &wanted).await
    }

    async fn spend_the_cap(&self) -> Result<()> {
        let wanted = json!({ "daily_limit": CAP, "hourly_limit": CAP });
        let path = self.prepared.inbox.path();
        let set = self
            .account
            .call(Method::PATCH, &path, Some(&wanted))
            .await?;
        set.expect(200)?;
        for number in 0..CAP {
            self.send(&format!("letter {number}")).await?.expect(202)?;
        }
        self.expect_cap_spent().await
    }

    async fn expect_cap_spent(&self) -> Result<()> {
        let answer = self.send("one too many").await?;
        ensure!(
            answer.status.as_u16() == 429 && answer.code() == "budget_full",
            "CAP EXCEEDED: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    fn look(&self) -> Result<Seen> {
        daemon_time(&self.daemon)
    }

    /// When the domain was last looked at.
    async fn checked_at(&self) -> Result<Value> {
        let path = format!("/api/v1/domains/{}", self.prepared.domain.id);
        let domain = self.account.get(&path).await?.expect(200)?;
        ensure!(domain["checked_at"].is_string(), "{domain}");
        Ok(domain["checked_at"].clone())
    }

    /// The due rows that were offered to their actors, as the log tells of them.
    fn offered(&self) -> Vec<String> {
        let log = self.daemon.log();
        let rows = log.lines().filter_map(|line| line.split_once(OFFERED));
        rows.map(|(_, row)| row.to_owned()).collect()
    }

    /// All letters are there, and the store is sound.
    async fn verify(&mut self) -> Result<()> {
        let messages = self.account.messages(&self.prepared.inbox).await?;
        ensure!(messages.len() >= CAP, "LOST: {messages:?}");
        let status = self.daemon.stop().await?;
        ensure!(status.success(), "{status}: {}", self.daemon.log_tail());
        self.daemon.command(&["store", "verify"]).map(drop)
    }
}

fn daemon_time(daemon: &Daemon) -> Result<Seen> {
    let status: Value = serde_json::from_str(&daemon.admin(&["status", "--json"])?)?;
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    let policy = text("policy_time").with_context(|| status.to_string())?;
    Ok(Seen {
        policy: policy.parse::<jiff::Timestamp>()?.as_second(),
        clock: text("clock").with_context(|| status.to_string())?,
    })
}
