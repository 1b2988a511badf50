//! `inboxgrove demo`: a month of warmup in about a minute, on a small internet of its own.
//!
//! Name servers, three mailbox providers and the daemon run on loopback sockets in this process; only the
//! time that policies go by is fast, and it never runs past work in flight. All that a user does goes over
//! the public API: [`story`] does it, [`stage`] is where, [`ledger`] counts what the event stream tells.

mod client;
mod clock;
mod ledger;
mod letters;
mod report;
mod screen;
mod stage;
mod story;

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep_until};

use self::{
    ledger::Counts,
    report::{InboxLine, Note, OwnBooks, ProviderLine, Report, Row},
    screen::Screen,
    stage::Stage,
    story::Story,
};
use crate::{
    cli::{self, DemoArgs},
    logging::{self, Format},
    signals::Signals,
};

/// What goes to the log beside the table.
const LOG_LEVEL: &str = "error";
/// The exit code of a demo that was stopped before its end, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;
/// Threads that serve the daemon and its world.
const THREADS: usize = 2;
/// A simulated day takes at least this long, so that people can follow.
const PACE: Duration = Duration::from_millis(700);
/// The hours up to which the clock runs in one go; letters are written at the first two.
const HOURS: [u32; 6] = [10, 14, 16, 18, 21, 24];
/// The hours of [`HOURS`] at which letters are written.
const WRITING: [u32; 2] = [10, 14];

/// The demo as the user watches it.
struct Show<'a> {
    args: &'a DemoArgs,
    screen: Screen,
    started: Instant,
    story: Story<'a>,
    notes: Vec<Note>,
    /// Moves between bands that have been told.
    told: usize,
    health: Option<f64>,
}

/// Runs the demo. Returns when its days are over and, unless it was told to end, somebody asks for the end.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    logging::start(Format::Text, LOG_LEVEL)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(args));
    // Sessions of the simulated providers may still wait for a command.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn live(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let stage = Stage::build(args.seed, args.inboxes, !args.exit).await?;
    let code = watch(args, &stage, started, &mut signals).await;
    let struck = stage.strike().await;
    let code = code?;
    struck?;
    Ok(code)
}

/// Plays the demo and leaves the API up, until it is over, the daemon fails, or somebody asks for the end.
async fn watch(
    args: &DemoArgs,
    stage: &Stage,
    started: Instant,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        biased;
        _ = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
        why = stage.failed() => bail!("the daemon cannot go on: {why}"),
        played = play(args, stage, started) => played?,
    }
    if args.exit {
        return Ok(ExitCode::SUCCESS);
    }
    tokio::select! {
        biased;
        _ = signals.next() => Ok(ExitCode::SUCCESS),
        why = stage.failed() => bail!("the daemon cannot go on: {why}"),
        never = stage.go_on() => match never {},
    }
}

/// The days, the report, and how to look around.
async fn play(args: &DemoArgs, stage: &Stage, started: Instant) -> anyhow::Result<()> {
    let mut show = Show::begin(args, stage, started).await?;
    for day in 1..=args.days {
        show.day(stage, day).await?;
    }
    let report = show.report(stage).await?;
    show.screen.say(&format!("\n{}", report::text(&report)));
    if args.json {
        cli::print(&serde_json::to_string(&report)?)?;
    }
    if !args.exit {
        show.invite(&report);
    }
    Ok(())
}

// === impl Show ===

impl<'a> Show<'a> {
    async fn begin(args: &'a DemoArgs, stage: &'a Stage, started: Instant) -> anyhow::Result<Self> {
        let mut screen = Screen::new();
        screen.say(
            "A small internet on loopback: name servers, three mailbox providers, and this daemon.",
        );
        screen.draw("Registering, proving three domains, making inboxes ...");
        let story = Story::begin(stage, args.inboxes, args.days).await?;
        let providers: Vec<String> = story
            .standings()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        screen.say(&format!(
            "Registered, proved three domains, made {} inboxes over the API in {:.1} s. Seed {}.\n\
             Under each provider: what it thinks of our domains. Health: the mean score of our inboxes. 0 to 100.\n\n{}",
            args.inboxes,
            started.elapsed().as_secs_f64(),
            args.seed,
            report::head(&providers)
        ));
        Ok(Self {
            args,
            screen,
            started,
            story,
            notes: Vec::new(),
            told: 0,
            health: None,
        })
    }

