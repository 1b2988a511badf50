//! The virtual world, seed by seed: a day with faults each, and everything that must hold held.
//!
//! A seed is replayed with `GROVE_TESTS_SEED=<n>`; `GROVE_TESTS_SEEDS=<n>` says how many are lived (`make seeds N=<n>`), `GROVE_TESTS_DAYS=<n>` for
//! how long each.

mod judge;

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use inboxgrove_tests::virtual_world::{
    day::{Life, Lived, Trouble},
    records::first_difference,
};

/// Seeds that are lived when nobody asks for another number.
const SEEDS: u64 = 50;
/// Writes and syncs at which the power is cut: those of a move-in and of the first letters.
const CUTS: u64 = 160;

fn day_of(seed: u64) -> Life {
    Life {
        seed,
        hours: 24 * asked("GROVE_TESTS_DAYS").unwrap_or(1),
        people: 3,
        trouble: Trouble::OfTheSeed,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test is told by its environment how much to do; what it does does not depend on it"
)]
fn asked(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|why| panic!("{name}={value}: {why}")),
    )
}

/// Lives a seed; a failure or a panic becomes a text that tells how to see it again.
fn live(life: Life) -> Result<Lived, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| life.live()));
    let why = match lived {
        Ok(Ok(lived)) => return Ok(lived),
        Ok(Err(why)) => format!("{why:#}"),
        Err(_) => "it panicked, see above".to_owned(),
    };
    let seed = life.seed;
    Err(format!(
        "seed {seed}: {why}\n  again: GROVE_TESTS_SEED={seed} cargo nextest run -p inboxgrove-tests -E 'test(=seeds::fifty_days_with_faults)'"
    ))
}

/// Does something for each of these numbers, on as many threads as there are cores.
fn in_parallel<T: Send>(numbers: Range<u64>, work: impl Fn(u64) -> T + Sync) -> BTreeMap<u64, T> {
    let next = AtomicU64::new(numbers.start);
    let done: Mutex<BTreeMap<u64, T>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
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

#[test]
fn fifty_days_with_faults() {
    let seeds = match asked("GROVE_TESTS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..asked("GROVE_TESTS_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let lived = in_parallel(seeds, |seed| live(day_of(seed)));
    let failed: Vec<_> = lived
        .values()
        .filter_map(|outcome| outcome.as_ref().err())
        .collect();
    let good: Vec<_> = lived
        .values()
        .filter_map(|outcome| outcome.as_ref().ok())
        .collect();
    println!("{}", summary(&good));
    let count = failed.len();
    let first: Vec<String> = failed.into_iter().take(5).cloned().collect();
    assert!(
        first.is_empty(),
        "{count} of {} seeds failed:\n{}",
        lived.len(),
        first.join("\n")
    );
    if good.len() >= 20 {
        they_were_no_holidays(&good);
    }
}

/// A world in which nothing happens proves nothing.
fn they_were_no_holidays(lived: &[&Lived]) {
    let sum = |kind: &str| {
        lived
            .iter()
            .map(|day| day.kinds.get(kind).copied().unwrap_or(0))
            .sum::<usize>()
    };
    for kind in [
        "accepted",
        "delivered",
        "deferred",
        "bounced",
        "uncertain",
        "received",
        "placed",
    ] {
        assert!(sum(kind) > 0, "no message was ever {kind}");
    }
    let of = |what: fn(&Lived) -> u64| lived.iter().map(|day| what(day)).sum::<u64>();
    assert!(
        of(|day| day.tally.accidents.into()) >= lived.len() as u64,
        "hardly any accident"
    );
    assert!(
        of(|day| day.tally.failed_starts.into()) > 0,
        "no start was ever cut off"
    );
    assert!(of(|day| day.tally.torn_bytes) > 0, "no tail was ever torn");
    assert!(
        of(|day| day.tally.replayed) > 0,
        "nothing was ever replayed"
    );
    assert!(
        of(|day| day.refused.get("budget").copied().unwrap_or(0).into()) > 0,
        "no budget was ever full"
    );
}

fn summary(lived: &[&Lived]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut accidents, mut failed_starts, mut heard, mut sent) = (0, 0, 0, 0);
    for day in lived {
        day.kinds
            .iter()
            .for_each(|(kind, n)| *kinds.entry(kind).or_default() += n);
        day.refused
            .iter()
            .for_each(|(kind, n)| *refused.entry(kind).or_default() += n);
        accidents += day.tally.accidents;
        failed_starts += day.tally.failed_starts;
        heard += day.heard;
        sent += day.sent;
    }
    format!(
        "{} days: {sent} messages of people, {heard} transmissions, {accidents} accidents, {failed_starts} during a start\n  events {kinds:?}\n  refused {refused:?}",
        lived.len()
    )
}

#[test]
fn the_same_seed_lives_the_same_day() {
    for seed in [101, 102] {
        let [once, again] =
            [(); 2].map(|()| live(day_of(seed)).unwrap_or_else(|why| panic!("{why}")));
        if let Some(difference) = first_difference(&once.events, &again.events) {
            panic!("seed {seed} lived two different days, first at {difference}");
        }
        assert_eq!(once.tally, again.tally);
    }
}

#[test]
fn a_day_without_faults_is_a_day_without_accidents() {
    let life = Life {
        trouble: Trouble::None,
        ..day_of(7)
    };
    let lived = live(life).unwrap_or_else(|why| panic!("{why}"));
    let of = |kind: &str| lived.kinds.get(kind).copied().unwrap_or(0);
    assert_eq!(of("uncertain"), 0);
    assert!(of("delivered") > 20, "{:?}", lived.kinds);
    assert!(of("placed") > 5, "{:?}", lived.kinds);
}

/// From the first write of the first account to the first letters, power fails at each one, and all is well after.
#[test]
fn a_power_cut_at_every_write_of_a_morning() {
    let cut_at = |write| {
        live(Life {
            seed: asked("GROVE_TESTS_SEED").unwrap_or(5),
            hours: 1,
            people: 1,
            trouble: Trouble::CutAtWrite(write),
        })
    };
    let lived = in_parallel(0..CUTS, cut_at);
    let failed: Vec<_> = lived
        .iter()
        .filter_map(|(write, outcome)| {
            Some(format!("cut at write {write}: {}", outcome.as_ref().err()?))
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
