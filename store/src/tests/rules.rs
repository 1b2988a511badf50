//! The rules that make the store last (DESIGN §4 and §4.1), each with the tests that fail when it is taken out.
//!
//! | rule | held by |
//! |---|---|
//! | §3 an owner loads behind the commits before it | `a_lease_waits_for_every_commit_before_it`, `an_owner_comes_at_once_when_nothing_is_under_way_and_else_after_it` |
//! | §4 append, sync, apply, answer; one sync a group | `a_group_is_written_synced_and_applied_in_this_order`, `crash::every_kind_of_failing_disk_stops_the_store_and_loses_nothing` (whoever answers before a sync or an application answers wrongly there) |
//! | §4 the position is written after its rows, and both are seen at once | `a_row_is_never_seen_without_its_position`, `crash::nothing_acknowledged_is_lost_and_nothing_is_torn` |
//! | §4 every frame beyond the rows is applied again, and that is idempotent | `a_log_with_a_gap_behind_the_rows_is_refused`, `replaying_twice_changes_nothing` |
//! | §4 only a torn tail is cut | `what_the_rows_have_is_not_taken_for_a_torn_tail`, `log::tests`: `what_the_rows_have_is_never_cut`, `damage_before_an_acknowledged_group_…`, `a_flipped_bit_in_the_last_group_…`, `a_segment_that_was_cut_…` |
//! | §4.1.1 our own `sync_file_range` | `shim::tests`, `engine::sled::tests::flushes_go_through_our_own_sync`, `rows_are_refused_where_their_sync_is_not_our_own` |
//! | §4.1.2 no value above 4 KiB, no blobs | `face::what_is_too_big_is_refused_before_anything_happens`, `engine::sled::tests::a_row_above_four_kibibytes_is_a_hard_error`, `blobs_are_found_when_the_rows_are_opened` |
//! | §4.1.3 before opening: no half-written snapshot; a sled that does not open is moved aside | `engine::sled::tests::a_torn_snapshot_is_removed_before_opening`, `disk::a_sled_that_does_not_open_is_moved_aside_and_rebuilt` |
//! | §4.1.4 one tree, no transactions, our own ids; settings pinned | `sled_is_used_as_it_must_be` |
//! | §4.1.5 one committer, a bounded queue, blocking flushes | `sled_is_used_as_it_must_be`, `a_full_queue_refuses`, `too_many_waiting_bytes_are_refused`, `disk::many_writers_share_syncs` |
//! | §4.1.6 an error is final, no sync is tried again | `after_a_failed_sync_nothing_is_written_or_synced`, `crash::every_kind_of_failing_disk_…` |
//! | §4.1.7 frames are checked before rows are read | `row::tests::damage_is_named`, `face::a_damaged_row_names_its_table_and_key_…` |
//! | §4.1.8 the floor of free space | `face::a_full_disk_refuses_new_work_first` |
//! | §4.1.9 backups are restored and verified | `upkeep::a_restored_backup_is_equal_and_goes_on`, `upkeep::a_damaged_backup_is_not_restored` |
//!
//! That directories are synced (§4.1.3) only a power cut shows: the crash laboratory.

use std::{
    fs,
    future::Future,
    path::Path,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
};

use bytes::Bytes;
use inboxgrove_model::{TenantId, budget::BudgetKey, notice::Notice};

use super::{commit, open, options, put, rng, take, try_open};
use crate::{
    Batch, CommitError, Fault, MemDisk, Owner, Store, StoreHealth,
    committer::{Request, queue},
    engine::{Engine, sled::SledEngine},
    open::replay,
};

const CACHE: u64 = 16 << 20;

/// What the disk did while batches were committed as one group.
fn watched(disk: &MemDisk, store: &Store, batches: Vec<Batch>) -> Vec<String> {
    disk.watch();
    let shared = &store.inner.shared;
    let (requests, answers): (Vec<_>, Vec<_>) = batches
        .into_iter()
        .map(|batch| {
            let encoded = batch.encode(shared.data_keys.names(), shared.format());
            let (answer, answered) = queue::answer();
            (Request::Commit(Box::new(encoded), answer), answered)
        })
        .unzip();
    let served = store
        .inner
        .queue
        .alone(move |committer| committer.serve(requests));
    served.expect("it runs inline");
    drop(answers);
    disk.watched()
}

#[test]
fn a_group_is_written_synced_and_applied_in_this_order() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let log = "00000000000000000001.log";
    let done = watched(&disk, &store, (0..5).map(|id| put(id, "x")).collect());
    let write = format!("write {log}");
    let sync = format!("sync {log}");
    assert_eq!(done, [write.as_str(), sync.as_str(), "apply"]);
}

