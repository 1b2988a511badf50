//! The virtual world, seed by seed: a day with faults each, and everything that must hold held.
//!
//! `make seeds N=<n>` lives n seeds (`GROVE_TESTS_SEEDS`), from `GROVE_TESTS_FIRST_SEED` on, so that a long run can go in
//! pieces; `GROVE_TESTS_DAYS` says how long each is. One seed is lived again with `GROVE_TESTS_SEED=<n>`, and parts of it
//! with `GROVE_TESTS_INCIDENTS=<numbers>`, `GROVE_TESTS_HOURS=<n>` and `GROVE_TESTS_PEOPLE=<n>`: a failure tells which.

mod judge;
mod shrinking;
mod summary;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
};

use inboxgrove_tests::virtual_world::{
    day::{Failure, Life, Lived, Trouble},
    records::first_difference,
    shrink::{Shrunk, shrink},
};

/// Seeds that are lived when nobody asks for another number.
const SEEDS: u64 = 100;
/// Writes and syncs at which the power is cut: those of a move-in and of the first letters.
const CUTS: u64 = 160;
/// Failing seeds that are made short; the others are only named.
const SHRUNK_MAX: usize = 2;
/// Lives that making one short may cost.
const SHRINK_TRIES: usize = 120;
/// Seeds between two lines that say how far a long run has come.
const TELL_EVERY: u64 = 100;

fn day_of(seed: u64) -> Life {
    Life::of_seed(seed, asked("GROVE_TESTS_DAYS").unwrap_or(1))
}

/// The part of a seed's day that a replay asks for; all of it when it asks for no part.
fn part_of(mut life: Life) -> Life {
    life.hours = asked("GROVE_TESTS_HOURS").unwrap_or(life.hours);
    let people = asked("GROVE_TESTS_PEOPLE").and_then(|n| usize::try_from(n).ok());
    life.people = people.unwrap_or(life.people);
    if let (Some(text), Trouble::Given(incidents)) =
        (told("GROVE_TESTS_INCIDENTS"), &mut life.trouble)
    {
        let kept: Vec<usize> = text
            .split(',')
            .filter_map(|n| n.trim().parse().ok())
            .collect();
        incidents.retain(|incident| kept.contains(&incident.number));
    }
    life
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test is told by its environment how much to do; what it does does not depend on it"
)]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn asked(name: &str) -> Option<u64> {
    let value = told(name)?;
    let number = value.parse();
    Some(number.unwrap_or_else(|why| panic!("{name}={value}: {why}")))
}

/// The command that lives this life again.
fn again(life: &Life, incidents: &[usize]) -> String {
    let numbers: Vec<String> = incidents.iter().map(ToString::to_string).collect();
    let days =
        asked("GROVE_TESTS_DAYS").map_or_else(String::new, |n| format!("GROVE_TESTS_DAYS={n} "));
    format!(
        "{days}GROVE_TESTS_SEED={} GROVE_TESTS_HOURS={} GROVE_TESTS_PEOPLE={} GROVE_TESTS_INCIDENTS='{}' cargo nextest run -p inboxgrove-tests -E 'test(=seeds::days_with_faults)'",
        life.seed,
        life.hours,
        life.people,
        numbers.join(",")
    )
}

/// A failing seed made short, and how to see it again.
fn told_short(life: &Life, failure: &Failure) -> String {
    let short: Shrunk = shrink(life, failure, SHRINK_TRIES, &Life::live);
    format!(
        "seed {}, shrunk to {}  again: {}",
        life.seed,
        short.trace(),
        again(&short.life, &short.numbers())
    )
}

