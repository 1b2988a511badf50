//! What a store tells about itself.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use crate::{ReadError, Store, TableId, backup::BackupList, shim};

/// Figures of a store, cheap enough for every scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// The last frame.
    pub position: u64,
    /// Batches committed since the start.
    pub commits: u64,
    /// Groups they were committed in: one sync each.
    pub groups: u64,
    /// Bytes they added to the log.
    pub committed_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of the rows on the disk.
    pub rows_bytes: u64,
    /// Bytes of all rows, when a backup, a verification or a rewrite last counted them; `None` until then.
    pub live_bytes: Option<u64>,
    /// Bytes left on the disk; `None` when they cannot be counted.
    pub free_bytes: Option<u64>,
    /// Backups that are known and still there.
    pub backups: u64,
    /// The last frame that the newest backup has.
    pub backup_position: Option<u64>,
    /// How often the rows' engine has synced, in this process.
    pub engine_syncs: u64,
    /// The format that rows are written in.
    pub format: u8,
}

impl Store {
    /// How much there is and how much was done.
    pub fn stats(&self) -> StoreStats {
        let shared = &self.inner.shared;
        let segments = shared.log.segments();
        let backups = BackupList::read(shared.media.as_ref()).newest_first();
        StoreStats {
            position: shared.log.next_seq() - 1,
            commits: shared.work.commits.load(Ordering::Relaxed),
            groups: shared.work.groups.load(Ordering::Relaxed),
            committed_bytes: shared.work.bytes.load(Ordering::Relaxed),
            segments: segments.len() as u64,
            log_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            rows_bytes: shared.engine.disk_bytes(),
            live_bytes: Some(shared.live_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0),
            free_bytes: shared.media.free_bytes().ok(),
            backups: backups.len() as u64,
            backup_position: backups.first().map(|backup| backup.end),
            engine_syncs: shim::calls(),
            format: shared.format(),
        }
    }

    /// How many rows each table has. Reads all keys: for operators, not for scrapes.
    pub fn count_rows(&self) -> Result<BTreeMap<&'static str, u64>, ReadError> {
        const SCAN_ROWS: usize = 1000;
        let mut counts = BTreeMap::new();
        let mut next = vec![TableId::Tenant.byte()];
        loop {
            let rows = self.inner.shared.engine.scan(&next, None, SCAN_ROWS)?;
            let Some((last, _)) = rows.last() else {
                return Ok(counts);
            };
            next = [last.as_slice(), &[0]].concat();
            for (key, _) in &rows {
                let table = key.first().and_then(|byte| TableId::from_byte(*byte));
                *counts
                    .entry(table.map_or("unknown", TableId::name))
                    .or_insert(0) += 1;
            }
        }
    }
}
