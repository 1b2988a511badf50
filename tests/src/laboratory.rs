//! The crash laboratory: a daemon under load whose process is killed, or whose disk loses power, again and again; after
//! each start everything that was acknowledged is looked for through the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    addresses::Addresses,
    client::{Inbox, state_of},
    daemon::{self, Daemon, Settings},
    disk::{FileSystem, PowerDisk},
    journal::{Acknowledgement, Journal},
    load::{self, Ledger, Load, Parties},
    name_server::{NameServer, absolute},
    sink::Sink,
    wait::eventually,
    world,
};

/// At the end all mail gets out: what is uncertain is tried again after a minute, and the sites take 32 letters a
/// second together.
const ALL_OUT_WITHIN: Duration = Duration::from_mins(4);
/// The queue is looked at this often then.
const QUEUE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the capped inbox may send a day.
const CAP: usize = 40;
/// Longest load before an accident.
const LOAD_MS_MAX: u64 = 600;
/// A start or a recovery is struck within this time: most are over sooner.
const START_MS_MAX: u64 = 300;
/// Letters whose bytes are read after each accident; at the end all are.
const READ_AFTER_EACH: usize = 25;
/// The window after SMTP's final dot: the sink has said 250, the daemon has not committed it yet. On a loaded machine
/// a commit takes that long.
const DOT_WINDOW: Duration = Duration::from_secs(2);

/// No limit stands in the way but the one under test.
const SETTINGS: &str = r"
[api.limits]
requests_per_minute = 1000000
logins_per_minute = 10000

[outbound.caps]
global_per_hour = 1000000
global_per_day = 1000000
source_per_hour = 1000000
source_per_day = 1000000
source_site_per_hour = 1000000
source_site_per_day = 1000000

[outbound.retry]
unit_minutes = 1
uncertain_minutes = 1
";

/// What befalls the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// While it works.
    UnderLoad,
    /// While it starts on what an accident has left.
    InRecovery,
}

/// A laboratory with a daemon that runs. The daemon ends before the disk it writes to.
#[derive(Debug)]
pub struct Laboratory {
    daemon: Daemon,
    sink: Sink,
    disk: Option<PowerDisk>,
    parties: Parties,
    ledger: Arc<Ledger>,
    chance: Chance,
    accidents: Vec<Instant>,
    checked: usize,
    slowest_start: Duration,
    started_at: Instant,
    _names: NameServer,
    _folder: TempDir,
}

/// What was found when all is over.
#[derive(Debug, Clone)]
pub struct Report {
    accidents: usize,
    accepted: usize,
    received: usize,
    jobs: usize,
    delivered: usize,
    duplicates: usize,
    slowest_start: Duration,
    refusals: BTreeMap<String, u64>,
}

impl Laboratory {
    /// A daemon on a plain folder, or on a disk that can lose power.
    pub async fn new(file_system: Option<FileSystem>) -> Result<Self> {
        let folder = world::scratch_folder()?;
        let addresses = Addresses::of_this_process();
        let mut names = world::start_names(&folder, addresses).await?;
        publish_sites(&mut names, addresses).await?;
        let disk = file_system
            .map(|file_system| PowerDisk::new(folder.path(), file_system))
            .transpose()?;
        let mx_port = Addresses::free_port(&[addresses.mail_server(), addresses.inbound()])?;
        let sink = Sink::start(SocketAddr::new(addresses.mail_server(), mx_port)).await?;
        let ledger = Arc::new(Ledger::new(Journal::new(&folder.path().join("journal"))?));
        let settings = Settings {
            data: disk
                .as_ref()
                .map_or(folder.path(), PowerDisk::path)
                .join("data"),
            scratch: folder.path().to_owned(),
            inbound: SocketAddr::new(addresses.inbound(), mx_port),
            source: addresses.source(),
            mx_port,
            name_server: SocketAddr::new(names.address(), names.port()),
            free_floor_bytes: 16 << 20,
            plan: daemon::ROOMY,
            more: SETTINGS.to_owned(),
        };
        let daemon = Daemon::start(settings).await?;
        let parties = move_in(&daemon, &mut names, addresses).await?;
        Ok(Self {
            daemon,
            sink,
            disk,
            parties,
            ledger,
            chance: Chance(0x2545_f491_4f6c_dd1d),
            accidents: Vec::new(),
            checked: 0,
            slowest_start: Duration::ZERO,
            started_at: Instant::now(),
            _names: names,
            _folder: folder,
        })
    }

    /// One accident, one start, one look at what is there.
    pub async fn trial(&mut self, moment: Moment) -> Result<()> {
        let load = Load::start(&self.parties, &self.ledger);
        sleep(self.chance.up_to(LOAD_MS_MAX)).await;
        self.accident_under(load).await?;
        if moment == Moment::InRecovery {
            self.accident_in_start().await?;
        }
        self.start_again().await?;
        self.look(READ_AFTER_EACH)
            .await
            .with_context(|| self.daemon.log_tail())
    }

