//! Formats: which versions of rows a store's daemons write. A new daemon reads every version and writes
//! what the one before reads, until an operator migrates up; down again is the way back.
//!
//! The format is a row of the table `meta`, written through the log like every row. It is never lower than that of
//! any row: up it is written before the first row, down after the last. So wherever a migration ends early, a daemon
//! that could not read all rows refuses the store, and the same migration may be asked for again.

use std::sync::{Arc, atomic::Ordering};

use inboxgrove_model::ports::Rng;

use crate::{
    CommitError, EngineError, OpenError, Options, ReadError, RewriteError, Store, TableId,
    committer::Committer,
    engine::{Engine, RawRow},
    frame::{FrameWriter, Item},
    log::Log,
    row,
    store::damaged,
    tables,
};

/// The oldest format this daemon can write.
pub const FORMAT_OLDEST: u8 = 1;
/// The newest format this daemon can write.
pub const FORMAT_NEWEST: u8 = 1;

const FORMAT_KEY: &[u8] = b"\0format";
/// Rows looked at between two commits: at most 4 MB are written at once.
const STEP_ROWS: usize = 1000;
/// How often a long migration says how far it is.
const SAY_EVERY_ROWS: u64 = 100_000;

/// What a migration has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrateReport {
    /// The format before.
    pub from: u8,
    /// The format now.
    pub to: u8,
    /// Rows that were written anew.
    pub rewritten: u64,
}

/// Why a store was not migrated, or not to the end. The same migration may be asked for again, and so may the way back;
/// until one of them has been to its end, the store belongs to daemons of the newer of the two formats.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A row cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A row cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A row is damaged, and the rows could not be rebuilt.
    #[error("the rows are damaged, and could not be rebuilt")]
    Rebuild(#[from] RewriteError),
    /// There is no such format.
    #[error("format {wanted} is not between {FORMAT_OLDEST} and {newest}")]
    NoSuchFormat {
        /// The one that was asked for.
        wanted: u8,
        /// The newest that this daemon knows.
        newest: u8,
    },
}

/// Brings a store that is not open to the newest format.
pub fn migrate_up(options: Options, rng: Arc<dyn Rng>) -> Result<MigrateReport, MigrateError> {
    let newest = options.format_newest;
    Store::open(options, rng)?.0.migrate(newest)
}

/// Brings a store that is not open back to a format that older daemons read.
pub fn migrate_down(
    options: Options,
    rng: Arc<dyn Rng>,
    format: u8,
) -> Result<MigrateReport, MigrateError> {
    Store::open(options, rng)?.0.migrate(format)
}

impl Store {
    /// Rewrites every row as of a format, for whoever has the store open. Nobody else may commit meanwhile: what is
    /// handed over already is in rows of the old format. Where a row is damaged all rows are rebuilt first, from the newest
    /// backup and the log since.
    pub fn migrate(&self, format: u8) -> Result<MigrateReport, MigrateError> {
        let newest = self.inner.shared.limits.format_newest;
        if !(FORMAT_OLDEST..=newest).contains(&format) {
            return Err(MigrateError::NoSuchFormat {
                wanted: format,
                newest,
            });
        }
        let from = self.inner.shared.format();
        match self.migrate_rows(format) {
            Err(MigrateError::Read(why)) if is_healable(&why) => {
                self.rebuild_rows(Some(&why.to_string()))?;
                let report = self.migrate_rows(format)?;
                Ok(MigrateReport { from, ..report })
            }
            done => done,
        }
    }

    fn migrate_rows(&self, format: u8) -> Result<MigrateReport, MigrateError> {
        let gone = || CommitError::Failed {
            why: "the committer has ended".to_owned(),
        };
        let done = self
            .inner
            .queue
            .alone(move |committer| committer.migrate(format));
        done.unwrap_or_else(|| Err(gone().into()))
    }
}

impl Committer {
    fn migrate(&mut self, format: u8) -> Result<MigrateReport, MigrateError> {
        let from = self.shared.format();
        let up = format > from;
        if up {
            self.write_format(format)?;
        }
        let rewritten = self.rewrite_rows(format)?;
        if !up {
            self.write_format(format)?;
        }
        self.checkpoint();
        Ok(MigrateReport {
            from,
            to: format,
            rewritten,
        })
    }

    fn write_format(&mut self, format: u8) -> Result<(), CommitError> {
        let row = format_row(format, self.rng.as_ref());
        self.write_rows(&[row])?;
        self.shared.format.store(format, Ordering::Release);
        Ok(())
    }

