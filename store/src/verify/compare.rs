//! Comparing the rows with what they should be: three sorted streams side by side.
//!
//! What a row should be is what the log since the backup wrote last, or else what the backup has. The keys
//! that the log wrote are held in memory, so many at a time: where there are more, the keys are walked
//! through in several parts, and the log is read once for each.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    iter::Peekable,
};

use inboxgrove_model::message::Message;

use super::{VerifyReport, bodies::Bodies, check_row};
use crate::{
    BackupError, LogError, Record, RowError, Store, TableId,
    backup::{BackupEntry, Manifest, RowsOf, is_row},
    engine::RawRow,
    frame::Item,
    log::READ_BYTES_MAX,
    pace::Pace,
    shared::Shared,
    store::damaged,
    table::show_key,
};

/// Rows looked at at once.
const SCAN_ROWS: usize = 1000;
/// Keys written since the backup that are held at once: some thirty megabytes.
pub(super) const KEYS_MAX: usize = 200_000;
/// Differences that are held until the log is asked whether they were only just written.
const DIFFERING_MAX: usize = 50_000;

/// Why rows could not be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Engine(#[from] crate::EngineError),
    #[error("the committer has ended")]
    Ended,
}

/// What the log wrote last to some of the keys: the checksum of the value, or that it removed the row.
type Writes = BTreeMap<Vec<u8>, Option<u32>>;

/// A part of all keys, and what the log wrote there.
struct Part {
    writes: Writes,
    /// The first key behind it; `None` when it is the last.
    to: Option<Vec<u8>>,
}

/// The rows of the engine, in the order of their keys.
struct EngineRows<'a> {
    shared: &'a Shared,
    piece: VecDeque<RawRow>,
    next: Option<Vec<u8>>,
    pace: Pace,
}

/// What is compared, as far as it has come.
struct Comparison<'a> {
    shared: &'a Shared,
    report: &'a mut VerifyReport,
    bodies: Bodies<'a>,
    /// There is something to compare with.
    compares: bool,
    keys_max: usize,
    /// Commits from here on may have changed rows while they were compared.
    settled: u64,
    differing: BTreeSet<Vec<u8>>,
    live_bytes: u64,
}

impl Store {
    /// Reads every row, and compares it with the backup and the log since, or with the log alone. Holds
    /// about `keys_max` keys at once.
    pub(crate) fn check_rows(
        &self,
        backup: Option<&(BackupEntry, Manifest)>,
        keys_max: usize,
        report: &mut VerifyReport,
    ) -> Result<(), CompareError> {
        let shared = &self.inner.shared;
        let settled = self
            .inner
            .queue
            .alone(|committer| committer.shared.log.next_seq());
        let settled = settled.ok_or(CompareError::Ended)?;
        let mut backed_up = None;
        let mut since = None;
        if let Some((entry, manifest)) = backup {
            backed_up = Some(RowsOf::open(&entry.path)?);
            report.backup = Some(entry.path.clone());
            since = Some(manifest.start);
        } else if shared.log.rows_from() <= 1 {
            since = Some(0);
        }
        let comparison = Comparison {
            shared,
            report,
            bodies: Bodies::new(shared),
            compares: since.is_some(),
            keys_max,
            settled,
            differing: BTreeSet::new(),
            live_bytes: 0,
        };
        comparison.run(backed_up, since.unwrap_or(settled))
    }
}

// === impl Part ===

impl Part {
    /// What the frames behind `since`, up to `end`, wrote to keys from `from` on; as many as may be held.
    fn read(
        shared: &Shared,
        (since, end): (u64, u64),
        from: &[u8],
        keys_max: usize,
    ) -> Result<Self, LogError> {
        let mut part = Self {
            writes: Writes::new(),
            to: None,
        };
        each_write(shared, since + 1, end, |key, value| {
            let outside = part.to.as_ref().is_some_and(|to| key >= to.as_slice());
            if outside || key < from || !is_row(key) {
                return;
            }
            let written = value.map(crc32c::crc32c);
            if let Some(before) = part.writes.get_mut(key) {
                *before = written;
                return;
            }
            part.writes.insert(key.to_vec(), written);
            if part.writes.len() > keys_max
                && let Some((last, _)) = part.writes.pop_last()
            {
                part.to = Some(last);
            }
        })?;
        Ok(part)
    }
}

// === impl EngineRows ===

impl EngineRows<'_> {
    fn peek(&mut self) -> Result<Option<&RawRow>, crate::EngineError> {
        while self.piece.is_empty() {
            let Some(next) = self.next.take() else { break };
            let rows = self.shared.engine.scan(&next, None, SCAN_ROWS)?;
            if let Some((last, _)) = rows.last() {
                self.next = Some([last.as_slice(), &[0]].concat());
            }
            self.piece
                .extend(rows.into_iter().filter(|(key, _)| is_row(key)));
            self.pace.rest();
        }
        Ok(self.piece.front())
    }
}

// === impl Comparison ===