    /// Looks at everything once more, and stops the daemon in an orderly way.
    pub async fn finish(mut self) -> Result<Report> {
        self.until_all_is_out()
            .await
            .with_context(|| self.daemon.log_tail())?;
        self.checked = 0;
        self.look(usize::MAX)
            .await
            .with_context(|| self.daemon.log_tail())?;
        let status = self.daemon.stop().await?;
        ensure!(
            status.success(),
            "the daemon did not stop well: {status}\n{}",
            self.daemon.log_tail()
        );
        // No daemon runs: the command reads every frame and every row from the files themselves.
        self.daemon.command(&["store", "verify"])?;
        let noted = self.ledger.journal.since(0);
        let count =
            |kind: fn(&Acknowledgement) -> bool| noted.iter().filter(|noted| kind(noted)).count();
        Ok(Report {
            accidents: self.accidents.len(),
            accepted: count(|noted| matches!(noted, Acknowledgement::Accepted { .. })),
            received: count(|noted| matches!(noted, Acknowledgement::Received { .. })),
            jobs: count(|noted| matches!(noted, Acknowledgement::Asked { .. })),
            delivered: self.sink.by_subject().len(),
            duplicates: self.sink.deliveries().len() - self.sink.by_subject().len(),
            slowest_start: self.slowest_start,
            refusals: self.ledger.refusals(),
        })
    }

    /// Every letter that was accepted leaves in the end: nothing is forgotten in the queue.
    async fn until_all_is_out(&self) -> Result<()> {
        let owed: BTreeSet<String> = self
            .ledger
            .journal
            .since(0)
            .into_iter()
            .filter_map(|acknowledged| match acknowledged {
                Acknowledgement::Accepted { subject, .. } => Some(subject),
                _ => None,
            })
            .collect();
        let missing = || {
            let arrived = self.sink.by_subject();
            let missing = owed
                .iter()
                .filter(|subject| !arrived.contains_key(*subject));
            missing.cloned().collect::<Vec<_>>()
        };
        eventually("all letters to be out", ALL_OUT_WITHIN, async || {
            let all = missing().is_empty() && self.is_queue_empty().await?;
            Ok(all.then_some(()))
        })
        .await
        .with_context(|| format!("never left: {:?}", missing()))
    }

