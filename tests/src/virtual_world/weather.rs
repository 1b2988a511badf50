//! The forecast of a seed: what goes wrong, when, and for how long. All of it is known before the day begins, so that
//! a day can be lived again with parts of it left out.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use inboxgrove_model::ports::{Clock, RecordData, Rng};
use inboxgrove_sim::{dns::Trouble, net::Faults, provider::Mood, rng::SeededRng, world::addresses};
use inboxgrove_store::{Fault, Stop};

use super::{
    classes::FaultClass,
    neighbourhood::{INBOUND, Neighbourhood, PROVIDERS, VendorMood, friends_zone},
};

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its number in the forecast, by which a replay names it.
    pub number: usize,
    /// How long after the beginning.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub what: Happening,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// To names, wires, providers and vendors.
    Weather(Weather),
    /// The disk has so much room left.
    Room(u64),
    /// The run ends by accident: now, or at the n-th write from now.
    Accident {
        /// How many writes and syncs are done before.
        in_writes: Option<u64>,
        /// How it ends.
        stop: Stop,
        /// Ends of the starts after it.
        nested: Nested,
    },
    /// The disk makes a mistake, which ends the process.
    DiskFault {
        /// Which.
        fault: Fault,
        /// How the run ends when it meets it.
        stop: Stop,
        /// Ends of the starts after it.
        nested: Nested,
    },
    /// A bit rots; an operator mends it when it is over.
    Rot(Rot),
    /// Somebody sets the clock on the wall, and sets it back when it is over; with no time it stays.
    Step {
        /// Forward, or back.
        millis: i64,
    },
    /// Some inbox's actor fails so many times in a row.
    FailActor {
        /// Which inbox, going round.
        pick: u64,
        /// How many times.
        times: u32,
    },
    /// Some inbox is asked so many things at once.
    Flood {
        /// Which inbox, going round.
        pick: u64,
        /// How many letters.
        letters: u32,
    },
    /// Commits hang: every actor that waits for one does.
    Hang,
    /// An operator restarts the daemon.
    Restart,
    /// An operator restarts it, and between the runs takes the store to another format and back.
    Migrate {
        /// Where the power fails meanwhile, if it does.
        cut: Option<u64>,
    },
    /// A backup is taken, and the log compacted.
    BackUp,
}

/// Ends of starts, one after the other: at which write, and how.
pub type Nested = Vec<(u64, Stop)>;

/// What rots. The numbers choose among what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// A row.
    Row(u64, u64),
    /// A byte of the log.
    Log(u64, u64),
    /// A byte of the newest backup.
    Backup(u64, u64),
}

/// What befalls the world around the house.
#[derive(Debug, Clone, PartialEq)]
pub enum Weather {
    /// What befalls all connections.
    Drizzle(Faults),
    /// A zone fails.
    Zone(String, Trouble),
    /// A name server fails.
    NameServer(usize, Trouble),
    /// The resolver believes a forged record.
    Poison(String, RecordData),
    /// A provider's mood.
    Mood(&'static str, Mood),
    /// What befalls connections to an address.
    Wires(SocketAddr, Faults),
    /// The vendor's mood.
    Vendor(VendorMood),
}

/// Minutes that bad weather lasts.
const LASTS_MIN: u64 = 3;
const LASTS_MAX: u64 = 50;
/// Room on a disk that is nearly full: below the floor of the store.
const LITTLE_ROOM: u64 = 64 << 20;
/// A day, by which clocks are set.
const DAY_MS: i64 = 24 * 3_600_000;
/// One piece of bad weather in about this many minutes.
const WEATHER_EVERY: u64 = 60;
/// One accident in about this many.
const ACCIDENT_EVERY: u64 = 160;
/// Share of starts after an accident that end by another one.
const AGAIN: f64 = 0.3;
/// Minutes in which people move in.
const MOVING_IN: u64 = 12;
/// About as many writes and syncs as a start makes.
const START_WRITES: u64 = 6;
/// Starts in a row that may end so.
const NESTED_MAX: usize = 6;

impl Weather {
    /// Lets it happen.
    pub fn begin(&self, around: &Neighbourhood) {
        match self {
            Self::Drizzle(faults) => around.net.faults_everywhere(*faults),
            Self::Zone(apex, trouble) => around.world.zones().trouble(apex, *trouble),
            Self::NameServer(n, trouble) => {
                let server = addresses::NAME_SERVERS[*n];
                around.world.zones().server_trouble(server, *trouble);
            }
            Self::Poison(name, data) => around.world.zones().poison(name, vec![data.clone()]),
            Self::Mood(name, mood) => {
                if let Some(provider) = around.world.provider(name) {
                    provider.set_mood(*mood);
                }
            }
            Self::Wires(to, faults) => around.net.faults_at(*to, *faults),
            Self::Vendor(mood) => around.vendors.set_mood(*mood),
        }
    }

