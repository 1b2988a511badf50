//! Compaction: sealed segments lose what nobody needs any more.
//!
//! What goes: bodies that no message names, row writes older than the second-newest verified backup (with
//! fewer than two backups none), events past retention or of an erased tenant. What stays keeps its frame's
//! sequence number, so ids and references hold. A segment is written anew beside the old one, synced, and
//! renamed over it: after a crash it is the old one or the new one. It is read and written in pieces, so
//! that commits do not wait and no segment is held in memory.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use inboxgrove_model::{PolicyTime, message::Message};

use crate::{
    ReadError, Record, RowError, Scope, Store, TableId,
    backup::BackupList,
    frame::{Frame, FrameWriter, Item},
    log::{
        LogError, READ_BYTES_MAX, SegmentStats,
        segment::{SEGMENT_HEAD_LEN, SegmentHead},
    },
    row,
    shared::Shared,
};

/// Rows looked at at once.
const SCAN_ROWS: usize = 1000;
/// What [`Store::compact`] reads between two moments at which a backup or a rebuild that waits can come in.
const PIECE_BYTES: u64 = 256 << 20;
/// Bodies that are known to be named at once: some fifty megabytes. Segments with more wait for another walk
/// through the messages.
const BODIES_MAX: usize = 1_000_000;

/// What a compaction has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionReport {
    /// Segments looked at.
    pub segments: u64,
    /// Of these, written anew or removed.
    pub changed: u64,
    /// Bytes that the log has lost.
    pub freed_bytes: u64,
    /// Whether all sealed segments have been looked at, or there are more for the next time.
    pub all: bool,
}

/// What may go.
struct Rules {
    /// Row writes of frames below this.
    rows_from: u64,
    /// Events before this.
    events_from: PolicyTime,
    /// All bodies but these: sequence and index …
    bodies: BTreeSet<(u64, u32)>,
    /// … as far as the frames before this go. Behind it all stay.
    bodies_to: u64,
}

/// A sealed segment and the first sequence behind it.
type Sealed = (SegmentStats, u64);

/// What compacting left, of a frame or of several: the most of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// An empty frame, for its sequence's sake.
    Place,
    Something,
}

impl Store {
    /// Compacts the sealed segments of the log where that frees at least half of one. Commits go on
    /// meanwhile. Blocks for as long as it takes to read them.
    pub fn compact(&self, now: PolicyTime) -> Result<CompactionReport, ReadError> {
        self.inner.shared.compacted_to.store(0, Ordering::Relaxed);
        let mut sum = CompactionReport::default();
        while !sum.all {
            let step = self.compact_some(now)?;
            sum.segments += step.segments;
            sum.changed += step.changed;
            sum.freed_bytes += step.freed_bytes;
            sum.all = step.all;
        }
        Ok(sum)
    }

    /// Goes on where the last piece ended.
    fn compact_some(&self, now: PolicyTime) -> Result<CompactionReport, ReadError> {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        // Rows that only the log has must stay there; and of every frame that is sealed by now the rows
        // must be applied, or its bodies would be taken for ones that nobody names.
        let segments = self.inner.queue.alone(|committer| {
            committer.checkpoint();
            committer.shared.log.segments()
        });
        let from = shared.compacted_to.load(Ordering::Relaxed);
        let chosen = choose(&segments.unwrap_or_default(), from, PIECE_BYTES);
        let mut report = CompactionReport::default();
        let (Some((first, _)), Some((_, end))) = (chosen.first(), chosen.last()) else {
            shared.compacted_to.store(0, Ordering::Relaxed);
            report.all = true;
            return Ok(report);
        };
        let (bodies, bodies_to) = live_bodies(shared, first.first, *end)?;
        let rules = Rules {
            rows_from: rows_from(shared),
            events_from: now.before(shared.limits.events_kept),
            bodies,
            bodies_to,
        };
        for (segment, end) in &chosen {
            if *end > bodies_to && report.segments > 0 {
                return Ok(report);
            }
            report.segments += 1;
            let freed = compact_segment(shared, segment, *end, &rules)?;
            report.changed += u64::from(freed > 0);
            report.freed_bytes += freed;
            shared.compacted_to.store(*end, Ordering::Relaxed);
        }
        Ok(report)
    }
}

// === impl Rules ===

impl Rules {
    fn keep(&self, shared: &Shared, seq: u64, item: &Item<'_>) -> bool {
        match *item {
            Item::Put { .. } | Item::Remove { .. } => seq >= self.rows_from,
            Item::Event { at, tenant, .. } => {
                let readable = tenant.is_none_or(|tenant| shared.data_keys.of(tenant).is_some());
                at >= self.events_from && readable
            }
            Item::Body { index, .. } => {
                seq >= self.bodies_to || self.bodies.contains(&(seq, index))
            }
            Item::Unknown { .. } => true,
        }
    }

