//! Opening a store: rows, log, keys; replaying what the rows lack; rebuilding rows that are lost.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use inboxgrove_model::ports::Rng;

use crate::{
    Keys, MemDisk, OpenError, Store,
    backup::{self, BackupList},
    committer::{Committer, queue::Queue},
    data_keys::DataKeys,
    engine::{
        Engine, Write,
        sled::{SledEngine, SledOpenError},
    },
    frame::Item,
    log::{Log, LogError, READ_BYTES_MAX},
    media::{DirMedia, Media, sync_parent},
    migrate,
    shared::{Limits, Shared},
    store::Inner,
};

/// Where the rows are, in the store's directory.
pub(crate) const SLED_DIR: &str = "sled";

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
    /// The rows could not be opened; this is where they are now, and why.
    pub moved_aside: Option<(PathBuf, String)>,
    /// The rows were rebuilt from this backup and the log since.
    pub rebuilt_from: Option<PathBuf>,
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
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            free_floor_bytes: self.free_floor_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_every: self.checkpoint_every,
            events_kept: self.events_kept,
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
        let mut report = OpenReport::default();
        let engine = open_rows(&options, &mut report)?;
        let shared = bring_up(media, engine, &options, rng.as_ref(), &mut report)?;
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
        let (media, engine) = disk.attach();
        let mut report = OpenReport::default();
        // By bytes only: when rows are flushed must not depend on how fast this machine is.
        let options = Options {
            checkpoint_every: Duration::MAX,
            ..options.clone()
        };
        let shared = bring_up(media, engine, &options, rng.as_ref(), &mut report)?;
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

/// Opens sled; moves it aside and makes it anew when it does not open.
fn open_rows(options: &Options, report: &mut OpenReport) -> Result<Arc<dyn Engine>, OpenError> {
    let dir = options.dir.join(SLED_DIR);
    match SledEngine::open(&dir, options.cache_bytes) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(SledOpenError::Unusable(why)) => Err(why.into()),
        Err(SledOpenError::Broken(why)) => {
            let failed = |source| OpenError::Dir {
                dir: dir.clone(),
                source,
            };
            let aside = move_aside(&dir).map_err(failed)?;
            tracing::error!(%why, aside = %aside.display(), "the rows do not open: rebuilding them");
            report.moved_aside = Some((aside, why.to_string()));
            match SledEngine::open(&dir, options.cache_bytes) {
                Ok(engine) => Ok(Arc::new(engine)),
                Err(SledOpenError::Unusable(why) | SledOpenError::Broken(why)) => Err(why.into()),
            }
        }
    }
}

/// Renames a directory out of the way; what is in it is never deleted.
fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    for n in 1_u32.. {
        let aside = dir.with_extension(format!("broken-{n}"));
        if !aside.exists() {
            fs::rename(dir, &aside)?;
            sync_parent(dir)?;
            return Ok(aside);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn bring_up(
    media: Arc<dyn Media>,
    engine: Arc<dyn Engine>,
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
    let applied = engine.position()?.unwrap_or(0);
    let (log, torn) = Log::open(Arc::clone(&media), options.segment_bytes, applied)?;
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
    if applied == 0 && log.next_seq() > 1 {
        report.rebuilt_from = load_newest_backup(media.as_ref(), engine.as_ref(), &log)?;
    }
    report.replayed = replay(&log, engine.as_ref())?;
    if report.replayed > 0 {
        engine.flush()?;
    }
    let format = migrate::stored_format(engine.as_ref())?;
    let format = match format {
        Some(format) => format,
        None => migrate::write_format(&log, engine.as_ref(), rng)?,
    };
    report.position = log.next_seq() - 1;
    let limits = options.limits();
    Ok(Arc::new(Shared::new(
        media, engine, log, data_keys, limits, format,
    )))
}

/// Fills empty rows from the newest backup that is whole; from none when the log reaches back to the
/// beginning.
fn load_newest_backup(
    media: &dyn Media,
    engine: &dyn Engine,
    log: &Log,
) -> Result<Option<PathBuf>, OpenError> {
    for entry in BackupList::read(media).newest_first() {
        match backup::load_rows_of(&entry.path, engine) {
            Ok(()) => return Ok(Some(entry.path)),
            Err(why) => {
                tracing::warn!(backup = %entry.path.display(), %why, "a backup cannot be used");
            }
        }
    }
    let rows_from = log.rows_from();
    if rows_from > 1 {
        let why =
            format!("no backup can be used, and the log has rows from frame {rows_from} on only");
        return Err(OpenError::NoRebuild { why });
    }
    Ok(None)
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
            writes.extend(frame.items()?.iter().filter_map(row_write));
        }
        if next < after {
            let to = after - 1;
            return Err(LogError::Missing { from: next, to }.into());
        }
        engine.apply(&writes, next - 1)?;
    }
    Ok(replayed)
}

/// The write in an item, if it is one.
pub(crate) fn row_write(item: &Item<'_>) -> Option<Write> {
    match *item {
        Item::Put { key, value } => Some((key.to_vec(), Some(value.to_vec()))),
        Item::Remove { key } => Some((key.to_vec(), None)),
        Item::Event { .. } | Item::Body { .. } | Item::Unknown { .. } => None,
    }
}
