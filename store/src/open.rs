//! Opening a store: rows, log, keys; replaying what the rows lack; rebuilding rows that are lost.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use inboxgrove_model::ports::Rng;

use crate::{
    Keys, MemDisk, OpenError, Store,
    backup::BackupList,
    committer::{Committer, queue::Queue},
    data_keys::DataKeys,
    engine::{Engine, Shelf, Write, sled::SledShelf},
    found::{FindError, find_rows},
    frame::Item,
    log::{Log, LogError, READ_BYTES_MAX},
    media::{DirMedia, Media},
    migrate::{self, FORMAT_NEWEST},
    shared::{Limits, Shared},
    store::Inner,
};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; made when it is not there.
    pub dir: PathBuf,
    /// The keys of the installation.
    pub keys: Keys,
    /// Below this many free bytes new work is refused, before anything meets a full disk.
    pub free_floor_bytes: u64,
    /// Memory for the cache of rows. sled takes up to ten times of it where it is large.
    pub cache_bytes: u64,
    /// A log segment is closed when it has this many bytes.
    pub segment_bytes: u64,
    /// Events are kept for so long (policy time).
    pub events_kept: Duration,
    /// The rows are flushed after this many bytes of commits …
    pub checkpoint_bytes: u64,
    /// … or after this time.
    pub checkpoint_every: Duration,
    /// Whether upkeep (compaction, rewriting, verifying) rests as long as it works, so that commits do not
    /// wait for it.
    pub upkeep_rests: bool,
    /// The newest format that this daemon knows: a new store gets it, a store of a newer one is refused. Only who plays a
    /// daemon of another release sets it.
    pub format_newest: u8,
}

/// What opening has found and done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// There was no store: it was made.
    pub created: bool,
    /// How many frames the rows lacked and were given.
    pub replayed: u64,
    /// How many bytes of a torn tail were cut. Nobody had been told that they were committed.
    pub torn_bytes: u64,
    /// The rows could not be used; this is where they are now, and why.
    pub moved_aside: Option<(PathBuf, String)>,
    /// Why the rows were rebuilt, if they were: from a backup and the log since, or from the log alone.
    pub rebuilt: Option<String>,
    /// The backup that they were rebuilt from.
    pub rebuilt_from: Option<PathBuf>,
    /// What is wrong and was not mended; the store works all the same.
    pub warning: Option<String>,
    /// The last frame.
    pub position: u64,
}

// === impl Options ===

impl Options {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>, keys: Keys) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            dir: dir.into(),
            keys,
            free_floor_bytes: 512 << 20,
            cache_bytes: 48 << 20,
            segment_bytes: 64 << 20,
            events_kept: 90 * DAY,
            // Replaying this much takes a second or two.
            checkpoint_bytes: 16 << 20,
            checkpoint_every: Duration::from_secs(30),
            upkeep_rests: true,
            format_newest: FORMAT_NEWEST,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            free_floor_bytes: self.free_floor_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_every: self.checkpoint_every,
            events_kept: self.events_kept,
            upkeep_rests: self.upkeep_rests,
            format_newest: self.format_newest,
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store in a directory, or makes it. Blocks for as long as it takes to read the last
    /// segment of the log and to replay what the rows lack; starts the committer's thread.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever opens a store is done with its options"
    )]
    pub fn open(options: Options, rng: Arc<dyn Rng>) -> Result<(Self, OpenReport), OpenError> {
        let dir_failed = |source| OpenError::Dir {
            dir: options.dir.clone(),
            source,
        };
        let media: Arc<dyn Media> = Arc::new(DirMedia::open(&options.dir).map_err(dir_failed)?);
        let shelf: Arc<dyn Shelf> = Arc::new(SledShelf::new(&options.dir, options.cache_bytes));
        let mut report = OpenReport::default();
        let shared = bring_up(media, &shelf, &options, rng.as_ref(), &mut report)?;
        let committer = Committer::new(Arc::clone(&shared), rng);
        let queue = Queue::thread(committer).map_err(OpenError::Thread)?;
        Ok((Self::from_parts(queue, shared), report))
    }

    /// Opens the store on a disk in memory. Its committer runs inline, on the thread that commits.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it takes the disk over from earlier openings"
    )]
    pub fn in_memory(
        disk: MemDisk,
        keys: Keys,
        rng: Arc<dyn Rng>,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::in_memory_with(&disk, &Options::new("", keys), rng)
    }

    /// As [`Store::in_memory`], with other options; their directory means nothing.
    pub fn in_memory_with(
        disk: &MemDisk,
        options: &Options,
        rng: Arc<dyn Rng>,
    ) -> Result<(Self, OpenReport), OpenError> {
        let (media, shelf) = disk.attach();
        let mut report = OpenReport::default();
        // By bytes only: when rows are flushed must not depend on how fast this machine is.
        let options = Options {
            checkpoint_every: Duration::MAX,
            upkeep_rests: false,
            ..options.clone()
        };
        let shared = bring_up(media, &shelf, &options, rng.as_ref(), &mut report)?;
        let committer = Committer::new(Arc::clone(&shared), rng);
        Ok((
            Self::from_parts(Queue::inline(committer, disk.clone()), shared),
            report,
        ))
    }

    fn from_parts(queue: Queue, shared: Arc<Shared>) -> Self {
        Self {
            inner: Arc::new(Inner { queue, shared }),
        }
    }
}

