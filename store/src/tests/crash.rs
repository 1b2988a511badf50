//! Whatever fails and whenever: what was acknowledged is there, what was not is there whole or not at
//! all, and no cap is exceeded.

use std::collections::BTreeMap;

use inboxgrove_model::{TenantId, budget::BudgetKey, notice::Notice};
use proptest::prelude::*;

use super::{commit, event, notice, open, put, take, try_open, wait};
use crate::{
    Batch, CommitError, Committed, Fault, MemDisk, Scope, Stop, Store, StoreHealth,
    committer::{Request, queue},
};

const CAP: u32 = 12;

/// What the store should hold: texts by id, and how much was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    texts: BTreeMap<u64, String>,
    taken: u32,
    events: usize,
}

/// One batch: texts to put or remove, a take and as many events.
type Change = (Vec<(u64, Option<u8>)>, u32);

#[derive(Debug, Clone)]
enum Step {
    /// Batches that are committed as one group.
    Group(Vec<Change>),
    Checkpoint,
    Crash(usize),
    CutPowerIn(u64, usize),
    Fail(Fault),
    Reopen,
}

impl Model {
    fn after(&self, change: &Change) -> Option<Self> {
        let mut after = self.clone();
        after.taken += change.1;
        if after.taken > CAP {
            return None;
        }
        after.events += change.1 as usize;
        for (id, text) in &change.0 {
            match text {
                Some(text) => after.texts.insert(*id, text.to_string()),
                None => after.texts.remove(id),
            };
        }
        Some(after)
    }

    fn of(store: &Store) -> Self {
        let page = store.page::<Notice>(&Scope::All, None, 500).expect("read");
        let texts = page.items.into_iter().map(|row| (row.id, row.text));
        Self {
            texts: texts.collect(),
            taken: store.budget(&BudgetKey::Global).expect("read").day_used,
            events: store.events(0, 1000, None).expect("read").len(),
        }
    }
}

fn batch((changes, n): &Change) -> Batch {
    let mut batch = Batch::new();
    for (id, text) in changes {
        match text {
            Some(text) => batch.put(&notice(*id, &text.to_string())),
            None => batch.remove::<Notice>(id),
        };
    }
    batch.take(take(*n, CAP));
    for _ in 0..*n {
        batch.event(event(None, "test"));
    }
    batch
}

