//! A day of a seed, from an empty disk to the last look.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use inboxgrove_model::{
    PolicyTime,
    event::{EventKind, LoggedEvent},
    ports::{Clock, Rng},
};
use inboxgrove_sim::{net::Faults, rng::SeededRng};
use inboxgrove_store::Store;
use tokio::task::JoinSet;

use super::{
    house::{Accident, House, Tally},
    invariants::{Inspection, Past},
    neighbourhood::{INBOUND, Neighbourhood, settings},
    people::{Journal, Person, strangers_until},
    records::{events_after, first_difference, lines},
    weather::{Happening, Incident, drizzle, forecast, index},
};

/// Violations that are named; the rest is only counted.
const VIOLATIONS_SHOWN: usize = 8;
/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_hours(2);
/// Calm at the end: greylisted and suspended mail has its turn, so that what is left over shows.
const CALM: Duration = Duration::from_hours(4);
/// How long an operator's restart may take.
const DRAIN: Duration = Duration::from_secs(25);
/// People who have not come to an end by then hang.
const PEOPLE_WAIT: Duration = Duration::from_hours(30);

/// What a seed is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Where chance begins.
    pub seed: u64,
    /// How many hours are lived; the calm at the end is not counted.
    pub hours: u64,
    /// How many people have accounts.
    pub people: usize,
    /// What goes wrong.
    pub trouble: Trouble,
}

/// What goes wrong in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Whatever the seed has in store.
    OfTheSeed,
    /// The power fails at the n-th write or sync after the start.
    CutAtWrite(u64),
}

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lived {
    /// All events, one a line.
    pub events: Vec<String>,
    /// How many of each kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// What befell the house.
    pub tally: Tally,
    /// Refusals that people met, by their kind.
    pub refused: BTreeMap<&'static str, u32>,
    /// Messages that were accepted from people.
    pub sent: usize,
    /// Transmissions that were heard on the wires.
    pub heard: usize,
}

/// A life under way.
struct Living {
    around: Arc<Neighbourhood>,
    house: House,
    journal: Journal,
    chance: SeededRng,
    past: Past,
}

impl Life {
    /// Lives it on a runtime of its own, whose clock is paused.
    pub fn live(self) -> anyhow::Result<Lived> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        runtime.block_on(self.run())
    }

    async fn run(self) -> anyhow::Result<Lived> {
        let around = Arc::new(Neighbourhood::build(self.seed).await?);
        let rng = around.rng.stream("house");
        let house = House::build(settings()?, around.outside(), INBOUND, rng).await?;
        let mut living = Living {
            chance: around.rng.stream("life"),
            around,
            house,
            journal: Journal::default(),
            past: Past::default(),
        };
        living.house.start().await?;
        let ends = living.now().after(Duration::from_hours(self.hours));
        let mut incidents = VecDeque::new();
        match self.trouble {
            Trouble::None => {}
            Trouble::OfTheSeed => {
                living.around.net.faults_everywhere(drizzle(&living.chance));
                incidents.extend(forecast(&living.chance, living.now(), self.hours));
            }
            Trouble::CutAtWrite(write) => living.house.disk().cut_power_in(write, 0),
        }
        let people = living.wake_people(self.people, ends);
        living.go_through(incidents, ends).await?;
        living.calm_down(people).await?;
        living.close().await
    }
}

// === impl Living ===

