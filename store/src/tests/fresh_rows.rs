//! Fresh rows in the place of old ones: whatever crashes and whoever reads, the rows are the same; and sled's
//! file stays small.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use inboxgrove_model::notice::Notice;

use super::{commit, open, options, put, rng, upkeep::rows, wait};
use crate::{
    Batch, MemDisk, Options, Scope, Store,
    engine::{Engine, sled::SledEngine},
    generations::{POINTER, Pointer},
    media::{DirMedia, Media},
    rewrite::DUE_FLOOR_BYTES,
};

fn open_at(dir: &Path) -> (Store, crate::OpenReport) {
    Store::open(options(dir), rng()).expect("opens")
}

/// The directories of rows in a store's directory.
fn row_dirs(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("listed").flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

fn point(dir: &Path, pointer: &Pointer) {
    let media: Arc<dyn Media> = Arc::new(DirMedia::open(dir).expect("opened"));
    pointer.write(media.as_ref()).expect("written");
}

#[test]
fn a_crash_at_any_step_of_a_rewrite_leaves_the_old_rows_or_the_new_ones() {
    let mut cuts = 0;
    for operations in 0.. {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        for id in 0..20 {
            commit(&store, put(id, "kept")).expect("committed");
        }
        store.rewrite_rows().expect("a first one goes through");
        commit(&store, put(3, "after it")).expect("committed");
        let before = rows(&store);
        disk.cut_power_in(operations, 0);
        let through = store.rewrite_rows().is_ok();
        disk.crash();
        let (store, report) = open(&disk);
        assert_eq!(report.rebuilt, None, "cut at {operations}");
        assert_eq!(rows(&store), before, "cut at {operations}");
        commit(&store, put(4, "goes on")).expect("committed");
        let found = store.verify();
        assert!(found.is_clean(), "{operations}: {:?}", found.problems);
        if through {
            break;
        }
        cuts += 1;
    }
    assert!(cuts >= 10, "every write and sync of it was cut: {cuts}");
}

#[test]
fn rewritten_rows_take_the_place_of_the_old_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    for id in 0..50 {
        commit(&store, put(id, "kept")).expect("committed");
    }
    assert_eq!(row_dirs(dir.path()), ["sled"]);
    let before = rows(&store);
    let report = store.rewrite_rows().expect("rewritten");
    assert_eq!(report.rows, 51, "fifty and the format");
    assert_eq!(row_dirs(dir.path()), ["rows-0002"]);
    assert_eq!(rows(&store), before);
    assert!(
        !dir.path()
            .join("rows-0002/blobs")
            .read_dir()
            .is_ok_and(|mut it| it.next().is_some())
    );
    store.close();
    let (store, opened) = open_at(dir.path());
    assert_eq!((opened.replayed, rows(&store)), (0, before));
    store.rewrite_rows().expect("rewritten");
    assert_eq!(row_dirs(dir.path()), ["rows-0003"]);
}

#[test]
fn a_kill_between_any_two_steps_of_a_switch_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let (store, _) = open_at(&old);
    for id in 0..50 {
        commit(&store, put(id, "kept")).expect("committed");
    }
    store.close();
    copy_dir(&old, &new);
    let (store, _) = open_at(&new);
    store.rewrite_rows().expect("rewritten");
    commit(&store, put(50, "later")).expect("committed");
    let all = rows(&store);
    store.close();
    // Killed while the fresh rows were being filled.
    let engine = SledEngine::open(&old.join("rows-0002"), 16 << 20).expect("opens");
    engine
        .apply(&[(vec![18, 1], Some(vec![1]))], 0)
        .expect("applied");
    drop(engine);
    let (store, report) = open_at(&old);
    assert_eq!(
        (row_dirs(&old), report.rebuilt),
        (vec!["sled".to_owned()], None)
    );
    assert_eq!(rows(&store).len(), 51);
    store.close();
    // Killed when the fresh rows were in use and the old ones were still there.
    copy_dir(&old.join("sled"), &new.join("sled"));
    let (store, report) = open_at(&new);
    assert_eq!(
        (row_dirs(&new), report.rebuilt),
        (vec!["rows-0002".to_owned()], None)
    );
    assert_eq!(rows(&store), all);
    store.close();
    // The same, but the old ones were damaged and are to be kept.
    copy_dir(&old.join("sled"), &new.join("sled"));
    let pointer = Pointer {
        aside: Some("sled".to_owned()),
        ..Pointer::to("rows-0002")
    };
    point(&new, &pointer);
    let (store, _) = open_at(&new);
    assert_eq!(row_dirs(&new), ["rows-0002", "sled.broken-1"]);
    assert_eq!(rows(&store), all);
    store.close();
    let media = DirMedia::look_at(&new);
    let read = Pointer::read(&media).expect("read").expect("whole");
    assert_eq!(read, Pointer::to("rows-0002"));
}

