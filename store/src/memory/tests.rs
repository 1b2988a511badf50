//! What a crash takes back, and what it leaves.

use super::*;

#[test]
fn a_crash_takes_back_bytes_names_and_rows() {
    let disk = MemDisk::new();
    let (media, shelf) = disk.attach();
    let engine = shelf.open("sled").expect("opens");
    media.create("a").expect("made");
    media.append("a", b"kept").expect("written");
    media.sync("a").expect("synced");
    media.sync_names().expect("synced");
    media.append("a", &[b'l'; 600]).expect("written");
    media.write_at("a", 0, b"K").expect("written");
    media.create("b").expect("made");
    engine
        .apply(&[(vec![1], Some(vec![1]))], 1)
        .expect("applied");
    engine.flush().expect("flushed");
    engine.apply(&[(vec![1], None)], 2).expect("applied");
    disk.crash_torn(599);
    assert!(media.read("a").is_err(), "old handles fail");
    let (media, shelf) = disk.attach();
    let engine = shelf.open("sled").expect("opens");
    let sector = [b"kept".as_slice(), &[b'l'; 508]].concat();
    assert_eq!(media.read("a").expect("read"), sector, "whole sectors last");
    assert_eq!(media.list().expect("listed"), ["a"]);
    assert_eq!(engine.get(&[1]), Ok(Some(vec![1])));
    assert_eq!(engine.position(), Ok(Some(1)));
}

#[test]
fn a_rename_without_a_sync_of_names_is_taken_back_whole() {
    let disk = MemDisk::new();
    let (media, _) = disk.attach();
    media.replace("a", b"old").expect("written");
    media.create("n").expect("made");
    media.append("n", b"new").expect("written");
    media.sync("n").expect("synced");
    media.rename("n", "a").expect("renamed");
    disk.crash();
    let (media, _) = disk.attach();
    assert_eq!(media.read("a").expect("read"), b"old");
}

#[test]
fn a_kill_takes_back_unflushed_rows_only() {
    let disk = MemDisk::new();
    let (media, shelf) = disk.attach();
    let engine = shelf.open("sled").expect("opens");
    media.create("a").expect("made");
    media.append("a", b"written").expect("written");
    engine
        .apply(&[(vec![1], Some(vec![1]))], 1)
        .expect("applied");
    disk.stop(Stop::Kill { rows: true });
    let (_, shelf) = disk.attach();
    let engine = shelf.open("sled").expect("opens");
    assert_eq!(engine.get(&[1]), Ok(Some(vec![1])));
    disk.stop(Stop::Kill { rows: false });
    let (media, shelf) = disk.attach();
    let engine = shelf.open("sled").expect("opens");
    assert_eq!(media.read("a").expect("read"), b"written");
    assert_eq!(engine.get(&[1]), Ok(None));
    // The system's cache dies with the power.
    disk.crash();
    assert_eq!(disk.names(), Vec::<String>::new());
}

#[test]
fn a_short_write_leaves_all_but_the_last_byte() {
    let disk = MemDisk::new();
    let (media, _) = disk.attach();
    media.create("a").expect("made");
    disk.fail_next(Fault::ShortWrite);
    assert!(media.append("a", b"four").is_err());
    assert_eq!(disk.read("a").expect("there"), b"fou");
    assert_eq!(disk.struck(Fault::ShortWrite), 1);
}

#[test]
fn power_fails_at_the_operation_that_was_named() {
    let disk = MemDisk::new();
    let (media, _) = disk.attach();
    disk.cut_power_in(1, 0);
    media.create("a").expect("the first goes through");
    assert!(media.append("a", b"x").is_err());
    assert_eq!(disk.names(), Vec::<String>::new());
}

#[test]
fn a_withheld_sync_holds_up_commits_and_a_crash_takes_them_back() {
    let disk = MemDisk::new();
    let rng = crate::test_rng::CountingRng::new(1);
    let (store, _) = crate::Store::in_memory(
        disk.clone(),
        crate::Keys::from_bytes([1; 32]),
        Arc::new(rng),
    )
    .expect("opened");
    let mark = |at| {
        let mut batch = crate::Batch::new();
        batch.put(&crate::PolicyMark {
            at: inboxgrove_model::PolicyTime::from_millis(at),
        });
        store.commit(batch)
    };
    let stored = || {
        store
            .get::<crate::PolicyMark>(&())
            .expect("read")
            .map(|mark| mark.at.as_millis())
    };
    disk.hold_syncs();
    let (mut first, mut second) = (poller(mark(1)), poller(mark(2)));
    assert!(
        first().is_none() && second().is_none(),
        "neither is answered"
    );
    assert_eq!((disk.held_syncs(), stored()), (2, None));
    disk.release_syncs();
    assert!(first().is_some_and(|done| done.is_ok()) && second().is_some_and(|done| done.is_ok()));
    assert_eq!((disk.held_syncs(), stored()), (0, Some(2)));
    disk.hold_syncs();
    let mut third = poller(mark(3));
    disk.crash();
    assert!(
        third().is_some_and(|done| done.is_err()),
        "it was never done"
    );
}

/// Polls a commit once at every call.
fn poller<T>(
    mut future: inboxgrove_model::ports::BoxFuture<'static, T>,
) -> impl FnMut() -> Option<T> {
    move || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }
}
