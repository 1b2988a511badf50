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

/// Where the frames of the last segment end.
fn end_of(log: &Log) -> usize {
    let last = log.segments().pop().expect("there is one");
    usize::try_from(last.bytes).expect("it is small")
}

/// A log with a group of one frame, then one of `count` frames, and where that starts and ends.
fn two_groups(disk: &MemDisk, count: u64) -> (usize, usize) {
    let (log, _) = open(disk).expect("opens");
    append(&log, 1);
    let start = end_of(&log).next_multiple_of(512);
    append(&log, count);
    (start, end_of(&log))
}

/// Makes zeros of a part of the only segment.
fn zero(disk: &MemDisk, from: usize, to: usize) {
    let media = disk.attach().0;
    let zeros = vec![0; to - from];
    media
        .write_at(&name_of(1), from as u64, &zeros)
        .expect("zeroed");
    media.sync(&name_of(1)).expect("synced");
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

/// Little is read at first and more with each reading: its ends fall anywhere in frames.
#[test]
fn frames_are_read_whole_wherever_a_reading_ends() {
    let len = |seq: u64| usize::try_from(seq * 37 % 9001).expect("it is small");
    let disk = MemDisk::new();
    let (log, _) = Log::open(disk.attach().0, 4 << 20, 0).expect("opens");
    for seq in 1..=300 {
        let bytes = frame(seq, seq, &vec![7; len(seq)]);
        log.append(&bytes, &[(seq, 0)]).expect("appended");
    }
    let (frames, next) = log.frames(1, 0, u64::MAX).expect("read");
    assert_eq!((frames.len(), next), (300, 301));
    for (seq, walked) in (1..).zip(frames) {
        let alone = log.frame(seq).expect("read").expect("there");
        assert_eq!(alone.payload, walked.payload, "{seq}");
        let items = walked.items().expect("parsed");
        let value = vec![7; len(seq)];
        let put = Item::Put {
            key: b"k",
            value: &value,
        };
        assert_eq!(items, [put], "{seq}");
    }
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let second = frame(2, 2, &[7; 1300]);
    let group = [second.as_slice(), &frame(3, 2, &[8; 900])].concat();
    for kept in (0..group.len()).step_by(100) {
        let disk = MemDisk::new();
        let (log, _) = open(&disk).expect("opens");
        append(&log, 1);
        let end = end_of(&log).next_multiple_of(512);
        let media = disk.attach().0;
        media
            .write_at(&name_of(1), end as u64, &group)
            .expect("written");
        disk.crash_torn(kept);
        let (log, torn) = open(&disk).expect("opens");
        // Whole sectors of it have reached the disk.
        let reached = ((end + kept) / 512 * 512).saturating_sub(end);
        let first_whole = reached >= second.len();
        assert_eq!(log.next_seq(), if first_whole { 3 } else { 2 }, "{kept}");
        let clean = reached == 0 || reached == second.len();
        assert_eq!(torn.is_none(), clean, "{kept}");
        append(&log, 1);
        disk.crash();
        assert!(open(&disk).expect("whole").1.is_none());
    }
}

/// A full or failing disk stops a write at any byte, and the process dies before it can say so: what is there is no damage.
#[test]
fn a_write_that_stopped_at_any_byte_is_a_torn_tail() {
    // Values that end in zeros look most like a reserve.
    let group = [frame(2, 2, &[0; 600]), frame(3, 2, &[0; 700])].concat();
    let first = frame(2, 2, &[0; 600]).len();
    for written in 1..group.len() {
        let disk = MemDisk::new();
        let (log, _) = open(&disk).expect("opens");
        append(&log, 1);
        let end = end_of(&log).next_multiple_of(512) as u64;
        let media = disk.attach().0;
        media
            .write_at(&name_of(1), end, &group[..written])
            .expect("written");
        let (log, torn) = open(&disk).unwrap_or_else(|why| panic!("{written}: {why}"));
        assert_eq!(
            log.next_seq(),
            if written < first { 2 } else { 3 },
            "{written}"
        );
        assert_eq!(torn.is_none(), written == first, "{written}");
        append(&log, 1);
        assert!(open(&disk).expect("whole").1.is_none());
    }
}

#[test]
fn a_sector_that_is_missing_in_the_last_group_is_a_torn_tail_too() {
    let disk = MemDisk::new();
    let (start, end) = two_groups(&disk, 20);
    assert_eq!(start, 1024);
    assert!(end > 2048, "the group spans sectors");
    zero(&disk, 1536, 2048);
    let (log, torn) = open(&disk).expect("opens");
    let torn = torn.expect("cut");
    assert!(
        log.next_seq() > 2 && log.next_seq() < 22,
        "{}",
        log.next_seq()
    );
    assert_eq!(torn.offset + torn.bytes, end as u64);
    append(&log, 1);
    assert!(open(&disk).expect("whole").1.is_none());
}

#[test]
fn a_flipped_bit_in_the_last_group_or_before_it_is_no_torn_tail() {
    let (start, end) = two_groups(&MemDisk::new(), 3);
    // The zeros that fill up the sector of the group before are damaged like everything else.
    for at in start - 300..end {
        let disk = MemDisk::new();
        two_groups(&disk, 3);
        assert!(disk.flip(&name_of(1), at));
        let why = open(&disk)
            .expect_err("all sectors were written")
            .to_string();
        assert!(why.contains(&name_of(1)), "{why}");
    }
}

#[test]
fn a_segment_that_was_cut_is_refused_wherever_it_was_cut() {
    let (_, end) = two_groups(&MemDisk::new(), 3);
    let reserve = usize::try_from(RESERVE_BYTES).expect("it is small");
    for len in (0..end + 2).chain([reserve - 1]) {
        let disk = MemDisk::new();
        two_groups(&disk, 3);
        let media = disk.attach().0;
        media.truncate(&name_of(1), len as u64).expect("cut");
        let why = open(&disk).expect_err("its reserve is missing").to_string();
        assert!(why.contains(&name_of(1)), "{len}: {why}");
    }
}

/// With segments that have to grow before they are full.
fn open_large(disk: &MemDisk) -> Result<(Log, Option<TornTail>), LogError> {
    Log::open(disk.attach().0, 2 * RESERVE_BYTES, 0)
}

#[test]
fn a_crash_while_the_reserve_is_made_longer_is_no_damage() {
    let large = usize::try_from(RESERVE_BYTES).expect("it is small") - 700;
    // Two pieces are written and synced, then the frame.
    let places = (0..6).flat_map(|operations| [(operations, 0), (operations, 5000)]);
    for (operations, kept) in places {
        let disk = MemDisk::new();
        let (log, _) = open_large(&disk).expect("opens");
        append(&log, 3);
        disk.cut_power_in(operations, kept);
        let bytes = frame(4, 4, &vec![9; large]);
        let done = log.append(&bytes, &[(4, 0)]);
        disk.crash();
        let (log, _) = open_large(&disk).expect("no damage");
        assert!(log.next_seq() == 4 || (done.is_ok() && log.next_seq() == 5));
        append(&log, 1);
        assert_eq!(log.segments()[0].file_bytes % RESERVE_BYTES, 0);
        assert!(open(&disk).is_ok(), "cut at {operations}");
    }
}

#[test]
fn a_group_may_end_anywhere_in_the_last_sector_of_its_file() {
    let reserve = usize::try_from(RESERVE_BYTES).expect("it is small");
    let head = frame(1, 1, b"").len();
    for left in [1, 2, 100, 511, 512, 513] {
        let disk = MemDisk::new();
        let (log, _) = open_large(&disk).expect("opens");
        let fits = frame(1, 1, &vec![9; reserve - 512 - left - head]);
        log.append(&fits, &[(1, 0)]).expect("appended");
        assert_eq!(end_of(&log) + left, reserve);
        assert_eq!(log.segments()[0].file_bytes, RESERVE_BYTES);
        disk.crash();
        let (log, torn) = open_large(&disk).expect("it is whole");
        assert_eq!((log.next_seq(), torn), (2, None), "{left}");
        append(&log, 1);
        let (log, torn) = open_large(&disk).expect("it has grown");
        assert_eq!((log.next_seq(), torn), (3, None), "{left}");
    }
}

#[test]
fn a_frame_never_reaches_the_end_of_its_file() {
    let disk = MemDisk::new();
    let (log, _) = open_large(&disk).expect("opens");
    let head = frame(1, 1, b"").len();
    let reserve = usize::try_from(RESERVE_BYTES).expect("it is small");
    let fits = frame(1, 1, &vec![9; reserve - 512 - head]);
    assert_eq!(fits.len() + 512, reserve);
    log.append(&fits, &[(1, 0)]).expect("appended");
    assert_eq!(log.segments()[0].file_bytes, 3 * RESERVE_BYTES);
    let media = disk.attach().0;
    media.truncate(&name_of(1), RESERVE_BYTES).expect("cut");
    assert!(
        open(&disk).is_err(),
        "cut behind the frame, at an even length"
    );
}

#[test]
fn a_sealed_segment_has_no_reserve_whenever_a_crash_comes() {
    for operations in 0..12 {
        let disk = MemDisk::new();
        let (log, _) = open(&disk).expect("opens");
        while end_of(&log) < 4096 {
            append(&log, 1);
        }
        let before = log.next_seq();
        disk.cut_power_in(operations, 100);
        let group = frame(before, before, &[7; 100]);
        let done = log.append(&group, &[(before, 0)]);
        disk.crash();
        let (log, _) = open(&disk).expect("opens again");
        assert!(log.next_seq() >= before + u64::from(done.is_ok()));
        append(&log, 1);
        let segments = log.segments();
        assert_eq!(segments.len(), 2, "cut at {operations}");
        assert_eq!(segments[0].bytes, segments[0].file_bytes);
        assert_eq!(
            disk.read(&segments[0].name).expect("there").len() as u64,
            segments[0].bytes
        );
        for segment in &segments {
            log.check(segment.first).expect("whole");
        }
    }
}

#[test]
fn frames_that_are_missing_at_the_end_of_a_sealed_segment_are_found() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    (0..60).for_each(|_| append(&log, 1));
    let media = disk.attach().0;
    let one = frame(1, 1, &[7; 100]).len() as u64;
    let sealed = log.segments()[0].bytes;
    media.truncate(&name_of(1), sealed - one).expect("cut");
    let (log, _) = open(&disk).expect("the end is whole");
    let last = log.segments()[1].first - 1;
    let found = log.check(1);
    assert!(
        matches!(found, Err(LogError::Missing { from, to }) if from == last && to == last),
        "{found:?}"
    );
}

