//! Laws of the log: what was synced is there, what was torn is cut, what rotted is named.

use super::{open::TornTail, *};
use crate::{
    frame::{FrameWriter, Item},
    memory::MemDisk,
};

fn frame(seq: u64, group: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes, seq, group);
    writer.item(&Item::Put { key: b"k", value });
    writer.finish();
    bytes
}

fn open(disk: &MemDisk) -> Result<(Log, Option<TornTail>), LogError> {
    Log::open(disk.attach().0, 4096, 0)
}

/// Appends a group of `count` frames.
fn append(log: &Log, count: u64) {
    let group = log.next_seq();
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    for seq in group..group + count {
        frames.push((seq, bytes.len()));
        bytes.extend(frame(seq, group, &[7; 100]));
    }
    log.append(&bytes, &frames).expect("appended");
}

fn seqs(log: &Log, from: u64) -> Vec<u64> {
    let (mut found, mut next) = (Vec::new(), from);
    while next < log.next_seq() {
        let (frames, after) = log.frames(next, 0, 300).expect("read");
        assert!(after > next, "reading goes on");
        found.extend(frames.iter().map(|frame| frame.head.seq));
        next = after;
    }
    found
}

#[test]
fn frames_are_read_back_across_segments_and_reopening() {
    let disk = MemDisk::new();
    let (log, torn) = open(&disk).expect("opens");
    assert_eq!(torn, None);
    (0..60).for_each(|_| append(&log, 3));
    assert!(log.segments().len() > 3);
    assert_eq!(seqs(&log, 1), (1..=180).collect::<Vec<_>>());
    disk.crash();
    let (log, torn) = open(&disk).expect("opens again");
    assert_eq!((log.next_seq(), torn), (181, None));
    assert_eq!(seqs(&log, 77), (77..=180).collect::<Vec<_>>());
    for seq in [1, 100, 180] {
        let frame = log.frame(seq).expect("read").expect("there");
        assert_eq!(frame.head.seq, seq);
    }
    assert!(log.frame(181).expect("read").is_none());
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let group = [frame(2, 2, b"two"), frame(3, 2, b"three")].concat();
    for kept in 1..group.len() {
        let disk = MemDisk::new();
        let (log, _) = open(&disk).expect("opens");
        append(&log, 1);
        let media = disk.attach().0;
        media.append(&name_of(1), &group).expect("written");
        disk.crash_torn(kept);
        let (log, torn) = open(&disk).expect("opens");
        let first_whole = kept >= frame(2, 2, b"two").len();
        assert_eq!(log.next_seq(), if first_whole { 3 } else { 2 }, "{kept}");
        assert_eq!(torn.is_none(), kept == frame(2, 2, b"two").len(), "{kept}");
        append(&log, 1);
        disk.crash();
        assert!(open(&disk).expect("whole").1.is_none());
    }
}

#[test]
fn a_hole_in_the_last_group_is_a_torn_tail_too() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    append(&log, 1);
    let end = disk.read(&name_of(1)).expect("there").len();
    append(&log, 3);
    assert!(disk.flip(&name_of(1), end + 60));
    let (log, torn) = open(&disk).expect("opens");
    assert_eq!(log.next_seq(), 2);
    assert_eq!(torn.expect("cut").offset, end as u64);
}

#[test]
fn damage_before_an_acknowledged_group_is_an_error_that_names_the_place() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    append(&log, 1);
    let end = disk.read(&name_of(1)).expect("there").len();
    append(&log, 1);
    append(&log, 1);
    assert!(disk.flip(&name_of(1), end + 60));
    let why = open(&disk).expect_err("refused").to_string();
    assert!(
        why.contains(&name_of(1)) && why.contains(&format!("offset {end}")),
        "{why}"
    );
}

#[test]
fn what_the_rows_have_is_never_cut() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    append(&log, 1);
    append(&log, 1);
    let end = disk.read(&name_of(1)).expect("there").len();
    assert!(disk.flip(&name_of(1), end - 10));
    assert!(matches!(
        Log::open(disk.attach().0, 4096, 2),
        Err(LogError::Damaged { .. })
    ));
    assert_eq!(
        open(&disk).expect("rows had only the first").0.next_seq(),
        2
    );
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_reading_and_by_checking() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    (0..60).for_each(|_| append(&log, 1));
    assert!(disk.flip(&name_of(1), 200));
    let (log, _) = open(&disk).expect("the end is whole");
    assert!(log.frames(1, 0, 10_000).is_err());
    assert!(matches!(
        log.check(1),
        Err(LogError::Damaged { offset: 173, .. })
    ));
    assert_eq!(log.check(log.segments()[1].first).expect("whole"), 29);
}

#[test]
fn a_segment_without_its_head_never_had_frames() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    append(&log, 2);
    let media = disk.attach().0;
    media.create(&name_of(3)).expect("made");
    media.sync_names().expect("synced");
    disk.crash();
    assert_eq!(open(&disk).expect("opens").0.next_seq(), 3);
}