#[test]
fn after_a_failed_sync_nothing_is_written_or_synced() {
    for fault in [Fault::Write, Fault::Sync, Fault::Apply, Fault::Flush] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        commit(&store, put(1, "kept")).expect("committed");
        disk.fail_next(fault);
        if fault == Fault::Flush {
            store.checkpoint();
        } else {
            commit(&store, put(2, "lost")).expect_err("the disk failed");
        }
        assert!(matches!(store.health(), StoreHealth::Failed { .. }));
        disk.watch();
        for id in 3..6 {
            commit(&store, put(id, "later")).expect_err("final");
        }
        super::wait(store.own(Owner::Clock)).expect_err("final");
        store.checkpoint();
        drop(store);
        assert_eq!(disk.watched(), Vec::<String>::new(), "{fault:?}");
    }
}

/// Who gets a lease reads what its predecessor has committed, so that must be in the rows, or have failed.
#[test]
fn a_lease_waits_for_every_commit_before_it() {
    for fault in [None, Some(Fault::Sync), Some(Fault::Apply)] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        if let Some(fault) = fault {
            disk.fail_next(fault);
        }
        let shared = &store.inner.shared;
        let encoded = put(1, "x").encode(shared.data_keys.names(), shared.format());
        let (committed, _) = queue::answer();
        let (granted, grant) = queue::answer();
        let requests = [
            Request::Commit(Box::new(encoded), committed),
            Request::Own(Owner::Clock, granted),
        ];
        let served = store
            .inner
            .queue
            .alone(move |committer| committer.serve(requests));
        served.expect("it runs inline");
        let granted = super::wait(grant).expect("answered");
        assert_eq!(granted.is_ok(), fault.is_none(), "{fault:?}");
    }
}

#[test]
fn a_row_is_never_seen_without_its_position() {
    const WRITES: u64 = 3000;
    let dir = tempfile::tempdir().expect("a directory");
    let engine = SledEngine::open(dir.path(), CACHE).expect("opens");
    engine
        .apply(&[(vec![1], Some(vec![0; 8]))], 0)
        .expect("applied");
    let row = || {
        let value = engine.get(&[1]).expect("read").expect("there");
        u64::from_be_bytes(value.try_into().expect("it has eight bytes"))
    };
    let position = || engine.position().expect("read").expect("there");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..=WRITES {
                let write = (vec![1], Some(n.to_be_bytes().to_vec()));
                engine.apply(&[write], n).expect("applied");
            }
        });
        while !writer.is_finished() {
            let found = row();
            assert!(position() >= found, "a row is ahead of its position");
            let found = position();
            assert!(row() >= found, "a position is ahead of its row");
        }
    });
    assert_eq!((row(), position()), (WRITES, WRITES));
}

/// What lies in the rows was acknowledged, however torn the log's end looks; and nobody writes over the evidence.
#[test]
fn what_the_rows_have_is_not_taken_for_a_torn_tail() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, &"x".repeat(1500))).expect("committed");
    store.checkpoint();
    let log = store.inner.shared.log.segments().pop().expect("there");
    drop(store);
    let media = disk.attach().0;
    let last_sector = (log.bytes - 1) / 512 * 512;
    let torn = media.write_at(&log.name, last_sector, &[0; 512]);
    torn.and_then(|()| media.sync(&log.name)).expect("torn");
    let before = disk.read(&log.name);
    let why = try_open(&disk).expect_err("it was acknowledged");
    assert!(why.to_string().contains("is damaged at offset"), "{why}");
    assert_eq!(disk.read(&log.name), before);
}

/// Rows are made of every frame since theirs, or not at all.
#[test]
fn a_log_with_a_gap_behind_the_rows_is_refused() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    store.checkpoint();
    while store.inner.shared.log.segments().len() < 4 {
        commit(&store, put(1, &"x".repeat(1500))).expect("committed");
    }
    let segments = store.inner.shared.log.segments();
    drop(store);
    disk.crash();
    let media = disk.attach().0;
    let removed = media.remove(&segments[2].name);
    removed.and_then(|()| media.sync_names()).expect("removed");
    let why = try_open(&disk).expect_err("frames are missing");
    assert!(
        why.to_string().contains("ends before its last frame"),
        "{why}"
    );
}

#[test]
fn replaying_twice_changes_nothing() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    for id in 0..20 {
        let mut batch = put(id % 7, &id.to_string());
        batch.take(take(1, 100)).remove::<Notice>(&(id % 3));
        commit(&store, batch).expect("committed");
    }
    let shared = &store.inner.shared;
    let state = || {
        let rows = shared.engine.scan(&[], None, 1000).expect("read");
        (
            rows,
            store.budget(&BudgetKey::Global).expect("read").day_used,
        )
    };
    let before = state();
    assert_eq!(before.1, 20);
    for from in [0, 7, 20] {
        // The rows are new, the position is old: as after a batch that was applied and not flushed with it.
        shared.engine.apply(&[], from).expect("applied");
        replay(&shared.log, shared.engine.as_ref()).expect("replayed");
        assert_eq!(state(), before, "from {from}");
    }
}