impl Comparison<'_> {
    fn run(mut self, backed_up: Option<RowsOf>, since: u64) -> Result<(), CompareError> {
        let mut rows = EngineRows {
            shared: self.shared,
            piece: VecDeque::new(),
            next: Some(Vec::new()),
            pace: self.shared.pace(),
        };
        let mut backed_up = backed_up;
        let mut held = next_of(&mut backed_up)?;
        let mut from = Vec::new();
        loop {
            let part = self.part(since, &from);
            let mut writes = part.writes.into_iter().peekable();
            while let Some(key) = least(
                rows.peek()?.map(|(key, _)| key),
                held.as_ref().map(|(key, _)| key),
                &mut writes,
                part.to.as_deref(),
            ) {
                let mut should = None;
                if let Some((_, value)) = held.take_if(|(of, _)| *of == key) {
                    should = Some(crc32c::crc32c(&value));
                    held = next_of(&mut backed_up)?;
                }
                if let Some((_, written)) = writes.next_if(|(of, _)| *of == key) {
                    should = written;
                }
                let is_next = rows.peek()?.is_some_and(|(of, _)| *of == key);
                let found = if is_next {
                    rows.piece.pop_front()
                } else {
                    None
                };
                let found = found.as_ref().map(|(_, value)| value.as_slice());
                self.row(key, found, should)?;
            }
            match part.to {
                Some(to) => from = to,
                None => break,
            }
        }
        self.settle_differences()?;
        self.bodies.check(self.report)?;
        let live = &self.shared.live_bytes;
        live.store(self.live_bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// What the log wrote to some of the keys. Where it cannot be read there is nothing to compare with any
    /// more; rows are still read.
    fn part(&mut self, since: u64, from: &[u8]) -> Part {
        if self.compares {
            match Part::read(self.shared, (since, self.settled), from, self.keys_max) {
                Ok(part) => return part,
                Err(why) => self.report.problem(&why),
            }
            self.compares = false;
        }
        Part {
            writes: Writes::new(),
            to: None,
        }
    }

    /// Looks at one row: what was found, and the checksum of what should be there.
    fn row(
        &mut self,
        key: Vec<u8>,
        found: Option<&[u8]>,
        should: Option<u32>,
    ) -> Result<(), CompareError> {
        if let Some(value) = found {
            self.live_bytes += (key.len() + value.len()) as u64;
            match check_row(self.shared, &key, value) {
                Ok(row) => {
                    self.report.rows += 1;
                    self.name_body(&key, &row)?;
                }
                Err(RowError::Sealed(_)) => self.report.erased_rows += 1,
                Err(why) => {
                    self.report.damaged_row(&damaged(&key, why));
                    return Ok(());
                }
            }
        }
        if !self.compares {
            return Ok(());
        }
        if found.map(crc32c::crc32c) == should {
            self.report.compared_rows += u64::from(found.is_some());
            return Ok(());
        }
        self.differing.insert(key);
        if self.differing.len() >= DIFFERING_MAX {
            self.settle_differences()?;
        }
        Ok(())
    }

    /// The body of a message has to be there.
    fn name_body(&mut self, key: &[u8], row: &[u8]) -> Result<(), CompareError> {
        if key.first() != Some(&TableId::Message.byte()) {
            return Ok(());
        }
        match Message::from_row(&key[1..], row) {
            Ok(message) => self.bodies.expect(&message, self.report)?,
            Err(why) => self.report.damaged_row(&damaged(key, why)),
        }
        Ok(())
    }

    /// Rows that were written while they were compared may differ. The others are damaged.
    fn settle_differences(&mut self) -> Result<(), CompareError> {
        if self.differing.is_empty() {
            return Ok(());
        }
        let mut differing = std::mem::take(&mut self.differing);
        let end = self.shared.log.next_seq();
        each_write(self.shared, self.settled, end, |key, _| {
            differing.remove(key);
        })?;
        let source = match &self.report.backup {
            Some(_) => "the backup and the log since say",
            None => "the log says",
        };
        for key in differing {
            let table = key.first().and_then(|byte| TableId::from_byte(*byte));
            let table = table.map_or("unknown", TableId::name);
            let key = show_key(key.get(1..).unwrap_or_default());
            self.report
                .damaged_row(&format!("{table}/{key} is not as {source}"));
        }
        Ok(())
    }
}

fn next_of(backed_up: &mut Option<RowsOf>) -> Result<Option<RawRow>, BackupError> {
    backed_up.as_mut().map_or(Ok(None), RowsOf::next)
}

/// The least key of three streams, if it is before `to`.
fn least(
    row: Option<&Vec<u8>>,
    backed_up: Option<&Vec<u8>>,
    writes: &mut Peekable<impl Iterator<Item = (Vec<u8>, Option<u32>)>>,
    to: Option<&[u8]>,
) -> Option<Vec<u8>> {
    let written = writes.peek().map(|(key, _)| key);
    let least = [row, backed_up, written].into_iter().flatten().min()?;
    let inside = to.is_none_or(|to| least.as_slice() < to);
    inside.then(|| least.clone())
}

/// Hands on the writes of frames, each its key and the value, or that it removed the row.
fn each_write(
    shared: &Shared,
    from: u64,
    end: u64,
    mut visit: impl FnMut(&[u8], Option<&[u8]>),
) -> Result<(), LogError> {
    let mut pace = shared.pace();
    let mut next = from;
    while next < end {
        let (frames, after) = shared
            .log
            .frames(next, crate::frame::HAS_ROWS, READ_BYTES_MAX)?;
        for frame in frames.iter().filter(|frame| frame.head.seq < end) {
            for (key, value) in frame.items()?.iter().filter_map(Item::row_write) {
                visit(key, value);
            }
        }
        next = after;
        pace.rest();
    }
    Ok(())
}
