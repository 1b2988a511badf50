//! Formats: which versions of rows a store's daemons write. A new daemon reads every version and writes
//! what the one before reads, until an operator migrates up; down again is the way back.
//!
//! The format is a row of the table `meta`, written through the log like every row.

use std::{path::Path, sync::Arc, sync::atomic::Ordering};

use inboxgrove_model::ports::Rng;

use crate::{
    CommitError, EngineError, Keys, OpenError, Options, ReadError, Store, TableId,
    committer::Committer,
    engine::{Engine, RawRow},
    frame::{FrameWriter, Item},
    log::Log,
    row,
    store::damaged,
    table::RowError,
    tables,
};

/// The oldest format this daemon can write.
pub const FORMAT_OLDEST: u8 = 1;
/// The newest format this daemon can write.
pub const FORMAT_NEWEST: u8 = 1;

const FORMAT_KEY: &[u8] = b"\0format";
/// Rows looked at between two commits.
const STEP_ROWS: usize = 1000;

/// Makes the bytes of a row as of a format: table, key, row in clear, format.
pub(crate) type Recode = fn(TableId, &[u8], &[u8], u8) -> Result<Vec<u8>, RowError>;

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

/// Why a store was not migrated. What was rewritten until then can be read by both formats' daemons.
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
    /// There is no such format.
    #[error("format {wanted} is not between {FORMAT_OLDEST} and {FORMAT_NEWEST}")]
    NoSuchFormat {
        /// The one that was asked for.
        wanted: u8,
    },
}

/// Brings a store that is not open to the newest format.
pub fn migrate_up(
    dir: &Path,
    keys: Keys,
    rng: Arc<dyn Rng>,
) -> Result<MigrateReport, MigrateError> {
    Store::open(Options::new(dir, keys), rng)?
        .0
        .migrate(FORMAT_NEWEST)
}

/// Brings a store that is not open back to a format that older daemons read.
pub fn migrate_down(
    dir: &Path,
    keys: Keys,
    rng: Arc<dyn Rng>,
    format: u8,
) -> Result<MigrateReport, MigrateError> {
    Store::open(Options::new(dir, keys), rng)?.0.migrate(format)
}

impl Store {
    /// Rewrites every row as of a format, for whoever has the store open. Nobody else may commit meanwhile.
    pub fn migrate(&self, format: u8) -> Result<MigrateReport, MigrateError> {
        if !(FORMAT_OLDEST..=FORMAT_NEWEST).contains(&format) {
            return Err(MigrateError::NoSuchFormat { wanted: format });
        }
        self.rewrite(format, tables::recode)
    }

    /// Rewrites every row that `recode` makes other bytes of.
    pub(crate) fn rewrite(
        &self,
        format: u8,
        recode: Recode,
    ) -> Result<MigrateReport, MigrateError> {
        let gone = || CommitError::Failed {
            why: "the committer has ended".to_owned(),
        };
        let done = self
            .inner
            .queue
            .alone(move |committer| committer.rewrite(format, recode));
        done.unwrap_or_else(|| Err(gone().into()))
    }
}

impl Committer {
    fn rewrite(&mut self, format: u8, recode: Recode) -> Result<MigrateReport, MigrateError> {
        let shared = Arc::clone(&self.shared);
        let from = shared.format();
        let mut rewritten = 0;
        let mut next = vec![TableId::Tenant.byte()];
        loop {
            let rows = shared.engine.scan(&next, None, STEP_ROWS);
            let rows = rows.map_err(ReadError::from)?;
            let Some((last, _)) = rows.last() else { break };
            next = [last.as_slice(), &[0]].concat();
            let mut changed = Vec::new();
            for (key, value) in &rows {
                changed.extend(self.rewrite_row(key, value, format, recode)?);
            }
            rewritten += changed.len() as u64;
            self.write_rows(&changed)?;
        }
        let row = format_row(format, self.rng.as_ref());
        self.write_rows(&[row])?;
        shared.format.store(format, Ordering::Release);
        self.checkpoint();
        Ok(MigrateReport {
            from,
            to: format,
            rewritten,
        })
    }

    /// The row in its new bytes, if they differ.
    fn rewrite_row(
        &self,
        key: &[u8],
        value: &[u8],
        format: u8,
        recode: Recode,
    ) -> Result<Option<RawRow>, ReadError> {
        let keys = &self.shared.data_keys;
        let (Some(table), short) = (TableId::from_byte(key[0]), &key[1..]) else {
            return Ok(None);
        };
        let (tenant, old) =
            row::unframe_whose(table, key, value, keys).map_err(|why| damaged(key, why))?;
        let new = recode(table, short, &old, format).map_err(|why| damaged(key, why))?;
        if new == *old {
            return Ok(None);
        }
        let sealing = tenant.and_then(|tenant| keys.of(tenant));
        let value = row::frame(table, key, &new, sealing.as_ref(), self.rng.as_ref());
        Ok(Some((key.to_vec(), value)))
    }

    /// Writes rows as one frame.
    fn write_rows(&mut self, rows: &[RawRow]) -> Result<(), CommitError> {
        if rows.is_empty() {
            return Ok(());
        }
        let written = append_rows(&self.shared.log, self.shared.engine.as_ref(), rows);
        written.map_err(|why| {
            self.shared.fail(&why);
            CommitError::Failed {
                why: why.to_string(),
            }
        })
    }
}

/// The format of a store; `None` in one that is new.
pub(crate) fn stored_format(engine: &dyn Engine) -> Result<Option<u8>, OpenError> {
    let Some(value) = engine.get(FORMAT_KEY)? else {
        return Ok(None);
    };
    let Ok((_, [found])) = row::check(TableId::Meta, &value) else {
        let why = "its row is damaged";
        return Err(EngineError::new("read the store's format", why).into());
    };
    let found = *found;
    if found > FORMAT_NEWEST {
        return Err(OpenError::Format {
            found,
            newest: FORMAT_NEWEST,
        });
    }
    Ok(Some(found))
}

/// Writes down the format of a new store: the newest.
pub(crate) fn write_format(log: &Log, engine: &dyn Engine, rng: &dyn Rng) -> Result<u8, OpenError> {
    append_rows(log, engine, &[format_row(FORMAT_NEWEST, rng)])?;
    Ok(FORMAT_NEWEST)
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