/// Brings log and rows to the same position, whatever a crash or damage has left.
fn bring_up(
    media: Arc<dyn Media>,
    shelf: &Arc<dyn Shelf>,
    options: &Options,
    rng: &dyn Rng,
    report: &mut OpenReport,
) -> Result<Arc<Shared>, OpenError> {
    let dir_failed = |source| OpenError::Dir {
        dir: options.dir.clone(),
        source,
    };
    let new = !crate::log::exists(media.as_ref()).map_err(dir_failed)?;
    // First of all: a wrong key must change nothing.
    let data_keys = DataKeys::open(Arc::clone(&media), options.keys.clone(), rng, new)?;
    let found = find_rows(media.as_ref(), shelf.as_ref(), new).map_err(|why| match why {
        FindError::Io(why) => dir_failed(why),
        FindError::Engine(why) => why.into(),
    })?;
    let acknowledged = found.acknowledged(media.as_ref());
    let (log, torn) = Log::open(Arc::clone(&media), options.segment_bytes, acknowledged)?;
    if let Some(torn) = torn {
        tracing::warn!(
            segment = torn.segment,
            offset = torn.offset,
            bytes = torn.bytes,
            "cut a torn tail"
        );
        report.torn_bytes = torn.bytes;
    }
    report.created = new;
    let rows = found.settle(&media, shelf, &log, report)?;
    let engine = rows.current();
    let limits = options.limits();
    let format = migrate::settle_format(&log, engine.as_ref(), limits.format_newest, rng)?;
    report.position = log.next_seq() - 1;
    let opened = report.clone();
    let live_bytes = BackupList::read(media.as_ref()).live_bytes();
    let shared = Shared::new(media, rows, log, data_keys, limits, format, opened);
    shared.live_bytes.store(live_bytes, Ordering::Relaxed);
    Ok(Arc::new(shared))
}

/// Applies every frame beyond the position of the rows; how many there were.
pub(crate) fn replay(log: &Log, engine: &dyn Engine) -> Result<u64, OpenError> {
    let position = engine.position()?.unwrap_or(0);
    let end = log.next_seq();
    if position >= end {
        return Err(OpenError::LogBehind {
            rows: position,
            log: end - 1,
        });
    }
    let mut next = position + 1;
    if next < end && log.rows_from() > next {
        let rows_from = log.rows_from();
        return Err(LogError::RowsGone { rows_from }.into());
    }
    let replayed = end - next;
    while next < end {
        let (frames, after) = log.frames(next, 0, READ_BYTES_MAX)?;
        let mut writes: Vec<Write> = Vec::new();
        for frame in &frames {
            if frame.head.seq != next {
                return Err(LogError::Missing {
                    from: next,
                    to: frame.head.seq - 1,
                }
                .into());
            }
            next += 1;
            let items = frame.items()?;
            let written = items.iter().filter_map(Item::row_write);
            writes.extend(written.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))));
        }
        if next < after {
            let to = after - 1;
            return Err(LogError::Missing { from: next, to }.into());
        }
        engine.apply(&writes, next - 1)?;
    }
    Ok(replayed)
}