    /// Every row as of a format; how many were written anew.
    fn rewrite_rows(&mut self, format: u8) -> Result<u64, MigrateError> {
        let shared = Arc::clone(&self.shared);
        let (mut rewritten, mut seen) = (0, 0);
        let mut next = vec![TableId::Tenant.byte()];
        loop {
            let rows = shared.engine.scan(&next, None, STEP_ROWS);
            let rows = rows.map_err(ReadError::from)?;
            let Some((last, _)) = rows.last() else { break };
            next = [last.as_slice(), &[0]].concat();
            let mut changed = Vec::new();
            for (key, value) in &rows {
                changed.extend(self.rewrite_row(key, value, format)?);
            }
            rewritten += changed.len() as u64;
            if !changed.is_empty() {
                self.refuse_if_disk_low(false)?;
                self.write_rows(&changed)?;
            }
            self.checkpoint_if_due();
            let before = seen / SAY_EVERY_ROWS;
            seen += rows.len() as u64;
            if seen / SAY_EVERY_ROWS > before {
                tracing::info!(format, rows = seen, rewritten, "migrating");
            }
        }
        Ok(rewritten)
    }

    /// The row in its new bytes, if they differ.
    fn rewrite_row(
        &self,
        key: &[u8],
        value: &[u8],
        format: u8,
    ) -> Result<Option<RawRow>, ReadError> {
        let keys = &self.shared.data_keys;
        let (Some(table), short) = (TableId::from_byte(key[0]), &key[1..]) else {
            return Ok(None);
        };
        let (tenant, old) =
            row::unframe_whose(table, key, value, keys).map_err(|why| damaged(key, why))?;
        let new = tables::recode(table, short, &old, format).map_err(|why| damaged(key, why))?;
        if new == *old {
            return Ok(None);
        }
        let sealing = tenant.and_then(|tenant| keys.of(tenant));
        let value = row::frame(table, key, &new, sealing.as_ref(), self.rng.as_ref());
        Ok(Some((key.to_vec(), value)))
    }

    /// Writes rows as one frame.
    fn write_rows(&mut self, rows: &[RawRow]) -> Result<(), CommitError> {
        let written = append_rows(&self.shared.log, self.shared.engine.as_ref(), rows);
        self.count_unflushed(
            rows.iter()
                .map(|(key, value)| key.len() + value.len())
                .sum(),
        );
        written.map_err(|why| {
            self.shared.fail(&why);
            CommitError::Failed {
                why: why.to_string(),
            }
        })
    }
}

fn is_healable(why: &ReadError) -> bool {
    matches!(why, ReadError::Damaged { source, .. } if source.may_heal())
}

/// The format of a store, known or not; `None` in one that is new.
pub(crate) fn stored_format(engine: &dyn Engine) -> Result<Option<u8>, OpenError> {
    let Some(value) = engine.get(FORMAT_KEY)? else {
        return Ok(None);
    };
    let Ok((_, [found])) = row::check(TableId::Meta, &value) else {
        let why = "its row is damaged";
        return Err(EngineError::new("read the store's format", why).into());
    };
    Ok(Some(*found))
}

/// The format to write in: that of the store, which must be known, or the newest in a new one.
pub(crate) fn settle_format(
    log: &Log,
    engine: &dyn Engine,
    newest: u8,
    rng: &dyn Rng,
) -> Result<u8, OpenError> {
    match stored_format(engine)? {
        Some(found) if found > newest => Err(OpenError::Format { found, newest }),
        Some(found) => Ok(found),
        None => {
            append_rows(log, engine, &[format_row(newest, rng)])?;
            Ok(newest)
        }
    }
}

fn format_row(format: u8, rng: &dyn Rng) -> RawRow {
    let value = row::frame(TableId::Meta, FORMAT_KEY, &[format], None, rng);
    (FORMAT_KEY.to_vec(), value)
}

fn append_rows(log: &Log, engine: &dyn Engine, rows: &[RawRow]) -> Result<(), OpenError> {
    let seq = log.next_seq();
    let mut bytes = Vec::new();
    let mut frame = FrameWriter::new(&mut bytes, seq, seq);
    for (key, value) in rows {
        frame.item(&Item::Put { key, value });
    }
    frame.finish();
    log.append(&bytes, &[(seq, 0)])?;
    let writes = rows.iter().cloned().map(|(key, value)| (key, Some(value)));
    engine.apply(&writes.collect::<Vec<_>>(), seq)?;
    Ok(())
}