#[test]
fn a_damaged_pointer_does_not_lead_to_other_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    for id in 0..50 {
        commit(&store, put(id, "kept")).expect("committed");
    }
    store.rewrite_rows().expect("rewritten");
    let before = rows(&store);
    store.close();
    let path = dir.path().join(POINTER);
    let mut bytes = fs::read(&path).expect("read");
    let at = bytes.windows(4).position(|four| four == b"0002");
    bytes[at.expect("it names them") + 3] ^= 1;
    fs::write(&path, bytes).expect("written");
    let (store, report) = open_at(dir.path());
    assert_eq!((rows(&store), report.rebuilt), (before, None));
    let warning = report.warning.expect("it says so");
    assert!(warning.contains(POINTER), "{warning}");
    assert!(store.verify().is_clean(), "it was written again");
}

#[test]
fn commits_and_reads_go_on_while_rows_are_rewritten() {
    const WRITERS: u64 = 4;
    const COMMITS: u64 = 150;
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_at(dir.path());
    for id in 0..200 {
        commit(&store, put(1000 + id, "always there")).expect("committed");
    }
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            thread::spawn(move || {
                for n in 0..COMMITS {
                    commit(&store, put(writer, &n.to_string())).expect("committed");
                    // What was acknowledged is read, whichever rows are in use.
                    let read = store.existing::<Notice>(&writer).expect("there");
                    assert_eq!(read.text, n.to_string());
                }
            })
        })
        .collect();
    let reader = {
        let (store, done) = (store.clone(), Arc::clone(&done));
        thread::spawn(move || {
            let (mut last, mut scans) = (BTreeMap::new(), 0_u64);
            while !done.load(Ordering::Relaxed) {
                let page = store.page::<Notice>(&Scope::All, None, 500).expect("read");
                let kept = page.items.iter().filter(|row| row.id >= 1000);
                assert_eq!(kept.count(), 200, "all rows are of one engine");
                for row in page.items.iter().filter(|row| row.id < WRITERS) {
                    let n: u64 = row.text.parse().expect("a number");
                    let before = last.insert(row.id, n).unwrap_or(0);
                    assert!(n >= before, "rows never go back");
                }
                scans += 1;
            }
            scans
        })
    };
    let mut rewrites = 0;
    while writers.iter().any(|writer| !writer.is_finished()) || rewrites < 2 {
        store.rewrite_rows().expect("rewritten");
        rewrites += 1;
    }
    for writer in writers {
        writer.join().expect("wrote");
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("read") > 0);
    let report = store.verify();
    assert!(report.is_clean(), "{:?}", report.problems);
    store.close();
    let (store, report) = open_at(dir.path());
    assert_eq!(report.replayed, 0);
    for writer in 0..WRITERS {
        let read = store.existing::<Notice>(&writer).expect("there");
        assert_eq!(read.text, (COMMITS - 1).to_string());
    }
    assert_eq!(row_dirs(dir.path()).len(), 1);
}

#[test]
fn a_rewrite_needs_room_for_both() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    commit(&store, put(1, "one")).expect("committed");
    disk.set_free_bytes(10);
    let why = store.rewrite_rows().expect_err("refused");
    assert!(
        matches!(why, crate::RewriteError::NoRoom { free: 10, .. }),
        "{why}"
    );
    disk.set_free_bytes(u64::MAX);
    store.rewrite_rows().expect("rewritten");
}

/// Months of a queue in minutes: rows come and go, counters are overwritten; what is in the rows stays the
/// same. Left alone, sled's file grows beyond the bound asserted here within the first rounds.
#[test]
fn the_file_of_rows_stays_within_three_times_of_what_is_in_it() {
    const ROWS: u64 = 12_000;
    const ROUNDS: u64 = 6;
    const BATCH: u64 = 500;
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 64 << 20,
        upkeep_rests: false,
        ..options(dir.path())
    };
    let (store, _) = Store::open(options, rng()).expect("opens");
    let text = "x".repeat(330);
    let (mut rewrites, mut highest) = (0, 0);
    for step in 0..(1 + ROUNDS) * ROWS / BATCH {
        let mut batch = Batch::new();
        for n in step * BATCH..(step + 1) * BATCH {
            // Ids in no order, as of messages in the queue; the oldest row goes as a new one comes.
            let id = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            batch.put(&super::notice(id(n), &text));
            if let Some(old) = n.checked_sub(ROWS) {
                batch.remove::<Notice>(&id(old));
            }
        }
        commit(&store, batch).expect("committed");
        if step == ROWS / BATCH {
            let report = store.verify();
            assert!(report.is_clean(), "{:?}", report.problems);
        }
        if store.rewrite_is_due() {
            store.rewrite_rows().expect("rewritten");
            rewrites += 1;
        }
        if let Some(live) = store.stats().live_bytes {
            let disk = store.stats().rows_bytes;
            highest = highest.max(disk * 100 / live);
            assert!(
                disk <= 3 * live + DUE_FLOOR_BYTES,
                "{disk} bytes for {live} in step {step}"
            );
        }
    }
    assert!(rewrites > 0, "there was something to do: {highest} %");
    let counted = store.count_rows().expect("read");
    assert_eq!(counted.get("notices"), Some(&ROWS));
    wait(store.own(crate::Owner::Clock)).expect("the committer is well");
}