    /// Whether no letter waits for another try: one that is uncertain has one coming.
    async fn is_queue_empty(&self) -> Result<bool> {
        for inbox in self.parties.free.iter().chain([&self.parties.capped]) {
            let path = format!("{}?limit=500", inbox.messages_path());
            let messages = self.parties.account.all(&path).await?;
            let waits = |message: &Value| {
                ["queued", "attempting", "uncertain"].contains(&state_of(message))
            };
            if messages.iter().any(waits) {
                // The lists are long, and what waits waits a minute.
                sleep(QUEUE_LOOK_EVERY).await;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn accident_under(&mut self, load: Load) -> Result<()> {
        let Some(disk) = &mut self.disk else {
            self.accidents.push(Instant::now());
            self.daemon.kill()?;
            return load.end().await;
        };
        // From here on nothing that is said counts: the world outside is gone at the moment of the cut.
        let said = self.ledger.journal.len();
        self.sink.cut_off();
        self.accidents.push(Instant::now());
        let photograph = disk.photograph()?;
        self.daemon.kill()?;
        load.end().await?;
        self.ledger.journal.truncate(said)?;
        disk.restore(photograph)?;
        self.sink.open();
        Ok(())
    }

    async fn accident_in_start(&mut self) -> Result<()> {
        let mut starting = daemon::spawn(self.daemon.settings())?;
        sleep(self.chance.up_to(START_MS_MAX)).await;
        ensure!(
            starting.ended()?.is_none(),
            "the daemon ended while it started:\n{}",
            starting.tail()
        );
        self.accidents.push(Instant::now());
        if let Some(disk) = &mut self.disk {
            self.sink.cut_off();
            let photograph = disk.photograph()?;
            starting.kill()?;
            disk.restore(photograph)?;
            self.sink.open();
        } else {
            starting.kill()?;
        }
        Ok(())
    }

    async fn start_again(&mut self) -> Result<()> {
        let from = Instant::now();
        self.daemon.start_again().await?;
        self.slowest_start = self.slowest_start.max(from.elapsed());
        self.parties.account.api = self.daemon.api()?;
        self.parties.smtp = self.daemon.smtp()?;
        Ok(())
    }

    /// Looks for what was acknowledged since the last look, and at every cap and every duplicate.
    async fn look(&mut self, read_max: usize) -> Result<()> {
        let owed = self.ledger.journal.since(self.checked);
        let kept = Kept::fetch(&self.parties, &owed, &self.sink).await?;
        let mut unread = read_max;
        // The youngest first: they are the ones at risk.
        for acknowledged in owed.iter().rev() {
            self.look_for(acknowledged, &kept, &mut unread).await?;
        }
        self.look_at_the_cap()?;
        self.look_at_duplicates()?;
        self.checked = self.ledger.journal.len();
        Ok(())
    }

    async fn look_for(
        &self,
        acknowledged: &Acknowledgement,
        kept: &Kept,
        unread: &mut usize,
    ) -> Result<()> {
        match acknowledged {
            Acknowledgement::Accepted {
                inbox,
                message,
                subject,
                text,
            } => {
                let found = kept
                    .message(inbox, subject)
                    .with_context(|| format!("LOST: accepted {subject} {message}"))?;
                ensure!(
                    found["id"] == message.as_str(),
                    "{subject} has another id: {found}"
                );
                kept.look_at_fate(subject, found)?;
                self.read(inbox, found, text, unread).await
            }
            Acknowledgement::Received {
                inbox,
                subject,
                text,
            } => {
                let found = kept
                    .message(inbox, subject)
                    .with_context(|| format!("LOST: received {subject}"))?;
                self.read(inbox, found, text, unread).await
            }
            Acknowledgement::Asked { job } => {
                let answer = self
                    .parties
                    .account
                    .get(&format!("/api/v1/jobs/{job}"))
                    .await?;
                ensure!(
                    answer.status.is_success(),
                    "LOST: {job}: {} {}",
                    answer.status,
                    answer.body
                );
                ensure!(
                    answer.body["state"] != "failed",
                    "{job} failed: {}",
                    answer.body
                );
                Ok(())
            }
            Acknowledgement::Made { job, inboxes } => {
                let lost: Vec<&Inbox> = inboxes
                    .iter()
                    .filter(|inbox| !kept.inboxes.contains(&inbox.address))
                    .collect();
                ensure!(lost.is_empty(), "LOST: inboxes made by {job}: {lost:?}");
                Ok(())
            }
        }
    }

    /// Reads a letter's bytes: all of it, or it is torn.
    async fn read(
        &self,
        inbox: &Inbox,
        found: &Value,
        text: &str,
        unread: &mut usize,
    ) -> Result<()> {
        if *unread == 0 {
            return Ok(());
        }
        *unread -= 1;
        let id = found["id"].as_str().context("a message has an id")?;
        let raw = self.parties.account.raw(inbox, id).await?;
        ensure!(
            raw.text().contains(text),
            "TORN: {id} is not what was acknowledged:\n{}",
            raw.text()
        );
        Ok(())
    }

    /// What has left from the capped inbox, over all days that the laboratory has seen (a run may pass midnight).
    fn look_at_the_cap(&self) -> Result<()> {
        let days = 2_usize.pow(u32::from(self.passed_midnight()));
        let sender = format!("<{}>", self.parties.capped.address);
        let left: BTreeSet<String> = self
            .sink
            .deliveries()
            .into_iter()
            .filter(|delivery| delivery.mail_from.contains(&sender))
            .map(|delivery| delivery.subject)
            .collect();
        ensure!(
            left.len() <= CAP * days,
            "CAP EXCEEDED: {} letters left instead of {CAP} a day",
            left.len()
        );
        let accepted = self.ledger.journal.since(0).into_iter().filter(
            |noted| matches!(noted, Acknowledgement::Accepted { inbox, .. } if inbox.id == self.parties.capped.id),
        );
        let accepted = accepted.count();
        ensure!(
            accepted <= CAP * days,
            "CAP EXCEEDED: {accepted} letters accepted instead of {CAP} a day"
        );
        Ok(())
    }

    /// Whether a UTC midnight lay within this run.
    #[expect(
        clippy::disallowed_methods,
        reason = "the daemon under test counts by the wall clock"
    )]
    fn passed_midnight(&self) -> bool {
        let now = std::time::SystemTime::now();
        let then = now - self.started_at.elapsed();
        let day = |at: std::time::SystemTime| {
            at.duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() / 86_400)
        };
        day(now) != day(then)
    }

