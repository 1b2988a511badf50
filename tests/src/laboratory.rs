//! The crash laboratory: a daemon under load whose process is killed, or whose disk loses power, again and again; after
//! each start everything that was acknowledged is looked for through the API.

use std::{
    fs, mem,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    addresses::Addresses,
    chance::Chance,
    daemon::{self, Daemon, Settings},
    disk::{FileSystem, PowerDisk},
    journal::{Acknowledgement, Journal},
    load::{self, Ledger, Load, Parties, Sites, Writers},
    looks::{Looks, Witnesses},
    name_server::{NameServer, absolute},
    report::{Figures, Report},
    sink::Sink,
    world,
};

/// At the end all mail gets out: what is uncertain is tried again after a minute, what was so twice or three times after
/// two and four.
const ALL_OUT_WITHIN: Duration = Duration::from_mins(10);
/// The queue is looked at this often then.
const QUEUE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the capped inbox may send a day.
const CAP: usize = 40;
/// An accident comes after up to so many acknowledgements, however fast the machine is …
const ACKNOWLEDGED_MOST: u64 = 30;
/// … and after so long at most: a lone writer who has inboxes made hears little.
const LOAD_LONGEST: Duration = Duration::from_millis(600);
/// The moment of an accident lies up to so long after an acknowledgement: several commits later.
const MOMENT_LONGEST: Duration = Duration::from_millis(20);
/// How often to look whether an accident is due.
const DUE_LOOK_EVERY: Duration = Duration::from_millis(1);
/// How much a start's length changes what is thought to be usual: one in so many.
const USUAL_OF: u32 = 8;

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
    /// While it works, and then while it starts on what that has left.
    InRecovery,
}

/// What an accident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accident {
    /// The process is gone, its disk lives on.
    Kill,
    /// The power is gone.
    Cut,
}

/// What a laboratory is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The disk that can lose power; without one the daemon is killed.
    pub disk: Option<FileSystem>,
    /// How many write at the same time.
    pub writers: Writers,
    /// When the accidents happen.
    pub seed: u64,
}

/// A laboratory with a daemon that runs. The daemon ends before the disk it writes to.
#[derive(Debug)]
pub struct Laboratory {
    daemon: Daemon,
    sink: Sink,
    disk: Option<PowerDisk>,
    parties: Parties,
    ledger: Arc<Ledger>,
    plan: Plan,
    chance: Chance,
    looks: Looks,
    loads: usize,
    starts_since_look: usize,
    /// How long a start takes, until its addresses are bound.
    usual_start: Duration,
    figures: Figures,
    started_at: Instant,
    _names: NameServer,
    _folder: TempDir,
}