    /// It is over.
    pub fn end(&self, around: &Neighbourhood) {
        match self {
            Self::Drizzle(_) => around.net.faults_everywhere(Faults::default()),
            Self::Zone(apex, _) => around.world.zones().trouble(apex, Trouble::None),
            Self::NameServer(n, _) => {
                let server = addresses::NAME_SERVERS[*n];
                around.world.zones().server_trouble(server, Trouble::None);
            }
            Self::Poison(name, _) => around.world.zones().cure(name),
            Self::Mood(name, _) => Self::Mood(name, Mood::Normal).begin(around),
            Self::Wires(to, _) => around.net.heal(*to),
            Self::Vendor(_) => around.vendors.set_mood(VendorMood::Well),
        }
    }

    /// The class of faults that it belongs to; moods of providers are everyday life.
    pub fn class(&self) -> Option<FaultClass> {
        match self {
            Self::Drizzle(_) | Self::Wires(..) => Some(FaultClass::Peer),
            Self::Zone(..) | Self::NameServer(..) | Self::Poison(..) => Some(FaultClass::Dns),
            Self::Vendor(_) => Some(FaultClass::Vendor),
            Self::Mood(..) => None,
        }
    }
}

/// Everything that goes wrong in the hours of a seed, in the order of time. All of it is over by their end.
pub fn forecast(seed: u64, hours: u64) -> Vec<Incident> {
    let chance = SeededRng::new(seed).stream("forecast");
    let chance: &dyn Rng = &chance;
    let classes = FaultClass::draw(chance);
    let minutes = hours * 60;
    let mut incidents = Vec::new();
    let mut add = |minute: u64, lasts: u64, what: Happening| {
        // Not on the minute: timers are.
        let millis = chance.below(60_000);
        incidents.push(Incident {
            number: 0,
            at: Duration::from_millis(minute * 60_000 + millis),
            lasts: Duration::from_mins(lasts),
            what,
        });
    };
    if classes.contains(&FaultClass::Peer) {
        let drizzle = Weather::Drizzle(drizzle(chance));
        add(0, minutes.saturating_sub(1), Happening::Weather(drizzle));
    }
    for _ in 0..minutes / WEATHER_EVERY {
        let begins = chance.below(minutes.saturating_sub(LASTS_MAX + 1).max(1));
        let lasts = LASTS_MIN + chance.below(LASTS_MAX - LASTS_MIN);
        match bad_weather(chance, &classes) {
            // Notices are told while people move in.
            Some(what @ Happening::Weather(Weather::Vendor(_))) => {
                add(begins % MOVING_IN, lasts, what);
            }
            Some(what) => add(begins, lasts, what),
            None => {}
        }
    }
    for _ in 0..=minutes / ACCIDENT_EVERY {
        let begins = chance.below(minutes.saturating_sub(LASTS_MAX + 1).max(1));
        let (lasts, what) = misfortune(chance, &classes);
        add(begins, lasts, what);
    }
    incidents.sort_by_key(|incident| incident.at);
    for (number, incident) in incidents.iter_mut().enumerate() {
        incident.number = number;
    }
    incidents
}

/// Light faults that are there all day.
fn drizzle(chance: &dyn Rng) -> Faults {
    Faults {
        refuse: 0.02 * chance.unit(),
        stall: 0.01 * chance.unit(),
        reset: 0.06 * chance.unit(),
        reset_within: 5_000,
        latency_min: Duration::from_millis(1),
        latency_max: Duration::from_millis(1 + chance.below(400)),
        drip: false,
    }
}

/// Weather of one of the classes, or a provider's mood.
fn bad_weather(chance: &dyn Rng, classes: &BTreeSet<FaultClass>) -> Option<Happening> {
    let provider = PROVIDERS[index(chance, PROVIDERS.len())];
    let weather = match chance.below(14) {
        0..=3 => dns_weather(chance, provider),
        4..=8 => wires(chance),
        9 | 10 => Weather::Vendor(
            [
                VendorMood::TooMany,
                VendorMood::Broken,
                VendorMood::Slow,
                VendorMood::Deaf,
            ][index(chance, 4)],
        ),
        11 => Weather::Mood(provider, Mood::Deferring),
        12 => Weather::Mood(provider, Mood::Refusing),
        _ => {
            let met = classes.contains(&FaultClass::NoSpace);
            return met.then_some(Happening::Room(LITTLE_ROOM));
        }
    };
    let met = weather.class().is_none_or(|class| classes.contains(&class));
    met.then_some(Happening::Weather(weather))
}

fn dns_weather(chance: &dyn Rng, provider: &str) -> Weather {
    let trouble = [Trouble::ServFail, Trouble::Timeout][index(chance, 2)];
    let friends = friends_zone(provider);
    match chance.below(6) {
        0 => {
            let zone = ["google.com", "outlook.com", "yahoodns.net"][index(chance, 3)];
            Weather::Zone(zone.to_owned(), trouble)
        }
        1 => Weather::Zone(friends, trouble),
        2 => Weather::NameServer(index(chance, 2), trouble),
        3 => Weather::Poison("d0.company0.example".to_owned(), forged_policy()),
        4 => Weather::Poison(friends, forged_exchange()),
        _ => Weather::Poison("nowhere.example".to_owned(), forged_exchange()),
    }
}

/// An SPF record that lets nobody send.
fn forged_policy() -> RecordData {
    RecordData::Txt("v=spf1 -all".to_owned())
}

/// A mail host at which nobody listens: it has no address that leads anywhere.
fn forged_exchange() -> RecordData {
    RecordData::Mx {
        preference: 0,
        exchange: "thief.forged.example".to_owned(),
    }
}

fn wires(chance: &dyn Rng) -> Weather {
    let faults = match chance.below(5) {
        0 => Faults::refuse(),
        1 => Faults::stall(),
        // About as long as a session with one message.
        2 => Faults::reset_within(6_000),
        3 => Faults::drip(Duration::from_millis(50 + chance.below(3_000))),
        _ => Faults::latency(Duration::from_millis(500 + chance.below(4_000))),
    };
    if chance.below(4) == 0 {
        return Weather::Wires(INBOUND, faults);
    }
    let n = u8::try_from(index(chance, PROVIDERS.len())).unwrap_or(0);
    let host = u8::from(chance.unit() < 0.3);
    let to = SocketAddr::new(addresses::provider_host(n, host), 25);
    Weather::Wires(to, faults)
}

/// Something that befalls the house, of one of the classes; a restart or a backup when none is met. Also how many
/// minutes it lasts.
fn misfortune(chance: &dyn Rng, classes: &BTreeSet<FaultClass>) -> (u64, Happening) {
    let class = FaultClass::ALL[index(chance, FaultClass::ALL.len())];
    let lasts = LASTS_MIN + chance.below(LASTS_MAX - LASTS_MIN);
    if !classes.contains(&class) {
        let everyday = if chance.below(3) == 0 {
            Happening::Restart
        } else {
            Happening::BackUp
        };
        return (0, everyday);
    }
    let again = classes.contains(&FaultClass::KillInStart);
    match class {
        FaultClass::Kill => (0, accident(chance, kill(chance), again)),
        FaultClass::PowerCut => (0, accident(chance, Stop::Power { kept: 0 }, again)),
        FaultClass::TornWrite => match chance.below(3) {
            0 => (0, fault(chance, Fault::ShortWrite, again)),
            _ => (0, accident(chance, torn(chance), again)),
        },
        // The first start after it ends by another.
        FaultClass::KillInStart => {
            let mut nested = vec![ending(chance)];
            nested.extend(nest(chance, again));
            let (in_writes, stop) = (None, some_stop(chance));
            (
                0,
                Happening::Accident {
                    in_writes,
                    stop,
                    nested,
                },
            )
        }
        FaultClass::NoSpace => (0, fault(chance, Fault::NoSpace, again)),
        FaultClass::WriteError => {
            let which = [Fault::Write, Fault::Apply][index(chance, 2)];
            (0, fault(chance, which, again))
        }
        FaultClass::SyncError => {
            let which = [Fault::Sync, Fault::Flush][index(chance, 2)];
            (0, fault(chance, which, again))
        }
        FaultClass::BitFlip => {
            let (one, other) = (chance.next_u64(), chance.next_u64());
            let rot = [
                Rot::Row(one, other),
                Rot::Log(one, other),
                Rot::Backup(one, other),
            ][index(chance, 3)];
            (lasts, Happening::Rot(rot))
        }
        FaultClass::ClockStep => step(chance),
        FaultClass::Actor => strike_at_actors(chance),
        FaultClass::Format => {
            let cut = (chance.unit() < AGAIN).then(|| chance.below(6));
            (0, Happening::Migrate { cut })
        }
        FaultClass::Dns => {
            let provider = PROVIDERS[index(chance, PROVIDERS.len())];
            (lasts, Happening::Weather(dns_weather(chance, provider)))
        }
        FaultClass::Peer => (lasts, Happening::Weather(wires(chance))),
        FaultClass::Vendor => (lasts, Happening::Weather(Weather::Vendor(VendorMood::Deaf))),
    }
}

fn accident(chance: &dyn Rng, stop: Stop, again: bool) -> Happening {
    Happening::Accident {
        in_writes: (chance.below(4) > 0).then(|| chance.below(40)),
        stop,
        nested: nest(chance, again),
    }
}

fn fault(chance: &dyn Rng, fault: Fault, again: bool) -> Happening {
    Happening::DiskFault {
        fault,
        stop: some_stop(chance),
        nested: nest(chance, again),
    }
}

/// Mended in time, believed, or back: by a day.
fn step(chance: &dyn Rng) -> (u64, Happening) {
    let (lasts, millis) = match chance.below(6) {
        0 | 1 => (1 + chance.below(3), DAY_MS),
        2 => (0, DAY_MS),
        // Policy time has followed and stands still for a day.
        3 => (6 + chance.below(LASTS_MAX - 6), DAY_MS),
        _ => (LASTS_MIN + chance.below(LASTS_MAX - LASTS_MIN), -DAY_MS),
    };
    (lasts, Happening::Step { millis })
}

fn strike_at_actors(chance: &dyn Rng) -> (u64, Happening) {
    let pick = chance.next_u64();
    match chance.below(3) {
        // Six failures in ten seconds park it; an operator frees it.
        0 => {
            let times = 1 + u32::try_from(chance.below(8)).unwrap_or(0);
            (LASTS_MIN, Happening::FailActor { pick, times })
        }
        1 => {
            let letters = 50 + u32::try_from(chance.below(400)).unwrap_or(0);
            (0, Happening::Flood { pick, letters })
        }
        _ => (1 + chance.below(4), Happening::Hang),
    }
}

fn kill(chance: &dyn Rng) -> Stop {
    Stop::Kill {
        rows: chance.unit() < 0.5,
    }
}

fn torn(chance: &dyn Rng) -> Stop {
    let kept = match chance.below(2) {
        0 => 1 + index(chance, 400),
        _ => 1 + index(chance, 20_000),
    };
    Stop::Power { kept }
}

fn some_stop(chance: &dyn Rng) -> Stop {
    match chance.below(3) {
        0 => Stop::Power { kept: 0 },
        1 => torn(chance),
        _ => kill(chance),
    }
}

fn ending(chance: &dyn Rng) -> (u64, Stop) {
    (chance.below(START_WRITES), some_stop(chance))
}

fn nest(chance: &dyn Rng, again: bool) -> Nested {
    let mut nested = Nested::new();
    while again && nested.len() < NESTED_MAX && chance.unit() < AGAIN {
        nested.push(ending(chance));
    }
    nested
}

/// A place in a list of `len`.
pub fn index(chance: &dyn Rng, len: usize) -> usize {
    usize::try_from(chance.below(len as u64)).unwrap_or(0)
}

/// A wait of between `least` and `most` minutes.
pub async fn wait_minutes(clock: &dyn Clock, chance: &dyn Rng, least: u64, most: u64) {
    let millis = least * 60_000 + chance.below((most - least) * 60_000);
    clock
        .sleep_until(clock.policy().after(Duration::from_millis(millis)))
        .await;
}
