//! Damage: found wherever it was planted, healed where a backup and the log can, named where they cannot.

use std::{fs, path::Path};

use inboxgrove_model::notice::Notice;

use super::{
    commit, open, options, put, rng,
    upkeep::{rows, seed},
    wait,
};
use crate::{MemDisk, OpenError, Store, VerifyReport, generations::POINTER};

/// The whole key of some notice's row.
fn row_key(store: &Store) -> Vec<u8> {
    let keys = rows(store).into_keys();
    let notices = crate::TableId::Notice.byte();
    let mut keys = keys.filter(|key| key[0] == notices);
    keys.next().expect("there is one")
}

fn try_open(disk: &MemDisk) -> Result<(Store, crate::OpenReport), OpenError> {
    Store::in_memory_with(disk, &options(Path::new("")), rng())
}

#[test]
fn a_row_that_rots_is_met_and_healed_from_backup_and_log() {
    let dir = tempfile::tempdir().expect("a directory");
    for with_backup in [true, false] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        commit(&store, put(1, "one")).expect("committed");
        if with_backup {
            store.backup(&dir.path().join("backup")).expect("backed up");
        }
        commit(&store, put(2, "two")).expect("committed");
        let before = rows(&store);
        assert!(disk.flip_row(&row_key(&store), 30));
        store.get::<Notice>(&1).expect_err("it is damaged");
        let met = wait(store.damage_met());
        assert!(met.contains("notices/"), "{met}");
        let found = store.verify();
        assert_eq!(
            (found.damaged_rows, found.problems_count),
            (1, 1),
            "{found:?}"
        );
        let report = store.heal(&found).expect("healed").expect("rows were");
        assert_eq!(report.from.is_some(), with_backup);
        assert_eq!(rows(&store), before);
        assert_eq!(store.existing::<Notice>(&1).expect("there").text, "one");
        assert!(store.verify().is_clean());
        commit(&store, put(3, "goes on")).expect("committed");
        disk.crash();
        let (store, opened) = open(&disk);
        assert_eq!(opened.rebuilt, None, "it was healed for good");
        assert_eq!(store.existing::<Notice>(&3).expect("there").text, "goes on");
    }
}

#[test]
fn a_reserve_that_rots_is_found_and_made_anew() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "one")).expect("committed");
    let names = disk.names();
    let log = names.iter().find(|name| {
        let kind = Path::new(name).extension();
        kind.is_some_and(|kind| kind == "log")
    });
    let log = log.expect("there is one");
    let len = disk.read(log).expect("read").len();
    for offset in [len / 2, len - 1] {
        assert!(disk.flip(log, offset));
        let found = store.verify();
        assert_eq!((found.damaged_files, found.problems_count), (1, 1));
        let problem = &found.problems[0];
        assert!(
            problem.contains("reserve") && problem.contains(&offset.to_string()),
            "{problem}"
        );
        store.heal(&found).expect("healed");
        assert!(store.verify().is_clean());
    }
    commit(&store, put(2, "two")).expect("committed");
    disk.crash();
    let (store, opened) = open(&disk);
    assert_eq!(opened.torn_bytes, 0, "{opened:?}");
    assert_eq!(store.existing::<Notice>(&2).expect("there").text, "two");
}

#[test]
fn a_rewrite_does_not_carry_damage_on() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "one")).expect("committed");
    assert!(disk.flip_row(&row_key(&store), 30));
    let why = store.rewrite_rows().expect_err("refused");
    assert!(why.to_string().contains("notices/"), "{why}");
    assert!(wait(store.damage_met()).contains("notices/"));
}

#[test]
fn a_crash_at_any_step_of_a_rebuild_leads_to_a_rebuild_again() {
    let mut cuts = 0;
    for operations in 0.. {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        for id in 0..20 {
            commit(&store, put(id, "kept")).expect("committed");
        }
        store.checkpoint();
        let before = rows(&store);
        assert!(disk.flip_row(&row_key(&store), 30));
        store
            .inner
            .shared
            .rows
            .distrust("a test damaged them")
            .expect("marked");
        disk.cut_power_in(operations, 0);
        let through = store.rebuild_rows(Some("a test damaged them")).is_ok();
        disk.crash();
        // The start that rebuilds them is cut at the same step.
        disk.cut_power_in(operations, 0);
        try_open(&disk).ok();
        disk.crash();
        let (store, _) = open(&disk);
        assert_eq!(rows(&store), before, "cut at {operations}");
        let found = store.verify();
        assert!(found.is_clean(), "{operations}: {:?}", found.problems);
        disk.crash();
        assert_eq!(open(&disk).1.rebuilt, None, "it is done");
        if through {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 10, "every write and sync of it was cut: {cuts}");
}

#[test]
fn an_operator_may_have_good_rows_rebuilt() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(dir.path()), rng()).expect("opens");
    commit(&store, put(1, "one")).expect("committed");
    let before = rows(&store);
    let report = store.rebuild_rows(None).expect("rebuilt");
    let aside = report.moved_aside.expect("the old ones are kept");
    assert!(aside.join("db").exists(), "{}", aside.display());
    assert_eq!(rows(&store), before);
    store.close();
    let (store, opened) = Store::open(options(dir.path()), rng()).expect("opens");
    assert_eq!((rows(&store), opened.rebuilt), (before, None));
}

