//! What the committer and the readers of a store share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use inboxgrove_model::{PolicyTime, event::LoggedEvent};
use tokio::sync::{broadcast, watch};

use crate::{
    OpenReport,
    data_keys::DataKeys,
    engine::{Alarm, Engine},
    generations::Generations,
    hot::HotRows,
    lease::Leases,
    log::Log,
    media::Media,
    pace::Pace,
};

/// Groups of events that a slow subscriber may lag behind; then it reads them from the log.
const EVENT_GROUPS_KEPT: usize = 1024;

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// Well.
    Ok,
    /// The disk has less room than it should: new work is refused.
    DiskLow {
        /// Bytes left.
        free: u64,
        /// Bytes that should be.
        floor: u64,
    },
    /// It has failed for good; the process should end.
    Failed {
        /// How.
        why: String,
    },
}

/// What the latest commits with due rows or queue entries added. Whoever sees `version` rise by more than
/// one has missed marks and should look into the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueMark {
    /// The earliest due row added; the end of time when there was none.
    pub earliest_due: PolicyTime,
    /// The earliest queue entry added; the end of time when there was none.
    pub earliest_queue: PolicyTime,
    /// Rises with every mark.
    pub version: u64,
}

/// Who watches for due marks, in the order in which they asked. Each has a channel of its own: those who wait at
/// one `watch` channel are woken in an order of chance, and nothing may depend on chance that is not passed in.
#[derive(Debug, Default)]
pub(crate) struct DueWatchers {
    state: Mutex<(u64, Vec<watch::Sender<DueMark>>)>,
}

/// The limits that the committer works within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) free_floor_bytes: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) checkpoint_every: Duration,
    pub(crate) events_kept: Duration,
    pub(crate) upkeep_rests: bool,
    pub(crate) format_newest: u8,
}

/// What has been done since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) commits: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// The parts of an open store.
pub(crate) struct Shared {
    pub(crate) media: Arc<dyn Media>,
    /// The rows in use, whichever of `rows` that is.
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) rows: Generations,
    pub(crate) log: Log,
    pub(crate) data_keys: DataKeys,
    pub(crate) hot: HotRows,
    pub(crate) leases: Leases,
    pub(crate) limits: Limits,
    pub(crate) format: AtomicU8,
    pub(crate) events: broadcast::Sender<Arc<Vec<LoggedEvent>>>,
    pub(crate) due: DueWatchers,
    pub(crate) failed: watch::Sender<Option<String>>,
    /// The first row that was met and could not be read, since the rows were last found good.
    pub(crate) damage: watch::Sender<Option<String>>,
    pub(crate) work: Work,
    /// Bytes of all rows when they were last counted; 0 until then.
    pub(crate) live_bytes: AtomicU64,
    /// Where the last compaction ended: the first sequence of the segment to go on with.
    pub(crate) compacted_to: AtomicU64,
    /// What opening has found.
    pub(crate) opened: OpenReport,
    /// Held by a backup, a compaction, a verification, a rewrite: one at a time.
    pub(crate) maintenance: Mutex<()>,
}

// === impl DueMark ===

impl DueMark {
    /// Nothing was added.
    pub const NOTHING: Self = Self {
        earliest_due: PolicyTime::from_millis(i64::MAX),
        earliest_queue: PolicyTime::from_millis(i64::MAX),
        version: 0,
    };

    pub(crate) fn earlier(self, other: Self) -> Self {
        Self {
            earliest_due: self.earliest_due.min(other.earliest_due),
            earliest_queue: self.earliest_queue.min(other.earliest_queue),
            version: 0,
        }
    }
}

// === impl DueWatchers ===

impl DueWatchers {
    pub(crate) fn watch(&self) -> watch::Receiver<DueMark> {
        let (version, watchers) = &mut *self.lock();
        let (tell, watch) = watch::channel(DueMark {
            version: *version,
            ..DueMark::NOTHING
        });
        watchers.push(tell);
        watch
    }

    /// Tells everybody who still watches.
    pub(crate) fn tell(&self, due: DueMark) {
        let (version, watchers) = &mut *self.lock();
        *version += 1;
        let mark = DueMark {
            version: *version,
            ..due
        };
        watchers.retain(|watcher| watcher.send(mark).is_ok());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<watch::Sender<DueMark>>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        media: Arc<dyn Media>,
        rows: Generations,
        log: Log,
        data_keys: DataKeys,
        limits: Limits,
        format: u8,
        opened: OpenReport,
    ) -> Self {
        let (engine, failed) = (rows.current(), watch::Sender::new(None));
        engine.watch(&Alarm::new({
            let failed = failed.clone();
            move |why| fail(&failed, why)
        }));
        Self {
            media,
            engine,
            rows,
            log,
            data_keys,
            hot: HotRows::default(),
            leases: Leases::default(),
            limits,
            format: AtomicU8::new(format),
            events: broadcast::Sender::new(EVENT_GROUPS_KEPT),
            due: DueWatchers::default(),
            failed,
            damage: watch::Sender::new(None),
            work: Work::default(),
            live_bytes: AtomicU64::new(0),
            compacted_to: AtomicU64::new(0),
            opened,
            maintenance: Mutex::default(),
        }
    }

    /// The format that rows are written in.
    pub(crate) fn format(&self) -> u8 {
        self.format.load(Ordering::Acquire)
    }

    /// The store has failed, for good. The first cause is kept.
    pub(crate) fn fail(&self, why: impl fmt::Display) {
        fail(&self.failed, why);
    }

    /// How it has failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    pub(crate) fn health(&self) -> StoreHealth {
        if let Some(why) = self.failure() {
            return StoreHealth::Failed { why };
        }
        let floor = self.limits.free_floor_bytes;
        match self.media.free_bytes() {
            Ok(free) if free >= floor => StoreHealth::Ok,
            Ok(free) => StoreHealth::DiskLow { free, floor },
            // Who cannot even count its room will fail at the next write, and say how.
            Err(why) => {
                tracing::warn!(%why, "the room left on the disk is unknown");
                StoreHealth::Ok
            }
        }
    }

    pub(crate) fn count_group(&self, commits: usize, bytes: usize) {
        if commits > 0 {
            self.work
                .commits
                .fetch_add(commits as u64, Ordering::Relaxed);
            self.work.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.work.groups.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The pace of one piece of upkeep.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.limits.upkeep_rests)
    }

    /// A row cannot be read. Whoever watches may rebuild the rows.
    pub(crate) fn met_damage(&self, what: &dyn fmt::Display) {
        self.damage.send_if_modified(|damage| {
            if damage.is_some() {
                return false;
            }
            *damage = Some(what.to_string());
            true
        });
    }

    /// Keeps backup, compaction and verification apart.
    pub(crate) fn maintain(&self) -> std::sync::MutexGuard<'_, ()> {
        self.maintenance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(failed: &watch::Sender<Option<String>>, why: impl fmt::Display) {
    failed.send_if_modified(|failed| {
        if failed.is_some() {
            return false;
        }
        tracing::error!(%why, "the store has failed; the process must end");
        *failed = Some(why.to_string());
        true
    });
}
