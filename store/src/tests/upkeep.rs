//! Backup, restore, compaction, verification.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use inboxgrove_model::{message::Message, notice::Notice};

use super::{NOW, commit, open, options, put, rng, wait};
use crate::{Batch, LogError, MemDisk, OpenError, Scope, SeedPlan, Seeded, Store, backup, restore};

fn plan() -> SeedPlan {
    SeedPlan {
        tenants: 2,
        inboxes_of_tenant: 4,
        messages_of_inbox: 3,
        body_bytes: 900,
        at: NOW,
        wake_over: None,
    }
}

pub(super) fn seed(store: &Store) -> Seeded {
    wait(store.seed(&plan(), rng().as_ref())).expect("seeded")
}

/// All rows, whole keys and framed values.
pub(super) fn rows(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let rows = store.inner.shared.engine.scan(&[], None, 100_000);
    let rows = rows.expect("read").into_iter();
    rows.filter(|(key, _)| backup::is_row(key)).collect()
}

fn read_bodies(store: &Store, made: &Seeded) -> usize {
    let messages = made.messages.iter();
    let bodies = messages.filter_map(|key| {
        let message = store.get::<Message>(key).expect("read")?;
        Some(
            store
                .body(message.tenant, &message.body)
                .expect("there")
                .len(),
        )
    });
    bodies.sum()
}

#[test]
fn a_restored_backup_is_equal_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens");
    let made = seed(&store);
    let to = dir.path().join("backup");
    let report = store.backup(&to).expect("backed up");
    assert_eq!(
        (report.start, report.end),
        (report.end, store.stats().position)
    );
    let before = (rows(&store), store.events(0, 1000, None).expect("read"));
    commit(&store, put(1, "after the backup")).expect("committed");
    let into = options(&dir.path().join("restored"));
    let (restored, _) = restore(&to, into.clone(), rng()).expect("restored");
    let after = (
        rows(&restored),
        restored.events(0, 1000, None).expect("read"),
    );
    assert_eq!(before, after);
    assert_eq!(read_bodies(&restored, &made), 24 * 900);
    assert!(restored.get::<Notice>(&1).expect("read").is_none());
    commit(&restored, put(2, "goes on")).expect("committed");
    restored.close();
    let (restored, _) = Store::open(into.clone(), rng()).expect("opens again");
    assert!(restored.get::<Notice>(&2).expect("read").is_some());
    assert!(restore(&to, into, rng()).is_err(), "never over a store");
    backup::verify(&to).expect("going on left the backup as it was");
}

#[test]
fn commits_during_a_backup_are_in_it_or_after_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens");
    seed(&store);
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            for n in 0..200 {
                commit(&store, put(n % 7, &n.to_string())).expect("committed");
            }
        })
    };
    for n in 0..3 {
        let to = dir.path().join(format!("backup-{n}"));
        let report = store.backup(&to).expect("backed up");
        let into = options(&dir.path().join(format!("restored-{n}")));
        let (restored, opened) = restore(&to, into, rng()).expect("restored");
        assert_eq!(opened.position, report.end);
        let report = restored.verify();
        assert!(report.is_clean(), "{:?}", report.problems);
    }
    writer.join().expect("wrote");
    let report = store.verify();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert!(report.backup.is_some() && report.compared_rows > 0);
}

#[test]
fn a_damaged_backup_is_not_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens");
    seed(&store);
    let to = dir.path().join("backup");
    store.backup(&to).expect("backed up");
    assert!(store.backup(&to).is_err(), "never over another");
    for name in ["rows", "manifest.json", "00000000000000000001.log"] {
        let path = to.join(name);
        let good = fs::read(&path).expect("read");
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0x10;
        // Segments may be links to the live ones: put another file in their place.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, bad).expect("written");
        let into = options(&dir.path().join(format!("restored-{name}")));
        assert!(restore(&to, into, rng()).is_err(), "{name}");
        fs::write(&path, good).expect("written");
    }
    backup::verify(&to).expect("whole again");
}

