//! Verifying: every frame of the log, every row and its body, every backup, the small files; and the rows
//! against a backup and the log since, or against the log alone where it reaches back to the beginning.
//!
//! Nothing of it holds all rows, or all keys, in memory: see `compare` and `bodies`.

use std::{fmt, path::PathBuf};

use crate::{
    RewriteError, RewriteReport, RowError, Store, TableId,
    backup::{self, BackupEntry, BackupList, Manifest},
    generations::POINTER,
    log::LogError,
    row,
    shared::Shared,
    tables,
};

mod bodies;
mod compare;

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
    /// Bodies that a message names, and that can be opened.
    pub bodies: u64,
    /// Backups that are whole.
    pub backups: u64,
    /// The backup that was compared.
    pub backup: Option<PathBuf>,
    /// Rows that are as the backup and the log since say, or the log alone when there is no backup.
    pub compared_rows: u64,
    /// Rows that cannot be read or are not as they should be: a rebuild heals them.
    pub damaged_rows: u64,
    /// The file of data keys or the one that names the rows in use is damaged: writing it again heals it.
    pub damaged_files: u64,
    /// What is wrong, at most a hundred sentences.
    pub problems: Vec<String>,
    /// How many things are wrong.
    pub problems_count: u64,
}

impl Store {
    /// Reads everything and compares it. Commits go on meanwhile. Blocks for as long as it takes.
    pub fn verify(&self) -> VerifyReport {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        let mut report = VerifyReport::default();
        if let Err(why) = shared.engine.check() {
            report.problem(&why);
        }
        self.check_files(&mut report);
        let mut pace = shared.pace();
        for segment in shared.log.segments() {
            match shared.log.check(segment.first) {
                Ok(frames) => report.frames += frames,
                Err(why) => report.problem(&why),
            }
            pace.rest();
        }
        let newest = check_backups(shared, &mut report);
        if let Err(why) = self.check_rows(newest.as_ref(), compare::KEYS_MAX, &mut report) {
            report.problem(&why);
        }
        report
    }

    /// Heals what a verification has found and can be healed: small files and the log's reserve are written again, rows
    /// are rebuilt. `None` when no row was damaged.
    pub fn heal(&self, found: &VerifyReport) -> Result<Option<RewriteReport>, RewriteError> {
        if found.damaged_files > 0 {
            let mended = self.inner.queue.alone(|committer| {
                let shared = &committer.shared;
                let mended = shared.rows.mend().map_err(|why| why.to_string());
                let mended = mended.and_then(|()| {
                    let keys = shared.data_keys.mend(committer.rng.as_ref());
                    keys.map_err(|why| why.to_string())
                });
                let mended = mended.and_then(|()| {
                    let reserve = shared.log.mend_reserve();
                    reserve.map_err(|why| why.to_string())
                });
                mended.map_err(|why| shared.fail(why))
            });
            if !matches!(mended, Some(Ok(()))) {
                return Err(RewriteError::Failed);
            }
        }
        if found.damaged_rows == 0 {
            return Ok(None);
        }
        let why = found
            .problems
            .first()
            .map_or("damaged rows", String::as_str);
        self.rebuild_rows(Some(why)).map(Some)
    }

    /// What is written whole, or again: small files, and the reserve of the log.
    fn check_files(&self, report: &mut VerifyReport) {
        let checked = self.inner.queue.alone(|committer| {
            let shared = &committer.shared;
            let keys = shared.data_keys.check().map_err(|why| why.to_string());
            let pointer = shared.rows.check();
            [keys, pointer.map_err(|why| format!("{POINTER}: {why}"))]
        });
        let reserve = self.check_reserve().map_err(|why| why.to_string());
        let checked = checked.into_iter().flatten().chain([reserve]);
        for why in checked.filter_map(Result::err) {
            report.damaged_files += 1;
            report.problem(&why);
        }
        if let Err(why) = BackupList::look(self.inner.shared.media.as_ref()) {
            report.problem(&why);
        }
    }

    /// Looks at the reserve of the log, a piece at a time.
    fn check_reserve(&self) -> Result<(), LogError> {
        let mut next = Some(0);
        while let Some(from) = next {
            let piece = self
                .inner
                .queue
                .alone(move |committer| committer.shared.log.check_reserve(from));
            // A store that has closed has nothing to check.
            next = piece.unwrap_or(Ok(None))?;
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
        let what = what.to_string();
        // Damage of the log is met again by whoever reads there.
        if self.problems.contains(&what) {
            return;
        }
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }

    fn damaged_row(&mut self, what: &dyn fmt::Display) {
        self.damaged_rows += 1;
        self.problem(what);
    }
}

/// Checks all backups that the store remembers; the newest that is whole. From now on nothing relies on
/// those that are not.
fn check_backups(shared: &Shared, report: &mut VerifyReport) -> Option<(BackupEntry, Manifest)> {
    let media = shared.media.as_ref();
    let mut newest = None;
    for entry in BackupList::read(media).newest_first() {
        // Sealed segments are links to those of the log, and were read with it.
        let is_known = |name: &str| media.is_linked(name, &entry.path.join(name));
        match backup::verify_unless(&entry.path, is_known) {
            Ok(manifest) => {
                report.backups += 1;
                newest.get_or_insert((entry, manifest));
            }
            Err(why) => {
                report.problem(&why);
                if let Err(why) = BackupList::mark_damaged(media, &entry.path) {
                    shared.fail(&why);
                }
            }
        }
        shared.pace().rest();
    }
    newest
}

/// Reads a row as its table's record; the row in clear.
fn check_row(shared: &Shared, key: &[u8], value: &[u8]) -> Result<Vec<u8>, RowError> {
    let table = key.first().and_then(|byte| TableId::from_byte(*byte));
    let table = table.ok_or_else(|| RowError::damaged("there is no such table"))?;
    let row = row::unframe(table, key, value, &shared.data_keys)?;
    tables::recode(table, &key[1..], &row, shared.format())?;
    Ok(row.to_vec())
}
