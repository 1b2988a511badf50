//! Opening the log: finding its segments and its end, and cutting a torn tail.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Log, LogError, RESERVE_BYTES, Segment, State, cut, first_of, make_segment, name_of, note,
    segment::{SECTOR, SEGMENT_HEAD_LEN, SegmentHead, SegmentReader},
    write_zeros,
};
use crate::{
    frame::{HEAD_LEN, Head, MAGIC},
    media::{Media, UNFINISHED},
};

/// What was cut from the end of the log: the remains of a group that nobody had been told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TornTail {
    pub(crate) segment: String,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Where the frames of a segment end.
struct End {
    next_seq: u64,
    offset: u64,
    index: Vec<(u64, u64)>,
    /// Why the frames end there, if bytes follow that are not zero.
    damage: Option<LogError>,
    /// What follows.
    tail: Vec<u8>,
}

impl Log {
    /// Opens the log, making it when there is none. `applied` is the position the rows have reached: a
    /// frame up to it was acknowledged and is never taken for a torn tail.
    pub(crate) fn open(
        media: Arc<dyn Media>,
        segment_bytes: u64,
        applied: u64,
    ) -> Result<(Self, Option<TornTail>), LogError> {
        remove_unfinished(media.as_ref())?;
        let mut segments = find_segments(media.as_ref())?;
        seal_last_but_one(media.as_ref(), &mut segments)?;
        let mut torn = None;
        let next_seq = if let Some(mut last) = segments.last_entry() {
            let (next_seq, cut) = settle_end(media.as_ref(), last.get_mut(), applied)?;
            torn = cut;
            make_durable(media.as_ref(), &last.get().name)?;
            next_seq
        } else {
            segments.insert(1, make_segment(media.as_ref(), 1)?);
            1
        };
        let state = State { segments, next_seq };
        let log = Self {
            media,
            segment_bytes,
            state: state.into(),
        };
        Ok((log, torn))
    }
}

/// What a killed process had written and not synced is read as if it were there: it has to be on the disk before the rows
/// get it and are flushed, or a power cut would leave rows that are ahead of the log.
fn make_durable(media: &dyn Media, name: &str) -> Result<(), LogError> {
    let synced = media.sync(name).and_then(|()| media.sync_names());
    synced.map_err(|source| LogError::Io {
        segment: name.to_owned(),
        what: "sync what was found in",
        source,
    })
}

/// Whether there is a log at all.
pub(crate) fn exists(media: &dyn Media) -> Result<bool, std::io::Error> {
    Ok(media.list()?.iter().any(|name| first_of(name).is_some()))
}

fn remove_unfinished(media: &dyn Media) -> Result<(), LogError> {
    let failed = |segment: &str, what| {
        let segment = segment.to_owned();
        move |source| LogError::Io {
            segment,
            what,
            source,
        }
    };
    for name in media.list().map_err(failed("*", "list"))? {
        if name.ends_with(UNFINISHED) {
            media.remove(&name).map_err(failed(&name, "remove"))?;
        }
    }
    Ok(())
}

fn find_segments(media: &dyn Media) -> Result<BTreeMap<u64, Segment>, LogError> {
    let failed = |source| LogError::Io {
        segment: "*".to_owned(),
        what: "list",
        source,
    };
    let names = media.list().map_err(failed)?;
    let firsts = names.iter().filter_map(|name| first_of(name));
    firsts
        .map(|first| Ok((first, read_segment(media, first)?)))
        .collect()
}

/// Takes the reserve off the segment before the last one, where a crash came between the making of the last and that. Damage
/// in it stays where it is, for whoever reads there.
fn seal_last_but_one(
    media: &dyn Media,
    segments: &mut BTreeMap<u64, Segment>,
) -> Result<(), LogError> {
    let mut backwards = segments.iter_mut().rev();
    let (Some((next, _)), Some((_, segment))) = (backwards.next(), backwards.next()) else {
        return Ok(());
    };
    if segment.end % RESERVE_BYTES != 0 {
        return Ok(());
    }
    let found = find_end(media, segment)?;
    if found.next_seq == *next && found.tail.iter().all(|byte| *byte == 0) {
        cut(media, &segment.name, found.offset)?;
        segment.end = found.offset;
        segment.file_end = found.offset;
    }
    Ok(())
}

fn read_segment(media: &dyn Media, first: u64) -> Result<Segment, LogError> {
    let name = name_of(first);
    let failed = |source| LogError::Io {
        segment: name_of(first),
        what: "read",
        source,
    };
    let end = media.size(&name).map_err(failed)?;
    Ok(Segment {
        head: read_head(media, first)?,
        name,
        end,
        file_end: end,
        index: None,
    })
}