#[test]
fn compaction_drops_what_nobody_names_and_keeps_the_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens");
    let made = seed(&store);
    let (kept, gone) = made.messages.split_at(6);
    for key in gone {
        let mut batch = Batch::new();
        batch.remove::<Message>(key);
        commit(&store, batch).expect("committed");
    }
    let events = store.events(0, 1000, None).expect("read");
    let before = (rows(&store), store.stats().log_bytes);
    let early = store.compact(NOW).expect("compacted");
    assert!(early.changed > 0, "bodies alone are worth it");
    for n in 0..2 {
        store
            .backup(&dir.path().join(n.to_string()))
            .expect("backed up");
        commit(&store, put(n, "between")).expect("committed");
    }
    let report = store.compact(NOW).expect("compacted");
    assert!(report.changed > 0 && store.stats().log_bytes < before.1 / 2);
    assert_eq!(
        store.events(0, 1000, None).expect("read"),
        events,
        "within retention"
    );
    let left = Seeded {
        messages: kept.to_vec(),
        ..made.clone()
    };
    assert_eq!(read_bodies(&store, &left), 6 * 900);
    let clean = store.verify();
    assert!(clean.is_clean(), "{:?}", clean.problems);
    store.close();
    let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens again");
    assert_eq!(read_bodies(&store, &left), 6 * 900);
    let later = NOW.after(Duration::from_hours(24 * 91));
    store.compact(later).expect("compacted");
    assert!(store.events(0, 1000, None).expect("read").len() < events.len() / 2);
    store.close();
    fs::remove_dir_all(dir.path().join("data/sled")).expect("lost");
    let (store, report) = Store::open(options(&dir.path().join("data")), rng()).expect("rebuilt");
    assert!(report.rebuilt_from.is_some());
    assert_eq!(read_bodies(&store, &left), 6 * 900);
    assert_eq!(
        store
            .page::<Message>(&Scope::All, None, 500)
            .expect("read")
            .items
            .len(),
        6
    );
}

#[test]
fn a_crash_at_any_step_of_a_compaction_changes_nothing_that_counts() {
    for operations in 0..24 {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        let made = seed(&store);
        let (kept, gone) = made.messages.split_at(3);
        for key in gone {
            let mut batch = Batch::new();
            batch.remove::<Message>(key);
            commit(&store, batch).expect("committed");
        }
        store.checkpoint();
        let before = (rows(&store), store.events(0, 1000, None).expect("read"));
        disk.cut_power_in(operations, 100);
        // Whether it got through does not matter here.
        store.compact(NOW).ok();
        disk.crash();
        let (store, _) = open(&disk);
        let after = (rows(&store), store.events(0, 1000, None).expect("read"));
        assert_eq!(before, after, "cut at {operations}");
        let left = Seeded {
            messages: kept.to_vec(),
            ..made
        };
        assert_eq!(read_bodies(&store, &left), 3 * 900);
        assert!(
            disk.names()
                .iter()
                .all(|name| !name.ends_with(".unfinished"))
        );
        let report = store.verify();
        assert!(report.is_clean(), "{:?}", report.problems);
    }
}

#[test]
fn rows_cannot_be_rebuilt_from_a_log_that_was_compacted_without_its_backup() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    seed(&store);
    for n in 0..2 {
        store
            .backup(&dir.path().join(n.to_string()))
            .expect("backed up");
    }
    let later = NOW.after(Duration::from_hours(24 * 91));
    store.compact(later).expect("compacted");
    disk.lose_rows();
    let (store, report) = open(&disk);
    assert!(report.rebuilt_from.is_some());
    drop(store);
    fs::remove_dir_all(dir.path()).expect("the backups are lost too");
    disk.lose_rows();
    let options = options(Path::new(""));
    let why = Store::in_memory_with(&disk, &options, rng()).expect_err("refused");
    assert!(matches!(why, OpenError::NoRebuild { .. }), "{why}");
}

#[test]
fn rot_in_the_log_is_found_and_named() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    seed(&store);
    let first = disk
        .names()
        .into_iter()
        .find(|name| name.starts_with("0000"));
    let first = first.expect("there is a log");
    assert!(disk.flip(&first, 700));
    let report = store.verify();
    assert_eq!(report.problems_count, 1);
    assert!(report.problems[0].contains(&first), "{:?}", report.problems);
    let why = store.events(0, 1000, None).expect_err("it is in the way");
    assert!(
        matches!(why, crate::ReadError::Log(LogError::Damaged { .. })),
        "{why}"
    );
}

#[test]
fn rows_that_differ_from_backup_and_log_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "one")).expect("committed");
    store.backup(&dir.path().join("backup")).expect("backed up");
    commit(&store, put(2, "two")).expect("committed");
    assert!(store.verify().is_clean());
    // An engine that forgets a row, and one that brings an old one back.
    let engine = &store.inner.shared.engine;
    let position = engine.position().expect("read").expect("there");
    let forgotten = rows(&store).into_keys().next_back().expect("there");
    engine
        .apply(&[(forgotten, None)], position)
        .expect("applied");
    let report = store.verify();
    assert_eq!(report.problems_count, 1, "{:?}", report.problems);
    assert!(
        report.problems[0].contains("notices/"),
        "{:?}",
        report.problems
    );
}
