//! A day of a seed, from an empty disk to the last look.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use inboxgrove_model::{MessageId, PolicyTime, ports::Clock};
use inboxgrove_sim::net::Faults;
use inboxgrove_store::{ReadError, Stop, Store};
use tokio::task::JoinSet;

use super::{
    house::{House, is_of_the_disk},
    invariants::{Past, Scene},
    neighbourhood::{Call, EPOCH, INBOUND, Neighbourhood, settings},
    people::{Entries, Journal, Person, Sent, strangers_until},
    records::{events_after, first_difference, lines},
    weather::{Happening, Incident, Nested, forecast},
    wire::Heard,
};

mod outcome;
mod strokes;

pub use self::outcome::{Failure, Lived};

/// Violations that are named; the rest is only counted.
const VIOLATIONS_SHOWN: usize = 8;
/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_hours(2);
/// How often there is a glance at what is cheap to look at.
const GLANCE_EVERY: Duration = Duration::from_mins(5);
/// Calm at the end: greylisted and suspended mail has its turn, so that what is left over shows.
const CALM: Duration = Duration::from_hours(4);
/// How long an operator's restart may take.
const DRAIN: Duration = Duration::from_secs(25);
/// People who have not come to an end by then hang. A clock that was set may stop the daemon's policy for a day.
const PEOPLE_WAIT: Duration = Duration::from_hours(40);

/// What a seed is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Where chance begins.
    pub seed: u64,
    /// How many hours are lived; the calm at the end is not counted.
    pub hours: u64,
    /// How many people have accounts.
    pub people: usize,
    /// What goes wrong.
    pub trouble: Trouble,
    /// A lie that the judge is told, so that there is a failure to look at.
    pub lie: Option<Lie>,
}

/// What goes wrong in a life.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// This, in the order of time.
    Given(Vec<Incident>),
    /// The power fails at the n-th write or sync after the start.
    CutAtWrite(u64),
}

/// A lie that the judge is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// When a run is killed, a message had been accepted that nobody ever heard of.
    PromiseAtKill,
}

/// A life under way.
struct Living {
    around: Arc<Neighbourhood>,
    house: House,
    journal: Journal,
    past: Past,
    /// Incidents that last, by their numbers.
    under_way: BTreeMap<usize, Happening>,
    /// Accidents that will end the starts after the next one.
    nested: Nested,
    /// How a run ends that a fault of the disk ends.
    ends_by: Stop,
    lie: Option<Lie>,
    trace: Vec<String>,
}

/// Something in the time-table of a day.
#[derive(Debug, Clone)]
enum Turn {
    Begin(Incident),
    End(Incident),
}

// === impl Life ===

impl Life {
    /// A life of so many days with all that its seed has in store.
    pub fn of_seed(seed: u64, days: u64) -> Self {
        Self {
            seed,
            hours: 24 * days,
            people: 3,
            trouble: Trouble::Given(forecast(seed, 24 * days)),
            lie: None,
        }
    }

    /// Lives it on a runtime of its own, whose clock is paused.
    pub fn live(&self) -> Result<Lived, Box<Failure>> {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            let runtime = runtime.map_err(|why| Failure::new(&why.into()))?;
            runtime.block_on(self.run())
        }));
        let panicked = |_| Err(Failure::new(&anyhow::anyhow!("it panicked, see above")));
        lived.unwrap_or_else(panicked).map_err(Box::new)
    }

    async fn run(&self) -> Result<Lived, Failure> {
        let failed = |why: anyhow::Error| Failure::new(&why);
        let mut living = Living::begin(self).await.map_err(failed)?;
        let lived = living.live(self).await;
        lived.map_err(|why| living.failure(&why))
    }
}

// === impl Living ===

impl Living {
    async fn begin(life: &Life) -> anyhow::Result<Self> {
        let around = Arc::new(Neighbourhood::build(life.seed).await?);
        let rng = around.rng.stream("house");
        let (outside, wire) = (around.outside(), around.wire.clone());
        let house = House::build(settings()?, outside, wire, INBOUND, rng).await?;
        Ok(Self {
            around,
            house,
            journal: Journal::default(),
            past: Past::default(),
            under_way: BTreeMap::new(),
            nested: Nested::new(),
            ends_by: Stop::Power { kept: 0 },
            lie: life.lie,
            trace: Vec::new(),
        })
    }

