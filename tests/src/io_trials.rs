//! Trials of a disk that fails at its n-th call (SQLite's method): a daemon on a copy of prepared data, a fixed script
//! whose acknowledgements are journalled, the daemon's end; then a start without a fault, and a look at all that was
//! acknowledged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::{Account, Api, Inbox, text},
    daemon::{self, Bound, Settings},
    faults::{FaultyIo, Notes, Strike, Way},
    journal::{Acknowledgement, Journal},
    letterbox::{Letterbox, Posted},
    prepared::{self, Prepared},
    wait::eventually,
};

/// `EX_IOERR`: what the daemon ends with when its disk failed (`docs/runbook.md`).
pub const DISK_FAILED: i32 = 74;
/// A daemon whose disk failed ends within this time, on a loaded machine: it drains nothing that a disk is needed for.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// A job of one inbox makes one key pair.
const JOB_WITHIN: Duration = Duration::from_secs(20);

/// The steps of the script.
const STEPS: u32 = 7;

/// Where one trial after the other is made.
#[derive(Debug)]
pub struct Lane<'a> {
    prepared: &'a Prepared,
    disk: PathBuf,
    settings: Settings,
    faulty: FaultyIo,
}

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There are not so many calls: the fault did not strike.
    Missed,
    /// The daemon did not start.
    Refused,
    /// It ended while it worked, or while it stopped.
    Ended,
    /// It went on, and stopped well.
    Harmless,
}

/// A trial that went as it must.
#[derive(Debug, Clone)]
pub struct Trial {
    /// How it came out.
    pub outcome: Outcome,
    /// The first call that failed.
    pub strike: Option<Strike>,
    /// How many calls there were; known when the daemon ended by itself.
    pub calls: Option<u32>,
    /// From the moment at which the script knew of it to the daemon's end.
    pub took_to_end: Duration,
}

/// What the script was told.
struct Told {
    journal: Journal,
    accounts: Vec<Account>,
    letters: u32,
}

/// How a run ended.
struct Run {
    status: ExitStatus,
    started: bool,
    took_to_end: Duration,
    /// What the script could not do.
    failure: Option<anyhow::Error>,
    log: String,
}

impl<'a> Lane<'a> {
    /// A lane of its own folder and port.
    pub fn new(prepared: &'a Prepared, number: u32) -> Result<Self> {
        let scratch = prepared.scratch(&format!("lane-{number}"))?;
        let disk = scratch.join("disk");
        let faulty = FaultyIo::new(&disk, &scratch)?;
        let settings = prepared.settings(&disk, &scratch)?;
        Ok(Self {
            prepared,
            disk,
            settings,
            faulty,
        })
    }

    /// One trial. An error is a promise that was broken.
    pub async fn trial(&mut self, at: u32, way: Way) -> Result<Trial> {
        self.lay_out()?;
        let mut told = Told::new(&self.settings.scratch)?;
        self.settings.env = self.faulty.env(at, way);
        let run = self.run(&mut told).await;
        let notes = self.faulty.notes()?;
        let struck = notes.strikes.first().map_or_else(
            || format!("no call ({at}, {way:?})"),
            |strike| format!("{way:?} at {strike}"),
        );
        let run = run.with_context(|| struck.clone())?;
        let outcome = judge(&run, &notes, way).with_context(|| format!("{struck}\n{}", run.log))?;
        self.settings.env.clear();
        self.look(&told)
            .await
            .with_context(|| format!("{struck}\n{}", run.log))?;
        Ok(Trial {
            outcome,
            strike: notes.strikes.into_iter().next(),
            calls: notes.calls,
            took_to_end: run.took_to_end,
        })
    }

    /// The prepared data, as they were.
    fn lay_out(&self) -> Result<()> {
        if self.disk.exists() {
            fs::remove_dir_all(&self.disk)?;
        }
        fs::create_dir_all(&self.disk)?;
        let log = self.settings.scratch.join("daemon.log");
        fs::write(&log, "").with_context(|| format!("{}", log.display()))?;
        self.prepared.lay_out(&self.settings)
    }