/// The head of a segment, checked.
pub(super) fn read_head(media: &dyn Media, first: u64) -> Result<SegmentHead, LogError> {
    let segment = name_of(first);
    let mut head = [0; 32];
    let read = match media.read_at(&segment, 0, &mut head) {
        Ok(read) => read,
        Err(source) => {
            let what = "read the head of";
            return Err(LogError::Io {
                segment,
                what,
                source,
            });
        }
    };
    let why = match SegmentHead::parse(&head[..read]) {
        Ok(head) if head.first == first => return Ok(head),
        Ok(_) => "its name is not the one it was made with",
        Err(why) => why,
    };
    Err(LogError::Damaged {
        segment,
        offset: 0,
        why,
    })
}

/// Finds the end of the last segment and makes zeros of what is torn.
fn settle_end(
    media: &dyn Media,
    last: &mut Segment,
    applied: u64,
) -> Result<(u64, Option<TornTail>), LogError> {
    let found = find_end(media, last)?;
    last.index = Some(found.index);
    last.end = found.offset;
    if was_cut(last, &found.tail) {
        return Err(LogError::Damaged {
            segment: last.name.clone(),
            offset: last.file_end,
            why: "the file was cut: its reserve is missing",
        });
    }
    let Some(damage) = found.damage else {
        complete_reserve(media, last)?;
        return Ok((found.next_seq, None));
    };
    let acknowledged = found.next_seq <= applied
        || later_group_follows(&found.tail, found.next_seq)
        || reached_the_disk(found.offset, &found.tail);
    if acknowledged {
        return Err(damage);
    }
    let written = written_len(&found.tail);
    let torn = TornTail {
        segment: last.name.clone(),
        offset: found.offset,
        bytes: written as u64,
    };
    let zeroed = media.write_at(&last.name, found.offset, &vec![0; written]);
    let zeroed = zeroed.and_then(|()| media.sync(&last.name));
    zeroed.map_err(|source| LogError::Io {
        segment: last.name.clone(),
        what: "cut its torn tail",
        source,
    })?;
    complete_reserve(media, last)?;
    Ok((found.next_seq, Some(torn)))
}

/// Whether the file is shorter than it was when something was written to it. The reserve is made longer before frames
/// are written there, so a file that a crash left at an odd length has nothing but zeros behind the last even one, and no
/// frame reaches the end of a file.
fn was_cut(last: &Segment, tail: &[u8]) -> bool {
    let even = last.file_end - last.file_end % RESERVE_BYTES;
    let written_to = last.end + written_len(tail) as u64;
    let head = tail.first_chunk::<HEAD_LEN>();
    let head = head.and_then(|head| Head::parse(head).ok());
    let reaches = head.map_or(written_to, |head| {
        written_to.max(last.end + head.frame_len())
    });
    written_to > even || last.end > even || reaches >= last.file_end
}

/// Makes the file as long as it would have become.
fn complete_reserve(media: &dyn Media, last: &mut Segment) -> Result<(), LogError> {
    let whole = last.file_end.next_multiple_of(RESERVE_BYTES);
    if whole > last.file_end {
        write_zeros(media, &last.name, last.file_end, whole)?;
        last.file_end = whole;
    }
    Ok(())
}

fn find_end(media: &dyn Media, segment: &Segment) -> Result<End, LogError> {
    let mut reader = SegmentReader::new(media, &segment.name, SEGMENT_HEAD_LEN, segment.end);
    let mut end = End {
        next_seq: segment.head.first,
        offset: SEGMENT_HEAD_LEN,
        index: Vec::new(),
        damage: None,
        tail: Vec::new(),
    };
    let damage = loop {
        let behind_last = reader.offset();
        let next = reader.peek();
        // Where nothing follows, the zeros behind the last frame are not its own: they show that the file was not cut there.
        end.offset = match next {
            Ok(None) => behind_last,
            _ => reader.offset(),
        };
        let frame = match next {
            Ok(None) => break None,
            Ok(Some(head)) if head.seq == end.next_seq => reader.take(&head),
            Ok(Some(_)) => Err(reader.damaged("its sequence number is out of order")),
            Err(why) => Err(why),
        };
        match frame {
            Ok(frame) => {
                note(&mut end.index, frame.head.seq, end.offset);
                end.next_seq = frame.head.seq + 1;
            }
            Err(why @ LogError::Io { .. }) => return Err(why),
            Err(why) => break Some(why),
        }
    };
    end.tail = read_tail(media, segment, end.offset)?;
    end.damage = damage.filter(|_| written_len(&end.tail) > 0);
    Ok(end)
}

