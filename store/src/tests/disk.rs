//! On real files: sled, the committer's thread, two processes' worth of openings.

use std::{fs, sync::Arc};

use inboxgrove_model::notice::Notice;
use tokio::task::JoinSet;

use super::{NOW, commit, keys, open, options, put, rng, wait};
use crate::{Batch, Keys, OpenError, Options, Owner, SeedPlan, Store};

fn open_at(dir: &std::path::Path) -> (Store, crate::OpenReport) {
    Store::open(options(dir), rng()).expect("opens")
}

#[test]
fn commits_are_there_after_closing_and_opening() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, report) = open_at(dir.path());
    assert!(report.created);
    for id in 0..50 {
        commit(&store, put(id, "kept")).expect("committed");
    }
    let syncs = store.stats().engine_syncs;
    assert!(syncs > 0, "sled's syncs are ours");
    store.close();
    let (store, report) = open_at(dir.path());
    assert!(!report.created);
    assert_eq!((report.replayed, report.position), (0, 51));
    assert_eq!(store.count_rows().expect("read").get("notices"), Some(&50));
    assert!(store.verify().is_clean(), "{:?}", store.verify().problems);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_syncs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    let mut writers = JoinSet::new();
    for writer in 0..32_u64 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..20 {
                store
                    .commit(put(writer * 100 + n, "x"))
                    .await
                    .expect("committed");
                let id = writer * 100 + n;
                assert!(store.get::<Notice>(&id).expect("read").is_some());
            }
        });
    }
    writers.join_all().await;
    let stats = store.stats();
    assert_eq!(stats.commits, 640);
    assert!(stats.groups < stats.commits, "{} groups", stats.groups);
    let lease = store.own(Owner::Outbound).await.expect("granted");
    let mut batch = Batch::new();
    batch.by(&lease);
    store.commit(batch).await.expect("current");
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    let why = Store::open(options(dir.path()), rng()).expect_err("locked");
    assert!(matches!(why, OpenError::Dir { .. }), "{why}");
    drop(store);
    open_at(dir.path());
}

#[test]
fn a_wrong_key_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    open_at(dir.path()).0.close();
    let other = Options::new(dir.path(), Keys::from_bytes([9; 32]));
    let why = Store::open(other, rng()).expect_err("refused");
    assert!(matches!(why, OpenError::WrongKey(_)), "{why}");
}

#[test]
fn a_sled_that_does_not_open_is_moved_aside_and_rebuilt() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    commit(&store, put(1, "kept")).expect("committed");
    store.close();
    let db = dir.path().join("sled/db");
    let garbage: Vec<u8> = (0_u32..1 << 20)
        .map(|n| n.to_le_bytes()[1] ^ 0x5A)
        .collect();
    fs::write(db, garbage).expect("written");
    fs::write(dir.path().join("sled/conf"), b"what is this").expect("written");
    let (store, report) = open_at(dir.path());
    let (aside, why) = report.moved_aside.expect("it was moved");
    assert!(aside.join("db").exists(), "nothing is deleted: {why}");
    assert_eq!(store.existing::<Notice>(&1).expect("there").text, "kept");
    assert_eq!(report.replayed, 2);
}

#[test]
fn a_lost_sled_is_rebuilt_from_the_backup_and_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, _) = open_at(&data);
    commit(&store, put(1, "before")).expect("committed");
    for n in 0..2 {
        store
            .backup(&backups.join(n.to_string()))
            .expect("backed up");
    }
    commit(&store, put(2, "after")).expect("committed");
    store.close();
    fs::remove_dir_all(data.join("sled")).expect("lost");
    let (store, report) = open_at(&data);
    let from = report.rebuilt_from.expect("rebuilt");
    assert!(from.ends_with("backups/1"), "{}", from.display());
    assert_eq!(report.replayed, 1);
    assert_eq!(store.existing::<Notice>(&1).expect("there").text, "before");
    assert_eq!(store.existing::<Notice>(&2).expect("there").text, "after");
}

#[test]
fn a_key_file_is_made_on_the_first_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("installation.key");
    let keys = Keys::load_or_create(&path, rng().as_ref()).expect("made");
    let data = dir.path().join("data");
    let opened = Store::open(
        Options {
            free_floor_bytes: 0,
            ..Options::new(&data, keys)
        },
        rng(),
    );
    opened.expect("opens").0.close();
    let keys = Keys::load_or_create(&path, rng().as_ref()).expect("read");
    Store::open(
        Options {
            free_floor_bytes: 0,
            ..Options::new(&data, keys)
        },
        rng(),
    )
    .expect("opens");
}

#[test]
fn a_store_in_memory_and_one_on_files_hold_the_same() {
    let plan = SeedPlan {
        tenants: 2,
        inboxes_of_tenant: 5,
        messages_of_inbox: 3,
        body_bytes: 1000,
        at: NOW,
        wake_over: None,
    };
    let dir = tempfile::tempdir().expect("a directory");
    let stores = [open_at(dir.path()).0, open(&crate::MemDisk::new()).0];
    let counts = stores.map(|store| {
        wait(store.seed(&plan, rng().as_ref())).expect("seeded");
        let report = store.verify();
        assert!(report.is_clean(), "{:?}", report.problems);
        (
            store.count_rows().expect("read"),
            store.events(0, 1000, None).expect("read").len(),
        )
    });
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn dropping_an_answer_does_not_take_the_commit_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(options(dir.path()), Arc::clone(&rng())).expect("opens");
    drop(store.commit(put(1, "kept")));
    wait(store.own(Owner::Clock)).expect("a barrier");
    assert!(store.get::<Notice>(&1).expect("read").is_some());
    drop(keys());
}
