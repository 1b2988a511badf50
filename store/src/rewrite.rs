//! Fresh rows while the store is in use: rewritten from the rows, because sled's file only grows; or rebuilt
//! from a backup and the log, because the rows are damaged.
//!
//! Both fill an empty engine in pieces while commits go on, catch up from the log in rounds, and put it into
//! use between two commits. Until then a crash leaves the old rows, afterwards the new ones.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    EngineError, OpenError, ReadError, Store, TableId,
    backup::is_row,
    engine::{Engine, EngineOpenError, Write},
    found::{fill, no_rebuild},
    generations::{Fresh, Old, Replaced},
    open::replay,
    row,
    shared::Shared,
    store::damaged,
    table::RowError,
};

/// Rows copied at once.
const COPY_ROWS: usize = 1000;
/// Fresh rows are flushed after this many bytes: one large flush would hold up the disk for everybody.
const FLUSH_BYTES: u64 = 8 << 20;
/// Frames that may be left for the last round, for which commits wait: some ten milliseconds.
const LAST_ROUND_FRAMES: u64 = 256;
/// Rounds of catching up. Applying the log is faster than committing it, so each leaves less.
const ROUNDS_MAX: u32 = 64;
/// sled's file is worth a rewrite when it is this many halves of what is in it: a fresh one is about four
/// halves, and left alone it grows to nine.
const DUE_HALVES: u64 = 5;
/// … and this much besides: eight of sled's segments. Below it a file is small, whatever it holds.
pub(crate) const DUE_FLOOR_BYTES: u64 = 4 << 20;

/// What a rewrite or a rebuild has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewriteReport {
    /// Rows that were copied, or loaded from the backup.
    pub rows: u64,
    /// The backup that was the source of a rebuild.
    pub from: Option<PathBuf>,
    /// Frames of the log that were applied over it.
    pub replayed: u64,
    /// What the rows took on the disk before.
    pub bytes_before: u64,
    /// What they take now.
    pub bytes_after: u64,
    /// For how long commits waited.
    pub held: Duration,
    /// Where the rows are that were replaced, when they were damaged.
    pub moved_aside: Option<PathBuf>,
}