    /// Writes what stays of a frame at the end of `out`. The last one of a segment always stays: where it is missing, the
    /// segment was cut.
    fn write(
        &self,
        shared: &Shared,
        frame: &Frame,
        last: bool,
        out: &mut Vec<u8>,
    ) -> Result<Left, LogError> {
        let start = out.len();
        let mut writer = FrameWriter::new(out, frame.head.seq, frame.head.group);
        for item in frame.items()? {
            if self.keep(shared, frame.head.seq, &item) {
                writer.item(&item);
            }
        }
        // Where row writes are still needed the sequence must have no gap.
        let empty = writer.is_empty() && frame.head.seq < self.rows_from;
        writer.finish();
        if !empty {
            return Ok(Left::Something);
        }
        if last {
            return Ok(Left::Place);
        }
        out.truncate(start);
        Ok(Left::Nothing)
    }
}

/// Sealed segments from a sequence on, at least one, of about so many bytes.
fn choose(segments: &[SegmentStats], from: u64, bytes_max: u64) -> Vec<Sealed> {
    let mut bytes = 0;
    let pairs = segments.iter().zip(segments.iter().skip(1));
    let sealed = pairs.filter(|(segment, _)| segment.sealed && segment.first >= from);
    let chosen = sealed.take_while(|(segment, _)| {
        let room = bytes < bytes_max;
        bytes += segment.bytes;
        room
    });
    chosen
        .map(|(segment, behind)| (segment.clone(), behind.first))
        .collect()
}

/// The first frame whose row writes must stay.
fn rows_from(shared: &Shared) -> u64 {
    let backups = BackupList::read(shared.media.as_ref()).newest_first();
    backups.get(1).map_or(0, |backup| backup.start + 1)
}

/// The bodies between two sequences that messages name, and the sequence up to which they are complete. A
/// message whose tenant's key was erased names none.
fn live_bodies(
    shared: &Shared,
    first: u64,
    end: u64,
) -> Result<(BTreeSet<(u64, u32)>, u64), ReadError> {
    let (mut from, to) = Scope::All.range(TableId::Message);
    let (mut bodies, mut complete_to) = (BTreeSet::new(), end);
    let mut pace = shared.pace();
    loop {
        let rows = shared.engine.scan(&from, to.as_deref(), SCAN_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return Ok((bodies, complete_to));
        };
        from = [last.as_slice(), &[0]].concat();
        for (key, value) in &rows {
            let body = match row::unframe(TableId::Message, key, value, &shared.data_keys) {
                Ok(row) => {
                    let message = Message::from_row(&key[1..], &row);
                    message.map_err(|why| shared.unreadable(key, why))?.body
                }
                Err(RowError::Sealed(_)) => continue,
                Err(why) => return Err(shared.unreadable(key, why)),
            };
            if body.seq < first || body.seq >= complete_to {
                continue;
            }
            bodies.insert((body.seq, body.index));
            if bodies.len() > BODIES_MAX
                && let Some((seq, _)) = bodies.pop_last()
            {
                complete_to = seq;
                bodies.retain(|(of, _)| *of < seq);
            }
        }
        pace.rest();
    }
}

/// Compacts one segment if it is worth it; the bytes that are free now.
fn compact_segment(
    shared: &Shared,
    segment: &SegmentStats,
    end: u64,
    rules: &Rules,
) -> Result<u64, LogError> {
    let first = segment.first;
    let (mut kept, mut empty) = (SEGMENT_HEAD_LEN, true);
    let worth = each_piece(shared, segment, end, rules, |bytes, left| {
        kept += bytes.len() as u64;
        empty &= left != Left::Something;
        Ok(kept <= segment.bytes / 2)
    })?;
    if !worth {
        return Ok(0);
    }
    let oldest = shared.log.segments().first().map(|oldest| oldest.first) == Some(first);
    // After a failed write or sync nobody knows what the disk holds.
    let fatal = |why: &LogError| shared.fail(why);
    // An empty one between others stays: it says from where on there are rows.
    if empty && oldest {
        shared.log.remove(first).inspect_err(fatal)?;
        return Ok(segment.bytes);
    }
    let head = SegmentHead {
        first,
        compacted: true,
        rows_from: segment.head.rows_from.max(rules.rows_from),
    };
    shared
        .log
        .stage(first, Some(head), &[])
        .inspect_err(fatal)?;
    each_piece(shared, segment, end, rules, |bytes, _| {
        shared.log.stage(first, None, bytes).inspect_err(fatal)?;
        Ok(true)
    })?;
    shared.log.replace(first, head, kept).inspect_err(fatal)?;
    Ok(segment.bytes - kept)
}

/// Reads a segment in pieces and hands on what stays of each, until `visit` says that it is enough; whether
/// it came to the end.
fn each_piece(
    shared: &Shared,
    segment: &SegmentStats,
    end: u64,
    rules: &Rules,
    mut visit: impl FnMut(&[u8], Left) -> Result<bool, LogError>,
) -> Result<bool, LogError> {
    let mut pace = shared.pace();
    let mut next = segment.first;
    let mut bytes = Vec::new();
    while next < end {
        let (frames, after) = shared.log.frames(next, 0, READ_BYTES_MAX)?;
        bytes.clear();
        let mut most = Left::Nothing;
        for frame in frames.iter().filter(|frame| frame.head.seq < end) {
            let last = frame.head.seq + 1 == end;
            most = most.max(rules.write(shared, frame, last, &mut bytes)?);
        }
        if !visit(&bytes, most)? {
            return Ok(false);
        }
        next = after;
        pace.rest();
    }
    Ok(true)
}
