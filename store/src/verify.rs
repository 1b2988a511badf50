//! Verifying: every frame of the log, every row, and the newest backup with the log since against the rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use crate::{
    BackupError, ReadError, Store, TableId,
    backup::{self, BackupEntry, BackupList, is_row},
    engine::Write,
    log::READ_BYTES_MAX,
    open::row_write,
    row,
    shared::Shared,
    store::damaged,
    table::{RowError, show_key},
    tables,
};

/// Rows looked at at once.
const SCAN_ROWS: usize = 1000;
/// Problems that are named; the rest is only counted.
const PROBLEMS_MAX: usize = 100;

/// What verifying has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Frames whose checksum is right.
    pub frames: u64,
    /// Rows that can be read.
    pub rows: u64,
    /// Rows of tenants whose key was erased.
    pub erased_rows: u64,
    /// The backup that was compared.
    pub backup: Option<PathBuf>,
    /// Rows that are as the backup and the log since say.
    pub compared_rows: u64,
    /// What is wrong, at most a hundred sentences.
    pub problems: Vec<String>,
    /// How many things are wrong.
    pub problems_count: u64,
}

/// Checksums of values by their keys: what the rows should be.
type Expected = BTreeMap<Vec<u8>, u32>;

impl Store {
    /// Reads everything and compares it. Commits go on meanwhile. Blocks for as long as it takes, and holds a
    /// few dozen bytes for each row.
    pub fn verify(&self) -> VerifyReport {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        let mut report = VerifyReport::default();
        if let Err(why) = shared.engine.check() {
            report.problem(&why);
        }
        for segment in shared.log.segments() {
            match shared.log.check(segment.first) {
                Ok(frames) => report.frames += frames,
                Err(why) => report.problem(&why),
            }
        }
        if let Err(why) = check_rows(shared, &mut report) {
            report.problem(&why);
        }
        let newest = BackupList::read(shared.media.as_ref()).newest_first();
        if let Some(backup) = newest.first() {
            if let Err(why) = self.compare(backup, &mut report) {
                report.problem(&why);
            }
            report.backup = Some(backup.path.clone());
        }
        report
    }

    /// Compares the rows with a backup and the log since.
    fn compare(&self, entry: &BackupEntry, report: &mut VerifyReport) -> Result<(), BackupError> {
        let shared = &self.inner.shared;
        let log_failed = |source| BackupError::Log {
            path: entry.path.clone(),
            source,
        };
        let manifest = backup::verify(&entry.path)?;
        let mut expected = Expected::new();
        backup::rows_of(&entry.path, |rows| {
            let rows = rows.into_iter();
            expected.extend(rows.map(|(key, value)| (key, crc32c::crc32c(&value))));
            Ok(())
        })?;
        let settled = self
            .inner
            .queue
            .alone(|committer| committer.shared.log.next_seq());
        let settled = settled.ok_or(BackupError::Ended)?;
        let replayed = each_write(shared, manifest.start + 1, settled, |(key, value)| {
            match value {
                Some(value) => expected.insert(key, crc32c::crc32c(&value)),
                None => expected.remove(&key),
            };
        });
        replayed.map_err(log_failed)?;
        let (same, differing) = differences(shared, &expected)?;
        report.compared_rows = same;
        // What was committed while the rows were scanned may differ, and is no problem.
        let mut newer = BTreeSet::new();
        let end = shared.log.next_seq();
        let read = each_write(shared, settled, end, |(key, _)| {
            newer.insert(key);
        });
        read.map_err(log_failed)?;
        for key in differing.difference(&newer) {
            let table = key.first().and_then(|byte| TableId::from_byte(*byte));
            let table = table.map_or("unknown", TableId::name);
            let key = show_key(key.get(1..).unwrap_or_default());
            report.problem(&format!(
                "{table}/{key} is not as the backup and the log since say"
            ));
        }
        Ok(())
    }
}

// === impl VerifyReport ===

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems_count == 0
    }

    fn problem(&mut self, what: &dyn fmt::Display) {
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what.to_string());
        }
    }
}

/// Reads every row as its table's record.
fn check_rows(shared: &Shared, report: &mut VerifyReport) -> Result<(), ReadError> {
    let mut next = Vec::new();
    loop {
        let rows = shared.engine.scan(&next, None, SCAN_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in rows.iter().filter(|(key, _)| is_row(key)) {
            match check_row(shared, key, value) {
                Ok(()) => report.rows += 1,
                Err(RowError::Sealed(_)) => report.erased_rows += 1,
                Err(why) => report.problem(&damaged(key, why)),
            }
        }
    }
}

fn check_row(shared: &Shared, key: &[u8], value: &[u8]) -> Result<(), RowError> {
    let table = key.first().and_then(|byte| TableId::from_byte(*byte));
    let table = table.ok_or_else(|| RowError::damaged("there is no such table"))?;
    let row = row::unframe(table, key, value, &shared.data_keys)?;
    tables::recode(table, &key[1..], &row, shared.format()).map(|_row| ())
}

fn each_write(
    shared: &Shared,
    from: u64,
    end: u64,
    mut visit: impl FnMut(Write),
) -> Result<(), crate::LogError> {
    let mut next = from;
    while next < end {
        let (frames, after) = shared.log.frames(next, 0, READ_BYTES_MAX)?;
        for frame in frames.iter().filter(|frame| frame.head.seq < end) {
            frame
                .items()?
                .iter()
                .filter_map(row_write)
                .for_each(&mut visit);
        }
        next = after;
    }
    Ok(())
}

/// How many rows are as expected, and the keys of those that are not, or are missing or too many.
fn differences(
    shared: &Shared,
    expected: &Expected,
) -> Result<(u64, BTreeSet<Vec<u8>>), BackupError> {
    let mut differing: BTreeSet<Vec<u8>> = expected.keys().cloned().collect();
    let (mut next, mut same) = (Vec::new(), 0);
    loop {
        let rows = shared.engine.scan(&next, None, SCAN_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return Ok((same, differing));
        };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in rows.into_iter().filter(|(key, _)| is_row(key)) {
            if expected.get(&key) == Some(&crc32c::crc32c(&value)) {
                differing.remove(&key);
                same += 1;
            } else {
                differing.insert(key);
            }
        }
    }
}