/// Commits batches as one group.
fn commit_group(store: &Store, group: &[Change]) -> Vec<Result<Committed, CommitError>> {
    let shared = &store.inner.shared;
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for change in group {
        let encoded = batch(change).encode(shared.data_keys.names(), shared.format());
        let (answer, answered) = queue::answer();
        requests.push(Request::Commit(Box::new(encoded), answer));
        answers.push(answered);
    }
    let served = store
        .inner
        .queue
        .alone(move |committer| committer.serve(requests));
    served.expect("it runs inline");
    let answers = answers.into_iter();
    answers
        .map(|answered| wait(answered).expect("everyone is answered"))
        .collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (
        prop::collection::vec((0_u64..6, prop::option::weighted(0.8, any::<u8>())), 0..4),
        0_u32..3,
    );
    let fault = prop::sample::select(vec![
        Fault::NoSpace,
        Fault::Write,
        Fault::Sync,
        Fault::Apply,
        Fault::Flush,
    ]);
    let kept = prop_oneof![Just(0), 1_usize..400, Just(usize::MAX / 2)];
    let step = prop_oneof![
        8 => prop::collection::vec(change, 1..4).prop_map(Step::Group),
        1 => Just(Step::Checkpoint),
        1 => kept.clone().prop_map(Step::Crash),
        2 => (0_u64..6, kept).prop_map(|(operations, kept)| Step::CutPowerIn(operations, kept)),
        1 => fault.prop_map(Step::Fail),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// Opens the store again and finds it in one of the states it may be in.
fn reopen(disk: &MemDisk, possible: &mut Vec<Model>) -> Store {
    // A start may meet a fault that waits: then the next one does not.
    let (store, _) = (0..64)
        .find_map(|_| try_open(disk).ok())
        .expect("opens when no fault is left");
    let found = Model::of(&store);
    assert!(
        possible.contains(&found),
        "{found:?} is none of {possible:?}"
    );
    *possible = vec![found];
    store
}

/// Commits a group and notes what may be true from now on.
fn run_group(store: &Store, group: &[Change], possible: &mut Vec<Model>) {
    let answers = commit_group(store, group);
    for (change, answer) in group.iter().zip(answers) {
        let last = possible.last().expect("some state is true").clone();
        let after = last.after(change);
        match (answer, after) {
            (Ok(_), Some(after)) => *possible = vec![after],
            (Ok(_), None) => panic!("{change:?} exceeds the cap and was acknowledged"),
            (Err(CommitError::BudgetFull(full)), None) => assert_eq!(full.cap, CAP),
            // Nobody knows: it may be there after the restart, if all before it is.
            (Err(CommitError::Failed { .. }), after) => possible.extend(after),
            (Err(why), _) => panic!("{change:?}: {why}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_is_torn(steps in steps()) {
        let disk = MemDisk::new();
        let mut possible = vec![Model::default()];
        let mut store = open(&disk).0;
        for step in steps {
            let failed = matches!(store.health(), StoreHealth::Failed { .. });
            match step {
                // A process that failed ends; what follows is its restart.
                _ if failed => {
                    disk.crash();
                    store = reopen(&disk, &mut possible);
                }
                Step::Group(group) => run_group(&store, &group, &mut possible),
                Step::Checkpoint => store.checkpoint(),
                Step::Crash(kept) => {
                    disk.crash_torn(kept);
                    store = reopen(&disk, &mut possible);
                }
                Step::CutPowerIn(operations, kept) => disk.cut_power_in(operations, kept),
                Step::Fail(fault) => disk.fail_next(fault),
                Step::Reopen => store = reopen(&disk, &mut possible),
            }
        }
        disk.crash();
        reopen(&disk, &mut possible);
    }
}

#[test]
fn every_kind_of_failing_disk_stops_the_store_and_loses_nothing() {
    for fault in [Fault::NoSpace, Fault::Write, Fault::Sync, Fault::Apply] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        commit(&store, put(1, "kept")).expect("committed");
        let mut failed = Box::pin(store.failed());
        disk.fail_next(fault);
        let why = commit(&store, put(1, "not acknowledged")).expect_err("failed");
        assert!(
            matches!(why, CommitError::Failed { .. }),
            "{fault:?}: {why}"
        );
        assert!(matches!(store.health(), StoreHealth::Failed { .. }));
        assert!(
            !wait(&mut failed).is_empty(),
            "{fault:?}: the process hears of it"
        );
        // A failed sync is not tried again: later commits fail too, though the disk would take them.
        assert!(commit(&store, put(2, "later")).is_err(), "{fault:?}");
        assert!(wait(store.own(crate::Owner::Clock)).is_err(), "{fault:?}");
        disk.crash();
        let (store, _) = open(&disk);
        let found = store.get::<Notice>(&1).expect("read").expect("there");
        let applied = fault == Fault::Apply;
        let text = if applied { "not acknowledged" } else { "kept" };
        assert_eq!(found.text, text, "{fault:?}");
        assert!(store.get::<Notice>(&2).expect("read").is_none());
    }
}

#[test]
fn a_batch_that_fails_half_written_leaves_nothing_in_its_group() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let nobody = TenantId::from_bytes([9; 16]);
    let batches = [put(1, "before"), put(2, "fails"), put(3, "after")];
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for (n, mut batch) in batches.into_iter().enumerate() {
        batch.event(event(None, "written before it fails"));
        batch.event(event((n == 1).then_some(nobody), "has no key"));
        let shared = &store.inner.shared;
        let encoded = batch.encode(shared.data_keys.names(), shared.format());
        let (answer, answered) = queue::answer();
        requests.push(Request::Commit(Box::new(encoded), answer));
        answers.push(answered);
    }
    let served = store
        .inner
        .queue
        .alone(move |committer| committer.serve(requests));
    served.expect("it runs inline");
    let results = answers
        .into_iter()
        .map(|answered| wait(answered).expect("answered").is_ok());
    assert_eq!(results.collect::<Vec<_>>(), [true, false, true]);
    disk.crash();
    let (store, report) = open(&disk);
    assert_eq!((report.torn_bytes, report.replayed), (0, 3));
    assert_eq!(
        Model::of(&store).texts.into_keys().collect::<Vec<_>>(),
        [1, 3]
    );
    assert_eq!(Model::of(&store).events, 4);
}

#[test]
fn rows_that_were_never_flushed_come_back_from_the_log() {
    let disk = MemDisk::new();
    let (store, report) = open(&disk);
    assert!(report.created);
    for id in 0..100 {
        commit(&store, put(id, &id.to_string())).expect("committed");
    }
    disk.crash();
    let (store, report) = open(&disk);
    assert_eq!((report.created, report.replayed), (false, 101));
    assert_eq!(Model::of(&store).texts.len(), 100);
    disk.lose_rows();
    let (store, _) = open(&disk);
    assert_eq!(Model::of(&store).texts.len(), 100);
    // What was replayed was flushed: the next start has nothing to do.
    disk.crash();
    assert_eq!(open(&disk).1.replayed, 0);
    drop(store);
}

#[test]
fn rows_that_know_more_than_the_log_are_refused() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "one")).expect("committed");
    store.checkpoint();
    let log = disk.names().into_iter().find(|name| {
        std::path::Path::new(name)
            .extension()
            .is_some_and(|end| end == "log")
    });
    let log = log.expect("there is a log");
    let (media, _) = disk.attach();
    media.remove(&log).expect("lost");
    media.sync_names().expect("synced");
    let options = super::options(std::path::Path::new(""));
    let why = Store::in_memory_with(&disk, &options, super::rng()).expect_err("refused");
    assert!(
        matches!(why, crate::OpenError::LogBehind { rows: 2, log: 0 }),
        "{why}"
    );
}

/// A seed of the virtual world found it: a process was killed between writing a frame and syncing it; the next start read
/// the frame, gave it to the rows and flushed them; then the power failed, and the rows were ahead of the log.
#[test]
fn what_a_killed_process_had_not_synced_is_on_the_disk_before_the_rows_have_it() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "before")).expect("committed");
    // The write passes, its sync does not.
    disk.stop_in(1, Stop::Kill { rows: true });
    commit(&store, put(2, "unknown")).expect_err("killed");
    drop(store);
    let (store, report) = open(&disk);
    assert_eq!(report.replayed, 1, "it is read as if it were there");
    drop(store);
    disk.crash();
    let (store, _) = open(&disk);
    assert!(store.verify().is_clean());
    assert!(
        store
            .get::<Notice>(&notice(2, "unknown").id)
            .expect("read")
            .is_some()
    );
}