    async fn live(&mut self, life: &Life) -> anyhow::Result<Lived> {
        self.house.start().await?;
        let ends = self.now().after(Duration::from_hours(life.hours));
        let turns = match &life.trouble {
            Trouble::None => Vec::new(),
            Trouble::Given(incidents) => time_table(incidents),
            Trouble::CutAtWrite(write) => {
                self.house.disk().cut_power_in(*write, 0);
                Vec::new()
            }
        };
        let people = self.wake_people(life.people, ends);
        self.go_through(turns, ends).await?;
        self.calm_down(people).await?;
        self.close().await
    }

    /// True time.
    fn now(&self) -> PolicyTime {
        self.around.clock.policy()
    }

    fn wake_people(&self, count: usize, until: PolicyTime) -> JoinSet<anyhow::Result<()>> {
        let mut people = JoinSet::new();
        for n in 0..count {
            let person = Person::new(&self.around, self.house.daemon(), &self.journal, n);
            people.spawn(async move {
                let account = person
                    .move_in()
                    .await
                    .with_context(|| format!("person {n} does not get in"))?;
                person.write_until(&account, until).await
            });
        }
        people.spawn(strangers_until(
            Arc::clone(&self.around),
            self.house.daemon().clone(),
            until,
        ));
        people
    }

    /// Lets time pass, with everything that happens meanwhile.
    async fn go_through(
        &mut self,
        turns: Vec<(Duration, Turn)>,
        until: PolicyTime,
    ) -> anyhow::Result<()> {
        let clock = Arc::clone(&self.around.clock);
        let mut turns = turns.into_iter().peekable();
        let mut look_at = self.now().after(LOOK_EVERY);
        let mut glance_at = self.now().after(GLANCE_EVERY);
        loop {
            let next = turns
                .peek()
                .map_or(until, |(at, _)| EPOCH.after(*at))
                .min(look_at)
                .min(glance_at)
                .min(until);
            let platform = self.house.daemon().platform().context("nobody is up")?;
            let died = tokio::select! {
                biased;
                why = platform.failed() => Some(why),
                () = clock.sleep_until(next) => None,
            };
            drop(platform);
            if let Some(why) = died {
                self.recover(&why).await?;
                continue;
            }
            let now = self.now();
            if now >= until {
                return Ok(());
            }
            if now >= look_at {
                self.inspect(false)?;
                look_at = now.after(LOOK_EVERY);
            } else if now >= glance_at {
                self.glance()?;
                glance_at = now.after(GLANCE_EVERY);
            } else if let Some((_, turn)) = turns.next() {
                let what = format!("{turn:?}");
                self.take_turn(turn)
                    .await
                    .with_context(|| format!("at {now}, {what}"))?;
            }
        }
    }

    /// The daemon has ended by itself, as it should when its disk fails or loses power.
    async fn recover(&mut self, why: &str) -> anyhow::Result<()> {
        ensure!(
            is_of_the_disk(why),
            "the daemon ended, and not because of its disk: {why}"
        );
        self.note(&format!("the daemon ended: {why}"));
        let stop = self.ends_by;
        self.accident(stop).await
    }

    async fn accident(&mut self, stop: Stop) -> anyhow::Result<()> {
        self.house.accident(stop).await;
        if self.lie == Some(Lie::PromiseAtKill) && matches!(stop, Stop::Kill { .. }) {
            self.journal.add_sent(false_promise());
        }
        self.start().await
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.past.unwell();
        let nested = std::mem::take(&mut self.nested);
        self.house.start_through(nested).await?;
        self.inspect(false)
    }

    fn note(&mut self, what: &str) {
        let now = self.now();
        self.trace.push(format!("{now} {what}"));
    }

