//! Compaction: sealed segments lose what nobody needs any more.
//!
//! What goes: bodies that no message names, row writes older than the second-newest verified backup (with
//! fewer than two backups none), events past retention or of an erased tenant. What stays keeps its frame's
//! sequence number, so ids and references hold. A segment is written anew beside the old one, synced, and
//! renamed over it: after a crash it is the old one or the new one.

use std::collections::BTreeSet;

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
    store::damaged,
};

/// Rows looked at at once.
const SCAN_ROWS: usize = 1000;

/// What a compaction has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionReport {
    /// Segments looked at.
    pub segments: u64,
    /// Of these, written anew or removed.
    pub changed: u64,
    /// Bytes that the log has lost.
    pub freed_bytes: u64,
}

/// What may go.
struct Rules {
    /// Row writes of frames below this.
    rows_from: u64,
    /// Events before this.
    events_from: PolicyTime,
    /// All bodies but these: sequence and index.
    bodies: BTreeSet<(u64, u32)>,
}

impl Store {
    /// Compacts the sealed segments of the log where that frees at least half of one. Commits go on
    /// meanwhile. Blocks for as long as it takes to read them.
    pub fn compact(&self, now: PolicyTime) -> Result<CompactionReport, ReadError> {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        // Rows that only the log has must stay there.
        self.checkpoint();
        let mut segments = shared.log.segments();
        segments.retain(|segment| segment.sealed);
        let rules = Rules {
            rows_from: rows_from(shared),
            events_from: now.before(shared.limits.events_kept),
            bodies: live_bodies(shared)?,
        };
        let mut report = CompactionReport::default();
        for segment in segments {
            report.segments += 1;
            let freed = compact_segment(shared, &segment, &rules)?;
            report.changed += u64::from(freed > 0);
            report.freed_bytes += freed;
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
            Item::Body { index, .. } => self.bodies.contains(&(seq, index)),
            Item::Unknown { .. } => true,
        }
    }

    /// Writes what stays of a frame at the end of `out`.
    fn write(&self, shared: &Shared, frame: &Frame, out: &mut Vec<u8>) -> Result<(), LogError> {
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
        if empty {
            out.truncate(start);
        }
        Ok(())
    }
}

/// The first frame whose row writes must stay.
fn rows_from(shared: &Shared) -> u64 {
    let backups = BackupList::read(shared.media.as_ref()).newest_first();
    backups.get(1).map_or(0, |backup| backup.start + 1)
}

/// The bodies that messages name. A message whose tenant's key was erased names none.
fn live_bodies(shared: &Shared) -> Result<BTreeSet<(u64, u32)>, ReadError> {
    let (mut from, to) = Scope::All.range(TableId::Message);
    let mut bodies = BTreeSet::new();
    loop {
        let rows = shared.engine.scan(&from, to.as_deref(), SCAN_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return Ok(bodies);
        };
        from = [last.as_slice(), &[0]].concat();
        for (key, value) in &rows {
            match row::unframe(TableId::Message, key, value, &shared.data_keys) {
                Ok(row) => {
                    let message = Message::from_row(&key[1..], &row);
                    let body = message.map_err(|why| damaged(key, why))?.body;
                    bodies.insert((body.seq, body.index));
                }
                Err(RowError::Sealed(_)) => {}
                Err(why) => return Err(damaged(key, why)),
            }
        }
    }
}

/// Compacts one segment if it is worth it; the bytes that are free now.
fn compact_segment(
    shared: &Shared,
    segment: &SegmentStats,
    rules: &Rules,
) -> Result<u64, LogError> {
    let head = SegmentHead {
        first: segment.first,
        compacted: true,
        rows_from: segment.head.rows_from.max(rules.rows_from),
    };
    let mut bytes = head.to_bytes();
    let segments = shared.log.segments();
    let behind = segments.iter().find(|other| other.first > segment.first);
    let end = behind.map_or(0, |behind| behind.first);
    let mut next = segment.first;
    while next < end {
        let (frames, after) = shared.log.frames(next, 0, READ_BYTES_MAX)?;
        for frame in frames.iter().filter(|frame| frame.head.seq < end) {
            rules.write(shared, frame, &mut bytes)?;
        }
        if bytes.len() as u64 > segment.bytes / 2 {
            return Ok(0);
        }
        next = after;
    }
    let oldest = segments
        .first()
        .is_some_and(|first| first.first == segment.first);
    let empty = bytes.len() as u64 == SEGMENT_HEAD_LEN;
    // An empty one between others stays as a head: it says from where on there are rows.
    let bytes = (!empty || !oldest).then_some(bytes.as_slice());
    let replaced = shared.log.replace(segment.first, head, bytes);
    // After a failed write or sync nobody knows what the disk holds.
    replaced.inspect_err(|why| shared.fail(why))?;
    Ok(segment.bytes - bytes.map_or(0, |bytes| bytes.len() as u64))
}