#[test]
fn damage_before_an_acknowledged_group_is_an_error_that_names_the_place() {
    let disk = MemDisk::new();
    let (start, end) = two_groups(&disk, 12);
    let (log, _) = open(&disk).expect("opens");
    append(&log, 1);
    assert_eq!(start, 1024);
    assert!(end > 2048, "the group spans sectors");
    zero(&disk, 1024, 1536);
    let why = open(&disk).expect_err("refused").to_string();
    assert!(why.contains(&name_of(1)) && why.contains("offset"), "{why}");
}

#[test]
fn what_the_rows_have_is_never_cut() {
    let disk = MemDisk::new();
    two_groups(&disk, 20);
    zero(&disk, 1024, 1536);
    assert!(matches!(
        Log::open(disk.attach().0, 4096, 21),
        Err(LogError::Damaged { .. })
    ));
    assert!(open(&disk).expect("rows had nothing of it").1.is_some());
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_reading_and_by_checking() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    (0..60).for_each(|_| append(&log, 1));
    assert!(disk.flip(&name_of(1), 600));
    let (log, _) = open(&disk).expect("the end is whole");
    assert!(log.frames(1, 0, 10_000).is_err());
    assert!(matches!(
        log.check(1),
        Err(LogError::Damaged { offset: 512, .. })
    ));
    let firsts: Vec<u64> = log.segments().iter().map(|segment| segment.first).collect();
    assert_eq!(log.check(firsts[1]).expect("whole"), firsts[2] - firsts[1]);
}

#[test]
fn a_head_that_rots_while_the_log_is_open_is_found_by_checking() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk).expect("opens");
    append(&log, 1);
    for offset in 0..32 {
        assert!(disk.flip(&name_of(1), offset));
        let found = log.check(1);
        assert!(
            matches!(found, Err(LogError::Damaged { offset: 0, .. })),
            "byte {offset}: {found:?}"
        );
        assert!(disk.flip(&name_of(1), offset));
    }
    assert_eq!(log.check(1).expect("whole again"), 1);
}