    /// Starts, works, stops; whatever happens.
    async fn run(&self, told: &mut Told) -> Result<Run> {
        let mut running = daemon::spawn(&self.settings)?;
        let bound = match daemon::ready(&self.settings, &mut running).await {
            Ok(bound) => Some(bound),
            Err(_) if running.ended()?.is_some() => None,
            Err(why) => return Err(why),
        };
        let failure = match &bound {
            Some(bound) => self.script(bound, told).await,
            None => None,
        };
        let known = failure.as_ref().map_or_else(Instant::now, |(at, _)| *at);
        if running.ended()?.is_none() {
            running.signal(Signal::SIGTERM)?;
        }
        let status = running
            .exit(ENDS_WITHIN)
            .await
            .with_context(|| running.tail())?;
        Ok(Run {
            status,
            started: bound.is_some(),
            took_to_end: known.elapsed(),
            failure: failure.map(|(_, why)| why),
            log: running.tail(),
        })
    }

    /// All that a daemon does with its disk. A step that fails leaves the others to be tried; the first failure, and
    /// when it was.
    async fn script(&self, bound: &Bound, told: &mut Told) -> Option<(Instant, anyhow::Error)> {
        let mut failure = None;
        for step in 0..STEPS {
            if let Err(why) = self.step(step, bound, told).await {
                failure.get_or_insert_with(|| (Instant::now(), why));
            }
        }
        failure
    }

    async fn step(&self, step: u32, bound: &Bound, told: &mut Told) -> Result<()> {
        let api = Api::new(&bound.api)?;
        let account = self.prepared.account(&api);
        match step {
            0 => told.accounts.push(api.register("second").await?),
            1 | 5 => self.send(&account, told).await?,
            2 | 6 => self.receive(bound, told).await?,
            3 => self.make(&account, told).await?,
            _ => {
                let to = self.disk.join("backup");
                daemon::command(&self.settings, &["store", "backup", &to.to_string_lossy()])?;
            }
        }
        Ok(())
    }

    async fn send(&self, account: &Account, told: &mut Told) -> Result<()> {
        let (subject, body) = told.letter();
        let inbox = &self.prepared.inbox;
        let message = account
            .send(inbox, prepared::STRANGER, &subject, &body)
            .await?;
        told.journal.note(Acknowledgement::Accepted {
            inbox: inbox.clone(),
            message,
            subject,
            text: body,
        })
    }

    async fn receive(&self, bound: &Bound, told: &mut Told) -> Result<()> {
        let (subject, body) = told.letter();
        let inbox = &self.prepared.inbox;
        let server = bound.smtp.as_deref().context("mail is taken in")?.parse()?;
        let from = self.prepared.addresses.mail_server();
        let mut letterbox = Letterbox::open(from, server).await?;
        let data = prepared::letter_to(inbox, &subject, &body);
        let posted = letterbox
            .post(prepared::STRANGER, &inbox.address, &data)
            .await?;
        ensure!(posted == Posted::Taken, "{posted:?}");
        told.journal.note(Acknowledgement::Received {
            inbox: inbox.clone(),
            subject,
            text: body,
        })
    }

    async fn make(&self, account: &Account, told: &mut Told) -> Result<()> {
        let domain = &self.prepared.domain;
        let wanted = json!({ "domain_id": domain.id, "count": 1, "naming": "random" });
        let answer = account
            .post("/api/v1/infrastructure/provision", &wanted)
            .await?;
        let job = text(&answer.expect(202)?, "id")?;
        told.journal
            .note(Acknowledgement::Asked { job: job.clone() })?;
        eventually("the job", JOB_WITHIN, async || {
            Ok((account.job(&job).await?["state"] == "done").then_some(()))
        })
        .await?;
        let inboxes = account.inboxes(domain).await?;
        told.journal.note(Acknowledgement::Made { job, inboxes })
    }