impl Laboratory {
    /// A daemon on a plain folder, or on a disk that can lose power.
    pub async fn new(plan: Plan) -> Result<Self> {
        let folder = world::scratch_folder()?;
        let addresses = Addresses::of_this_process();
        let mut names = world::start_names(&folder, addresses).await?;
        publish_sites(&mut names, addresses).await?;
        let disk = plan
            .disk
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
            env: Vec::new(),
        };
        let daemon = Daemon::start(settings).await?;
        let usual_start = daemon.start_took();
        let parties = move_in(&daemon, &mut names, addresses).await?;
        Ok(Self {
            daemon,
            sink,
            disk,
            looks: Looks::new(&parties)?,
            parties,
            ledger,
            plan,
            chance: Chance::new(plan.seed),
            loads: 0,
            starts_since_look: 0,
            usual_start,
            figures: Figures::default(),
            started_at: Instant::now(),
            _names: names,
            _folder: folder,
        })
    }

    /// One accident or two, one start, one look at what is there.
    pub async fn trial(&mut self, moment: Moment) -> Result<()> {
        let accident = match self.plan.disk {
            Some(_) => Accident::Cut,
            None => Accident::Kill,
        };
        self.accident_under_load(accident).await?;
        if moment == Moment::InRecovery {
            self.accident_in_start(accident).await?;
        }
        self.start_and_look().await
    }

    /// A sequence of accidents, each in the start after the one before; then one start, one look at what is there.
    /// On a disk that can lose power they are cuts and kills as it comes.
    pub async fn sequence(&mut self, accidents: u64) -> Result<()> {
        let accident = self.any_accident();
        self.accident_under_load(accident).await?;
        for _ in 1..accidents {
            let accident = self.any_accident();
            self.accident_in_start(accident).await?;
        }
        self.figures.sequences += 1;
        self.start_and_look().await
    }

    /// A sequence's length by chance.
    pub fn any_length(&mut self, from: u64, to: u64) -> u64 {
        self.chance.between(from, to)
    }

    /// How many accidents have happened.
    pub fn accidents(&self) -> usize {
        self.figures.kills + self.figures.cuts
    }

    /// Lets all mail out, looks at everything once more, and stops the daemon in an orderly way.
    pub async fn finish(mut self) -> Result<Report> {
        let trials_took = self.started_at.elapsed();
        let ended = self.end().await;
        ended.with_context(|| self.daemon.log_tail())?;
        let count = |kind: fn(&Acknowledgement) -> bool| self.ledger.journal.count(kind);
        Ok(Report {
            plan: self.plan,
            figures: self.figures,
            usual_start: self.usual_start,
            accepted: count(|noted| matches!(noted, Acknowledgement::Accepted { .. })),
            received: count(|noted| matches!(noted, Acknowledgement::Received { .. })),
            jobs: count(|noted| matches!(noted, Acknowledgement::Asked { .. })),
            delivered: self.sink.arrivals().len(),
            doubts: self.looks.doubts(),
            trials_took,
            end_took: self.started_at.elapsed().saturating_sub(trials_took),
        })
    }

    async fn end(&mut self) -> Result<()> {
        let witnesses = Witnesses {
            parties: &self.parties,
            ledger: &self.ledger,
            sink: &self.sink,
        };
        // Every letter that was accepted leaves in the end: nothing is forgotten in the queue.
        let deadline = Instant::now() + ALL_OUT_WITHIN;
        loop {
            let on_their_way = self.looks.hear(witnesses, 1).await?;
            if on_their_way.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "never left: {on_their_way:?}");
            sleep(QUEUE_LOOK_EVERY).await;
        }
        self.looks.look_at_all(witnesses, 1).await?;
        self.look_at_the_cap()?;
        let broken = self.looks.doubts().broken;
        ensure!(
            self.disk.is_some() || broken == 0,
            "{broken} connections broke after the dot, and only the power breaks one here"
        );
        let status = self.daemon.stop().await?;
        ensure!(status.success(), "the daemon did not stop well: {status}");
        let aside = moved_aside(&self.daemon.settings().data)?;
        let log = self.daemon.log();
        let told = log.lines().find(|line| line.contains("moved_aside: Some"));
        ensure!(
            aside.is_empty(),
            "rows did not open after an accident: {aside:?}: {told:?}"
        );
        // No daemon runs: the command reads every frame and every row from the files themselves.
        self.daemon.command(&["store", "verify"])?;
        Ok(())
    }

    fn any_accident(&mut self) -> Accident {
        if self.disk.is_some() && self.chance.coin() {
            Accident::Cut
        } else {
            Accident::Kill
        }
    }

    async fn accident_under_load(&mut self, accident: Accident) -> Result<()> {
        let load = Load::start_with(&self.parties, &self.ledger, self.plan.writers, self.loads);
        self.loads += 1;
        self.until_an_accident_is_due().await;
        let (Accident::Cut, Some(disk)) = (accident, &mut self.disk) else {
            self.figures.kills += 1;
            self.daemon.kill()?;
            return load.end().await;
        };
        self.figures.cuts += 1;
        // From here on nothing that is said counts: the world outside is gone at the moment of the cut.
        let said = self.ledger.journal.len();
        self.sink.cut_off();
        let photograph = disk.photograph()?;
        self.daemon.kill()?;
        load.end().await?;
        self.ledger.power_went_after(said)?;
        disk.restore(photograph)?;
        self.sink.open();
        Ok(())
    }

    async fn until_an_accident_is_due(&mut self) {
        let acknowledged = self.ledger.journal.len();
        let more = usize::try_from(self.chance.between(0, ACKNOWLEDGED_MOST)).unwrap_or(0);
        let deadline = Instant::now() + LOAD_LONGEST;
        while self.ledger.journal.len() < acknowledged + more && Instant::now() < deadline {
            sleep(DUE_LOOK_EVERY).await;
        }
        sleep(self.chance.up_to(MOMENT_LONGEST)).await;
    }

    /// The moments of the accident cover all of the start.
    async fn accident_in_start(&mut self, accident: Accident) -> Result<()> {
        let mut starting = daemon::spawn(self.daemon.settings())?;
        self.starts_since_look += 1;
        sleep(self.chance.up_to(self.usual_start)).await;
        ensure!(
            starting.ended()?.is_none(),
            "the daemon ended while it started:\n{}",
            starting.tail()
        );
        self.figures.in_start += 1;
        if !daemon::has_bound(self.daemon.settings()) {
            self.figures.before_bound += 1;
        }
        let (Accident::Cut, Some(disk)) = (accident, &mut self.disk) else {
            self.figures.kills += 1;
            return starting.kill();
        };
        self.figures.cuts += 1;
        self.sink.cut_off();
        let photograph = disk.photograph()?;
        starting.kill()?;
        disk.restore(photograph)?;
        self.sink.open();
        Ok(())
    }

    async fn start_and_look(&mut self) -> Result<()> {
        self.daemon.start_again().await?;
        let took = self.daemon.start_took();
        self.starts_since_look += 1;
        self.usual_start = (self.usual_start * (USUAL_OF - 1) + took) / USUAL_OF;
        self.figures.slowest_start = self.figures.slowest_start.max(took);
        self.parties.account.api = self.daemon.api()?;
        self.parties.smtp = self.daemon.smtp()?;
        let witnesses = Witnesses {
            parties: &self.parties,
            ledger: &self.ledger,
            sink: &self.sink,
        };
        // The one that ran before the first accident since the last look has had its say, too.
        let lives = 1 + mem::take(&mut self.starts_since_look);
        let looked = self.looks.look(witnesses, lives).await;
        looked
            .and_then(|()| self.look_at_the_cap())
            .with_context(|| self.daemon.log_tail())
    }

    /// What has left from the capped inbox, over all days that the laboratory has seen (a run may pass midnight).
    fn look_at_the_cap(&self) -> Result<()> {
        let most = CAP * 2_usize.pow(u32::from(self.passed_midnight()));
        let capped = &self.parties.capped;
        let left = self.sink.subjects_from(&capped.address).len();
        ensure!(
            left <= most,
            "CAP EXCEEDED: {left} letters left instead of {CAP} a day"
        );
        let accepted = self.ledger.journal.count(
            |noted| matches!(noted, Acknowledgement::Accepted { inbox, .. } if inbox.id == capped.id),
        );
        ensure!(
            accepted <= most,
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
        sites: Sites::There,
    })
}

/// Rows that a start found unusable and put aside, below the data folder.
fn moved_aside(data: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains(".broken-") {
            found.push(path);
        } else if path.is_dir() {
            found.append(&mut moved_aside(&path)?);
        }
    }
    Ok(found)
}
