//! The weather of a seed: what goes wrong, where, and for how long.

use std::{net::SocketAddr, time::Duration};

use inboxgrove_model::{
    PolicyTime,
    ports::{Clock, Rng},
};
use inboxgrove_sim::{dns::Trouble, net::Faults, provider::Mood, world::addresses};
use inboxgrove_store::Fault;

use super::neighbourhood::{INBOUND, Neighbourhood, PROVIDERS};

/// Something that happens at a time.
#[derive(Debug, Clone)]
pub struct Incident {
    /// When.
    pub at: PolicyTime,
    /// What.
    pub what: Happening,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Happening {
    /// To names, wires, providers.
    Weather(Weather),
    /// The disk has so much room left.
    Room(u64),
    /// The power fails at the n-th write from now; so many unsynced bytes of each file survive.
    CutAtWrite(u64, usize),
    /// The power fails now.
    CutNow(usize),
    /// The process is killed.
    Kill,
    /// The disk makes a mistake, which ends the process.
    DiskFault(Fault),
    /// An operator restarts the daemon.
    Restart,
}

/// What befalls the world around the house.
#[derive(Debug, Clone)]
pub enum Weather {
    /// A zone fails, or heals.
    Zone(String, Trouble),
    /// A name server fails, or heals.
    NameServer(usize, Trouble),
    /// A provider's mood.
    Mood(&'static str, Mood),
    /// What befalls connections to an address; `None`: what befalls all.
    Wires(SocketAddr, Option<Faults>),
}

/// Minutes that bad weather lasts.
const LASTS_MIN: u64 = 3;
const LASTS_MAX: u64 = 50;
/// Room on a disk that is nearly full: below the floor of the store.
const LITTLE_ROOM: u64 = 64 << 20;

impl Weather {
    /// Lets it happen.
    pub fn strike(&self, around: &Neighbourhood) {
        match self {
            Self::Zone(apex, trouble) => around.world.zones().trouble(apex, *trouble),
            Self::NameServer(n, trouble) => {
                around
                    .world
                    .zones()
                    .server_trouble(addresses::NAME_SERVERS[*n], *trouble);
            }
            Self::Mood(name, mood) => {
                if let Some(provider) = around.world.provider(name) {
                    provider.set_mood(*mood);
                }
            }
            Self::Wires(to, Some(faults)) => around.net.faults_at(*to, *faults),
            Self::Wires(to, None) => around.net.heal(*to),
        }
    }
}

/// Light faults that are there all day.
pub fn drizzle(chance: &dyn Rng) -> Faults {
    Faults {
        refuse: 0.02 * chance.unit(),
        stall: 0.01 * chance.unit(),
        reset: 0.06 * chance.unit(),
        reset_within: 5_000,
        latency_min: Duration::from_millis(1),
        latency_max: Duration::from_millis(1 + chance.below(400)),
    }
}

/// Everything that goes wrong in `hours` from now on, in the order of time. All weather is over by their end.
pub fn forecast(chance: &dyn Rng, from: PolicyTime, hours: u64) -> Vec<Incident> {
    let mut incidents = Vec::new();
    let minutes = hours * 60;
    let mut at = |minute: u64, what: Happening| {
        // Not on the minute: timers are.
        let at = from.after(Duration::from_millis(
            minute * 60_000 + chance.below(60_000),
        ));
        incidents.push(Incident { at, what });
    };
    for _ in 0..minutes / 90 {
        let begins = chance.below(minutes.saturating_sub(LASTS_MAX).max(1));
        let ends = begins + LASTS_MIN + chance.below(LASTS_MAX - LASTS_MIN);
        let (worse, better) = bad_weather(chance);
        at(begins, worse);
        at(ends, better);
    }
    for _ in 0..=minutes / 220 {
        at(chance.below(minutes), accident(chance));
    }
    incidents.sort_by_key(|incident| incident.at);
    incidents
}

fn bad_weather(chance: &dyn Rng) -> (Happening, Happening) {
    let provider = PROVIDERS[index(chance, PROVIDERS.len())];
    let trouble = if chance.unit() < 0.5 {
        Trouble::ServFail
    } else {
        Trouble::Timeout
    };
    let pair = |worse, better| (Happening::Weather(worse), Happening::Weather(better));
    match chance.below(9) {
        0 => {
            let zone = ["google.com", "outlook.com", "yahoodns.net"][index(chance, 3)].to_owned();
            pair(
                Weather::Zone(zone.clone(), trouble),
                Weather::Zone(zone, Trouble::None),
            )
        }
        1 => {
            let zone = format!("friends-at-{provider}.example");
            pair(
                Weather::Zone(zone.clone(), trouble),
                Weather::Zone(zone, Trouble::None),
            )
        }
        2 => {
            let n = index(chance, 2);
            pair(
                Weather::NameServer(n, trouble),
                Weather::NameServer(n, Trouble::None),
            )
        }
        3 => pair(
            Weather::Mood(provider, Mood::Deferring),
            Weather::Mood(provider, Mood::Normal),
        ),
        4 => pair(
            Weather::Mood(provider, Mood::Refusing),
            Weather::Mood(provider, Mood::Normal),
        ),
        5 => {
            let faults = wire_faults(chance);
            pair(
                Weather::Wires(INBOUND, Some(faults)),
                Weather::Wires(INBOUND, None),
            )
        }
        6 => (Happening::Room(LITTLE_ROOM), Happening::Room(u64::MAX)),
        _ => {
            let n = u8::try_from(index(chance, PROVIDERS.len())).unwrap_or(0);
            let host = u8::from(chance.unit() < 0.3);
            let to = SocketAddr::new(addresses::provider_host(n, host), 25);
            let faults = wire_faults(chance);
            pair(Weather::Wires(to, Some(faults)), Weather::Wires(to, None))
        }
    }
}

fn wire_faults(chance: &dyn Rng) -> Faults {
    match chance.below(4) {
        0 => Faults::refuse(),
        1 => Faults::stall(),
        // About as long as a session with one message.
        2 => Faults::reset_within(6_000),
        _ => Faults::latency(Duration::from_millis(500 + chance.below(4_000))),
    }
}

fn accident(chance: &dyn Rng) -> Happening {
    let kept = match chance.below(3) {
        0 => 0,
        1 => index(chance, 400),
        _ => index(chance, 20_000),
    };
    match chance.below(10) {
        0..=4 => Happening::CutAtWrite(chance.below(40), kept),
        5 => Happening::CutNow(kept),
        6 => Happening::Kill,
        7 | 8 => Happening::DiskFault(
            [
                Fault::NoSpace,
                Fault::Write,
                Fault::Sync,
                Fault::Apply,
                Fault::Flush,
            ][index(chance, 5)],
        ),
        _ => Happening::Restart,
    }
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
