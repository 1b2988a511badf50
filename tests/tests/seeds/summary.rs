//! What many days came to, and how far a long run has come.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use inboxgrove_tests::virtual_world::{
    classes::{FaultClass, Struck},
    day::Lived,
};

/// How far a run has come. Told in lines, as it goes.
pub(super) struct Progress {
    of: u64,
    every: u64,
    done: AtomicU64,
    failed: AtomicU64,
}

// === impl Progress ===

impl Progress {
    /// A run over these seeds, told about every so many.
    pub(super) fn of(seeds: &Range<u64>, every: u64) -> Self {
        Self {
            of: seeds.end - seeds.start,
            every,
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// One more is lived, and perhaps has failed: that is told at once.
    #[expect(
        clippy::print_stdout,
        reason = "who waits for hours wants to see how far it is"
    )]
    pub(super) fn one_more(&self, seed: u64, why: Option<&str>) {
        if let Some(why) = why {
            self.failed.fetch_add(1, Ordering::Relaxed);
            println!("seed {seed} fails: {why}");
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(self.every) && done < self.of {
            let failed = self.failed.load(Ordering::Relaxed);
            println!("{done} of {} seeds, {failed} failed", self.of);
        }
    }
}

/// All of these days, for people.
pub(super) fn of(lived: &[&Lived]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
    for day in lived {
        for (kind, n) in &day.kinds {
            *kinds.entry(kind).or_default() += n;
        }
        for (kind, n) in &day.refused {
            *refused.entry(kind).or_default() += n;
        }
    }
    let sum = |what: fn(&Lived) -> u64| lived.iter().map(|day| what(day)).sum::<u64>();
    let struck = struck(lived);
    let classes: Vec<String> = FaultClass::ALL
        .iter()
        .map(|class| format!("{class} {}", struck.get(class).copied().unwrap_or(0)))
        .collect();
    format!(
        "{} days: {} messages of people, {} transmissions, {} accidents, {} starts cut off, {} backups, {} rebuilt from one\n  faults {}\n  events {kinds:?}\n  refused {refused:?}",
        lived.len(),
        sum(|day| day.sent as u64),
        sum(|day| day.heard as u64),
        sum(|day| day.tally.accidents.into()),
        sum(|day| day.tally.failed_starts.into()),
        sum(|day| day.tally.backups.into()),
        sum(|day| day.tally.rebuilt.into()),
        classes.join(", ")
    )
}

fn struck(lived: &[&Lived]) -> Struck {
    let mut sum = Struck::new();
    for day in lived {
        for (class, n) in &day.tally.struck {
            *sum.entry(*class).or_default() += n;
        }
    }
    sum
}

/// A world in which nothing happens proves nothing: every class of faults struck, and mail met every fate.
pub(super) fn they_were_no_holidays(lived: &[&Lived]) {
    let struck = struck(lived);
    for class in FaultClass::ALL {
        let times = struck.get(&class).copied().unwrap_or(0);
        assert!(times > 0, "{class} never struck");
    }
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
        of(|day| day.tally.replayed) > 0,
        "nothing was ever replayed"
    );
    assert!(
        of(|day| day.tally.rebuilt.into()) > 0,
        "no rows were ever rebuilt from a backup"
    );
    assert!(
        of(|day| day.refused.get("budget").copied().unwrap_or(0).into()) > 0,
        "no budget was ever full"
    );
}