    /// A day, from midnight to midnight.
    async fn day(&mut self, stage: &Stage, day: u32) -> anyhow::Result<()> {
        let morning = Instant::now();
        for hour in HOURS {
            stage
                .live_until(stage.hour(day, hour), Duration::ZERO)
                .await;
            if !self.args.exit {
                sleep_until(morning + PACE * hour / 24).await;
            }
            if WRITING.contains(&hour) {
                self.story.write_letters(day).await?;
            }
            if self.screen.is_live() {
                let row = self.row(day).line();
                self.screen.draw(&row);
            }
        }
        self.story.settle().await;
        self.health = mean(&self.story.inbox_lines().await?);
        let row = self.row(day).line();
        self.screen.say(&row);
        self.tell_bands();
        Ok(())
    }

    fn row(&self, day: u32) -> Row {
        Row {
            day: self.story.ledger().day(day),
            standings: self
                .story
                .standings()
                .into_iter()
                .map(|(_, standing)| standing)
                .collect(),
            health: self.health,
        }
    }

    /// Tells of inboxes that were stopped or set free since the last time.
    fn tell_bands(&mut self) {
        let changes = self.story.ledger().bands()[self.told..].to_vec();
        self.told += changes.len();
        for change in changes {
            let address = self
                .story
                .address_of(&change.inbox_id)
                .unwrap_or(&change.inbox_id);
            let text = format!(
                "{address} is {}: {}",
                change.band.replace('_', " "),
                report::short(&change.why)
            );
            // Holds come and go; what stops an inbox, and its end, is worth a line in the table.
            if matches!(change.band.as_str(), "throttled" | "quarantined") {
                self.screen.say(&format!("      {text}"));
            }
            self.notes.push(Note {
                day: change.day,
                inbox_id: change.inbox_id,
                band: change.band,
                text,
            });
        }
    }

    async fn report(&mut self, stage: &Stage) -> anyhow::Result<Report> {
        let inboxes = self.story.inbox_lines().await?;
        let standings = self.story.standings();
        let ledger = self.story.ledger();
        let days: Vec<_> = (1..=self.args.days).map(|day| ledger.day(day)).collect();
        let providers =
            stage
                .world
                .providers()
                .zip(standings)
                .map(|(provider, (name, standing))| {
                    let host = provider.rules().hosts.first().copied().unwrap_or_default();
                    let family = inboxgrove_policy::provider_of(host);
                    ProviderLine {
                        name,
                        standing,
                        counted: ledger.providers().get(&family).copied().unwrap_or_default(),
                        own_books: own_books(provider),
                    }
                });
        let providers = providers.collect();
        drop(ledger);
        Ok(Report {
            seed: self.args.seed,
            seconds: self.started.elapsed().as_secs_f64(),
            total: days
                .iter()
                .fold(Counts::default(), |sum, day| sum.plus(day.counts)),
            days,
            inboxes,
            providers,
            notes: std::mem::take(&mut self.notes),
            refused: self.story.refused(),
            bought_list: self.story.bought_list(),
            api: self.story.api().to_owned(),
        })
    }

    /// How to look around.
    fn invite(&mut self, report: &Report) {
        let (base, (email, password)) = (self.story.api(), self.story.login());
        let docs = base.replace("/api/v1", "/docs");
        let inbox = report.inboxes.first().map_or("", |inbox| inbox.id.as_str());
        let text = format!(
            "The API is up at {base}, documented at {docs}. Log in as {email} with the password {password}\n\n  \
             TOKEN=$(curl -s {base}/auth/login -H 'Content-Type: application/json' \
             -d '{{\"email\":\"{email}\",\"password\":\"{password}\"}}' | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n  \
             curl -s {base}/inboxes/{inbox}/health -H \"Authorization: Bearer $TOKEN\"\n  \
             curl -s {base}/warmup/progress -H \"Authorization: Bearer $TOKEN\"\n\n\
             Time now passes as it does outside. Ctrl-C ends the demo and removes what it stored."
        );
        self.screen.say(&text);
    }
}

// === free functions ===

fn mean(inboxes: &[InboxLine]) -> Option<f64> {
    let count = u32::try_from(inboxes.len())
        .ok()
        .filter(|count| *count > 0)?;
    Some(inboxes.iter().map(|inbox| inbox.score).sum::<f64>() / f64::from(count))
}

fn own_books(provider: &inboxgrove_sim::provider::Provider) -> OwnBooks {
    provider
        .daily()
        .iter()
        .fold(OwnBooks::default(), |sum, day| OwnBooks {
            accepted: sum.accepted + day.accepted,
            inbox: sum.inbox + day.inbox,
            spam: sum.spam + day.spam,
            deferred: sum.deferred + day.deferred,
            bounced: sum.bounced + day.bounced,
        })
}