    /// Everything heals, people come to an end, and what is left over is done.
    async fn calm_down(&mut self, mut people: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        for (_, what) in std::mem::take(&mut self.under_way) {
            self.end(&what).await?;
        }
        self.around.net.faults_everywhere(Faults::default());
        // A cut or a fault that never met its write is taken back by a last accident.
        self.nested.clear();
        self.accident(Stop::Power { kept: 0 })
            .await
            .context("the last start")?;
        let parting = async {
            while let Some(person) = people.join_next().await {
                person??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PEOPLE_WAIT, parting)
            .await
            .context("somebody waits for ever")??;
        let until = self.now().after(CALM);
        self.go_through(Vec::new(), until).await?;
        self.inspect(true)
    }

    fn inspect(&mut self, calm: bool) -> anyhow::Result<()> {
        let Some(platform) = self.house.daemon().platform() else {
            bail!("nobody is up");
        };
        self.inspect_store(platform.store(), calm)
    }

    fn inspect_store(&mut self, store: &Store, calm: bool) -> anyhow::Result<()> {
        let (promised, heard) = (self.journal.entries(), self.around.wire.seen());
        let calls = self.around.vendors.calls();
        let mut past = std::mem::take(&mut self.past);
        let scene = Scene {
            calm,
            ..self.scene(store, &promised, &heard, &calls)
        };
        let found = scene.look(&mut past);
        self.past = past;
        self.judge(found, calm)
    }

    /// A look at what is cheap to look at. It needs no list of all that was ever heard.
    fn glance(&mut self) -> anyhow::Result<()> {
        let Some(platform) = self.house.daemon().platform() else {
            bail!("nobody is up");
        };
        if self.under_way.values().any(Happening::keeps_from_work) {
            self.past.unwell();
        }
        let heard = Heard {
            ends: self.around.wire.ends(),
            ..Heard::default()
        };
        let (promised, commits) = (Entries::default(), self.house.disk().fetch_witnessed());
        let mut past = std::mem::take(&mut self.past);
        let scene = self.scene(platform.store(), &promised, &heard, &[]);
        let found = scene.glance(&mut past, &commits);
        self.past = past;
        self.judge(found, false)
    }

    fn scene<'a>(
        &'a self,
        store: &'a Store,
        promised: &'a Entries,
        heard: &'a Heard,
        calls: &'a [Call],
    ) -> Scene<'a> {
        Scene {
            store,
            config: self.house.config(),
            promised,
            heard,
            calls,
            now: self.around.hardware.policy(),
            truth: self.around.clock.policy(),
            rotten: self.house.is_rotten(),
            calm: false,
        }
    }

    fn judge(&self, found: Result<Vec<String>, ReadError>, calm: bool) -> anyhow::Result<()> {
        match found {
            Ok(violations) => {
                ensure!(
                    violations.is_empty(),
                    "{} violations at {}:\n  {}",
                    violations.len(),
                    self.around.hardware.policy(),
                    violations[..violations.len().min(VIOLATIONS_SHOWN)].join("\n  ")
                );
                Ok(())
            }
            // A disk that has just lost its power cannot be read; the next start looks again.
            Err(why) if !calm && why.to_string().contains("lost power") => Ok(()),
            // What rots is named by whoever reads it, and read again when it is mended.
            Err(_) if self.house.is_rotten() => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    /// The daemon stops; its rows are lost, and made again from the log alone: they are the same.
    async fn close(&mut self) -> anyhow::Result<Lived> {
        self.house.stop(DRAIN).await;
        let store = self.house.look()?;
        let found = store.verify();
        ensure!(found.is_clean(), "at the end: {:?}", found.problems);
        let (rows, events) = (lines(&store)?, events_after(&store, 0)?);
        drop(store);
        self.house.disk().lose_rows();
        let again = self.house.look().context("the log alone")?;
        if let Some(difference) = first_difference(&rows, &lines(&again)?) {
            bail!("the log does not make the same rows: {difference}");
        }
        self.inspect_store(&again, true)?;
        Ok(self.sum_up(events))
    }
}

/// When each incident begins and ends.
fn time_table(incidents: &[Incident]) -> Vec<(Duration, Turn)> {
    let mut turns = Vec::new();
    for incident in incidents {
        turns.push((incident.at, Turn::Begin(incident.clone())));
        if !incident.lasts.is_zero() {
            let ends = incident.at + incident.lasts;
            turns.push((ends, Turn::End(incident.clone())));
        }
    }
    turns.sort_by_key(|(at, _)| *at);
    turns
}

fn false_promise() -> Sent {
    Sent {
        tenant: inboxgrove_model::TenantId::from_bytes([9; 16]),
        inbox: inboxgrove_model::InboxId::from_bytes([9; 16]),
        message: MessageId::from_bytes([9; 16]),
        subject: "A letter that was never written".to_owned(),
    }
}
