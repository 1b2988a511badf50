//! Opening the log: finding its segments and its end, and cutting a torn tail.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Log, LogError, Segment, State, first_of, make_segment, name_of, note,
    segment::{SEGMENT_HEAD_LEN, SegmentHead, SegmentReader},
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

/// Where the frames of the last segment end.
struct End {
    next_seq: u64,
    offset: u64,
    index: Vec<(u64, u64)>,
    damage: Option<LogError>,
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
        let mut segments = find_segments(media.as_ref(), applied)?;
        let mut torn = None;
        let next_seq = if let Some(mut last) = segments.last_entry() {
            let (next_seq, cut) = settle_end(media.as_ref(), last.get_mut(), applied)?;
            torn = cut;
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

fn find_segments(media: &dyn Media, applied: u64) -> Result<BTreeMap<u64, Segment>, LogError> {
    let failed = |source| LogError::Io {
        segment: "*".to_owned(),
        what: "list",
        source,
    };
    let names = media.list().map_err(failed)?;
    let firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
    let last = firsts.last().copied();
    let mut segments = BTreeMap::new();
    for first in firsts {
        match read_segment(media, first) {
            Ok(segment) => {
                segments.insert(first, segment);
            }
            // A segment is given frames only after its head was synced, so this one never had any.
            Err(_) if Some(first) == last && first > applied && is_headless(media, first) => {
                let name = name_of(first);
                media.remove(&name).map_err(|source| LogError::Io {
                    segment: name,
                    what: "remove",
                    source,
                })?;
            }
            Err(why) => return Err(why),
        }
    }
    Ok(segments)
}

/// Whether a segment ends within its head.
fn is_headless(media: &dyn Media, first: u64) -> bool {
    media
        .size(&name_of(first))
        .is_ok_and(|size| size <= SEGMENT_HEAD_LEN)
}

fn read_segment(media: &dyn Media, first: u64) -> Result<Segment, LogError> {
    let name = name_of(first);
    let failed = |source| LogError::Io {
        segment: name_of(first),
        what: "read",
        source,
    };
    let damaged = |why| LogError::Damaged {
        segment: name_of(first),
        offset: 0,
        why,
    };
    let end = media.size(&name).map_err(failed)?;
    let mut head = [0; 32];
    let read = media.read_at(&name, 0, &mut head).map_err(failed)?;
    let head = SegmentHead::parse(&head[..read]).map_err(damaged)?;
    if head.first != first {
        return Err(damaged("its name is not the one it was made with"));
    }
    Ok(Segment {
        name,
        head,
        end,
        index: None,
    })
}

/// Finds the end of the last segment and cuts what is torn.
fn settle_end(
    media: &dyn Media,
    last: &mut Segment,
    applied: u64,
) -> Result<(u64, Option<TornTail>), LogError> {
    let found = find_end(media, last)?;
    last.index = Some(found.index);
    let Some(damage) = found.damage else {
        return Ok((found.next_seq, None));
    };
    if found.next_seq <= applied || later_group_follows(media, last, found.offset, found.next_seq)?
    {
        return Err(damage);
    }
    let torn = TornTail {
        segment: last.name.clone(),
        offset: found.offset,
        bytes: last.end - found.offset,
    };
    let cut = media.truncate(&last.name, found.offset);
    let cut = cut.and_then(|()| media.sync(&last.name));
    cut.map_err(|source| LogError::Io {
        segment: last.name.clone(),
        what: "cut its torn tail",
        source,
    })?;
    last.end = found.offset;
    Ok((found.next_seq, Some(torn)))
}

fn find_end(media: &dyn Media, last: &Segment) -> Result<End, LogError> {
    let mut reader = SegmentReader::new(media, &last.name, SEGMENT_HEAD_LEN, last.end);
    let mut end = End {
        next_seq: last.head.first,
        offset: SEGMENT_HEAD_LEN,
        index: Vec::new(),
        damage: None,
    };
    loop {
        end.offset = reader.offset();
        let frame = match reader.peek() {
            Ok(None) => return Ok(end),
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
            Err(why) => {
                end.damage = Some(why);
                return Ok(end);
            }
        }
    }
}

/// Whether a whole frame of a group that began after `lost` stands behind `from`: then what is damaged
/// had been synced and acknowledged.
fn later_group_follows(
    media: &dyn Media,
    last: &Segment,
    from: u64,
    lost: u64,
) -> Result<bool, LogError> {
    let len = usize::try_from(last.end - from).unwrap_or(usize::MAX);
    let mut tail = vec![0; len];
    let read = media.read_at(&last.name, from, &mut tail);
    let read = read.map_err(|source| LogError::Io {
        segment: last.name.clone(),
        what: "read its tail",
        source,
    })?;
    tail.truncate(read);
    let starts = (0..tail.len()).filter(|at| tail[*at..].starts_with(&MAGIC));
    for at in starts {
        if let Some(head) = whole_frame_at(&tail[at..])
            && head.group > lost
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn whole_frame_at(bytes: &[u8]) -> Option<Head> {
    let start = bytes.first_chunk::<HEAD_LEN>()?;
    let head = Head::parse(start).ok()?;
    let len = usize::try_from(head.frame_len()).ok()?;
    let payload = bytes.get(HEAD_LEN..len)?;
    head.matches(start, payload).then_some(head)
}