#[test]
fn rows_that_cannot_be_rebuilt_are_used_while_they_open_and_refused_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    seed(&store);
    store.backup(&dir.path().join("backup")).expect("backed up");
    for id in 0..200 {
        commit(&store, put(id, "some text, so that there are segments")).expect("committed");
    }
    let before = rows(&store);
    let logs = disk.names();
    let logs: Vec<_> = logs.iter().filter(|name| name.starts_with("000")).collect();
    let damaged = logs[logs.len() - 3];
    assert!(disk.flip(damaged, 2000));
    store
        .rebuild_rows(Some("a test says so"))
        .expect_err("the log is damaged");
    assert_eq!(rows(&store), before, "the old ones are in use");
    store.checkpoint();
    disk.crash();
    let (store, opened) = open(&disk);
    assert_eq!(rows(&store), before);
    let warning = opened.warning.expect("it says so");
    assert!(warning.contains(damaged.as_str()), "{warning}");
    assert_eq!(store.distrusted().as_deref(), Some("a test says so"));
    disk.crash();
    disk.lose_rows();
    let why = try_open(&disk).expect_err("refused");
    let text = why.to_string();
    assert!(
        why.is_damage() && matches!(why, OpenError::NoRebuild { .. }),
        "{text}"
    );
    for part in [damaged.as_str(), "offset", "store restore", "backup"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn whatever_is_damaged_is_found() {
    type Plant = fn(&Path);
    fn flip(path: &Path) {
        let mut bytes = fs::read(path).expect("read");
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        if path.extension().is_some_and(|end| end == "log") {
            // It may be a link to the live one: put another file in its place.
            fs::remove_file(path).expect("removed");
        }
        fs::write(path, bytes).expect("written");
    }
    let plants: [(&str, Plant, u64); 8] = [
        ("data.keys", |dir| flip(&dir.join("data/data.keys")), 1),
        (POINTER, |dir| flip(&dir.join("data").join(POINTER)), 1),
        (
            "backups.json",
            |dir| flip(&dir.join("data/backups.json")),
            0,
        ),
        ("manifest", |dir| flip(&dir.join("backup/manifest.json")), 0),
        ("rows", |dir| flip(&dir.join("backup/rows")), 0),
        (
            "backup",
            |dir| flip(&dir.join("backup/00000000000000000001.log")),
            0,
        ),
        (
            "backup",
            |dir| {
                let path = dir.join("backup/rows");
                let bytes = fs::read(&path).expect("read");
                fs::write(path, &bytes[..bytes.len() - 9]).expect("written");
            },
            0,
        ),
        (
            "blobs",
            |dir| {
                let blobs = dir.join("data/rows-0002/blobs");
                fs::create_dir_all(&blobs).expect("made");
                fs::write(blobs.join("1"), "too big").expect("written");
            },
            0,
        ),
    ];
    for (named, plant, files) in plants {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(options(&dir.path().join("data")), rng()).expect("opens");
        seed(&store);
        store.rewrite_rows().expect("so that there is a pointer");
        store.backup(&dir.path().join("backup")).expect("backed up");
        assert!(store.verify().is_clean(), "before");
        plant(dir.path());
        let found = store.verify();
        assert!(!found.is_clean(), "{named}");
        assert!(
            found.problems[0].contains(named),
            "{named}: {:?}",
            found.problems
        );
        assert_eq!(found.damaged_files, files, "{named}");
        if files > 0 {
            assert_eq!(store.heal(&found).expect("healed"), None);
            assert!(store.verify().is_clean(), "{named} was written again");
        }
        if named == "rows" {
            assert_eq!(store.stats().backups, 0, "nothing relies on it any more");
        }
    }
}

#[test]
fn a_body_that_is_gone_or_rots_is_found() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let made = seed(&store);
    let found = store.verify();
    assert_eq!(found.bodies, made.messages.len() as u64);
    let key = &made.messages[0];
    let mut message = store
        .existing::<inboxgrove_model::message::Message>(key)
        .expect("there");
    message.body.index += 7;
    let mut batch = crate::Batch::new();
    batch.put(&message);
    commit(&store, batch).expect("committed");
    let found = store.verify();
    assert_eq!(
        (found.problems_count, found.damaged_rows),
        (1, 0),
        "{found:?}"
    );
    assert!(
        found.problems[0].contains(&message.id.to_string()),
        "{found:?}"
    );
}

#[test]
fn comparing_in_parts_finds_the_same_as_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    for with_backup in [false, true] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        seed(&store);
        if with_backup {
            store.backup(&dir.path().join("backup")).expect("backed up");
        }
        for id in 0..40 {
            commit(&store, put(id % 25, &id.to_string())).expect("committed");
        }
        let mut batch = crate::Batch::new();
        batch.remove::<Notice>(&7);
        commit(&store, batch).expect("committed");
        let engine = &store.inner.shared.engine;
        let position = engine.position().expect("read").expect("there");
        let all = rows(&store);
        let (first, last) = (all.keys().nth(1), all.keys().next_back());
        let gone = [first, last].map(|key| (key.expect("there").clone(), None));
        engine.apply(&gone, position).expect("applied");
        let mut found = [1, 3, 1000].map(|keys_max| {
            let mut report = VerifyReport::default();
            let newest = crate::backup::BackupList::read(store.inner.shared.media.as_ref());
            let newest = newest.newest_first().into_iter().next().map(|entry| {
                let manifest = crate::backup::verify(&entry.path).expect("whole");
                (entry, manifest)
            });
            let checked = store.check_rows(newest.as_ref(), keys_max, &mut report);
            checked.expect("compared");
            report
        });
        for part in &mut found {
            part.problems.sort();
        }
        let once = found[2].clone();
        assert_eq!(once.damaged_rows, 2, "{once:?}");
        assert_eq!(once.compared_rows, all.len() as u64 - 2);
        assert!(found.iter().all(|part| *part == once), "{found:?}");
    }
}
