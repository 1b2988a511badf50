//! Every write and every sync of the daemon fails once, by its number: it ends with the reason and the code for it, or
//! goes on unharmed; and whatever it had acknowledged is there at the next start.
//!
//! The short run takes a sample, spread over all numbers and all ways to fail. `GROVE_TESTS_IO_FROM` and
//! `GROVE_TESTS_IO_TO` ask for every number between them, in every way; a `TO` of 0 means: until none is struck.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::{
    faults::Way,
    io_trials::{Lane, Outcome, Trial},
    prepared::Prepared,
    programs,
};

/// Trials of the short run.
const SAMPLE: u32 = 20;
/// A run has as many calls more than another as its jobs and its pages took longer: one in so many, at most.
const CALLS_SPREAD: u32 = 5;

/// What the trials came to.
#[derive(Debug, Default)]
struct Tally {
    by_outcome: BTreeMap<&'static str, u32>,
    by_place: BTreeMap<(&'static str, String), BTreeMap<&'static str, u32>>,
    slowest_end: Duration,
    /// The highest number that was struck.
    last_struck: u32,
    /// Promises that were broken.
    broken: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_at_any_call_costs_nothing_acknowledged() -> Result<()> {
    let prepared = Prepared::new().await?;
    // A trial waits for its disk and for its processes most of the time.
    let (mut one, mut other) = (Lane::new(&prepared, 1)?, Lane::new(&prepared, 2)?);
    let whole = one.trial(0, Way::Io).await?;
    let calls = whole.calls.context("a daemon that stops well says so")?;
    let chosen = choose(calls)?;
    println!("a run has {calls} calls; trials: {}", chosen.len());
    let last_asked = chosen.iter().map(|(at, _)| *at).max().unwrap_or(0);

    let (left, tally) = (Mutex::new(chosen), Mutex::default());
    tokio::join!(
        work(&mut one, &left, &tally),
        work(&mut other, &left, &tally)
    );
    let tally = tally.into_inner().expect("nobody panicked");
    println!("{}", tally.table());
    let broken = &tally.broken;
    ensure!(
        broken.is_empty(),
        "{}: {}",
        broken.len(),
        broken.join("\n\n")
    );
    if last_asked > calls {
        ensure!(tally.last_struck < last_asked, "there are more calls yet");
    }
    Ok(())
}

async fn work(lane: &mut Lane<'_>, left: &Mutex<VecDeque<(u32, Way)>>, tally: &Mutex<Tally>) {
    loop {
        let Some((at, way)) = locked(left).pop_front() else {
            return;
        };
        match lane.trial(at, way).await {
            Ok(trial) => locked(tally).count(way, trial),
            // The others are tried all the same: a long run shall tell all that is wrong.
            Err(why) => locked(tally).broken.push(format!("{why:#}")),
        }
    }
}

/// The calls that fail, and how.
fn choose(calls: u32) -> Result<VecDeque<(u32, Way)>> {
    let from = programs::trials("GROVE_TESTS_IO_FROM", 0)?;
    if from > 0 {
        let to = match programs::trials("GROVE_TESTS_IO_TO", 0)? {
            0 => calls + calls / CALLS_SPREAD,
            to => to,
        };
        let all = (from..=to).flat_map(|at| Way::ALL.map(|way| (at, way)));
        return Ok(all.collect());
    }
    let spread = (0..SAMPLE).map(|trial| 1 + trial * calls / SAMPLE);
    Ok(spread.zip(Way::ALL.into_iter().cycle()).collect())
}

impl Tally {
    fn count(&mut self, way: Way, trial: Trial) {
        let outcome = match trial.outcome {
            Outcome::Missed => "not struck",
            Outcome::Refused => "did not start",
            Outcome::Ended => "ended",
            Outcome::Harmless => "harmless",
        };
        *self.by_outcome.entry(outcome).or_default() += 1;
        self.slowest_end = self.slowest_end.max(trial.took_to_end);
        if let Some(strike) = trial.strike {
            self.last_struck = self.last_struck.max(strike.number);
            let place = (strike.kind(), format!("{} {way:?}", strike.call));
            *self
                .by_place
                .entry(place)
                .or_default()
                .entry(outcome)
                .or_default() += 1;
        }
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:?}; slowest end {:?}; last call struck {}",
            self.by_outcome, self.slowest_end, self.last_struck
        );
        for ((kind, call), outcomes) in &self.by_place {
            write!(table, "\n  {kind}: {call}: {outcomes:?}").expect("a text takes more text");
        }
        table
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nobody panics while it is held")
}