    /// Starts without a fault, and looks at what was acknowledged.
    async fn look(&self, told: &Told) -> Result<()> {
        let mut running = daemon::spawn(&self.settings)?;
        let bound = daemon::ready(&self.settings, &mut running).await?;
        let api = Api::new(&bound.api)?;
        let looked = self.look_at(&api, told).await;
        looked.with_context(|| running.tail())?;
        running.kill()
    }

    async fn look_at(&self, api: &Api, told: &Told) -> Result<()> {
        let account = self.prepared.account(api);
        let messages = account.messages(&self.prepared.inbox).await?;
        for acknowledged in told.journal.since(0) {
            match acknowledged {
                Acknowledgement::Accepted { subject, text, .. }
                | Acknowledgement::Received { subject, text, .. } => {
                    self.look_for(&account, &messages, &subject, &text).await?;
                }
                Acknowledgement::Asked { job } => {
                    let seen = account.job(&job).await.context("LOST: a job")?;
                    ensure!(seen["state"] != "failed", "{seen}");
                }
                Acknowledgement::Made { inboxes, .. } => {
                    let there = account.inboxes(&self.prepared.domain).await?;
                    let is_there = |made: &&Inbox| there.iter().any(|found| found.id == made.id);
                    ensure!(
                        inboxes.iter().all(|made| is_there(&made)),
                        "LOST: {inboxes:?}"
                    );
                }
            }
        }
        for mut account in told.accounts.iter().cloned() {
            account.api = api.clone();
            let answer = account.get("/api/v1/domains").await?;
            ensure!(answer.status.is_success(), "LOST: {account:?}");
        }
        daemon::command(&self.settings, &["store", "verify"]).map(drop)
    }

    async fn look_for(
        &self,
        account: &Account,
        messages: &[Value],
        subject: &str,
        text: &str,
    ) -> Result<()> {
        let found = messages
            .iter()
            .find(|message| message["subject"] == subject);
        let found = found.with_context(|| format!("LOST: {subject}"))?;
        let id = found["id"].as_str().context("a message has an id")?;
        let raw = account.raw(&self.prepared.inbox, id).await?;
        ensure!(raw.text().contains(text), "TORN: {subject}: {}", raw.text());
        Ok(())
    }
}

impl Told {
    fn new(scratch: &Path) -> Result<Self> {
        Ok(Self {
            journal: Journal::new(&scratch.join("journal"))?,
            accounts: Vec::new(),
            letters: 0,
        })
    }

    /// A letter unlike any other: its subject and its text.
    fn letter(&mut self) -> (String, String) {
        self.letters += 1;
        let number = self.letters;
        let lines: Vec<String> = (0..40 * number)
            .map(|line| format!("letter {number} line {line}"))
            .collect();
        (format!("letter-{number}"), lines.join("\n"))
    }
}

/// Whether the daemon ended as it must.
fn judge(run: &Run, notes: &Notes, way: Way) -> Result<Outcome> {
    ensure!(
        notes.resynced.is_empty(),
        "SYNC RETRIED: {:?}",
        notes.resynced
    );
    let Some(strike) = notes.strikes.first() else {
        ensure!(run.status.success(), "without a fault: {}", run.status);
        ensure!(run.failure.is_none(), "without a fault: {:?}", run.failure);
        return Ok(Outcome::Missed);
    };
    if run.status.success() {
        let matters = ["log", "rows"].contains(&strike.kind()) && way.is_told(&strike.call);
        ensure!(!matters, "it went on after {strike}");
        return Ok(Outcome::Harmless);
    }
    ensure!(
        run.status.code() == Some(DISK_FAILED),
        "it ended with {} after {strike}",
        run.status
    );
    ensure!(
        run.log
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("inboxgrove: ")),
        "it gave no reason"
    );
    Ok(if run.started {
        Outcome::Ended
    } else {
        Outcome::Refused
    })
}