#[test]
fn blobs_are_found_when_the_rows_are_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SledEngine::open(dir.path(), CACHE).expect("opens"));
    let blobs = dir.path().join("blobs");
    fs::create_dir_all(&blobs).expect("made");
    fs::write(blobs.join("1"), b"what sled never syncs").expect("written");
    let why = SledEngine::open(dir.path(), CACHE).expect_err("refused");
    assert!(format!("{why:?}").contains("blobs"), "{why:?}");
}

/// Stops the committer until the end that is returned is dropped.
fn stop(store: &Store) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (go_on, until) = mpsc::channel::<()>();
    let (stopped, has_stopped) = mpsc::channel();
    let store = store.clone();
    let stopper = thread::spawn(move || {
        store.inner.queue.alone(move |_committer| {
            stopped.send(()).expect("somebody waits");
            // Ends with an error when the other end is dropped.
            until.recv().unwrap_or_default();
        });
    });
    has_stopped.recv().expect("it stops");
    (go_on, stopper)
}

/// What a commit that is refused at once is told.
fn told_at_once<T>(answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut context = Context::from_waker(Waker::noop());
    match answer.as_mut().poll(&mut context) {
        Poll::Ready(told) => Some(told),
        Poll::Pending => None,
    }
}

#[test]
fn a_full_queue_refuses() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(dir.path()), rng()).expect("opens");
    let (go_on, stopper) = stop(&store);
    let mut waiting: Vec<_> = (0..1025).map(|id| store.commit(put(id, "x"))).collect();
    let last = waiting.pop().expect("there is one");
    assert_eq!(told_at_once(last), Some(Err(CommitError::Busy)));
    drop(go_on);
    stopper.join().expect("it ends");
    for committed in waiting {
        super::wait(committed).expect("what was taken is done");
    }
}

#[test]
fn an_owner_comes_at_once_when_nothing_is_under_way_and_else_after_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(dir.path()), rng()).expect("opens");
    let first = told_at_once(store.own(Owner::Outbound)).expect("nothing is under way");
    let first = first.expect("granted");
    let by_the_first = |id| {
        let mut batch = put(id, "x");
        batch.by(&first);
        batch
    };

    let (go_on, stopper) = stop(&store);
    let before = store.commit(by_the_first(1));
    let mut second = store.own(Owner::Outbound);
    assert_eq!(told_at_once(&mut second), None);
    drop(go_on);
    stopper.join().expect("it ends");

    super::wait(before).expect("it came before the second owner");
    super::wait(second).expect("granted");
    let late = super::wait(store.commit(by_the_first(2)));
    assert!(matches!(late, Err(CommitError::Stale { .. })), "{late:?}");
}

#[test]
fn too_many_waiting_bytes_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(dir.path()), rng()).expect("opens");
    let (go_on, stopper) = stop(&store);
    let body = Bytes::from(vec![0; 60 << 20]);
    let large = || {
        let mut batch = Batch::new();
        batch.body(TenantId::from_bytes([1; 16]), body.clone());
        store.commit(batch)
    };
    let waiting = [large(), large()];
    assert_eq!(told_at_once(large()), Some(Err(CommitError::Busy)));
    drop(go_on);
    stopper.join().expect("it ends");
    for refused in waiting {
        // They were taken into the queue; the tenant has no key.
        assert!(matches!(
            super::wait(refused),
            Err(CommitError::NoTenantKey { .. })
        ));
    }
}

/// Calls that sled must not get, with the reason.
const NEVER: [(&str, &str); 7] = [
    (
        "apply_batch(",
        "it ends two of sled's buffers, and makes two syncs of them",
    ),
    ("flush_async", "eight at once deadlock sled 0.34.7"),
    (
        "open_tree",
        "trees share a log, and their ids jump after a crash",
    ),
    (".transaction(", "its closure may run more than once"),
    ("generate_id", "ids jump after a crash"),
    ("flush_every_ms(Some", "its flusher only logs a failed sync"),
    (
        "use_compression(true",
        "sled's own settings are lost in a power cut",
    ),
];
/// Settings of sled that must be given.
const ALWAYS: [&str; 4] = [
    ".flush_every_ms(None)",
    ".use_compression(false)",
    ".segment_size(SEGMENT_BYTES)",
    ".cache_capacity(",
];

#[test]
fn sled_is_used_as_it_must_be() {
    let engine = include_str!("../engine/sled.rs");
    for said in ALWAYS {
        assert!(engine.contains(said), "engine/sled.rs does not say {said}");
    }
    let mut wrong = Vec::new();
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        if path.ends_with("tests/rules.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("read");
        for (said, why) in NEVER.iter().filter(|(said, _)| text.contains(said)) {
            wrong.push(format!("{} says {said}: {why}", path.display()));
        }
        if text.contains("sled::Db") && !path.ends_with("engine/sled.rs") {
            wrong.push(format!("{} holds sled itself", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("read").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