impl Living {
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
        mut incidents: VecDeque<Incident>,
        until: PolicyTime,
    ) -> anyhow::Result<()> {
        let clock = Arc::clone(&self.around.clock);
        let mut look_at = self.now().after(LOOK_EVERY);
        loop {
            let next = incidents
                .front()
                .map_or(until, |incident| incident.at)
                .min(look_at)
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
            } else if let Some(incident) = incidents.pop_front() {
                self.happen(incident.what)
                    .await
                    .with_context(|| format!("at {now}"))?;
            }
        }
    }

    async fn happen(&mut self, what: Happening) -> anyhow::Result<()> {
        match what {
            Happening::Weather(weather) => weather.strike(&self.around),
            Happening::Room(bytes) => self.house.disk().set_free_bytes(bytes),
            Happening::CutAtWrite(writes, kept) => self.house.disk().cut_power_in(writes, kept),
            Happening::DiskFault(fault) => self.house.disk().fail_next(fault),
            Happening::CutNow(kept) => {
                self.house.accident(Accident::PowerCut { kept }).await;
                self.start().await?;
            }
            Happening::Kill => {
                self.house.accident(Accident::Killed).await;
                self.start().await?;
            }
            Happening::Restart => {
                self.house.stop(DRAIN).await;
                self.start().await?;
            }
        }
        Ok(())
    }

    /// The daemon has ended by itself, as it should when its disk fails or loses power.
    async fn recover(&mut self, why: &str) -> anyhow::Result<()> {
        ensure!(
            is_of_the_disk(why),
            "the daemon ended, and not because of its disk: {why}"
        );
        let accident = match self.chance().below(3) {
            0 => Accident::PowerCut { kept: 0 },
            1 => Accident::PowerCut {
                kept: index(self.chance(), 20_000),
            },
            _ => Accident::Killed,
        };
        self.house.accident(accident).await;
        self.start().await
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.house.start_in_trouble(&self.chance).await?;
        self.inspect(false)
    }

    fn chance(&self) -> &dyn Rng {
        &self.chance
    }

    /// Everything heals, people come to an end, and what is left over is done.
    async fn calm_down(&mut self, mut people: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        self.around.net.faults_everywhere(Faults::default());
        // A cut or a fault that never met its write is taken back by a last accident.
        self.house.accident(Accident::PowerCut { kept: 0 }).await;
        self.house.start().await.context("the last start")?;
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
        self.go_through(VecDeque::new(), until).await?;
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
        let now = self.now();
        let inspection = Inspection::new(store, self.house.config(), &promised, &heard, now, calm);
        match inspection.look(&mut self.past) {
            Ok(violations) => {
                ensure!(
                    violations.is_empty(),
                    "{} violations at {now}:\n  {}",
                    violations.len(),
                    violations[..violations.len().min(VIOLATIONS_SHOWN)].join("\n  ")
                );
                Ok(())
            }
            // A disk that has just lost its power cannot be read; the next start looks again.
            Err(why) if !calm && why.to_string().contains("lost power") => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    /// The daemon stops; its rows are lost, and made again from the log alone: they are the same.
    async fn close(mut self) -> anyhow::Result<Lived> {
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
        Ok(self.sum_up(&events))
    }

    fn sum_up(&self, events: &[LoggedEvent]) -> Lived {
        let mut kinds = BTreeMap::new();
        for logged in events {
            *kinds.entry(name_of(&logged.event.kind)).or_default() += 1;
        }
        let promised = self.journal.entries();
        Lived {
            events: events.iter().map(|logged| format!("{logged:?}")).collect(),
            kinds,
            tally: self.house.tally(),
            refused: promised.refused,
            sent: promised.sent.len(),
            heard: self.around.wire.seen().len(),
        }
    }
}

/// Whoever meets a disk that fails says so first: the store, or an actor that reads.
fn is_of_the_disk(why: &str) -> bool {
    ["the store failed", "lost power"]
        .iter()
        .any(|cause| why.contains(cause))
}

fn name_of(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::MessageAccepted { .. } => "accepted",
        EventKind::MessageDelivered { .. } => "delivered",
        EventKind::MessageDeferred { .. } => "deferred",
        EventKind::MessageBounced { .. } => "bounced",
        EventKind::MessageUncertain { .. } => "uncertain",
        EventKind::MessageExpired { .. } => "expired",
        EventKind::MessageReceived { .. } => "received",
        EventKind::MessagePlaced { .. } => "placed",
        EventKind::MessageReplied { .. } => "replied",
        _ => "other",
    }
}
