//! A failure is worth having when it is short and comes back: a planted one is.

use inboxgrove_store::Stop;
use inboxgrove_tests::virtual_world::{
    day::{Failure, Lie, Life, Trouble},
    shrink::shrink,
    weather::Happening,
};

use super::{again, day_of};

/// Runs of one life that must be the same.
const REPLAYS: usize = 10;
/// What a person reads at a glance.
const LINES_MAX: usize = 30;

/// A seed that fails because the judge is told a lie at the first kill.
fn planted() -> (Life, Failure) {
    for seed in 1..100 {
        let life = Life {
            lie: Some(Lie::PromiseAtKill),
            ..day_of(seed)
        };
        let kills = |what: &Happening| {
            matches!(
                what,
                Happening::Accident {
                    stop: Stop::Kill { .. },
                    in_writes: None,
                    ..
                }
            )
        };
        let Trouble::Given(incidents) = &life.trouble else {
            continue;
        };
        if incidents.iter().any(|incident| kills(&incident.what))
            && let Err(failure) = life.live()
        {
            return (life, *failure);
        }
    }
    panic!("no seed has a kill");
}

#[test]
fn a_planted_failure_shrinks_to_a_short_trace() {
    let (life, failure) = planted();
    assert!(failure.why.contains("is lost"), "{}", failure.why);
    let short = shrink(&life, &failure, 200, &Life::live);
    let Trouble::Given(incidents) = &short.life.trouble else {
        panic!("it has no forecast any more");
    };
    // One accident is enough; which of them the search leaves is its own affair.
    let [kill] = &incidents[..] else {
        panic!("more than one incident is left: {}", short.trace());
    };
    let killed = matches!(
        kill.what,
        Happening::Accident {
            stop: Stop::Kill { .. },
            ..
        } | Happening::DiskFault {
            stop: Stop::Kill { .. },
            ..
        }
    );
    assert!(killed, "{kill:?}");
    assert_eq!(short.life.people, 1);
    assert!(short.failure.is_like(&failure));
    let trace = short.trace();
    assert!(trace.lines().count() <= LINES_MAX, "{trace}");
    // The numbers in the command are enough to live it again.
    let mut replayed = Life {
        lie: life.lie,
        hours: short.life.hours,
        people: short.life.people,
        ..day_of(life.seed)
    };
    if let Trouble::Given(incidents) = &mut replayed.trouble {
        incidents.retain(|incident| short.numbers().contains(&incident.number));
    }
    assert_eq!(replayed, short.life);
    let command = again(&short.life, &short.numbers());
    assert!(
        command.contains(&format!("GROVE_TESTS_INCIDENTS='{}'", kill.number)),
        "{command}"
    );
}

#[test]
fn a_failing_seed_fails_in_the_same_words_ten_times_of_ten() {
    let (life, failure) = planted();
    for _ in 1..REPLAYS {
        let again = life.live().expect_err("the lie is told every time");
        assert_eq!(*again, failure);
    }
}

#[test]
fn a_good_seed_lives_the_same_day_ten_times_of_ten() {
    let life = Life {
        hours: 8,
        ..day_of(103)
    };
    let once = life
        .live()
        .unwrap_or_else(|failure| panic!("{}", failure.why));
    for _ in 1..REPLAYS {
        assert_eq!(life.live().ok().as_ref(), Some(&once));
    }
}
