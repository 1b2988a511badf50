//! Rows that every request reads, kept decoded: who asks is checked against committed rows each time, and to find,
//! unseal and decode three rows costs more than all the rest of a request.
//!
//! What is kept is never older than what was answered: the committer forgets a row after it has applied a write
//! to it and before it answers for the commit. A reader that read the row before such a write and comes to keep
//! it after finds that something has changed, and keeps nothing.

use std::{
    any::Any,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use inboxgrove_model::generations::Generations;

use crate::{engine::Write, table::TableId};

/// Tables whose rows are kept: a few small rows for each account that is at work, and the inboxes that it asks for.
const TABLES: [TableId; 4] = [
    TableId::Tenant,
    TableId::User,
    TableId::Session,
    TableId::Inbox,
];
/// Rows of a generation, of which there are two: 16,000 callers have four rows each, of some 400 bytes. Fewer, and those
/// of ten thousand that are at work go as soon as somebody lists as many others.
const GENERATION_ROWS: usize = 65_536;

/// The kept rows.
pub(crate) struct HotRows {
    rows: RwLock<Rows>,
}

/// What had changed when a row was not found: the row that is read then may be kept only if no more has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(u64);

type Kept = Arc<dyn Any + Send + Sync>;

struct Rows {
    /// Rises with every write to one of the tables.
    changes: u64,
    kept: Generations<Vec<u8>, Kept>,
}

// === impl HotRows ===

impl HotRows {
    /// Whether rows of this table may be kept.
    pub(crate) fn keeps(table: TableId) -> bool {
        TABLES.contains(&table)
    }

    /// The row of this whole key, or what has changed so far.
    pub(crate) fn get<R: Send + Sync + 'static>(&self, key: &[u8]) -> Result<Arc<R>, Stamp> {
        let rows = self.read();
        let stamp = Stamp(rows.changes);
        let (row, old) = rows.kept.get(key).ok_or(stamp)?.parts();
        let row = Arc::clone(row);
        drop(rows);
        if old {
            let gone = self.write().kept.renew(key);
            drop(gone);
        }
        // A key names its table, and a table holds records of one type.
        row.downcast().map_err(|_| stamp)
    }

    /// Keeps a row that was read after `stamp` was given.
    pub(crate) fn keep<R: Send + Sync + 'static>(&self, stamp: Stamp, key: Vec<u8>, row: &Arc<R>) {
        let mut rows = self.write();
        if rows.changes == stamp.0 {
            let row: Arc<R> = Arc::clone(row);
            let gone = rows.kept.insert(key, row);
            drop(rows);
            drop(gone);
        }
    }

    /// Forgets what these writes changed. The committer's thread only, before it answers for them.
    pub(crate) fn forget(&self, writes: &[Write]) {
        let kept = |(key, _): &&Write| {
            let table = key.first().and_then(|byte| TableId::from_byte(*byte));
            table.is_some_and(Self::keeps)
        };
        let mut changed = writes.iter().filter(kept).peekable();
        if changed.peek().is_none() {
            return;
        }
        let mut rows = self.write();
        rows.changes += 1;
        for (key, _) in changed {
            rows.kept.remove(key.as_slice());
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut rows = self.write();
        rows.changes += 1;
        rows.kept.clear();
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HotRows {
    fn default() -> Self {
        let rows = Rows {
            changes: 0,
            kept: Generations::new(GENERATION_ROWS),
        };
        Self {
            rows: RwLock::new(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Vec<u8> {
        let mut key = vec![TableId::Session.byte()];
        key.extend_from_slice(&n.to_be_bytes());
        key
    }

    fn stamp(rows: &HotRows, key: &[u8]) -> Stamp {
        rows.get::<u32>(key).expect_err("it is not kept yet")
    }

    #[test]
    fn a_kept_row_is_found_until_it_is_written() {
        let rows = HotRows::default();
        for n in [1, 2] {
            let before = stamp(&rows, &key(n));
            rows.keep(before, key(n), &Arc::new(n));
        }
        rows.forget(&[(key(1), None)]);
        assert!(rows.get::<u32>(&key(1)).is_err());
        assert_eq!(*rows.get::<u32>(&key(2)).expect("kept"), 2);
        rows.clear();
        assert!(rows.get::<u32>(&key(2)).is_err());
    }

    #[test]
    fn a_row_read_before_a_write_is_not_kept_after_it() {
        let rows = HotRows::default();
        let before = stamp(&rows, &key(1));
        rows.forget(&[(key(1), Some(b"newer".to_vec()))]);
        rows.keep(before, key(1), &Arc::new(1_u32));
        assert!(rows.get::<u32>(&key(1)).is_err());
    }

    #[test]
    fn writes_to_other_tables_change_nothing() {
        let rows = HotRows::default();
        let before = stamp(&rows, &key(1));
        rows.forget(&[(vec![TableId::Message.byte(), 1], None)]);
        rows.keep(before, key(1), &Arc::new(1_u32));
        assert!(rows.get::<u32>(&key(1)).is_ok());
    }
}
