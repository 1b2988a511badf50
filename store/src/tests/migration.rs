//! Formats: a release N and the one before it, N−1, take turns at one store. N knows a format more, in which inboxes have
//! rows that N−1 cannot read.

use std::{env, path::Path, sync::Arc};

use inboxgrove_model::{inbox::Inbox, notice::Notice};
use tokio::time::Instant;

use super::{NOW, commit, options, put, rng, wait};
use crate::{
    Batch, MemDisk, MigrateError, MigrateReport, OpenError, Options, Scope, SeedPlan, Stop, Store,
    TableId, migrate_down, migrate_up, restore,
};

/// The formats that N−1 and N know up to.
const BEFORE: u8 = 1;
const AFTER: u8 = 2;
/// Inboxes of the store on files: more is shown by hand.
const INBOXES: u32 = 2000;

fn daemon(dir: &Path, format_newest: u8) -> Options {
    Options {
        format_newest,
        ..options(dir)
    }
}

fn open(disk: &MemDisk, format_newest: u8) -> Result<Store, OpenError> {
    let options = daemon(Path::new(""), format_newest);
    Store::in_memory_with(disk, &options, rng()).map(|(store, _)| store)
}

fn seed(store: &Store, tenants: u32, inboxes_of_tenant: u32) {
    let plan = SeedPlan {
        tenants,
        inboxes_of_tenant,
        messages_of_inbox: 0,
        body_bytes: 0,
        at: NOW,
        wake_over: None,
    };
    wait(store.seed(&plan, rng().as_ref())).expect("seeded");
}

/// All inboxes, read as records.
fn inboxes(store: &Store) -> Vec<Inbox> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.page::<Inbox>(&Scope::All, after.as_deref(), 500);
        let page = page.expect("every row is read");
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Changes some inboxes, as a daemon does all the time.
fn go_on(store: &Store, reason: &str) {
    for mut inbox in inboxes(store).into_iter().step_by(3) {
        reason.clone_into(&mut inbox.reason);
        let mut batch = Batch::new();
        batch.put(&inbox);
        commit(store, batch).expect("committed");
    }
}

fn is_refused(why: &OpenError) -> bool {
    let (found, newest) = (AFTER, BEFORE);
    matches!(why, OpenError::Format { found: f, newest: n } if (*f, *n) == (found, newest))
}

fn assert_whole(store: &Store, expected: &[Inbox]) {
    assert_eq!(inboxes(store), expected);
    let report = store.verify();
    assert!(report.is_clean(), "{:?}", report.problems);
}

#[test]
fn a_release_writes_what_the_one_before_reads_until_it_is_migrated() {
    let disk = MemDisk::new();
    let store = open(&disk, BEFORE).expect("N-1 makes a store");
    seed(&store, 2, 9);
    drop(store);

    let store = open(&disk, AFTER).expect("N reads it");
    go_on(&store, "by N");
    let expected = inboxes(&store);
    drop(store);
    let store = open(&disk, BEFORE).expect("N-1 goes on");
    assert_whole(&store, &expected);
    drop(store);

    let store = open(&disk, AFTER).expect("N again");
    let up = store.migrate(AFTER).expect("migrated");
    let report = |from, to, rewritten| MigrateReport {
        from,
        to,
        rewritten,
    };
    assert_eq!(up, report(BEFORE, AFTER, 18));
    assert_eq!(
        store.migrate(AFTER).expect("again"),
        report(AFTER, AFTER, 0)
    );
    go_on(&store, "by N in its own format");
    let expected = inboxes(&store);
    drop(store);
    let why = open(&disk, BEFORE).expect_err("N-1 cannot read them");
    assert!(is_refused(&why), "{why}");
    assert!(
        why.to_string().contains("store migrate down --format 1"),
        "{why}"
    );

    let store = open(&disk, AFTER).expect("the refusal has changed nothing");
    assert_whole(&store, &expected);
    let down = store.migrate(BEFORE).expect("migrated");
    assert_eq!(down, report(AFTER, BEFORE, 18));
    drop(store);
    disk.crash();
    let store = open(&disk, BEFORE).expect("N-1 is back");
    assert_whole(&store, &expected);
    go_on(&store, "by N-1");
}