fn read_tail(media: &dyn Media, segment: &Segment, from: u64) -> Result<Vec<u8>, LogError> {
    let mut tail = vec![0; usize::try_from(segment.end - from).unwrap_or(usize::MAX)];
    let read = media.read_at(&segment.name, from, &mut tail);
    let read = read.map_err(|source| LogError::Io {
        segment: segment.name.clone(),
        what: "read its tail",
        source,
    })?;
    tail.truncate(read);
    Ok(tail)
}

/// How many bytes there are before nothing but zeros follows.
pub(super) fn written_len(tail: &[u8]) -> usize {
    const PIECE: usize = 4096;
    const ZEROS: [u8; PIECE] = [0; PIECE];
    // By pieces: a reserve is a megabyte of them.
    let mut end = tail.len();
    while end >= PIECE && tail[end - PIECE..end] == ZEROS {
        end -= PIECE;
    }
    let last = tail[..end].iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// Whether the frame that is damaged was written whole, as far as can be seen: what a power cut leaves out are whole sectors,
/// which are zeros then, as in the reserve; what a write that was cut short leaves out is the frame's end, which is never zero. Then its group was acknowledged, or might have been, and what is wrong with it
/// came later.
fn reached_the_disk(offset: u64, tail: &[u8]) -> bool {
    if !may_have_begun(offset, tail) {
        return true;
    }
    let Some(start) = tail.first_chunk::<HEAD_LEN>() else {
        return false;
    };
    let len = Head::parse(start).map(|head| head.frame_len());
    len.is_ok_and(|len| all_sectors_written(offset, tail, len))
        || lies_about_its_length(tail, *start)
}

/// Whether what stands in the first sector of a tail can be the beginning of a frame, be it cut short: its magic, or the
/// first bytes of that and zeros, or nothing at all. Zeros between two groups that have rotted are none of these.
fn may_have_begun(offset: u64, tail: &[u8]) -> bool {
    let left = usize::try_from(SECTOR - offset % SECTOR).expect("a sector is small");
    let first = &tail[..left.min(tail.len())];
    let written = written_len(first);
    first.starts_with(&MAGIC) || MAGIC.starts_with(&first[..written])
}

/// Whether a frame of this length has its end, and none of the sectors that it is in is as it was in the reserve.
fn all_sectors_written(offset: u64, tail: &[u8], len: u64) -> bool {
    let Some(frame) = usize::try_from(len).ok().and_then(|len| tail.get(..len)) else {
        return false;
    };
    if frame.last() == Some(&0) {
        return false;
    }
    let sector = usize::try_from(SECTOR).expect("a sector is small");
    // What of the first sector belongs to the frame.
    let first = usize::try_from(SECTOR - offset % SECTOR).expect("a sector is small");
    let (first, others) = frame.split_at(first.min(frame.len()));
    std::iter::once(first)
        .chain(others.chunks(sector))
        .all(|bytes| written_len(bytes) > 0)
}

/// Whether the frame is whole but for one bit of its length.
fn lies_about_its_length(tail: &[u8], start: [u8; HEAD_LEN]) -> bool {
    const LENGTH_AT: usize = 4;
    (0..u32::BITS as usize).any(|bit| {
        let mut start = start;
        start[LENGTH_AT + bit / 8] ^= 1 << (bit % 8);
        let head = Head::parse(&start).ok();
        let payload = head.and_then(|head| {
            let len = usize::try_from(head.frame_len()).ok()?;
            Some((head, tail.get(HEAD_LEN..len)?))
        });
        payload.is_some_and(|(head, payload)| head.matches(&start, payload))
    })
}

/// Whether a whole frame of a group that began after `lost` follows: then what is damaged had been synced and
/// acknowledged.
fn later_group_follows(tail: &[u8], lost: u64) -> bool {
    let tail = &tail[..written_len(tail)];
    let starts = (0..tail.len()).filter(|at| tail[*at..].starts_with(&MAGIC));
    starts
        .filter_map(|at| whole_frame_at(&tail[at..]))
        .any(|head| head.group > lost)
}

fn whole_frame_at(bytes: &[u8]) -> Option<Head> {
    let start = bytes.first_chunk::<HEAD_LEN>()?;
    let head = Head::parse(start).ok()?;
    let len = usize::try_from(head.frame_len()).ok()?;
    let payload = bytes.get(HEAD_LEN..len)?;
    head.matches(start, payload).then_some(head)
}