    /// A letter may come twice only when an accident fell between the sink's 250 and the daemon's commit of it.
    fn look_at_duplicates(&self) -> Result<()> {
        for (subject, deliveries) in self.sink.by_subject() {
            for (earlier, later) in deliveries.iter().zip(deliveries.iter().skip(1)) {
                let excused = self.accidents.iter().any(|accident| {
                    *accident + DOT_WINDOW >= earlier.at
                        && earlier.at + DOT_WINDOW >= *accident
                        && later.at > *accident
                });
                ensure!(
                    excused,
                    "DUPLICATE outside of the window: {subject} {deliveries:?} {:?}",
                    self.accidents
                );
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} accidents; acknowledged: {} accepted, {} received, {} jobs: none lost, none torn; {} letters delivered, \
             {} of them twice, all in the window after the final dot; slowest start {} ms; refusals {:?}",
            self.accidents,
            self.accepted,
            self.received,
            self.jobs,
            self.delivered,
            self.duplicates,
            self.slowest_start.as_millis(),
            self.refusals
        )
    }
}

/// What the API shows after an accident.
struct Kept {
    messages: BTreeMap<(String, String), Value>,
    /// Subjects of what has arrived, counted after the messages were asked for.
    arrived: BTreeSet<String>,
    inboxes: BTreeSet<String>,
}

impl Kept {
    async fn fetch(parties: &Parties, owed: &[Acknowledgement], sink: &Sink) -> Result<Self> {
        let with_letters: BTreeMap<&str, &Inbox> = owed
            .iter()
            .filter_map(|acknowledged| match acknowledged {
                Acknowledgement::Accepted { inbox, .. }
                | Acknowledgement::Received { inbox, .. } => Some((inbox.id.as_str(), inbox)),
                Acknowledgement::Asked { .. } | Acknowledgement::Made { .. } => None,
            })
            .collect();
        let mut messages = BTreeMap::new();
        for (id, inbox) in with_letters {
            for message in parties
                .account
                .all(&format!("{}?limit=500", inbox.messages_path()))
                .await?
            {
                let subject = message["subject"].as_str().unwrap_or_default().to_owned();
                let twin = messages.insert((id.to_owned(), subject.clone()), message);
                ensure!(twin.is_none(), "{subject} is in {} twice", inbox.address);
            }
        }
        let arrived = sink.by_subject().into_keys().collect();
        let inboxes = parties.account.inboxes(&parties.domain).await?;
        let addresses: BTreeSet<String> =
            inboxes.iter().map(|inbox| inbox.address.clone()).collect();
        ensure!(
            addresses.len() == inboxes.len(),
            "two inboxes have one address: {inboxes:?}"
        );
        Ok(Self {
            messages,
            arrived,
            inboxes: addresses,
        })
    }

    /// Nothing in this world refuses mail: a letter is on its way, or it has arrived.
    fn look_at_fate(&self, subject: &str, found: &Value) -> Result<()> {
        match state_of(found) {
            "queued" | "attempting" | "uncertain" => Ok(()),
            "delivered" => {
                let arrived = self.arrived.contains(subject);
                ensure!(
                    arrived,
                    "{subject} is said to be delivered, and never was: {found}"
                );
                Ok(())
            }
            other => anyhow::bail!("{subject} is {other}: {found}"),
        }
    }

    fn message(&self, inbox: &Inbox, subject: &str) -> Option<&Value> {
        self.messages.get(&(inbox.id.clone(), subject.to_owned()))
    }
}

/// When accidents happen: the same in every run, as far as a machine allows.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    /// Marsaglia's xorshift: even enough to strike at all moments.
    fn up_to(&mut self, ms_max: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % (ms_max + 1))
    }
}

/// All mail servers are one sink under many names.
async fn publish_sites(names: &mut NameServer, addresses: Addresses) -> Result<()> {
    let lines: Vec<String> = (0..load::SITES)
        .flat_map(|number| {
            let domain = absolute(&load::site(number));
            [
                format!("{domain} MX 10 mail.{domain}"),
                format!("mail.{domain} A {}", addresses.mail_server()),
            ]
        })
        .collect();
    names.publish(world::POST, &lines).await
}

/// A customer with a proven domain and its inboxes, one of them with a limit.
async fn move_in(daemon: &Daemon, names: &mut NameServer, addresses: Addresses) -> Result<Parties> {
    let account = daemon.api()?.register("acme").await?;
    let domain = account.add_domain("acme.test").await?;
    world::publish(names, &domain).await?;
    account.until_active(&domain).await?;
    let mut free = account.provision(&domain, 4, false).await?;
    let capped = free.pop().context("inboxes were made")?;
    for (inbox, daily_limit) in free
        .iter()
        .map(|inbox| (inbox, 100_000))
        .chain([(&capped, CAP)])
    {
        let wanted = json!({ "daily_limit": daily_limit, "hourly_limit": daily_limit });
        account
            .call(Method::PATCH, &inbox.path(), Some(&wanted))
            .await?
            .expect(200)?;
    }
    let smtp = daemon.smtp()?;
    Ok(Parties {
        account,
        domain,
        free,
        capped,
        smtp,
        strangers: addresses.mail_server(),
    })
}