#[test]
fn a_migration_that_is_cut_at_any_write_leaves_a_store_for_one_of_both_and_is_asked_for_again() {
    for (from, to) in [(BEFORE, AFTER), (AFTER, BEFORE)] {
        let mut cuts = 0;
        for cut in 0.. {
            let disk = MemDisk::new();
            let store = open(&disk, from).expect("made");
            seed(&store, 1, 5);
            let expected = inboxes(&store);
            drop(store);
            let store = open(&disk, AFTER).expect("N");
            disk.stop_in(cut, Stop::Power { kept: 0 });
            let migrated = store.migrate(to);
            drop(store);
            disk.crash();
            // N-1 reads every row or refuses: it never takes a store up that it cannot read.
            match open(&disk, BEFORE) {
                Ok(store) => assert_whole(&store, &expected),
                Err(why) => assert!(is_refused(&why), "{from} to {to}, cut {cut}: {why}"),
            }
            let store = open(&disk, AFTER).expect("N");
            assert_whole(&store, &expected);
            store.migrate(to).expect("asked for again");
            assert_whole(&store, &expected);
            drop(store);
            assert_eq!(open(&disk, BEFORE).is_ok(), to == BEFORE);
            if migrated.is_ok() {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 4, "two frames, each written and synced: {cuts}");
    }
}

#[test]
fn the_rows_are_rebuilt_from_a_backup_of_the_newer_format_once_it_was_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = MemDisk::new();
    let store = open(&disk, AFTER).expect("made");
    seed(&store, 1, 5);
    let backup = dir.path().join("backup");
    store.backup(&backup).expect("backed up");
    store.migrate(BEFORE).expect("migrated");
    let expected = inboxes(&store);
    drop(store);
    disk.lose_rows();
    let store = open(&disk, BEFORE).expect("N-1 rebuilds them");
    assert!(store.opened().rebuilt_from.is_some());
    assert_whole(&store, &expected);

    let into = dir.path().join("restored");
    let why = restore(&backup, daemon(&into, BEFORE), rng()).expect_err("it is N's");
    assert!(why.to_string().contains("has format 2"), "{why}");
    assert!(!into.exists(), "nothing was begun");
    restore(&backup, daemon(&into, AFTER), rng()).expect("N restores it");
}

#[test]
fn a_damaged_row_is_healed_before_it_is_migrated() {
    let disk = MemDisk::new();
    let store = open(&disk, AFTER).expect("made");
    seed(&store, 1, 5);
    store.migrate(BEFORE).expect("migrated");
    let expected = inboxes(&store);
    let keys = disk.row_keys();
    let inbox = |key: &&Vec<u8>| key.first() == Some(&TableId::Inbox.byte());
    let key = keys.iter().find(inbox).expect("there are some");
    assert!(disk.flip_row(key, 30));
    let report = store.migrate(AFTER).expect("migrated");
    assert_eq!((report.from, report.to), (BEFORE, AFTER));
    assert!(report.rewritten >= 5, "{report:?}");
    store.migrate(BEFORE).expect("and back");
    assert_whole(&store, &expected);
}

#[test]
fn only_known_formats_are_migrated_to() {
    let store = open(&MemDisk::new(), BEFORE).expect("made");
    commit(&store, put(1, "one")).expect("committed");
    let report = store.migrate(BEFORE).expect("nothing to do");
    assert_eq!((report.from, report.to, report.rewritten), (1, 1, 0));
    for format in [0, AFTER] {
        let why = store.migrate(format).expect_err("unknown");
        assert!(matches!(why, MigrateError::NoSuchFormat { .. }), "{why}");
    }
    assert_eq!(store.existing::<Notice>(&1).expect("there").text, "one");
}

/// On files, N−1 → N → N−1, with as many inboxes as `GROVE_TESTS_INBOXES` says.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how much is tried is up to who runs it"
)]
fn a_store_on_files_goes_up_and_down() {
    let count = env::var("GROVE_TESTS_INBOXES").map_or(INBOXES, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let options = |format_newest| Options {
        format_newest,
        free_floor_bytes: 0,
        ..Options::new(dir.path(), super::keys())
    };
    let open = |format| Store::open(options(format), Arc::clone(&rng())).map(|(store, _)| store);
    let store = open(BEFORE).expect("made");
    seed(&store, (count / 100).max(1), 100);
    let expected = inboxes(&store);
    drop(store);
    let began = Instant::now();
    let up = migrate_up(options(AFTER), rng()).expect("up");
    let took_up = began.elapsed();
    assert!(is_refused(&open(BEFORE).expect_err("it is N's now")));
    let began = Instant::now();
    let down = migrate_down(options(AFTER), rng(), BEFORE).expect("down");
    let took_down = began.elapsed();
    assert_eq!(
        (up.rewritten, down.rewritten),
        (expected.len() as u64, expected.len() as u64)
    );
    assert_whole(&open(BEFORE).expect("N-1 is back"), &expected);
    println!(
        "{} inboxes: up {took_up:?}, down {took_down:?}",
        expected.len()
    );
}
