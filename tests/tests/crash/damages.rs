//! One damage at a time in any file of a store: whatever it is, nothing acknowledged is lost in silence, and no wrong answer is
//! given. How many: `DAMAGES` of the Makefile (`GROVE_TESTS_DAMAGES`); `GROVE_TESTS_FIRST_SEED`
//! says from which on, `GROVE_TESTS_SEED` plants one again.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use inboxgrove_tests::{
    damages::{Bench, Tally},
    programs, world,
};

/// Unless the Makefile says otherwise.
const DAMAGES: u32 = 100;
/// Seeds that failed are named so far; the rest is only counted.
const NAMED_MAX: usize = 20;

#[test]
fn no_damage_is_served_as_truth_and_none_goes_unsaid() -> Result<()> {
    let damages = u64::from(programs::trials("GROVE_TESTS_DAMAGES", DAMAGES)?);
    let first = u64::from(programs::trials("GROVE_TESTS_FIRST_SEED", 0)?);
    let seeds = match programs::trials("GROVE_TESTS_SEED", u32::MAX)? {
        u32::MAX => first..first + damages,
        seed => u64::from(seed)..u64::from(seed) + 1,
    };
    let (tally, failed) = plant_all(seeds)?;
    println!("{} damages\n{tally}", tally.total());
    ensure!(
        failed.is_empty(),
        "{} damages were not borne; again by GROVE_TESTS_SEED=<seed>:\n{}",
        failed.len(),
        failed[..failed.len().min(NAMED_MAX)].join("\n")
    );
    Ok(())
}

/// Plants the damages of all seeds, on as many threads as there are cores.
fn plant_all(seeds: Range<u64>) -> Result<(Tally, Vec<String>)> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<(Tally, Vec<String>)> = Mutex::default();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let folder = world::scratch_folder()?;
                    let bench = Bench::new(folder.path())?;
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return anyhow::Ok(());
                        }
                        let trial = bench.trial(seed);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        match trial {
                            Ok(trial) => found.0.count(&trial),
                            Err(why) => found.1.push(format!("seed {seed}: {why:#}")),
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .expect("trials are judged on threads of their own")
        })
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}