/// Does something for each of these numbers, on as many threads as there are cores.
fn in_parallel<T: Send>(
    numbers: impl Iterator<Item = u64> + Send,
    work: impl Fn(u64) -> T + Sync,
) -> BTreeMap<u64, T> {
    let left = Mutex::new(numbers);
    let done: Mutex<BTreeMap<u64, T>> = Mutex::default();
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(number) = next() {
                    let result = work(number);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(number, result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What is kept of a seed in a run of thousands: no events, but of those that failed.
type Outcome = Result<Lived, Box<Failure>>;

fn live_briefly(seed: u64, told: &summary::Progress) -> Outcome {
    let outcome = part_of(day_of(seed)).live().map(|mut lived| {
        (lived.events, lived.trace) = (Vec::new(), Vec::new());
        lived
    });
    told.one_more(
        seed,
        outcome.as_ref().err().map(|failure| failure.why.as_str()),
    );
    outcome
}

#[test]
fn days_with_faults() {
    let first = asked("GROVE_TESTS_FIRST_SEED").unwrap_or(1);
    let seeds = match asked("GROVE_TESTS_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + asked("GROVE_TESTS_SEEDS").unwrap_or(SEEDS),
    };
    let progress = summary::Progress::of(&seeds, TELL_EVERY);
    let lived = in_parallel(seeds, |seed| live_briefly(seed, &progress));
    let good: Vec<&Lived> = lived.values().flatten().collect();
    println!("{}", summary::of(&good));
    let failed: BTreeMap<u64, &Failure> = lived
        .iter()
        .filter_map(|(seed, outcome)| Some((*seed, &**outcome.as_ref().err()?)))
        .collect();
    if !failed.is_empty() {
        let names: Vec<String> = failed
            .iter()
            .map(|(seed, failure)| format!("seed {seed}: {}", failure.why))
            .collect();
        let short = in_parallel(failed.keys().copied().take(SHRUNK_MAX), |seed| {
            told_short(&part_of(day_of(seed)), failed[&seed])
        });
        let short: Vec<String> = short.into_values().collect();
        panic!(
            "{} of {} seeds failed:\n{}\n\n{}",
            failed.len(),
            lived.len(),
            names.join("\n"),
            short.join("\n\n")
        );
    }
    if good.len() >= 100 {
        summary::they_were_no_holidays(&good);
    }
}

#[test]
fn the_same_seed_lives_the_same_day() {
    for seed in [101, 102] {
        let live = |()| {
            day_of(seed)
                .live()
                .unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.why))
        };
        let [once, again] = [(); 2].map(live);
        if let Some(difference) = first_difference(&once.lines(), &again.lines()) {
            panic!("seed {seed} lived two different days, first at {difference}");
        }
        assert_eq!(once, again);
    }
}

#[test]
fn a_day_without_faults_is_a_day_without_accidents() {
    let life = Life {
        trouble: Trouble::None,
        ..day_of(7)
    };
    let lived = life
        .live()
        .unwrap_or_else(|failure| panic!("{}", failure.why));
    let of = |kind: &str| lived.kinds.get(kind).copied().unwrap_or(0);
    assert_eq!(of("uncertain"), 0);
    assert!(of("delivered") > 20, "{:?}", lived.kinds);
    assert!(of("placed") > 5, "{:?}", lived.kinds);
}

/// From the first write of the first account to the first letters, power fails at each one, and all is well after.
#[test]
fn a_power_cut_at_every_write_of_a_morning() {
    let cut_at = |write| {
        let life = Life {
            seed: asked("GROVE_TESTS_SEED").unwrap_or(5),
            hours: 1,
            people: 1,
            trouble: Trouble::CutAtWrite(write),
            lie: None,
        };
        life.live()
    };
    let lived = in_parallel(0..CUTS, cut_at);
    let failed: Vec<_> = lived
        .iter()
        .filter_map(|(write, outcome)| {
            let failure = outcome.as_ref().err()?;
            Some(format!("cut at write {write}: {}", failure.why))
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} cuts did harm:\n{}",
        failed.len(),
        failed[..failed.len().min(3)].join("\n")
    );
    // The accident that ends each life is not the one that was asked for.
    let struck = lived
        .values()
        .flatten()
        .filter(|day| day.tally.accidents == 2)
        .count();
    assert!(struck > 100, "only {struck} cuts struck");
}