/// Why there are no fresh rows. The old ones are in use as before.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// There is no room for both.
    #[error("fresh rows may take {needed} bytes, {free} are free above the floor")]
    NoRoom {
        /// What may be needed.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// A row cannot be copied, because it is damaged: the rows need a rebuild.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// They could not be made, filled or brought up to date.
    #[error(transparent)]
    Rows(#[from] OpenError),
    /// The log was written faster than it could be applied.
    #[error("commits come faster than fresh rows can follow")]
    Behind,
    /// The store has failed.
    #[error("the store has failed")]
    Failed,
}

impl From<EngineError> for RewriteError {
    fn from(why: EngineError) -> Self {
        Self::Rows(why.into())
    }
}

impl Store {
    /// Whether the rows take so much more on the disk than is in them that a rewrite is worth it. False as
    /// long as nobody has counted what is in them: a backup and a verification do.
    pub fn rewrite_is_due(&self) -> bool {
        let shared = &self.inner.shared;
        let live = shared.live_bytes.load(Ordering::Relaxed);
        live > 0 && shared.engine.disk_bytes() > live / 2 * DUE_HALVES + DUE_FLOOR_BYTES
    }

    /// Writes all rows into a fresh engine and goes over to it. Commits go on meanwhile and wait at the end
    /// for a moment. Blocks for as long as it takes.
    pub fn rewrite_rows(&self) -> Result<RewriteReport, RewriteError> {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        let mut report = self.start_fresh()?;
        let fresh = shared.rows.fresh().map_err(EngineOpenError::why)?;
        match copy_rows(shared, fresh.engine.as_ref()) {
            Ok(rows) => report.rows = rows,
            Err(why) => {
                shared.rows.discard(fresh);
                return Err(why.into());
            }
        }
        self.go_over(fresh, Old::Goes, report)
    }

    /// Makes all rows anew from the newest backup that is whole and the log since, or from the log alone,
    /// and goes over to them; the old ones are put aside. With a reason they are not trusted from now
    /// on, whatever happens: a start rebuilds them too. Otherwise as [`Store::rewrite_rows`].
    pub fn rebuild_rows(&self, because: Option<&str>) -> Result<RewriteReport, RewriteError> {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        if let Some(why) = because {
            tracing::error!(why, "the rows are damaged: rebuilding them");
            let marked = shared.rows.distrust(why);
            marked.map_err(|why| {
                shared.fail(&why);
                RewriteError::Failed
            })?;
        }
        let mut report = self.start_fresh()?;
        let fresh = shared.rows.fresh().map_err(EngineOpenError::why)?;
        let mut pace = shared.pace();
        let rest = || pace.rest();
        let filled = fill(
            shared.media.as_ref(),
            &shared.log,
            fresh.engine.as_ref(),
            rest,
        );
        match filled {
            Ok(from) => report.from = from,
            Err(why) => {
                shared.rows.discard(fresh);
                return Err(why.into());
            }
        }
        let report = self.go_over(fresh, Old::IsPutAside, report)?;
        shared.damage.send_replace(None);
        Ok(report)
    }

    /// Looks whether there is room.
    fn start_fresh(&self) -> Result<RewriteReport, RewriteError> {
        let shared = &self.inner.shared;
        let bytes_before = shared.engine.disk_bytes();
        let live = shared.live_bytes.load(Ordering::Relaxed);
        let needed = if live > 0 { live * 3 } else { bytes_before };
        if let Ok(free) = shared.media.free_bytes() {
            let free = free.saturating_sub(shared.limits.free_floor_bytes);
            if free < needed {
                return Err(RewriteError::NoRoom { needed, free });
            }
        }
        Ok(RewriteReport {
            bytes_before,
            ..RewriteReport::default()
        })
    }

    /// Brings fresh rows up to date and puts them into use.
    fn go_over(
        &self,
        fresh: Fresh,
        old: Old,
        report: RewriteReport,
    ) -> Result<RewriteReport, RewriteError> {
        let shared = &self.inner.shared;
        let mut report = report;
        match catch_up(shared, fresh.engine.as_ref()) {
            Ok(replayed) => report.replayed = replayed,
            Err(why) => {
                shared.rows.discard(fresh);
                return Err(why);
            }
        }
        let switched = self.inner.queue.alone(move |committer| {
            let began = Instant::now();
            let switched = last_round(&committer.shared, fresh, old);
            committer.checkpoint();
            switched.map(|(replaced, replayed)| (replaced, replayed, began.elapsed()))
        });
        let (replaced, replayed, held) = switched.ok_or(RewriteError::Failed)??;
        report.replayed += replayed;
        report.held = held;
        report.bytes_after = shared.engine.disk_bytes();
        match shared.rows.retire(replaced) {
            Ok(aside) => report.moved_aside = aside,
            Err(why) => {
                tracing::warn!(%why, "the old rows are still there; the next start tidies up");
            }
        }
        Ok(report)
    }
}

/// Copies all rows, each one checked; how many there are.
fn copy_rows(shared: &Shared, fresh: &dyn Engine) -> Result<u64, ReadError> {
    let start = shared.engine.position()?.unwrap_or(0);
    let (mut next, mut count, mut bytes, mut flushed) = (Vec::new(), 0, 0, 0);
    let mut pace = shared.pace();
    loop {
        let rows = shared.engine.scan(&next, None, COPY_ROWS)?;
        let Some((last, _)) = rows.last() else { break };
        next = [last.as_slice(), &[0]].concat();
        let mut writes: Vec<Write> = Vec::with_capacity(rows.len());
        for (key, value) in rows.into_iter().filter(|(key, _)| is_row(key)) {
            let table = key.first().and_then(|byte| TableId::from_byte(*byte));
            let table = table.ok_or_else(|| RowError::damaged("there is no such table"));
            if let Err(why) = table.and_then(|table| row::check(table, &value)) {
                let why = damaged(&key, why);
                shared.met_damage(&why);
                return Err(why);
            }
            count += 1;
            bytes += (key.len() + value.len()) as u64;
            writes.push((key, Some(value)));
        }
        fresh.apply(&writes, 0)?;
        if bytes - flushed > FLUSH_BYTES {
            fresh.flush()?;
            flushed = bytes;
        }
        pace.rest();
    }
    shared.live_bytes.store(bytes, Ordering::Relaxed);
    // With a position it is complete: what it holds and the log from there on make the rows.
    fresh.apply(&[], start)?;
    Ok(count)
}

/// Applies the log until little is left of it, and flushes; how many frames there were.
fn catch_up(shared: &Shared, fresh: &dyn Engine) -> Result<u64, RewriteError> {
    let media = shared.media.as_ref();
    let round = || match replay(&shared.log, fresh) {
        Ok(frames) => Ok(frames),
        Err(OpenError::Log(why)) => Err(no_rebuild(media, &why)),
        Err(why) => Err(why),
    };
    let mut replayed = 0;
    for _ in 0..ROUNDS_MAX {
        let frames = round()?;
        replayed += frames;
        // All but the last round's few pages are on the disk before commits wait.
        fresh.flush()?;
        if frames <= LAST_ROUND_FRAMES {
            return Ok(replayed);
        }
    }
    Err(RewriteError::Behind)
}

/// Between two commits: applies the rest and puts the fresh rows into use.
fn last_round(shared: &Shared, fresh: Fresh, old: Old) -> Result<(Replaced, u64), RewriteError> {
    if shared.failure().is_some() {
        return Err(RewriteError::Failed);
    }
    let replayed = replay(&shared.log, fresh.engine.as_ref());
    let replayed =
        replayed.and_then(|frames| fresh.engine.flush().map(|()| frames).map_err(Into::into));
    let replayed = match replayed {
        Ok(frames) => frames,
        Err(why) => {
            shared.rows.discard(fresh);
            return Err(why.into());
        }
    };
    let switched = shared.rows.switch(fresh, old);
    // Where rows were damaged, others are read from now on.
    shared.hot.clear();
    let replaced = switched.map_err(|why| {
        shared.fail(&why);
        RewriteError::Failed
    })?;
    Ok((replaced, replayed))
}
